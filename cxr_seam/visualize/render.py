"""The explorer's picture: films with heat maps and boxes, probabilities as bars, all as the bytes of one PNG.

Pixels in, bytes out, without matplotlib's figures: quick enough to follow a slider. The ground is dark, as a film's is,
so that the picture reads alike on a dark and a light page.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..findings import FINDINGS
from .overlay import OPACITY, PREDICTED_COLOUR, TRUE_COLOUR, apply_colour_map, draw_boxes, overlay_heatmap

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont


PANEL_WIDTH, NARROW_WIDTH = 320, 232
"""Pixels of a panel, three a row on a wide page and two on a narrow one; letters are of the same size on both."""


GROUND, INK, FAINT = (17, 17, 17), (240, 240, 240), (178, 178, 178)


BAR_COLOURS = ((86, 180, 233), (230, 159, 0), (204, 121, 167))
"""Okabe and Ito's sky blue, orange and purple: apart from each other, and from the boxes, for any colour vision."""


HEAD, NOTE_LINE, FOOT, MARGIN = 46, 16, 30, 8
"""Pixels: title and note above a panel, each further line of the note, legend below, space between panels."""


_BAR_ROW, _BARS_AT_LEAST = 20, 480


_NAMES, _NUMBER = 130, 34  # pixels: the findings' names left of the bars, each model's number right of them


class Panel(NamedTuple):
    """One view of a film.

    `note` may have several lines; `heatmap` is (h, w) float in [0, 1] over the whole film; `boxes` are (K, 4) x, y, w,
    h as fractions of the film; `mark` is a place as shares of width and height, drawn as a ring.
    """

    title: str
    note: str
    heatmap: np.ndarray
    boxes: np.ndarray
    mark: tuple[float, float] | None = None


class Bars(NamedTuple):
    """A model's probabilities (14,) in [0, 1], and from which one on it calls a finding present; NaN: not known."""

    title: str
    probabilities: np.ndarray
    thresholds: np.ndarray


def render_png(
    film: np.ndarray,
    panels: Sequence[Panel],
    *,
    true_boxes: np.ndarray,
    opacity: float = OPACITY,
    width: int = PANEL_WIDTH,
    colour_map: str = "inferno",
    narrow: bool = False,
    below: Panel | None = None,
    bars: Sequence[Bars] = (),
    chosen: str | None = None,
) -> bytes:
    """Draw panels side by side: film, heat map, predicted boxes in red, true ones in green and dashed.

    Args:
        film: (H, W) uint8 grey.
        panels: at least one.
        true_boxes: (M, 4) x, y, w, h as fractions of the film.
        opacity: of the heat map, 0 to 1.
        width: of a panel in pixels; its height keeps the film's proportions.
        colour_map: see `overlay`.
        narrow: two panels a row, the one below among them, and the bars under all.
        below: a panel for a second row, or the last place of narrow ones, which true boxes are not drawn on.
        bars: models whose probabilities stand beside that panel.
        chosen: the finding whose bars stand out.

    Returns:
        The bytes of an RGB PNG.

    Raises:
        InputError: no panel, or as `overlay`.
    """
    import cv2
    from PIL import Image, ImageDraw

    if not panels:
        raise InputError("there is no panel to draw; give at least one model")
    film = _resized(film, (width, max(1, round(width * film.shape[0] / film.shape[1]))))
    films = [*panels, *([below] if below else [])]
    in_row = 2 if narrow else len(panels)
    rows = [films[at : at + in_row] for at in range(0, len(films), in_row)]
    head = HEAD + NOTE_LINE * max(panel.note.count("\n") for panel in films)
    step, high = width + MARGIN, head + film.shape[0]
    tops = [row * high + (FOOT if row else 0) for row in range(len(rows) + 1)]
    # The bars stand right of the film below, or under everything where a page has no room for that.
    bars_at = (MARGIN, tops[-1]) if narrow else (MARGIN + (step if below else 0), high + FOOT)
    bottom = max(tops[-1], high + FOOT, bars_at[1] + HEAD + _BAR_ROW * len(FINDINGS) if bars else 0)
    across = max(step * len(rows[0]), bars_at[0] - MARGIN + (_BARS_AT_LEAST if bars else 0)) + MARGIN
    canvas = np.full((bottom + (MARGIN if below or bars else 0), across, 3), GROUND, dtype=np.uint8)
    placed = [
        (panel, MARGIN + column * step, top)
        for row, top in zip(rows, tops, strict=False)
        for column, panel in enumerate(row)
    ]
    for panel, left, top in placed:
        true = np.empty((0, 4)) if panel is below else true_boxes
        picture = _view(film, panel, true, opacity=opacity, colour_map=colour_map)
        canvas[top + head : top + high, left : left + width] = picture
    boxes = {"predicted": any(len(panel.boxes) for panel in panels), "true": len(true_boxes) > 0}
    _lines_of_legend(canvas, high, colour_map, **boxes)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for panel, left, top in placed:
        write(draw, (left, top + 20), panel.title, size=15)
        for number, line in enumerate(panel.note.split("\n")):
            write(draw, (left, top + 38 + NOTE_LINE * number), line, size=12, colour=FAINT)
    _words_of_legend(draw, high, **boxes)
    if bars:
        _draw_bars(draw, bars, (*bars_at, across - MARGIN), chosen)
    # One filter for all rows: trying each on every row takes longer than all the drawing, and saves next to nothing.
    how = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    return cv2.imencode(".png", np.asarray(picture)[..., ::-1], how)[1].tobytes()


