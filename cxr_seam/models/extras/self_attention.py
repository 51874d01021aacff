"""Multi-head self-attention instead of the PCM; the paper names it as future work.

Source: Vaswani et al. 2017, Sect. 3.2, with the maps as values. With H heads of width d, learned queries Q_h x and keys
K_h x of the features x:

    A_h = softmax over j of ( (Q_h x_i) . (K_h x_j) / sqrt(d) ),  refined_i = sum_j (mean over h of A_h)_ij cam_j.

Unlike the PCM's cosine, A_h need not be symmetric, and its sharpness is learned.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..backbones import LowLevelFeatures
from ..pcm import apply_in_blocks

HEADS = 4


class SelfAttention(nn.Module):
    """Refine maps with the mean of several softmax affinities; same interface as `pcm.PCM`.

    Queries and keys are together half as wide as the features, as the PCM's theta.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(1, channels // 2 // HEADS) * HEADS
        self.query = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.key = nn.Conv2d(channels, width, kernel_size=1, bias=False)

    def forward(
        self, features: Tensor, cam: Tensor, *, valid: Tensor | None = None, low_level: LowLevelFeatures | None = None
    ) -> Tensor:
        """Refine `cam`; arguments and result as in `pcm.PCM.forward`."""
        del low_level
        with torch.autocast(features.device.type, enabled=False):
            features = features.detach().float()
            query, key = (embed(features).flatten(start_dim=2) for embed in (self.query, self.key))  # (B, D, N)
            return apply_in_blocks(attend, query, key, cam, valid=valid, heads=HEADS)


def attend(queries: Tensor, keys: Tensor, values: Tensor, columns: Tensor | None) -> Tensor:
    """Compute refined values (B, n, K) of n queries from values (B, N, K)."""
    return torch.bmm(attention_rows(queries, keys, columns), values)


def attention_rows(queries: Tensor, keys: Tensor, columns: Tensor | None) -> Tensor:
    """Compute rows (B, n, N) of the mean affinity.

    Args:
        queries: (B, D, n), the heads one after another.
        keys: (B, D, N), likewise.
        columns: (B, 1, N) bool or None; weights are 0 where it is False.
    """
    query, key = (x.unflatten(1, (HEADS, -1)) for x in (queries, keys))  # (B, heads, d, n) and (B, heads, d, N)
    logits = query.transpose(2, 3) @ key / math.sqrt(key.shape[2])  # (B, heads, n, N)
    if columns is not None:
        logits = logits.masked_fill(~columns[:, None], torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1).mean(dim=1)
