"""Read NIH ChestX-ray14's tables (labels, official split, boxes) and split the images as the paper does.

Source: Wang et al. 2017 and the files that NIH publishes with the images. There are two releases. Their labels agree;
they differ in column names ("Patient Gender" / "Patient Sex", a twelfth column without name) and in the format of ages
("058Y" / 58). Tables may contain a part of the dataset, as those of the demo do.
"""

from __future__ import annotations

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

MAX_BYTES = 64 * 2**20
"""Longest table that is read, also after decompression; NIH\'s longest has 8 MB."""

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


@dataclass(frozen=True, eq=False)
class NihMetadata:
    """NIH's tables.

    Attributes:
        images: one row per image, indexed by `image_index` ("00000001_000.png"); columns `patient_id` (int),
            `follow_up` (int), `age` (years, float, NaN where unknown; some of NIH's are impossible), `sex`,
            `view`, and the 14 findings, uint8 0 or 1, in the order of `FINDINGS`.
        train_val, test: the official lists, including images that are not in the label table.
        boxes: columns `image_index`, `finding` (NIH's spelling in the label table), and `x`, `y`, `w`, `h` as
            fractions of the image's width and height, in [0, 1]. (The file has pixels of the 1024x1024 original.)
    """

    images: pd.DataFrame
    train_val: tuple[str, ...]
    test: tuple[str, ...]
    boxes: pd.DataFrame

    def labels(self, image_index: Sequence[str]) -> np.ndarray:
        """Return the labels of images: (N, 14) uint8, in the order of `image_index`.

        Raises:
            InputError: an image is not in the label table.
        """
        rows = self.images.index.get_indexer(pd.Index(list(image_index), dtype=self.images.index.dtype))
        if (rows < 0).any():
            missing = image_index[int(np.argmax(rows < 0))]
            raise InputError(f"{missing} is not in the label table; use the tables of this dataset")
        return self.images[list(FINDINGS)].to_numpy()[rows]


def load_metadata(folder: str | Path) -> NihMetadata:
    """Read the four tables in `folder`, plain or gzipped, of either release.

    Raises:
        InputError: a table is missing, unreadable, without rows or not UTF-8; a row is cut short; a column is missing;
        a
            finding is unknown; an image is listed twice or in both lists; a box is empty, leaves the image or is listed
            twice.
    """
    folder = Path(folder)
    train_val = _read_list(_find_table(folder, TRAIN_VAL_LIST))
    test = _read_list(_find_table(folder, TEST_LIST))
    if both := set(train_val) & set(test):
        raise InputError(f"{min(both)} is in both {TRAIN_VAL_LIST} and {TEST_LIST} of {folder}; fetch the lists again")
    images = _read_label_table(_find_table(folder, *LABEL_TABLES))
    return NihMetadata(
        images=images, train_val=train_val, test=test, boxes=_read_box_table(_find_table(folder, BOX_TABLE))
    )


