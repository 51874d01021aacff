"""A table in a text file to cells, and cells to numbers; whatever is wrong with it is told in one sentence."""

from __future__ import annotations

import csv
import gzip
import zlib
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import InputError

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


def finite_numbers(cells: pd.Series, path: Path) -> np.ndarray:
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


def whole_numbers(cells: pd.Series, path: Path) -> np.ndarray:
    """Cells as (N,) int64.

    Raises:
        InputError: one is no whole number, or beyond 2^53, where float64 does not know every one.
    """
    numbers = finite_numbers(cells, path)
    wrong = (numbers % 1 != 0) | (np.abs(numbers) >= 2**53)
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        raise InputError(f"{path}, column {cells.name!r}: {cell!r} is not a whole number; correct it")
    return numbers.astype(np.int64)
