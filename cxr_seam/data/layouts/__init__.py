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

LAYOUTS = (*READERS, "chexpert:zeros", "chexpert:ones")
"""What a user may choose. Uncertain findings of CheXpert are unknown, or count as 0 or 1 with "zeros" or "ones"."""


def load_dataset(folder: str | Path, *, layout: str = "") -> DatasetMetadata:
    """Read the labels, the split and the boxes of a dataset.

    Args:
        folder: the folder with the dataset's tables.
        layout: one of `LAYOUTS`; "": detect the layout from the files in the folder.

    Raises:
        InputError: the layout is unknown, no layout or several match; else see `load_metadata` of the reader.
    """
    folder = user_path(folder, what="folder of the dataset")
    name, _, uncertain = check_layout(layout or detect_layout(folder)).partition(":")
    return chexpert.load_metadata(folder, uncertain=uncertain) if uncertain else READERS[name].load_metadata(folder)


def check_layout(layout: str) -> str:
    """Return a layout; InputError if it is none of `LAYOUTS`."""
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}; the known ones are {', '.join(LAYOUTS)}")
    return layout


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
            f"{folder} has the tables of {' and '.join(names)}; choose one: layout={names[0]!r} in Python, "
            f"--layout {names[0]} on the command line, LAYOUT in a notebook"
        )
    return names[0]
