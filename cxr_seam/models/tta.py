"""Test-time augmentation: average a model's outputs over scaled and flipped versions of a batch.

It costs a forward pass per version and needs no training. Source: common practice for class activation maps, as in
Wang et al. 2020 (SEAM).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .multires import ModelOutput

MULTIPLE = 32
"""Sides are multiples of the coarsest stride, so that every map covers the image evenly."""


def tta_forward(
    model: nn.Module, images: Tensor, *, scales: Sequence[float] = (1.0,), flip: bool = False, maps: bool = True
) -> ModelOutput:
    """Run a model on a batch at each scale, with `flip` also mirrored, and average logits and maps.

    Args:
        model: a `LocalizationModel`.
        images: (B, 3, H, W) normalised.
        scales: factors of H and W, at least one. At 1 the images are used as they are; at other scales they are resized
            bilinearly with antialiasing to the nearest multiples of 32 pixels (halves are rounded up), at least 32.
        flip: whether each scale is also run mirrored left to right.
        maps: see `LocalizationModel.forward`.

    Returns:
        Logits (B, K) and maps in the size that they have at the first scale. With the one scale 1 and no flip it is
        the unchanged output of the model.
    """
    views = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    if views == [(1.0, False)]:
        return model(images, maps=maps)
    outputs = []
    for scale, mirrored in views:
        view = rescale(images, scale)
        logits, *cams = model(view.flip(-1) if mirrored else view, maps=maps)
        outputs.append(ModelOutput(logits, *(c.flip(-1) if mirrored and c is not None else c for c in cams)))
    return ModelOutput(*(None if field[0] is None else mean_of(field) for field in zip(*outputs, strict=True)))


def rescale(images: Tensor, scale: float) -> Tensor:
    """Resize (B, 3, H, W) images as `tta_forward` describes."""
    if scale == 1:
        return images
    size = [max(MULTIPLE, math.floor(scale * side / MULTIPLE + 0.5) * MULTIPLE) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def mean_of(tensors: Sequence[Tensor]) -> Tensor:
    """Average logits, or maps resized to the size of the first; float32."""
    first = tensors[0].float()
    same_size = (
        tensor.float()
        if tensor.shape == first.shape
        else F.interpolate(tensor.float(), size=first.shape[-2:], mode="bilinear", align_corners=False)
        for tensor in tensors
    )
    return torch.stack(list(same_size)).mean(dim=0)
