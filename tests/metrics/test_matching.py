"""Overlaps of boxes against hand calculations and counted pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxr_seam.metrics.localization import localization_table
from cxr_seam.metrics.matching import boxed_findings, iobb, iou


def test_overlaps_match_hand_computed_values():
    a = [[0, 0, 4, 4], [0, 0, 2, 2], [10, 10, 1, 1]]
    b = [[2, 2, 4, 4], [0, 0, 2, 2]]
    # 4x4 and 4x4 share 2x2: 4 / 28. 2x2 lies in 4x4: 4 / 16 as IoU, all of it as IoBB. A touch is nothing.
    assert iou(a, b) == pytest.approx(np.array([[4 / 28, 4 / 16], [0, 1], [0, 0]]))
    assert iobb(a, b) == pytest.approx(np.array([[4 / 16, 4 / 16], [0, 1], [0, 0]]))


def test_iobb_divides_by_the_predicted_box():
    small, large = [[2, 2, 2, 2]], [[0, 0, 10, 10]]
    assert iobb(small, large).item() == 1
    assert iobb(large, small).item() == pytest.approx(0.04)


def test_overlaps_match_counted_pixels():
    generator = np.random.default_rng(0)
    a, b = (np.hstack([generator.integers(0, 12, (9, 2)), generator.integers(1, 9, (9, 2))]) for _ in range(2))

    def pixels(box):
        x, y, w, h = box
        return {(i, j) for i in range(x, x + w) for j in range(y, y + h)}

    for i, p in enumerate(map(pixels, a.tolist())):
        for j, t in enumerate(map(pixels, b.tolist())):
            assert iou(a, b)[i, j] == pytest.approx(len(p & t) / len(p | t))
            assert iobb(a, b)[i, j] == pytest.approx(len(p & t) / len(p))


def test_overlaps_of_no_boxes_and_empty_boxes():
    assert iou(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)
    assert iobb([[0, 0, 1, 1]], np.zeros((0, 4))).shape == (1, 0)
    assert iou([[3, 3, 0, 0]], [[3, 3, 0, 0]]).item() == 0
    assert iobb([[3, 3, 0, 5]], [[0, 0, 9, 9]]).item() == 0


def test_findings_are_matched_by_name_in_their_own_order():
    """Two true boxes of Opacity on one image; one is found. Boxes of Air are not scored; Mass has only a false one."""
    columns = ["image_index", "finding", "x", "y", "w", "h"]
    truth = pd.DataFrame(
        [("a", "Opacity", 0, 0, 0.5, 0.5), ("a", "Opacity", 0.5, 0.5, 0.5, 0.5), ("a", "Air", 0, 0, 1, 1)],
        columns=columns,
    )
    predicted = truth.iloc[[0, 2]].assign(finding=["Opacity", "Mass"])
    assert boxed_findings(("Opacity", "Mass", "Air"), truth) == ("Opacity", "Air")
    options = {"images": ["a"], "findings": ("Opacity", "Mass"), "measure": "iou", "threshold": 0.3}
    table = localization_table(predicted, truth, **options)
    assert list(table.index) == ["Opacity", "Mass", "macro", "micro"]
    assert table["boxes"].tolist() == [2, 0, 2, 2] and table["correct"].tolist() == [1, 0, 1, 1]
    assert table["false_positives"].tolist() == [0, 1, 1, 1]
    assert table["accuracy"].dropna().tolist() == [0.5, 0.5, 0.5]
