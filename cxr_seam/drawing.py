"""How every figure is drawn: its ground and colours, pictures without frames, boxes.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; no two lines
differ by colour alone, but by dashes or marks too.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from .matching import ORIGINAL_SIZE
from .overlays import PREDICTED_COLOUR, TRUE_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    """Draw boxes of the original on a picture of `shape`."""
    from matplotlib.patches import Rectangle

    down, across = shape[0] / ORIGINAL_SIZE, shape[1] / ORIGINAL_SIZE
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
