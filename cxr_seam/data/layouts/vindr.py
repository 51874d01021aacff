"""Read VinDr-CXR: tables of labels and of boxes for training and test.

Source: Nguyen et al. 2022, "VinDr-CXR: an open dataset of chest X-rays with radiologist's annotations" (PhysioNet
1.0.0). `image_labels_train.csv` and `image_labels_test.csv` have `image_id`, for training `rad_id` (the reader), and
one column of 0 and 1 for each finding. `annotations_train.csv` and `annotations_test.csv` have `image_id`, for training
`rad_id`, `class_name`, and `x_min`, `y_min`, `x_max`, `y_max` in pixels, empty for "No finding". The tables lie in
`annotations` or beside the images, which are `train/<image_id>.dicom` and `test/<image_id>.dicom`.

Three readers labelled each training image independently, five agreed on each test image.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ...errors import InputError
from ...findings import NO_FINDING
from ..archives import name_by_path
from .base import DatasetMetadata, scale_boxes_by_files, warn_guess
from .tables import find_table, parse_floats, parse_labels, parse_texts, read_csv, refuse_cells, require_columns

NAME = "vindr"
IMAGE_FOLDERS = ()
IMAGE_NAME = name_by_path
PARTS = ("train", "test")
TABLES = "image_labels_train.csv in annotations or beside it"

_LABELS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
_CORNERS = ["x_min", "y_min", "x_max", "y_max"]
_ALIASES = {"Other disease": "Other diseases"}
"""The tables of the test write the first name, those of the training the second."""


def matches(folder: Path) -> bool:
    """Return whether a folder contains the table of training labels."""
    return _find_table(folder, "image_labels_train.csv") is not None


def load_metadata(folder: str | Path) -> DatasetMetadata:
    """Read the four tables.

    `image_index` is "train/<image_id>.dicom" or "test/<image_id>.dicom". A finding is present in a training image if
    more than half of its readers saw it. The boxes of all readers are kept as they are. Patients are not published, so
    each image is its own patient; a warning says so. "No finding" is not a finding.

    Raises:
        InputError: a table is missing or unreadable; both parts have other findings; a cell has another value; a box
            is of an unknown finding, has a corner missing or leaves its image; the header of a boxed image is broken.
    """
    folder = Path(folder)
    files = {
        f"{part}/{path.stem}.dicom": path for part in PARTS for path in (folder / part).glob("*") if path.is_file()
    }
    images, boxes = {}, []
    for part in PARTS:
        images[part] = _read_labels(_require_table(folder, f"image_labels_{part}.csv"), part)
        findings = tuple(images["train"].columns[1:])
        if set(images[part].columns[1:]) != set(findings):
            other = min(set(images[part].columns[1:]) ^ set(findings))
            raise InputError(f"{folder}: {other!r} is a column of the labels of one part only; fetch the tables again")
        boxes.append(_read_boxes(_require_table(folder, f"annotations_{part}.csv"), part, findings, files))
    warn_guess(folder, "VinDr-CXR has no patients; each image counts as its own patient in splits and intervals")
    return DatasetMetadata(
        NAME,
        findings,
        pd.concat([images["train"], images["test"][images["train"].columns]]),
        train_val=tuple(images["train"].index),
        test=tuple(images["test"].index),
        boxes=pd.concat(boxes, ignore_index=True),
    )


def _find_table(folder: Path, name: str) -> Path | None:
    return find_table(folder / "annotations", name) or find_table(folder, name)


def _require_table(folder: Path, name: str) -> Path:
    if path := _find_table(folder, name):
        return path
    raise InputError(f"{folder} has no annotations/{name}; give the folder of VinDr-CXR 1.0.0")


def _read_labels(path: Path, part: str) -> pd.DataFrame:
    """Return `patient_id` and the findings of a part: the majority of the readers of each image."""
    table = read_csv(path).rename(columns=_ALIASES)
    findings = [
        name for name in table.columns if name not in ("image_id", "rad_id") and name.lower() != NO_FINDING.lower()
    ]
    require_columns(table, ["image_id", *findings], path)
    images = parse_texts(table["image_id"], path)
    votes = pd.DataFrame({name: parse_labels(table[name], path, _LABELS) for name in findings}, index=images)
    majority = (votes.groupby(level=0, sort=False).mean() > 0.5).astype("float32")
    majority.index = pd.Index([f"{part}/{name}.dicom" for name in majority.index], name="image_index")
    majority.insert(0, "patient_id", images.unique())
    return majority


def _read_boxes(path: Path, part: str, findings: tuple[str, ...], files: dict[str, Path]) -> pd.DataFrame:
    """Return the boxes of a part as fractions."""
    table = read_csv(path)
    require_columns(table, ["image_id", "class_name", *_CORNERS], path, may_be_empty=True)
    table = table[table["class_name"].str.lower() != NO_FINDING.lower()]
    finding = table["class_name"].replace(_ALIASES)
    refuse_cells(~finding.isin(findings), finding, path, "is no column of the labels; fetch the tables again")
    x_min, y_min, x_max, y_max = (parse_floats(table[name], path) for name in _CORNERS)
    names = part + "/" + parse_texts(table["image_id"], path) + ".dicom"
    boxes = pd.DataFrame(
        {"image_index": names, "finding": finding, "x": x_min, "y": y_min, "w": x_max - x_min, "h": y_max - y_min}
    )
    return scale_boxes_by_files(boxes, files, path)
