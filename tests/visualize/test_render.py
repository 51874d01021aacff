"""The picture of the viewer: sizes, boxes, legend and bars, read from its pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cxr_seam.findings import FINDINGS
from cxr_seam.visualize.overlay import NO_BOXES
from cxr_seam.visualize.render import CAPTION_LINE, FOOT, HEAD, NARROW_WIDTH, Bars, Panel, render_png
from cxr_seam.visualize.style import BAR_PALETTE, PREDICTED_COLOUR, TRUE_COLOUR

IMAGE = np.full((96, 96), 120, np.uint8)


def _decode(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of a colour."""
    return np.argwhere((picture == colour).all(axis=-1))


def test_picture_size_follows_panels_and_image():
    panel = Panel("Standard", "", np.zeros((50, 100)), NO_BOXES)
    image = np.zeros((50, 100), np.uint8)
    one = _decode(render_png(image, [panel], true_boxes=NO_BOXES, width=200))
    three = _decode(render_png(image, [panel] * 3, true_boxes=NO_BOXES, width=200))
    assert three.shape[1] - one.shape[1] == 2 * (200 + 8)
    taller = _decode(render_png(np.zeros((100, 100), np.uint8), [panel], true_boxes=NO_BOXES, width=200))
    assert taller.shape[0] - one.shape[0] == 100


def test_narrow_layout_has_two_panels_per_row():
    panels = [Panel("", "", np.full((4, 4), level), NO_BOXES) for level in (0.2, 0.4, 0.6)]
    attention = Panel("", "", np.full((4, 4), 0.8), NO_BOXES, point=(0.5, 0.5))
    box = np.array([[0, 0, 0.5, 0.5]])
    bars = [Bars("", np.full(14, 0.5), np.full(14, np.nan))]
    parts = {"true_boxes": box, "attention": attention, "bars": bars, "width": NARROW_WIDTH}
    narrow = _decode(render_png(IMAGE, panels, narrow=True, **parts))
    wide = _decode(render_png(IMAGE, panels, **parts))
    assert narrow.shape[1] == 8 + 2 * (NARROW_WIDTH + 8) <= 490  # width of a cell on a page of 600 pixels
    # The same panels in reading order, each equal to that of the wide layout.
    down = HEAD + NARROW_WIDTH + FOOT
    at = {"narrow": [(0, 0), (0, 1), (1, 0), (1, 1)], "wide": [(0, 0), (0, 1), (0, 2), (1, 0)]}
    for (row, column), (wide_row, wide_column) in zip(at["narrow"], at["wide"], strict=True):
        y, x = HEAD + row * down, 8 + column * (NARROW_WIDTH + 8)
        wide_y, wide_x = HEAD + wide_row * down, 8 + wide_column * (NARROW_WIDTH + 8)
        image = narrow[y : y + NARROW_WIDTH, x : x + NARROW_WIDTH]
        assert np.array_equal(image, wide[wide_y : wide_y + NARROW_WIDTH, wide_x : wide_x + NARROW_WIDTH])
        assert (len(_pixels(image, TRUE_COLOUR)) > 0) == ((row, column) != (1, 1))
    assert _pixels(narrow, BAR_PALETTE[0])[:, 0].min() > down + HEAD + NARROW_WIDTH


def test_caption_may_have_two_lines():
    one, two = (
        _decode(render_png(IMAGE, [Panel("", note, np.zeros(IMAGE.shape), NO_BOXES)], true_boxes=NO_BOXES, width=200))
        for note in ("Mass", "Mass\nMass")
    )
    assert two.shape[0] - one.shape[0] == CAPTION_LINE
    first = two[HEAD - 20 : HEAD - 4]
    assert np.array_equal(first, one[HEAD - 20 : HEAD - 4])
    assert np.array_equal(
        first, two[HEAD - 20 + CAPTION_LINE : HEAD - 4 + CAPTION_LINE]
    )  # the same word, one line below


def test_boxes_have_position_and_colour():
    # Of 128 pixels: the predicted box is 32..63 across and 16..47 down, the true one 64..95 and 64..111.
    panel = Panel("Standard", "", np.zeros(IMAGE.shape), np.array([[0.25, 0.125, 0.25, 0.25]]))
    true = np.array([[0.5, 0.5, 0.25, 0.375]])
    picture = _decode(render_png(IMAGE, [panel], true_boxes=true, width=128))
    head, left = HEAD, 8
    for colour, (x0, x1, y0, y1) in ((PREDICTED_COLOUR, (32, 63, 16, 47)), (TRUE_COLOUR, (64, 95, 64, 111))):
        rows, columns = _pixels(picture[: HEAD + 128], colour).T
        found = np.array([columns.min() - left, columns.max() - left, rows.min() - head, rows.max() - head])
        assert found == pytest.approx(np.array([x0, x1, y0, y1]), abs=1)  # lines are two pixels wide


