"""FROC curves: worked out by hand, against plain loops that really resample, and as properties."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.evaluation.baselines import centre_boxes
from cxr_seam.findings import BOXED_FINDINGS
from cxr_seam.metrics.bootstrap import bootstrap_patients
from cxr_seam.metrics.froc import Froc, froc
from cxr_seam.metrics.localization import localization_scores, localization_table
from cxr_seam.metrics.matching import PREDICTED_COLUMNS, match

HERE, THERE = (100, 100, 100, 100), (600, 600, 50, 50)  # they do not touch
IMAGES = ["a", "b", "c", "d"]
TRUTH = pd.DataFrame(
    [("a", "Mass", *HERE), ("b", "Mass", *HERE)], columns=["image_index", "finding", "x", "y", "w", "h"]
)


def boxes(*rows: tuple) -> pd.DataFrame:
    """Boxes of masses, given as image, position and score."""
    return pd.DataFrame([(image, "Mass", *box, score) for image, box, score in rows], columns=PREDICTED_COLUMNS)


def at(predicted: pd.DataFrame, *x: float, truth: pd.DataFrame = TRUTH, finding: str = "Mass") -> list[float]:
    curve = froc(match(predicted, truth, images=IMAGES))
    return [curve.at(rate)[finding] for rate in x]


def test_froc_matches_hand_computed_curve():
    predicted = boxes(
        ("b", HERE, 0.6),  # finds b
        ("a", HERE, 0.9),  # finds a
        ("c", HERE, 0.8),  # c has no true box: false
        ("d", THERE, 0.7),  # false
        ("a", THERE, 0.5),  # false
    )
    # The threshold falls: .9 (0 false, 1 of 2 found), .8 (1, 1), .7 (2, 1), .6 (2, 2), .5 (3, 2); 4 images.
    # At 2 / 4 = 0.5 false positives per image the curve rises from 1/2 to 1 and the larger one counts; just before
    # it does not. It ends at 3 / 4 and keeps its last accuracy at 1.
    assert at(predicted, 0, 0.25, 0.499, 0.5, 0.75, 1) == [0.5, 0.5, 0.5, 1, 1, 1]


def test_equal_scores_are_a_straight_line():
    tied = [("a", HERE, 1.0), ("b", THERE, 1.0), ("c", HERE, 1.0), ("d", HERE, 1.0)]
    # One step: from (0, 0) to (3 / 4, 1 / 2). At 0.25 a third of the way, at 0.5 two thirds.
    assert at(boxes(*tied), 0, 0.25, 0.5, 0.75, 1) == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 1 / 2])
    # b is found by the next score, before any further false positive: the curve rises at 3 / 4.
    assert at(boxes(*tied, ("b", HERE, 0.3)), 0.5, 0.74999, 0.75, 1) == pytest.approx([1 / 3, 1 / 2, 1, 1], abs=1e-4)
    assert at(boxes(*reversed(tied)), 0.25, 0.5) == pytest.approx([1 / 6, 1 / 3])  # order of rows is nothing


def test_second_box_on_found_lesion_does_not_count():
    once = boxes(("a", HERE, 0.9), ("c", HERE, 0.5), ("b", HERE, 0.4))
    twice = boxes(
        ("a", HERE, 0.9), ("a", HERE, 0.8), ("a", (110, 110, 80, 80), 0.5), ("c", HERE, 0.5), ("b", HERE, 0.4)
    )
    rates = (0, 0.1, 0.25, 1)
    assert at(once, *rates) == at(twice, *rates) == [0.5, 0.5, 1, 1]


def test_several_true_boxes_count_each():
    truth = pd.concat([TRUTH, TRUTH.assign(x=600, y=600, w=50, h=50)[:1]])
    # Three true masses: two in a, one in b. 0.9 finds one, 0.8 another in the same image, c is false.
    assert at(boxes(("a", HERE, 0.9), ("c", HERE, 0.85), ("a", THERE, 0.8)), 0, 0.25, truth=truth) == pytest.approx(
        [1 / 3, 2 / 3]
    )


def test_finding_without_true_boxes_is_nan():
    curve = froc(match(boxes(("a", HERE, 1.0)), TRUTH, images=IMAGES)).at(0.5)
    assert list(curve) == [*BOXED_FINDINGS, "macro"]
    assert np.isnan(curve["Nodule"])
    assert curve["macro"] == curve["Mass"] == 0.5
    assert np.isnan(froc(match(boxes(("c", HERE, 1.0)), TRUTH, images=["c"])).at(0.5)["macro"])


def test_no_predicted_boxes_have_accuracy_zero():
    assert at(boxes(), 0, 1) == [0, 0]


def test_probability_ranks_boxes_of_images():
    predicted = boxes(("a", HERE, 0.7), ("c", HERE, 1.0))  # alone, the peaks put the false one first
    assert at(predicted, 0) == [0]
    assert at(predicted.assign(raw_score=[0.9, 0.5]), 0) == [0.5]  # 0.63 before 0.5
    assert at(predicted.assign(raw_score=[0.0, 0.0]), 0, 0.125, 0.25) == [0, 0.25, 0.5]  # both 0: tied


def test_rate_is_robust_to_rounding():
    images = [str(i) for i in range(100)]
    truth = TRUTH[:1].assign(image_index="99")
    predicted = boxes(*[(str(i), HERE, 1 - i / 100) for i in range(29)], ("99", HERE, 0.5))
    assert 0.29 * 100 < 29  # in floating point
    assert froc(match(predicted, truth, images=images)).at(0.29)["Mass"] == 1


def test_score_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="not finite"):
        froc(match(boxes(("a", HERE, np.nan)), TRUTH, images=IMAGES))


def some_tables(seed: int, images: int = 12, count: int = 150) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Random boxes with many equal scores, true ones of two findings, and a patient for each image."""
    generator = np.random.default_rng(seed)

    def some(count: int) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "image_index": generator.choice([f"{i}" for i in range(images)], count),
                "finding": generator.choice(BOXED_FINDINGS[:2], count),
                "x": generator.random(count) * 700,
                "y": generator.random(count) * 700,
                "w": generator.random(count) * 400 + 20,
                "h": generator.random(count) * 400 + 20,
                "score": generator.choice([0.25, 0.5, 0.75, 1.0], count),
                "raw_score": generator.choice([0.25, 0.5, 0.75], count),
            }
        )

    return some(count), some(16).drop(columns=["score", "raw_score"]), [f"p{i // 2}" for i in range(images)]


