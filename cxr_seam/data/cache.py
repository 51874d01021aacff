"""Cache of prepared images: one memory-mapped file of small grey squares, read by image name.

A cache is a folder of two files. `images.u8` contains the images one after another, size x size bytes each.
`index.json` lists their names, checksums and sources. Bytes beyond those in the index belong to a run that was stopped:
readers ignore them, and the next `prepare` cuts them off. To decode a 1024x1024 PNG takes 10 ms; to read a 256x256
square from the cache takes microseconds.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from tqdm.auto import tqdm

from ..errors import InputError, count_of
from ..io import atomic_write, readable, user_path
from .archives import ArchiveImage, ImageName, Source, name_by_stem, open_sources
from .image_io import MAX_PIXELS, Radiograph, first_names, load_image, resize_square, warn_left_out

IMAGES_FILE = "images.u8"
INDEX_FILE = "index.json"
COMMIT_EVERY = 1024
"""Images after which `prepare` writes the index; a killed run loses at most so many."""

AHEAD = 4
"""Images per decoding thread that are read ahead; this bounds the memory in use."""

PathLike = str | os.PathLike[str]


class BrokenImageWarning(UserWarning):
    """Some images could not be read and are not in the cache."""


class CacheIndex(BaseModel):
    """The content of `index.json`.

    Attributes:
        size: side of the images in pixels.
        names: `image_index` of every image, in the order of the file.
        crc32: checksum of every image.
        sources: name of a folder or archive and number of consecutive images from it.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["cxr-seam cache"] = "cxr-seam cache"
    version: Literal[2] = 2
    size: PositiveInt
    names: list[str] = Field(default_factory=list)
    crc32: list[int] = Field(default_factory=list)
    sources: list[tuple[str, PositiveInt]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_consistent(self) -> CacheIndex:
        counts = {len(self.names), len(set(self.names)), len(self.crc32), sum(count for _, count in self.sources)}
        if len(counts) > 1:
            raise ValueError("the numbers of names, checksums and images differ")
        return self

    def add(self, name: str, pixels: np.ndarray, *, source: str) -> None:
        """Append one image."""
        self.names.append(name)
        self.crc32.append(zlib.crc32(pixels))
        count = self.sources.pop()[1] if self.sources and self.sources[-1][0] == source else 0
        self.sources.append((source, count + 1))

    def truncate(self, count: int) -> None:
        """Remove all but the first `count` images."""
        sources = [source for source, number in self.sources for _ in range(number)][:count]
        self.sources = [(source, len(list(group))) for source, group in groupby(sources)]
        del self.names[count:], self.crc32[count:]

    def save(self, folder: Path) -> None:
        """Write `index.json`; it is on the disk when this returns."""
        with atomic_write(folder / INDEX_FILE, durable=True) as temporary:
            temporary.write_text(self.model_dump_json(), encoding="utf-8")


def read_index(folder: Path) -> CacheIndex | None:
    """Read the index of a cache; None if there is none yet.

    Raises:
        InputError: the index is unreadable or of another version, or `images.u8` is shorter than it says.
    """
    path, images = folder / INDEX_FILE, folder / IMAGES_FILE
    advice = f"delete {folder} and prepare again"
    try:
        index = CacheIndex.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "its content"
        raise InputError(f"{path} is not an index of this version ({field}: {first['msg']}); {advice}") from error
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); {advice}") from error
    if not images.is_file() or images.stat().st_size < len(index.names) * index.size**2:
        raise InputError(f"{images} is shorter than its index says; {advice}")
    return index


