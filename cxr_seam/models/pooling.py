"""Log-sum-exp pooling: between the average (gamma -> 0) and the maximum (gamma -> infinity) of a map; and these two.

A pooling turns features and the classifier into logits: `pool(features, score)`, where `score` is the classifier, put
on any map. The three here pool every channel of the features and classify the result, as the paper does. `poolings`
lists all there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from ..errors import InputError


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


class FeaturePool(nn.Module):
    """A pooling that classifies pooled features: logits = W pool(x) + b. Subclasses say how a map is pooled."""

    def pool(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) features to (B, C)."""
        raise NotImplementedError

    def forward(self, features: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (B, K) of (B, C, H, W) features; `score` maps (B, C, h, w) to (B, K, h, w), pixel by pixel."""
        return score(self.pool(features)[:, :, None, None]).flatten(start_dim=1)


class LogSumExpPool(FeaturePool):
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

    def pool(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C)."""
        return lse_pool(features, gamma=self.gamma)

    def extra_repr(self) -> str:
        """Show gamma when the model is printed."""
        return f"gamma={self.gamma}"


class AveragePool(FeaturePool):
    """The mean over space, where LSE goes as gamma -> 0. Its logits are the mean of the CAM (Zhou et al. 2015)."""

    def pool(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C) float32."""
        return features.float().mean(dim=(-2, -1))


class MaximumPool(FeaturePool):
    """The maximum over space, where LSE goes as gamma -> infinity; one pixel a channel learns."""

    def pool(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C) float32."""
        return features.float().amax(dim=(-2, -1))
