"""Small batches and data sets for the tests."""

from __future__ import annotations

from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent


def random_batch(count: int, *, side: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 3, side, side) of noise and labels (count, 14), a share of them 1 and the third always."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, side, side, generator=generator)
    labels = (torch.rand(count, 14, generator=generator) < share).float()
    labels[:, 2] = 1
    return images, labels


def two_sets(folder: Path, cache, *, training: int, validation: int) -> list:
    """The first images of a cache as the training set, the next ones as the validation set."""
    from cxr_seam.data.dataset import ChestXrayDataset
    from cxr_seam.data.layouts.nih import load_metadata

    tables, names = load_metadata(folder), cache.image_index
    parts = (names[:training], names[training : training + validation])
    return [ChestXrayDataset(cache, tables, image_index=part) for part in parts]