def train_val_split(
    metadata: NihMetadata,
    *,
    validation_fraction: float,
    num_normal_images: int | None,
    seed: int,
    available: Collection[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Select the training and the validation images (Sect. 5.1 of the paper).

    All `train_val` images with a finding and a random sample of those without one (the paper: "approximately 5000") are
    split by patient, so that no patient is in both parts.

    Args:
        metadata: the official tables.
        validation_fraction: share of the patients for validation, 0 to below 1 (the paper: 0.2).
        num_normal_images: number of images without a finding; all if there are fewer, or for None.
        seed: of the sample and of the split; the same seed and images give the same result.
        available: names of the images that exist, for example those of a cache; by default all of the label table.

    Returns:
        `image_index` of the training and of the validation images, in the order of the label table. With a fraction
        above 0 and at least two patients neither is empty.

    Raises:
        InputError: an argument is out of range, or no `train_val` image is available.
    """
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}")
    if num_normal_images is not None and num_normal_images < 0:
        raise InputError(f"num_normal_images must not be negative, not {num_normal_images}")
    names = set(metadata.train_val) if available is None else set(metadata.train_val).intersection(available)
    images = metadata.images[metadata.images.index.isin(names)]
    if images.empty:
        raise InputError("none of the available images is in train_val_list.txt; prepare images that it lists")

    sample_rng, split_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    has_finding = images[list(FINDINGS)].to_numpy().any(axis=1)
    selected = has_finding.copy()
    selected[sample_rng.permutation(np.flatnonzero(~has_finding))[:num_normal_images]] = True
    if not selected.any():
        raise InputError("no available train_val image has a finding, and num_normal_images is 0; nothing to train on")

    patient_id = images["patient_id"].to_numpy()[selected]
    patients = split_rng.permutation(np.unique(patient_id))
    count = round(validation_fraction * len(patients))
    if validation_fraction > 0:
        count = min(max(count, 1), len(patients) - 1)  # a single patient is for training
    in_validation = np.isin(patient_id, patients[:count])
    image_index = np.asarray(images.index, dtype=object)[selected]
    return image_index[~in_validation].tolist(), image_index[in_validation].tolist()


def _find_table(folder: Path, *names: str) -> Path:
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise InputError(
        f"{folder} has no {' or '.join(names)} (plain or .gz); fetch it with data_download.sh --tables-only"
    )


def _read_list(path: Path) -> tuple[str, ...]:
    # The official lists lack a newline after the last name, and some copies have Windows line ends.
    names = [line.strip().strip('"') for line in re.split("[\r\n]+", _read_text(path)) if line.strip()]
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
            "patient_id": _parse_ints(columns["patient_id"], path),
            "follow_up": _parse_ints(columns["follow_up"], path),
            "age": _years(columns["age"]),
            "sex": columns["sex"].to_numpy(),
            "view": columns["view"].to_numpy(),
        },
        index=index,
    )
    labels = pd.DataFrame(_label_matrix(columns["labels"], path), index=index, columns=list(FINDINGS))
    return pd.concat([images, labels], axis=1)


def _label_matrix(cells: pd.Series, path: Path) -> np.ndarray:
    """Convert label cells to (N, 14) uint8; each of the 836 distinct cells is split once."""
    codes, distinct = pd.factorize(cells)
    matrix = np.zeros((len(distinct), len(FINDINGS)), dtype=np.uint8)
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
    boxes = pd.DataFrame({"image_index": table.iloc[:, 0].tolist()})
    try:
        boxes["finding"] = [canonical_finding(name) for name in table.iloc[:, 1]]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    _check_names(boxes["image_index"].tolist(), path)
    for position, column in enumerate(XYWH, start=2):
        boxes[column] = _parse_floats(table.iloc[:, position], path)
    if flat := int((~((boxes["w"] > 0) & (boxes["h"] > 0))).sum()):
        raise InputError(f"{path} has {flat} boxes without width or height; columns must be x, y, w, h")
    corners = boxes[["x", "y"]].to_numpy()
    # One pixel more is allowed, for boxes that were scaled to this size and rounded.
    beyond = ((corners < -1) | (corners + boxes[["w", "h"]].to_numpy() > ORIGINAL_SIZE + 1)).any(axis=1)
    if beyond.any():
        raise InputError(
            f"{path}: a box of {boxes['image_index'][int(np.argmax(beyond))]} leaves the image; columns must be "
            f"x, y, w, h in pixels of {ORIGINAL_SIZE}x{ORIGINAL_SIZE}"
        )
    if (twice := boxes.duplicated()).any():
        raise InputError(
            f"{path} lists a box of {boxes['image_index'][int(np.argmax(twice))]} twice; fetch it again or drop one"
        )
    boxes[XYWH] /= ORIGINAL_SIZE  # a power of two: no digit is lost
    return boxes


def _years(cells: pd.Series) -> np.ndarray:
    """Convert ages to years: "58" of the later release, "058Y", "013M", "001D" of the first."""
    text = cells.astype(str).str.strip()
    unit = text.str[-1:].map({"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}).fillna(1.0)
    return (pd.to_numeric(text.str.rstrip("YMD"), errors="coerce") * unit).to_numpy(dtype=np.float64)


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table with commas, plain or gzipped, with every cell as text.

    Raises:
        InputError: it is unreadable or empty, see also `_read_text`; or a row has fewer or more cells than the header,
        for
            example if the file was cut.
    """
    try:
        # The Python engine marks missing cells by NaN; for the C engine they equal empty cells.
        rows = pd.read_csv(StringIO(_read_text(path)), header=None, dtype=str, keep_default_na=False, engine="python")
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty; fetch it again") from None
    except pd.errors.ParserError as error:
        raise InputError(f"cannot read {path} as a table ({error}); fetch it again") from error
    header = rows.iloc[0].fillna("").tolist()
    table = rows[1:].set_axis(header, axis=1).reset_index(drop=True)
    is_short = table.loc[:, [bool(name.strip()) for name in header]].isna().any(axis=1)
    if is_short.any():
        row = int(np.argmax(is_short)) + 1
        raise InputError(f"{path}: row {row} has fewer cells than the header has names; fetch it again")
    return table.fillna("")


def _read_text(path: Path) -> str:
    """Read the text of a table, plain or gzipped, without a byte-order mark.

    Raises:
        InputError: it is unreadable, cut short, longer than `MAX_BYTES`, not UTF-8, or contains zero bytes.
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
        raise InputError(f"{path} contains zero bytes; fetch it again")
    return text


def _parse_floats(cells: pd.Series, path: Path) -> np.ndarray:
    """Convert cells to (N,) float64; InputError names a cell that is not a finite number."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        raise InputError(f"{path}, column {cells.name!r}: {cell!r} is not a number; fetch it again")
    return numbers


def _parse_ints(cells: pd.Series, path: Path) -> np.ndarray:
    """Convert cells to (N,) int64; InputError names a cell that is not a whole number below 2^53."""
    numbers = _parse_floats(cells, path)
    wrong = (numbers % 1 != 0) | (np.abs(numbers) >= 2**53)
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        raise InputError(f"{path}, column {cells.name!r}: {cell!r} is not a whole number; correct it")
    return numbers.astype(np.int64)


def label_counts(metadata: NihMetadata, cache: ImageCache) -> pd.DataFrame:
    """Count the images of a cache by finding.

    Returns:
        Index: the 14 findings, "No Finding", "images". Columns: `train_val` and `test` (images of the official lists)
        and `boxes` (true boxes). An image with several findings counts for each of them.
    """
    images = metadata.images[metadata.images.index.isin(cache.image_index)]
    counts = {}
    for column, names in (("train_val", metadata.train_val), ("test", metadata.test)):
        labels = images.loc[images.index.isin(names), list(FINDINGS)]
        counts[column] = pd.Series({**labels.sum(), NO_FINDING: (labels.sum(axis=1) == 0).sum(), "images": len(labels)})
    boxes = metadata.boxes[metadata.boxes["image_index"].isin(cache.image_index)]
    counts["boxes"] = boxes["finding"].value_counts()
    table = pd.DataFrame(counts, index=[*FINDINGS, NO_FINDING, "images"])
    table.loc["images", "boxes"] = boxes["image_index"].nunique()
    return table.fillna(0).astype(int)
