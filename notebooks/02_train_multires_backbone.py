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
# Trains the first phase (Sect. 4.1, 4.3): a standard network and its multi-resolution version, both on image labels alone.
#
# ![Training and validation loss by epoch of the standard and the MultiRes model; on the demo those of MultiRes end lower in validation](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/loss_curves.png)
#
# | | |
# |---|---|
# | **Takes** | Demo: 3 min on two CPU cores (`make demo`). The paper's recipes on a T4: not measured. |
# | **You will see** | the recipe, what augmentation does to a film, and the loss curves of both models (Fig. 5) |
# | **Needs** | nothing; films that notebook 01 has not left on this machine are drawn or downloaded |
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
# The same as in notebook 01, so that this notebook finds what the earlier ones left.

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
# ## The recipe
#
# Every number that decides the training. Those of `resnet50` and `efficientnet_b4` are the paper's (Sect. 5.1, 5.2); `demo` and `small` scale them down to a small machine; `strong` and `strong_small` change [what was found to do better](https://github.com/cxr-seam/cxr-seam/blob/main/docs/beyond-the-paper.md). `backbone.freeze_below_stride` 16 means that only the two coarsest stages of the pre-trained network learn.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import recipe_table

standard, multires, refined = workspace.recipes
recipe_table([standard, multires])

# %% [markdown]
# ## The films
#
# Those of notebook 01 where they are on this machine, else drawn or downloaded now. On Colab a notebook opened by its badge has an empty disk of its own: with `nih` all archives come once more, unless you go on in the runtime that has them.

# %%
# %run_set_up_and_choices_first

cache = workspace.prepare_data()
print(f"{len(cache)} films of {cache.size} x {cache.size} pixels in {cache.folder}")

# %% [markdown]
# ## What the network sees
#
# Sect. 5.2: a crop of 80 to 100 % of the area, a horizontal flip half of the time, a rotation by up to 15 degrees.

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need
from cxr_seam.visualize.figures import plot_augmentations, save

need(globals(), standard="The recipe", cache="The films")
training, _ = workspace.train_val_datasets(standard)
figure = plot_augmentations(training, standard)
save(figure, workspace.figures / "augmentation.png")
figure

# %% [markdown]
# ## The standard model
#
# Features $x_{ij}$ are pooled over all positions by log-sum-exp (Sect. 4.1, $\gamma = 10$), between an average and a maximum (`strong` lets each finding's own map weigh the positions instead: PCAM, Ye et al. 2020):
#
# $$x_p = \frac{1}{\gamma}\,\log\Big(\frac{1}{HW}\sum_{i,j} e^{\gamma x_{ij}}\Big)$$
#
# A linear classifier makes logits of the pooled features. The same classifier, put on the features *before* pooling, gives the class activation map (CAM) of each finding: where the evidence lies.
#
# Findings are rare. The loss weighs positive and negative films of each finding $c$ anew in every batch (Eq. 3-5):
#
# $$\ell = \sum_c -\beta_P^c\, y_c \log f(x_c) - \beta_N^c\,(1-y_c)\log(1-f(x_c)), \qquad \beta_P^c=\frac{|P_c|+|N_c|}{|P_c|},\quad \beta_N^c=\frac{|P_c|+|N_c|}{|N_c|}$$

# %%
# %run_set_up_and_choices_first

import pandas as pd

from cxr_seam.notebook import need
from cxr_seam.training.fit import train

need(globals(), standard="The recipe", cache="The films")
training, validation = workspace.train_val_datasets(standard)
history = train(standard, workspace.models, train_set=training, val_set=validation, local_dir=workspace.local_dir)
pd.DataFrame(history)

# %% [markdown]
# ## The multi-resolution model
#
# The last feature map of a ResNet50 has 8 x 8 positions for a film of 256 x 256: too coarse for a box. The MultiRes backbone merges finer, earlier features back in, from coarse to fine (Eq. 1, Fig. 2):
#
# $$F_o^{l} = g\big(F_o^{l+1},\, F^{l}\big)$$
#
# The merge block $g$ reduces both inputs by $1\times1$ convolutions, upsamples the coarse one bilinearly, concatenates them and fuses them by another $1\times1$ convolution. Two merges give maps of 32 x 32.
#
# ![The merge block: 2048 channels of 8 x 8 are reduced to 512 and enlarged to 16 x 16, 1024 channels of 16 x 16 are reduced to 256, both are concatenated to 768 and fused to 1024 channels of 16 x 16](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/merge_block.png)

# %%
# %run_set_up_and_choices_first

import pandas as pd

from cxr_seam.notebook import need
from cxr_seam.training.fit import train

need(globals(), multires="The recipe", cache="The films")
training, validation = workspace.train_val_datasets(multires)
history = train(multires, workspace.models, train_set=training, val_set=validation, local_dir=workspace.local_dir)
pd.DataFrame(history)

# %% [markdown]
# ## Loss curves
#
# The first part of Fig. 5, the epochs before the PCM. A validation loss that rises while the training loss falls means over-fitting; the checkpoint kept is the one with the highest validation AUC.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import load_histories
from cxr_seam.notebook import need
from cxr_seam.visualize.figures import plot_loss_curves, save

need(globals(), standard="The recipe", multires="The recipe")
figure = plot_loss_curves(load_histories([standard, multires], workspace.models))
save(figure, workspace.figures / "loss_backbones.png")
figure

# %% [markdown]
# The models lie in the folder `models` of KEEP: the best and the last of each, as safetensors with the recipe inside, and the history as one JSON line an epoch. A training cell that was cut off goes on where it was when it is run again, in a new runtime too if KEEP is on Drive; one that has ended does nothing, unless `train` is given `restart=True`.
#
# **Next:** [03 · Train the PCM with SEAM](03_train_pcm_with_seam.ipynb).

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import versions

versions()