def test_legend_shows_only_present_boxes():
    box = np.array([[0.25, 0.125, 0.25, 0.25]])
    for predicted, true in ((NO_BOXES, NO_BOXES), (box, NO_BOXES), (NO_BOXES, box), (box, box)):
        panels = [Panel("Standard", "", np.zeros(IMAGE.shape), predicted)] * 3
        foot = _decode(render_png(IMAGE, panels, true_boxes=true, width=160))[HEAD + 160 :]
        assert (len(_pixels(foot, PREDICTED_COLOUR)) > 0) == (len(predicted) > 0)
        assert (len(_pixels(foot, TRUE_COLOUR)) > 0) == (len(true) > 0)


def _row_of(picture: np.ndarray, finding: str, colour: tuple[int, int, int], *, left: int) -> np.ndarray:
    """Columns of a colour in the bars of a finding, without its number."""
    top = HEAD + 200 + FOOT + HEAD + 20 * FINDINGS.index(finding)
    row = picture[top : top + 20, left : picture.shape[1] - 8 - 34]
    return np.unique(_pixels(row, colour)[:, 1])


def test_bars_have_length_of_probability_and_fill_from_threshold():
    raw_scores, thresholds = np.zeros(14), np.full(14, np.nan)
    values = {"Mass": (0.8, 0.4), "Nodule": (0.4, 0.8), "Hernia": (0.8, np.nan)}
    for finding, (score, threshold) in values.items():
        raw_scores[FINDINGS.index(finding)], thresholds[FINDINGS.index(finding)] = score, threshold
    panel = Panel("Standard", "", np.zeros(IMAGE.shape), NO_BOXES)
    bars = [Bars("Standard", raw_scores, thresholds)]
    picture = _decode(render_png(IMAGE, [panel] * 3, true_boxes=NO_BOXES, width=200, bars=bars))
    sky = BAR_PALETTE[0]
    long, short = _row_of(picture, "Mass", sky, left=8), _row_of(picture, "Nodule", sky, left=8)
    assert (long.max() - long.min()) / (short.max() - short.min()) == pytest.approx(2, abs=0.02)
    # The tick of one finding is where the bar of the other ends.
    tick = _row_of(picture, "Nodule", (255, 255, 255), left=8 + 130)
    assert tick.mean() + 130 == pytest.approx(long.max(), abs=1.5)
    pixels = {name: len(_pixels(picture[_rows(name), : -8 - 34], sky)) for name in values}
    assert pixels["Mass"] > 3 * pixels["Nodule"]  # filled and hollow
    assert pixels["Hernia"] < pixels["Mass"] / 2  # hollow without a threshold
    assert len(_row_of(picture, "Hernia", (255, 255, 255), left=8 + 130)) == 0


def _rows(finding: str) -> slice:
    top = HEAD + 200 + FOOT + HEAD + 20 * FINDINGS.index(finding)
    return slice(top, top + 20)


def test_long_names_stay_in_their_place():
    findings = ("Enlargement of the mediastinum on both sides", "b")
    panels = [Panel(findings[0] * 2, findings[0] * 2, np.zeros(IMAGE.shape), NO_BOXES)] * 2
    bars = [Bars("Standard", np.full(2, 0.5), np.full(2, np.nan), findings)]
    picture = _decode(render_png(IMAGE, panels, true_boxes=NO_BOXES, width=200, bars=bars))
    for left in (0, 8 + 200):  # the margin, and the space between the panels
        assert np.ptp(picture[:HEAD, left : left + 8].reshape(-1, 3), axis=0).max() == 0
    top = HEAD + 200 + FOOT + HEAD
    assert picture.shape[0] == top + 2 * 20 + 8
    name = picture[top : top + 20]
    assert np.ptp(name[:, :8].reshape(-1, 3), axis=0).max() == 0 and np.ptp(name[:, 8:60]) > 0


def test_point_is_ringed():
    panel = Panel("Standard", "", np.zeros(IMAGE.shape), NO_BOXES)
    attention = Panel("PCM", "", np.zeros((4, 4)), NO_BOXES, point=(0.25, 0.75))
    picture = _decode(render_png(IMAGE, [panel], true_boxes=NO_BOXES, width=200, attention=attention))
    top = HEAD + 200 + FOOT + HEAD
    rows, columns = _pixels(picture[top : top + 200, 8 : 8 + 200], (255, 255, 255)).T
    assert (columns.mean(), rows.mean()) == pytest.approx((50, 150), abs=1)
