"""Render the picture of the viewer as one PNG: panels with heat maps and boxes, and raw scores as bars.

It uses OpenCV and Pillow instead of matplotlib, so that the picture follows a slider. The background is dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..findings import FINDINGS
from .overlay import NO_BOXES, apply_colour_map, draw_boxes, overlay_heatmap, resize, scale_to_width
from .style import BAR_PALETTE, DARK, LIGHT, MUTED, OPACITY

PANEL_WIDTH, NARROW_WIDTH = 320, 232
"""Width of a panel in pixels, in the wide layout and in the narrow one. The text has the same size in both."""

HEAD, CAPTION_LINE, FOOT, MARGIN = 46, 16, 30, 8
"""Pixels: title and first caption line, each further caption line, legend below the panels, space between panels."""

BAR_ROW, MIN_BAR_WIDTH, LABEL_WIDTH, NUMBER_WIDTH = 20, 480, 130, 34
"""Pixels of the bar chart: height of a finding, smallest width, names left of the bars, each number right of them.

Longer names make the chart wider.
"""


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
    boxes: np.ndarray = NO_BOXES
    point: tuple[float, float] | None = None


class Bars(NamedTuple):
    """Raw scores of one model for the bar chart.

    Attributes:
        title: name of the model.
        raw_scores: (K,) in [0, 1].
        thresholds: (K,) in [0, 1]; a finding counts as present from its threshold on. NaN: no threshold.
        findings: names of the K findings, the same for all models.
        operating_point: title of the rule that chose the thresholds; "" if there are none.
    """

    title: str
    raw_scores: np.ndarray
    thresholds: np.ndarray
    findings: tuple[str, ...] = FINDINGS
    operating_point: str = ""


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
    heat: str = "heat",
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
        bars: raw scores, one for each model.
        finding: highlighted in the bar chart.
        heat: title of the heat maps in the legend.

    Returns:
        The bytes of an RGB PNG.
    """
    image = resize(image, scale_to_width(image.shape, width))
    every_panel = [*panels, attention] if attention else panels
    columns = min(2, len(every_panel)) if narrow else len(panels)
    head = HEAD + CAPTION_LINE * max(panel.caption.count("\n") for panel in every_panel)
    row_height, rows = head + len(image), -(-len(every_panel) // columns)
    right, bottom = columns * (width + MARGIN), rows * row_height + FOOT
    if bars:  # right of the attention panel, or below everything in the narrow layout
        bars_left = 2 * MARGIN + width if attention and not narrow else MARGIN
        bars_top = bottom if narrow else row_height + FOOT
        right = max(right, bars_left - MARGIN + MIN_BAR_WIDTH + _label_width(bars[0].findings) - LABEL_WIDTH)
        bottom = max(bottom, bars_top + HEAD + BAR_ROW * len(bars[0].findings))
    canvas = Image.new("RGB", (right + MARGIN, bottom + (MARGIN if attention or bars else 0)), DARK)
    draw = ImageDraw.Draw(canvas)
    for index, panel in enumerate(every_panel):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * (width + MARGIN), row * row_height + (FOOT if row else 0)
        overlay = overlay_heatmap(image, panel.heatmap, opacity=opacity, colour_map=colour_map)
        if panel is attention:
            _draw_ring(overlay, panel.point)
        else:
            overlay = draw_boxes(overlay, panel.boxes, true_boxes)
        canvas.paste(Image.fromarray(overlay), (left, top + head))
        write_text(draw, (left, top + 20), _shorten(panel.title, size=15, width=width), size=15)
        for number, line in enumerate(panel.caption.split("\n")):
            line = _shorten(line, size=12, width=width)
            write_text(draw, (left, top + 38 + CAPTION_LINE * number), line, size=12, colour=MUTED)
    kinds = {"predicted": any(len(panel.boxes) for panel in panels), "true": len(true_boxes) > 0}
    _draw_legend(canvas, row_height + FOOT // 2, [kind for kind, present in kinds.items() if present], colour_map, heat)
    if bars:
        _draw_bars(draw, bars, (bars_left, bars_top, right), finding)
    # One fixed filter: the adaptive choice takes longer than all the drawing and saves little.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    return cv2.imencode(".png", np.asarray(canvas)[..., ::-1], options)[1].tobytes()


def write_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    *,
    size: int,
    colour: tuple[int, ...] = LIGHT,
    anchor: str = "ls",
) -> None:
    """Write a line of text; `anchor` is Pillow's, by default the left end of the baseline."""
    draw.text(at, text, fill=colour, font=_font(size), anchor=anchor)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans from matplotlib, so that every machine has the same font; `size` in pixels."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _shorten(text: str, *, size: int, width: int) -> str:
    """Cut a line of text that is wider than `width` pixels, and end it with an ellipsis."""
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _label_width(findings: Sequence[str]) -> int:
    """Return the width of the names left of the bars, with the spaces around them."""
    longest = max(_font(12).getlength(finding.replace("_", " ")) for finding in findings)
    return max(LABEL_WIDTH, 20 + int(longest))


def _draw_ring(picture: np.ndarray, point: tuple[float, float]) -> None:
    """Draw a white ring with a dark edge on a picture (H, W, 3)."""
    centre = (int(point[0] * picture.shape[1]), int(point[1] * picture.shape[0]))
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        cv2.circle(picture, centre, 8, colour, thickness, cv2.LINE_AA)


def _draw_legend(canvas: Image.Image, middle: int, kinds: Sequence[str], colour_map: str, heat: str) -> None:
    """Draw the colour bar and a small box for each kind of box: "predicted", "true"."""
    draw = ImageDraw.Draw(canvas)
    bar = apply_colour_map(np.linspace(0, 1, 90)[None].repeat(10, axis=0), colour_map)
    canvas.paste(Image.fromarray(bar), (MARGIN, middle - 5))
    text = f"{heat}: 0 to maximum"
    write_text(draw, (MARGIN + 98, middle), text, size=11, colour=MUTED, anchor="lm")
    for number, kind in enumerate(kinds):
        left = MARGIN + max(240, 114 + int(_font(11).getlength(text))) + 140 * number
        box = draw_boxes(np.full((14, 28, 3), DARK, dtype=np.uint8), **{kind: np.array([[0, 0, 1, 1]])})
        canvas.paste(Image.fromarray(box), (left, middle - 7))
        write_text(draw, (left + 36, middle), f"{kind} box", size=11, colour=MUTED, anchor="lm")


def _draw_bars(draw: ImageDraw.ImageDraw, bars: Sequence[Bars], at: tuple[int, int, int], selected: str | None) -> None:
    """Draw the bar chart at (left, top, right): a row for each finding, a bar with its number for each model."""
    left, top, right = at
    write_text(draw, (left, top + 20), "Raw scores", size=15)
    legend = f"filled: present at {bars[0].operating_point} (white tick)" if bars[0].operating_point else ""
    write_text(draw, (right, top + 20), legend, size=11, colour=MUTED, anchor="rs")
    # where scores of 0 and 1 end
    zero, one = left + _label_width(bars[0].findings), right - NUMBER_WIDTH * len(bars)
    x = zero
    for number, model in enumerate(bars):
        draw.rectangle((x, top + 29, x + 12, top + 37), fill=BAR_PALETTE[number % len(BAR_PALETTE)])
        write_text(draw, (x + 18, top + 38), model.title, size=12, colour=MUTED)
        x += 40 + 7 * len(model.title)
    height = (BAR_ROW - 4) // len(bars)
    for row, finding in enumerate(bars[0].findings):
        row_top = top + HEAD + row * BAR_ROW
        middle = row_top + BAR_ROW // 2
        if finding == selected:
            draw.rectangle((left, row_top, right, row_top + BAR_ROW - 1), fill=(52, 52, 52))
        colour = LIGHT if finding == selected else MUTED
        write_text(draw, (zero - 8, middle), finding.replace("_", " "), size=12, colour=colour, anchor="rm")
        for number, model in enumerate(bars):
            y = row_top + 2 + number * height
            colour = BAR_PALETTE[number % len(BAR_PALETTE)]
            score, threshold = float(model.raw_scores[row]), float(model.thresholds[row])
            at = (one + 6 + number * NUMBER_WIDTH, middle)
            write_text(draw, at, f"{score:.2f}", size=12, colour=colour, anchor="lm")
            end = zero + round(score * (one - zero))
            present = score >= threshold  # False for a threshold of NaN
            draw.rectangle((zero, y, end, y + height - 2), fill=colour if present else None, outline=colour)
            if not np.isnan(threshold):
                tick = zero + round(threshold * (one - zero))
                draw.line((tick, y - 1, tick, y + height - 1), fill=(255, 255, 255), width=2)