def write(
    draw: ImageDraw, at: tuple[int, int], text: str, *, size: int, colour: tuple[int, ...] = INK, anchor: str = "ls"
) -> None:
    """Write a line of text; `at` is the left end of its baseline, or what Pillow's `anchor` says."""
    draw.text(at, text, fill=colour, font=font(size), anchor=anchor)


@cache
def font(size: int) -> FreeTypeFont:
    """DejaVu Sans of so many pixels: matplotlib brings it along on every machine."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink by area averaging, which does not alias; enlarge bilinearly."""
    import cv2

    way = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=way)


def _view(film: np.ndarray, panel: Panel, true_boxes: np.ndarray, **look: Any) -> np.ndarray:
    """The film of a panel with all that lies on it."""
    import cv2

    height, width = film.shape
    picture = overlay_heatmap(film, np.clip(_resized(panel.heatmap, (width, height)), 0, 1), **look)
    picture = draw_boxes(picture, panel.boxes, colour=PREDICTED_COLOUR)
    picture = draw_boxes(picture, true_boxes, colour=TRUE_COLOUR, dashed=True)
    if panel.mark is not None:
        centre = (int(panel.mark[0] * width), int(panel.mark[1] * height))
        for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.circle(picture, centre, 8, colour, thickness, cv2.LINE_AA)
    return picture


def _lines_of_legend(canvas: np.ndarray, top: int, colour_map: str, *, predicted: bool, true: bool) -> None:
    """Draw below the panels what the colours and the kinds of boxes look like, those that are there."""
    import cv2

    line = top + FOOT // 2
    canvas[line - 5 : line + 5, MARGIN : MARGIN + 90] = apply_colour_map(np.linspace(0, 1, 90)[None], colour_map)
    if predicted:
        cv2.line(canvas, (MARGIN + 240, line), (MARGIN + 268, line), PREDICTED_COLOUR, 2)
    if true:
        left = MARGIN + (380 if predicted else 240)
        for start in (left, left + 12, left + 24):
            cv2.line(canvas, (start, line), (start + 6, line), TRUE_COLOUR, 2)


def _words_of_legend(draw: ImageDraw, top: int, *, predicted: bool, true: bool) -> None:
    """Name them."""
    middle = top + FOOT // 2
    write(draw, (MARGIN + 98, middle), "heat: 0 to its maximum", size=11, colour=FAINT, anchor="lm")
    if predicted:
        write(draw, (MARGIN + 276, middle), "predicted box", size=11, colour=FAINT, anchor="lm")
    if true:
        write(draw, (MARGIN + (418 if predicted else 278), middle), "true box", size=11, colour=FAINT, anchor="lm")


def _draw_bars(draw: ImageDraw, bars: Sequence[Bars], place: tuple[int, int, int], chosen: str | None) -> None:
    """Draw a row for each finding: a bar for each model, full from its threshold (a white tick) on, else hollow."""
    left, top, right = place
    start, end = left + _NAMES, right - _NUMBER * len(bars)
    write(draw, (left, top + 20), "Probabilities", size=15)
    write(draw, (right, top + 20), "full: at its threshold (tick) or above", size=12, colour=FAINT, anchor="rs")
    at = start
    for number, model in enumerate(bars):
        draw.rectangle((at, top + 29, at + 12, top + 37), fill=BAR_COLOURS[number % len(BAR_COLOURS)])
        write(draw, (at + 18, top + 38), model.title, size=12, colour=FAINT)
        at += 40 + 7 * len(model.title)
    thick = (_BAR_ROW - 4) // len(bars)
    for row, finding in enumerate(FINDINGS):
        upper = top + HEAD + row * _BAR_ROW
        ink = INK if finding == chosen else FAINT
        if finding == chosen:
            draw.rectangle((left, upper, right, upper + _BAR_ROW - 1), fill=(52, 52, 52))
        middle = upper + _BAR_ROW // 2
        write(draw, (start - 8, middle), finding.replace("_", " "), size=12, colour=ink, anchor="rm")
        for number, model in enumerate(bars):
            y = upper + 2 + number * thick
            colour = BAR_COLOURS[number % len(BAR_COLOURS)]
            probability, threshold = float(model.probabilities[row]), float(model.thresholds[row])
            number_at = (end + 6 + number * _NUMBER, middle)
            write(draw, number_at, f"{probability:.2f}", size=12, colour=colour, anchor="lm")
            length = start + round(probability * (end - start))
            full = probability >= threshold  # never where the threshold is NaN
            draw.rectangle((start, y, length, y + thick - 2), fill=colour if full else None, outline=colour)
            if not np.isnan(threshold):
                tick = start + round(threshold * (end - start))
                draw.line((tick, y - 1, tick, y + thick - 1), fill=(255, 255, 255), width=2)
