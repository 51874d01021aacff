"""The one way a class activation map becomes a heat map; evaluation, plots and prediction all call it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..recipes import CAM_BASELINES

PAPER_SIZE = 256
"""Edge in pixels of the heat maps that the paper draws boxes on."""


def subtract_baseline(cam: Tensor, normalisation: str, *, negative_mean: Tensor | None = None) -> Tensor:
    """Measure maps from their floor, which `heat_maps` then takes for zero.

    Args:
        cam: (B, C, h, w), any sign.
        normalisation: "zero", the floor is zero: evidence against a finding does not count; "min", it is each
            map's own minimum, so that every map that is not constant has a peak, also one that is negative everywhere;
            "negative_mean", it is what the map is at that place on films without the finding (`usual`).
        usual: (C, h', w') for "negative_mean", resized where its size is another.

    Returns:
        (B, C, h, w); for "zero" the very maps.

    Raises:
        InputError: there is no such normalisation, or no usual map.
    """
    if normalisation not in CAM_BASELINES:
        raise InputError(f"there is no baseline {normalisation!r} of maps; choose one of {', '.join(CAM_BASELINES)}")
    if normalisation == "min":
        return cam - cam.amin(dim=(-2, -1), keepdim=True)
    if normalisation == "zero":
        return cam
    if negative_mean is None:
        raise InputError("maps are to be measured from usual ones, but the model has none; see usual.calibrate")
    if negative_mean.shape[-2:] != cam.shape[-2:]:
        negative_mean = F.interpolate(negative_mean[None], size=cam.shape[-2:], mode="bilinear", align_corners=False)[0]
    return cam - negative_mean


def heat_maps(cam: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Turn raw or refined class activation maps into heat maps in [0, 1].

    In this order: ReLU, bilinear upsampling (`align_corners=False`, so that the edges of the map stay on the
    edges of the image), division of each map by its own maximum. ReLU comes first so that negative evidence
    beside a lesion does not eat into it; the division comes last so that every map that is not zero
    everywhere peaks at exactly 1. A map without a positive value stays zero.

    Source: sections 5.1 and 5.3; the authors' order of operations.

    Args:
        cam: (B, C, h, w), any floating type, any sign. Half precision is computed in float32.
        size: edge of a square heat map in pixels, or (height, width).

    Returns:
        (B, C, height, width) in [0, 1]; float64 for float64 input, else float32.

    Raises:
        InputError: `cam` has not four dimensions, or the size is not positive.

    Example:
        >>> heat_maps(torch.tensor([[[[-1.0, 2.0]]]]), (1, 2))
        tensor([[[[0., 1.]]]])
    """
    if cam.ndim != 4:
        raise InputError(f"activation maps must have the shape (B, C, h, w), not {tuple(cam.shape)}")
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise InputError(f"a heat map of {height} x {width} pixels is empty; give a positive size")
    if cam.dtype != torch.float64:
        cam = cam.float()
    maps = F.interpolate(cam.relu(), size=(height, width), mode="bilinear", align_corners=False)
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return maps / torch.where(peak > 0, peak, 1.0)
