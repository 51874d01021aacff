"""What a model says of a film looked at several times: larger, smaller, mirrored.

Logits are averaged, and so are maps, each turned back and brought to one size. A look costs a forward pass and needs no
training. Source: the inference that is usual with class activation maps, as in Wang et al. 2020 (SEAM).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .multires import ModelOutput

STEP = 32
"""Sides of the films looked at are multiples of the coarsest stride, so that all maps cover the film evenly."""


def tta_forward(
    model: nn.Module, images: Tensor, *, scales: Sequence[float] = (1.0,), flip: bool = False, maps: bool = True
) -> ModelOutput:
    """Run a model on a batch at each scale, with `flip` mirrored too, and average what it says.

    Args:
        model: as `LocalizationModel`.
        images: (B, 3, H, W) normalised.
        scales: of H and W, one at least. At 1 the images are taken as they are; elsewhere they are resized bilinearly,
            without aliasing, to the nearest multiples of 32 pixels (of two as near, the larger), 32 at least.
        flip: whether each scale is looked at mirrored left to right as well.
        maps: see `LocalizationModel.forward`.

    Returns:
        As the model's: logits (B, 14), maps of the size that they have at the first scale. For the one scale 1 without
        flip it is the model's very answer.
    """
    looks = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    if looks == [(1.0, False)]:
        return model(images, maps=maps)
    outputs = []
    for scale, mirrored in looks:
        seen = rescale(images, scale)
        logits, *drawn = model(seen.flip(-1) if mirrored else seen, maps=maps)
        outputs.append(ModelOutput(logits, *(m.flip(-1) if mirrored and m is not None else m for m in drawn)))
    return ModelOutput(*(None if part[0] is None else mean(part) for part in zip(*outputs, strict=True)))


def rescale(images: Tensor, scale: float) -> Tensor:
    """Resize (B, 3, H, W) images, see `tta_forward`."""
    if scale == 1:
        return images
    size = [max(STEP, math.floor(scale * side / STEP + 0.5) * STEP) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def mean(parts: Sequence[Tensor]) -> Tensor:
    """The mean of logits, or of maps resized to the first ones' size; float32."""
    first = parts[0].float()
    same = (
        part.float()
        if part.shape == first.shape
        else F.interpolate(part.float(), size=first.shape[-2:], mode="bilinear", align_corners=False)
        for part in parts
    )
    return torch.stack(list(same)).mean(dim=0)
