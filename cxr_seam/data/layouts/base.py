"""The structure that every reader of a dataset layout returns, and the steps that readers share."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import InputError, count_of
from ...findings import XYWH
from ...io import open_file
from ..dicom import PREAMBLE, is_dicom
from ..image_io import SUFFIXES, first_names, pillow_reader, sort_files

BOX_COLUMNS = ["image_index", "finding", *XYWH]
MASK_COLUMNS = ["image_index", "finding", "polygon"]


def _no_boxes() -> pd.DataFrame:
    return pd.DataFrame(columns=BOX_COLUMNS).astype(dict.fromkeys(XYWH, np.float64))


def _no_masks() -> pd.DataFrame:
    return pd.DataFrame(columns=MASK_COLUMNS)


@dataclass(frozen=True, eq=False)
class DatasetMetadata:
    """Labels, split, boxes and masks of a dataset.

    Attributes:
        name: name of the layout.
        findings: names of the K findings, in the order of the labels.
        images: one row per image, indexed by `image_index`, the file name or relative path of the image; columns
            `patient_id` (int or str), where the layout has them `follow_up` (int), `age` (years, float, NaN where
            unknown), `sex` and `view` (text), and one float32 column per finding: 0, 1, or NaN where unknown or
            uncertain.
        train_val, test: names of the images of both parts, including images that are not in `images`.
        boxes: columns `image_index`, `finding`, and `x`, `y`, `w`, `h` as fractions of the image's width and height, in
            [0, 1]. Their images may be missing in `images`.
        masks: columns `image_index`, `finding` and `polygon`, a list of corners (x, y) as fractions, in [0, 1]; no rows
            if the layout has no outlines.
    """

    name: str
    findings: tuple[str, ...]
    images: pd.DataFrame
    train_val: tuple[str, ...]
    test: tuple[str, ...]
    boxes: pd.DataFrame = field(default_factory=_no_boxes)
    masks: pd.DataFrame = field(default_factory=_no_masks)

    def labels(self, image_index: Sequence[str]) -> np.ndarray:
        """Return the labels of images: (N, K) float32, in the order of `image_index` and of `findings`.

        Raises:
            InputError: an image is not in the label table.
        """
        rows = self.images.index.get_indexer(pd.Index(list(image_index), dtype=self.images.index.dtype))
        if (rows < 0).any():
            missing = image_index[int(np.argmax(rows < 0))]
            raise InputError(f"{missing} is not in the label table; use the tables of this dataset")
        return self.images[list(self.findings)].to_numpy(dtype=np.float32)[rows]


def scale_boxes(boxes: pd.DataFrame, sizes: np.ndarray | tuple[int, int], path: Path) -> pd.DataFrame:
    """Convert boxes from pixels to fractions of the image.

    Args:
        boxes: columns `BOX_COLUMNS`; the index tells where each box is in the file, its name what it counts ("line").
        sizes: (N, 2) height and width of each box's image, or one pair for all.
        path: the file of the boxes, for errors.

    Returns:
        The boxes in fractions, cut at the border of the image, in the same order with a new index.

    Raises:
        InputError: a box has no width or height, or leaves the image by more than a pixel, which rounding does not
            explain.
    """
    size = np.broadcast_to(np.asarray(sizes, dtype=np.float64), (len(boxes), 2))[:, ::-1]  # width, height
    corner, extent = boxes[["x", "y"]].to_numpy(np.float64), boxes[["w", "h"]].to_numpy(np.float64)
    first, last = np.clip(corner, 0, size), np.clip(corner + extent, 0, size)
    for wrong, reason in (
        (~(extent > 0), "has no width or height"),  # true for NaN as well
        (~((corner >= -1) & (corner + extent <= size + 1) & (first < last)), "leaves the image"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong.any(axis=1)))
            place, name, (width, height) = boxes.index[row], boxes["image_index"].iloc[row], size[row]
            raise InputError(
                f"{path}, {boxes.index.name} {place}: the box of {name} {reason}; boxes must be in pixels of the "
                f"original image ({width:g}x{height:g})"
            )
    is_cut = (corner < 0) | (corner + extent > size)  # the difference of two corners would round the others
    scaled = np.hstack([first, np.where(is_cut, last - first, extent)]) / np.hstack([size, size])
    names = boxes[["image_index", "finding"]].reset_index(drop=True)
    return pd.concat([names, pd.DataFrame(scaled, columns=XYWH)], axis=1)


def image_size(path: Path) -> tuple[int, int]:
    """Read the height and the width of an image file in pixels, without decoding it.

    Raises:
        InputError: the file is missing, broken or neither PNG, JPEG, TIFF nor DICOM.
    """
    try:
        with open_file(path) as file:
            head = file.read(PREAMBLE)
            file.seek(0)
            reader = pillow_reader(head)
            if reader is not None:
                with reader(file) as image:
                    return image.height, image.width
            if is_dicom(head, path.name):
                from pydicom import dcmread

                header = dcmread(file, stop_before_pixels=True, force=True, specific_tags=["Rows", "Columns"])
                return int(header.Rows), int(header.Columns)
    except ImportError:
        raise InputError(f"{path} is a DICOM file; to read it, run pip install pydicom python-gdcm") from None
    except Exception as error:  # pydicom and Pillow raise a dozen types for broken bytes
        raise InputError(f"cannot read the size of {path} ({error}); fetch it again") from error
    raise InputError(f"{path} is neither a PNG nor a JPEG, TIFF or DICOM image; convert it")


def scale_boxes_by_files(boxes: pd.DataFrame, files: Mapping[str, Path], path: Path) -> pd.DataFrame:
    """Convert boxes from pixels to fractions, with the sizes in the headers of the boxed images.

    Boxes of images without a file are left out with a warning.

    Args:
        boxes: see `scale_boxes`.
        files: the files of images by `image_index`.
        path: the file of the boxes, for errors.
    """
    exists = boxes["image_index"].isin(files.keys())
    if missing := list(dict.fromkeys(boxes["image_index"][~exists])):
        warn_guess(
            path, f"boxes of {count_of(len(missing), 'image')} without a file are left out: {first_names(missing)}"
        )
    boxes = boxes[exists]
    sizes = {name: image_size(files[name]) for name in boxes["image_index"].unique()}
    return scale_boxes(boxes, np.array([sizes[name] for name in boxes["image_index"]]).reshape(-1, 2), path)


class ImageFiles:
    """The image files of a dataset, found by names that may differ in suffix, case or, without folder, in the folder.

    Attributes:
        root: the folder `images` of the dataset, or the dataset's folder without it.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "images" if (folder / "images").is_dir() else folder
        self._files: dict[tuple[str, str], list[Path]] = {}
        for path in sort_files(self.root)[0]:
            for key in self._keys(path.relative_to(self.root).as_posix(), with_folder=False):
                self._files.setdefault(key, []).append(path)

    def find(self, name: str) -> tuple[str, Path | None]:
        """Return the `image_index` of a name in a table, and its file.

        The index is the path of the file below `root`. A name without a file is its own index.

        Raises:
            InputError: several files may be meant.
        """
        name = name.replace("\\", "/").removeprefix("./")
        if self.root.name == "images":
            name = name.removeprefix("images/")
        keys = self._keys(name, with_folder="/" in name)
        files = next((self._files[key] for key in keys if key in self._files), [])
        if not files:
            return name, None
        if len(files) > 1:
            raise InputError(f"{name} may be {first_names(files)}; write the path of the file into the table")
        return files[0].relative_to(self.root).as_posix(), files[0]

    def find_all(self, names: pd.Series, path: Path) -> tuple[list[str], dict[str, Path]]:
        """Find the images of a column of a table; guessed files give one warning.

        Returns:
            The `image_index` of each name, and the files that exist by `image_index`.
        """
        found = {name: self.find(name) for name in names.unique()}
        if guessed := [f"{name} is {index}" for name, (index, _) in found.items() if not _ends_with(name, index)]:
            count = count_of(len(guessed), "image has", "images have")
            warn_guess(path, f"{count} another name in the table than the file: {first_names(guessed)}")
        return [found[name][0] for name in names], {index: file for index, file in found.values() if file is not None}

    @staticmethod
    def _keys(name: str, *, with_folder: bool) -> list[tuple[str, str]]:
        """Return what may be compared of a path, the most exact first."""
        lower = name.lower()
        stem = next((lower[: -len(suffix)] for suffix in SUFFIXES if lower.endswith(suffix)), lower)
        keys = [("path", name), ("path in lower case", lower), ("path without suffix", stem)]
        return keys if with_folder else [*keys, ("stem", stem.rpartition("/")[2])]


def _ends_with(name: str, index: str) -> bool:
    return name.replace("\\", "/").lower().endswith(index.lower())


def split_by_hash(patients: Sequence[str]) -> np.ndarray:
    """Select the test images of a dataset without official split: those of about 20 % of the patients.

    A patient is for the test if the first 32 bits of the SHA-256 of the patient's name, modulo 5, are 0. So the split
    depends neither on the order nor on the number of the images.

    Returns:
        (N,) bool, True for the test.
    """
    return np.array([int(hashlib.sha256(str(name).encode()).hexdigest()[:8], 16) % 5 == 0 for name in patients], bool)


def warn_guess(path: Path, sentence: str) -> None:
    """Warn of something that a reader had to assume of a file."""
    warnings.warn(f"{path}: {sentence}", stacklevel=4)
