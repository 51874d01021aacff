"""Max-min pooling: what speaks most for a finding, and what speaks most against it.

Source: Durand et al. 2016 (WELDON) and 2017 (WILDCAT), on chest films Yan et al. 2018. Of each finding's CAM

    logit_k = mean of the k largest values + alpha * mean of the k smallest values.

The smallest values let a film without the finding say so. k = 1 and alpha = 0 give the maximum of the CAM; k = all
pixels and alpha = 0 its average.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from ...errors import InputError

SHARE = 0.05
"""k as a share of the pixels: 52 of 32 x 32 cells, few enough for a small finding."""


ALPHA = 0.7
"""What absence weighs, as in WILDCAT."""


class MaxMinPool(nn.Module):
    """Mean of the largest and, weighted, of the smallest values of each CAM.

    Raises:
        InputError: the share is not above 0 and at most 1, or alpha is below 0.
    """

    def __init__(self, *, share: float = SHARE, alpha: float = ALPHA) -> None:
        """Keep `share`, k as a share of the pixels, rounded up, and `alpha`, the weight of the smallest."""
        super().__init__()
        if not 0 < share <= 1 or alpha < 0:
            raise InputError(
                f"max-min pooling needs a share above 0 and at most 1 and alpha from 0, not {share, alpha}"
            )
        self.share = share
        self.alpha = alpha

    def forward(self, features: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (B, K) float32 of (B, C, H, W) features; `score` maps them to (B, K, H, W)."""
        cam = score(features).float().flatten(start_dim=2)
        count = math.ceil(self.share * cam.shape[-1])
        largest = cam.topk(count, dim=-1).values.mean(dim=-1)
        smallest = cam.topk(count, dim=-1, largest=False).values.mean(dim=-1)
        return largest + self.alpha * smallest

    def extra_repr(self) -> str:
        """Show share and alpha when the model is printed."""
        return f"share={self.share}, alpha={self.alpha}"
