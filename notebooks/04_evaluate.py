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
# Measures the three models on the test images: classification (Table 1, Fig. 6) and localization (Tables 2 and 3), with confidence intervals, trivial baselines and published results.
#
# ![FROC curves of three models, two other kinds of maps and six baselines on the demo; beside them, the accuracy of each method at 0.5 false positives per image and finding with its interval, best first](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/froc.png)
#
# | | |
# |---|---|
# | **Time** | Demo: 69 s on two CPU cores, 4 min more if no model is trained yet. All NIH test images on a T4: not measured. |
# | **Shows** | a summary, the paper's tables with our columns, ROC and FROC curves, and a report in one file |
# | **Needs** | the models of notebooks 02 and 03; without them, this notebook trains them first |
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
# ## Images and models
#
# Images and models from earlier notebooks are used if they exist. Otherwise this cell makes them and says so.

# %%
cache = run.prepare_data()
histories = cxr.train_missing(run)

# %% [markdown]
# ## Evaluate
#
# Classification uses all test images. Localization uses the test images with true boxes. A heat map is a CAM without its negative values, enlarged to 256 x 256 pixels and divided by its maximum. Each region above a threshold $Q$ (0.7 in the paper, Sect. 5.3) gives a box.
#
# Every number has a 95 % confidence interval from 1,000 bootstrap samples. Each sample draws patients with replacement, and all images of a drawn patient.
#
# The findings that both the models and the data have are evaluated. Without true boxes of them there is no localization. The printed note says so, and whether the numbers compare with published ones.

# %%
evaluation = cxr.evaluate(run)
results = evaluation.results
print(cxr.tables.comparability(results))

# %% [markdown]
# ## Summary
#
# A predicted box is correct if it overlaps a true box enough. There are two measures of overlap. IoU is the intersection divided by the union of both boxes. IoBB is the intersection divided by the area of the *predicted* box, so it favours small boxes. **IoU > 0.3** comes first. At IoU > 0.1 and IoBB > 0.1 even a box in the centre of the image is often correct ([Reading the results](https://github.com/cxr-seam/cxr-seam/blob/main/docs/reading-results.md)).
#
# - **FROC at 0.5**: boxes are ranked by confidence. As many boxes count as give 0.5 false positives per image and finding.
# - **best box**: only the box with the highest confidence counts, for each image and finding.
# - **all boxes**: the paper's rule. One correct box among all boxes is enough.
#
# **More boxes give a higher accuracy under the paper's rule**: even a *random* map finds most true boxes, because it has so many. So each accuracy stands beside its false positives, and the table is sorted by FROC at 0.5 with IoU > 0.3. A model has learnt to localise only if it is better than the baselines. *Mean box of the other half* has seen true boxes, which no model has.

# %%
cxr.tables.summary(results)

# %% [markdown]
# ## Differences
#
# Differences between models on the same bootstrap samples. If an interval includes 0, the difference may be chance. The best model and the best baseline were selected on these same test images; the interval does not account for that.

# %%
cxr.tables.differences(results)

# %% [markdown]
# ## Table 1: classification
#
# The area under the ROC curve (AUC) for each finding, beside the paper's columns. The PCM does not change scores, so it has no column. (In `strong` and `strong_small` the SEAM stage trains the classifier as well; the MultiRes column is the model after it.) Only numbers on NIH's complete test list compare.

# %%
cxr.tables.table_1(results)

# %% [markdown]
# ## Fig. 6: ROC curves

# %%
cxr.figures.plot_roc(evaluation, path=run.figures / "roc.png")

# %% [markdown]
# ## Decisions
#
# The threshold of each finding was selected on the validation images (largest sensitivity + specificity) and is saved in the checkpoint. `point="sensitivity_90"` and `point="specificity_90"` show the decisions at the two other operating points.

# %%
cxr.tables.operating_points(results)

# %% [markdown]
# ## Calibrated probabilities
#
# AUC, FROC and decisions use the raw score, which is no probability. The calibrated probability was fitted on the validation images (Platt scaling). Each dot is a tenth of the test images. On the dotted line the frequency of the finding is equal to the mean probability. [Its limits](https://github.com/cxr-seam/cxr-seam/blob/main/docs/reading-results.md).

# %%
cxr.figures.plot_reliability(results, path=run.figures / "reliability.png")

# %% [markdown]
# The Brier score is the mean squared difference of probability and label. Beside it stands the score of a constant, the prevalence of the test images.

# %%
cxr.tables.calibration(results)

# %% [markdown]
# ## Mean AUC beside published results
#
# Rows of another split do not compare and have no rank.

# %%
cxr.tables.mean_auc(results)

# %% [markdown]
# ## FROC curves
#
# Accuracy (IoU > 0.3) against false positives. Curves further to the upper left are better. Grey lines mark 0.25, 0.5 and 1 false positives.

# %%
cxr.figures.plot_froc(results, path=run.figures / "froc.png")

# %% [markdown]
# ## FROC in numbers
#
# The last column is the pointing game: is the maximum of the map inside a true box? For baselines, the centre of the best box counts.

# %%
cxr.tables.froc(results)

# %% [markdown]
# ## Best box
#
# Only the best box of each image and finding counts, at IoU > 0.3. Accuracy is the share of true boxes that are found. *Macro* is the mean over findings, *micro* counts all boxes alike. The last column shows the false positives.

# %%
cxr.tables.table_2(results, boxes="best_box", overlap="iou>0.3")

# %% [markdown]
# ## Table 2: localization accuracy
#
# The paper's rule: all boxes, IoBB > 0.1.

# %%
cxr.tables.table_2(results)

# %% [markdown]
# ## Table 3: false positives
#
# False positives of each finding, divided by the number of images.

# %%
cxr.tables.table_3(results)

# %% [markdown]
# ## A stricter rule
#
# The rule of the authors' program, which the paper does not mention: only findings with a raw score above 0.5 give boxes.

# %%
cxr.tables.table_2(results, boxes="filtered_boxes")

# %% [markdown]
# ## Localization beside published results
#
# Macro accuracy by threshold, each *at* its false positives. There is no rank, because most authors print no false positives.

# %%
cxr.tables.accuracy_by_threshold(results, "iou")

# %% [markdown]
# ## Table 4: parameters and time
#
# Our own times are in [docs/performance.md](https://github.com/cxr-seam/cxr-seam/blob/main/docs/performance.md).

# %%
cxr.tables.table_4()

# %% [markdown]
# ## A report in one file
#
# `report.html` has all of this on one page and needs no other file. `results.json` has every number ([its keys](https://github.com/cxr-seam/cxr-seam/blob/main/docs/results.md)). `python -m cxr_seam compare A/results.json B/results.json` compares two evaluations.

# %%
path = cxr.report.write_report(run, evaluation)
cxr.notebook.show_page(path)

# %% [markdown]
# ## Versions
#
# The versions of all packages that the results depend on, and the device.

# %%
cxr.tables.versions()

# %% [markdown]
# **Next:** [05 · Heat maps](05_visualize_heatmaps.ipynb).
