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
# # 3 · Train the PCM with SEAM
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cxr-seam/cxr-seam/blob/main/notebooks/03_train_pcm_with_seam.ipynb)
#
# Trains the second phase (Sect. 4.2, 4.4): a pixel correlation module that refines the maps of the MultiRes model, taught by rotating films.
#
# | | |
# |---|---|
# | **Takes** | Demo: 43 s on two CPU cores (`make demo`). The paper's recipes on a T4: not measured. |
# | **You will see** | the loss curves of both phases (Fig. 5), and the maps of a film before and after refinement |
# | **Needs** | the MultiRes model of notebook 02, and the films of notebook 01 |
#
# The method: G. D'Souza, N. V. S. Reddy, K. N. Manjunath, [*Localization of lung abnormalities on chest X-rays using self-supervised equivariant attention*](https://doi.org/10.1007/s13534-022-00249-5), Biomed. Eng. Lett. 13 (2023). Sections, equations and figures named below are the paper's. **This is research software, not a medical device.**

# %% [markdown]
# ## Set-up

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
    os.chdir(next(f for f in (Path.cwd(), *Path.cwd().parents) if (f / "cxr_seam" / "__init__.py").exists()))

# %% [markdown]
# ## Choices
#
# The same as in notebook 01, so that this notebook finds what the earlier ones left.

# %% cellView="form"
# @title Choices { display-mode: "form" }
DATA = "demo"  # @param ["demo", "nih-subset", "nih"] {allow-input: true}
RECIPES = "demo"  # @param ["demo", "small", "resnet50", "efficientnet_b4"]
KEEP = ""  # @param {type: "string"}
KEEP_ON_DRIVE = False  # @param {type: "boolean"}

from cxr_seam.hardware import find_hardware
from cxr_seam.workspace import Workspace

workspace = Workspace.open(data=DATA, recipes=RECIPES, keep=KEEP, on_drive=KEEP_ON_DRIVE)
print(f"Runs on {find_hardware().name}.\nKeeps everything in {workspace.keep}.")

# %% [markdown]
# ## The pixel correlation module
#
# The classifier's map $\hat y$ lights up where the evidence is strongest and misses the rest of a lesion. The PCM lets every position borrow from all positions $j$ that look alike (Eq. 2, Fig. 3):
#
# $$y_i = \frac{1}{C(x_i)} \sum_{j} \mathrm{ReLU}\!\left(\frac{\theta(x_i)^{\top}\theta(x_j)}{\lVert\theta(x_i)\rVert\,\lVert\theta(x_j)\rVert}\right)\hat y_j$$
#
# $\theta$, a $1\times1$ convolution, is all that is learnt here: the backbone and the classifier are frozen, so the probabilities of a film stay exactly as they were. Before refinement each position keeps only its strongest finding; a background channel, 1 minus the strongest, stands for the rest.
#
# ## Learning from rotation
#
# Rotate a film by $A$, and its map should rotate with it. SEAM runs both orders, with shared weights (Fig. 4): the film is rotated before the network in one branch ($t$), the map after it in the other ($o$). Each branch's refined map must agree with the other's raw one (Eq. 6), where only the hardest 20 % of the pixels count:
#
# $$\mathcal L_{ECR} = \big\lVert A(y^{o}) - \hat y^{t}\big\rVert_1 + \big\lVert A(\hat y^{o}) - y^{t}\big\rVert_1$$
#
# (The paper prints a minus between the two norms, which would reward disagreement; its program and the SEAM paper add them, and so do we.) A multi-label soft-margin loss keeps the refined maps true to the image labels, and Eq. 7 weighs the two:
#
# $$\mathcal L = 1.5\,\mathcal L_{MSML} + 1.0\,\mathcal L_{ECR}$$

# %%
from cxr_seam.report import recipe_table

standard, multires, refined = workspace.family
recipe_table([refined])

# %%
import pandas as pd

from cxr_seam.training import train

train_films, validation_films = workspace.training_films(refined)
history = train(refined, workspace.models, train_films=train_films, validation_films=validation_films)
pd.DataFrame(history)

# %% [markdown]
# ## Loss curves of both phases
#
# Fig. 5. The jump where the dashed line starts is no accident of training: the second phase has another loss.

# %%
from cxr_seam.plots import plot_loss_curves, save
from cxr_seam.report import family_histories

figure = plot_loss_curves(family_histories(workspace.family, workspace.models))
save(figure, workspace.figures / "loss_both_phases.png")
figure

# %% [markdown]
# ## One film, before and after
#
# The same film and finding by the standard model, the MultiRes model, and the MultiRes model refined by the PCM. The number in the corner is the model's probability; the PCM does not change it.

# %%
from cxr_seam.gallery import build_cases, figure_rows
from cxr_seam.plots import plot_heatmap_grid

cases = build_cases(workspace, per_finding=1)
figure = plot_heatmap_grid(figure_rows(cases)[:1])
save(figure, workspace.figures / "before_and_after.png")
figure

# %% [markdown]
# **Next:** [04 · Evaluate](04_evaluate.ipynb).

# %%
from cxr_seam.report import installed_versions

installed_versions()