def slow_overlap(p, t, measure: str) -> float:
    width = min(p.x + p.w, t.x + t.w) - max(p.x, t.x)
    height = min(p.y + p.h, t.y + t.h) - max(p.y, t.y)
    shared = max(width, 0) * max(height, 0)
    return shared / (p.w * p.h if measure == "iobb" else p.w * p.h + t.w * t.h - shared)


def slow_froc(predicted: pd.DataFrame, truth: pd.DataFrame, finding: str, n: int, x: float, measure: str) -> float:
    """The definition: a threshold at each score, all boxes counted again, straight lines between."""
    predicted = [row for row in predicted.itertuples() if row.finding == finding]
    truth = [row for row in truth.itertuples() if row.finding == finding]
    if not truth:
        return np.nan

    def meets(p, t) -> bool:
        return p.image_index == t.image_index and slow_overlap(p, t, measure) > 0.2

    points = [(0.0, 0.0)]
    for score in sorted({p.score * p.raw_score for p in predicted}, reverse=True):
        selected = [p for p in predicted if p.score * p.raw_score >= score]
        false = sum(not any(meets(p, t) for t in truth) for p in selected)
        found = sum(any(meets(p, t) for p in selected) for t in truth)
        points.append((false / n, found / len(truth)))
    accuracy = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= x:
            accuracy = y1
        elif x0 <= x:
            accuracy = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return accuracy


def resampled(table: pd.DataFrame, images: list[str], weights: np.ndarray) -> pd.DataFrame:
    """The rows of each image as often as it was drawn, each time as an image of its own."""
    copies = [
        table[table["image_index"] == image].assign(image_index=f"{image} {copy}")
        for image, weight in zip(images, weights, strict=True)
        for copy in range(weight)
    ]
    return pd.concat([table[:0], *copies])


@pytest.mark.parametrize("measure", ["iou", "iobb"])
@pytest.mark.parametrize("seed", range(3))
def test_froc_matches_slow_reference(seed, measure):
    predicted, truth, _ = some_tables(seed)
    images = [f"{i}" for i in range(12)]
    curve = froc(match(predicted, truth, images=images), measure=measure, threshold=0.2)
    for x in (0, 0.1, 0.25, 0.5, 1, 1.7, 3, 20):
        expected = [slow_froc(predicted, truth, finding, 12, x, measure) for finding in BOXED_FINDINGS[:2]]
        assert list(curve.at(x).values())[:2] == pytest.approx(expected)
        assert curve.at(x)["macro"] == pytest.approx(np.mean(expected))


