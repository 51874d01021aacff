"""Open files, write them whole or not at all, list folders, and validate values read from JSON."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .errors import InputError

NAME_ERRORS = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
"""Errors of file systems that refuse a name, for example one of more than 255 bytes."""

CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
"""Errors of file systems without `fsync`, mostly for folders."""


class WriteError(InputError, OSError):
    """A file could not be written. It is an OSError too, for callers that expect one."""


def user_path(path: str | os.PathLike[str], *, what: str = "path") -> Path:
    """Convert a path that a user gave: "~" and "~name" at its start become the home folder.

    Args:
        path: as typed, on a command line, in a form or in a program.
        what: name of the path in the error message, for example "path of the checkpoint".

    Raises:
        InputError: the path is empty, or contains a zero byte, which no file system allows.
    """
    text = os.fspath(path)
    if not text or text.isspace() or "\0" in text:
        raise InputError(f"the {what} is {text!r}; give a file or a folder")
    return Path(os.path.expanduser(text))


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; refuse folders, and pipes and devices, which may never answer or never end.

    Raises:
        OSError: the file cannot be opened; `strerror` says why.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
    return open(path, "rb")


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, otherwise delete it.

    The temporary name has the same suffix, which decides the format of some writers, and the process id, so that two
    writers do not share it. The parent folder is created.

    Args:
        path: the file to write.
        durable: sync the file before and the folder after the rename. After a power cut the old or the new file exists,
            and files exist in the order in which they were written.

    Raises:
        WriteError: the disk is full, or the folder is read-only or missing.

    Example:
        >>> with atomic_write("results.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = user_path(path)
    temporary = path.with_name(f".{path.stem[:50]}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(f"{path} could not be written ({reason}); free or reconnect its folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def is_name_refused(error: WriteError) -> bool:
    """Return whether a file could not be written because of its name alone, so that others can."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in NAME_ERRORS


def readable(name: str | os.PathLike[str]) -> str:
    """Return a file name that can be printed and written to a file: bytes that are not UTF-8 become "\\xf6"."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def list_files(folder: Path) -> list[Path]:
    """List the files and folders in a folder; empty if the folder does not exist.

    Raises:
        InputError: the folder cannot be read, for example after a mounted disk was lost.
    """
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror or error}); reconnect its disk") from error


T = TypeVar("T")
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass_transform(frozen_default=True)
def validated(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that checks its fields: wrong types, ranges and names raise InputError."""
    cls = dataclass(frozen=True, config=STRICT)(cls)
    init = cls.__init__

    @wraps(init)
    def checked_init(self: T, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except ValidationError as error:
            raise InputError(_first_fault(error)) from error

    cls.__init__ = checked_init
    return cls


def from_plain(kind: type[T], values: Any) -> T:
    """Build a `validated` class from plain dictionaries, lists, numbers and strings, as JSON has them.

    Raises:
        InputError: names the first field that is unknown, missing or invalid.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        raise InputError(_first_fault(error)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{kind.__name__} needs plain values as in JSON: {error}") from error


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    field, reason = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{error.title} lacks the field {field}; add it"
    if not field:
        return f"{error.title} is not valid: {reason}"
    return f"{error.title} does not accept {field} = {str(fault['input'])[:80]!r}: {reason}; correct it"
