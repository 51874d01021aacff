"""Read tables of datasets (CSV) and refuse broken ones with one sentence that names file and line."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from ...errors import InputError

T = TypeVar("T")

MAX_BYTES = 64 * 2**20
"""Longest table that is read, also after decompression; NIH's longest has 8 MB."""

MAX_JSON_BYTES = 512 * 2**20
"""Longest file of boxes and outlines that is read; COCO's own of 118,287 images has 448 MiB."""

_NAMED_SEPARATOR = re.compile(r'"?sep=([^\w\s"]|\t)"?(?=\r?\n)', re.IGNORECASE)


def find_table(folder: Path, *names: str) -> Path | None:
    """Return the first file of these names, plain or gzipped, in a folder; None if there is none."""
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_csv(path: Path, *, separators: str = ",") -> pd.DataFrame:
    """Read a table, plain or gzipped, with every cell as text.

    Args:
        path: the file.
        separators: characters that may separate cells; the most frequent one in the header does, unless the first line
            names one, as Excel writes it ("sep=;").

    Returns:
        One row per line of the file, indexed by its number in the file ("line"; the header is line 1). Lines without
        text are left out.

    Raises:
        InputError: it is unreadable or empty, see also `read_text`; or a row has fewer or more cells than the header,
            for example if the file was cut.
    """
    text = read_text(path)
    separator = max(separators, key=text.lstrip().partition("\n")[0].count)
    if named_separator := _NAMED_SEPARATOR.match(text):
        separator, text = named_separator[1], text[named_separator.end() :]
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    lines, rows = [], []
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                lines.append(reader.line_num)
                rows.append(row)
    except csv.Error as error:
        raise InputError(f"cannot read {path}, line {reader.line_num}, as a table ({error}); fetch it again") from error
    if not rows:
        raise InputError(f"{path} is empty; fetch it again")
    header = rows[0]
    named = max((place for place, name in enumerate(header, 1) if name.strip()), default=0)
    for line, row in zip(lines, rows, strict=True):
        if not named <= len(row) or any(row[len(header) :]):
            count = "fewer" if len(row) < named else "more"
            raise InputError(f"{path}, line {line}, has {count} cells than the header has names; correct or fetch it")
    table = [(row + [""] * (len(header) - len(row)))[: len(header)] for row in rows[1:]]
    return pd.DataFrame(table, columns=header, index=pd.Index(lines[1:], name="line", dtype=np.int64), dtype=object)


def require_columns(table: pd.DataFrame, names: Sequence[str], path: Path, *, may_be_empty: bool = False) -> None:
    """Check that each of some columns occurs once, and that the table has a row.

    Raises:
        InputError: a column is missing or occurs several times, or the table has no row and `may_be_empty` is False.
    """
    for name in names:
        if (count := list(table.columns).count(name)) != 1:
            raise InputError(f"{path} has {'several columns' if count else 'no column'} {name!r}; correct its header")
    if table.empty and not may_be_empty:
        raise InputError(f"{path} has no row; fetch it again")


def refuse_similar(names: Sequence[str], path: Path) -> None:
    """Raise an InputError if two findings differ only in the case of their letters."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(name.lower(), name)) != name:
            raise InputError(f"{path} has the findings {other!r} and {name!r}, which differ only in case; join them")


def read_bytes(path: Path, most: int) -> bytes:
    """Read the first bytes of a file, plain or gzipped; errors are those of `open` and `gzip`."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else path.open("rb") as file:
        return file.read(most)


def first_column(path: Path) -> str:
    """Return the name of the first column of a table; empty if the file cannot be read."""
    try:
        start = read_bytes(path, 256).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error):
        return ""
    return start.split(",")[0].strip().strip('"')


def read_text(path: Path, *, most: int = MAX_BYTES) -> str:
    """Read the text of a table, plain or gzipped, without a byte-order mark.

    Raises:
        InputError: it is unreadable, cut short, longer than `most` bytes, not UTF-8, or contains zero bytes.
    """
    try:
        data = read_bytes(path, most + 1)
        if len(data) > most:
            raise InputError(f"{path} is longer than {most >> 20} MiB, the most that is read; leave out rows or digits")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); save it as UTF-8 (Excel: CSV UTF-8)") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path} as a table ({error}); fetch it again") from error
    if "\0" in text:
        raise InputError(f"{path} contains zero bytes; fetch it again")
    return text


def validate_json(text: str, kind: TypeAdapter[T], path: Path, *, layout: str) -> T:
    """Validate the text of a file of boxes and outlines; InputError says where a value is missing or wrong."""
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise InputError(f"{path} is not of {layout}: {where}: {problem['msg']}; fetch or export it again") from error


def parse_floats(cells: pd.Series, path: Path) -> np.ndarray:
    """Convert cells to (N,) float64; InputError names a cell that is not a finite number."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    refuse_cells(~np.isfinite(numbers), cells, path, "is not a number such as 12 or 12.5; correct it")
    return numbers


def parse_ints(cells: pd.Series, path: Path) -> np.ndarray:
    """Convert cells to (N,) int64; InputError names a cell that is not a whole number below 2^53."""
    numbers = parse_floats(cells, path)
    refuse_cells((numbers % 1 != 0) | (np.abs(numbers) >= 2**53), cells, path, "is not a whole number; correct it")
    return numbers.astype(np.int64)


def parse_labels(cells: pd.Series, path: Path, values: Mapping[str, float], *, advice: str = "") -> np.ndarray:
    """Convert cells to (N,) float32 labels.

    Args:
        cells: text, indexed by line.
        path: the file, for errors.
        values: label of each text, in lower case and without spaces around it.
        advice: end of the error's sentence.

    Raises:
        InputError: a cell has another text; the error names its line.
    """
    codes, distinct = pd.factorize(cells)
    texts = [cell.strip().lower() for cell in distinct]
    allowed = ", ".join(text or "empty" for text in values)
    is_wrong = np.array([text not in values for text in texts], dtype=bool)[codes]
    refuse_cells(is_wrong, cells, path, f"is none of: {allowed}{advice}")
    return np.array([values[text] for text in texts], dtype=np.float32)[codes]


def parse_texts(cells: pd.Series, path: Path) -> pd.Series:
    """Remove spaces around cells; InputError names an empty cell."""
    cells = cells.str.strip()
    refuse_cells(cells == "", cells, path, "is empty; fill it in or delete the line")
    return cells


def refuse_cells(wrong: np.ndarray | pd.Series, cells: pd.Series, path: Path, sentence: str) -> None:
    """Raise an InputError that names the first wrong cell of a column; `wrong` is (N,) bool."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{path}, line {cells.index[row]}, column {cells.name!r}: {cells.iloc[row]!r} {sentence}")
