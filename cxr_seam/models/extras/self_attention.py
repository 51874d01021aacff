"""Multi-head self-attention in the PCM's place, which the paper names as future work.

Source: Vaswani et al. 2017, Sect. 3.2, with the maps themselves as values. With H heads of width d, queries Q_h x and
keys K_h x of the features x, both learned,

    A_h = softmax over j of ( (Q_h x_i) . (K_h x_j) / sqrt(d) ),  refined_i = sum_j (mean over h of A_h)_ij cam_j.

Unlike the cosine of the PCM it need not be symmetric, and it can be as sharp as it learns to be.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..pcm import LowLevelFeatures, apply_affinity_chunked

HEADS = 4


class SelfAttention(nn.Module):
    """Refine maps with the mean of several softmax affinities; the interface of `pcm.PCM`."""

    def __init__(self, channels: int) -> None:
        """Make queries and keys for features with `channels` channels, half as wide in all, as the PCM's theta."""
        super().__init__()
        width = max(1, channels // 2 // HEADS) * HEADS
        self.query = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.key = nn.Conv2d(channels, width, kernel_size=1, bias=False)

    def queries_and_keys(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, D, N) float32 of (B, C, H, W) features, which are detached."""
        features = features.detach().float()
        return self.query(features).flatten(start_dim=2), self.key(features).flatten(start_dim=2)

    def affinity(
        self, features: Tensor, *, valid: Tensor | None = None, low_level: LowLevelFeatures | None = None
    ) -> Tensor:
        """Return the mean of the heads' affinities, (B, HW, HW) float32; rows sum to 1."""
        del low_level
        with torch.autocast(features.device.type, enabled=False):
            query, key = self.queries_and_keys(features)
            return attention_rows(query, key, None if valid is None else valid.flatten(start_dim=2))

    def forward(
        self, features: Tensor, cam: Tensor, *, valid: Tensor | None = None, low_level: LowLevelFeatures | None = None
    ) -> Tensor:
        """Refine `cam`; arguments and result as those of `pcm.PCM.forward`."""
        del low_level
        with torch.autocast(features.device.type, enabled=False):
            query, key = self.queries_and_keys(features)
            return apply_affinity_chunked(attend, query, key, cam, valid=valid, matrices=HEADS * len(query))


def attend(some: Tensor, key: Tensor, values: Tensor, columns: Tensor | None) -> Tensor:
    """Refined values (B, n, K) of the n pixels whose queries are `some` (B, D, n); values (B, N, K)."""
    return torch.bmm(attention_rows(some, key, columns), values)


def attention_rows(some: Tensor, key: Tensor, columns: Tensor | None) -> Tensor:
    """Rows (B, n, N) of the mean affinity for queries (B, D, n) and keys (B, D, N).

    Args:
        some: the queries, head after head.
        key: likewise.
        columns: (B, 1, N) bool or None; no row has weight where it is False.
    """
    query, key = (values.unflatten(1, (HEADS, -1)) for values in (some, key))  # (B, heads, d, n) and (B, heads, d, N)
    logits = query.transpose(2, 3) @ key / math.sqrt(key.shape[2])  # (B, heads, n, N)
    if columns is not None:
        logits = logits.masked_fill(~columns[:, None], torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1).mean(dim=1)
