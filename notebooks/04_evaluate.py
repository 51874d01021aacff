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
# # 4 · Evaluate
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cxr-seam/cxr-seam/blob/main/notebooks/04_evaluate.ipynb)
#
# Measures the three models on the test films: how well they classify (Table 1, Fig. 6) and how well they localise (Tables 2 and 3), beside controls that never saw a film.
#
# | | |
# |---|---|
# | **Takes** | Demo: 26 s on two CPU cores (`make demo`). All of NIH's test films on a T4: not measured. |
# | **You will see** | the headline numbers, the tables of the paper with ours in them, and the ROC curves |
# | **Needs** | the models of notebooks 02 and 03 (one is enough to start with), and the films of notebook 01 |
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
# ## Run the models on the test films
#
# Classification uses all test films, localization those with true boxes. A heat map is the CAM, negative values set to zero, enlarged bilinearly to 256 x 256 and divided by its maximum; every region above $Q = 0.7$ gives a box (Sect. 5.3).

# %%
from cxr_seam.evaluation import classify_all, evaluate, family_predictors, headline, save_results

test_films, boxed_films = workspace.test_films(), workspace.boxed_films()
probabilities = classify_all(family_predictors(workspace.family, workspace.models), test_films)
results = evaluate(
    workspace.family,
    workspace.models,
    test_films=test_films,
    boxed_films=boxed_films,
    truth=workspace.tables().boxes,
    data=workspace.data,
    probabilities=probabilities,
)
save_results(results, workspace.results)

# %% [markdown]
# ## The headline
#
# Two overlaps are in use: $\mathrm{IoU}$ divides the intersection by the union of both boxes, $\mathrm{IoBB}$ by the area of the *predicted* box, and so forgives a box that is too small.
#
# - **best box, IoU > 0.1**: only the strongest box of each film and finding counts.
# - **all boxes, IoBB > 0.1**: the paper's rule. Any one of all boxes may hit.
#
# A box that hits nothing is a false positive, counted per film and finding. **Read the two together.** Under the paper's rule a *random* map hits most boxes, since it draws so many: boxes buy accuracy with false positives. The controls below never saw a film; a model has learnt to localise only where it beats them at a like number of false positives. With few boxed films, differences of a few hundredths mean nothing.

# %%
headline(results).astype(object).fillna("")

# %% [markdown]
# ## Table 1: classification
#
# Area under the ROC curve by finding. The PCM leaves probabilities as they are, so its column would repeat that of MultiRes. NaN: the test films hold no positive or no negative. The paper's means on NIH's whole test list: ResNet50 0.796, MultiRes-ResNet50 0.793, EfficientNet-B4 0.781, MultiRes-EfficientNet-B4 0.774.

# %%
from cxr_seam.report import classification_frame

classification_frame(results).round(3)

# %% [markdown]
# ## Fig. 6: ROC curves

# %%
from cxr_seam.plots import plot_roc, save

model = list(probabilities)[-1]
figure = plot_roc(test_films.labels, probabilities[model], title=model)
save(figure, workspace.figures / "roc.png")
figure

# %% [markdown]
# ## Tables 2 and 3: localization
#
# The paper's rule, all boxes at IoBB > 0.1. *Accuracy* is the share of true boxes that are hit (Table 2); *false positives* is their mean number on a film (Table 3). The paper's means over the eight findings on NIH's 880 boxed films: ResNet50 0.351, MultiRes 0.382, MultiRes + PCM 0.417.

# %%
from cxr_seam.report import localization_frame

localization_frame(results)

# %% [markdown]
# The stricter reading: the single best box, at IoU > 0.1.

# %%
localization_frame(results, kind="best_box", score="iou>0.1")

# %% [markdown]
# Everything above, and every other threshold, is in `results.json` in KEEP.
#
# **Next:** [05 · Heat maps](05_visualize_heatmaps.ipynb).

# %%
from cxr_seam.report import installed_versions

installed_versions()
