"""Render the picture of the viewer as one PNG: panels with heat maps and boxes, and probabilities as bars.

It uses OpenCV and Pillow instead of matplotlib, so that the picture follows a slider. The background is dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from ..errors import InputError
from ..findings import FINDINGS
from .overlay import apply_colour_map, dashes, draw_boxes, overlay_heatmap
from .style import BAR_PALETTE, DARK, HIGHLIGHT, LIGHT, MUTED, OPACITY, PREDICTED_COLOUR, TRUE_COLOUR

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont


PANEL_WIDTH, NARROW_WIDTH = 320, 232
"""Width of a panel in pixels, in the wide layout and in the narrow one. The text has the same size in both."""


HEAD, CAPTION_LINE, FOOT, MARGIN = 46, 16, 30, 8
"""Pixels: title and first caption line, each further caption line, legend below the panels, space between panels."""


BAR_ROW, MIN_BAR_WIDTH = 20, 480
"""Pixels: height of one finding in the bar chart, smallest width of the bar chart."""


LABEL_WIDTH, NUMBER_WIDTH = 130, 34
"""Pixels: the names left of the bars, the number of each model right of them."""


NO_BOXES = np.empty((0, 4))


class Panel(NamedTuple):
    """One image with a heat map.

    Attributes:
        title: one line above the image.
        caption: one or more lines below the title.
        heatmap: (h, w) float in [0, 1], stretched over the image.
        boxes: (K, 4) predicted boxes, x, y, w, h as fractions of the image.
        point: (x, y) as fractions of the image, drawn as a ring.
    """

    title: str
    caption: str
    heatmap: np.ndarray
    boxes: np.ndarray
    point: tuple[float, float] | None = None


class Bars(NamedTuple):
    """Probabilities of one model for the bar chart.

    Attributes:
        title: name of the model.
        probabilities: (14,) in [0, 1].
        thresholds: (14,) in [0, 1]; a finding counts as present from its threshold on. NaN: no threshold.
    """

    title: str
    probabilities: np.ndarray
    thresholds: np.ndarray


def render_png(
    image: np.ndarray,
    panels: Sequence[Panel],
    *,
    true_boxes: np.ndarray = NO_BOXES,
    opacity: float = OPACITY,
    width: int = PANEL_WIDTH,
    colour_map: str = "inferno",
    narrow: bool = False,
    attention: Panel | None = None,
    bars: Sequence[Bars] = (),
    finding: str | None = None,
) -> bytes:
    """Render panels side by side, then the attention panel and the bar chart.

    Args:
        image: (H, W) uint8 grey, the image of all panels.
        panels: at least one, each with predicted boxes.
        true_boxes: (M, 4) x, y, w, h as fractions of the image, drawn on `panels`.
        opacity: of the heat maps, 0 to 1.
        width: of a panel in pixels. The height follows from the proportions of the image.
        colour_map: one of `style.COLOUR_MAPS`.
        narrow: put two panels in a row and the bar chart below them.
        attention: a panel without true boxes, placed after the others.
        bars: probabilities, one for each model.
        finding: highlighted in the bar chart.

    Returns:
        The bytes of an RGB PNG.

    Raises:
        InputError: there is no panel; or see `overlay.overlay_heatmap`.
    """
    from PIL import Image, ImageDraw

    if not panels:
        raise InputError("there is no panel to draw; give at least one model")
    image = resize(image, (width, max(1, round(width * image.shape[0] / image.shape[1]))))
    layout = _Layout(image.shape, panels, attention=attention, narrow=narrow, bars=bool(bars))
    canvas = np.full((layout.height, layout.width, 3), DARK, dtype=np.uint8)
    for panel, left, top in layout.positions:
        boxes = NO_BOXES if panel is attention else true_boxes
        top += layout.head
        canvas[top : top + image.shape[0], left : left + width] = _draw_panel(
            image, panel, boxes, opacity=opacity, colour_map=colour_map
        )
    kinds = [("predicted box", any(len(panel.boxes) for panel in panels)), ("true box", len(true_boxes) > 0)]
    entries = [name for name, present in kinds if present]
    _draw_legend_lines(canvas, layout.legend_top, entries, colour_map=colour_map)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for panel, left, top in layout.positions:
        write_text(draw, (left, top + 20), panel.title, size=15)
        for number, line in enumerate(panel.caption.split("\n")):
            write_text(draw, (left, top + 38 + CAPTION_LINE * number), line, size=12, colour=MUTED)
    _draw_legend_text(draw, layout.legend_top, entries)
    if bars:
        _draw_bars(draw, bars, (*layout.bars_at, layout.width - MARGIN), finding)
    # One fixed filter: the adaptive choice takes longer than all the drawing and saves little.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    return cv2.imencode(".png", np.asarray(picture)[..., ::-1], options)[1].tobytes()


class _Layout:
    """Compute where panels, legend and bars are placed, in pixels."""

    def __init__(
        self, shape: tuple[int, ...], panels: Sequence[Panel], *, attention: Panel | None, narrow: bool, bars: bool
    ) -> None:
        every_panel = [*panels, *([attention] if attention else [])]
        per_row = 2 if narrow else len(panels)
        rows = [every_panel[start : start + per_row] for start in range(0, len(every_panel), per_row)]
        self.head = HEAD + CAPTION_LINE * max(panel.caption.count("\n") for panel in every_panel)
        step, row_height = shape[1] + MARGIN, self.head + shape[0]
        self.legend_top = row_height
        tops = [row * row_height + (FOOT if row else 0) for row in range(len(rows) + 1)]
        self.positions = [
            (panel, MARGIN + column * step, top)
            for row, top in zip(rows, tops, strict=False)
            for column, panel in enumerate(row)
        ]
        # The bars are right of the attention panel, or below everything in the narrow layout.
        self.bars_at = (MARGIN, tops[-1]) if narrow else (MARGIN + (step if attention else 0), row_height + FOOT)
        bars_bottom = self.bars_at[1] + HEAD + BAR_ROW * len(FINDINGS) if bars else 0
        bars_right = self.bars_at[0] - MARGIN + MIN_BAR_WIDTH if bars else 0
        bottom_margin = MARGIN if attention or bars else 0
        self.height = max(tops[-1], row_height + FOOT, bars_bottom) + bottom_margin
        self.width = max(step * len(rows[0]), bars_right) + MARGIN


def write_text(
    draw: ImageDraw, at: tuple[int, int], text: str, *, size: int, colour: tuple[int, ...] = LIGHT, anchor: str = "ls"
) -> None:
    """Write a line of text; `anchor` is Pillow's, by default the left end of the baseline."""
    draw.text(at, text, fill=colour, font=font(size), anchor=anchor)


