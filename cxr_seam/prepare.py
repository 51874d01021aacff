"""Fill a store: decode radiographs, shrink them, append them to one file. A stopped run is simply run again."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from .errors import InputError
from .radiographs import MAX_PIXELS, read_radiograph, shrink
from .sources import Entry, Source, open_source
from .store import BLOCK, IMAGES_FILE, Index, Store, read_index

AHEAD = 4
"""Images to each decoding thread that are read ahead; this bounds the memory in use."""

PathLike = str | os.PathLike[str]


class BrokenImageWarning(UserWarning):
    """Images that were broken and stayed out of the store."""


def prepare(
    source: PathLike | Sequence[PathLike],
    folder: PathLike,
    *,
    size: int,
    names: Collection[str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Store:
    """Add every image of `source` that the store in `folder` does not hold yet, as size x size grey squares.

    Images are added in a fixed order (sources as given, files by path, members as archived), so the same sources
    give the same bytes, however many threads decode and however often the run was stopped. Where two sources hold
    an image of the same name the first wins; where its copy there is broken, the next one serves. Archives are
    read as streams and nothing is unpacked to disk. The store is committed every `BLOCK` images.

    Args:
        source: a folder (searched recursively), a .tar.gz, .tar or .zip archive, or a list of these.
        folder: the store; made if missing.
        size: side of the prepared images in pixels.
        names: `image_index` of the images wanted, by default all. Names that no source holds are passed over.
        workers: decoding threads, by default one a core. Decoding leaves Python's lock, so threads do.
        progress: show a bar with the time left.

    Returns:
        The store, opened.

    Raises:
        InputError: a source is missing, broken or holds no wanted image; the store has another size, is damaged, is
            being filled by another process, or the disk is full. What was added until then is kept.

    Warns:
        BrokenImageWarning: one sentence for all images that were broken and left out.
    """
    if not 1 <= size <= MAX_PIXELS**0.5:
        raise InputError(f"size must be from 1 to {MAX_PIXELS**0.5:.0f} pixels, not {size}")
    paths = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not paths:
        raise InputError("no source to prepare from; name a folder or an archive")
    sources = [open_source(path) for path in paths]
    workers = workers or os.cpu_count() or 1
    total = sum(source.total for source in sources)
    broken: dict[str, str] = {}
    walked = 0
    with (
        _writer(Path(folder), size=size) as writer,
        ThreadPoolExecutor(max_workers=workers) as pool,
        tqdm(total=total, desc=f"{size}x{size}", unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        choice = _Choice(names, taken=set(writer.index.names))
        for source in sources:
            for entry, result in _decoded(source, choice, pool=pool, size=size, ahead=AHEAD * workers):
                if isinstance(result, InputError):
                    broken[entry.image_index] = str(result)
                else:
                    writer.add(entry.image_index, result, source=source.path.absolute().name)
                    broken.pop(entry.image_index, None)
                    bar.set_postfix_str(f"{len(writer.index.names)} images", refresh=False)
                bar.update(walked + entry.position - bar.n)
            walked += source.total
            bar.update(walked - bar.n)
            choice.taken -= broken.keys()
        kept = len(writer.index.names)
    where = " and ".join(str(path) for path in paths)
    if not choice.met:
        asked = "" if names is None else " of those asked for"
        raise InputError(f"{where} holds no PNG or JPEG image{asked}; name the folder or archive that does")
    if broken and not kept:
        raise InputError(f"none of the images of {where} could be read; the first: {next(iter(broken.values()))}")
    if broken:
        warnings.warn(_told(broken), BrokenImageWarning, stacklevel=2)
    return Store.open(folder)


class _Choice:
    """Which images to read: those asked for and not taken yet. Remembers whether any was met at all."""

    def __init__(self, names: Collection[str] | None, *, taken: set[str]) -> None:
        self.names = None if names is None else frozenset(names)
        self.taken = taken
        self.met = False

    def __call__(self, name: str) -> bool:
        if self.names is not None and name not in self.names:
            return False
        self.met = True
        return name not in self.taken


def _decoded(
    source: Source, choice: _Choice, *, pool: ThreadPoolExecutor, size: int, ahead: int
) -> Iterator[tuple[Entry, np.ndarray | InputError]]:
    """Yield the chosen images of a source in its order, decoded, or the reason why not.

    Where the source itself turns out broken, what it gave before is yielded first.
    """
    pending: deque[tuple[Entry, Future[np.ndarray | InputError]]] = deque()
    entries = source.walk(choice)
    failure = None
    while True:
        try:
            entry = next(entries, None)
        except InputError as error:
            entry, failure = None, error
        if entry is None:
            break
        choice.taken.add(entry.image_index)
        pending.append((entry, pool.submit(_decode, entry, size)))
        if len(pending) >= ahead:
            entry, future = pending.popleft()
            yield entry, future.result()
    for entry, future in pending:
        yield entry, future.result()
    if failure is not None:
        raise failure


def _decode(entry: Entry, size: int) -> np.ndarray | InputError:
    if entry.problem:
        return InputError(f"{entry.where} cannot be read: {entry.problem}")
    try:
        return shrink(read_radiograph(entry.data, name=entry.where), size)
    except InputError as error:
        return error


def _told(broken: dict[str, str]) -> str:
    names = sorted(broken)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (
        f"{len(names)} image{'s' if len(names) > 1 else ''} could not be read and stayed out of the store: "
        f"{', '.join(names[:10])}{more} (the first: {broken[names[0]]})"
    )


class _Writer:
    """Appends images and commits them; bytes not committed do not count."""

    def __init__(self, folder: Path, *, file: FileIO, index: Index) -> None:
        self.folder = folder
        self.file = file
        self.index = index
        self.committed = len(index.names)

    def add(self, name: str, pixels: np.ndarray, *, source: str) -> None:
        rest = pixels.data.cast("B")
        with _disk(self.folder):
            while rest:
                rest = rest[self.file.write(rest) :]
        self.index.add(name, pixels.data, source=source)
        if len(self.index.names) - self.committed >= BLOCK:
            self.commit()

    def commit(self) -> None:
        """Make what was added count: first the pixels reach the disk, then the index that speaks of them."""
        if len(self.index.names) > self.committed:
            with _disk(self.folder):
                os.fsync(self.file.fileno())
                self.index.save(self.folder)
            self.committed = len(self.index.names)

    def rescue(self) -> None:
        """Commit what was added before something failed; a full disk has no room left for the index either.

        So many of the last images are given up as the index needs room; they are prepared again in the next run.
        """
        size, names = self.index.size, self.index.names
        while len(names) > self.committed:
            with suppress(InputError):
                self.commit()
                return
            room = 2**12 + sum(map(len, names)) * 4  # of the index, generously
            count = max(self.committed, len(names) - -(-room // size**2))
            self.file.truncate(count * size**2)
            if count:
                images = np.memmap(self.file, dtype=np.uint8, mode="r", shape=(count, size, size))
                self.index.shorten(count, images)
            else:
                names.clear()


@contextmanager
def _writer(folder: Path, *, size: int) -> Iterator[_Writer]:
    """Open a store for appending, alone, cut back to what its index accounts for; commit at the end."""
    made = not folder.exists()
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Without a buffer, so that a full disk is met where an image is written and not once more on closing.
        file = open(os.open(folder / IMAGES_FILE, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
    with file:
        _lock(file, folder)
        index = read_index(folder) or Index(size=size)
        if index.size != size:
            raise InputError(f"{folder} holds images of size {index.size}, not {size}; name another folder")
        for leftover in folder.glob(".index.*.part.json"):
            leftover.unlink(missing_ok=True)
        with _disk(folder):
            file.truncate(len(index.names) * size**2)
            file.seek(0, os.SEEK_END)
        writer = _Writer(folder, file=file, index=index)
        try:
            yield writer
        except Exception:  # not on Ctrl-C, which may have fallen between a write and its entry in the index
            writer.rescue()
            raise
        else:
            writer.commit()
        finally:
            if not index.names:
                with suppress(OSError):
                    (folder / IMAGES_FILE).unlink()
                    if made:
                        folder.rmdir()


def _lock(file: FileIO, folder: Path) -> None:
    """Refuse a second writer. The lock goes with the process, so a killed run leaves none behind."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once are then the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another run is filling {folder}; wait until it has ended") from None
    except OSError:  # network drives without locks
        return
    if not os.fstat(file.fileno()).st_nlink:  # the other run ended in between, empty-handed, and tidied up
        raise InputError(f"another run was filling {folder}; run again")


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror or error}); make room or name another folder, and run "
            "again: what was prepared is kept"
        ) from error
