"""The figures of the paper, and contact sheets of films: functions that return a matplotlib Figure.

No figure touches pyplot's global state, and each one shows itself where a notebook shows the value of a cell.
Images are shown on a dark ground.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..data.dataset import ChestXrayDataset
from ..data.transforms import augment
from ..errors import InputError
from ..evaluation.evaluate import Evaluation
from ..evaluation.results import format_estimate
from ..findings import FINDINGS, XYWH
from ..io import atomic_write
from ..recipes import Recipe
from ..workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


import io
from textwrap import fill
from typing import TYPE_CHECKING

from ..data.transforms import IMAGENET_MEAN, IMAGENET_STD
from ..evaluation.results import COMPARISON, CONTROL, MODEL
from ..metrics.classification import classification_table, mean_auc
from .examples import Example, pick_boxed
from .overlay import OPACITY, PREDICTED_COLOUR, TRUE_COLOUR, overlay_heatmap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_TITLE_WIDTH = 30  # characters above a film of a contact sheet


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure to `path`, whole or not at all; the suffix chooses the format (.png, .pdf, .svg)."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi, facecolor=figure.get_facecolor())


def plot_loss_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw the training and the validation loss of all models by epoch.

    Source: Fig. 5. Epochs are counted on through both phases; those of the PCM are drawn dashed, since theirs is
    another loss.

    Args:
        histories: model name -> records as `train` gives them, backbone first and PCM after it.

    Raises:
        InputError: there is no record.
    """
    if not any(histories.values()):
        raise InputError("there is no epoch to draw; train a model first")
    figure = blank_figure(9, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(panels, ("train_loss", "validation_loss"), ("Training", "Validation"), strict=True):
        for number, (name, history) in enumerate(histories.items()):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            losses = [record[key] for record in history]
            first_pcm = next((i for i, r in enumerate(history) if r["stage"] == "seam"), len(history))
            epochs = np.arange(len(history))
            for part, line in ((slice(0, first_pcm), "-"), (slice(first_pcm, None), "--")):
                label = name if epochs[part].size and (line == "-" or first_pcm == 0) else None
                axes.plot(epochs[part], losses[part], line, label=label, markersize=4, linewidth=1.4, **style)
        axes.set(title=f"{title} loss", xlabel="Epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        plain(axes)
    panels[0].set_ylabel("Loss")
    if any(record["stage"] == "seam" for history in histories.values() for record in history):
        panels[1].plot([], [], "k--", linewidth=1.4, label="PCM phase (SEAM losses)")
    panels[1].legend(frameon=False, fontsize=9)
    return figure


def plot_roc(
    labels: np.ndarray, probabilities: np.ndarray, *, title: str = "", scores: Mapping[str, Any] | None = None
) -> Figure:
    """Draw the ROC curve of each finding, with its AUC in the legend.

    Source: Fig. 6. A line is known by its dashes and marks, with or without colour.

    Args:
        labels: (N, 14) of 0 and 1.
        probabilities: (N, 14).
        title: such as the model's name; the mean AUC is added.
        scores: "classification" of results.json for this model: AUCs are shown with their 95 % intervals.

    Raises:
        InputError: as `classification_table`.
    """
    from sklearn.metrics import roc_curve

    table = classification_table(labels, probabilities)
    mean = {"value": mean_auc(table), "low": None, "high": None} if scores is None else scores["mean"]["auc"]
    figure = blank_figure(8.5, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    for number, finding in enumerate(FINDINGS):
        auc = table.loc[finding, "auc"]
        name = finding.replace("_", " ")
        hue = number % len(COLOURS)
        style = {"color": COLOURS[hue], "linestyle": "-" if number < len(COLOURS) else "--"}
        # evenly along the line, each one's a little further on than the last one's
        style |= {"marker": MARKERS[hue], "markersize": 5, "markevery": (0.03 + 0.02 * hue, 0.17)}
        if np.isnan(auc):
            axes.plot([], [], label=f"{name}: not defined", **style)
            continue
        false_rate, true_rate, _ = roc_curve(np.asarray(labels)[:, number], np.asarray(probabilities)[:, number])
        value = {"value": auc, "low": None, "high": None} if scores is None else scores["findings"][finding]["auc"]
        axes.plot(false_rate, true_rate, linewidth=1.4, label=f"{name}: {format_estimate(value)}", **style)
    defined = int(table["auc"].notna().sum())
    text = f"mean AUC {format_estimate(mean)} over {defined} findings" if defined else "AUC not defined"
    axes.set(
        xlabel="1 - specificity",
        ylabel="Sensitivity",
        title=f"{title}: {text}" if title else text.capitalize().replace("auc", "AUC"),
        aspect="equal",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    legend = None if scores is None else "AUC (95 % interval)"
    place = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    axes.legend(frameon=False, fontsize=9, title=legend, handlelength=3.5, **place)
    plain(axes)
    return figure


def plot_froc(results: Mapping[str, Any], *, score: str = "iou>0.1") -> Figure:
    """Draw accuracy against false positives per image and finding, macro, a line a method.

    Models are solid and thick, with the 95 % interval at half a false positive; other maps of the same network dashed;
    controls grey with marks. The legend gives the accuracy there, best first.

    Args:
        results: of `evaluation.evaluate`.
        score: "iou>0.1", "iou>0.3" or "iobb>0.1".

    Raises:
        InputError: the results hold no such curve.
    """
    figure = blank_figure(9.2, 4.8)
    axes = figure.subplots()
    place = {MODEL: 0, COMPARISON: 0, CONTROL: 0}
    lines = []
    for method, scores in results["localization"].items():
        if score not in scores["froc"]:
            raise InputError(f"there is no FROC curve for {score!r}; choose one of {', '.join(scores['froc'])}")
        kind, curve = scores["kind"], scores["froc"][score]["curve"]
        at = scores["froc"][score]["at"]["0.5"]["macro"]
        number = place[kind]
        place[kind] += 1
        if kind == CONTROL:
            style = {"color": ("0.25", "0.55")[number % 2], "marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}
            style |= {"linewidth": 0.9, "markevery": (3 * number, 16), "linestyle": ":", "zorder": 2}
        elif kind == COMPARISON:
            style = {"color": COLOURS[3 + number % 2], "linewidth": 1.6, "linestyle": ("--", "-.")[number % 2]}
        else:
            style = {
                "color": COLOURS[number],
                "linewidth": 2.2,
                "marker": MARKERS[number],
                "markevery": (8 * number, 24),
            }
        drawn = slice(1, None)  # a logarithmic axis has no place for the first point, 0
        x, y = (curve[key][drawn] for key in ("false_positives_per_image", "accuracy"))
        (line,) = axes.plot(x, y, label=f"{method}: {format_estimate(at) or 'not defined'}", **style)
        lines.append((-1 if at["value"] is None else at["value"], line))
        if kind == MODEL and at["low"] is not None:
            nudged = 0.5 * 1.05 ** (number - 1)  # side by side
            axes.plot([nudged] * 2, [at["low"], at["high"]], color=style["color"], linewidth=1.2, solid_capstyle="butt")
    for x in (0.25, 0.5, 1):
        axes.axvline(x, color="0.8", linewidth=1, zorder=0)
    axes.set(xscale="log", xlim=(0.01, 10), ylim=(-0.02, 1.02), xlabel="False positives per image and finding")
    axes.set(ylabel=f"Accuracy, {score.replace('iou', 'IoU').replace('iobb', 'IoBB').replace('>', ' > ')}, macro")
    axes.set(xticks=[0.01, 0.1, 0.25, 0.5, 1, 10], xticklabels=["0.01", "0.1", "0.25", "0.5", "1", "10"])
    axes.minorticks_off()
    plain(axes)
    ordered = [line for _, line in sorted(lines, key=lambda pair: -pair[0])]
    title = "accuracy at 0.5 (95 % interval)"
    axes.legend(handles=ordered, frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5), title=title)
    return figure


def plot_heatmap_grid(rows: Sequence[tuple[Example, str]], *, opacity: float = OPACITY) -> Figure:
    """Draw heat maps and boxes, a row for each film and finding, a column for each model.

    Source: Fig. 7; predicted boxes, at the Q of each model's recipe, red; true ones green and dashed; each model's
    probability in the corner.

    Args:
        rows: a case and the finding to show of it; all cases of the same models.
        opacity: of the heat map.

    Raises:
        InputError: there is no row, or the models differ.
    """
    if not rows:
        raise InputError("there is no film to draw; give at least one case and finding")
    models = rows[0][0].models
    if any(example.models != models for example, _ in rows):
        raise InputError("all rows of a grid must show the same models in the same order")
    figure = blank_figure(2.6 * len(models) + 0.4, 2.6 * len(rows) + 0.75, dark=True)
    grid = figure.subplots(len(rows), len(models), squeeze=False)
    for (example, finding), line in zip(rows, grid, strict=True):
        for model, axes in zip(models, line, strict=True):
            show(axes, overlay_heatmap(example.film, example.heatmap(model, finding), opacity=opacity))
            add_boxes(axes, example.predicted(model, finding), example.film.shape, true=False)
            add_boxes(axes, example.true(finding), example.film.shape, true=True)
            corner(axes, f"{example.probability(model, finding):.2f}")
        line[0].set_ylabel(
            f"{finding.replace('_', ' ')}\n{example.image_index.removesuffix('.png')}", color=LIGHT, fontsize=9
        )
    for model, axes in zip(models, grid[0], strict=True):
        axes.set_title(model, color=LIGHT, fontsize=11)
    box_legend(figure)
    return figure


def plot_films(
    films: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    boxes: Sequence[np.ndarray] | None = None,
    columns: int = 4,
) -> Figure:
    """Draw a contact sheet of films.

    Args:
        films: (H, W) uint8 each.
        titles: one for each film; may have several lines, long ones are broken.
        boxes: true boxes of each film, (M, 4) x, y, w, h as fractions of the film.
        columns: films side by side.

    Raises:
        InputError: there is no film, or the counts differ.
    """
    if not len(films) or len(films) != len(titles) or (boxes is not None and len(boxes) != len(films)):
        raise InputError("a contact sheet needs at least one film, and a title (and boxes, if any) for each")
    columns = min(columns, len(films))
    lines = -(-len(films) // columns)
    figure = blank_figure(2.5 * columns, 2.85 * lines, dark=True)
    for place, axes in enumerate(figure.subplots(lines, columns, squeeze=False).flat):
        if place >= len(films):
            axes.set_axis_off()
            continue
        show(axes, films[place])
        title = "\n".join(fill(line, _TITLE_WIDTH) for line in titles[place].splitlines())
        axes.set_title(title, color=LIGHT, fontsize=9)
        if boxes is not None:
            add_boxes(axes, boxes[place], films[place].shape, true=True)
    return figure


def plot_augmented(film: np.ndarray, inputs: Any) -> Figure:
    """Draw a film and what `augment` made of it, as a network sees it.

    Args:
        film: (H, W) uint8.
        inputs: (K, 3, S, S) float, normalised, a tensor on the CPU or an array.

    Raises:
        InputError: `inputs` has another shape.
    """
    inputs = np.asarray(inputs, dtype=np.float32)
    if inputs.ndim != 4 or inputs.shape[1] != 3:
        raise InputError(f"augmented films must have the shape (K, 3, S, S), not {inputs.shape}")
    seen = np.clip(inputs[:, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0], 0, 1)
    films = [film, *np.rint(seen * 255).astype(np.uint8)]
    return plot_films(films, ["film", *(f"variation {i + 1}" for i in range(len(seen)))], columns=5)


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which is lost on white."""


DARK, LIGHT = "#111111", "#f0f0f0"


MARKERS = "os^Dv<>"


def blank_figure(width: float, height: float, *, dark: bool = False) -> Figure:
    """Make a figure of so many inches that any notebook can show."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=DARK if dark else "white")

    def png() -> bytes:
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=100, facecolor=figure.get_facecolor())
        return data.getvalue()

    # Only pyplot teaches a notebook to show figures, and we keep clear of pyplot; IPython asks for this.
    figure._repr_png_ = png
    return figure


def plain(axes: Axes) -> None:
    """Take away what a chart does not need."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def show(axes: Axes, picture: np.ndarray) -> None:
    """Show a picture without ticks or frame."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    axes.set(xticks=[], yticks=[], facecolor=DARK)
    axes.spines[:].set_visible(False)


def line_style(*, true: bool) -> dict[str, Any]:
    """Colour, dashes and the dark edge of a kind of box, as `overlays.draw_boxes` has them."""
    from matplotlib.patheffects import Normal, Stroke

    return {
        "edgecolor": np.array(TRUE_COLOUR if true else PREDICTED_COLOUR) / 255,
        "linestyle": (0, (4, 2)) if true else "-",
        "linewidth": 1.6,
        "path_effects": [Stroke(linewidth=3, foreground="black"), Normal()],
        "facecolor": "none",
    }


def add_boxes(axes: Axes, boxes: np.ndarray, shape: tuple[int, ...], *, true: bool) -> None:
    """Draw boxes in [0, 1] on a picture of `shape`."""
    from matplotlib.patches import Rectangle

    down, across = shape[:2]
    for x, y, w, h in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        # A picture's first pixel reaches from -0.5 to 0.5.
        corner = (x * across - 0.5, y * down - 0.5)
        axes.add_patch(Rectangle(corner, w * across, h * down, **line_style(true=true)))


def corner(axes: Axes, text: str) -> None:
    """Write a few characters into the upper left corner of a picture."""
    ground = {"facecolor": DARK, "alpha": 0.75, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
    axes.text(0.03, 0.97, text, transform=axes.transAxes, color="white", fontsize=9, va="top", bbox=ground)


def box_legend(figure: Figure) -> None:
    """Tell below the pictures which box is which."""
    from matplotlib.patches import Rectangle

    handles = [Rectangle((0, 0), 1, 1, **line_style(true=true)) for true in (False, True)]
    figure.legend(
        handles,
        ["predicted box", "true box"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        labelcolor=LIGHT,
        fontsize=9,
    )


def plot_samples(workspace: Workspace) -> Figure:
    """Draw one film for each boxed finding that occurs, with the true boxes of that finding.

    Raises:
        InputError: no image is prepared, or none carries a box.
    """
    cache, tables = workspace.cache(), workspace.tables()
    chosen = pick_boxed(tables.boxes, cache, per_finding=1)
    films = [np.array(cache.images[row]) for row in cache.indices(chosen)]
    titles = [f"{finding.replace('_', ' ')}\n{name}" for name, finding in chosen.items()]
    key = pd.MultiIndex.from_frame(tables.boxes[["image_index", "finding"]])
    boxes = [tables.boxes.loc[key.isin([pair]), XYWH].to_numpy() for pair in chosen.items()]
    return plot_films(films, titles, boxes=boxes)


def plot_augmentations(films: ChestXrayDataset, recipe: Recipe, *, place: int = 0, variations: int = 9) -> Figure:
    """Draw the film at `place` of `films` and some of the variations of it that training would see (Sect. 5.2)."""
    pixels, _ = films.__getitems__([place])
    generator = torch.Generator().manual_seed(recipe.seed)
    inputs = augment(
        pixels.expand(variations, -1, -1, -1), recipe.augmentation, size=recipe.image_size, generator=generator
    )
    return plot_augmented(pixels[0, 0].numpy(), inputs)


def roc_figure(evaluation: Evaluation) -> Figure:
    """Fig. 6: the ROC curves of the most refined model, with intervals of their areas."""
    model = evaluation.final_model
    scores = evaluation.results["classification"][model]
    return plot_roc(evaluation.labels, evaluation.probabilities[model], title=model, scores=scores)
