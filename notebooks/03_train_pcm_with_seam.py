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
# Trains the pixel correlation module (PCM), which refines the maps of the MultiRes model (Sect. 4.2 and 4.4). It learns from rotated images, not from boxes.
#
# ![Two synthetic chest X-rays with the heat maps of the standard, the MultiRes and the refined model; predicted boxes are red, true boxes green](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/before_and_after.png)
#
# | | |
# |---|---|
# | **Time** | Demo: 43 s on two CPU cores, 3 min more if notebook 02 has not been run. The paper's presets on a T4: not measured. |
# | **Shows** | what the PCM computes and which positions it uses, one Siamese step with its two losses, loss curves of both stages (Fig. 5), maps before and after refinement |
# | **Needs** | the MultiRes model of notebook 02; without it, this notebook trains it first |
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
# ## The MultiRes model
#
# The PCM refines the maps of a trained MultiRes model. If notebook 02 has trained it, this cell only reads its history.

# %%
history = cxr.train(run, "multires")
cxr.tables.training_table(history)

# %% [markdown]
# ## The pixel correlation module
#
# A CAM $\hat y$ is high where the evidence is strongest. Often this is only a part of a lesion. The PCM spreads the evidence to all positions with similar features (Eq. 2, Fig. 3):
#
# $$y_i = \frac{1}{C(x_i)} \sum_{j} \mathrm{ReLU}\!\left(\frac{\theta(x_i)^{\top}\theta(x_j)}{\lVert\theta(x_i)\rVert\,\lVert\theta(x_j)\rVert}\right)\hat y_j$$
#
# Read it from the inside out:
#
# 1. **Embed.** $\theta$, a $1\times1$ convolution, turns the features $x_i$ at each position into a vector.
# 2. **Compare.** The fraction is the cosine of two of these vectors. It is 1 for equal directions and 0 for unrelated ones. ReLU removes negative values.
# 3. **Average.** The new value $y_i$ at position $i$ is the weighted mean of the CAM at *all* positions $j$. Similar positions have large weights. $C(x_i)$, the sum of the weights, makes it a mean.
#
# So two positions that look alike to the network get similar values. Only $\theta$ is trained. Backbone and classifier are frozen, and the scores do not change. (In `strong` and `strong_small` this is different, see the end of this section.)
#
# Before refinement, only the strongest finding is kept at each position. A background channel, 1 minus the strongest, is added.
#
# **The presets `demo`, `small`, `strong` and `strong_small` use a variant, the residual PCM.** With Eq. 2 as it is, each position uses most of the image, because the features are not negative and so all cosines are large; refined maps lose contrast. The variant subtracts the mean of $\theta(x)$ over the image before the cosine, refines the whole CAM at test, and mixes the result half and half with it. [docs/pcm.md](https://github.com/cxr-seam/cxr-seam/blob/main/docs/pcm.md) explains and measures this. The presets `resnet50` and `efficientnet_b4` have the paper's PCM.
#
# **The presets `strong` and `strong_small` also train the classifier in this stage,** as SEAM does (Wang et al. 2020). A further loss, ER, compares the CAM of the rotated image with the rotated CAM, and the scores change. [docs/beyond-the-paper.md](https://github.com/cxr-seam/cxr-seam/blob/main/docs/beyond-the-paper.md) measures this.

# %% [markdown]
# ## The PCM in numbers
#
# One batch through the MultiRes network with its PCM. The affinity is the table of all weights: one row for each position $i$, one column for each position $j$.

# %%
cxr.stage_shapes(run, "multires_pcm")

# %% [markdown]
# ## SEAM: learning from rotation
#
# If an image is rotated by $A$, its map should rotate with it. This needs no box, so it can teach the PCM (Fig. 4). The same network runs on two branches:
#
# - branch $o$ (original) computes the maps of the image and then rotates the *maps*;
# - branch $t$ (transformed) rotates the *image* and then computes its maps.
#
# Two losses compare the results:
#
# - **ECR**, equivariant cross regularization (Eq. 6): the refined map $y$ of each branch must agree with the raw map $\hat y$ of the other. Only the 20 % of the pixels with the largest difference count.
#
# $$\mathcal L_{ECR} = \big\lVert A(y^{o}) - \hat y^{t}\big\rVert_1 + \big\lVert A(\hat y^{o}) - y^{t}\big\rVert_1$$
#
# - **MSML**, multi-label soft margin loss: the mean of the refined map of each finding is a score for the whole image. These scores must fit the labels of the image.
#
# Their weighted sum is the loss (Eq. 7):
#
# $$\mathcal L = 1.5\,\mathcal L_{MSML} + 1.0\,\mathcal L_{ECR}$$
#
# (The paper prints a minus between the two norms of Eq. 6. That would reward disagreement. The authors' program and the SEAM paper add the norms, and so do we.)
#
# ![The Siamese step on a synthetic image with a pneumothorax. Top: the image passes the frozen network and the PCM, and both maps are rotated. Bottom: the rotated image passes the same network and PCM. ECR compares the raw map of each branch with the refined map of the other; MSML compares both refined maps with the labels](https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/siamese.png)

# %% [markdown]
# ## One Siamese step
#
# One step for one image, before the PCM is trained. Top: branch $o$. Bottom: branch $t$. ECR compares crosswise: the rotated raw map (top middle) with the refined map (bottom right), and the rotated refined map (top right) with the raw map (bottom middle). The title shows the two losses and their weighted sum.

# %%
cxr.figures.plot_siamese_step(run, path=run.figures / "siamese_step.png")

# %% [markdown]
# ## The recipe
#
# The numbers of this stage are under `seam_stage`.

# %%
cxr.tables.recipe_table(run.recipes[2:])

# %% [markdown]
# ## Train the PCM

# %%
history = cxr.train(run, "multires_pcm")
cxr.tables.training_table(history)

# %% [markdown]
# ## What one position uses
#
# The affinity of the position with the largest CAM (ring), with the trained $\theta$. "Uses" is the effective number of positions, $1/\sum_j a_j^2$ for weights $a_j$ that sum to 1, as a share of all positions. Top: with Eq. 2 the position uses most of the image. With the mean embedding subtracted, it uses less. Bottom: the CAM, refined in both ways.

# %%
cxr.figures.plot_affinity(run, path=run.figures / "affinity.png")

# %% [markdown]
# ## Loss curves of both stages
#
# Fig. 5. The epochs of the SEAM stage are dashed. They have another loss, so their level does not compare with the first stage. In the demo this is one epoch, shown as one point.

# %%
histories = cxr.tables.load_histories(run.recipes, run.models)
cxr.figures.plot_loss_curves(histories, path=run.figures / "loss_both_stages.png")

# %% [markdown]
# ## Before and after refinement
#
# The same images and findings by all trained models. The number in the corner is the raw score. The PCM does not change it.

# %%
examples = cxr.examples.load_examples(run, per_finding=1)
cxr.figures.plot_heatmap_grid(cxr.examples.one_per_finding(examples)[:2], path=run.figures / "before_and_after.png")

# %% [markdown]
# ## Versions
#
# The versions of all packages that the results depend on, and the device.

# %%
cxr.tables.versions()

# %% [markdown]
# **Next:** [04 · Evaluate](04_evaluate.ipynb).
