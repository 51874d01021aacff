"""Find and write the files of a training run, also on a disk that comes and goes (Google Drive).

With a local folder a file is written there first, then copied under a temporary name, renamed, and removed from the
local folder. If a copy fails, it is repeated at the next write, at the end, and by the next run. Each file is on its
disk before the next one is written, so that a power cut leaves the same files as a killed process.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, count_of
from ..io import WriteError, atomic_write, list_files
from ..models.checkpoint import Checkpoint, best_path, history_path, last_path, read_header, read_history
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
    return is_state(file, name) or file in {path(Path(), name).name for path in (best_path, last_path, history_path)}


def is_partial_file(file: str, name: str) -> bool:
    """Return whether a file name is that of an unfinished write of a file of the recipe `name`."""
    match = PARTIAL.fullmatch(file)
    return match is not None and is_of_run("".join(match.groups()), name)


class RunFolder:
    """Find the files of a training run; all methods raise InputError if a folder cannot be read.

    Attributes:
        folder: of all files in the end.
        name: of the recipe.
        local_dir: folder of the files that have yet to be copied; None if files are written to `folder` at once.
        folders: those that may contain files; files in the first one are newer.
        best_path, last_path, history_path: files in `folder`.
    """

    def __init__(self, folder: Path | str, name: str, *, local_dir: Path | None = None) -> None:
        self.folder, self.name, self.local_dir = Path(folder), name, local_dir
        self.folders = [self.folder] if local_dir is None else [local_dir, self.folder]
        self.best_path, self.last_path = best_path(self.folder, name), last_path(self.folder, name)
        self.history_path = history_path(self.folder, name)

    def find(self, path: Path) -> Path | None:
        """Return where the file `path` is now, None if it does not exist."""
        return next((file for file in _files_in(self.folders) if file.name == path.name), None)

    def states(self, *folders: Path) -> list[Path]:
        """Return the training states in `folders`, by default in all, the latest first."""
        states = [path for path in _files_in(folders or self.folders) if is_state(path.name, self.name)]
        return sorted(states, key=lambda path: path.name, reverse=True)

    def best(self, run: Mapping[str, Any]) -> Checkpoint | None:
        """Return the metadata of the best checkpoint, None if there is none.

        Args:
            run: see `run_fingerprint`.

        Raises:
            InputError: the checkpoint belongs to another run or cannot be read.
        """
        path = self.find(self.best_path)
        if path is None:
            return None
        metadata = read_header(path)
        found = None if metadata.data is None else run_fingerprint(metadata.recipe, metadata.data, metadata.findings)
        require_same_run(path, found=found, expected=run)
        return metadata

    def complete_history(self, *, epochs: int) -> list[dict[str, Any]]:
        """Return the history of a run that is complete.

        Raises:
            InputError: it is missing or damaged, or has another number of epochs.
        """
        found = self.find(self.history_path)
        history = [] if found is None else read_history(found.parent, self.name)
        if len(history) != epochs:
            raise InputError(
                f"{self.history_path} has {len(history)} epochs, but {self.name} is trained for {epochs}; restore it, "
                "or train again with overwrite=True (--overwrite)"
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
        for path in [path for folder in files.folders for path in list_files(folder)]:
            if is_partial_file(path.name, files.name):  # left by a killed process
                with suppress(OSError):
                    path.unlink()
        local = list_files(files.local_dir) if files.local_dir else []
        left = [path for path in local if is_of_run(path.name, files.name)]
        left.sort(key=lambda path: path.stat().st_mtime_ns)
        self.pending: dict[str, bytes | None] = {path.name: None for path in left}
        self._mount_point = mount_point(files.folder)

    def write(self, name: str, content: bytes) -> bool:
        """Write a file, whole or not at all; if it fails, warn and try again later.

        Returns:
            Whether the file is on a disk now, in the local folder or in the run's folder.
        """
        self.pending.pop(name, None)
        self.pending[name] = content
        if self.files.local_dir is not None:
            with suppress(WriteError):
                with atomic_write(self.files.local_dir / name, durable=True) as temporary:
                    temporary.write_bytes(content)
                self.pending[name] = None
        failed = self.flush()
        if failed is not None:
            warnings.warn(
                f"{failed}; training continues, {count_of(len(self.pending), 'file')} written later", stacklevel=2
            )
        return self.pending.get(name) is None and any((folder / name).exists() for folder in self.files.folders)

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
        for name, content in list(self.pending.items()):
            if content is not None and is_state(name, self.files.name):
                del self.pending[name]
        return failed

    def _copy(self, name: str, content: bytes | None) -> None:
        """Write a pending file into the run's folder.

        If Drive is gone, its path may still exist as an empty folder: do not write there. A disk that is mounted again
        has the same mount point.
        """
        path, local_dir = self.files.folder / name, self.files.local_dir
        if not os.path.ismount(self._mount_point):
            raise WriteError(f"{path} could not be written (its disk is gone); reconnect its folder")
        with atomic_write(path, durable=True) as temporary:
            if content is None:
                shutil.copyfile(local_dir / name, temporary)
            else:
                temporary.write_bytes(content)
        del self.pending[name]
        if local_dir is not None:
            with suppress(OSError):
                (local_dir / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Write all pending checkpoints and histories.

        Raises:
            InputError: names the files that could not be written.
        """
        failed = self.flush()
        left = [name for name in self.pending if not is_state(name, self.files.name)]
        if left:
            in_memory = any(self.pending[name] is not None for name in left)
            way_out = "train again" if in_memory else f"copy {', '.join(left)} there from {self.files.local_dir}"
            raise InputError(f"{failed}, then {way_out}")

    def prune(self, keep: int) -> None:
        """Remove all states but the latest `keep` of each folder: those in the local folder vanish with the machine.

        A state that cannot be read or removed stays.
        """
        for folder in self.files.folders:
            with suppress(InputError):
                for path in self.files.states(folder)[keep:]:
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


def mount_point(path: Path) -> Path:
    """Return the mount point of the disk that holds a path, or will hold it."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))


def _files_in(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the files in folders; empty ones were being removed."""
    for path in (path for folder in folders for path in list_files(folder)):
        with suppress(OSError):
            if path.stat().st_size > 0:
                yield path
