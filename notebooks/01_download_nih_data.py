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
# Gets chest X-rays ready for training: draws the demo's synthetic ones, or downloads NIH ChestX-ray14, shrinks every film once and looks at what is there.
#
# ![Eight drawn chest X-rays, each with a finding's name above it and that finding's true box in green](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/samples.png)
#
# | | |
# |---|---|
# | **Takes** | Demo: 41 s on two CPU cores (`make demo`). NIH: the time of a download of 5 GB (`nih-subset`) or 42 GB (`nih`); not measured. |
# | **You will see** | the counts of all labels, and a film with its true box for each of the eight findings that have boxes |
# | **Needs** | nothing |
#
# The method: G. D'Souza, N. V. S. Reddy, K. N. Manjunath, [*Localization of lung abnormalities on chest X-rays using self-supervised equivariant attention*](https://doi.org/10.1007/s13534-022-00249-5), Biomed. Eng. Lett. 13 (2023). Sections, equations and figures named below are the paper's. **This is research software, not a medical device.**

# %% [markdown]
# ## Set-up
#
# Run this cell first, then the one under *Choices*. Wherever `%run_set_up_and_choices_first` is not found, they have not been run.

# %% cellView="form"
# @title Set-up: fetches the program and what it needs { display-mode: "form" }
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    # !test -d /content/cxr-seam || git clone -q https://github.com/cxr-seam/cxr-seam /content/cxr-seam
    os.chdir("/content/cxr-seam")
    # !git pull -q --ff-only
    # %pip install -q -r requirements.txt
else:
    here = [f for f in (Path.cwd(), *Path.cwd().parents) if (f / "cxr_seam" / "__init__.py").exists()]
    assert here, "open this notebook inside a clone of the repository"
    os.chdir(here[0])

# %% [markdown]
# ## Choices
#
# **DATA**: `demo` draws synthetic radiographs, `nih-subset` downloads two of NIH's twelve archives, `nih` all of them; or type the path of a folder that holds NIH's tables and images. **RECIPES**: `demo` and `small` suit a CPU, `resnet50` and `efficientnet_b4` are the paper's; `strong_small` and `strong` are `small` and `resnet50` with [what we found to do better](https://github.com/cxr-seam/cxr-seam/blob/main/docs/beyond-the-paper.md). **KEEP** is the folder for models, figures and results; left empty, it is `runs/` and the name of the data. **SAVE_TO_DRIVE** (Colab) puts that folder on Google Drive, where it outlives the runtime. Choose the same in all five notebooks.

# %% cellView="form"
# @title Choices { display-mode: "form" }
DATA = "demo"  # @param ["demo", "nih-subset", "nih"] {allow-input: true}
RECIPES = "demo"  # @param ["demo", "small", "strong_small", "resnet50", "efficientnet_b4", "strong"]
KEEP = ""  # @param {type: "string"}
SAVE_TO_DRIVE = False  # @param {type: "boolean"}

from IPython.core.error import UsageError

if "Path" not in globals():
    raise UsageError('run the cell under "Set-up" first')

from cxr_seam.workspace import Workspace

workspace = Workspace.open(data=DATA, preset=RECIPES, output_dir=KEEP, save_to_drive=SAVE_TO_DRIVE)
print(workspace.summary)
# %load_ext cxr_seam.cells

# %% [markdown]
# ## Get the films
#
# Each film is read once, shrunk by area averaging to the side that the recipes need (256 pixels in the paper, Sect. 5.2) and kept as grey bytes in one file, from which training reads without decoding anything. A cell that was interrupted can be run again: what is done is not done twice.

# %%
# %run_set_up_and_choices_first

cache = workspace.prepare_data()
print(f"{len(cache)} films of {cache.size} x {cache.size} pixels in {cache.folder}")

# %% [markdown]
# ## What is in them
#
# The official lists separate training and test films by patient. Sect. 5.2 trains on every film with a finding and about 5,000 without one, and keeps a fifth for validation; here that fifth is a fifth of the *patients*, so that no patient is on both sides.

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need

need(globals(), cache="Get the films")
train_set, val_set = workspace.train_val_datasets(workspace.recipes[0])
print(f"{len(train_set)} films to train on, {len(val_set)} to validate on")
print(f"{len(workspace.test_dataset())} films to test on, {len(workspace.boxed_dataset())} of them with boxes")

# %% [markdown]
# Labels are per image: several findings may stand on one film, and nothing in training says *where* they are. Boxes exist for eight findings, on test films only; they are used to score, never to train (Sect. 3).

# %%
# %run_set_up_and_choices_first

from cxr_seam.data.nih import label_counts
from cxr_seam.notebook import need

need(globals(), cache="Get the films")
label_counts(workspace.metadata(), cache)

# %% [markdown]
# ## A film for each finding with boxes
#
# The true box is green. Images are the first of each finding in the box table, not the finest.

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need
from cxr_seam.visualize.figures import plot_samples, save

need(globals(), cache="Get the films")
figure = plot_samples(workspace)
save(figure, workspace.figures / "films.png")
figure

# %% [markdown]
# ## About the NIH data
#
# NIH ChestX-ray14 holds 112,120 frontal films of 30,805 patients with fourteen findings, mined from radiology reports, and 984 boxes drawn by radiologists on 880 of the test films. There is no restriction on its use; NIH asks for a [link to the download site](https://nihcc.app.box.com/v/ChestXray-NIHCC), credit to the **NIH Clinical Center**, and a citation of X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers, *ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax Diseases*, CVPR 2017.
#
# - **On Colab** choose `nih-subset` or `nih` above. Archives are fetched one after another, compared with their checksums, shrunk and deleted, so a free runtime's disk suffices. ChestXrayDataset stay on the runtime's own disk, never on Drive, and are gone with the runtime. A notebook that is opened by its badge has a runtime of its own: it fetches the films anew, and finds the models of the others only if SAVE_TO_DRIVE is ticked in all.
# - **On your own machine** do the same, or run `bash data_download.sh --dest data/nih` in a shell and type `data/nih` as DATA; see `bash data_download.sh --help`.
# - **A copy you already have**, such as Kaggle's `nih-chest-xrays/data`: type its folder as DATA. It must hold the four tables and the images, in whatever subfolders.
#
# The demo's films are drawn by a program. They have NIH's format and raised prevalences, so that a small model can learn on them in minutes; what a model scores on them says nothing about patients.
#
# **Next:** [02 · Train the backbones](02_train_multires_backbone.ipynb).

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import versions

versions()
