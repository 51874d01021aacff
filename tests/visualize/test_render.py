"""The explorer's picture: what must be seen is looked for in its pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.visualize.overlay import PREDICTED_COLOUR, TRUE_COLOUR
from cxr_seam.visualize.render import BAR_COLOURS, FOOT, HEAD, NARROW_WIDTH, NOTE_LINE, Bars, Panel, render_png

FILM = np.full((96, 96), 120, np.uint8)
NO_BOXES = np.zeros((0, 4))


def _decode(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of a colour."""
    return np.argwhere((picture == colour).all(axis=-1))


def test_picture_is_as_wide_as_its_panels_and_keeps_the_film_in_proportion():
    panel = Panel("Standard", "", np.zeros((50, 100)), NO_BOXES)
    film = np.zeros((50, 100), np.uint8)
    one = _decode(render_png(film, [panel], true_boxes=NO_BOXES, width=200))
    three = _decode(render_png(film, [panel] * 3, true_boxes=NO_BOXES, width=200))
    assert three.shape[1] - one.shape[1] == 2 * (200 + 8)
    taller = _decode(render_png(np.zeros((100, 100), np.uint8), [panel], true_boxes=NO_BOXES, width=200))
    assert taller.shape[0] - one.shape[0] == 100


def test_a_narrow_picture_has_two_films_a_row_and_its_bars_below_them():
    films = [Panel("", "", np.full((4, 4), level), NO_BOXES) for level in (0.2, 0.4, 0.6)]
    below = Panel("", "", np.full((4, 4), 0.8), NO_BOXES, mark=(0.5, 0.5))
    box = np.array([[0, 0, 0.5, 0.5]])
    bars = [Bars("", np.full(14, 0.5), np.full(14, np.nan))]
    parts = {"true_boxes": box, "below": below, "bars": bars, "width": NARROW_WIDTH}
    narrow = _decode(render_png(FILM, films, narrow=True, **parts))
    wide = _decode(render_png(FILM, films, **parts))
    assert narrow.shape[1] == 8 + 2 * (NARROW_WIDTH + 8) <= 490  # what a page of 600 pixels leaves to a cell
    # The same films, in reading order: each looks as it does on the wide picture.
    down = HEAD + NARROW_WIDTH + FOOT
    at = {"narrow": [(0, 0), (0, 1), (1, 0), (1, 1)], "wide": [(0, 0), (0, 1), (0, 2), (1, 0)]}
    for (row, column), (wide_row, wide_column) in zip(at["narrow"], at["wide"], strict=True):
        y, x = HEAD + row * down, 8 + column * (NARROW_WIDTH + 8)
        wide_y, wide_x = HEAD + wide_row * down, 8 + wide_column * (NARROW_WIDTH + 8)
        film = narrow[y : y + NARROW_WIDTH, x : x + NARROW_WIDTH]
        assert np.array_equal(film, wide[wide_y : wide_y + NARROW_WIDTH, wide_x : wide_x + NARROW_WIDTH])
        assert (len(_places(film, TRUE_COLOUR)) > 0) == ((row, column) != (1, 1))
    assert _places(narrow, BAR_COLOURS[0])[:, 0].min() > down + HEAD + NARROW_WIDTH


def test_a_note_may_have_two_lines():
    one, two = (
        _decode(render_png(FILM, [Panel("", note, np.zeros(FILM.shape), NO_BOXES)], true_boxes=NO_BOXES, width=200))
        for note in ("Mass", "Mass\nMass")
    )
    assert two.shape[0] - one.shape[0] == NOTE_LINE
    first = two[HEAD - 20 : HEAD - 4]
    assert np.array_equal(first, one[HEAD - 20 : HEAD - 4])
    assert np.array_equal(first, two[HEAD - 20 + NOTE_LINE : HEAD - 4 + NOTE_LINE])  # the same word, one line below


