"""Max-min pooling: evidence for a finding plus evidence against it.

Source: Durand et al. 2016 (WELDON) and 2017 (WILDCAT); Yan et al. 2018 use it on chest X-rays. For each finding's CAM

    logit_k = mean of the n largest values + alpha * mean of the n smallest values.

n = 1 and alpha = 0 give the maximum of the CAM; n = all pixels and alpha = 0 its average.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

FRACTION = 0.05
"""n as a fraction of the pixels, rounded up: 52 of 32 x 32 pixels, few enough for a small finding."""
ALPHA = 0.7
"""Weight of the smallest values, as in WILDCAT."""


class MaxMinPool(nn.Module):
    """Add the mean of the largest values of each CAM and, weighted, the mean of the smallest."""

    def forward(self, features: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute logits (B, K) float32 of (B, C, H, W) features; `score` maps them to (B, K, H, W)."""
        cam = score(features).float().flatten(start_dim=2)
        count = math.ceil(FRACTION * cam.shape[-1])
        largest = cam.topk(count, dim=-1).values.mean(dim=-1)
        smallest = cam.topk(count, dim=-1, largest=False).values.mean(dim=-1)
        return largest + ALPHA * smallest
