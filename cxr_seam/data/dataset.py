"""Prepared films with their labels, in batches of grey bytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from ..errors import InputError
from .cache import BLOCK, ImageCache
from .nih import NihMetadata


class ChestXrayDataset(Dataset):
    """Some images of a store with their labels.

    Attributes:
        image_index: names, in the order of the rows.
        labels: (N, 14) float32, 0 or 1, in the order of `FINDINGS`.
        size: side of the films in pixels.
    """

    def __init__(self, cache: ImageCache, tables: NihMetadata, *, image_index: Sequence[str]) -> None:
        """Take the images called `image_index` from `store` and their labels from `tables`.

        Raises:
            InputError: there is no name, or a name is missing in the store or in the table.
        """
        if not len(image_index):
            raise InputError(f"no image was chosen from the store {cache.folder}; prepare images that the lists name")
        self.image_index = list(image_index)
        self.labels = tables.labels(self.image_index).astype(np.float32)
        self.size = cache.size
        self._store = cache
        self._rows = cache.indices(self.image_index)

    def __len__(self) -> int:
        """Number of films."""
        return len(self.image_index)

    @property
    def checksum(self) -> str:
        """Tells films from others of the same names, prepared in another way; no pixel is read.

        Eight hexadecimal digits, of the checksums of the store's blocks (`store.BLOCK`) in which the films lie.
        """
        blocks = np.unique(self._rows // BLOCK)
        return f"{zlib.crc32(np.array(self._store.crc32, dtype=np.uint32)[blocks].tobytes()):08x}"

    def __getitems__(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch, the films at `places`: (B, 1, S, S) uint8 and (B, 14) float32.

        PyTorch's loader calls this instead of asking for one film after another.
        """
        pixels = self._store.load(self._rows[places])
        return torch.from_numpy(pixels)[:, None], torch.from_numpy(self.labels[places])


class Batches(BatchSampler):
    """Batches of places in a data set, in order or shuffled anew each epoch from (seed, epoch).

    Where several processes share the work, each batch is split among them: iterating gives a process its own part.

    Attributes:
        epoch: its number, from which the order is drawn.
        start: batches of the epoch to leave out, since a run that goes on has seen them.
    """

    def __init__(
        self, count: int, size: int, *, shuffle_seed: int | None = None, process: int = 0, processes: int = 1
    ) -> None:
        """Split `count` items into batches of `size`; shuffled ones leave out a last incomplete batch if they can."""
        self.count, self.batch_size, self.shuffle_seed = count, size, shuffle_seed
        self.drop_last = shuffle_seed is not None and count >= size
        self.process, self.processes = process, processes
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of places: this process's part of each batch."""
        for places in self.whole():
            yield places[self.part(len(places))]

    def whole(self) -> Iterator[list[int]]:
        """Yield lists of places: each batch as all processes have it together."""
        order = np.arange(self.count)
        if self.shuffle_seed is not None:
            order = np.random.default_rng((self.shuffle_seed, self.epoch)).permutation(self.count)
        for batch in range(self.start, len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()

    def part(self, films: int) -> slice:
        """Which of a batch's `films` are this process's; parts are of one size as nearly as can be."""
        return slice(films * self.process // self.processes, films * (self.process + 1) // self.processes)


def loader(films: ChestXrayDataset, batch_size: int, *, shuffle_seed: int | None = None) -> DataLoader:
    """All films in batches, in their own order or shuffled."""
    return load(films, Batches(len(films), batch_size, shuffle_seed=shuffle_seed))


def load(films: ChestXrayDataset, batches: Batches) -> DataLoader:
    """Batches of films, in memory that a GPU copies from by itself; no worker processes are needed to keep up."""
    return DataLoader(films, batch_sampler=batches, collate_fn=as_it_is, pin_memory=torch.cuda.is_available())


def as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Nothing is left to collate: `ChestXrayDataset` gives whole batches."""
    return batch