def test_boxes_are_where_they_should_be_in_their_colours():
    # Of 128 pixels: the predicted box is 32..63 across and 16..47 down, the true one 64..95 and 64..111.
    panel = Panel("Standard", "", np.zeros(FILM.shape), np.array([[0.25, 0.125, 0.25, 0.25]]))
    true = np.array([[0.5, 0.5, 0.25, 0.375]])
    picture = _decode(render_png(FILM, [panel], true_boxes=true, width=128))
    head, left = HEAD, 8
    for colour, (x0, x1, y0, y1) in ((PREDICTED_COLOUR, (32, 63, 16, 47)), (TRUE_COLOUR, (64, 95, 64, 111))):
        rows, columns = _places(picture[: HEAD + 128], colour).T
        found = np.array([columns.min() - left, columns.max() - left, rows.min() - head, rows.max() - head])
        assert found == pytest.approx(np.array([x0, x1, y0, y1]), abs=1)  # lines are two pixels wide


def test_panels_of_nothing_are_refused():
    with pytest.raises(InputError, match="no panel"):
        render_png(FILM, [], true_boxes=NO_BOXES)


def test_legend_names_the_boxes_that_are_there():
    box = np.array([[0.25, 0.125, 0.25, 0.25]])
    for predicted, true in ((NO_BOXES, NO_BOXES), (box, NO_BOXES), (NO_BOXES, box), (box, box)):
        panels = [Panel("Standard", "", np.zeros(FILM.shape), predicted)] * 3
        foot = _decode(render_png(FILM, panels, true_boxes=true, width=160))[HEAD + 160 :]
        assert (len(_places(foot, PREDICTED_COLOUR)) > 0) == (len(predicted) > 0)
        assert (len(_places(foot, TRUE_COLOUR)) > 0) == (len(true) > 0)


def _row_of(picture: np.ndarray, finding: str, colour: tuple[int, int, int], *, left: int) -> np.ndarray:
    """Columns of a colour in a finding's row of bars, its number left out."""
    top = HEAD + 200 + FOOT + HEAD + 20 * FINDINGS.index(finding)
    row = picture[top : top + 20, left : picture.shape[1] - 8 - 34]
    return np.unique(_places(row, colour)[:, 1])


def test_bars_are_as_long_as_the_probabilities_and_full_from_the_threshold_on():
    probabilities, thresholds = np.zeros(14), np.full(14, np.nan)
    values = {"Mass": (0.8, 0.4), "Nodule": (0.4, 0.8), "Hernia": (0.8, np.nan)}
    for finding, (probability, threshold) in values.items():
        probabilities[FINDINGS.index(finding)], thresholds[FINDINGS.index(finding)] = probability, threshold
    panel = Panel("Standard", "", np.zeros(FILM.shape), NO_BOXES)
    bars = [Bars("Standard", probabilities, thresholds)]
    picture = _decode(render_png(FILM, [panel] * 3, true_boxes=NO_BOXES, width=200, bars=bars))
    sky = BAR_COLOURS[0]
    long, short = _row_of(picture, "Mass", sky, left=8), _row_of(picture, "Nodule", sky, left=8)
    assert (long.max() - long.min()) / (short.max() - short.min()) == pytest.approx(2, abs=0.02)
    # The ticks stand where the other bar ends, since the values are each other's thresholds.
    tick = _row_of(picture, "Nodule", (255, 255, 255), left=8 + 130)
    assert tick.mean() + 130 == pytest.approx(long.max(), abs=1.5)
    pixels = {name: len(_places(picture[_rows(name), : -8 - 34], sky)) for name in values}
    assert pixels["Mass"] > 3 * pixels["Nodule"]  # full, and hollow
    assert pixels["Hernia"] < pixels["Mass"] / 2  # no threshold decides nothing
    assert len(_row_of(picture, "Hernia", (255, 255, 255), left=8 + 130)) == 0


def _rows(finding: str) -> slice:
    top = HEAD + 200 + FOOT + HEAD + 20 * FINDINGS.index(finding)
    return slice(top, top + 20)


def test_a_marked_place_is_ringed_where_it_lies():
    panel = Panel("Standard", "", np.zeros(FILM.shape), NO_BOXES)
    below = Panel("PCM", "", np.zeros((4, 4)), NO_BOXES, mark=(0.25, 0.75))
    picture = _decode(render_png(FILM, [panel], true_boxes=NO_BOXES, width=200, below=below))
    top = HEAD + 200 + FOOT + HEAD
    rows, columns = _places(picture[top : top + 200, 8 : 8 + 200], (255, 255, 255)).T
    assert (columns.mean(), rows.mean()) == pytest.approx((50, 150), abs=1)
