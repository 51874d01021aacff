"""Refiners of class activation maps by name: the paper's PCM, and the modules in `extras` that may replace it.

`refiner(features, cam, valid=..., low_level=...)` returns refined maps: each pixel is a weighted mean of its map, and
the weights sum to 1. Arguments as in `pcm.PCM.forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import nn

from ..errors import InputError
from ..recipes import Refiner
from .pcm import PCM

REFINERS = get_args(Refiner)


def build_refiner(name: str, channels: int, *, low_level: Sequence[int]) -> nn.Module | None:
    """Build a refiner, or return None for "none".

    Args:
        name: one of `REFINERS`: "pcm" (the paper), "seam_pcm" (PCM of Wang et al. 2020, which also sees the image and
            low-level features), "self_attention" (named as future work by the paper).
        channels: number of channels of the features.
        low_level: numbers of channels of the backbone's maps at strides 4 and 8.

    Raises:
        InputError: the name is unknown.
    """
    match name:
        case "pcm":
            return PCM(channels)
        case "seam_pcm":
            from .extras.seam_pcm import SeamPCM

            return SeamPCM(channels, low_level)
        case "self_attention":
            from .extras.self_attention import SelfAttention

            return SelfAttention(channels)
        case "none":
            return None
    raise InputError(f"there is no refiner {name!r}; choose one of {', '.join(REFINERS)}")
