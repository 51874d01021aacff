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
# ![Two drawn chest X-rays, each with the heat maps of the standard, the MultiRes and the refined model; predicted boxes in red, true ones in green](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/before_and_after.png)
#
# | | |
# |---|---|
# | **Takes** | Demo: 43 s on two CPU cores (`make demo`). The paper's recipes on a T4: not measured. |
# | **You will see** | the loss curves of both phases (Fig. 5), and the maps of two films before and after refinement |
# | **Needs** | the MultiRes model of notebook 02, kept on Drive if SAVE_TO_DRIVE is ticked there and here, else on the same machine |
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
# ## The pixel correlation module
#
# The classifier's map $\hat y$ lights up where the evidence is strongest and misses the rest of a lesion. The PCM lets every position borrow from all positions $j$ that look alike (Eq. 2, Fig. 3):
#
# $$y_i = \frac{1}{C(x_i)} \sum_{j} \mathrm{ReLU}\!\left(\frac{\theta(x_i)^{\top}\theta(x_j)}{\lVert\theta(x_i)\rVert\,\lVert\theta(x_j)\rVert}\right)\hat y_j$$
#
# $\theta$, a $1\times1$ convolution, is all that is learnt here: the backbone and the classifier are frozen, so the probabilities of a film stay exactly as they were. Before refinement each position keeps only its strongest finding; a background channel, 1 minus the strongest, stands for the rest. (Of `strong`, raw maps put boxes better than refined ones [on real films](https://github.com/cxr-seam/cxr-seam/blob/main/docs/beyond-the-paper.md): there, show films to the model of notebook 02.)

# %%
# %run_set_up_and_choices_first

from cxr_seam.models.checkpoint import best_path, load_checkpoint
from cxr_seam.notebook import require_checkpoint

standard, multires, refined = workspace.recipes
model, _ = load_checkpoint(require_checkpoint(best_path(workspace.models, multires.name), notebook="02"))
model.refiner

# %% [markdown]
# ## Learning from rotation
#
# Rotate a film by $A$, and its map should rotate with it. SEAM runs both orders, with shared weights (Fig. 4): the film is rotated before the network in one branch ($t$), the map after it in the other ($o$). Each branch's refined map must agree with the other's raw one (Eq. 6), where only the hardest 20 % of the pixels count:
#
# $$\mathcal L_{ECR} = \big\lVert A(y^{o}) - \hat y^{t}\big\rVert_1 + \big\lVert A(\hat y^{o}) - y^{t}\big\rVert_1$$
#
# (The paper prints a minus between the two norms, which would reward disagreement; its program and the SEAM paper add them, and so do we.) A multi-label soft-margin loss keeps the refined maps true to the image labels, and Eq. 7 weighs the two:
#
# $$\mathcal L = 1.5\,\mathcal L_{MSML} + 1.0\,\mathcal L_{ECR}$$
#
# ![The Siamese training on a drawn film with a pneumothorax. Above, the film goes through the frozen network and the PCM, and both maps are turned; below, the turned film goes through the same network and PCM. The turned raw map must agree with the refined map of the turned film and the turned refined map with its raw one; both refined maps must fit the image's labels](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/siamese.png)

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import recipe_table
from cxr_seam.notebook import need

need(globals(), refined="The pixel correlation module")
recipe_table([refined])

# %% [markdown]
# ## The films
#
# Those of notebook 01 where they are on this machine, else drawn or downloaded now. On Colab a notebook opened by its badge has an empty disk of its own: with `nih` all archives come once more, unless you go on in the runtime that has them.

# %%
# %run_set_up_and_choices_first

cache = workspace.prepare_data()
print(f"{len(cache)} films of {cache.size} x {cache.size} pixels in {cache.folder}")

# %% [markdown]
# ## Training

# %%
# %run_set_up_and_choices_first

import pandas as pd

from cxr_seam.notebook import need
from cxr_seam.training.fit import train

need(globals(), refined="The pixel correlation module", cache="The films")
training, validation = workspace.train_val_datasets(refined)
history = train(refined, workspace.models, train_set=training, val_set=validation, local_dir=workspace.local_dir)
pd.DataFrame(history)

# %% [markdown]
# ## Loss curves of both phases
#
# Fig. 5. Epochs of the second phase are dashed; a single one, as in the demo, is a point. That it stands apart is no accident of training: the second phase has another loss.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import load_histories
from cxr_seam.notebook import need
from cxr_seam.visualize.figures import plot_loss_curves, save

need(globals(), history="Training")
figure = plot_loss_curves(load_histories(workspace.recipes, workspace.models))
save(figure, workspace.figures / "loss_both_phases.png")
figure

# %% [markdown]
# ## Two films, before and after
#
# The first two of notebook 01's sheet. The same film and finding by the standard model, the MultiRes model, and the MultiRes model refined by the PCM. The number in the corner is the model's probability; the PCM does not change it.

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need
from cxr_seam.visualize.examples import load_examples, one_per_finding
from cxr_seam.visualize.figures import plot_heatmap_grid, save

need(globals(), cache="The films", history="Training")
examples = load_examples(workspace, per_finding=1)
figure = plot_heatmap_grid(one_per_finding(examples)[:2])
save(figure, workspace.figures / "before_and_after.png")
figure

# %% [markdown]
# **Next:** [04 · Evaluate](04_evaluate.ipynb).

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import versions

versions()
