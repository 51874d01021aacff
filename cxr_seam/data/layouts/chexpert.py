"""Read CheXpert: `train.csv` and `valid.csv`.

Source: Irvin et al. 2019, "CheXpert: a large chest radiograph dataset with uncertainty labels and expert comparison".
Columns: `Path` ("CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"), `Sex`, `Age`, `Frontal/Lateral`,
`AP/PA`, and one for each observation: 1 present, 0 absent, -1 uncertain, empty not mentioned. `valid.csv` was labelled
by radiologists and has no uncertain label. There are no boxes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import InputError
from ...findings import NO_FINDING
from ..archives import name_by_path
from .base import DatasetMetadata
from .tables import find_table, first_column, parse_floats, parse_labels, read_csv, refuse_cells, require_columns

NAME = "chexpert"
IMAGE_FOLDERS = ()
IMAGE_NAME = name_by_path
TRAIN_TABLE, VALID_TABLE = "train.csv", "valid.csv"
TABLES = f"{TRAIN_TABLE} and {VALID_TABLE} with a column 'Path'"

FINDINGS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The observations in the order of the tables, without the first, "No Finding", which is the absence of the others."""

_PATH = re.compile(r"(?:CheXpert-v1\.0[^/]*/)?((?:train|valid)/(patient\d+)/study\d+/[^/]+)")
UNCERTAIN = {"ignore": math.nan, "zeros": 0.0, "ones": 1.0}
"""Label of an uncertain finding by the name of the policy."""
_VIEWS = ("Frontal", "Lateral")


def matches(folder: Path) -> bool:
    """Return whether a folder contains both tables, the first with CheXpert's column `Path`."""
    train = find_table(folder, TRAIN_TABLE)
    return train is not None and first_column(train) == "Path" and find_table(folder, VALID_TABLE) is not None


def load_metadata(folder: str | Path, *, uncertain: str = "ignore", frontal_only: bool = True) -> DatasetMetadata:
    """Read both tables, plain or gzipped.

    `image_index` is the path below the folder of the tables ("train/patient00001/study1/view1_frontal.jpg"),
    `patient_id` "patient00001"; `view` is AP, PA, LL, RL or empty. `train.csv` is `train_val`, `valid.csv` the test.
    A finding that is not mentioned counts as absent, as in the publication.

    Args:
        folder: the folder of the tables.
        uncertain: a key of `UNCERTAIN`.
        frontal_only: leave out the lateral images.

    Raises:
        InputError: a table is missing or unreadable, or a cell has another value; `uncertain` is unknown.
    """
    if uncertain not in UNCERTAIN:
        raise InputError(f"uncertain must be one of {', '.join(UNCERTAIN)}, not {uncertain!r}")
    parts = []
    for name in (TRAIN_TABLE, VALID_TABLE):
        path = find_table(Path(folder), name)
        if path is None:
            raise InputError(f"{folder} has no {name}; give CheXpert's folder with {TABLES}")
        parts.append(_read_table(path, UNCERTAIN[uncertain], frontal_only=frontal_only))
    images = pd.concat(parts)
    if images.index.has_duplicates:
        raise InputError(f"{folder}: {images.index[images.index.duplicated()][0]} is in the tables twice; drop one row")
    train_val, test = (tuple(part.index) for part in parts)
    return DatasetMetadata(NAME, FINDINGS, images, train_val=train_val, test=test)


def _read_table(path: Path, uncertain: float, *, frontal_only: bool) -> pd.DataFrame:
    table = read_csv(path)
    require_columns(table, ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", NO_FINDING, *FINDINGS], path)
    refuse_cells(~table["Frontal/Lateral"].isin(_VIEWS), table["Frontal/Lateral"], path, f"is none of {_VIEWS}")
    if frontal_only:
        table = table[table["Frontal/Lateral"] == "Frontal"]
    parts = [_PATH.fullmatch(cell) for cell in table["Path"]]
    wrong = np.array([part is None for part in parts], dtype=bool)
    refuse_cells(wrong, table["Path"], path, "is no path such as train/patient00001/study1/view1_frontal.jpg")
    values = {"": 0.0, "0.0": 0.0, "0": 0.0, "1.0": 1.0, "1": 1.0, "-1.0": uncertain, "-1": uncertain}
    columns = {
        "patient_id": [part[2] for part in parts],
        "age": parse_floats(table["Age"], path),
        "sex": table["Sex"].to_numpy(),
        "view": table["AP/PA"].to_numpy(),
        **{name: parse_labels(table[name], path, values) for name in FINDINGS},
    }
    return pd.DataFrame(columns, index=pd.Index([part[1] for part in parts], name="image_index"))
