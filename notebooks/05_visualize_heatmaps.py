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
# # 5 · Heat maps
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cxr-seam/cxr-seam/blob/main/notebooks/05_visualize_heatmaps.ipynb)
#
# Shows what the models look at: Fig. 7 for eight findings, a viewer with sliders, and a film of your own.
#
# ![The explorer's picture: a drawn chest X-ray with the heat maps and boxes of three models, what the PCM draws on for one place, and the probabilities of fourteen findings as bars](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/viewer.png)
#
# | | |
# |---|---|
# | **Takes** | Demo: 10 s on two CPU cores (`make demo`). On a T4: not measured. |
# | **You will see** | heat maps with predicted boxes (red) and true boxes (green) of the standard, MultiRes and MultiRes + PCM models side by side |
# | **Needs** | the models of notebooks 02 and 03 (one is enough to start with), kept on Drive if SAVE_TO_DRIVE is ticked there and here, else on the same machine |
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
# ## Models and films
#
# The films are those of notebook 01 where they are on this machine, else drawn or downloaded now. On Colab a notebook opened by its badge has an empty disk of its own: with `nih` all archives come once more, unless you go on in the runtime that has them.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.evaluate import load_predictors
from cxr_seam.evaluation.methods import models_of

predictors = load_predictors(workspace.recipes, workspace.models)
models = [model for key in predictors for model in models_of(key)]
cache = workspace.prepare_data()
print(f"Models: {', '.join(models)}. {len(cache)} films of {cache.size} x {cache.size} pixels.")

# %% [markdown]
# ## Fig. 7
#
# A film for each finding with boxes, the first of the box table, not the finest. In the corner stands the probability. A heat map is divided by its own maximum: it tells *where* the evidence lies, not how strong it is. So look at the probability too; a map of a finding that the model does not believe in means little. A film without heat or box is one whose map is nowhere positive.

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need
from cxr_seam.visualize.examples import load_examples, one_per_finding
from cxr_seam.visualize.figures import plot_heatmap_grid, save

need(globals(), predictors="Models and films", cache="Models and films")
examples = load_examples(workspace, per_finding=8, predictors=predictors)
figure = plot_heatmap_grid(one_per_finding(examples))
save(figure, workspace.figures / "heatmaps.png")
figure

# %% [markdown]
# ## Explore
#
# One picture, which follows every control; all of them can be reached by the Tab key and moved by the arrow keys. The sentence below the picture says what it shows.
#
# - **ChestXrayDataset** offers all films, those labelled with the finding, or the hits or misses of a model: films whose best box, at the recipe's $Q$ (0.7 in the paper), has an IoU above 0.1 with a true box, or has not. **Patient** offers one patient's.
# - **Threshold Q** is the share of the map's maximum from which on a point belongs to a box, at first the recipe's: lower it and boxes grow and merge. **Opacity** is how strongly the map covers the film.
# - **PCM at x %, y %** asks the PCM about a place, at first the peak of its map. The lower left film shows what it draws on for the ringed place: that place's row of the affinity (Eq. 2), divided by its maximum. The refined map is there the mean of the raw one, weighted by this row; the row *is* the PCM. (Of `strong`, both maps are then measured from what they usually are at each place, averaged over the film at its own size and at 1.5 times it, each mirrored too.) The broader it is, the more the PCM blurs.
# - **The bars** are probabilities. From its threshold on (the tick, chosen on the validation films) a bar is full: the finding is called present.
# - **Your film** takes a PNG, JPEG, TIFF or DICOM file of a frontal chest film. It goes to the machine that this notebook runs on and no further. Files of more than 10 MB (on Colab 1 MB) may not get through; the next section takes those.
# - **Narrow page** puts two films in a row and the bars below them, with letters that a narrow column leaves readable.

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need
from cxr_seam.visualize.viewer import Viewer

need(globals(), predictors="Models and films", examples="Fig. 7")
Viewer(examples, predictors=predictors)

# %% [markdown]
# ## A film of your own
#
# Type the path of a PNG, JPEG, TIFF or DICOM file of a frontal chest film (on Colab tick **UPLOAD** and run the cell); left empty, a film of the data is taken. The model was trained on NIH's films: on others it may be wrong without any sign of it. Never decide about a patient by it.

# %% cellView="form"
# @title A film of your own { display-mode: "form" }
OWN_FILM = ""  # @param {type: "string"}
UPLOAD = False  # @param {type: "boolean"}

# %run_set_up_and_choices_first

from IPython.display import Image

from cxr_seam.notebook import need, uploaded_image
from cxr_seam.visualize.examples import prediction_png, save_image

need(globals(), predictors="Models and films", examples="Fig. 7")
path = (uploaded_image() if UPLOAD else OWN_FILM) or save_image(examples[0], workspace.figures / "own_film.png")
prediction = list(predictors.values())[-1].predict(path)
Image(prediction_png(prediction))

# %% [markdown]
# Probabilities rank films; they are not calibrated, and 0.5 is no decision threshold. *Present* is what the stored thresholds decide. Boxes are x, y, w, h in pixels of the file that was given.

# %%
# %run_set_up_and_choices_first

import pandas as pd

from cxr_seam.notebook import need

need(globals(), prediction="A film of your own")
table = pd.DataFrame({"probability": prediction.probabilities, "present": prediction.decisions})
table.sort_values("probability", ascending=False).round(3)

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need

need(globals(), prediction="A film of your own")
prediction.boxes.round(1).head(10)

# %% [markdown]
# From a program: `Predictor.load(path).predict(film)` of `cxr_seam.predict`. From a shell: `python -m cxr_seam predict --help`.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import versions

versions()
