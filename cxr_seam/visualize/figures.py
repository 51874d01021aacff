"""Plot the figures of the paper and of the notebooks as matplotlib figures.

Each function returns a `Figure`, which a notebook shows as the value of a cell, and saves it if `path` is given; the
suffix of `path` chooses the format (.png, .pdf, .svg). No function uses pyplot or its global state. Images have a dark
background, charts a white one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.dataset import ChestXrayDataset
from ..data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    affine_warp,
    eval_transform,
    rotation_params,
    sample_augmentation,
    train_transform,
)
from ..errors import InputError
from ..evaluation.evaluate import Evaluation
from ..evaluation.results import BASELINE, COMPARISON, MODEL, format_estimate
from ..evaluation.tables import NO_BOXES
from ..findings import XYWH
from ..inference.heatmaps import cam_to_heatmap
from ..io import atomic_write
from ..models.cam import max_normalise
from ..models.checkpoint import load_checkpoint
from ..models.extras.residual_pcm import ResidualPCM, centre, effective_share
from ..models.multires import LocalizationModel
from ..models.pcm import PCM, affinity
from ..recipes import Recipe
from ..training.fit import init_model
from ..training.seam import SeamObjective
from ..workspace import Workspace
from .examples import Example, example_pairs, pick_boxed
from .overlay import draw_boxes, overlay_heatmap, resize, scale_to_width
from .style import DARK, LIGHT, PALETTE, PREDICTED_COLOUR, TRUE_COLOUR, to_hex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    FigurePath = str | os.PathLike[str] | None


COLOURS = tuple(to_hex(colour) for colour in PALETTE)
"""`style.PALETTE` for matplotlib."""

DASHES = ("-", "--", "-.", ":")
"""Line styles, one after the other when the colours are used up."""

MARKERS = "os^Dv<>"
"""One marker for each colour."""

DARK_HEX, LIGHT_HEX = to_hex(DARK), to_hex(LIGHT)

IMAGE_WIDTH = 512
"""Width in pixels of an image on which boxes are drawn."""

SIAMESE_TITLES = (
    "image $x$",
    "rotated raw map $A(\\hat y^o)$",
    "rotated refined map $A(y^o)$",
    "rotated image $A(x)$",
    "raw map $\\hat y^t$",
    "refined map $y^t$",
)

LEGEND_RIGHT = {"frameon": False, "fontsize": 9, "loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
"""Options of a legend right of the axes."""


def plot_samples(run: Workspace, *, path: FigurePath = None) -> Figure:
    """Plot one test image with its true boxes for each boxed finding; without true boxes, for each labelled finding.

    Raises:
        InputError: no image is prepared, or none has a finding.
    """
    cache, metadata = run.cache(), run.metadata()
    boxes, findings = metadata.boxes, metadata.findings
    pairs = example_pairs(metadata, findings=findings)
    images, titles = [], []
    for name, finding in pick_boxed(pairs, cache, findings=findings, per_finding=1).items():
        image = np.array(cache.images[cache.indices([name])[0]])
        true = boxes.loc[(boxes["image_index"] == name) & (boxes["finding"] == finding), XYWH].to_numpy()
        images.append(draw_boxes(resize(image, scale_to_width(image.shape, IMAGE_WIDTH)), true=true))
        titles.append(f"{finding.replace('_', ' ')}\n{name}")
    return plot_images(images, titles, path=path)


def plot_augmentations(dataset: ChestXrayDataset, recipe: Recipe, *, path: FigurePath = None) -> Figure:
    """Plot the first image of a dataset and nine augmentations, as the network sees them in training (Sect. 5.2)."""
    pixels, _ = dataset.load([0])
    params = sample_augmentation(9, recipe.augmentation, generator=torch.Generator().manual_seed(recipe.seed))
    inputs = train_transform(pixels.expand(9, -1, -1, -1), params, size=recipe.image_size)
    titles = ["image", *(f"augmentation {number}" for number in range(1, 10))]
    return plot_images([pixels[0, 0].numpy(), *to_grey(inputs)], titles, columns=5, path=path)


@torch.no_grad()
def plot_siamese_step(run: Workspace, *, path: FigurePath = None) -> Figure:
    """Plot one Siamese step (Fig. 4) for a training image, with the MultiRes model before its PCM is trained.

    The rotation is by 25 degrees, counter-clockwise. The title has the two losses. ECR compares the raw map of each
    branch with the refined map of the other; MSML compares both refined maps with the labels.
    """
    recipe = run.recipe("multires_pcm")
    stage = recipe.seam_stage
    train_set, _ = run.train_val_datasets(recipe)
    with torch.random.fork_rng():  # a new refiner is random
        torch.manual_seed(recipe.seed)
        model = init_model(recipe, run.checkpoint("multires"), weights="none", findings=train_set.findings)
    objective = SeamObjective(model, stage).eval()
    images, labels, finding = first_with_finding(train_set, model, size=recipe.image_size)
    rotation = rotation_params(torch.tensor([25.0]))
    losses = objective(images, labels, rotation=rotation)
    output = objective.forward_branches(images, rotation)
    (grey,), (rotated,) = to_grey(images), to_grey(output.warped_images)
    maps = [affine_warp(output.cam.relu(), rotation), affine_warp(output.refined, rotation)]
    maps += [output.cam_of_warped, output.refined_of_warped]
    overlays = [overlay_heatmap(rotated, cam_to_heatmap(cam[:, [finding]], grey.shape)[0, 0].numpy()) for cam in maps]
    figure = plot_images([grey, *overlays[:2], rotated, *overlays[2:]], SIAMESE_TITLES, columns=3)
    figure.suptitle(
        f"{model.findings[finding].replace('_', ' ')}:  {stage.msml_weight} x MSML {losses['msml']:.3f}  +  "
        f"{stage.ecr_weight} x ECR {losses['ecr']:.3f}  =  loss of the refiner {losses['loss']:.3f}",
        color=LIGHT_HEX,
        fontsize=11,
    )
    return finish(figure, path)


@torch.inference_mode()
def plot_affinity(run: Workspace, *, path: FigurePath = None) -> Figure:
    """Plot which positions the trained PCM uses for one position, with and without the mean embedding; `draw_affinity`.

    The image is the training image of `plot_siamese_step`.

    Raises:
        InputError: "multires_pcm" is not trained, or its refiner is no PCM.
    """
    recipe = run.recipe("multires_pcm")
    model, _ = load_checkpoint(run.checkpoint("multires_pcm"))
    images, _, finding = first_with_finding(run.train_val_datasets(recipe)[0], model, size=recipe.image_size)
    return finish(draw_affinity(model, images, finding=finding), path)


def first_with_finding(
    dataset: ChestXrayDataset, model: LocalizationModel, *, size: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the first image with a finding, (1, 3, size, size), its labels (1, K), and its most probable finding."""
    pixels, labels = dataset.load([int((dataset.labels == 1).any(axis=1).argmax())])
    images = eval_transform(pixels, size=size)
    raw_scores = model(images, maps=False).logits.sigmoid()
    return images, labels, int((raw_scores * labels.nan_to_num(0)).argmax())


