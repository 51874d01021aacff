"""Read tables of datasets (CSV) and refuse broken ones with one sentence."""

from __future__ import annotations

import gzip
import zlib
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import InputError

MAX_BYTES = 64 * 2**20
"""Longest table that is read, also after decompression; NIH's longest has 8 MB."""


def find_table(folder: Path, *names: str) -> Path | None:
    """Return the first file of these names, plain or gzipped, in a folder; None if there is none."""
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table with commas, plain or gzipped, with every cell as text.

    Raises:
        InputError: it is unreadable or empty, see also `read_text`; or a row has fewer or more cells than the header,
            for example if the file was cut.
    """
    try:
        # The Python engine marks missing cells by NaN; for the C engine they equal empty cells.
        rows = pd.read_csv(StringIO(read_text(path)), header=None, dtype=str, keep_default_na=False, engine="python")
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


def read_text(path: Path) -> str:
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


def parse_floats(cells: pd.Series, path: Path) -> np.ndarray:
    """Convert cells to (N,) float64; InputError names a cell that is not a finite number."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        raise InputError(f"{path}, column {cells.name!r}: {cell!r} is not a number; fetch it again")
    return numbers


def parse_ints(cells: pd.Series, path: Path) -> np.ndarray:
    """Convert cells to (N,) int64; InputError names a cell that is not a whole number below 2^53."""
    numbers = parse_floats(cells, path)
    wrong = (numbers % 1 != 0) | (np.abs(numbers) >= 2**53)
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        raise InputError(f"{path}, column {cells.name!r}: {cell!r} is not a whole number; correct it")
    return numbers.astype(np.int64)
