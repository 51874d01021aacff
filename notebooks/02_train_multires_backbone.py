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
# # 2 · Train the backbones
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cxr-seam/cxr-seam/blob/main/notebooks/02_train_multires_backbone.ipynb)
#
# Trains two classifiers on image labels alone (Sect. 4.1 and 4.3): a standard network and a multi-resolution one (MultiRes).
#
# ![Training and validation loss by epoch of the standard and the MultiRes model on the demo](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/loss_curves.png)
#
# | | |
# |---|---|
# | **Time** | Demo: 3 min on two CPU cores. The paper's presets on a T4: not measured. |
# | **Shows** | the recipe, augmented images, the shape of the data after every stage of the network, a merge block, loss curves (Fig. 5) |
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
# Make the same choices in all five notebooks. Then each notebook uses the results of the others. [Notebook 01](01_download_nih_data.ipynb) explains the fields.

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
# Images from an earlier notebook are used if they are on this machine. Otherwise they are synthesized or downloaded now.

# %%
cache = run.prepare_data()
cache

# %% [markdown]
# ## The recipe
#
# A recipe holds every number of a training. The numbers of `resnet50` and `efficientnet_b4` are the paper's (Sect. 5.1 and 5.2). `demo` and `small` scale them down for a small machine. `strong` and `strong_small` [change several of them](https://github.com/cxr-seam/cxr-seam/blob/main/docs/beyond-the-paper.md). `classifier_stage.freeze_below_stride` 16 means that only the two coarsest stages of the pretrained network are trained.

# %%
cxr.tables.recipe_table(run.recipes[:2])

# %% [markdown]
# ## Augmentation
#
# Training never sees exactly the same image twice. Each time, a crop of 80 to 100 % of the area is taken, flipped with a probability of one half, and rotated by up to 15 degrees (Sect. 5.2).

# %%
train_set, _ = run.train_val_datasets(run.recipe("standard"))
cxr.figures.plot_augmentations(train_set, run.recipe("standard"), path=run.figures / "augmentation.png")

# %% [markdown]
# ## The standard network, stage by stage
#
# One batch of four images passes through the network. Shapes are (batch, channels, height, width). Every stage of the backbone halves height and width, and adds channels. The last feature map has very few positions: each one covers 32 x 32 pixels of the image.

# %%
cxr.stage_shapes(run, "standard")

# %% [markdown]
# ## From features to probabilities and maps
#
# A linear classifier with 14 outputs is used in two ways (Sect. 4.1):
#
# - **Probabilities.** The features $x_{ij}$ at all positions $(i, j)$ are pooled to one vector. The classifier turns it into 14 logits. The pooling is log-sum-exp with $\gamma = 10$, which lies between the mean and the maximum:
#
# $$x_p = \frac{1}{\gamma}\,\log\Big(\frac{1}{HW}\sum_{i,j} e^{\gamma x_{ij}}\Big)$$
#
# - **Maps.** The same classifier, applied to the features at every position *before* pooling, gives 14 class activation maps (CAMs). The map of a finding is high where the network sees evidence for it.
#
# (The `strong` presets pool each finding with weights from its own map: PCAM, Ye et al. 2020.)

# %% [markdown]
# ## The loss
#
# Most findings are rare. Without weights, a network could answer "no" every time. In each batch, the loss therefore weighs the positive and negative images of each finding $c$ by their counts $|P_c|$ and $|N_c|$ (Eq. 3-5):
#
# $$\ell = \sum_c -\beta_P^c\, y_c \log f(x_c) - \beta_N^c\,(1-y_c)\log(1-f(x_c)), \qquad \beta_P^c=\frac{|P_c|+|N_c|}{|P_c|},\quad \beta_N^c=\frac{|P_c|+|N_c|}{|N_c|}$$

# %% [markdown]
# ## Train the standard model
#
# The cell shows one row for each epoch. An interrupted training continues when you run the cell again. A finished one is not repeated.

# %%
history = cxr.train(run, "standard")
cxr.tables.training_table(history)

# %% [markdown]
# ## The merge block
#
# The last feature map knows *what* is in the image, but not precisely *where*. Earlier feature maps have more positions, but know less about findings. A merge block $g$ combines a coarse map with a finer one (Eq. 1, Fig. 2):
#
# $$F_o^{l} = g\big(F_o^{l+1},\, F^{l}\big)$$
#
# In words: the output at level $l$ comes from the coarser output at level $l+1$ and from the backbone's own features at level $l$. A merge block has four steps:
#
# 1. **Reduce.** A $1\times1$ convolution mixes the channels of the coarse map and keeps a quarter of them. Another one does the same for the fine map. (EfficientNet: the fine map keeps all its channels.)
# 2. **Upsample.** Bilinear interpolation enlarges the coarse map to the size of the fine map.
# 3. **Concatenate.** The channels of both maps are stacked.
# 4. **Fuse.** A third $1\times1$ convolution mixes the stacked channels. So every position of the output knows the meaning from the coarse map and the place from the fine map.
#
# ![The merge block of the ResNet50: 2048 channels of 8 x 8 are reduced to 512 and enlarged to 16 x 16; 1024 channels of 16 x 16 are reduced to 256; both are concatenated to 768 channels and fused to 1024 channels of 16 x 16](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/merge_block.png)

# %% [markdown]
# ## The MultiRes network, stage by stage
#
# The same batch in the MultiRes network. Two merge blocks bring the maps from stride 32 back to stride 8: four times as many positions in each direction. (The PCM at the end is trained in notebook 03.)

# %%
cxr.stage_shapes(run, "multires")

# %% [markdown]
# ## Train the MultiRes model
#
# Data, loss and schedule are the same. Only the network differs.

# %%
history = cxr.train(run, "multires")
cxr.tables.training_table(history)

# %% [markdown]
# ## Loss curves
#
# The first part of Fig. 5. If the validation loss rises while the training loss falls, the model overfits. The checkpoint with the highest validation AUC is used from here on.

# %%
histories = cxr.tables.load_histories(run.recipes, run.models)
cxr.figures.plot_loss_curves(histories, path=run.figures / "loss_backbones.png")

# %% [markdown]
# ## Files
#
# The folder `models` of the output folder holds the best and the last checkpoint of each model (safetensors files with the recipe inside), and the history with one line of JSON for each epoch. `cxr.train(run, "multires", overwrite=True)` trains again from the start.

# %% [markdown]
# ## Versions
#
# The versions of all packages that the results depend on, and the device.

# %%
cxr.tables.versions()

# %% [markdown]
# **Next:** [03 · Train the PCM with SEAM](03_train_pcm_with_seam.ipynb).
