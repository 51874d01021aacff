"""Files of a run, kept where the user wants them, also where that place comes and goes (Google Drive).

With a scratch folder on a disk of the machine's own, a file is written there first, then copied under a temporary name,
renamed, and removed from scratch: what lies there waits. A copy that fails costs a warning and is tried again whenever
the next file is written, at the end, and by the next run. A file is on its disk before the next one is written, so that
a power cut leaves them as a kill would.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import InputError
from ..io import WriteError, atomic_write, list_files
from ..models.checkpoint import is_of_run, is_partial_file, is_state


class CheckpointWriter:
    """Writes a run's files into a folder.

    Attributes:
        folder: where they are kept.
        name: of the recipe whose files they are.
        scratch: where they are written first, None: nowhere else.
        waiting: names of the files that have yet to be copied, in the order of their writing.
        owed: name -> content of what nothing else can make again, until it is written.
    """

    def __init__(self, folder: Path, *, name: str, local_dir: Path | None = None) -> None:
        """Keep the files of the recipe called `name`.

        What an earlier run of it could not copy waits again; what it was killed in writing is removed.

        Raises:
            InputError: a place is there and cannot be read; what it holds must be known before a run begins.
        """
        self.folder, self.name, self.local_dir = Path(folder), name, local_dir
        for path in (path for place in self.places for path in list_files(place)):
            if is_partial_file(path.name, name):
                with suppress(OSError):
                    path.unlink()
        left = [path for path in list_files(local_dir) if is_of_run(path.name, name)] if local_dir else []
        self.waiting = [path.name for path in sorted(left, key=lambda path: path.stat().st_mtime_ns)]
        self.owed: dict[str, bytes] = {}
        self._disk = mount_point(self.folder)

    def settle(self) -> None:
        """Write what is owed.

        Raises:
            WriteError: see `write`; it stays owed.
        """
        for name, content in list(self.owed.items()):
            self.write(name, lambda path, content=content: path.write_bytes(content))
            del self.owed[name]

    def write(self, name: str, save: Callable[[Path], object]) -> None:
        """Write the file called `name`, whole or not at all.

        Args:
            name: of the file.
            save: writes the path that it is given.

        Raises:
            WriteError: the folder (with a scratch folder, that one) cannot be written.
        """
        if self.local_dir is None:
            self._require_disk(name)
            with atomic_write(self.folder / name, durable=True) as temporary:
                save(temporary)
            return
        with atomic_write(self.local_dir / name, durable=True) as temporary:
            save(temporary)
        self.waiting = [other for other in self.waiting if other != name] + [name]
        try:
            self.deliver()
        except WriteError as error:
            warnings.warn(
                f"{error}; training goes on, {len(self.waiting)} files wait in {self.local_dir} and are copied when the "
                "folder is there again",
                stacklevel=2,
            )

    def deliver(self) -> None:
        """Copy what waits, in the order of writing, so that no state is there before the models that it speaks of.

        A state that finds no room keeps back other states and no model, which are smaller and worth more.

        Raises:
            WriteError: the folder cannot be written; what is not copied waits on.
        """
        failed = None
        for name in list(self.waiting):
            if failed is not None and is_state(name, self.name):
                continue
            try:
                self._require_disk(name)
                with atomic_write(self.folder / name, durable=True) as temporary:
                    shutil.copyfile(self.local_dir / name, temporary)
            except WriteError as error:
                failed = failed or error
                if not is_state(name, self.name):
                    break
                continue
            self.waiting.remove(name)
            (self.local_dir / name).unlink(missing_ok=True)
        if failed is not None:
            raise failed

    def finish(self) -> None:
        """Copy what still waits of a run that is complete, whose states are worth nothing any more.

        Raises:
            InputError: says where the files lie that could not be copied.
        """
        for name in [name for name in self.waiting if is_state(name, self.name)]:
            self._remove(name, self.local_dir)
        try:
            self.deliver()
        except WriteError as error:
            raise InputError(f"{error}, then copy {', '.join(self.waiting)} there from {self.local_dir}") from error

    def remove(self, name: str) -> None:
        """Remove a file; what cannot be removed stays."""
        for place in self.places:
            self._remove(name, place)

    def _remove(self, name: str, place: Path) -> None:
        if place == self.local_dir:
            self.waiting = [other for other in self.waiting if other != name]
        with suppress(OSError):
            if self.local_dir is not None and (place / name).exists():
                (place / name).write_bytes(b"")  # Drive keeps removed files for a month, at their size
            (place / name).unlink()

    @property
    def places(self) -> list[Path]:
        """Where files may lie; what lies in the first is newer."""
        return [self.folder] if self.local_dir is None else [self.local_dir, self.folder]

    def find(self, path: Path) -> Path | None:
        """The file that is kept at `path`, where it is now: it may wait in scratch still. None where there is none.

        An empty one was being removed.
        """
        found = (place / path.name for place in self.places if place / path.name in list_files(place))
        return next(filter(_has_content, found), None)

    def states(self) -> list[Path]:
        """The states of the run, the latest first; empty ones were being removed.

        Raises:
            InputError: a place cannot be read.
        """
        found = [path for place in self.places for path in self._states_in(place)]
        return sorted(found, key=lambda path: path.name, reverse=True)

    def _states_in(self, place: Path) -> list[Path]:
        found = (path for path in list_files(place) if is_state(path.name, self.name) and _has_content(path))
        return sorted(found, key=lambda path: path.name, reverse=True)

    def keep_states(self, count: int) -> None:
        """Remove all states but the latest `count`; what cannot be read or removed stays.

        Each place keeps so many of its own: those that wait in scratch are gone with the machine.
        """
        for place in self.places:
            with suppress(InputError):
                for path in self._states_in(place)[count:]:
                    self._remove(path.name, place)

    def _require_disk(self, name: str) -> None:
        """Refuse to write into a folder that only looks like the kept one: where Drive is gone, the path may remain.

        A disk that is mounted anew has the same mount point and is taken again.
        """
        if not os.path.ismount(self._disk):
            raise WriteError(f"{self.folder / name} could not be written (its disk is gone); reconnect its folder")


def mount_point(path: Path) -> Path:
    """Where the disk is mounted that holds a path, or will hold it once it is made."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if os.path.ismount(place))


def _has_content(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_size > 0
    return False
