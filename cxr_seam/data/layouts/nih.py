"""Read NIH ChestX-ray14's tables: labels, official split, boxes.

Source: Wang et al. 2017 and the files that NIH publishes with the images. There are two releases. Their labels agree;
they differ in column names ("Patient Gender" / "Patient Sex", a twelfth column without name) and in the format of ages
("058Y" / 58). Tables may contain a part of the dataset, as those of the demo do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import InputError
from ...findings import FINDINGS, ORIGINAL_SIZE, XYWH, canonical_finding, split_labels
from ..archives import name_by_stem
from .base import DatasetMetadata, scale_boxes
from .tables import find_table, parse_floats, parse_ints, read_csv, read_text

NAME = "nih"
IMAGE_FOLDERS = ("images", "images_256")
IMAGE_NAME = name_by_stem
LABEL_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
TRAIN_VAL_LIST = "train_val_list.txt"
TEST_LIST = "test_list.txt"
BOX_TABLE = "BBox_List_2017.csv"
TABLES = " or ".join(LABEL_TABLES)

# Our column name and its names in the releases.
_COLUMNS = {
    "image_index": ("Image Index",),
    "labels": ("Finding Labels",),
    "follow_up": ("Follow-up #",),
    "patient_id": ("Patient ID",),
    "age": ("Patient Age",),
    "sex": ("Patient Sex", "Patient Gender"),
    "view": ("View Position",),
}


def matches(folder: Path) -> bool:
    """Return whether a folder contains NIH's label table."""
    return find_table(folder, *LABEL_TABLES) is not None


def load_metadata(folder: str | Path) -> DatasetMetadata:
    """Read the four tables in `folder`, plain or gzipped, of either release.

    Names end with ".png"; `patient_id` and `follow_up` are int; some ages are impossible; no label is unknown. Boxes
    have the label table's spelling of the findings, and in the file pixels of the 1024x1024 original. The box table may
    have no row.

    Raises:
        InputError: a table is missing, unreadable, without rows or not UTF-8; a row is cut short; a column is missing;
            a finding is unknown; an image is listed twice or in both lists; a box is empty, leaves the image or is
            listed twice.
    """
    folder = Path(folder)
    train_val, test = load_lists(folder)
    images = _read_label_table(_find_table(folder, *LABEL_TABLES))
    boxes = _read_box_table(_find_table(folder, BOX_TABLE))
    return DatasetMetadata(NAME, FINDINGS, images=images, train_val=train_val, test=test, boxes=boxes)


def load_lists(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the official lists of the images for training and validation, and for the test.

    Raises:
        InputError: a list is missing, empty or broken, or an image is in both.
    """
    train_val = _read_list(_find_table(folder, TRAIN_VAL_LIST))
    test = _read_list(_find_table(folder, TEST_LIST))
    if both := set(train_val) & set(test):
        raise InputError(f"{min(both)} is in both {TRAIN_VAL_LIST} and {TEST_LIST} of {folder}; fetch the lists again")
    return train_val, test


def _find_table(folder: Path, *names: str) -> Path:
    if path := find_table(folder, *names):
        return path
    raise InputError(
        f"{folder} has no {' or '.join(names)} (plain or .gz); fetch it with data_download.sh --tables-only"
    )


def _read_list(path: Path) -> tuple[str, ...]:
    # The official lists lack a newline after the last name, and some copies have Windows line ends.
    names = [line.strip().strip('"') for line in re.split("[\r\n]+", read_text(path)) if line.strip()]
    if not names:
        raise InputError(f"{path} is empty; fetch it again")
    _check_names(names, path)
    if len(set(names)) < len(names):
        raise InputError(f"{path} lists an image twice; fetch it again")
    return tuple(names)


def _check_names(names: Sequence[str], path: Path) -> None:
    for name in names:
        if not name.endswith(".png") or "/" in name or "\\" in name or "," in name or ";" in name:
            raise InputError(f"{path} lists {name!r}, which is not an image name; fetch it again")


def _read_label_table(path: Path) -> pd.DataFrame:
    table = read_csv(path)
    columns = {}
    for column, names in _COLUMNS.items():
        matches = [name for name in table.columns if name in names]
        if len(matches) != 1:
            count = "several columns" if matches else "no column"
            raise InputError(f"{path} has {count} {' or '.join(map(repr, names))}; fetch NIH's label table again")
        columns[column] = table[matches[0]]
    if table.empty:
        raise InputError(f"{path} has no row; fetch it again")
    _check_names(columns["image_index"].tolist(), path)
    if columns["image_index"].duplicated().any():
        twice = columns["image_index"][columns["image_index"].duplicated()].iloc[0]
        raise InputError(f"{path} lists {twice} twice; fetch it again")
    index = pd.Index(columns["image_index"].tolist(), name="image_index")
    images = pd.DataFrame(
        {
            "patient_id": parse_ints(columns["patient_id"], path),
            "follow_up": parse_ints(columns["follow_up"], path),
            "age": _years(columns["age"]),
            "sex": columns["sex"].to_numpy(),
            "view": columns["view"].to_numpy(),
        },
        index=index,
    )
    labels = pd.DataFrame(_label_matrix(columns["labels"], path), index=index, columns=list(FINDINGS))
    return pd.concat([images, labels], axis=1)


def _label_matrix(cells: pd.Series, path: Path) -> np.ndarray:
    """Convert label cells to (N, 14) float32; each of the 836 distinct cells is split once."""
    codes, distinct = pd.factorize(cells)
    matrix = np.zeros((len(distinct), len(FINDINGS)), dtype=np.float32)
    for row, cell in enumerate(distinct):
        try:
            matrix[row, [FINDINGS.index(finding) for finding in split_labels(cell)]] = 1
        except InputError as error:
            raise InputError(f"{path}, label {cell!r}: {error}") from None
    return matrix[codes]


def _read_box_table(path: Path) -> pd.DataFrame:
    """Read the box table by column position, because NIH's header "Bbox [x,y,w,h]" contains commas."""
    table = read_csv(path)
    if list(table.columns[:2]) != ["Image Index", "Finding Label"] or table.shape[1] < 6:
        raise InputError(f"{path} does not begin with 'Image Index,Finding Label,Bbox [x,y,w,h]'; not NIH's box table")
    boxes = pd.DataFrame({"image_index": table.iloc[:, 0]})
    try:
        boxes["finding"] = [canonical_finding(name) for name in table.iloc[:, 1]]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    _check_names(boxes["image_index"].tolist(), path)
    for position, column in enumerate(XYWH, start=2):
        boxes[column] = parse_floats(table.iloc[:, position], path)
    if (twice := boxes.duplicated()).any():
        row = int(np.argmax(twice))
        raise InputError(
            f"{path}, line {boxes.index[row]}, lists a box of {boxes['image_index'].iloc[row]} twice; drop one"
        )
    return scale_boxes(boxes, (ORIGINAL_SIZE, ORIGINAL_SIZE), path)  # a power of two: no digit is lost


def _years(cells: pd.Series) -> np.ndarray:
    """Convert ages to years: "58" of the later release, "058Y", "013M", "001D" of the first."""
    text = cells.astype(str).str.strip()
    unit = text.str[-1:].map({"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}).fillna(1.0)
    return (pd.to_numeric(text.str.rstrip("YMD"), errors="coerce") * unit).to_numpy(dtype=np.float64)
