"""The poolings that a recipe's `pooling` may name; each stands in a file of its own, the paper's with both its limits.

`pool(features, score)` gives the logits of (B, C, h, w) features; `score` is the classifier, which acts on each pixel
by itself. LSE, LSE-LBA, average and maximum pool features, then classify; PCAM and attention pool features for each
finding by itself; max-min pools the CAM.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import InputError
from ..findings import FINDINGS
from .extras.attention import GatedAttentionPool
from .extras.lse_lba import AdaptiveLogSumExpPool
from .extras.max_min import MaxMinPool
from .extras.pcam import ProbabilisticCamPool
from .pooling import AveragePool, LogSumExpPool, MaximumPool

POOLINGS: dict[str, Callable[[int, float], nn.Module]] = {
    "lse": lambda channels, gamma: LogSumExpPool(gamma),
    "lse_lba": AdaptiveLogSumExpPool,
    "average": lambda channels, gamma: AveragePool(),
    "max": lambda channels, gamma: MaximumPool(),
    "pcam": lambda channels, gamma: ProbabilisticCamPool(),
    "attention": lambda channels, gamma: GatedAttentionPool(channels, len(FINDINGS)),
    "max_min": lambda channels, gamma: MaxMinPool(),
}


WITH_GAMMA = ("lse", "lse_lba")
"""Those to which gamma means something."""


def build_pooling(name: str, channels: int, *, gamma: float) -> nn.Module:
    """Make a pooling by name.

    Args:
        name: a key of `POOLINGS`.
        channels: of the features.
        gamma: sharpness of "lse", and of "lse_lba" at the start; the others have none.

    Raises:
        InputError: the name is unknown, or gamma is not above 0 where it is used.
    """
    if name not in POOLINGS:
        raise InputError(f"there is no pooling {name!r}; choose one of {', '.join(POOLINGS)}")
    return POOLINGS[name](channels, gamma)
