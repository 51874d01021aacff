"""LSE-LBA pooling: log-sum-exp pooling with a learned sharpness that has a lower bound.

Source: Yao et al. 2018, "Weakly supervised medical diagnosis and localization from multiple resolutions":

    p = 1/r * log( 1/(HW) * sum exp(r * x) ),  r = r_0 + exp(beta),  beta learned, r_0 fixed.

The bound keeps r from falling to 0, where the pooling is the average, which would blur every map. Yao et al. pool maps
of scores with one beta; the paper pools features, so each channel has a beta here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..pooling import LogSumExpPool, lse_pool

BOUND = 0.5
"""r_0 as a fraction of the initial sharpness."""


class AdaptiveLogSumExpPool(LogSumExpPool):
    """LSE with a learned sharpness for each channel; before training it equals LSE with `gamma`."""

    def __init__(self, channels: int, gamma: float) -> None:
        super().__init__(gamma)
        self.bound = BOUND * gamma
        self.beta = nn.Parameter(torch.full((channels,), math.log(gamma - self.bound)))

    @property
    def sharpness(self) -> Tensor:
        """r of every channel, (C,) float32, above the bound."""
        return self.bound + self.beta.exp()

    def pool(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C) float32."""
        sharpness = self.sharpness  # LSE_r(x) = LSE_1(r x) / r
        return lse_pool(sharpness[:, None, None] * features.float(), gamma=1.0) / sharpness
