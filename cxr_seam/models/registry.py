"""Poolings and refiners by name: the paper's, and the modules in `extras` that may replace them.

`pool(features, score)` returns logits, see `pooling`. `refiner(features, cam, valid=..., low_level=...)` returns
refined maps: each pixel is a weighted mean of its map, and the weights sum to 1. Arguments as in `pcm.PCM.forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import nn

from ..errors import InputError
from ..recipes import Pooling, Refiner
from .pcm import PCM
from .pooling import LogSumExpPool

POOLINGS = get_args(Pooling)
REFINERS = get_args(Refiner)


def build_pooling(name: str, channels: int, *, findings: int, gamma: float) -> nn.Module:
    """Build a pooling.

    Args:
        name: one of `POOLINGS`. "lse" is the paper's; `strong` uses "pcam" (Ye et al. 2020); the paper names "lse_lba"
            (Yao et al. 2018), "attention" (Ilse et al. 2018) and "max_min" (Yan et al. 2018).
        channels: number of channels of the features.
        findings: number of findings.
        gamma: sharpness of "lse", and initial sharpness of "lse_lba"; the others ignore it.

    Raises:
        InputError: the name is unknown, or gamma is not above 0.
    """
    if not gamma > 0:
        raise InputError(f"LSE pooling needs gamma above 0, not {gamma}")
    match name:
        case "lse":
            return LogSumExpPool(gamma)
        case "lse_lba":
            from .extras.lse_lba import AdaptiveLogSumExpPool

            return AdaptiveLogSumExpPool(channels, gamma)
        case "pcam":
            from .extras.pcam import ProbabilisticCamPool

            return ProbabilisticCamPool()
        case "attention":
            from .extras.attention import GatedAttentionPool

            return GatedAttentionPool(channels, findings)
        case "max_min":
            from .extras.max_min import MaxMinPool

            return MaxMinPool()
    raise InputError(f"there is no pooling {name!r}; choose one of {', '.join(POOLINGS)}")


def build_refiner(name: str, channels: int, *, low_level: Sequence[int]) -> nn.Module | None:
    """Build a refiner, or return None for "none".

    Args:
        name: one of `REFINERS`: "pcm" (the paper), "residual_pcm" (centred affinity, mixed with the unrefined map),
            "seam_pcm" (PCM of Wang et al. 2020, which also sees the image and low-level features), "self_attention"
            (named as future work by the paper).
        channels: number of channels of the features.
        low_level: numbers of channels of the backbone's maps at strides 4 and 8.

    Raises:
        InputError: the name is unknown.
    """
    match name:
        case "pcm":
            return PCM(channels)
        case "residual_pcm":
            from .extras.residual_pcm import ResidualPCM

            return ResidualPCM(channels)
        case "seam_pcm":
            from .extras.seam_pcm import SeamPCM

            return SeamPCM(channels, low_level)
        case "self_attention":
            from .extras.self_attention import SelfAttention

            return SelfAttention(channels)
        case "none":
            return None
    raise InputError(f"there is no refiner {name!r}; choose one of {', '.join(REFINERS)}")
