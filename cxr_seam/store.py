"""Prepared images: one file of grey squares, memory-mapped, read by name.

A store is a folder of two files. `images.u8` holds the images one after another, size x size bytes each, nothing
else. `index.json` says which they are. Bytes beyond those the index accounts for belong to a run that was stopped;
readers never see them and the next `cxr_seam.prepare.prepare` cuts them off. Training reads from here because
decoding a 1024x1024 PNG takes 10 ms and reading a 256x256 square takes next to nothing.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from .errors import InputError
from .files import whole_file

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
        with whole_file(folder / INDEX_FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
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
class Store:
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
    def open(cls, folder: str | os.PathLike[str]) -> Store:
        """Open a store that `prepare` has filled; takes milliseconds, whatever its size.

        Raises:
            InputError: there is none in `folder`, or it is damaged.
        """
        folder = Path(folder)
        index = read_index(folder)
        if index is None or not index.names:
            raise InputError(f"no prepared images in {folder}; run python -m cxr_seam prepare SOURCE --store {folder}")
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
        return Store.open, (self.folder,)

    def rows(self, names: Iterable[str]) -> np.ndarray:
        """Return the row of each image in `images`, (N,) int64, in the order asked for.

        Raises:
            InputError: an image is not in the store; names the first.
        """
        try:
            return np.array([self._row_of[name] for name in names], dtype=np.int64)
        except KeyError as error:
            raise InputError(f"{error.args[0]} is not in the store {self.folder}; prepare it first") from None

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Copy the images in `rows` out of the file: (B, size, size) uint8.

        Unlike `images`, of which every page that was looked at stays in the process's memory, this holds no more than
        what it returns, however large the store; training, which visits every image, reads so.

        Raises:
            InputError: the file has become shorter, or is gone.
        """
        pixels = np.empty((len(rows), self.size, self.size), dtype=np.uint8)
        path = self.folder / IMAGES_FILE
        try:
            with path.open("rb", buffering=0) as file:
                for place, row in zip(pixels, rows, strict=True):
                    file.seek(int(row) * place.nbytes)
                    if file.readinto(place) != place.nbytes:
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