@cache
def font(size: int) -> FreeTypeFont:
    """Load DejaVu Sans from matplotlib, so that every machine has the same font; `size` in pixels."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height): area averaging to shrink, bilinear to enlarge."""
    interpolation = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=interpolation)


def _draw_panel(image: np.ndarray, panel: Panel, true_boxes: np.ndarray, **options: Any) -> np.ndarray:
    """Draw heat map, boxes and ring of a panel on the image: (H, W, 3) uint8."""
    height, width = image.shape
    picture = overlay_heatmap(image, np.clip(resize(panel.heatmap, (width, height)), 0, 1), **options)
    picture = draw_boxes(picture, panel.boxes, colour=PREDICTED_COLOUR)
    picture = draw_boxes(picture, true_boxes, colour=TRUE_COLOUR, dashed=True)
    if panel.point is not None:
        centre = (int(panel.point[0] * width), int(panel.point[1] * height))
        for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.circle(picture, centre, 8, colour, thickness, cv2.LINE_AA)
    return picture


LEGEND_BOXES = ((MARGIN + 240, MARGIN + 276), (MARGIN + 380, MARGIN + 416))
"""Left edge of the line and of the text, for the first and second legend entry."""


def _draw_legend_lines(canvas: np.ndarray, top: int, entries: Sequence[str], *, colour_map: str) -> None:
    """Draw the colour bar and a line for each kind of box in `entries`."""
    middle = top + FOOT // 2
    canvas[middle - 5 : middle + 5, MARGIN : MARGIN + 90] = apply_colour_map(np.linspace(0, 1, 90)[None], colour_map)
    for name, (left, _) in zip(entries, LEGEND_BOXES, strict=False):
        line = (left, middle), (left + 28, middle)
        if name == "predicted box":
            cv2.line(canvas, *line, PREDICTED_COLOUR, 2)
        else:
            for start, end in dashes(*line):
                cv2.line(canvas, start, end, TRUE_COLOUR, 2)


