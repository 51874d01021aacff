"""Prepared images: one file of grey squares, memory-mapped, read by name.

A store is a folder of two files. `images.u8` holds the images one after another, size x size bytes each, nothing
else. `index.json` says which they are. Bytes beyond those the index accounts for belong to a run that was stopped;
readers never see them and the next `cxr_seam.prepare.prepare` cuts them off. Training reads from here because
decoding a 1024x1024 PNG takes 10 ms and reading a 256x256 square takes next to nothing.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..errors import InputError
from ..io import atomic_write
from .archives import Entry, Source, open_source
from .image_io import MAX_PIXELS, read_radiograph, resize_square

IMAGES_FILE = "images.u8"


INDEX_FILE = "index.json"


FORMAT = "cxr-seam store"


VERSION = 1


BLOCK = 1024
"""Images to a checksum. Blocks are counted from the first image, so that the index depends on the images alone
and not on where a run was stopped."""


@dataclass
class Index:
    """What `index.json` says.

    Attributes:
        size: side of the images in pixels.
        names: `image_index` of every image, in the order of the file.
        sources: folder or archive name and number of consecutive images that came from it.
        crc32: checksum of each `BLOCK` images; the last block may be a part.
    """

    size: int
    names: list[str] = field(default_factory=list)
    sources: list[tuple[str, int]] = field(default_factory=list)
    crc32: list[int] = field(default_factory=list)

    def add(self, name: str, pixels: bytes, *, source: str) -> None:
        """Account for one more image at the end of the file."""
        if len(self.names) % BLOCK == 0:
            self.crc32.append(0)
        self.crc32[-1] = zlib.crc32(pixels, self.crc32[-1])
        self.names.append(name)
        count = 0
        if self.sources and self.sources[-1][0] == source:
            count = self.sources.pop()[1]
        self.sources.append((source, count + 1))

    def shorten(self, count: int, pixels: np.ndarray) -> None:
        """Account for the first `count` images alone.

        Args:
            count: how many stay.
            pixels: (count, size, size) uint8, these images; of them the last block is read.
        """
        sources, self.sources = self.sources, []
        for name, number in sources:
            if left := min(number, count - sum(kept for _, kept in self.sources)):
                self.sources.append((name, left))
        del self.names[count:]
        whole = count // BLOCK
        self.crc32 = self.crc32[:whole] + [zlib.crc32(pixels[whole * BLOCK :])] * (count > whole * BLOCK)

    def fits(self) -> bool:
        """Tell whether the entries are of their types and belong together."""
        counts = [count for _, count in self.sources]
        return (
            type(self.names) is type(self.crc32) is list
            and all(type(value) is int and value > 0 for value in (self.size, *counts))
            and all(type(value) is str for value in (*self.names, *(name for name, _ in self.sources)))
            and len(set(self.names)) == len(self.names) == sum(counts)
            and len(self.crc32) == -(-len(self.names) // BLOCK)
            and all(type(value) is int for value in self.crc32)
        )

    def save(self, folder: Path) -> None:
        """Write the index whole, by rename."""
        content = {"format": FORMAT, "version": VERSION, **vars(self)}
        with atomic_write(folder / INDEX_FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())


def read_index(folder: Path) -> Index | None:
    """Read the index of a store; None where there is none yet.

    Raises:
        InputError: the index is unreadable or of another version, or `images.u8` is shorter than it says.
    """
    path = folder / INDEX_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        format_, version = content.pop("format"), content.pop("version")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not the index of a store; delete {folder} and prepare again") from error
    if (format_, version) != (FORMAT, VERSION):
        raise InputError(f"{path} is of another version ({format_} {version}); delete {folder} and prepare again")
    try:
        index = Index(**content)
        index.sources = [(name, count) for name, count in index.sources]
        if not index.fits():
            raise ValueError("entries of other types, or that do not belong together")
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} lacks or garbles an entry; delete {folder} and prepare again") from error
    images = folder / IMAGES_FILE
    if not images.is_file() or images.stat().st_size < len(index.names) * index.size**2:
        raise InputError(f"{images} is shorter than its index says; delete {folder} and prepare again")
    return index


@dataclass(frozen=True, eq=False)
class ImageCache:
    """Prepared images, opened for reading.

    Attributes:
        folder: where the store lies.
        size: side of the images in pixels.
        image_index: names of the images ("00000001_000.png", whatever the suffix of the file they came from).
        images: (N, size, size) uint8, memory-mapped and read-only.
        sources: (name of the folder or archive, number of consecutive images from it), in order.
        crc32: checksum of each `BLOCK` images.
    """

    folder: Path
    size: int
    image_index: list[str]
    images: np.ndarray
    sources: tuple[tuple[str, int], ...]
    crc32: tuple[int, ...]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> ImageCache:
        """Open a store that `prepare` has filled; takes milliseconds, whatever its size.

        Raises:
            InputError: there is none in `folder`, or it is damaged.
        """
        folder = Path(folder)
        index = read_index(folder)
        if index is None or not index.names:
            raise InputError(f"no prepared images in {folder}; run python -m cxr_seam prepare SOURCE --cache {folder}")
        shape = (len(index.names), index.size, index.size)
        images = np.memmap(folder / IMAGES_FILE, dtype=np.uint8, mode="r", shape=shape)
        return cls(folder, index.size, index.names, images, tuple(index.sources), tuple(index.crc32))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_index)

    def __contains__(self, name: object) -> bool:
        """Tell whether the store holds an image."""
        return name in self._row_of

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as the path: a data loader's worker maps the file anew instead of receiving every pixel."""
        return ImageCache.open, (self.folder,)

    def indices(self, names: Iterable[str]) -> np.ndarray:
        """Return the row of each image in `images`, (N,) int64, in the order asked for.

        Raises:
            InputError: an image is not in the store; names the first.
        """
        try:
            return np.array([self._row_of[name] for name in names], dtype=np.int64)
        except KeyError as error:
            raise InputError(f"{error.args[0]} is not in the store {self.folder}; prepare it first") from None

    def load(self, indices: Sequence[int]) -> np.ndarray:
        """Copy the images at `indices` out of the file: (B, size, size) uint8.

        Unlike `images`, of which every page that was looked at stays in the process's memory, this holds no more than
        what it returns, however large the store; training, which visits every image, reads so.

        Raises:
            InputError: the file has become shorter, or is gone.
        """
        pixels = np.empty((len(indices), self.size, self.size), dtype=np.uint8)
        path = self.folder / IMAGES_FILE
        try:
            with path.open("rb", buffering=0) as file:
                for target, index in zip(pixels, indices, strict=True):
                    file.seek(int(index) * target.nbytes)
                    if file.readinto(target) != target.nbytes:
                        raise InputError(f"{path} became shorter; delete {self.folder} and prepare again")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        return pixels

    def verify(self) -> None:
        """Read every image and compare checksums, as after copying a store; a few seconds a gigabyte.

        Raises:
            InputError: the images are not those that were prepared.
        """
        for block, expected in enumerate(self.crc32):
            images = self.images[block * BLOCK : (block + 1) * BLOCK]
            if zlib.crc32(images.tobytes()) != expected:
                names = self.image_index[block * BLOCK], self.image_index[block * BLOCK + len(images) - 1]
                raise InputError(
                    f"{self.folder / IMAGES_FILE} is damaged between {names[0]} and {names[1]}; "
                    f"delete {self.folder} and prepare again"
                )

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.image_index)}


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
) -> ImageCache:
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
    return ImageCache.open(folder)


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
        return resize_square(read_radiograph(entry.data, name=entry.where), size)
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
