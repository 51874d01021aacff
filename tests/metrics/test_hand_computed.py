"""Every score of a case that is small enough to compute by hand.

Four images of two patients, one finding (a mass), a CAM of 8 x 8 pixels for each image.

    image  patient  label  raw score    true box x, y, w, h      CAM
    a      p        1      0.5          1/8, 1/8, 1/4, 1/2       a square of 4 pixels, and one weaker pixel
    b      p        1      0.6          7/8, 1/8, 1/8, 1/4       4 x 2 pixels at the upper and right edge
    c      q        0      0.6          none                     one pixel
    d      q        1      0.1          0, 0, 1/2, 1/2           nothing above zero
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_seam.findings import FINDINGS, OPERATING_POINTS, XYWH
from cxr_seam.inference.boxes import predicted_boxes
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.metrics.best_box import score_best_boxes
from cxr_seam.metrics.bootstrap import bootstrap_patients
from cxr_seam.metrics.classification import classification_scores
from cxr_seam.metrics.froc import froc
from cxr_seam.metrics.localization import best_boxes, localization_scores, localization_table
from cxr_seam.metrics.matching import iobb, iou, match, rank_by_raw_score
from cxr_seam.metrics.pointing_game import points

IMAGES, PATIENTS, LABELS, RAW_SCORES = list("abcd"), list("ppqq"), (1, 1, 0, 1), (0.5, 0.6, 0.6, 0.1)
TRUE_BOXES = {"a": (1 / 8, 1 / 8, 1 / 4, 1 / 2), "b": (7 / 8, 1 / 8, 1 / 8, 1 / 4), "d": (0, 0, 1 / 2, 1 / 2)}


@pytest.fixture(scope="module")
def cams() -> torch.Tensor:
    cam = torch.zeros(4, 1, 8, 8)
    cam[0, 0] = 2
    cam[0, 0, 0, 0] = -4
    cam[0, 0, 1:3, 1:3] = 10
    cam[0, 0, 2, 2] = 8
    cam[0, 0, 6, 6] = 7.5
    cam[1, 0, 0:2, 4:8] = 3
    cam[2, 0, 5, 5] = 1
    cam[3, 0] = -1
    return cam


@pytest.fixture(scope="module")
def heatmaps(cams) -> np.ndarray:
    return cam_to_heatmap(cams, 8).numpy()


@pytest.fixture(scope="module")
def truth() -> pd.DataFrame:
    rows = [(image, "Mass", *box) for image, box in TRUE_BOXES.items()]
    return pd.DataFrame(rows, columns=["image_index", "finding", *XYWH])


@pytest.fixture(scope="module")
def boxes(heatmaps) -> pd.DataFrame:
    tables = [predicted_boxes(maps, image, ["Mass"]) for maps, image in zip(heatmaps, IMAGES, strict=True)]
    raw_scores = pd.DataFrame({"Mass": RAW_SCORES}, index=list(IMAGES))
    return rank_by_raw_score(pd.concat(tables, ignore_index=True), raw_scores)


def test_heatmaps(heatmaps):
    # -4 is cut to 0; the others are divided by the maximum, 10.
    assert heatmaps[0, 0, [0, 2, 4, 6, 1], [0, 2, 4, 6, 1]] == pytest.approx([0, 0.8, 0.2, 0.75, 1])
    assert not heatmaps[3].any()


def test_boxes(boxes):
    # 0.7 of the maximum keeps the square (10, 10, 10, 8) and the pixel of 7.5; the stronger box comes first.
    assert (boxes[XYWH] * 8).to_numpy().tolist() == [[1, 1, 2, 2], [6, 6, 1, 1], [4, 0, 4, 2], [5, 5, 1, 1]]
    assert boxes["image_index"].tolist() == ["a", "a", "b", "c"]


def test_overlaps(boxes):
    a, b = (boxes.loc[boxes["image_index"] == image, XYWH].to_numpy() for image in "ab")
    # a: the first box is the upper half of the true one, the second is elsewhere.
    assert iobb(a, [TRUE_BOXES["a"]])[:, 0] == pytest.approx([1, 0])
    assert iou(a, [TRUE_BOXES["a"]])[:, 0] == pytest.approx([0.5, 0])
    # b: in pixels of the map they share 1 of 4 x 2 = 8; the union is 8 + 2 - 1 = 9.
    assert iobb(b, [TRUE_BOXES["b"]]).item() == pytest.approx(1 / 8)
    assert iou(b, [TRUE_BOXES["b"]]).item() == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("measure", "threshold", "counts"),
    [
        ("iobb", 0.1, [3, 2, 2]),  # a and b are found, d is not; a's second box and c's are false
        ("iobb", 0.25, [3, 1, 3]),  # b's box no longer counts and becomes false
        ("iou", 0.2, [3, 1, 3]),
        ("iou", 0.5, [3, 0, 4]),  # an IoU of 0.5 is not above 0.5
    ],
)
def test_localization_counts(boxes, truth, measure, threshold, counts):
    row = localization_table(boxes, truth, images=IMAGES, measure=measure, threshold=threshold).loc["Mass"]
    assert row[["boxes", "correct", "false_positives"]].tolist() == counts
    assert row["accuracy"] == pytest.approx(counts[1] / 3)
    assert row["false_positives_per_image"] == pytest.approx(counts[2] / 4)
    assert row["false_positives_per_box"] == pytest.approx(counts[2] / 3)


def test_best_boxes(boxes, truth):
    row = localization_table(best_boxes(boxes), truth, images=IMAGES, measure="iou", threshold=0.1).loc["Mass"]
    assert row[["boxes", "correct", "false_positives"]].tolist() == [3, 2, 1]
    scored = score_best_boxes(boxes, truth)
    assert scored["iou"].tolist() == pytest.approx([1 / 2, 1 / 9, 0])
    assert scored["correct"].tolist() == [True, False, False]  # above 0.3


def test_accuracy_interval(boxes, truth):
    # A replicate has patient p twice (4 of 4), q twice (0 of 2) or both (2 of 3). Each of the extremes is a quarter of
    # the replicates, more than the 2.5 % that are cut off.
    bootstrap = bootstrap_patients(PATIENTS, n_bootstrap=200)
    scores, _ = localization_scores(boxes, truth, images=IMAGES, bootstrap=bootstrap)
    accuracy = scores["all_boxes"]["iobb>0.1"]["findings"]["Mass"]["accuracy"]
    assert accuracy == pytest.approx({"value": 2 / 3, "low": 0, "high": 1})


def test_froc(boxes, truth):
    # Probability times peak: b 0.6 (found) and c 0.6 (false) tie, then a 0.5 (found), a's second 0.375 (false).
    # Points: (0, 0), straight to (1/4, 1/3), up to (1/4, 2/3), to (2/4, 2/3). Halfway along the first line: 1/6.
    curve = froc(match(boxes, truth, images=IMAGES), measure="iou", threshold=0.1)
    assert [curve.at(rate)["Mass"] for rate in (1 / 8, 1 / 4, 1)] == pytest.approx([1 / 6, 2 / 3, 2 / 3])


def test_pointing_game(heatmaps, truth):
    # a: its three pixels of 10 lie in the box. b: one of eight equal pixels does (its centre is 15/16, 3/16). d: none.
    tables = [points(maps, image, ["Mass"], truth=truth) for maps, image in zip(heatmaps, IMAGES, strict=True)]
    assert pd.concat(tables)["hit"].tolist() == [1, 1 / 8, 0]


def test_classification():
    labels, raw_scores = np.zeros((2, len(IMAGES), len(FINDINGS)))
    mass = FINDINGS.index("Mass")
    labels[:, mass], raw_scores[:, mass] = LABELS, RAW_SCORES
    bootstrap = bootstrap_patients(PATIENTS, n_bootstrap=2)
    thresholds = dict.fromkeys(OPERATING_POINTS, np.full(len(FINDINGS), 0.5))
    table, _ = classification_scores(labels, raw_scores, bootstrap=bootstrap, thresholds=thresholds)
    expected = {
        "auc": 1 / 6,  # of the pairs (a, c), (b, c), (d, c) one is tied and none is right
        "average_precision": 23 / 36,  # (1/2 + 2/3 + 3/4) / 3 at the thresholds 0.6, 0.5, 0.1
        "sensitivity": 2 / 3,  # at 0.5: a, b (right) and c (wrong) are positive
        "specificity": 0,
        "f1": 2 / 3,
    }
    row = table["findings"]["Mass"]
    row = row | row["operating_points"]["youden"]
    assert {name: row[name]["value"] for name in expected} == pytest.approx(expected)
