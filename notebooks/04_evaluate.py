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
# Measures the three models on the test films: how well they classify (Table 1, Fig. 6) and how well they localise (Tables 2 and 3), with intervals, beside controls that never saw a film and beside what others report.
#
# ![FROC curves of three models, two other maps and six controls on the demo, and beside them the accuracy of each at half a false positive per image and finding with its interval, best first](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/froc.png)
#
# | | |
# |---|---|
# | **Takes** | Demo: 69 s on two CPU cores (`make demo`). All of NIH's test films on a T4: not measured. |
# | **You will see** | the main metrics, the tables of the paper with ours in them, ROC and FROC curves, and a report to send |
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
# ## Run the models on the test films
#
# Classification uses all test films, localization those with true boxes. A heat map is the CAM, negative values set to zero, enlarged bilinearly to 256 x 256 and divided by its maximum; every region above the recipe's $Q$ gives a box (Sect. 5.3; 0.7 in the paper). Of `strong` maps are measured from what they usually are at each place instead, and $Q$ is 0.8. Beside the three models stand Grad-CAM and Grad-CAM++ of the MultiRes model, and controls that need no map. Figures in brackets are 95 % intervals of a bootstrap: 1,000 times, as many patients as there are were drawn with replacement, each with all their films.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.evaluate import evaluate
from cxr_seam.evaluation.tables import comparability
from cxr_seam.notebook import need

need(globals(), cache="Models and films")
evaluation = evaluate(workspace)
results = evaluation.results
print(comparability(results))

# %% [markdown]
# ## The summary
#
# Two overlaps are in use: $\mathrm{IoU}$ divides the intersection by the union of both boxes, $\mathrm{IoBB}$ by the area of the *predicted* box, and so forgives a box that is too small.
#
# - **FROC at 0.5**: the boxes are ranked by probability times peak, and as many of them count as bring half a false positive per film and finding.
# - **best box**: only the strongest box of each film and finding counts.
# - **all boxes**: the paper's rule. Any one of all boxes may hit.
#
# A box that hits nothing is a false positive, counted per film and finding. **Boxes buy accuracy:** under the paper's rule a *random* map hits most boxes, since it draws so many. So the methods stand in the order of FROC at 0.5, then of the best box, controls among them; a model has learnt to localise only where it stands above them. *Centre box, ranked by ...* owes its place to the probabilities alone. *Mean box of the other half* has seen true boxes, which no model here has.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import summary
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
summary(results)

# %% [markdown]
# Differences on the same draws of patients, such as what the resolution and the PCM bring. Where an interval holds 0, the difference may be chance. The best model and the best control were picked by these very films, which the interval does not tell of.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import differences
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
differences(results)

# %% [markdown]
# ## Table 1: classification
#
# Area under the ROC curve by finding, beside the paper's columns. The PCM leaves probabilities as they are, so its column would repeat that of MultiRes. Only NIH's whole test list compares.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import table_1
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
table_1(results)

# %% [markdown]
# ## Fig. 6: ROC curves

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need
from cxr_seam.visualize.figures import plot_roc

need(globals(), evaluation="Run the models on the test films")
plot_roc(evaluation, path=workspace.figures / "roc.png")

# %% [markdown]
# At thresholds that were chosen on the validation films (largest sensitivity + specificity) and stored with the checkpoint:

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import operating_points
from cxr_seam.notebook import need

need(globals(), evaluation="Run the models on the test films")
operating_points(evaluation.results)

# %% [markdown]
# The mean beside what others report. Rows of another split do not compare and have no rank; equal ones share theirs.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import mean_auc
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
mean_auc(results)

# %% [markdown]
# ## Accuracy against false positives
#
# The FROC curves: the further to the upper left, the better. The grey lines at 0.25, 0.5 and 1 are where they are read.

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import need
from cxr_seam.visualize.figures import plot_froc, save

need(globals(), results="Run the models on the test films")
figure = plot_froc(results)
save(figure, workspace.figures / "froc.png")
figure

# %% [markdown]
# The same in numbers, with the pointing game: does the maximum of the map lie in a true box? For the controls, random maps among them, it asks for the centre of the best box instead.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import froc
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
froc(results)

# %% [markdown]
# ## Tables 2 and 3: localization
#
# The paper's rule, all boxes at IoBB > 0.1. Accuracy is the share of true boxes that are hit (Table 2). *Macro* is the mean over the findings; *micro* counts all boxes alike. On the right stands what it costs, macro.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import table_2
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
table_2(results)

# %% [markdown]
# False positives by finding, divided by the films (Table 3); *micro* sums them. `table_3(results, per="box")` divides by the true boxes, as Wang et al. do; `per="total"` counts.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import table_3
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
table_3(results)

# %% [markdown]
# The same with the gate of the authors' program, which the paper does not tell of: only boxes of findings with a probability above 0.5. Controls without a probability keep all their boxes.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import table_2
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
table_2(results, boxes="filtered_boxes")

# %% [markdown]
# The stricter reading: the single best box, at IoU > 0.1.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import table_2
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
table_2(results, boxes="best_box", overlap="iou>0.1")

# %% [markdown]
# Macro accuracy by threshold beside what others report, each *at* the false positives that it costs. They are not ranked, since most print none.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import accuracy_by_threshold
from cxr_seam.notebook import need

need(globals(), results="Run the models on the test films")
accuracy_by_threshold(results, "iou")

# %% [markdown]
# ## Table 4: parameters and time
#
# Times measured elsewhere than in the paper, and how to measure them, stand in `docs/performance.md`.

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import table_4

table_4()

# %% [markdown]
# ## A report to send
#
# One page with all of this, the loss curves, Fig. 7 and the surest hits and misses; it needs no other file. Every number is in `results.json` beside it (`docs/results.md` tells its keys). `python -m cxr_seam compare A/results.json B/results.json` sets two of them side by side.

# %%
# %run_set_up_and_choices_first

from cxr_seam.notebook import framed, need
from cxr_seam.visualize.report import write_report

need(globals(), evaluation="Run the models on the test films")
path = write_report(workspace, evaluation)
print(path)
framed(path)

# %% [markdown]
# **Next:** [05 · Heat maps](05_visualize_heatmaps.ipynb).

# %%
# %run_set_up_and_choices_first

from cxr_seam.evaluation.tables import versions

versions()
