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
# Shows heat maps: a first one by a model that comes with the package, then those of your models: Fig. 7 for eight findings, an interactive viewer, and an image of your own.
#
# ![The viewer: a synthetic chest X-ray with the heat maps and boxes of three models, the PCM's weights for one position, and the raw scores of fourteen findings as bars](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/viewer.png)
#
# | | |
# |---|---|
# | **Time** | Demo: 10 s on two CPU cores, 4 min more if no model is trained yet. On a T4: not measured. |
# | **Shows** | heat maps with predicted boxes (red) and true boxes (green) of the standard, MultiRes and MultiRes + PCM models |
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
# ## First look
#
# Nothing is trained yet. The package has a small model that was trained on 8,219 real NIH radiographs, by image labels alone ([what it can and cannot do](https://github.com/cxr-seam/cxr-seam/blob/main/docs/quickstart.md)). It predicts one image: a synthetic one for the demo, otherwise the first test image with a true box if the images are prepared. The three findings with the highest scores are shown.

# %%
quickstart = cxr.Predictor.load("quickstart")
first = quickstart.predict(cxr.examples.first_image(run))
cxr.notebook.show_prediction(first)

# %% [markdown]
# ## Images and models
#
# Images and models from earlier notebooks are used if they exist. Otherwise this cell makes them and says so.

# %%
cache = run.prepare_data()
histories = cxr.train_missing(run)
predictors = cxr.load_predictors(run.recipes, run.models)
examples = cxr.examples.load_examples(run, per_finding=8, predictors=predictors)

# %% [markdown]
# ## Fig. 7
#
# One image for each finding with boxes, the first of the box table. The number in the corner is the raw score. A heat map is divided by its own maximum: it shows *where* the evidence is, not how strong it is. If the score is low, the map means little. An image without colours has a map without a positive value.

# %%
cxr.figures.plot_heatmap_grid(cxr.examples.one_per_finding(examples), path=run.figures / "heatmaps.png")

# %% [markdown]
# ## Explore
#
# One picture that follows all controls. The sentence below the picture describes it. The keyboard works too: Tab selects a control, arrow keys move it.
#
# - **Images** selects all images, images with the finding, or images where the best box of a model is correct or wrong (IoU above 0.3 with a true box). **Patient** selects one patient.
# - **Threshold Q**: a region above this share of the map's maximum gives a box. The start value is the recipe's (0.7 in the paper). At lower values boxes grow and merge.
# - **Map** selects the CAM, the refined CAM, LayerCAM, Grad-CAM or their mean for all models that have it. Maps with gradients take a moment.
# - **Opacity** is the strength of the colours.
# - **PCM at x %, y %** selects a position. The lower left image shows the PCM's weights for it: one row of the affinity (Eq. 2), divided by its maximum. The PCM's value at this position is the mean of the raw map with these weights; the residual PCM of the presets `demo`, `small` and `strong` mixes it half and half with the raw value.
# - **The bars** are raw scores. The tick is the threshold from the validation images. A full bar means "present". **Decide at** selects the rule that chose the threshold.
# - **Your image** accepts a PNG, JPEG, TIFF or DICOM file of a frontal chest X-ray. The file goes only to the machine that runs this notebook. For files above 10 MB (1 MB on Colab) use the next section.
# - **Narrow page** is a layout for small screens.

# %%
cxr.Viewer(examples, predictors=predictors)

# %% [markdown]
# ## An image of your own
#
# Type the path of a PNG, JPEG, TIFF or DICOM file of a frontal chest X-ray. On Colab you can tick **UPLOAD** instead. If the field is empty, an image of the data is used. The model knows only images like those that it was trained on and can be wrong on others without any sign. Never decide about a patient with it.

# %% cellView="form"
# @title An image of your own { display-mode: "form" }
IMAGE = ""  # @param {type: "string"}
UPLOAD = False  # @param {type: "boolean"}

default = cxr.examples.save_image(examples[0], run.figures / "example.png")
path = cxr.notebook.choose_image(IMAGE, upload=UPLOAD, default=default)
prediction = cxr.Predictor.load(run.checkpoint("multires_pcm")).predict(path)
cxr.notebook.show_prediction(prediction)

# %% [markdown]
# ## Scores
#
# The raw score ranks images; 0.5 is not a threshold. The calibrated probability says how many of such images have the finding, if they are like the validation images ([its limits](https://github.com/cxr-seam/cxr-seam/blob/main/docs/reading-results.md)). The other columns are decisions: thresholds of the raw score were chosen on the validation images for the largest sensitivity + specificity, for 90 % sensitivity and for 90 % specificity.

# %%
cxr.tables.scores(prediction)

# %% [markdown]
# ## Boxes
#
# x, y, w, h are in pixels of your file.

# %%
prediction.boxes.head(10)

# %% [markdown]
# ## In a program and in a shell
#
# `cxr.Predictor.load(path).predict(image)` does the same in a program. `python -m cxr_seam predict --help` explains the command.

# %% [markdown]
# ## Versions
#
# The versions of all packages that the results depend on, and the device.

# %%
cxr.tables.versions()