@dataclass(frozen=True, eq=False, repr=False)
class ImageCache:
    """Prepared images, opened for reading.

    Attributes:
        folder: folder of the cache.
        size: side of the images in pixels.
        image_index: names of the images, see `prepare`.
        images: (N, size, size) uint8, memory-mapped and read-only.
        crc32: checksum of each image.
        sources: (name of the folder or archive, number of consecutive images from it), in order.
    """

    folder: Path
    size: int
    image_index: list[str]
    images: np.ndarray
    crc32: list[int]
    sources: tuple[tuple[str, int], ...]

    def __repr__(self) -> str:
        return f"<ImageCache: {len(self)} images of {self.size} x {self.size} pixels in {self.folder}>"

    @classmethod
    def open(cls, folder: PathLike) -> ImageCache:
        """Open a cache that `prepare` has filled, within milliseconds.

        Raises:
            InputError: the folder contains no cache, or a damaged one.
        """
        folder = user_path(folder, what="folder of the cache")
        index = read_index(folder)
        if index is None or not index.names:
            raise InputError(f"no prepared images in {folder}; run python -m cxr_seam prepare SOURCE --cache {folder}")
        shape = (len(index.names), index.size, index.size)
        images = np.memmap(folder / IMAGES_FILE, dtype=np.uint8, mode="r", shape=shape)
        return cls(folder, index.size, index.names, images, index.crc32, tuple(index.sources))

    def __len__(self) -> int:
        return len(self.image_index)

    def __contains__(self, name: object) -> bool:
        return name in self._index_of

    def __reduce__(self) -> tuple[object, ...]:
        return ImageCache.open, (self.folder,)  # without the pixels, for the workers of a DataLoader

    def indices(self, names: Iterable[str]) -> np.ndarray:
        """Return the index of each image in `images`: (N,) int64, in the order of `names`.

        Raises:
            InputError: an image is not in the cache; the error names the first.
        """
        try:
            return np.array([self._index_of[name] for name in names], dtype=np.int64)
        except KeyError as error:
            raise InputError(f"{error.args[0]} is not in the cache {self.folder}; prepare it first") from None

    def load(self, indices: Sequence[int]) -> np.ndarray:
        """Read images from the file: (B, size, size) uint8.

        Every page of `images` that is touched stays in the process's memory. `load` uses no memory beyond its result,
        so that training, which visits every image, can use a cache of any size.

        Raises:
            InputError: the file has become shorter, or is missing.
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

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.image_index)}


def check_size(size: int) -> None:
    """Raise InputError if images cannot be prepared as squares of this size."""
    if not 1 <= size <= MAX_PIXELS**0.5:
        raise InputError(f"size must be from 1 to {MAX_PIXELS**0.5:.0f} pixels, not {size}")


def prepare(
    source: PathLike | Sequence[PathLike],
    folder: PathLike,
    *,
    size: int,
    names: Collection[str] | None = None,
    image_name: ImageName = name_by_stem,
    workers: int | None = None,
    progress: bool = True,
) -> ImageCache:
    """Add the images of `source` that are not yet in the cache, as size x size grey squares.

    The order is fixed (sources as given, files by path, members as archived), so the same sources give the same bytes,
    whatever the number of threads and interruptions. If two sources contain an image of the same name, the first one
    is used; if that one is broken, the next. Archives are read as streams.

    Args:
        source: a folder (searched recursively, also for archives), a .tar.gz, .tar or .zip archive, or a list of these.
        folder: folder of the cache; created if missing.
        size: side of the prepared images in pixels.
        names: `image_index` of the images to add, by default all.
        image_name: names an image: `archives.name_by_stem` as in NIH's tables ("00000001_000.png" for any suffix and
            folder), or `archives.name_by_path` by its path below the source, as in the tables of other layouts.
        workers: decoding threads, by default one per core.
        progress: show a progress bar.

    Returns:
        The cache, opened.

    Raises:
        InputError: a source is missing, broken or contains no image to add; the cache has another size, is damaged, is
            being filled by another process, or the disk is full. Images added until then stay in the cache.

    Warns:
        BrokenImageWarning: one sentence for all images that could not be read.
        UserWarning: one sentence for all files that are neither images nor tables, one for further images of a name,
            one for `names` that no source contains, one for all images that were repaired or guessed while reading
            (`Radiograph.warnings`).
    """
    check_size(size)
    paths = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not paths:
        raise InputError("no source to prepare from; name a folder or an archive")
    sources = [opened for path in paths for opened in open_sources(path, image_name=image_name)]
    workers = workers or os.cpu_count() or 1
    finished = 0
    with (
        _open_writer(user_path(folder, what="folder of the cache"), size=size) as writer,
        ThreadPoolExecutor(max_workers=workers) as pool,
        tqdm(
            total=sum(source.total for source in sources), desc=f"{size}x{size}", unit="B", unit_scale=True,
            disable=not progress,
        ) as bar,
    ):  # fmt: skip
        found = _Found(None if names is None else frozenset(names), known=set(writer.index.names))
        for source in sources:
            for image, result in _decode_ahead(source, found, pool=pool, size=size, ahead=AHEAD * workers):
                if isinstance(result, InputError):
                    found.broken[image.image_index] = str(result)
                else:
                    writer.add(image.image_index, result.pixels, source=readable(source.path.absolute().name))
                    found.broken.pop(image.image_index, None)
                    if result.warnings:
                        found.guessed[image.image_index] = result.warnings[0]
                bar.update(finished + image.position - bar.n)
            finished += source.total
            bar.update(finished - bar.n)
            found.next_source()
        is_empty = not writer.index.names
    found.report(" and ".join(map(str, paths)), is_empty=is_empty)
    return ImageCache.open(folder)


@dataclass
class _Found:
    """The files that `prepare` has met."""

    names: frozenset[str] | None  # of the images to add; None for all
    known: set[str]  # need not be read: in the cache, or read by this run
    of_source: set[str] = field(default_factory=set)  # read from the present source
    met: bool = False  # whether there is an image to add, known or not
    broken: dict[str, str] = field(default_factory=dict)  # name -> reason
    guessed: dict[str, str] = field(default_factory=dict)  # name -> first sentence on how it was read
    repeated: list[str] = field(default_factory=list)  # names that occur again in the same source
    left_out: list[str] = field(default_factory=list)  # locations of files that are no images

    def wants(self, name: str) -> bool:
        """Return whether a file of this name has to be read."""
        if self.names is not None and name not in self.names:
            return False
        self.met |= name in self.known
        if name in self.of_source:
            self.repeated.append(name)
        return name not in self.known

    def add(self, name: str) -> None:
        """Note that an image of this name is read now."""
        self.met = True
        self.known.add(name)
        self.of_source.add(name)

    def next_source(self) -> None:
        """Want the images that the last source had broken from the next one."""
        self.known -= self.broken.keys()
        self.of_source.clear()

    def report(self, location: str, *, is_empty: bool) -> None:
        """Refuse sources without a readable image; warn of files that are not in the cache."""
        missing = sorted((self.names or frozenset()) - self.known - self.broken.keys())
        if not self.met and missing:
            raise InputError(
                f"none of the listed images ({first_names(missing)}) has a file in {location}; correct the names in "
                "the table, or name the folder or archive of the images"
            )
        if not self.met:
            raise InputError(
                f"{location} holds no PNG, JPEG, TIFF or DICOM image; name the folder or archive that does"
            )
        if self.broken and is_empty:
            first = next(iter(self.broken.values()))
            raise InputError(f"none of the images of {location} could be read; the first: {first}")
        warn_left_out(self.left_out)
        if missing:
            count = count_of(len(missing), "listed image has", "listed images have")
            warnings.warn(
                f"{count} no file in {location} and stayed out of the cache, so of training and test: "
                f"{first_names(missing)}",
                stacklevel=3,
            )
        if self.repeated:
            count = count_of(len(self.repeated), "image has", "images have")
            warnings.warn(
                f"{count} the name of an earlier one and stayed out of the cache: {first_names(self.repeated)}; "
                "rename what differs",
                stacklevel=3,
            )
        if self.guessed:
            count = count_of(len(self.guessed), "image was", "images were")
            warnings.warn(f"{count} repaired or guessed while reading: {_with_first(self.guessed)}", stacklevel=3)
        if self.broken:
            count = count_of(len(self.broken), "image")
            warnings.warn(
                f"{count} could not be read and stayed out of the cache: {_with_first(self.broken)}",
                BrokenImageWarning,
                stacklevel=3,
            )


def _with_first(reasons: dict[str, str]) -> str:
    """List the names of images, and the reason of the first."""
    names = sorted(reasons)
    return f"{first_names(names)} (the first: {reasons[names[0]]})"


def _decode_ahead(
    source: Source, found: _Found, *, pool: ThreadPoolExecutor, size: int, ahead: int
) -> Iterator[tuple[ArchiveImage, Radiograph | InputError]]:
    """Yield the wanted images of a source in its order, decoded, or with the error.

    If the source is broken, the images before the break are yielded first.
    """
    pending: deque[tuple[ArchiveImage, Future[Radiograph | InputError]]] = deque()
    failure = None
    try:
        for image in source.iter_files(found.wants):
            if image.data is None:
                found.left_out.append(image.location)
                continue
            found.add(image.image_index)
            pending.append((image, pool.submit(_decode, image, size)))
            if len(pending) >= ahead:
                image, future = pending.popleft()
                yield image, future.result()
    except InputError as error:
        failure = error
    for image, future in pending:
        yield image, future.result()
    if failure is not None:
        raise failure


def _decode(image: ArchiveImage, size: int) -> Radiograph | InputError:
    if image.problem:
        return InputError(f"{image.location} cannot be read: {image.problem}")
    try:
        radiograph = load_image(image.data, name=image.location)
        return replace(radiograph, pixels=resize_square(radiograph.pixels, size), header=None)
    except InputError as error:
        return error


@dataclass
class _Writer:
    """Appends images and commits them; bytes that are not committed do not count."""

    folder: Path
    file: FileIO
    index: CacheIndex
    committed: int  # images in the index on the disk

    def add(self, name: str, pixels: np.ndarray, *, source: str) -> None:
        rest = pixels.data.cast("B")
        with _disk_errors(self.folder):
            while rest:
                rest = rest[self.file.write(rest) :]
        self.index.add(name, pixels, source=source)
        if len(self.index.names) - self.committed >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Write the pixels to the disk, then the index that lists them."""
        if len(self.index.names) > self.committed:
            with _disk_errors(self.folder):
                os.fsync(self.file.fileno())
                self.index.save(self.folder)
            self.committed = len(self.index.names)

    def rescue(self) -> None:
        """Commit after a failure; on a full disk, drop as many of the last images as the index needs room."""
        with suppress(InputError):
            return self.commit()
        size, count = self.index.size, len(self.index.names)
        room = 2**12 + 2 * len(self.index.model_dump_json())
        count = max(self.committed, count - -(-room // size**2))
        self.index.truncate(count)
        self.file.truncate(count * size**2)
        with suppress(InputError):
            self.commit()


@contextmanager
def _open_writer(folder: Path, *, size: int) -> Iterator[_Writer]:
    """Open a cache for appending, exclusively, without the bytes beyond its index; commit at the end."""
    is_new = not folder.exists()
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Without a buffer, so that a full disk is noticed when an image is written and not again at closing.
        file = open(os.open(folder / IMAGES_FILE, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
    with file:
        _lock(file, folder)
        index = read_index(folder) or CacheIndex(size=size)
        if index.size != size:
            raise InputError(f"{folder} holds images of size {index.size}, not {size}; name another folder")
        for leftover in folder.glob(".index.*.part.json"):
            leftover.unlink(missing_ok=True)
        with _disk_errors(folder):
            file.truncate(len(index.names) * size**2)
            file.seek(0, os.SEEK_END)
        writer = _Writer(folder, file, index, committed=len(index.names))
        try:
            yield writer
        except Exception:  # not on Ctrl-C, which may have come between a write and its entry in the index
            writer.rescue()
            raise
        else:
            writer.commit()
        finally:
            if not writer.committed:
                with suppress(OSError):
                    (folder / IMAGES_FILE).unlink()
                    if is_new:
                        folder.rmdir()


def _lock(file: FileIO, folder: Path) -> None:
    """Refuse a second writer. The lock ends with the process, so a killed run leaves none."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another run is filling {folder}; wait until it has ended") from None
    except OSError:  # network drives without locks
        return
    if not os.fstat(file.fileno()).st_nlink:  # the other run has just ended and removed the file
        raise InputError(f"another run was filling {folder}; run again")


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Convert an OSError into an InputError that names the cache."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror or error}); make room or name another folder, and run "
            "again: what was prepared is kept"
        ) from error
