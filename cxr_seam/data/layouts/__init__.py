"""Read the tables of a dataset: one reader for each layout, all of which return a `DatasetMetadata`.

A reader is a module with `NAME`, `TABLES` (the files by which its layout is known, in words), `IMAGE_FOLDERS` (folders
of images below the dataset's folder, which itself has the images if none of them exists), `IMAGE_NAME` (names an image
file as `image_index` does, see `archives`), `matches(folder)` and `load_metadata(folder)`.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...io import user_path
from . import chestx_det, chexpert, coco, nih, rsna, simple, vindr
from .base import DatasetMetadata

READERS = {reader.NAME: reader for reader in (nih, simple, coco, chexpert, rsna, vindr, chestx_det)}
"""The readers by the names of their layouts."""


def load_dataset(folder: str | Path, *, layout: str | None = None) -> DatasetMetadata:
    """Read the labels, the split and the boxes of a dataset.

    Args:
        folder: the folder with the dataset's tables.
        layout: a key of `READERS`; None: detect the layout from the files in the folder.

    Raises:
        InputError: the layout is unknown, no layout or several match; else see `load_metadata` of the reader.
    """
    folder = user_path(folder, what="folder of the dataset")
    if layout is None:
        layout = detect_layout(folder)
    if layout not in READERS:
        raise InputError(f"unknown layout {layout!r}; the known ones are {', '.join(READERS)}")
    return READERS[layout].load_metadata(folder)


def detect_layout(folder: Path) -> str:
    """Return the name of the layout whose tables a folder contains.

    Raises:
        InputError: no layout matches, or several do.
    """
    names = [name for name, reader in READERS.items() if reader.matches(folder)]
    if not names:
        wanted = "; ".join(f"{reader.TABLES} ({name})" for name, reader in READERS.items())
        raise InputError(f"{folder} has none of these tables: {wanted}; add one or choose another folder")
    if len(names) > 1:
        raise InputError(
            f"{folder} has the tables of {' and '.join(names)}; move those of one to another folder, or choose in "
            "Python with load_dataset(folder, layout=NAME)"
        )
    return names[0]
