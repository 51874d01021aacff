"""Files of a run, kept where the user wants them, also where that place comes and goes (Google Drive).

With a scratch folder on a disk of the machine's own, a file is written there first, then copied under a temporary name,
renamed, and removed from scratch: what lies there waits. A copy that fails costs a warning and is tried again whenever
the next file is written, at the end, and by the next run.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import InputError
from .files import UnwritableError, whole_file


class Keeper:
    """Writes a run's files into a folder.

    Attributes:
        folder: where they are kept.
        scratch: where they are written first, None: nowhere else.
        waiting: names of the files that have yet to be copied, in the order of their writing.
    """

    def __init__(self, folder: Path, *, name: str, scratch: Path | None = None) -> None:
        """Keep the files of the run called `name`.

        What an earlier run of it could not copy waits again; what it was killed in writing is removed.
        """
        self.folder, self.scratch = Path(folder), scratch
        for path in (path for place in self.places for path in place.glob(".*.part*")):
            if path.name.lstrip(".").startswith(f"{name}."):
                with suppress(OSError):
                    path.unlink()
        left = [] if scratch is None else sorted(scratch.glob(f"{name}.*"), key=lambda path: path.stat().st_mtime)
        self.waiting = [path.name for path in left]
        self._disk = self._disk_now()  # where Drive is gone, a folder of its name may still be there

    def write(self, name: str, save: Callable[[Path], object]) -> None:
        """Write the file called `name`, whole or not at all.

        Args:
            name: of the file.
            save: writes the path that it is given.

        Raises:
            UnwritableError: the folder (with a scratch folder, that one) cannot be written.
        """
        if self.scratch is None:
            self._require_disk(name)
            with whole_file(self.folder / name) as temporary:
                save(temporary)
            return
        with whole_file(self.scratch / name) as temporary:
            save(temporary)
        self.waiting = [other for other in self.waiting if other != name] + [name]
        try:
            self.deliver()
        except UnwritableError as error:
            warnings.warn(
                f"{error}; training goes on, {len(self.waiting)} files wait in {self.scratch} and are copied when the "
                "folder is there again",
                stacklevel=2,
            )

    def deliver(self) -> None:
        """Copy what waits, in the order of writing, so that no state is there before the models that it speaks of.

        Raises:
            UnwritableError: the folder cannot be written; what is not copied waits on.
        """
        while self.waiting:
            name = self.waiting[0]
            self._require_disk(name)
            with whole_file(self.folder / name) as temporary:
                shutil.copyfile(self.scratch / name, temporary)
            self.waiting.pop(0)
            (self.scratch / name).unlink()

    def finish(self) -> None:
        """Copy what still waits.

        Raises:
            InputError: says where the files lie that could not be copied.
        """
        try:
            self.deliver()
        except UnwritableError as error:
            raise InputError(f"{error}, then copy {', '.join(self.waiting)} there from {self.scratch}") from error

    def remove(self, name: str) -> None:
        """Remove a file; what cannot be removed stays."""
        self.waiting = [other for other in self.waiting if other != name]
        for path in (place / name for place in self.places if (place / name).exists()):
            with suppress(OSError):
                if self.scratch is not None:
                    path.write_bytes(b"")  # Drive keeps removed files for a month, at their size
                path.unlink()

    @property
    def places(self) -> list[Path]:
        """Where files may lie."""
        return [self.folder] if self.scratch is None else [self.scratch, self.folder]

    def _disk_now(self) -> int | None:
        """The disk of the folder or of what it will be made in."""
        for place in (self.folder, *self.folder.absolute().parents):
            with suppress(OSError):
                return place.stat().st_dev
        return None

    def _require_disk(self, name: str) -> None:
        if self._disk_now() != self._disk:
            raise UnwritableError(f"{self.folder / name} could not be written (its disk is gone); reconnect its folder")
