"""Scores of heat maps against outlines, worked out by hand on grids of a few pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxr_seam.metrics.bootstrap import bootstrap_patients
from cxr_seam.metrics.pixels import PIXEL_METRICS, pixel_rows, pixel_scores, rasterize

LEFT = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
TOP = [(0, 0), (1, 0), (1, 0.5), (0, 0.5)]


def masks(*rows: tuple[str, str, list[tuple[float, float]]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image_index", "finding", "polygon"])


def test_rasterize_by_hand() -> None:
    """The left half, and a triangle below the diagonal: pixel centres on the diagonal itself are half-open."""
    assert rasterize([LEFT], (2, 4)).tolist() == [[True, True, False, False]] * 2
    triangle = rasterize([[(0, 0), (1, 1), (0, 1)]], (4, 4))
    assert triangle.tolist() == [[x < y for x in range(4)] for y in range(4)]
    assert rasterize([LEFT, TOP], (2, 2)).tolist() == [[True, True], [True, False]]  # the union
    assert not rasterize([[(0.3, 0.3), (0.4, 0.3), (0.4, 0.4)]], (2, 2)).any()  # no centre of a pixel inside
    assert not rasterize([], (2, 2)).any()


def test_rasterize_self_crossing_polygon_by_even_odd_rule() -> None:
    """A square that is passed twice is outside again."""
    assert not rasterize([LEFT * 2], (4, 4)).any()


@pytest.mark.parametrize("seed", range(5))
def test_rasterize_matches_matplotlib(seed: int) -> None:
    """Random convex polygons against matplotlib's test of points."""
    from matplotlib.path import Path

    generator = np.random.default_rng(seed)
    angles = np.sort(generator.random(7)) * 2 * np.pi
    corners = np.stack([0.5 + 0.37 * np.cos(angles), 0.5 + 0.41 * np.sin(angles)], axis=1)
    y, x = np.mgrid[:23, :31]
    centres = np.stack([(x + 0.5) / 31, (y + 0.5) / 23], axis=-1).reshape(-1, 2)
    expected = Path(corners).contains_points(centres).reshape(23, 31)
    assert np.array_equal(rasterize([[tuple(corner) for corner in corners]], (23, 31)), expected) and expected.any()


def test_scores_of_an_image_by_hand() -> None:
    """Mass, the left half (8 pixels): 3 pixels are predicted, 2 of them inside; of 2 maxima 1 is inside."""
    mass, zeros = np.zeros((4, 4)), np.zeros((4, 4))
    mass[1, [0, 3]], mass[2, 1], mass[3, 3] = 0.8, 0.7 * 0.8, 0.5
    outlines = masks(("a", "Mass", LEFT), ("a", "Nodule", TOP), ("b", "Edema", TOP))
    options = {"masks": outlines, "threshold": 0.7}
    rows = pixel_rows(np.stack([mass, zeros, mass]), "a", ("Mass", "Nodule", "Edema"), **options)
    assert rows["finding"].tolist() == ["Mass", "Nodule"]
    assert rows.loc[0, list(PIXEL_METRICS)].tolist() == pytest.approx([2 / 9, 4 / 11, 1 / 2])
    assert rows.loc[1, list(PIXEL_METRICS)].tolist() == [0, 0, 0]  # a map of zeros predicts nothing
    perfect = pixel_rows(rasterize([TOP], (4, 4))[None].astype(float), "a", ("Nodule",), **options)
    assert perfect.loc[0, list(PIXEL_METRICS)].tolist() == [1, 1, 1]


def test_means_and_intervals_by_hand() -> None:
    """Mass: (0.2 + 0.6) / 2 over the images with a mask; the third image has none. Nodule: 0.9."""
    columns = ["image_index", "finding", *PIXEL_METRICS]
    rows = [("a", "Mass", 0.2, 0.3, 0.0), ("b", "Mass", 0.6, 0.7, 1.0), ("b", "Nodule", 0.9, 0.9, 1.0)]
    bootstrap = bootstrap_patients([1, 2, 3], n_bootstrap=200)
    names = {"images": ["a", "b", "c"], "findings": ("Mass", "Nodule")}
    scores, samples = pixel_scores(pd.DataFrame(rows, columns=columns), **names, bootstrap=bootstrap)
    assert scores["iou"]["findings"]["Mass"]["value"] == pytest.approx(0.4)
    assert scores["iou"]["macro"]["value"] == pytest.approx((0.4 + 0.9) / 2)
    assert scores["dice"]["findings"]["Mass"]["value"] == pytest.approx(0.5)
    assert scores["hit_rate"]["findings"]["Mass"]["value"] == 0.5
    a, b, _ = bootstrap.weights(0, 200).T.astype(float)
    with np.errstate(invalid="ignore"):
        expected = np.where(b > 0, ((0.2 * a + 0.6 * b) / (a + b) + 0.9) / 2, np.nan)
    np.testing.assert_allclose(samples["iou"], expected)
