"""A small viewer for notebooks: one picture that follows two menus and two sliders.

One image widget is set anew with PNG bytes at every change; nothing is printed or appended, so that it behaves
the same on Colab (ipywidgets 7.7) and in Jupyter (8.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from .boxes import PAPER_THRESHOLD
from .cases import Case
from .errors import InputError
from .findings import FINDINGS
from .overlays import OPACITY, PREDICTED_COLOUR, TRUE_COLOUR, draw_boxes, overlay

PANEL_WIDTH = 320
_GROUND, _INK, _FAINT = (17, 17, 17), (240, 240, 240), (170, 170, 170)
_HEAD, _FOOT, _MARGIN = 52, 30, 8  # pixels: title above a panel, legend below, space between panels


class Panel(NamedTuple):
    """One model's view of a film.

    `heatmap` is (H, W) float in [0, 1] of the film's size; `boxes` (K, 4) x, y, w, h in pixels of the original.
    """

    title: str
    note: str
    heatmap: np.ndarray
    boxes: np.ndarray


def render_png(
    film: np.ndarray,
    panels: Sequence[Panel],
    *,
    true_boxes: np.ndarray,
    opacity: float = OPACITY,
    width: int = PANEL_WIDTH,
    colour_map: str = "inferno",
) -> bytes:
    """Draw panels side by side: film, heat map, predicted boxes in red, true ones in green and dashed.

    A pure function without matplotlib, quick enough to follow a slider.

    Args:
        film: (H, W) uint8 grey.
        panels: at least one.
        true_boxes: (M, 4) x, y, w, h in pixels of the 1024 x 1024 original.
        opacity: of the heat map, 0 to 1.
        width: of a panel in pixels; its height keeps the film's proportions.
        colour_map: see `overlay`.

    Returns:
        The bytes of an RGB PNG.

    Raises:
        InputError: no panel, or as `overlay`.
    """
    import cv2

    if not panels:
        raise InputError("there is no panel to draw; give at least one model")
    height = max(1, round(width * film.shape[0] / film.shape[1]))
    way = cv2.INTER_AREA if width < film.shape[1] else cv2.INTER_LINEAR
    film = cv2.resize(film, (width, height), interpolation=way)
    step = width + _MARGIN
    canvas = np.full((_HEAD + height + _FOOT, step * len(panels) + _MARGIN, 3), _GROUND, dtype=np.uint8)
    for place, panel in enumerate(panels):
        heatmap = cv2.resize(panel.heatmap, (width, height), interpolation=way)
        picture = overlay(film, heatmap, opacity=opacity, colour_map=colour_map)
        picture = draw_boxes(picture, panel.boxes, colour=PREDICTED_COLOUR)
        picture = draw_boxes(picture, true_boxes, colour=TRUE_COLOUR, dashed=True)
        left = _MARGIN + place * step
        canvas[_HEAD : _HEAD + height, left : left + width] = picture
        _write(canvas, panel.title, (left, 21), size=0.55, colour=_INK)
        _write(canvas, panel.note, (left, 42), size=0.45, colour=_FAINT)
    _legend(canvas, _HEAD + height)
    _, png = cv2.imencode(".png", canvas[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return png.tobytes()


def _write(canvas: np.ndarray, text: str, at: tuple[int, int], *, size: float, colour: tuple[int, int, int]) -> None:
    """Write a line of text with its baseline at `at`."""
    import cv2

    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def _legend(canvas: np.ndarray, top: int) -> None:
    """Say below the panels what the two kinds of boxes are."""
    import cv2

    line, text = top + _FOOT // 2, top + _FOOT // 2 + 4
    cv2.line(canvas, (_MARGIN, line), (_MARGIN + 28, line), PREDICTED_COLOUR, 2)
    _write(canvas, "predicted box", (_MARGIN + 36, text), size=0.42, colour=_FAINT)
    for start in (144, 156, 168):
        cv2.line(canvas, (_MARGIN + start, line), (_MARGIN + start + 6, line), TRUE_COLOUR, 2)
    _write(canvas, "true box", (_MARGIN + 184, text), size=0.42, colour=_FAINT)


class Explorer:
    """Look through cases: finding, film, threshold Q and opacity; every model side by side as in Fig. 7.

    Make it the last line of a notebook cell. The controls can also be set from a program.

    Attributes:
        finding, image: the two menus (`.value` is a finding, and the place of a case).
        threshold, opacity: the two sliders.
        picture: the one image widget. `line`: the sentence below it.
        widget: the box around all of them.

    Example:
        >>> explorer = Explorer(cases)
        >>> explorer.threshold.value = 0.5
    """

    def __init__(self, cases: Sequence[Case], *, finding: str | None = None, width: int = PANEL_WIDTH) -> None:
        """Build the controls and draw the first picture.

        Args:
            cases: at least one.
            finding: shown first; by default one that the first case has a true box of, else its first label.
            width: of a panel in pixels.

        Raises:
            InputError: there is no case, or the finding is unknown.
        """
        import ipywidgets as widgets

        if not cases:
            raise InputError("there is no case to look at; make some from a model and its films")
        self._cases = tuple(cases)
        self._width = width
        if finding is None:
            first = self._cases[0]
            finding = next(iter([*first.true_boxes["finding"], *first.labels, *FINDINGS]))
        if finding not in FINDINGS:
            raise InputError(f"unknown finding {finding!r}; the known ones are {', '.join(FINDINGS)}")
        wide = widgets.Layout(width="440px", max_width="100%")
        style = {"description_width": "80px"}
        self.finding = widgets.Dropdown(
            options=FINDINGS, value=finding, description="Finding", layout=wide, style=style
        )
        self.image = widgets.Dropdown(
            options=[(_caption(case), place) for place, case in enumerate(self._cases)],
            value=0,
            description="Film",
            layout=wide,
            style=style,
        )
        self.threshold = self._slider("Threshold Q", PAPER_THRESHOLD, low=0.05)
        self.opacity = self._slider("Opacity", OPACITY, low=0.0)
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.line = widgets.HTML()
        for widget, tip in (
            (self.finding, "Finding whose heat map is shown"),
            (self.image, "Film to look at, with the findings it is labelled with"),
            (self.threshold, "Part of the heat map's maximum from which on a point belongs to a box"),
            (self.opacity, "How strongly the heat map covers the film"),
        ):
            # ipywidgets 7 calls it description_tooltip, 8 tooltip.
            setattr(widget, "tooltip" if widget.has_trait("tooltip") else "description_tooltip", tip)
            widget.observe(self._redraw, names="value")
        controls = [
            widgets.HBox(pair, layout=widgets.Layout(flex_flow="row wrap"))
            for pair in ([self.finding, self.threshold], [self.image, self.opacity])
        ]
        self.widget = widgets.VBox([*controls, self.picture, self.line])
        self._redraw()

    def _slider(self, name: str, value: float, *, low: float) -> Any:
        import ipywidgets as widgets

        return widgets.FloatSlider(
            value=value,
            min=low,
            max=1.0,
            step=0.05,
            description=name,
            readout_format=".2f",
            layout=widgets.Layout(width="340px", max_width="100%"),
            style={"description_width": "80px"},
        )

    def _redraw(self, change: Any = None) -> None:
        """Set the picture and the sentence to what the controls say."""
        case, finding = self._cases[self.image.value], self.finding.value
        true_boxes = case.true(finding)
        panels = []
        for model in case.models:
            boxes = case.predicted(model, finding, threshold=self.threshold.value)
            note = f"{finding} {case.probability(model, finding):.2f}, {_count(len(boxes))}"
            panels.append(Panel(model, note, case.heatmap(model, finding), boxes))
        self.picture.value = render_png(
            case.film, panels, true_boxes=true_boxes, opacity=self.opacity.value, width=self._width
        )
        said = "; ".join(f"{escape(panel.title)}: {escape(panel.note)}" for panel in panels)
        labelled = "labelled with it" if finding in case.labels else "not labelled with it"
        self.line.value = (
            f'<p aria-live="polite"><b>{escape(finding)}</b> on {escape(case.image_index)}, {labelled}, '
            f"true: {_count(len(true_boxes))}. {said}.</p>"
        )

    def _ipython_display_(self) -> None:
        """Show the viewer where a notebook shows the value of a cell."""
        from IPython.display import display

        display(self.widget)


def _caption(case: Case) -> str:
    return f"{case.image_index}: {', '.join(case.labels) or 'no finding'}"


def _count(boxes: int) -> str:
    return f"{boxes} box" if boxes == 1 else f"{boxes} boxes"
