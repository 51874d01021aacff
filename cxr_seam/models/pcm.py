"""Pixel correlation module (Sect. 4.2, Eq. 2): refine each pixel of a CAM by the pixels with similar features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .backbones import LowLevelFeatures

EPSILON = 1e-5
"""Smallest sum of a row: a row without any similarity stays zero."""
BLOCK_VALUES, GPU_BLOCK_VALUES = 2**22, 2**25
"""Affinity values that exist at one time, for any number of pixels: 16 MB in float32, which fit in a CPU's cache, or
128 MB on a GPU, where a block costs a millisecond whatever its size (docs/performance.md), so few are better."""


class PCM(nn.Module):
    """Refine maps with the affinity of a learned embedding theta, a 1x1 convolution without bias (Eq. 2).

    theta maps C channels to C/2: 512 -> 256 for MultiRes-ResNet50, 131,072 weights, which Table 4 counts.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)

    def embed(self, features: Tensor, low_level: LowLevelFeatures | None = None) -> Tensor:
        """Compute theta(x), (B, D, H, W) float32, of detached (B, C, H, W) features; `low_level` is not used."""
        del low_level
        return self.theta(features.detach().float())

    def forward(
        self, features: Tensor, cam: Tensor, *, valid: Tensor | None = None, low_level: LowLevelFeatures | None = None
    ) -> Tensor:
        """Refine `cam` with the affinity of `features`. Gradients reach only the parameters of this module.

        Args:
            features: (B, C, H, W).
            cam: (B, K, H, W) maps from `cam.make_pcm_input`.
            valid: (B, 1, H, W) bool or None, see `affinity`.
            low_level: for refiners that use the image and finer maps; see `extras.seam_pcm`.

        Returns:
            (B, K, H, W) float32; each value is a weighted mean of its map, so the range does not grow.
        """
        with torch.autocast(features.device.type, enabled=False):  # half precision is too coarse for the cosine
            return apply_affinity(self.embed(features, low_level), cam, valid=valid)


# Eq. 2 as it is written: the whole matrix.


def affinity(embedding: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Compute the affinity of all pixels with all: A_ij = ReLU( q_i . q_j ) / C_i.

    q is the embedding with unit length, so the product is the cosine; C_i is the sum of row i.

    Args:
        embedding: (B, D, H, W) float, theta(x).
        valid: (B, 1, H, W) bool or None; columns of pixels that are False are zero, so no pixel uses their values.

    Returns:
        (B, HW, HW) float32: rows are refined pixels, columns the pixels they use. A row sums to 1 if its pixel is
        similar to any valid pixel, else to 0.
    """
    query = l2_normalise(embedding)
    with torch.autocast(query.device.type, enabled=False):
        return affinity_rows(query, query, None if valid is None else valid.flatten(start_dim=2))


def affinity_rows(queries: Tensor, keys: Tensor, columns: Tensor | None) -> Tensor:
    """Compute rows (B, n, N) of the affinity for n queries (B, D, n) among N keys (B, D, N); columns (B, 1, N) bool."""
    similarity = similarity_rows(queries, keys, columns)
    return similarity / similarity.sum(dim=-1, keepdim=True).clamp_min(EPSILON)


def similarity_rows(queries: Tensor, keys: Tensor, columns: Tensor | None) -> Tensor:
    """Compute ReLU of the cosines (B, n, N); zero in columns that are not valid."""
    similarity = torch.bmm(queries.transpose(1, 2), keys).relu()
    return similarity if columns is None else similarity * columns


def l2_normalise(embedding: Tensor) -> Tensor:
    """Flatten an embedding (B, D, H, W) to float32 vectors (B, D, HW) of length 1."""
    return F.normalize(embedding.float().flatten(start_dim=2), dim=1)


# The same in blocks of rows. The matrix has N x N values per image: 1,024 squared at 256 pixels, 4,096 squared at 512.


def apply_affinity(embedding: Tensor, cam: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Multiply maps by the affinity (Eq. 2) without storing it; arguments as in `affinity` and `PCM.forward`.

    Returns:
        (B, K, H, W) float32, equal to `affinity` times `cam` up to rounding.
    """
    query = l2_normalise(embedding)
    return apply_in_blocks(refined_rows, query, query, cam, valid=valid)


def refined_rows(queries: Tensor, keys: Tensor, values: Tensor, columns: Tensor | None) -> Tensor:
    """Compute refined values (B, n, K) of the n queries from values (B, N, K)."""
    similarity = similarity_rows(queries, keys, columns)
    return torch.bmm(similarity, values) / similarity.sum(dim=-1, keepdim=True).clamp_min(EPSILON)


def apply_in_blocks(
    refine: Callable[..., Tensor], query: Tensor, key: Tensor, cam: Tensor, *, valid: Tensor | None, heads: int = 1
) -> Tensor:
    """Refine maps in blocks of pixels, so that only `BLOCK_VALUES` affinity values (on a GPU more) exist at one time.

    The backward pass computes each block again.

    Args:
        refine: (queries (B, D, n), keys, values (B, N, K), columns (B, 1, N) or None) -> (B, n, K) refined values.
        query, key: (B, D, N) float32.
        cam: (B, K, H, W) maps; no gradient is computed with respect to them.
        valid: see `affinity`.
        heads: number of N x N affinities of an image.

    Returns:
        (B, K, H, W) float32.
    """
    values = cam.detach().float().flatten(start_dim=2).transpose(1, 2)  # (B, N, K)
    columns = None if valid is None else valid.flatten(start_dim=2)  # (B, 1, N)
    n_pixels = query.shape[-1]
    batch = 1 if torch.compiler.is_compiling() else len(query)  # an exported program takes any batch
    n_rows = max(1, (GPU_BLOCK_VALUES if query.is_cuda else BLOCK_VALUES) // (batch * heads * n_pixels))
    blocks = []
    for start in range(0, n_pixels, n_rows):
        inputs = (query[:, :, start : start + n_rows], key, values, columns)
        if torch.is_grad_enabled() and query.requires_grad and n_rows < n_pixels:
            blocks.append(checkpoint(refine, *inputs, use_reentrant=False, preserve_rng_state=False))
        else:
            blocks.append(refine(*inputs))
    return torch.cat(blocks, dim=1).transpose(1, 2).reshape(cam.shape)