def _draw_legend_text(draw: ImageDraw, top: int, entries: Sequence[str]) -> None:
    """Write the text of the legend."""
    middle = top + FOOT // 2
    write_text(draw, (MARGIN + 98, middle), "heat: 0 to maximum", size=11, colour=MUTED, anchor="lm")
    for name, (_, left) in zip(entries, LEGEND_BOXES, strict=False):
        write_text(draw, (left, middle), name, size=11, colour=MUTED, anchor="lm")


def _draw_bars(draw: ImageDraw, bars: Sequence[Bars], at: tuple[int, int, int], selected: str | None) -> None:
    """Draw the bar chart at (left, top, right): a row for each finding, a bar for each model."""
    left, top, right = at
    write_text(draw, (left, top + 20), "Probabilities", size=15)
    legend = "filled: present (probability reaches the threshold, white tick)"
    write_text(draw, (right, top + 20), legend, size=11, colour=MUTED, anchor="rs")
    x = left + LABEL_WIDTH
    for number, model in enumerate(bars):
        draw.rectangle((x, top + 29, x + 12, top + 37), fill=BAR_PALETTE[number % len(BAR_PALETTE)])
        write_text(draw, (x + 18, top + 38), model.title, size=12, colour=MUTED)
        x += 40 + 7 * len(model.title)
    for row, finding in enumerate(FINDINGS):
        row_top = top + HEAD + row * BAR_ROW
        if finding == selected:
            draw.rectangle((left, row_top, right, row_top + BAR_ROW - 1), fill=HIGHLIGHT)
        text_at = (left + LABEL_WIDTH - 8, row_top + BAR_ROW // 2)
        colour = LIGHT if finding == selected else MUTED
        write_text(draw, text_at, finding.replace("_", " "), size=12, colour=colour, anchor="rm")
        _draw_bar_row(draw, bars, row, (left + LABEL_WIDTH, row_top, right - NUMBER_WIDTH * len(bars)))


def _draw_bar_row(draw: ImageDraw, bars: Sequence[Bars], row: int, at: tuple[int, int, int]) -> None:
    """Draw the bars of one finding between (left, top, right), each with its number on the right."""
    left, top, right = at
    height = (BAR_ROW - 4) // len(bars)
    for number, model in enumerate(bars):
        y = top + 2 + number * height
        colour = BAR_PALETTE[number % len(BAR_PALETTE)]
        probability, threshold = float(model.probabilities[row]), float(model.thresholds[row])
        number_at = (right + 6 + number * NUMBER_WIDTH, top + BAR_ROW // 2)
        write_text(draw, number_at, f"{probability:.2f}", size=12, colour=colour, anchor="lm")
        end = left + round(probability * (right - left))
        present = probability >= threshold  # False for a threshold of NaN
        draw.rectangle((left, y, end, y + height - 2), fill=colour if present else None, outline=colour)
        if not np.isnan(threshold):
            tick = left + round(threshold * (right - left))
            draw.line((tick, y - 1, tick, y + height - 1), fill=(255, 255, 255), width=2)
