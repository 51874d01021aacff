"""The tables of NIH ChestX-ray14: labels, the official split, boxes; and the images the paper trains on.

Source: Wang et al. 2017 and the files NIH publishes beside the images. Two releases are in circulation. They
agree on the labels and differ in column names ("Patient Gender" / "Patient Sex", a nameless twelfth column) and
in how ages are written ("058Y" / 58). Tables may hold a part of the data set only, as the demo data do.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import FINDINGS, NO_FINDING, ORIGINAL_SIZE, XYWH, canonical_finding, split_labels
from .cache import ImageCache

LABEL_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")


TRAIN_VAL_LIST = "train_val_list.txt"


TEST_LIST = "test_list.txt"


BOX_TABLE = "BBox_List_2017.csv"


# Our column name, and what the releases call it.
_COLUMNS = {
    "image_index": ("Image Index",),
    "labels": ("Finding Labels",),
    "follow_up": ("Follow-up #",),
    "patient_id": ("Patient ID",),
    "age": ("Patient Age",),
    "sex": ("Patient Sex", "Patient Gender"),
    "view": ("View Position",),
}


@dataclass(frozen=True, eq=False)
class NihMetadata:
    """The official tables, as read.

    Attributes:
        images: one row an image, indexed by `image_index` ("00000001_000.png"); columns `patient_id` (int),
            `follow_up` (int), `age` (years, float, NaN where unknown; some of NIH's are impossible), `sex`,
            `view`, and the 14 findings, uint8 0 or 1, in the order of `FINDINGS`.
        train_val, test: the official lists, whole, whatever images the label table holds.
        boxes: columns `image_index`, `finding` (NIH's spelling in the label table), and `x`, `y`, `w`, `h` as
            fractions of the image's width and height, in [0, 1]. (The file has pixels of the 1024x1024 original.)
    """

    images: pd.DataFrame
    train_val: tuple[str, ...]
    test: tuple[str, ...]
    boxes: pd.DataFrame

    def labels(self, image_index: Sequence[str]) -> np.ndarray:
        """Return the findings of these images, (N, 14) uint8, in the order asked for.

        Raises:
            InputError: an image is not in the label table.
        """
        rows = self.images.index.get_indexer(pd.Index(list(image_index), dtype=self.images.index.dtype))
        if (rows < 0).any():
            missing = image_index[int(np.argmax(rows < 0))]
            raise InputError(f"{missing} is not in the label table; use the tables that belong to the images")
        return self.images[list(FINDINGS)].to_numpy()[rows]


def load_metadata(folder: str | Path) -> NihMetadata:
    """Read the four tables in `folder`, plain or gzipped, of either release.

    Raises:
        InputError: a table is missing, unreadable, without rows or not UTF-8, a row is cut short, a column is missing,
            a finding is unknown, an image is listed twice or in both lists, or a box has no extent, leaves the film or
            is listed twice.
    """
    folder = Path(folder)
    train_val = _read_list(_find(folder, TRAIN_VAL_LIST))
    test = _read_list(_find(folder, TEST_LIST))
    if both := set(train_val) & set(test):
        raise InputError(f"{min(both)} is in both {TRAIN_VAL_LIST} and {TEST_LIST} of {folder}; fetch the lists again")
    images = _read_images(_find(folder, *LABEL_TABLES))
    return NihMetadata(images=images, train_val=train_val, test=test, boxes=_read_boxes(_find(folder, BOX_TABLE)))


def train_val_split(
    tables: NihMetadata,
    *,
    validation_fraction: float,
    num_normal_images: int | None,
    seed: int,
    available: Collection[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Choose the images to train on and those to validate on, as section 5.1 of the paper does.

    Every `train_val` image with a finding, and a random draw of those without one (the paper: "approximately
    5000"); then split by patient, so that no patient is on both sides. The fraction counts patients.

    Args:
        tables: the official tables.
        validation_fraction: share of the patients kept for validation, 0 to below 1 (the paper: 0.2).
        num_normal_images: how many disease-free images to draw; all of them where there are fewer, or for None.
        seed: of the draw and of the split; the same seed and images give the same answer.
        available: names of the images at hand (those of a store); by default every image of the label table.

    Returns:
        `image_index` of the training and of the validation images, each in the order of the label table. With
        a fraction above 0 and at least two patients neither is empty.

    Raises:
        InputError: an argument is out of range, or no `train_val` image is at hand.
    """
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}")
    if num_normal_images is not None and num_normal_images < 0:
        raise InputError(f"num_normal_images must not be negative, not {num_normal_images}")
    wanted = set(tables.train_val) if available is None else set(tables.train_val).intersection(available)
    images = tables.images[tables.images.index.isin(wanted)]
    if images.empty:
        raise InputError("none of the images at hand is in train_val_list.txt; nothing to train on")

    draw, split = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    diseased = images[list(FINDINGS)].to_numpy().any(axis=1)
    healthy = np.flatnonzero(~diseased)
    chosen = diseased.copy()
    chosen[draw.permutation(healthy)[:num_normal_images]] = True
    if not chosen.any():
        raise InputError(
            "every train_val image at hand is disease-free and num_normal_images is 0; nothing to train on"
        )

    patient_id = images["patient_id"].to_numpy()[chosen]
    patients = split.permutation(np.unique(patient_id))
    count = round(validation_fraction * len(patients))
    if validation_fraction > 0:
        count = min(max(count, 1), len(patients) - 1)  # one patient alone is trained on
    in_validation = np.isin(patient_id, patients[:count])
    names = np.asarray(images.index, dtype=object)[chosen]
    return names[~in_validation].tolist(), names[in_validation].tolist()


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise InputError(
        f"{folder} has no {' or '.join(names)} (plain or .gz); fetch it with data_download.sh --tables-only"
    )


def _read_list(path: Path) -> tuple[str, ...]:
    # The official lists have no newline after the last name and some copies have CRLF; either is read.
    names = [line.strip().strip('"') for line in re.split("[\r\n]+", read_text(path)) if line.strip()]
    if not names:
        raise InputError(f"{path} is empty; fetch it again")
    _refuse_other_names(names, path)
    if len(set(names)) < len(names):
        raise InputError(f"{path} lists an image twice; fetch it again")
    return tuple(names)


def _refuse_other_names(names: Sequence[str], path: Path) -> None:
    for name in names:
        if not name.endswith(".png") or "/" in name or "\\" in name or "," in name or ";" in name:
            raise InputError(f"{path} lists {name!r}, which is no image name; fetch it again")


def _read_images(path: Path) -> pd.DataFrame:
    table = read_csv(path)
    columns = {}
    for ours, theirs in _COLUMNS.items():
        found = next((name for name in theirs if name in table.columns), None)
        if found is None:
            raise InputError(
                f"{path} has no column {' or '.join(map(repr, theirs))}; it is not NIH's label table, fetch that again"
            )
        if list(table.columns).count(found) > 1:
            raise InputError(f"{path} has several columns {found!r}; keep one of them")
        columns[ours] = table[found]
    if table.empty:
        raise InputError(f"{path} holds no row; fetch it again")
    _refuse_other_names(columns["image_index"].tolist(), path)
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
    """Split each distinct cell once (836 in the whole table, for 112,120 rows); (N, 14) uint8."""
    codes, distinct = pd.factorize(cells)
    matrix = np.zeros((len(distinct), len(FINDINGS)), dtype=np.uint8)
    for row, cell in enumerate(distinct):
        try:
            matrix[row, [FINDINGS.index(finding) for finding in split_labels(cell)]] = 1
        except InputError as error:
            raise InputError(f"{path}, label {cell!r}: {error}") from None
    return matrix[codes]


def _read_boxes(path: Path) -> pd.DataFrame:
    """Read the box table by position: NIH's header splits at its own commas and names three empty columns."""
    table = read_csv(path)
    if list(table.columns[:2]) != ["Image Index", "Finding Label"] or table.shape[1] < 6:
        raise InputError(f"{path} does not begin with 'Image Index,Finding Label,Bbox [x,y,w,h]'; not NIH's box table")
    boxes = pd.DataFrame({"image_index": table.iloc[:, 0].tolist()})
    try:
        boxes["finding"] = [canonical_finding(name) for name in table.iloc[:, 1]]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    _refuse_other_names(boxes["image_index"].tolist(), path)
    for position, column in enumerate(XYWH, start=2):
        boxes[column] = parse_floats(table.iloc[:, position], path)
    if flat := int((~((boxes["w"] > 0) & (boxes["h"] > 0))).sum()):
        raise InputError(f"{path} holds {flat} boxes without width or height; columns must be x, y, w, h")
    corners = boxes[["x", "y"]].to_numpy()
    # One pixel is left to those who round when they bring their own boxes to this size.
    beyond = ((corners < -1) | (corners + boxes[["w", "h"]].to_numpy() > ORIGINAL_SIZE + 1)).any(axis=1)
    if beyond.any():
        raise InputError(
            f"{path}: a box of {boxes['image_index'][int(np.argmax(beyond))]} leaves the film; columns must be "
            f"x, y, w, h in pixels of {ORIGINAL_SIZE}x{ORIGINAL_SIZE}"
        )
    if (twice := boxes.duplicated()).any():
        raise InputError(
            f"{path} lists a box of {boxes['image_index'][int(np.argmax(twice))]} twice; fetch it again or drop one"
        )
    boxes[XYWH] /= ORIGINAL_SIZE  # a power of two: no digit is lost
    return boxes


def _years(cells: pd.Series) -> np.ndarray:
    """Ages in years: "58" of the later release, "058Y", "013M", "001D" of the first."""
    text = cells.astype(str).str.strip()
    unit = text.str[-1:].map({"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}).fillna(1.0)
    return (pd.to_numeric(text.str.rstrip("YMD"), errors="coerce") * unit).to_numpy(dtype=np.float64)


MAX_BYTES = 64 * 2**20
"""A longer table, also once inflated, is not read; NIH's longest has 8 MB."""


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table with commas, plain or gzipped: every cell as text, without the rows' empty cells past the header.

    Raises:
        InputError: it is unreadable or empty, see also `read_text`; or a row has fewer or more cells than the header
            has names, as where a file was cut short.
    """
    try:
        rows = [row for row in csv.reader(StringIO(read_text(path), newline=""), strict=True) if row]
    except csv.Error as error:
        raise InputError(f"cannot read {path} as a table ({error}); fetch it again") from error
    if not rows:
        raise InputError(f"{path} is empty; fetch it again")
    header, *rows = rows
    named = max((place for place, name in enumerate(header, start=1) if name.strip()), default=0)
    width = len(header)
    for number, row in enumerate(rows):
        if len(row) == width:
            continue
        # One release ends every row with a comma, the other does not; neither has anything behind the last name.
        if len(row) < named or any(row[width:]):
            kind = "fewer" if len(row) < named else "more"
            raise InputError(f"{path}: row {number + 1} has {kind} cells than the header has names; fetch it again")
        rows[number] = (row + [""] * width)[:width]
    table = pd.DataFrame(dict(enumerate(zip(*rows, strict=True))), columns=range(width), dtype=object)
    return table.set_axis(header, axis=1)


def read_text(path: Path) -> str:
    """The text of a table, plain or gzipped, without a byte-order mark.

    Raises:
        InputError: it is unreadable, cut short, longer than `MAX_BYTES`, no UTF-8, or holds zero bytes.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(f"{path} is longer than {MAX_BYTES >> 20} MiB, more than any such table; fetch it again")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); save it as UTF-8 (Excel: CSV UTF-8)") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path} as a table ({error}); fetch it again") from error
    if "\0" in text:
        raise InputError(f"{path} holds zero bytes, as a failing disk leaves them; fetch it again")
    return text


def parse_floats(cells: pd.Series, path: Path) -> np.ndarray:
    """Cells as (N,) float64.

    Raises:
        InputError: one is no number, or not a finite one; names it, its column and the file.
    """
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        raise InputError(f"{path}, column {cells.name!r}: {cell!r} is not a number; fetch it again")
    return numbers


def parse_ints(cells: pd.Series, path: Path) -> np.ndarray:
    """Cells as (N,) int64.

    Raises:
        InputError: one is no whole number, or beyond 2^53, where float64 does not know every one.
    """
    numbers = parse_floats(cells, path)
    wrong = (numbers % 1 != 0) | (np.abs(numbers) >= 2**53)
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        raise InputError(f"{path}, column {cells.name!r}: {cell!r} is not a whole number; correct it")
    return numbers.astype(np.int64)


def label_counts(tables: NihMetadata, cache: ImageCache) -> pd.DataFrame:
    """Count the images at hand by finding.

    Returns:
        Index: the 14 findings, "No Finding", "images". Columns: `train_val` and `test` (images of the official lists)
        and `boxes` (true boxes). An image with several findings counts for each of them.
    """
    at_hand = tables.images[tables.images.index.isin(cache.image_index)]
    counts = {}
    for column, names in (("train_val", tables.train_val), ("test", tables.test)):
        labels = at_hand.loc[at_hand.index.isin(names), list(FINDINGS)]
        counts[column] = pd.Series({**labels.sum(), NO_FINDING: (labels.sum(axis=1) == 0).sum(), "images": len(labels)})
    boxes = tables.boxes[tables.boxes["image_index"].isin(cache.image_index)]
    counts["boxes"] = boxes["finding"].value_counts()
    table = pd.DataFrame(counts, index=[*FINDINGS, NO_FINDING, "images"])
    table.loc["images", "boxes"] = boxes["image_index"].nunique()
    return table.fillna(0).astype(int)
