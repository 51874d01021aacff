"""The refiners that a recipe's `refiner` may name; each stands in a file of its own.

`refiner(features, maps, valid=..., shallow=...)` gives refined maps, each pixel a mean of the map with weights that sum
to 1. `valid` says which pixels have content, `shallow` what the network saw before its last features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ..errors import InputError
from .extras.seam_pcm import SeamPCM
from .extras.self_attention import SelfAttention
from .pcm import PCM

REFINERS: dict[str, Callable[[int, Sequence[int]], nn.Module | None]] = {
    "pcm": lambda channels, low_level: PCM(channels),
    "pcm_shallow": SeamPCM,
    "self_attention": lambda channels, low_level: SelfAttention(channels),
    "none": lambda channels, low_level: None,
}


def build_refiner(name: str, channels: int, *, low_level: Sequence[int]) -> nn.Module | None:
    """Make a refiner by name.

    Args:
        name: a key of `REFINERS`.
        channels: of the last features.
        shallow: channels of the backbone's maps at strides 4 and 8.

    Returns:
        The refiner; None for "none".

    Raises:
        InputError: the name is unknown.
    """
    if name not in REFINERS:
        raise InputError(f"there is no refiner {name!r}; choose one of {', '.join(REFINERS)}")
    return REFINERS[name](channels, low_level)
