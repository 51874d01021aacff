"""Whole files or none: everything is written under a temporary name and renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError


class UnwritableError(InputError, OSError):
    """A file that could not be written, in a sentence for people and of a type that programs expect."""


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends well, else remove it.

    The temporary name keeps the suffix (image and array writers choose their format by it) and carries the
    process id, so that two writers never share it. The parent folder is created.

    Raises:
        UnwritableError: the disk is full, the folder read-only or gone.

    Example:
        >>> with whole_file("results.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnwritableError(f"{path} could not be written ({reason}); free or reconnect its folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
