"""Read a dataset from one table of labels, `images.csv`, and one of boxes, `boxes.csv`.

`images.csv` has one row per image and these columns, in any order:

- `image`: file name, or path below the folder `images` (or below the dataset's folder, if there is no such folder)
- `patient`: any text. Without this column each image is its own patient.
- `split`: `train`, `val`, `train_val` or `test`. Without this column the split is that of `split_by_hash`.
- `age`, `sex`, `view`: optional
- all other columns: one finding each; 1, 0 or True, False; an empty cell is unknown. "No Finding" is not a finding.

`boxes.csv` is optional: `image`, `finding`, `x`, `y`, `w`, `h` in pixels of the image file.

Commas, semicolons or tabs may separate the cells, and a first line "sep=;" may say which; a column without a name is
ignored, because pandas writes one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import InputError, count_of
from ...findings import NO_FINDING, XYWH
from ..archives import name_by_path
from .base import DatasetMetadata, ImageFiles, scale_boxes_by_files, split_by_hash, warn_guess
from .tables import (
    find_table,
    parse_floats,
    parse_labels,
    parse_texts,
    read_csv,
    refuse_cells,
    refuse_similar,
    require_columns,
)

NAME = "simple"
IMAGE_FOLDERS = ("images",)
IMAGE_NAME = name_by_path
IMAGE_TABLE, BOX_TABLE = "images.csv", "boxes.csv"
TABLES = IMAGE_TABLE

SPLITS = {"train": "train_val", "val": "train_val", "train_val": "train_val", "test": "test"}
LABELS = {"1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "true": 1.0, "false": 0.0, "": math.nan}
_NOT_A_LABEL = "; correct it, or delete the column if it is no finding"
SEPARATORS = ",;\t"
_NO_FINDINGS = {"image", "patient", "split", "age", "sex", "view"}


def matches(folder: Path) -> bool:
    """Return whether a folder contains `images.csv`, and no boxes in COCO's format."""
    return find_table(folder, IMAGE_TABLE) is not None and find_table(folder, "annotations.json") is None


def load_metadata(folder: str | Path) -> DatasetMetadata:
    """Read `images.csv` and, if it exists, `boxes.csv`.

    `patient_id` is text. The validation images of `split` belong to `train_val`. Missing columns `patient` and `split`,
    file names with another suffix, patients in both parts and an empty test give warnings.

    Raises:
        InputError: a table is unreadable; a column is missing or occurs twice; two findings differ only in case; a cell
            has another value; an image is listed twice; a finding of `boxes.csv` is no column of `images.csv`; a box
            leaves its image or is listed twice.
    """
    folder = Path(folder)
    files = ImageFiles(folder)
    metadata = load_images(folder, files)
    path = find_table(folder, BOX_TABLE)
    return metadata if path is None else replace(metadata, boxes=_read_boxes(path, metadata.findings, files))


def load_images(folder: Path, files: ImageFiles) -> DatasetMetadata:
    """Read `images.csv`; the result has no boxes."""
    path = find_table(folder, IMAGE_TABLE)
    if path is None:
        raise InputError(
            f"{folder} has no {IMAGE_TABLE}; write one with the columns image, patient, split and one per finding"
        )
    table = _read(path)
    require_columns(table, ["image"], path)
    findings = tuple(name for name in table.columns if name not in _NO_FINDINGS and name.lower() != NO_FINDING.lower())
    require_columns(table, findings, path)
    refuse_similar(findings, path)
    if not findings:
        raise InputError(f"{path} has no column of a finding; add one with 0 and 1 for each finding")
    columns: dict[str, object] = {"patient_id": _patients(table, path)}
    if "age" in table:
        columns["age"] = pd.to_numeric(table["age"], errors="coerce").to_numpy(np.float64)
    columns |= {name: table[name].to_numpy() for name in ("sex", "view") if name in table}
    columns |= {name: parse_labels(table[name], path, LABELS, advice=_NOT_A_LABEL) for name in findings}
    image_index, _ = files.find_all(parse_texts(table["image"], path), path)
    if (twice := pd.Index(image_index).duplicated()).any():
        row = int(np.argmax(twice))
        raise InputError(f"{path}, line {table.index[row]}, lists {image_index[row]} a second time; delete one")
    images = pd.DataFrame(columns, index=pd.Index(image_index, name="image_index"))
    is_test = _is_test(table, images["patient_id"], path)
    if not is_test.any():
        warn_guess(path, "no image is for the test, so models can be trained but not evaluated")
    train_val, test = (tuple(images.index[part]) for part in (~is_test, is_test))
    return DatasetMetadata(NAME, findings, images, train_val=train_val, test=test)


def _read(path: Path) -> pd.DataFrame:
    """Read a table with names of columns in lower case where they are ours; columns without a name are dropped."""
    table = read_csv(path, separators=SEPARATORS)
    ours = _NO_FINDINGS | {"finding", *XYWH}
    names = [name.strip() for name in table.columns]
    table.columns = pd.Index([name.lower() if name.lower() in ours else name for name in names])
    return table.loc[:, [bool(name) and not name.startswith("Unnamed:") for name in names]]


def _patients(table: pd.DataFrame, path: Path) -> np.ndarray:
    if "patient" not in table:
        warn_guess(path, "without a column patient, each image counts as its own patient in splits and intervals")
        return parse_texts(table["image"], path).to_numpy()
    require_columns(table, ["patient"], path)
    return parse_texts(table["patient"], path).to_numpy()


def _is_test(table: pd.DataFrame, patients: pd.Series, path: Path) -> np.ndarray:
    if "split" not in table:
        warn_guess(path, "without a column split, the images of 20 % of the patients are for the test")
        return split_by_hash(patients)
    require_columns(table, ["split"], path)
    part = table["split"].str.strip().str.lower().map(SPLITS)
    refuse_cells(part.isna(), table["split"], path, f"is none of {', '.join(SPLITS)}")
    is_test = (part == "test").to_numpy()
    if both := set(patients[is_test]) & set(patients[~is_test]):
        warn_guess(path, f"{count_of(len(both), 'patient')} in both parts, such as {min(both)}: scores may be too high")
    return is_test


def _read_boxes(path: Path, findings: tuple[str, ...], files: ImageFiles) -> pd.DataFrame:
    table = _read(path)
    require_columns(table, ["image", "finding", *XYWH], path, may_be_empty=True)
    image_index, paths = files.find_all(parse_texts(table["image"], path), path)
    finding = table["finding"].str.strip()
    refuse_cells(~finding.isin(findings), finding, path, f"is no column of {IMAGE_TABLE}; correct one of them")
    boxes = pd.DataFrame({"image_index": image_index, "finding": finding}, index=table.index)
    for name in XYWH:
        boxes[name] = parse_floats(table[name], path)
    refuse_cells(boxes.duplicated(), table["image"], path, "has the same box a second time; delete one line")
    return scale_boxes_by_files(boxes, paths, path)
