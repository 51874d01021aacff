# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     provenance: []
#     toc_visible: true
#   jupytext:
#     cell_metadata_filter: tags,cellView,-all
#     notebook_metadata_filter: kernelspec,accelerator,colab,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1 · Data
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cxr-seam/cxr-seam/blob/main/notebooks/01_download_nih_data.ipynb)
#
# Prepares chest X-rays for training: synthesizes the images of the demo or downloads NIH ChestX-ray14, and shows what they hold.
#
# ![Eight synthetic chest X-rays, one for each finding that has boxes; the true box is green](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/samples.png)
#
# | | |
# |---|---|
# | **Time** | Demo: 41 s on two CPU cores. NIH: a download of 5 GB (`nih-subset`) or 42 GB (`nih`); not measured. |
# | **Shows** | the splits, the counts of all labels, one image with its true box for each of eight findings |
# | **Needs** | nothing |
#
# The method: G. D'Souza, N. V. S. Reddy, K. N. Manjunath, [*Localization of lung abnormalities on chest X-rays using self-supervised equivariant attention*](https://doi.org/10.1007/s13534-022-00249-5), Biomed. Eng. Lett. 13 (2023), "the paper" below. **This is research software, not a medical device.**

# %% [markdown]
# ## Setup
#
# On Colab this cell installs the package. On your own machine it does nothing.

# %% cellView="form"
# @title Setup { display-mode: "form" }
import sys

if "google.colab" in sys.modules:
    # %pip install -q "git+https://github.com/cxr-seam/cxr-seam"
    print("cxr-seam is installed")
else:
    print("not on Colab: nothing to install")

# %% [markdown]
# ## Choices
#
# - **DATA**: `demo` synthesizes radiographs, `nih-subset` downloads two of NIH's twelve archives, `nih` downloads all of them. You can also type the path of a folder with NIH's tables and images, of a zip archive of them, or of [your own dataset](https://github.com/cxr-seam/cxr-seam/blob/main/docs/own-data.md).
# - **PRESET**: `demo` and `small` train on a CPU. `resnet50` and `efficientnet_b4` are the paper's models. `strong_small` and `strong` are `small` and `resnet50` with [our improvements](https://github.com/cxr-seam/cxr-seam/blob/main/docs/beyond-the-paper.md).
# - **OUTPUT**: the folder for models, figures and results. Empty means `runs/` and the name of the data.
# - **LAYOUT**: only for [your own dataset](https://github.com/cxr-seam/cxr-seam/blob/main/docs/own-data.md), if its tables fit two layouts or its labels are uncertain. Empty means as the tables show.
# - **SAVE_TO_DRIVE** (Colab only): puts this folder on Google Drive, where the next runtime finds it.
#
# The lines below the form name the hardware and the folder.

# %% cellView="form"
# @title Choices { display-mode: "form" }
DATA = "demo"  # @param ["demo", "nih-subset", "nih"] {allow-input: true}
PRESET = "demo"  # @param ["demo", "small", "strong_small", "resnet50", "efficientnet_b4", "strong"]
OUTPUT = ""  # @param {type: "string"}
LAYOUT = ""  # @param {type: "string"}
SAVE_TO_DRIVE = False  # @param {type: "boolean"}

import cxr_seam as cxr

run = cxr.Workspace.open(data=DATA, preset=PRESET, output_dir=OUTPUT, layout=LAYOUT, save_to_drive=SAVE_TO_DRIVE)
print(run.summary)

# %% [markdown]
# ## Prepare the images
#
# Each image is read once, resized to the size that the preset needs (256 pixels in the paper, Sect. 5.2), and saved as grey bytes in one file, the cache. Training then decodes nothing. You can run the cell again after an interruption: finished work is not repeated.

# %%
cache = run.prepare_data()
cache

# %% [markdown]
# ## Splits
#
# NIH's official lists separate the images for training from the images for testing by patient. As in Sect. 5.2, training uses all images with a finding and about 5,000 without one. A fifth is for validation. Here it is a fifth of the *patients*, so that no patient is in two splits.

# %%
cxr.tables.splits(run)

# %% [markdown]
# ## Labels
#
# A label belongs to a whole image. An image can have several findings, and no label says *where* a finding is. Boxes exist for eight findings, on test images only. They are used for scoring, never for training (Sect. 3).

# %%
cxr.tables.labels(run)

# %% [markdown]
# ## One image for each finding with boxes
#
# The true box is green. Each image is the first of its finding in the box table, so these are not selected examples.

# %%
cxr.figures.plot_samples(run, path=run.figures / "samples.png")

# %% [markdown]
# ## About the NIH data
#
# NIH ChestX-ray14 has 112,120 frontal chest X-rays of 30,805 patients. Its labels for fourteen findings were extracted from radiology reports by a program. Radiologists drew 984 boxes on 880 of the test images. The data may be used without restriction. NIH asks for a [link to the download site](https://nihcc.app.box.com/v/ChestXray-NIHCC), credit to the **NIH Clinical Center**, and a citation: X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers, *ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax Diseases*, CVPR 2017.
#
# - **On Colab** choose `nih-subset` or `nih`. Archives are downloaded one after the other, checked, resized and deleted, so the disk of a free runtime is large enough. Images stay on the disk of the runtime, never on Drive, and are lost with the runtime.
# - **On your machine** choose the same, or run `python -m cxr_seam download --help` in a shell.
# - **You already have a copy**, such as Kaggle's `nih-chest-xrays/data`: type its folder as DATA. It must hold the four tables and the images, in any subfolders.
#
# The images of the demo are synthetic. They have NIH's format, and findings are more frequent, so that a small model can learn in minutes. Scores on them say nothing about patients.

# %% [markdown]
# ## Versions
#
# The versions of all packages that the results depend on, and the device.

# %%
cxr.tables.versions()

# %% [markdown]
# **Next:** [02 · Train the backbones](02_train_multires_backbone.ipynb).
