"""Whole files or none: everything is written under a temporary name and renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
"""What file systems answer that know no `fsync`, of folders above all."""


class WriteError(InputError, OSError):
    """A file that could not be written, in a sentence for people and of a type that programs expect."""


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends well, else remove it.

    The temporary name keeps the suffix (image and array writers choose their format by it) and carries the
    process id, so that two writers never share it. The parent folder is created.

    Args:
        path: of the file.
        durable: wait until the disk has the content before the rename, and the rename before going on, so that after a
            power cut there is the old file or the new one, and files are there in the order of their writing.

    Raises:
        WriteError: the disk is full, the folder read-only or gone.

    Example:
        >>> with atomic_write("results.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
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
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def list_files(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where there is no folder.

    Raises:
        InputError: the folder cannot be read, as where a mounted disk has died.
    """
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror or error}); reconnect its disk") from error
