"""Read the RSNA Pneumonia Detection Challenge: `stage_2_train_labels.csv`.

Source: Shih et al. 2019 and https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data. Columns: `patientId`,
`x`, `y`, `width`, `height` in pixels of the 1024x1024 image, `Target`. An image with several boxes has several rows;
without pneumonia it has one row, whose box is empty. The images are `stage_2_train_images/<patientId>.dcm`, one per
patient.
`stage_2_detailed_class_info.csv` (`patientId`, `class`) is optional: an image has a box if its class is "Lung Opacity".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import InputError
from ...findings import ORIGINAL_SIZE, XYWH
from ..archives import name_by_path
from .base import BOX_COLUMNS, DatasetMetadata, scale_boxes, split_by_hash, warn_guess
from .tables import find_table, parse_floats, parse_labels, parse_texts, read_csv, refuse_cells, require_columns

NAME = "rsna"
IMAGE_FOLDERS = ("stage_2_train_images",)
IMAGE_NAME = name_by_path
TABLES = LABEL_TABLE = "stage_2_train_labels.csv"
CLASS_TABLE = "stage_2_detailed_class_info.csv"

FINDING = "Pneumonia"
"""Name of `Target`: lung opacity that suggests pneumonia."""

_CLASSES = {"lung opacity": 1.0, "normal": 0.0, "no lung opacity / not normal": 0.0}


def matches(folder: Path) -> bool:
    """Return whether a folder contains the table of labels of stage 2."""
    return find_table(folder, LABEL_TABLE) is not None


def load_metadata(folder: str | Path) -> DatasetMetadata:
    """Read the table of labels and, if it exists, that of the classes, which must agree.

    `image_index` is "<patientId>.dcm", `patient_id` is text. The labels of the challenge's test were not published, so
    the images of about 20 % of the patients are the test, chosen by `split_by_hash`; a warning says so.

    Raises:
        InputError: a table is missing or unreadable; a cell has another value; an image has both targets, or a box
            without target; a box leaves the image; both tables contradict each other.
    """
    path = find_table(Path(folder), LABEL_TABLE)
    if path is None:
        raise InputError(f"{folder} has no {LABEL_TABLE}; give the folder of the challenge's stage 2")
    table = read_csv(path)
    require_columns(table, ["patientId", "x", "y", "width", "height", "Target"], path)
    patients = parse_texts(table["patientId"], path)
    target = parse_labels(table["Target"], path, {"0": 0.0, "1": 1.0})
    first = pd.Series(target, index=table.index).groupby(patients.to_numpy()).transform("first").to_numpy()
    refuse_cells(target != first, patients, path, "has both targets; correct one row")
    corners = table[["x", "y", "width", "height"]]
    has_box = (corners != "").any(axis=1).to_numpy()
    refuse_cells(has_box & (target == 0), table["Target"], path, "has a box; correct the row")
    refuse_cells(~has_box & (target == 1), table["Target"], path, "has no box; correct the row")
    boxes = pd.DataFrame({"image_index": patients[has_box] + ".dcm", "finding": FINDING})
    for name, column in zip(XYWH, corners, strict=True):
        boxes[name] = parse_floats(table.loc[has_box, column], path)

    is_first = ~patients.duplicated().to_numpy()
    images = pd.DataFrame(
        {"patient_id": patients[is_first].to_numpy(), FINDING: target[is_first]},
        index=pd.Index(patients[is_first] + ".dcm", name="image_index"),
    )
    _check_classes(Path(folder), images)
    is_test = split_by_hash(images["patient_id"])
    warn_guess(path, "the challenge has no public test; the images of about 20 % of the patients are for the test")
    return DatasetMetadata(
        NAME,
        (FINDING,),
        images,
        train_val=tuple(images.index[~is_test]),
        test=tuple(images.index[is_test]),
        boxes=scale_boxes(boxes[BOX_COLUMNS], (ORIGINAL_SIZE, ORIGINAL_SIZE), path),
    )


def _check_classes(folder: Path, images: pd.DataFrame) -> None:
    """Raise an InputError if the table of classes exists and contradicts the labels."""
    path = find_table(folder, CLASS_TABLE)
    if path is None:
        return
    table = read_csv(path)
    require_columns(table, ["patientId", "class"], path)
    expected = parse_labels(table["class"], path, _CLASSES)
    target = images[FINDING].reindex(table["patientId"] + ".dcm").to_numpy()
    refuse_cells(~np.isnan(target) & (target != expected), table["class"], path, f"contradicts Target in {LABEL_TABLE}")
