"""Log-sum-exp pooling (Sect. 4.1); `registry` lists the other poolings.

A pooling computes logits from features and the classifier: `pool(features, score)`. `score` is the classifier applied
to each pixel of a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn


def lse_pool(features: Tensor, *, gamma: float) -> Tensor:
    """Pool each channel over space: x_p = 1/gamma * log( 1/(HW) * sum exp(gamma * x) ).

    The result lies between the average (gamma -> 0) and the maximum (gamma -> infinity). Source: Wang et al. 2017; the
    paper pools feature maps, not CAMs, so the logits are not the pooled CAMs. logsumexp subtracts the maximum first and
    cannot overflow; float32 is used for every input, because half precision ends at 65,504.

    Args:
        features: (B, C, H, W) float.
        gamma: sharpness, above 0.

    Returns:
        (B, C) float32.
    """
    flat = features.float().flatten(start_dim=2)  # (B, C, HW)
    return ((gamma * flat).logsumexp(dim=-1) - math.log(flat.shape[-1])) / gamma


class LogSumExpPool(nn.Module):
    """Classify features pooled by `lse_pool`: logits = W pool(x) + b; gamma is 10 in the paper (Sect. 5.1)."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def pool(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C) float32."""
        return lse_pool(features, gamma=self.gamma)

    def forward(self, features: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute logits (B, K) of (B, C, H, W) features; `score` maps (B, C, h, w) to (B, K, h, w)."""
        return score(self.pool(features)[:, :, None, None]).flatten(start_dim=1)
