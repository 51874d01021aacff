"""Plot the figures of the paper and of the notebooks as matplotlib figures.

Each function returns a `Figure`, which a notebook shows as the value of a cell, and saves it if `path` is given. No
function uses pyplot or its global state. Images have a dark background, charts a white one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.dataset import ChestXrayDataset
from ..data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AffineParams,
    affine_warp,
    eval_transform,
    pad_value,
    rotation_params,
    sample_augmentation,
    train_transform,
    valid_mask,
)
from ..errors import InputError
from ..evaluation.evaluate import Evaluation
from ..evaluation.results import BASELINE, COMPARISON, MODEL, format_estimate
from ..findings import FINDINGS, XYWH
from ..inference.heatmaps import cam_to_heatmap
from ..io import atomic_write
from ..models.checkpoint import load_checkpoint
from ..recipes import Recipe
from ..training.seam import SeamObjective
from ..workspace import Workspace
from .examples import Example, pick_boxed
from .overlay import overlay_heatmap
from .style import DARK, LIGHT, MARKERS, OPACITY, PALETTE, PREDICTED_COLOUR, TRUE_COLOUR, to_hex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    FigurePath = str | os.PathLike[str] | None


COLOURS = tuple(to_hex(colour) for colour in PALETTE)
"""`style.PALETTE` for matplotlib."""


DARK_HEX, LIGHT_HEX = to_hex(DARK), to_hex(LIGHT)


TITLE_WIDTH = 30
"""Characters in a line of the title above an image."""


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


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Save a figure; the suffix of `path` chooses the format (.png, .pdf, .svg)."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi, facecolor=figure.get_facecolor())


def plot_samples(run: Workspace, *, path: FigurePath = None) -> Figure:
    """Plot one image with its true boxes for each boxed finding.

    Raises:
        InputError: no image is prepared, or none has a box.
    """
    cache, boxes = run.cache(), run.metadata().boxes
    picked = pick_boxed(boxes, cache, per_finding=1)
    images = [np.array(cache.images[row]) for row in cache.indices(picked)]
    titles = [f"{finding.replace('_', ' ')}\n{name}" for name, finding in picked.items()]
    by_image = [
        boxes.loc[(boxes["image_index"] == name) & (boxes["finding"] == finding), XYWH].to_numpy()
        for name, finding in picked.items()
    ]
    return plot_images(images, titles, boxes=by_image, path=path)


def plot_augmentations(
    dataset: ChestXrayDataset, recipe: Recipe, *, index: int = 0, count: int = 9, path: FigurePath = None
) -> Figure:
    """Plot one image and random augmentations of it, as the network sees them in training (Sect. 5.2).

    Args:
        dataset: training images.
        recipe: its augmentation, image size and seed.
        index: of the image in `dataset`.
        count: number of augmentations.
        path: where to save the figure.
    """
    pixels, _ = dataset.load([index])
    generator = torch.Generator().manual_seed(recipe.seed)
    batch = pixels.expand(count, -1, -1, -1)
    params = sample_augmentation(len(batch), recipe.augmentation, generator=generator)
    inputs = train_transform(batch, params, size=recipe.image_size)
    titles = ["image", *(f"augmentation {number + 1}" for number in range(count))]
    return plot_images([pixels[0, 0].numpy(), *to_grey(inputs)], titles, columns=5, path=path)


@torch.no_grad()
def plot_siamese_step(run: Workspace, *, angle: float = 25.0, path: FigurePath = None) -> Figure:
    """Plot one Siamese step (Fig. 4) for a training image, with the MultiRes model before its PCM is trained.

    The title has the two losses. ECR compares the raw map of each branch with the refined map of the other; MSML
    compares both refined maps with the labels.

    Args:
        run: with prepared images and a trained MultiRes model.
        angle: of the rotation in degrees, counter-clockwise.
        path: where to save the figure.
    """
    recipe = run.recipe("multires_pcm")
    stage = recipe.seam_stage
    model, _ = load_checkpoint(run.checkpoint("multires"))
    objective = SeamObjective(model, stage).eval()
    train_set, _ = run.train_val_datasets(recipe)
    pixels, labels = train_set.load([int(train_set.labels.any(axis=1).argmax())])  # the first image with a finding
    images = eval_transform(pixels, size=recipe.image_size)
    rotation = rotation_params(torch.tensor([angle]))
    losses = objective(images, labels, rotation=rotation)
    probabilities = model(images, maps=False).logits.sigmoid()
    finding = int((probabilities * labels).argmax())  # the most probable one that the image has
    figure = plot_images(_siamese_maps(objective, images, rotation, finding=finding), SIAMESE_TITLES, columns=3)
    figure.suptitle(
        f"{FINDINGS[finding].replace('_', ' ')}:  {stage.msml_weight} x MSML {losses['msml']:.3f}  +  "
        f"{stage.ecr_weight} x ECR {losses['ecr']:.3f}  =  loss {losses['loss']:.3f}",
        color=LIGHT_HEX,
        fontsize=11,
    )
    return finish(figure, path)


def _siamese_maps(
    objective: SeamObjective, images: torch.Tensor, rotation: AffineParams, *, finding: int
) -> list[np.ndarray]:
    """Return the six pictures of a Siamese step, uint8, in the order of `SIAMESE_TITLES`."""
    black = pad_value(images)
    rotated = affine_warp(images - black, rotation) + black
    cam, refined = objective.forward_branch(images)
    valid = valid_mask(rotation, height=cam.shape[-2], width=cam.shape[-1], device=images.device)
    maps = [affine_warp(cam.relu(), rotation), affine_warp(refined, rotation)]
    maps += objective.forward_branch(rotated, valid=valid)
    (grey,), (grey_rotated,) = to_grey(images), to_grey(rotated)
    heatmaps = [cam_to_heatmap(values[:, [finding]], grey.shape)[0, 0].numpy() for values in maps]
    raw_o, refined_o, raw_t, refined_t = (overlay_heatmap(grey_rotated, heatmap) for heatmap in heatmaps)
    return [grey, raw_o, refined_o, grey_rotated, raw_t, refined_t]


def to_grey(inputs: torch.Tensor) -> np.ndarray:
    """Undo the ImageNet normalisation of a batch (B, 3, H, W): (B, H, W) uint8 grey."""
    grey = inputs[:, 0].float().cpu().numpy() * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    return np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)


def plot_images(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    boxes: Sequence[np.ndarray] | None = None,
    columns: int = 4,
    path: FigurePath = None,
) -> Figure:
    """Plot images in a grid.

    Args:
        images: (H, W) uint8 grey or (H, W, 3) uint8 RGB each.
        titles: one for each image, of one or more lines; long lines are wrapped.
        boxes: true boxes of each image, (M, 4) x, y, w, h as fractions of the image.
        columns: images side by side.
        path: where to save the figure.

    Raises:
        InputError: there is no image, or the numbers of images, titles and boxes differ.
    """
    if not len(images) or len(images) != len(titles) or (boxes is not None and len(boxes) != len(images)):
        raise InputError("a grid of images needs at least one image, and a title (and boxes, if any) for each")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(2.5 * columns, 2.85 * rows, dark=True)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if index >= len(images):
            axes.set_axis_off()
            continue
        show_image(axes, images[index])
        title = "\n".join(fill(line, TITLE_WIDTH) for line in titles[index].splitlines())
        axes.set_title(title, color=LIGHT_HEX, fontsize=9)
        if boxes is not None:
            add_boxes(axes, boxes[index], images[index].shape, true=True)
    return finish(figure, path)


def plot_loss_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], *, path: FigurePath = None) -> Figure:
    """Plot training and validation loss of all models by epoch (Fig. 5).

    Epochs are counted through both stages. Those of the SEAM stage are dashed, because they have another loss.

    Args:
        histories: model name -> records of the epochs, classifier stage first (`evaluation.tables.load_histories`).
        path: where to save the figure.

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
        panels[1].plot([], [], "k--", linewidth=1.4, label="SEAM stage (ECR + MSML loss)")
    panels[1].legend(frameon=False, fontsize=9)
    return finish(figure, path)


