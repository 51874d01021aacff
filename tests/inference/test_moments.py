"""The box of a heat map's moments."""

import numpy as np
import pytest

from cxr_seam.inference.boxes import boxes_from_heatmap
from cxr_seam.inference.extras.moments import DEVIATIONS, EXPONENT, STEPS, local_moment_box, moment_box


def test_two_pixels_by_hand():
    """Weights 1 and 2^-EXPONENT in the columns 2 and 6 of 8: mean and variance of two points, and of a pixel's area."""
    heatmap = np.zeros((4, 8))
    heatmap[1, 2], heatmap[1, 6] = 1, 0.5
    w = 0.5**EXPONENT
    mean = (2.5 / 8 + w * 6.5 / 8) / (1 + w)
    variance = ((2.5 / 8 - mean) ** 2 + w * (6.5 / 8 - mean) ** 2) / (1 + w) + (1 / 8) ** 2 / 12
    x, y, width, height = moment_box(heatmap)
    assert (x + width / 2, width) == pytest.approx((mean, DEVIATIONS * variance**0.5))
    assert (y + height / 2, height) == pytest.approx((1.5 / 4, DEVIATIONS * (1 / 4) / 12**0.5))


def test_disc_is_found():
    """Of a disc with radius r the variance along an axis is r^2 / 4, so the box has 0.75 of the disc's diameter."""
    y, x = (np.mgrid[:256, :256] + 0.5) / 256
    box = moment_box(((x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.2**2).astype(np.float32))
    assert box[:2] + box[2:] / 2 == pytest.approx([0.4, 0.6], abs=0.001)
    assert box[2:] == pytest.approx([DEVIATIONS * 0.1] * 2, abs=0.002)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_of_the_map_does_not_matter(scale):
    heatmap = np.random.default_rng(0).random((16, 16))
    assert moment_box(heatmap * scale) == pytest.approx(moment_box(heatmap))


def test_box_stays_in_the_image_and_moves_with_the_map():
    heatmap = np.zeros((32, 32))
    heatmap[3, 1], heatmap[9, 30] = 1, 0.8  # three standard deviations reach beyond the left edge only
    x, y, w, h = moment_box(heatmap)
    assert x == 0 and 0 < w < 1 and 0 < y and y + h < 1
    assert moment_box(heatmap[::-1, ::-1]) == pytest.approx([1 - x - w, 1 - y - h, w, h])


def test_rule_gives_one_box_with_the_peak_as_score():
    heatmap = np.zeros((16, 16))
    heatmap[2, 2], heatmap[12, 12] = 0.5, 0.4  # two contours at Q = 0.7
    assert len(boxes_from_heatmap(heatmap).score) == 2
    boxes = boxes_from_heatmap(heatmap, rule="moments")
    assert boxes.xywh.shape == (1, 4) and boxes.score.tolist() == [0.5]
    assert not len(boxes_from_heatmap(np.zeros((4, 4)), rule="moments").score)


def two_places(first: float, second: float) -> np.ndarray:
    """Two discs, one in each half of the image, with these peaks."""
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    left, right = ((x - at) ** 2 + (y - 0.5) ** 2 < 0.1**2 for at in (0.2, 0.8))
    return (first * left + second * right).astype(np.float32)


def test_local_moments_cover_the_stronger_of_two_places():
    """The global box spans the middle; the local one is close to that of the stronger disc alone."""
    both, alone = two_places(1, 0.9), two_places(1, 0)
    x, _, w, _ = moment_box(both)
    assert x < 0.2 and x + w > 0.8
    assert local_moment_box(both, window=0.1) == pytest.approx(local_moment_box(alone, window=0.1), abs=0.01)
    x, _, w, _ = local_moment_box(both)
    assert x + w < 0.7
    assert local_moment_box(both[:, ::-1])[0] == pytest.approx(1 - x - w, abs=1e-3)


def test_local_moments_against_a_slow_reference():
    heatmap = np.random.default_rng(1).random((12, 20)) ** 3
    weights = (heatmap / heatmap.max()) ** EXPONENT
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    cy, cx = (row + 0.5) / 12, (column + 0.5) / 20
    for _ in range(STEPS):
        sums = np.zeros(5)
        for i in range(12):
            for j in range(20):
                y, x = (i + 0.5) / 12, (j + 0.5) / 20
                w = weights[i, j] * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 0.2**2))
                sums += w * np.array([1, y, x, y * y, x * x])
        cy, cx = sums[1:3] / sums[0]
    variance_y, variance_x = sums[3:] / sums[0] - np.square(sums[1:3] / sums[0])
    height = DEVIATIONS * np.sqrt(variance_y + 1 / (12 * 12**2))
    width = DEVIATIONS * np.sqrt(variance_x + 1 / (12 * 20**2))
    left, top = max(0, cx - width / 2), max(0, cy - height / 2)
    expected = [left, top, min(1, cx + width / 2) - left, min(1, cy + height / 2) - top]
    assert local_moment_box(heatmap, window=0.2) == pytest.approx(expected, abs=1e-9)


def test_a_wide_window_changes_nothing():
    heatmap = np.random.default_rng(2).random((16, 16))
    assert local_moment_box(heatmap, window=1e4) == pytest.approx(moment_box(heatmap), abs=1e-6)
    box = boxes_from_heatmap(heatmap, rule="local_moments").xywh
    assert np.array_equal(box, local_moment_box(heatmap)[None])