def test_replicates_match_resampled_tables():
    predicted, truth, patient_id = some_tables(5, count=90)
    images = [f"{i}" for i in range(12)]
    bootstrap = bootstrap_patients(patient_id, n_bootstrap=12, seed=1)
    curve = froc(match(predicted, truth, images=images), measure="iou", threshold=0.2)
    accuracies = curve.accuracies([0.25, 1], bootstrap.weights(0, 12))
    assert accuracies.shape == (12, 2, 8)
    assert np.isnan(accuracies[..., 2:]).all()
    for weights, values in zip(bootstrap.weights(0, 12), accuracies, strict=True):
        tables = [resampled(table, images, weights) for table in (predicted, truth)]
        for number, finding in enumerate(BOXED_FINDINGS[:2]):
            expected = [slow_froc(*tables, finding, int(weights.sum()), x, "iou") for x in (0.25, 1)]
            assert values[:, number] == pytest.approx(expected, nan_ok=True)


def test_many_levels_match_slow_reference():
    """More false positives than the first block has; no ties, so each has its own threshold."""
    predicted, truth, patient_id = some_tables(2, count=1500)
    predicted["score"] = np.random.default_rng(0).random(1500)
    images = [f"{i}" for i in range(12)]
    curve = froc(match(predicted, truth, images=images), threshold=0.2)
    for rates in ([0.25], [1], [0.25, 1, 30], [5, 200]):
        values = curve.accuracies(rates, np.ones((1, 12), dtype=np.uint8))[0]
        for rate, value in zip(rates, values, strict=True):
            expected = [slow_froc(predicted, truth, finding, 12, rate, "iou") for finding in BOXED_FINDINGS[:2]]
            assert value[:2] == pytest.approx(expected)
    weights = bootstrap_patients(patient_id, n_bootstrap=30).weights(0, 30)
    together = curve.accuracies([0.25, 1, 30], weights)
    for x, rate in enumerate((0.25, 1, 30)):
        np.testing.assert_allclose(curve.accuracies([rate], weights)[:, 0], together[:, x])


@pytest.mark.parametrize("seed", range(3))
def test_macro_curve_rises_to_accuracy_of_all_boxes(seed):
    predicted, truth, _ = some_tables(seed)
    images = [f"{i}" for i in range(12)]
    curve = froc(match(predicted, truth, images=images))
    x, macro = curve.macro_curve()
    assert len(x) <= 100 and x[0] == 0 and (np.diff(x) > 0).all()
    assert (np.diff(macro) >= -1e-12).all() and macro[0] < macro[-1] <= 1
    end = localization_table(predicted, truth, images=images, measure="iou")["accuracy"]
    assert macro[-1] == pytest.approx(end["macro"])
    assert curve.at(x[-1])["Cardiomegaly"] == pytest.approx(end["Cardiomegaly"])


def test_froc_depends_on_order_of_scores_only():
    predicted, truth, _ = some_tables(4)
    images = [f"{i}" for i in range(12)]
    changed = predicted.assign(score=(predicted["score"] * predicted["raw_score"]) ** 3 / 7, raw_score=1.0)
    first, second = (froc(match(table, truth, images=images)).macro_curve() for table in (predicted, changed))
    np.testing.assert_allclose(first, second)


def test_centre_box_is_a_straight_line(nih_root):
    """Centre boxes all tie, so at x the accuracy is x / (false positives per image) of the whole, for each finding."""
    official = load_metadata(nih_root).boxes
    images = list(official["image_index"].unique())
    centre = centre_boxes(images)
    table = localization_table(centre, official, images=images, measure="iou")
    curve: Froc = froc(match(centre, official, images=images), measure="iou")
    expected = 0.5 / table["false_positives_per_image"] * table["accuracy"]
    for finding in BOXED_FINDINGS:
        assert curve.at(0.5)[finding] == pytest.approx(expected[finding])
        assert curve.at(1)[finding] == pytest.approx(table["accuracy"][finding])


def test_perfect_probabilities_improve_froc(nih_root):
    """With the image's own labels as raw_scores, false positives come last: no box elsewhere goes before."""
    official = load_metadata(nih_root).boxes
    images = list(official["image_index"].unique())
    centre = centre_boxes(images)
    labels = set(zip(official["image_index"], official["finding"], strict=True))
    raw_score = [float(key in labels) for key in zip(centre["image_index"], centre["finding"], strict=True)]
    bootstrap = bootstrap_patients(range(len(images)), n_bootstrap=20)
    (plain, _), (with_boxes, _) = (
        localization_scores(table, official, images=images, bootstrap=bootstrap)
        for table in (centre, centre.assign(raw_score=raw_score))
    )
    # Of 180 images with atelectasis at most 180 false positives come first, a fifth of 880: all that is found is found.
    value = with_boxes["froc"]["iou>0.1"]["at_fp_rate"]["0.25"]["findings"]["Atelectasis"]["value"]
    assert value == with_boxes["all_boxes"]["iou>0.1"]["findings"]["Atelectasis"]["accuracy"]["value"]
    assert value > 2 * plain["froc"]["iou>0.1"]["at_fp_rate"]["0.25"]["findings"]["Atelectasis"]["value"]
