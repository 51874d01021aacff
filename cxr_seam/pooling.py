"""Log-sum-exp pooling: between the average (gamma -> 0) and the maximum (gamma -> infinity) of a map."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .errors import InputError


def lse_pool(features: Tensor, *, gamma: float) -> Tensor:
    """Pool each channel over space: x_p = 1/gamma * log( 1/(HW) * sum exp(gamma * x) ).

    Source: Wang et al. 2017, used by the paper in Sect. 4.1 on the feature maps (not on the CAMs, so the logits
    are not the pooled CAMs). Computed through logsumexp, which subtracts the maximum first and cannot overflow,
    and in float32 whatever the input, since half precision ends at 65,504.

    Args:
        features: (B, C, H, W) float.
        gamma: sharpness, above 0.

    Returns:
        (B, C) float32.
    """
    flat = features.float().flatten(start_dim=2)
    return ((gamma * flat).logsumexp(dim=-1) - math.log(flat.shape[-1])) / gamma


class LogSumExpPool(nn.Module):
    """`lse_pool` as a module.

    Raises:
        InputError: gamma is not above 0.
    """

    def __init__(self, gamma: float) -> None:
        """Keep `gamma`, the sharpness (10 in the paper, Sect. 5.1)."""
        super().__init__()
        if not gamma > 0:
            raise InputError(f"LSE pooling needs gamma above 0, not {gamma}")
        self.gamma = gamma

    def forward(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C)."""
        return lse_pool(features, gamma=self.gamma)

    def extra_repr(self) -> str:
        """Show gamma when the model is printed."""
        return f"gamma={self.gamma}"
