"""The prior that has seen boxes: what it was given, and that nobody is given their own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.evaluation.baselines import centre_boxes, prior_boxes
from cxr_seam.findings import BOXED_FINDINGS
from cxr_seam.metrics.localization import localization_table
from cxr_seam.metrics.matching import PREDICTED_COLUMNS

COLUMNS = ["image_index", "finding", "x", "y", "w", "h"]
# Patient 1 has the images a and b, patient 2 the image c. One patient is in each half, whichever it is.
TRUTH = pd.DataFrame(
    [
        ("a", "Mass", 100, 100, 100, 100),
        ("b", "Mass", 300, 200, 200, 50),
        ("c", "Mass", 700, 700, 10, 20),
        ("c", "Nodule", 500, 500, 30, 30),
    ],
    columns=COLUMNS,
)
PATIENT_OF = {"a": 1, "b": 1, "c": 2}


@pytest.mark.parametrize("seed", range(4))
def test_prior_by_hand(seed):
    given = prior_boxes(TRUTH, patient_of=PATIENT_OF, seed=seed)
    assert list(given.columns) == PREDICTED_COLUMNS
    assert sorted(given.to_numpy().tolist()) == [
        ["a", "Mass", 700, 700, 10, 20, 1],
        ["a", "Nodule", 500, 500, 30, 30, 1],
        ["b", "Mass", 700, 700, 10, 20, 1],
        ["b", "Nodule", 500, 500, 30, 30, 1],
        ["c", "Mass", 200, 150, 150, 75, 1],  # the mean of a's and b's; patient 1 has no nodule to give
    ]


def test_prior_for_image_without_boxes():
    given = prior_boxes(TRUTH, patient_of=PATIENT_OF | {"d": 3, "e": 1})
    assert {"d", "e"} <= set(given["image_index"])
    same = given[given["image_index"] == "a"][["finding", "x"]].to_numpy().tolist()
    assert given[given["image_index"] == "e"][["finding", "x"]].to_numpy().tolist() == same  # of the same patient


def test_prior_ignores_order():
    generator = np.random.default_rng(0)
    images = [f"{i}" for i in range(30)]
    truth = pd.DataFrame({"image_index": images, "finding": "Mass"} | {c: generator.random(30) for c in "xywh"})
    patient_of = {image: int(image) // 2 for image in images}
    first = prior_boxes(truth, patient_of=patient_of, seed=1)
    shuffled = prior_boxes(truth[::-1], patient_of=dict(reversed(patient_of.items())), seed=1)
    keys = ["image_index", "finding"]
    pd.testing.assert_frame_equal(*(t.sort_values(keys, ignore_index=True) for t in (first, shuffled)))
    other = prior_boxes(truth, patient_of=patient_of, seed=2)
    assert first["x"].nunique() == other["x"].nunique() == 2
    assert set(first["x"]) != set(other["x"])


def test_prior_excludes_own_patient(nih_root):
    """Move one patient's boxes far away: what that patient is given stays, what others are given may not."""
    tables = load_metadata(nih_root)
    official = tables.boxes
    patient_of = tables.images["patient_id"].reindex(official["image_index"].unique()).to_dict()
    assert len(patient_of) == 880
    before = prior_boxes(official, patient_of=patient_of)
    assert before.groupby("finding")["x"].nunique().eq(2).all()  # one mean of each half
    assert len(before) == 880 * 8
    for patient in list(dict.fromkeys(patient_of.values()))[:5]:
        own = official["image_index"].map(patient_of) == patient
        after = prior_boxes(official.assign(x=official["x"] + 10_000 * own), patient_of=patient_of)
        mine = before["image_index"].map(patient_of) == patient
        pd.testing.assert_frame_equal(before[mine], after[mine])
        assert not before.equals(after)


def test_prior_beats_centre_for_hearts(nih_root):
    """Hearts lie in one place, so their mean box beats any centred one; for the rest the two are alike."""
    tables = load_metadata(nih_root)
    official = tables.boxes
    images = list(official["image_index"].unique())
    patient_of = tables.images["patient_id"].reindex(images).to_dict()
    prior, centre, half = (
        localization_table(boxes, official, images=images, measure="iou", threshold=0.5)["accuracy"]["Cardiomegaly"]
        for boxes in (
            prior_boxes(official, patient_of=patient_of),
            centre_boxes(images),
            centre_boxes(images, extent=0.5),
        )
    )
    assert prior > 0.8 > max(centre, half)


def test_prior_covers_all_findings():
    rows = [(f"{i}", finding, i, i, 10, 10) for i in range(40) for finding in BOXED_FINDINGS]
    truth = pd.DataFrame(rows, columns=COLUMNS)
    given = prior_boxes(truth, patient_of={f"{i}": i for i in range(40)})
    assert len(given) == 40 * 8
    # The two means of the halves, 20 patients each, average to the mean of all: 19.5.
    assert np.mean(given["x"].unique()) == pytest.approx(19.5)
