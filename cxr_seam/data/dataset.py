"""Chest X-rays of an image cache with their labels, and batches of them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..errors import InputError
from .cache import ImageCache
from .layouts.base import DatasetMetadata


class ChestXrayDataset(Dataset):
    """Some images of a cache with their labels.

    Attributes:
        image_index: names of the images.
        findings: names of the K findings.
        labels: (N, K) float32, 0, 1, or NaN where unknown, in the order of `findings`.
        size: side of the images in pixels.
        cache: the image cache.
    """

    def __init__(self, cache: ImageCache, metadata: DatasetMetadata, *, image_index: Sequence[str]) -> None:
        """Take the images called `image_index` from `cache` and their labels from `metadata`.

        Raises:
            InputError: `image_index` is empty, or a name is missing in the cache or in the label table.
        """
        if not len(image_index):
            raise InputError(f"no image was chosen from {cache.folder}; prepare images that the lists name")
        self.image_index = list(image_index)
        self.findings = metadata.findings
        self.labels = metadata.labels(self.image_index)
        self.size = cache.size
        self.cache = cache
        self._rows = cache.indices(self.image_index)

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.load([index])
        return images[0], labels[0]

    def load(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Load the images at `indices`: (B, 1, S, S) uint8 and their labels (B, K) float32.

        If there is a GPU, the images lie in pinned memory, so that it can copy them while the CPU goes on.
        """
        indices = np.asarray(indices)
        images = torch.from_numpy(self.cache.load(self._rows[indices]))[:, None]  # (B, 1, S, S)
        labels = torch.from_numpy(self.labels[indices])  # (B, K)
        return (images.pin_memory(), labels.pin_memory()) if torch.cuda.is_available() else (images, labels)

    @property
    def fingerprint(self) -> str:
        """Number of the images, and a hash of their names and labels, for example "1497 images, 55d8de6106c075ee"."""
        digest = hashlib.sha256("\n".join(self.image_index).encode() + self.labels.tobytes())
        return f"{len(self)} images, {digest.hexdigest()[:16]}"

    @property
    def checksum(self) -> str:
        """CRC-32 of the images' checksums in the cache, eight hexadecimal digits.

        It differs if images of the same names were prepared in another way. No pixel is read.
        """
        return f"{zlib.crc32(np.array(self.cache.crc32, dtype=np.uint32)[self._rows].tobytes()):08x}"


class BatchSampler:
    """Split the indices of a dataset into batches, in order or shuffled in each epoch.

    A shuffled epoch drops an incomplete last batch, unless it is the only one. The order depends on (seed, epoch) only.
    """

    def __init__(self, n_images: int, batch_size: int, *, shuffle_seed: int | None = None) -> None:
        self.n_images, self.batch_size, self.shuffle_seed = n_images, batch_size, shuffle_seed

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        if self.shuffle_seed is not None and self.n_images >= self.batch_size:
            return self.n_images // self.batch_size
        return -(-self.n_images // self.batch_size)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the indices of each batch of an epoch, without the first `start` batches."""
        order = np.arange(self.n_images)
        if self.shuffle_seed is not None:
            order = np.random.default_rng((self.shuffle_seed, epoch)).permutation(self.n_images)
        for batch in range(start, len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]


def iter_batches(
    dataset: ChestXrayDataset, batch_size: int, *, desc: str | None = None
) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
    """Iterate over a dataset once, in order.

    Args:
        dataset: N images.
        batch_size: B, number of images in a batch; the last batch may be smaller.
        desc: title of the progress bar; None: no progress bar.

    Yields:
        Images (B, 1, S, S) uint8, labels (B, K) float32, and their indices (B,) in the dataset.
    """
    sampler = BatchSampler(len(dataset), batch_size)
    bar = tqdm(sampler.batches(), total=len(sampler), desc=desc, unit="batch", leave=False, disable=desc is None)
    for indices in bar:
        yield *dataset.load(indices), indices
