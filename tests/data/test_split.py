"""Split and counts of a dataset with its own findings, names of patients and unknown labels (NIH's: test_nih.py)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxr_seam.data.layouts.base import DatasetMetadata
from cxr_seam.data.split import label_counts, train_val_split
from cxr_seam.errors import InputError

NAN = np.nan
ROWS = {
    "a": ("anna", 1, 0),
    "b": ("anna", 0, NAN),  # no finding
    "c": ("bo", NAN, 1),
    "d": ("bo", NAN, NAN),  # unknown
    "e": ("cy", 0, 0),  # no finding
    "f": ("di", NAN, NAN),  # unknown
    "g": ("ed", 1, 1),  # test
}


@pytest.fixture
def metadata() -> DatasetMetadata:
    images = pd.DataFrame.from_dict(ROWS, orient="index", columns=["patient_id", "Mass", "Edema"])
    images[["Mass", "Edema"]] = images[["Mass", "Edema"]].astype(np.float32)
    boxes = pd.DataFrame({"image_index": ["g", "g", "z"], "finding": ["Mass", "Mass", "Edema"]})
    return DatasetMetadata("hand", ("Mass", "Edema"), images, train_val=tuple("abcdef"), test=("g",), boxes=boxes)


def test_images_without_a_known_label_are_not_for_training(metadata):
    train, val = train_val_split(metadata, validation_fraction=0, num_normal_images=None, seed=0)
    assert (train, val) == (["a", "b", "c", "e"], [])
    train, val = train_val_split(metadata, validation_fraction=0, num_normal_images=0, seed=0)
    assert (train, val) == (["a", "c"], [])


@pytest.mark.parametrize("seed", range(5))
def test_patients_may_be_names(seed, metadata):
    train, val = train_val_split(metadata, validation_fraction=0.34, num_normal_images=None, seed=seed)
    assert sorted(train + val) == ["a", "b", "c", "e"]
    assert {ROWS[name][0] for name in val} < {"anna", "bo", "cy"} and len({ROWS[name][0] for name in val}) == 1
    assert not {ROWS[name][0] for name in train} & {ROWS[name][0] for name in val}


def test_unknown_images_alone_cannot_be_split(metadata):
    with pytest.raises(InputError, match="known label"):
        train_val_split(metadata, validation_fraction=0, num_normal_images=None, seed=0, available=["d", "f", "g"])


def test_counts_of_its_own_findings(metadata):
    table = label_counts(metadata, SimpleNamespace(image_index=list(ROWS)))
    assert table.loc["Mass"].tolist() == [1, 1, 2]
    assert table.loc["Edema"].tolist() == [1, 1, 0]  # the box of z is of no image here
    assert table.loc["No Finding"].tolist() == [2, 0, 0]
    assert table.loc["images"].tolist() == [6, 1, 1]


def test_labels_of_images_in_another_order(metadata):
    assert np.array_equal(metadata.labels(["g", "b"]), [[1, 1], [0, NAN]], equal_nan=True)
    assert metadata.labels([]).shape == (0, 2)
