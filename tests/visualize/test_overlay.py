"""Heat maps and boxes painted on images."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from helpers.examples import IMAGE

from cxr_seam.visualize.overlay import draw_boxes, overlay_heatmap
from cxr_seam.visualize.style import PREDICTED_COLOUR, TRUE_COLOUR


def test_drawing_a_box_loads_only_numpy_and_opencv():
    code = "import sys, cxr_seam.visualize.overlay; print(*(name for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numpy", "cv2"} <= set(loaded)
    assert not {"torch", "pandas", "matplotlib", "sklearn", "PIL"} & set(loaded)
    assert {name for name in loaded if name.startswith("cxr_seam.")} == {
        "cxr_seam.visualize", "cxr_seam.visualize.overlay", "cxr_seam.visualize.style",
    }  # fmt: skip


def test_overlay_keeps_the_image_where_the_map_is_zero():
    heatmap = np.zeros(IMAGE.shape)
    heatmap[:, 32:] = np.linspace(0.1, 1, 32)
    shown = overlay_heatmap(IMAGE, heatmap, opacity=0.8)
    assert shown.dtype == np.uint8
    assert (shown[:, :32] == IMAGE[:, :32, None]).all()
    assert (shown[:, 40:] != IMAGE[:, 40:, None]).any(axis=-1).mean() > 0.9
    assert (overlay_heatmap(IMAGE, heatmap, opacity=0) == IMAGE[..., None]).all()


def test_overlay_is_rgb_and_hides_the_image_at_full_opacity():
    black, white, peak = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), np.ones((2, 2))
    assert (overlay_heatmap(black, peak, opacity=1) == overlay_heatmap(white, peak, opacity=1)).all()
    # Jet ends in dark red, so the first channel is red.
    red, _, blue = overlay_heatmap(black, peak, opacity=1, colour_map="jet")[0, 0].tolist()
    assert red > 100 and blue == 0


def test_overlay_blends_linearly():
    colour = overlay_heatmap(IMAGE, np.ones(IMAGE.shape), opacity=1)[0, 0].astype(float)
    half = overlay_heatmap(IMAGE, np.ones(IMAGE.shape), opacity=0.5)
    assert np.abs(half - (IMAGE[..., None] + colour) / 2).max() <= 0.51


def painted(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((image == colour).all(axis=-1))


def test_box_spans_its_pixels():
    image = np.full((128, 256, 3), 99, np.uint8)
    drawn = draw_boxes(image, np.array([[0.25, 0.25, 0.5, 0.125]]))  # x 64..191, y 32..47
    rows, columns = painted(drawn, PREDICTED_COLOUR).T
    assert (columns.min(), columns.max()) == pytest.approx((64, 191), abs=1)  # lines are two pixels wide
    assert (rows.min(), rows.max()) == pytest.approx((32, 47), abs=1)
    assert (drawn[36:44, 70:186] == 99).all()  # hollow
    assert (image == 99).all()  # drawn on a copy


def test_box_on_the_border_is_visible():
    drawn = draw_boxes(np.full((64, 64), 99, np.uint8), np.array([[0, 0, 1, 1]]))
    rows, columns = painted(drawn, PREDICTED_COLOUR).T
    assert {rows.min(), columns.min()} <= {0, 1}
    assert {rows.max(), columns.max()} <= {62, 63}
    assert len(rows) > 4 * 60


def test_true_box_is_dashed():
    image, box = np.full((128, 128, 3), 99, np.uint8), np.array([[0.125, 0.125, 0.75, 0.75]])
    solid = len(painted(draw_boxes(image, box), PREDICTED_COLOUR))
    dashed = len(painted(draw_boxes(image, true=box), TRUE_COLOUR))
    assert 0.3 * solid < dashed < 0.9 * solid


def test_no_boxes_draw_nothing():
    image = np.full((16, 16, 3), 99, np.uint8)
    assert (draw_boxes(image, np.zeros((0, 4))) == image).all()