def plot_roc(evaluation: Evaluation, *, model: str | None = None, path: FigurePath = None) -> Figure:
    """Plot the ROC curve of each finding (Fig. 6); the legend has the AUC and its 95 % interval.

    Lines differ in colour, dashes and markers.

    Args:
        evaluation: of `evaluation.evaluate`.
        model: name of the model; by default the last one (`Evaluation.final_model`).
        path: where to save the figure.
    """
    from sklearn.metrics import roc_curve

    model = model or evaluation.final_model
    scores, probabilities = evaluation.results["classification"][model], evaluation.probabilities[model]
    figure = new_figure(8.5, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    for number, finding in enumerate(FINDINGS):
        auc, name, hue = scores["findings"][finding]["auc"], finding.replace("_", " "), number % len(COLOURS)
        style = {"color": COLOURS[hue], "linestyle": "-" if number < len(COLOURS) else "--"}
        style |= {"marker": MARKERS[hue], "markersize": 5, "markevery": (0.03 + 0.02 * hue, 0.17)}
        if auc["value"] is None:
            axes.plot([], [], label=f"{name}: not defined", **style)
            continue
        false_rate, true_rate, _ = roc_curve(evaluation.labels[:, number], probabilities[:, number])
        axes.plot(false_rate, true_rate, linewidth=1.4, label=f"{name}: {format_estimate(auc)}", **style)
    defined = sum(scores["findings"][finding]["auc"]["value"] is not None for finding in FINDINGS)
    mean = f"mean AUC {format_estimate(scores['mean']['auc'])} over {defined} findings" if defined else "no AUC"
    axes.set(xlabel="1 - specificity", ylabel="Sensitivity", title=f"{model}: {mean}")
    axes.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(title="AUC (95 % interval)", handlelength=3.5, **LEGEND_RIGHT)
    style_chart(axes)
    return finish(figure, path)


def plot_froc(results: Mapping[str, Any], *, score: str = "iou>0.1", path: FigurePath = None) -> Figure:
    """Plot the FROC curves: macro accuracy against false positives per image and finding, one line for each method.

    Models have thick lines and the 95 % interval at 0.5 false positives; other maps of the same network are dashed;
    baselines are grey. The legend has the accuracy at 0.5, best first.

    Args:
        results: of `evaluation.evaluate` (results.json).
        score: "iou>0.1", "iou>0.3" or "iobb>0.1".
        path: where to save the figure.

    Raises:
        InputError: the results have no such curve.
    """
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


def plot_heatmap_grid(
    rows: Sequence[tuple[Example, str]], *, opacity: float = OPACITY, path: FigurePath = None
) -> Figure:
    """Plot heat maps and boxes: one row for each image and finding, one column for each model (Fig. 7).

    Predicted boxes are red, true boxes are green and dashed. The number in the corner is the probability.

    Args:
        rows: examples with the finding to show; all examples have the same models.
        opacity: of the heat maps.
        path: where to save the figure.

    Raises:
        InputError: there is no row, or the models differ.
    """
    if not rows:
        raise InputError("there is no image to plot; give at least one example and finding")
    models = rows[0][0].models
    if any(example.models != models for example, _ in rows):
        raise InputError("all rows of a grid must have the same models in the same order")
    figure = new_figure(2.6 * len(models) + 0.4, 2.6 * len(rows) + 0.75, dark=True)
    grid = figure.subplots(len(rows), len(models), squeeze=False)
    for (example, finding), row in zip(rows, grid, strict=True):
        for model, axes in zip(models, row, strict=True):
            show_image(axes, overlay_heatmap(example.image, example.heatmap(model, finding), opacity=opacity))
            add_boxes(axes, example.pred_boxes(model, finding), example.image.shape, true=False)
            add_boxes(axes, example.gt_boxes(finding), example.image.shape, true=True)
            add_corner_text(axes, f"{example.probability(model, finding):.2f}")
        label = f"{finding.replace('_', ' ')}\n{example.image_index.removesuffix('.png')}"
        row[0].set_ylabel(label, color=LIGHT_HEX, fontsize=9)
    for model, axes in zip(models, grid[0], strict=True):
        axes.set_title(model, color=LIGHT_HEX, fontsize=11)
    add_box_legend(figure)
    return finish(figure, path)


def new_figure(width: float, height: float, *, dark: bool = False) -> Figure:
    """Create a figure of a size in inches that notebooks show as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=DARK_HEX if dark else "white")

    def png() -> bytes:
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=100, facecolor=figure.get_facecolor())
        return data.getvalue()

    figure._repr_png_ = png  # IPython calls this; without pyplot it knows no other way to show a figure
    return figure


def finish(figure: Figure, path: FigurePath) -> Figure:
    """Save a figure if there is a path, and return it."""
    if path is not None:
        save(figure, path)
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


def box_style(*, true: bool) -> dict[str, Any]:
    """Return matplotlib options of true or predicted boxes, which look like those of `overlay.draw_boxes`."""
    from matplotlib.patheffects import Normal, Stroke

    return {
        "edgecolor": to_hex(TRUE_COLOUR if true else PREDICTED_COLOUR),
        "linestyle": (0, (4, 2)) if true else "-",
        "linewidth": 1.6,
        "path_effects": [Stroke(linewidth=3, foreground="black"), Normal()],
        "facecolor": "none",
    }


def add_boxes(axes: Axes, boxes: np.ndarray, shape: tuple[int, ...], *, true: bool) -> None:
    """Add boxes (K, 4) in [0, 1] to the axes of an image of `shape`."""
    from matplotlib.patches import Rectangle

    height, width = shape[:2]
    for x, y, w, h in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        corner = (x * width - 0.5, y * height - 0.5)  # the first pixel covers -0.5 to 0.5
        axes.add_patch(Rectangle(corner, w * width, h * height, **box_style(true=true)))


def add_corner_text(axes: Axes, text: str) -> None:
    """Write a few characters into the upper left corner of an image."""
    box = {"facecolor": DARK_HEX, "alpha": 0.75, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
    axes.text(0.03, 0.97, text, transform=axes.transAxes, color="white", fontsize=9, va="top", bbox=box)


def add_box_legend(figure: Figure) -> None:
    """Add a legend of true and predicted boxes below the images."""
    from matplotlib.patches import Rectangle

    handles = [Rectangle((0, 0), 1, 1, **box_style(true=true)) for true in (False, True)]
    options = {"loc": "outside lower center", "ncols": 2, "frameon": False, "fontsize": 9}
    figure.legend(handles, ["predicted box", "true box"], labelcolor=LIGHT_HEX, **options)
