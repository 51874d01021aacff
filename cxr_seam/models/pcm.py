"""The pixel correlation module (Sect. 4.2, Eq. 2): each pixel of a CAM becomes a mean over pixels that look alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

SMALLEST_ROW_SUM = 1e-5


BLOCK_VALUES = 2**22
"""Values of the affinity that exist at a time: 16 MB in float32, whatever the number of pixels."""


class LowLevelFeatures(NamedTuple):
    """What a network has seen before its last features, for refiners that look at it.

    images: (B, 3, H, W) normalised. maps: the backbone's at strides 4 and 8, (B, C_i, h_i, w_i) each.
    """

    images: Tensor
    maps: tuple[Tensor, ...]


def affinity(embedding: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Cosine similarity of every pixel with every other, negatives cut, each row normalised to sum 1.

    A_ij = ReLU( q_i . q_j ) / C_i, q the embedding at unit length, C_i the sum of the row (Eq. 2).
    `refine` applies this matrix without holding it; here it is whole, to be looked at.

    Args:
        embedding: (B, D, H, W) float, theta(x).
        valid: (B, 1, H, W) bool or None; pixels that are False have no content and nothing draws on them.

    Returns:
        (B, HW, HW) float32, rows: the pixel refined; columns: the pixels drawn on. Rows sum to 1 wherever a pixel
        resembles any valid pixel, else to 0.
    """
    query = l2_normalise(embedding)
    with torch.autocast(query.device.type, enabled=False):
        return affinity_rows(query, query, None if valid is None else valid.flatten(start_dim=2))


def apply_affinity(embedding: Tensor, cam: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Eq. 2 for all pixels: the affinity times the maps, a block of rows at a time.

    With N = HW pixels the affinity has N x N values per image: 1,024 squared at 256 pixels, 4,096 squared at 512. Only
    a block of rows exists at any time, in the backward pass too, where each block is computed anew.

    Args:
        embedding: (B, D, H, W) float, theta(x).
        cam: (B, K, H, W) maps; no gradient is taken with respect to them.
        valid: see `affinity`.

    Returns:
        (B, K, H, W) float32, equal to `affinity` times `cam` up to rounding.
    """
    query = l2_normalise(embedding)
    return apply_affinity_chunked(refined_rows, query, query, cam, valid=valid, matrices=len(query))


def apply_affinity_chunked(
    refine_some: Callable[..., Tensor], query: Tensor, key: Tensor, cam: Tensor, *, valid: Tensor | None, matrices: int
) -> Tensor:
    """Refine maps a block of pixels at a time, so that at most `BLOCK_VALUES` values of an affinity exist at once.

    Args:
        refine_some: (queries (B, D, n), key, values (B, N, K), columns (B, 1, N) or None) -> (B, n, K) refined values.
        query, key: (B, D, N) float32.
        cam: (B, K, H, W) maps; no gradient is taken with respect to them.
        valid: see `affinity`.
        matrices: how many N x N affinities the batch has in all.

    Returns:
        (B, K, H, W) float32.
    """
    values = cam.detach().float().flatten(start_dim=2).transpose(1, 2)  # (B, N, K)
    columns = None if valid is None else valid.flatten(start_dim=2)  # (B, 1, N)
    count = query.shape[-1]
    rows = max(1, BLOCK_VALUES // (matrices * count))
    blocks = []
    for start in range(0, count, rows):
        inputs = (query[:, :, start : start + rows], key, values, columns)
        if torch.is_grad_enabled() and query.requires_grad and rows < count:
            blocks.append(checkpoint(refine_some, *inputs, use_reentrant=False, preserve_rng_state=False))
        else:
            blocks.append(refine_some(*inputs))
    return torch.cat(blocks, dim=1).transpose(1, 2).reshape(cam.shape)


def refined_rows(some: Tensor, query: Tensor, values: Tensor, columns: Tensor | None) -> Tensor:
    """Refined values (B, n, K) of the n pixels whose embeddings are `some` (B, D, n)."""
    similarity = similarity_rows(some, query, columns)
    return torch.bmm(similarity, values) / similarity.sum(dim=-1, keepdim=True).clamp_min(SMALLEST_ROW_SUM)


def affinity_rows(some: Tensor, query: Tensor, columns: Tensor | None) -> Tensor:
    """Rows (B, n, N) of the affinity for the n pixels whose embeddings are `some` (B, D, n)."""
    similarity = similarity_rows(some, query, columns)
    return similarity / similarity.sum(dim=-1, keepdim=True).clamp_min(SMALLEST_ROW_SUM)


def similarity_rows(some: Tensor, query: Tensor, columns: Tensor | None) -> Tensor:
    """ReLU of the cosines (B, n, N) between n pixels and all N; 0 in columns that are not valid."""
    similarity = torch.bmm(some.transpose(1, 2), query).relu()
    return similarity if columns is None else similarity * columns


def l2_normalise(embedding: Tensor) -> Tensor:
    """Embeddings (B, D, H, W) as (B, D, HW) float32 vectors of length 1; half precision would lose the cosine."""
    return F.normalize(embedding.float().flatten(start_dim=2), dim=1)


class PCM(nn.Module):
    """Refine maps with the affinity of a learned embedding theta, a 1x1 convolution without bias (Eq. 2).

    theta maps C channels to C/2: 512 -> 256 for MultiRes-ResNet50, 131,072 weights, which Table 4 counts.
    """

    def __init__(self, channels: int) -> None:
        """Make theta for feature maps with `channels` channels."""
        super().__init__()
        self.theta = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)

    def embed(self, features: Tensor, low_level: LowLevelFeatures | None = None) -> Tensor:
        """Return theta(x), (B, D, H, W) float32, of (B, C, H, W) features, detached; `shallow` is not looked at."""
        del low_level
        return self.theta(features.detach().float())

    def affinity(
        self, features: Tensor, *, valid: Tensor | None = None, low_level: LowLevelFeatures | None = None
    ) -> Tensor:
        """Return the (B, HW, HW) affinity of (B, C, H, W) features, which are detached first."""
        return affinity(self.embed(features, low_level), valid=valid)

    def forward(
        self, features: Tensor, cam: Tensor, *, valid: Tensor | None = None, low_level: LowLevelFeatures | None = None
    ) -> Tensor:
        """Refine `cam` by the affinity of `features`.

        Args:
            features: (B, C, H, W); detached here, so that gradients reach theta alone.
            cam: (B, K, H, W) prepared maps (`cams.make_pcm_input`), detached as well.
            valid: (B, 1, H, W) bool or None, see `affinity`.
            shallow: for refiners that look at more than the features.

        Returns:
            (B, K, H, W) float32; a convex mean of each map, so its range does not grow.
        """
        with torch.autocast(features.device.type, enabled=False):  # cosines of half-precision vectors are too coarse
            return apply_affinity(self.embed(features, low_level), cam, valid=valid)
