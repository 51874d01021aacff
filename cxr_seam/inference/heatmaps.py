"""Turn class activation maps (CAMs) into heat maps in [0, 1]. Evaluation, figures and prediction use this module."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .extras.mirror import subtract_mirror

PAPER_SIZE = 256
"""Edge in pixels of the heat maps that the paper draws boxes on."""


def cam_to_heatmap(
    cam: Tensor,
    size: int | tuple[int, int],
    *,
    baseline: str = "zero",
    negative_mean: Tensor | None = None,
    mirror_share: float = 0.0,
    prior: Tensor | None = None,
) -> Tensor:
    """Turn raw or refined class activation maps into heat maps in [0, 1].

    The order is: subtract the baseline, ReLU, subtract the mirrored evidence, multiply by the prior if there is one,
    bilinear upsampling (`align_corners=False`, so that the edges of the map stay on the edges of the image), division
    of each map by its own maximum. ReLU comes before the upsampling, so that negative values beside a lesion do not
    shrink it. Every map with a positive value has a maximum of exactly 1; a map without one is zero everywhere. Source:
    sections 5.1 and 5.3; the authors' order of operations.

    Args:
        cam: (B, C, h, w), any floating type, any sign. Half precision is computed in float32.
        size: edge of a square heat map in pixels, or (height, width).
        baseline: the value that counts as no evidence. "zero" (the paper); "min": each map's own minimum, so that every
            map that is not constant has a peak; "negative_mean": the mean CAM of images without the finding.
        negative_mean: (C, h', w') for "negative_mean"; resized to (h, w) if necessary.
        mirror_share: in [0, 1], see `extras.mirror`; 0 (the paper) leaves the evidence as it is.
        prior: (C, h', w') in [0, 1], where each finding usually is, see `calibration.Calibration`; resized to (h, w) if
            necessary. None (the paper): every place counts alike.

    Returns:
        (B, C, height, width) in [0, 1]; float64 for float64 input, else float32.

    Example:
        >>> cam_to_heatmap(torch.tensor([[[[-1.0, 2.0]]]]), (1, 2))
        tensor([[[[0., 1.]]]])
    """
    cam = cam if cam.dtype == torch.float64 else cam.float()
    if baseline == "min":
        cam = cam - cam.amin(dim=(-2, -1), keepdim=True)
    elif baseline == "negative_mean":
        cam = cam - _resize(negative_mean, cam)
    evidence = subtract_mirror(cam.relu(), mirror_share)
    if prior is not None:
        evidence = evidence * _resize(prior, cam)
    size = (size, size) if isinstance(size, int) else size
    maps = F.interpolate(evidence, size=size, mode="bilinear", align_corners=False)
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return maps / torch.where(peak > 0, peak, 1.0)


def _resize(maps: Tensor, cam: Tensor) -> Tensor:
    """Resize maps (C, h', w') to the height and width of `cam` (B, C, h, w)."""
    if maps.shape[-2:] == cam.shape[-2:]:
        return maps
    return F.interpolate(maps[None], size=cam.shape[-2:], mode="bilinear")[0]
