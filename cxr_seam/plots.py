"""The figures of the paper, and contact sheets of films: functions that return a matplotlib Figure.

No figure touches pyplot's global state, and each one shows itself where a notebook shows the value of a cell.
Colours are those of Okabe and Ito, which people with any colour vision tell apart; no two lines differ by
colour alone. Films are shown on a dark ground.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from .augment import IMAGENET_MEAN, IMAGENET_STD
from .boxes import PAPER_THRESHOLD
from .cases import Case
from .classification import classification_table, mean_auc
from .errors import InputError
from .files import whole_file
from .findings import FINDINGS
from .localization import ORIGINAL_SIZE
from .overlays import OPACITY, PREDICTED_COLOUR, TRUE_COLOUR, overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which is lost on white."""
DARK, LIGHT = "#111111", "#f0f0f0"
_MARKERS = "os^Dv<>"
_TITLE_WIDTH = 30  # characters above a film of a contact sheet


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure to `path`, whole or not at all; the suffix chooses the format (.png, .pdf, .svg)."""
    with whole_file(path) as temporary:
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
    figure = _figure(9, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(panels, ("train_loss", "validation_loss"), ("Training", "Validation"), strict=True):
        for number, (name, history) in enumerate(histories.items()):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
            losses = [record[key] for record in history]
            first_pcm = next((i for i, r in enumerate(history) if r["phase"] == "pcm"), len(history))
            epochs = np.arange(len(history))
            for part, line in ((slice(0, first_pcm), "-"), (slice(first_pcm, None), "--")):
                label = name if epochs[part].size and (line == "-" or first_pcm == 0) else None
                axes.plot(epochs[part], losses[part], line, label=label, markersize=4, linewidth=1.4, **style)
        axes.set(title=f"{title} loss", xlabel="Epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _plain(axes)
    panels[0].set_ylabel("Loss")
    if any(record["phase"] == "pcm" for history in histories.values() for record in history):
        panels[1].plot([], [], "k--", linewidth=1.4, label="PCM phase (SEAM losses)")
    panels[1].legend(frameon=False, fontsize=9)
    return figure


def plot_roc(labels: np.ndarray, probabilities: np.ndarray, *, title: str = "") -> Figure:
    """Draw the ROC curve of each finding, with its AUC in the legend.

    Source: Fig. 6.

    Args:
        labels: (N, 14) of 0 and 1.
        probabilities: (N, 14).
        title: such as the model's name; the mean AUC is added.

    Raises:
        InputError: as `classification_table`.
    """
    from sklearn.metrics import roc_curve

    table = classification_table(labels, probabilities)
    figure = _figure(7.4, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    for number, finding in enumerate(FINDINGS):
        auc = table.loc[finding, "auc"]
        name = finding.replace("_", " ")
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": "-" if number < len(COLOURS) else "--"}
        if np.isnan(auc):
            axes.plot([], [], label=f"{name}: not defined", **style)
            continue
        false_rate, true_rate, _ = roc_curve(np.asarray(labels)[:, number], np.asarray(probabilities)[:, number])
        axes.plot(false_rate, true_rate, linewidth=1.4, label=f"{name}: {auc:.3f}", **style)
    defined = int(table["auc"].notna().sum())
    said = f"mean AUC {mean_auc(table):.3f} over {defined} findings" if defined else "AUC not defined"
    axes.set(
        xlabel="1 - specificity",
        ylabel="Sensitivity",
        title=f"{title}: {said}" if title else said.capitalize().replace("auc", "AUC"),
        aspect="equal",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5))
    _plain(axes)
    return figure


def plot_heatmap_grid(
    rows: Sequence[tuple[Case, str]], *, threshold: float = PAPER_THRESHOLD, opacity: float = OPACITY
) -> Figure:
    """Draw heat maps and boxes, a row for each film and finding, a column for each model.

    Source: Fig. 7; predicted boxes red, true ones green and dashed, each model's probability in the corner.

    Args:
        rows: a case and the finding to show of it; all cases of the same models.
        threshold: Q of the boxes.
        opacity: of the heat map.

    Raises:
        InputError: there is no row, or the models differ.
    """
    if not rows:
        raise InputError("there is no film to draw; give at least one case and finding")
    models = rows[0][0].models
    if any(case.models != models for case, _ in rows):
        raise InputError("all rows of a grid must show the same models in the same order")
    figure = _figure(2.6 * len(models) + 0.4, 2.6 * len(rows) + 0.75, dark=True)
    grid = figure.subplots(len(rows), len(models), squeeze=False)
    for (case, finding), line in zip(rows, grid, strict=True):
        for model, axes in zip(models, line, strict=True):
            _show(axes, overlay(case.film, case.heatmap(model, finding), opacity=opacity))
            _boxes(axes, case.predicted(model, finding, threshold=threshold), case.film.shape, true=False)
            _boxes(axes, case.true(finding), case.film.shape, true=True)
            _corner(axes, f"{case.probability(model, finding):.2f}")
        line[0].set_ylabel(
            f"{finding.replace('_', ' ')}\n{case.image_index.removesuffix('.png')}", color=LIGHT, fontsize=9
        )
    for model, axes in zip(models, grid[0], strict=True):
        axes.set_title(model, color=LIGHT, fontsize=11)
    _box_legend(figure)
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
        boxes: true boxes of each film, (M, 4) x, y, w, h in pixels of the original.
        columns: films side by side.

    Raises:
        InputError: there is no film, or the counts differ.
    """
    if not len(films) or len(films) != len(titles) or (boxes is not None and len(boxes) != len(films)):
        raise InputError("a contact sheet needs at least one film, and a title (and boxes, if any) for each")
    columns = min(columns, len(films))
    lines = -(-len(films) // columns)
    figure = _figure(2.5 * columns, 2.85 * lines, dark=True)
    for place, axes in enumerate(figure.subplots(lines, columns, squeeze=False).flat):
        if place >= len(films):
            axes.set_axis_off()
            continue
        _show(axes, films[place])
        title = "\n".join(fill(line, _TITLE_WIDTH) for line in titles[place].splitlines())
        axes.set_title(title, color=LIGHT, fontsize=9)
        if boxes is not None:
            _boxes(axes, boxes[place], films[place].shape, true=True)
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


def _figure(width: float, height: float, *, dark: bool = False) -> Figure:
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


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def _show(axes: Axes, picture: np.ndarray) -> None:
    """Show a picture without ticks or frame."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    axes.set(xticks=[], yticks=[], facecolor=DARK)
    axes.spines[:].set_visible(False)


def _line_style(*, true: bool) -> dict[str, Any]:
    """Colour, dashes and the dark edge of a kind of box, as `overlays.draw_boxes` has them."""
    from matplotlib.patheffects import Normal, Stroke

    return {
        "edgecolor": np.array(TRUE_COLOUR if true else PREDICTED_COLOUR) / 255,
        "linestyle": (0, (4, 2)) if true else "-",
        "linewidth": 1.6,
        "path_effects": [Stroke(linewidth=3, foreground="black"), Normal()],
        "facecolor": "none",
    }


def _boxes(axes: Axes, boxes: np.ndarray, shape: tuple[int, ...], *, true: bool) -> None:
    """Draw boxes of the original on a picture of `shape`."""
    from matplotlib.patches import Rectangle

    down, across = shape[0] / ORIGINAL_SIZE, shape[1] / ORIGINAL_SIZE
    for x, y, w, h in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        # A picture's first pixel reaches from -0.5 to 0.5.
        corner = (x * across - 0.5, y * down - 0.5)
        axes.add_patch(Rectangle(corner, w * across, h * down, **_line_style(true=true)))


def _corner(axes: Axes, text: str) -> None:
    """Write a few characters into the upper left corner of a picture."""
    ground = {"facecolor": DARK, "alpha": 0.75, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
    axes.text(0.03, 0.97, text, transform=axes.transAxes, color="white", fontsize=9, va="top", bbox=ground)


def _box_legend(figure: Figure) -> None:
    from matplotlib.patches import Rectangle

    handles = [Rectangle((0, 0), 1, 1, **_line_style(true=true)) for true in (False, True)]
    figure.legend(
        handles,
        ["predicted box", "true box"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        labelcolor=LIGHT,
        fontsize=9,
    )
