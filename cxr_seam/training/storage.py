"""Write the files of a training run, also to a disk that comes and goes (Google Drive).

With a local folder a file is written there first, then copied under a temporary name, renamed, and removed from the
local folder. If a copy fails, it is repeated at the next write, at the end, and by the next run. Each file is on its
disk before the next one is written, so that a power cut leaves the same files as a killed process.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io import WriteError, atomic_write, list_files
from ..models.checkpoint import BEST, HISTORY, LAST, Checkpoint, best_path, history_path, parse_history, read_header
from .resume import require_same_run, run_fingerprint

STATE = re.compile(r"(?P<name>.+)\.\d{5,}-\d{7,}\.state\.(pt|safetensors)")
"""File name of a training state; earlier versions wrote safetensors."""
PARTIAL = re.compile(r"\.(.+)\.\d+\.part(\.\w+)")
"""File name of an unfinished `atomic_write`."""


def state_name(name: str, *, epoch: int, batch: int) -> str:
    """Return the file name of a state of the recipe `name`; later states sort after earlier ones."""
    return f"{name}.{epoch:05}-{batch:07}.state.pt"


def is_state(file: str, name: str) -> bool:
    """Return whether a file name is that of a state of the recipe `name`."""
    match = STATE.fullmatch(file)
    return match is not None and match["name"] == name


def is_of_run(file: str, name: str) -> bool:
    """Return whether a file name is that of a checkpoint, history or state of the recipe `name`."""
    return file in {f"{name}.{end}" for end in (BEST, LAST, HISTORY)} or is_state(file, name)


def is_partial_file(file: str, name: str) -> bool:
    """Return whether a file name is that of an unfinished write of a file of the recipe `name`."""
    match = PARTIAL.fullmatch(file)
    return match is not None and is_of_run("".join(match.groups()), name)


class RunFolder:
    """Find the files of a training run.

    Attributes:
        folder: of all files in the end.
        name: of the recipe.
        local_dir: folder of the files that have yet to be copied; None if files are written to `folder` at once.
    """

    def __init__(self, folder: Path | str, name: str, *, local_dir: Path | None = None) -> None:
        self.folder, self.name, self.local_dir = Path(folder), name, local_dir

    @property
    def folders(self) -> list[Path]:
        """Return the folders that may contain files; files in the first one are newer."""
        return [self.folder] if self.local_dir is None else [self.local_dir, self.folder]

    def find(self, path: Path) -> Path | None:
        """Return where the file `path` is now, None if it does not exist; an empty file was being removed.

        Raises:
            InputError: a folder cannot be read.
        """
        found = (file for folder in self.folders for file in list_files(folder) if file.name == path.name)
        return next(filter(_has_content, found), None)

    def states(self) -> list[Path]:
        """Return the training states, the latest first.

        Raises:
            InputError: a folder cannot be read.
        """
        states = [path for folder in self.folders for path in states_in(folder, self.name)]
        return sorted(states, key=lambda path: path.name, reverse=True)

    def best(self, run: Mapping[str, Any]) -> Checkpoint | None:
        """Return the metadata of the best checkpoint, None if there is none.

        Args:
            run: see `run_fingerprint`.

        Raises:
            InputError: the checkpoint belongs to another run or cannot be read.
        """
        path = self.find(best_path(self.folder, self.name))
        if path is None:
            return None
        metadata = read_header(path)
        found = None if metadata.data is None else run_fingerprint(metadata.recipe, metadata.data)
        require_same_run(path, found=found, expected=run)
        return metadata

    def finished_history(self, run: Mapping[str, Any], *, epochs: int) -> list[dict[str, Any]] | None:
        """Return the history of a run that is complete, else None. The calibrated best checkpoint is written last.

        Raises:
            InputError: see `best`; or the run is complete, but its history is missing or damaged.
        """
        best = self.best(run)
        if best is None or best.thresholds is None:
            return None
        path = history_path(self.folder, self.name)
        file = self.find(path)
        history = [] if file is None else parse_history(file)
        if len(history) != epochs:
            raise InputError(
                f"{path} has {len(history)} epochs, but {self.name} is trained for {epochs}; restore it, or train "
                "again with overwrite=True (--overwrite)"
            )
        return history


class CheckpointWriter:
    """Write the files of a run; a failed write costs a warning and is repeated later.

    Attributes:
        files: of the run.
        pending: name -> content of the files that have yet to be written into the run's folder, the oldest first; None
            if the content lies in the local folder.

    Raises:
        InputError: a folder exists and cannot be read: its files must be known before a run begins.
    """

    def __init__(self, files: RunFolder) -> None:
        self.files = files
        for folder in files.folders:
            for path in list_files(folder):
                if is_partial_file(path.name, files.name):  # left by a killed process
                    with suppress(OSError):
                        path.unlink()
        left = (
            [path for path in list_files(files.local_dir) if is_of_run(path.name, files.name)]
            if files.local_dir
            else []
        )
        left.sort(key=lambda path: path.stat().st_mtime_ns)
        self.pending: dict[str, bytes | None] = {path.name: None for path in left}
        self._mount_point = mount_point(files.folder)

    def write(self, name: str, content: bytes) -> bool:
        """Write a file, whole or not at all; if it fails, warn and try again later.

        Returns:
            Whether the file is on a disk now, in the local folder or in the run's folder.
        """
        self.pending.pop(name, None)
        self.pending[name] = self._write_locally(name, content)
        failed = self.flush()
        if failed is not None:
            warnings.warn(f"{failed}; training continues, {len(self.pending)} files are written later", stacklevel=2)
        return self.pending.get(name) is None and (failed is None or self._is_on_disk(name))

    def _write_locally(self, name: str, content: bytes) -> bytes | None:
        """Write a file into the local folder; return what has to be kept in memory."""
        if self.files.local_dir is None:
            return content
        try:
            with atomic_write(self.files.local_dir / name, durable=True) as temporary:
                temporary.write_bytes(content)
        except WriteError:
            return content
        return None

    def _is_on_disk(self, name: str) -> bool:
        return any((folder / name).exists() for folder in self.files.folders)

    def flush(self) -> WriteError | None:
        """Write the pending files in order, so that a state never arrives before the checkpoints it refers to.

        If a state does not fit on the disk, other states wait, but checkpoints are still written: they are smaller and
        worth more. States are not kept in memory.

        Returns:
            The last error, None if there was none.
        """
        failed = None
        for name, content in list(self.pending.items()):
            state = is_state(name, self.files.name)
            if state and failed is not None:
                continue
            try:
                self._copy(name, content)
            except WriteError as error:
                failed = error
                if not state:
                    break
        in_memory = [name for name, content in self.pending.items() if content is not None]
        for name in in_memory:
            if is_state(name, self.files.name):
                del self.pending[name]
        return failed

    def _copy(self, name: str, content: bytes | None) -> None:
        """Write a pending file into the run's folder.

        If Drive is gone, its path may still exist as an empty folder: do not write there. A disk that is mounted again
        has the same mount point.
        """
        if not os.path.ismount(self._mount_point):
            raise WriteError(
                f"{self.files.folder / name} could not be written (its disk is gone); reconnect its folder"
            )
        with atomic_write(self.files.folder / name, durable=True) as temporary:
            if content is None:
                shutil.copyfile(self.files.local_dir / name, temporary)
            else:
                temporary.write_bytes(content)
        del self.pending[name]
        if self.files.local_dir is not None:
            with suppress(OSError):
                (self.files.local_dir / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Write all pending checkpoints and histories.

        Raises:
            InputError: names the files that could not be written.
        """
        failed = self.flush()
        left = [name for name in self.pending if not is_state(name, self.files.name)]
        if left:
            lost = self.files.local_dir is None or any(self.pending[name] is not None for name in left)
            way_out = "train again" if lost else f"copy {', '.join(left)} there from {self.files.local_dir}"
            raise InputError(f"{failed}, then {way_out}")

    def prune(self, keep: int) -> None:
        """Remove all states but the latest `keep` of each folder: those in the local folder vanish with the machine.

        A state that cannot be read or removed stays.
        """
        for folder in self.files.folders:
            with suppress(InputError):
                for path in states_in(folder, self.files.name)[keep:]:
                    self._remove(path)

    def remove(self, name: str) -> None:
        """Remove a file from all folders; it stays if it cannot be removed."""
        for folder in self.files.folders:
            self._remove(folder / name)

    def _remove(self, path: Path) -> None:
        if path.parent == self.files.local_dir:
            self.pending.pop(path.name, None)
        with suppress(OSError):
            if self.files.local_dir is not None and path.exists():
                path.write_bytes(b"")  # Drive keeps removed files for a month, at their size
            path.unlink()


def states_in(folder: Path, name: str) -> list[Path]:
    """Return the states of the recipe `name` in a folder, the latest first; empty ones were being removed.

    Raises:
        InputError: the folder cannot be read.
    """
    states = [path for path in list_files(folder) if is_state(path.name, name) and _has_content(path)]
    return sorted(states, key=lambda path: path.name, reverse=True)


def mount_point(path: Path) -> Path:
    """Return the mount point of the disk that holds a path, or will hold it."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))


def _has_content(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_size > 0
    return False