def draw_affinity(model: LocalizationModel, images: torch.Tensor, *, finding: int) -> Figure:
    """Draw the affinity (Eq. 2) of the position with the largest CAM, as it is and for centred embeddings.

    Top: the image with this position, and its weights for all positions. Bottom: the CAM, the CAM refined with all
    weights, and the mean of the CAM and the CAM refined with all centred weights (`extras.residual_pcm`). Each picture
    is divided by its own maximum.

    Args:
        model: with a PCM.
        images: (1, 3, H, W) normalised.
        finding: index of the finding in `model.findings`.

    Raises:
        InputError: the refiner is no PCM.
    """
    refiner = model.refiner
    if not isinstance(refiner, PCM):
        raise InputError("the model has no pixel correlation module; choose a preset whose refiner is one")
    features, low_level = model.forward_features(images)
    cam = max_normalise(model.class_scores(features)[:, [finding]])  # (1, 1, h, w)
    plain = PCM.embed(refiner, features) if isinstance(refiner, ResidualPCM) else refiner.embed(features, low_level)
    height, width = cam.shape[-2:]
    peak = int(cam.argmax())
    weights, refined, shares = [], [], []
    for embedding in (plain, centre(plain)):
        rows = affinity(embedding)  # (1, N, N)
        weights.append(rows[:, peak].reshape(cam.shape))
        refined.append((rows @ cam.flatten()).reshape(cam.shape))
        shares.append(float(effective_share(rows[0, peak])))
    maps = [*weights, cam, refined[0], (cam + refined[1]) / 2]
    (grey,) = to_grey(images)
    overlays = [overlay_heatmap(grey, cam_to_heatmap(values, grey.shape)[0, 0].numpy()) for values in maps]
    name = model.findings[finding].replace("_", " ")
    titles = [
        f"{name}: the position with the largest CAM",
        f"its weights (Eq. 2): uses {shares[0]:.0%} of the image",
        f"centred: uses {shares[1]:.0%} of the image",
        "CAM",
        f"refined by Eq. 2: minimum {float(refined[0].min() / refined[0].max()):.0%} of the maximum",
        "half CAM, half refined with the centred weights",
    ]
    figure = plot_images([grey, *overlays], titles, columns=3)
    x, y = ((peak % width + 0.5) / width * grey.shape[1], (peak // width + 0.5) / height * grey.shape[0])
    figure.axes[0].plot(x, y, "o", markersize=11, markerfacecolor="none", markeredgecolor=COLOURS[1], markeredgewidth=2)
    return figure


def to_grey(inputs: torch.Tensor) -> np.ndarray:
    """Undo the ImageNet normalisation of a batch (B, 3, H, W): (B, H, W) uint8 grey."""
    grey = inputs[:, 0].float().cpu().numpy() * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    return np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)


def plot_images(
    images: Sequence[np.ndarray], titles: Sequence[str], *, columns: int = 4, path: FigurePath = None
) -> Figure:
    """Plot images in a grid.

    Args:
        images: at least one, (H, W) uint8 grey or (H, W, 3) uint8 RGB each.
        titles: one for each image, of one or more lines; long lines are wrapped.
        columns: images side by side.

    Raises:
        InputError: there is no image.
    """
    if not images:
        raise InputError("there is no image to plot")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(2.5 * columns, 2.85 * rows, dark=True)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, image, title in zip_longest(grid, images, titles):
        if image is None:
            axes.set_axis_off()
            continue
        show_image(axes, image)
        axes.set_title("\n".join(fill(line, 30) for line in title.splitlines()), color=LIGHT_HEX, fontsize=9)
    return finish(figure, path)


def plot_loss_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], *, path: FigurePath = None) -> Figure:
    """Plot training and validation loss of all models by epoch (Fig. 5).

    Epochs are counted through both stages. Those of the SEAM stage are dashed, because they have another loss.

    Args:
        histories: model name -> records of the epochs, classifier stage first (`evaluation.tables.load_histories`).

    Raises:
        InputError: there is no epoch.
    """
    if not any(histories.values()):
        raise InputError("there is no epoch to plot; train a model first")
    figure = new_figure(9, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(panels, ("train_loss", "validation_loss"), ("Training", "Validation"), strict=True):
        for number, (name, history) in enumerate(histories.items()):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            losses = [record[key] for record in history]
            first_seam = next((i for i, record in enumerate(history) if record["stage"] == "seam"), len(history))
            epochs = np.arange(len(history))
            for stage, line in ((slice(0, first_seam), "-"), (slice(first_seam, None), "--")):
                label = name if epochs[stage].size and (line == "-" or first_seam == 0) else None
                axes.plot(epochs[stage], losses[stage], line, label=label, markersize=4, linewidth=1.4, **style)
        axes.set(title=f"{title} loss", xlabel="Epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        style_chart(axes)
    panels[0].set_ylabel("Loss")
    if any(record["stage"] == "seam" for history in histories.values() for record in history):
        panels[1].plot([], [], "k--", linewidth=1.4, label="SEAM stage (another loss)")
    panels[1].legend(frameon=False, fontsize=9)
    return finish(figure, path)


def plot_roc(evaluation: Evaluation, *, path: FigurePath = None) -> Figure:
    """Plot the ROC curves of the final model (Fig. 6); the legend has the AUC and its 95 % interval of each finding.

    Lines differ in colour, dashes and markers.
    """
    from sklearn.metrics import roc_curve

    model = evaluation.final_model
    scores, raw_scores = evaluation.results["classification"][model], evaluation.raw_scores[model]
    figure = new_figure(8.5, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    for number, finding in enumerate(evaluation.findings):
        auc, name, hue = scores["findings"][finding]["auc"], finding.replace("_", " "), number % len(COLOURS)
        style = {"color": COLOURS[hue], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
        style |= {"marker": MARKERS[hue], "markersize": 5, "markevery": (0.03 + 0.02 * hue, 0.17)}
        if auc["value"] is None:
            axes.plot([], [], label=f"{name}: not defined", **style)
            continue
        known = ~np.isnan(evaluation.labels[:, number])
        false_rate, true_rate, _ = roc_curve(evaluation.labels[known, number], raw_scores[known, number])
        axes.plot(false_rate, true_rate, linewidth=1.4, label=f"{name}: {format_estimate(auc)}", **style)
    defined = scores["mean"]["n_defined"]
    mean = f"mean AUC {format_estimate(scores['mean']['auc'])} over {defined} findings" if defined else "no AUC"
    axes.set(xlabel="1 - specificity", ylabel="Sensitivity", title=f"{model}: {mean}")
    axes.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(title="AUC (95 % interval)", handlelength=3.5, **LEGEND_RIGHT)
    style_chart(axes)
    return finish(figure, path)


def plot_reliability(results: Mapping[str, Any], model: str | None = None, *, path: FigurePath = None) -> Figure:
    """Plot reliability diagrams: a panel for each finding with a calibrated probability.

    Each dot is a bin with a tenth of the test images: the frequency of the finding, with its 95 % interval over
    patients, against the mean calibrated probability. On the dotted line both are equal. The axes of a panel end where
    its values end.

    Args:
        results: of `evaluation.evaluate` (results.json).
        model: name of a model; None = the last one.
    """
    model = model or list(results["classification"])[-1]
    findings = results["classification"][model]["findings"]
    shown = {name: row["calibration"] for name, row in findings.items() if row["calibration"]["bins"]}
    columns = min(5, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = new_figure(max(2.1 * columns, 6), 2.35 * rows + 0.8)
    missing = [name.replace("_", " ") for name in findings if name not in shown]
    note = f"\nnot calibrated: {', '.join(missing)}" if missing else ""
    figure.suptitle(f"{model}: reliability of the calibrated probabilities{note}", fontsize=11)
    for axes, item in zip_longest(figure.subplots(rows, columns, squeeze=False).flat, shown.items()):
        if item is None:
            axes.set_axis_off()
        else:
            _draw_reliability(axes, *item)
    figure.supxlabel("Mean calibrated probability of the bin", fontsize=10)
    figure.supylabel("Frequency of the finding", fontsize=10)
    return finish(figure, path)


def _draw_reliability(axes: Axes, finding: str, calibration: Mapping[str, Any]) -> None:
    """Draw the bins of one finding with their intervals."""
    bins = calibration["bins"]
    x, y = [each["probability"] for each in bins], [each["frequency"]["value"] for each in bins]
    for each in bins:
        if each["frequency"]["low"] is not None:
            ends = [each["frequency"]["low"], each["frequency"]["high"]]
            axes.plot(2 * [each["probability"]], ends, color=COLOURS[0], linewidth=1.2, solid_capstyle="butt")
    axes.plot(x, y, "o-", color=COLOURS[0], markersize=3.5, linewidth=0.8, clip_on=False)
    end = min(1.0, 1.05 * max(*x, *(each["frequency"]["high"] or each["frequency"]["value"] for each in bins), 0.01))
    axes.plot([0, end], [0, end], color="0.6", linewidth=1, linestyle=":")
    axes.set(xlim=(0, end), ylim=(-0.02 * end, end), aspect="equal")
    axes.locator_params(nbins=3)
    axes.tick_params(labelsize=8)
    axes.set_title(f"{finding.replace('_', ' ')}\nECE {format_estimate(calibration['ece'])}", fontsize=9)
    style_chart(axes)


def plot_froc(results: Mapping[str, Any], *, score: str = "iou>0.3", path: FigurePath = None) -> Figure:
    """Plot the FROC curves: macro accuracy against false positives per image and finding, one line for each method.

    Models have thick lines and the 95 % interval at 0.5 false positives; other maps of the same network are dashed;
    baselines are grey. The legend has the accuracy at 0.5, best first.

    Args:
        results: of `evaluation.evaluate` (results.json).
        score: "iou>0.3", "iou>0.1" or "iobb>0.1".

    Without true boxes, the figure is one sentence that says so.

    Raises:
        InputError: the results have no such curve.
    """
    if not results["localization"]:
        return plot_text(NO_BOXES, path=path)
    figure = new_figure(9.2, 4.8)
    axes = figure.subplots()
    counts = {MODEL: 0, COMPARISON: 0, BASELINE: 0}
    lines = []
    for method, scores in results["localization"].items():
        if score not in scores["froc"]:
            raise InputError(f"there is no FROC curve for {score!r}; choose one of {', '.join(scores['froc'])}")
        kind, curve, number = scores["type"], scores["froc"][score]["curve"], counts[scores["type"]]
        counts[kind] += 1
        estimate = scores["froc"][score]["at_fp_rate"]["0.5"]["macro"]
        style = _froc_style(kind, number)
        x, y = (curve[key][1:] for key in ("false_positives_per_image", "accuracy"))  # the axis is logarithmic: no 0
        (line,) = axes.plot(x, y, label=f"{method}: {format_estimate(estimate) or 'not defined'}", **style)
        lines.append((-1 if estimate["value"] is None else estimate["value"], line))
        if kind == MODEL and estimate["low"] is not None:
            x = 0.5 * 1.05 ** (number - 1)  # side by side
            interval = [estimate["low"], estimate["high"]]
            axes.plot([x, x], interval, color=style["color"], linewidth=1.2, solid_capstyle="butt")
    for x in (0.25, 0.5, 1):
        axes.axvline(x, color="0.8", linewidth=1, zorder=0)
    axes.set(xscale="log", xlim=(0.01, 10), ylim=(-0.02, 1.02), xlabel="False positives per image and finding")
    axes.set(ylabel=f"Accuracy, {score.replace('iou', 'IoU').replace('iobb', 'IoBB').replace('>', ' > ')}, macro")
    axes.set(xticks=[0.01, 0.1, 0.25, 0.5, 1, 10], xticklabels=["0.01", "0.1", "0.25", "0.5", "1", "10"])
    axes.minorticks_off()
    style_chart(axes)
    ordered = [line for _, line in sorted(lines, key=lambda pair: -pair[0])]
    axes.legend(handles=ordered, title="accuracy at 0.5 (95 % interval)", **LEGEND_RIGHT)
    return finish(figure, path)


def _froc_style(kind: str, number: int) -> dict[str, Any]:
    """Return the line style of the `number`th method of a kind."""
    marker = MARKERS[number % len(MARKERS)]
    if kind == BASELINE:
        style = {"color": ("0.25", "0.55")[number % 2], "linewidth": 0.9, "linestyle": ":", "zorder": 2}
        return style | {"marker": marker, "markersize": 4.5, "markevery": (3 * number, 16)}
    if kind == COMPARISON:
        return {"color": COLOURS[3 + number % 2], "linewidth": 1.6, "linestyle": ("--", "-.")[number % 2]}
    return {"color": COLOURS[number % len(COLOURS)], "linewidth": 2.2, "marker": marker, "markevery": (8 * number, 24)}


def plot_heatmap_grid(rows: Sequence[tuple[Example, str]], *, path: FigurePath = None) -> Figure:
    """Plot heat maps and boxes: one row for each image and finding, one column for each model (Fig. 7).

    Predicted boxes are red, true boxes are green and dashed. The number in the corner is the raw score.

    Args:
        rows: examples with the finding to show; all examples have the same models.

    Raises:
        InputError: there is no row, or the models differ.
    """
    from matplotlib.patches import Patch

    if not rows:
        raise InputError("there is no image to plot; give at least one example and finding")
    models = rows[0][0].models
    if any(example.models != models for example, _ in rows):
        raise InputError("all rows of a grid must have the same models in the same order")
    figure = new_figure(2.6 * len(models) + 0.4, 2.6 * len(rows) + 0.75, dark=True)
    grid = figure.subplots(len(rows), len(models), squeeze=False)
    number = {"facecolor": DARK_HEX, "alpha": 0.75, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
    for (example, finding), row in zip(rows, grid, strict=True):
        image = resize(example.image, scale_to_width(example.image.shape, IMAGE_WIDTH))
        for model, axes in zip(models, row, strict=True):
            overlay = overlay_heatmap(image, example.heatmap(model, finding))
            show_image(axes, draw_boxes(overlay, example.pred_boxes(model, finding), example.gt_boxes(finding)))
            text = f"{example.raw_score(model, finding):.2f}"
            axes.text(0.03, 0.97, text, transform=axes.transAxes, color="white", fontsize=9, va="top", bbox=number)
        label = f"{finding.replace('_', ' ')}\n{example.image_index.removesuffix('.png')}"
        row[0].set_ylabel(label, color=LIGHT_HEX, fontsize=9)
    for model, axes in zip(models, grid[0], strict=True):
        axes.set_title(model, color=LIGHT_HEX, fontsize=11)
    kinds = [("predicted box", PREDICTED_COLOUR, "-"), ("true box", TRUE_COLOUR, (0, (4, 2)))]
    handles = [Patch(label=name, fill=False, ec=to_hex(colour), ls=line, lw=1.6) for name, colour, line in kinds]
    options = {"loc": "outside lower center", "ncols": 2, "frameon": False, "fontsize": 9}
    figure.legend(handles=handles, labelcolor=LIGHT_HEX, **options)
    return finish(figure, path)


def plot_text(text: str, *, path: FigurePath = None) -> Figure:
    """Plot a sentence in place of a figure that has no data."""
    figure = new_figure(7, 0.8)
    figure.text(0.02, 0.5, fill(text, 90), va="center", fontsize=10)
    return finish(figure, path)


def new_figure(width: float, height: float, *, dark: bool = False) -> Figure:
    """Create a figure of a size in inches that notebooks show as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=DARK_HEX if dark else "white")
    # IPython calls this; without pyplot it knows no other way to show a figure.
    figure._repr_png_ = lambda: figure_bytes(figure, format="png", dpi=100)
    return figure


def figure_bytes(figure: Figure, **options: Any) -> bytes:
    """Return a figure as an image file; the options are those of `Figure.savefig`."""
    data = io.BytesIO()
    figure.savefig(data, facecolor=figure.get_facecolor(), **options)
    return data.getvalue()


def finish(figure: Figure, path: FigurePath) -> Figure:
    """Save a figure if there is a path, and return it."""
    if path is not None:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=150, facecolor=figure.get_facecolor())
    return figure


def style_chart(axes: Axes) -> None:
    """Remove the upper and right border of a chart and add a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Show an image (H, W) or (H, W, 3) uint8 without ticks and frame."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    axes.set(xticks=[], yticks=[], facecolor=DARK_HEX)
    axes.spines[:].set_visible(False)
