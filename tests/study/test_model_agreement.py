"""Agreement of two models, counted by hand and in cases with a known chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from benchmarks.study.model_agreement import agreement
from cxr_seam.errors import InputError

LABELS = pd.DataFrame({"Mass": [1, 1, 1], "Nodule": [0, 0, 0], "Edema": [0, 1, 0]}, index=["a", "b", "c"])


def boxes(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image_index", "finding", "x", "y", "w", "h"])


def test_three_images_by_hand() -> None:
    """a: the same box; b: disjoint boxes; c: one model has no box, then a box that meets the other's on image b."""
    first = boxes(("a", "Mass", 0, 0, 0.1, 0.1), ("b", "Mass", 0.5, 0, 0.1, 0.1), ("c", "Mass", 0.3, 0.3, 0.1, 0.1))
    second = boxes(("a", "Mass", 0, 0, 0.1, 0.1), ("b", "Mass", 0.7, 0, 0.1, 0.1), ("c", "Nodule", 0.3, 0.3, 0.1, 0.1))
    table = agreement(first, second, labels=LABELS)
    assert list(table.index) == ["Mass", "Edema", "mean"]
    assert table.loc["Mass"].tolist() == pytest.approx([3, 1 / 3, 0, 1 / 3])
    second = boxes(*second.itertuples(index=False, name=None), ("c", "Mass", 0.52, 0, 0.1, 0.1))
    assert agreement(first, second, labels=LABELS).loc["Mass"].tolist() == pytest.approx([3, 1 / 3, 1 / 6, 1 / 6])


def test_iou_must_exceed_the_threshold() -> None:
    first, second = boxes(("a", "Mass", 0, 0, 0.5, 0.5)), boxes(("a", "Mass", 0.25, 0, 0.5, 0.5))  # IoU 1/3
    labels = LABELS[["Mass"]]
    assert agreement(first, second, labels=labels, threshold=0.33).loc["Mass", "agree"] == 1 / 3
    assert agreement(first, second, labels=labels, threshold=1 / 3).loc["Mass", "agree"] == 0


def predict(centres: Sequence, size: float) -> pd.DataFrame:
    """Boxes of one size around centres, on images "0", "1", ..."""
    return boxes(*[(str(i), "Mass", x - size / 2, y - size / 2, size, size) for i, (x, y) in enumerate(centres)])


def mass(count: int) -> pd.DataFrame:
    return pd.DataFrame({"Mass": 1}, index=[str(i) for i in range(count)])


@pytest.fixture
def gain() -> Callable[[float], float]:
    """Gain by box size, of two models that find the same lesions with independent errors."""
    generator = np.random.default_rng(0)
    lesions = generator.uniform(0.1, 0.9, (200, 2))
    seen = [lesions + generator.normal(0, 0.06, (200, 2)) for _ in range(2)]
    return lambda size: agreement(*(predict(c, size) for c in seen), labels=mass(200)).loc["mean", "gain"]


def test_gain_needs_boxes_of_the_right_size(gain: Callable[[float], float]) -> None:
    assert gain(0.005) < 0.1 and gain(0.2) > 0.6 and gain(3) == 0


def test_constant_boxes_have_no_gain() -> None:
    fixed = predict([(0.5, 0.5)] * 20, 0.4)
    assert agreement(fixed, fixed, labels=mass(20)).loc["Mass"].tolist() == [20, 1, 1, 0]


def test_independent_models_have_no_gain() -> None:
    generator = np.random.default_rng(1)
    one, other = (predict(generator.uniform(0.1, 0.9, (300, 2)), 0.3) for _ in range(2))
    row = agreement(one, other, labels=mass(300)).loc["Mass"]
    assert row["by_chance"] > 0.2 and abs(row["gain"]) < 0.06


def test_rare_findings_are_left_out_of_the_mean() -> None:
    labels = mass(12).assign(Hernia=[1] + [0] * 11)
    table = agreement(predict([(0.5, 0.5)] * 12, 0.1), boxes(), labels=labels)
    assert np.isnan(table.loc["Hernia", "gain"]) and table.loc["mean"].tolist() == table.loc["Mass"].tolist()


def test_two_boxes_or_no_finding_are_refused() -> None:
    twice = boxes(("a", "Mass", 0, 0, 0.1, 0.1), ("a", "Mass", 0.1, 0.1, 0.1, 0.1))
    with pytest.raises(InputError, match="two boxes of Mass"):
        agreement(twice, boxes(), labels=LABELS)
    with pytest.raises(InputError, match="no image has a finding"):
        agreement(boxes(), boxes(), labels=LABELS[["Nodule"]])
