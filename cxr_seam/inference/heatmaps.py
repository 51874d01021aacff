"""Turn class activation maps (CAMs) into heat maps in [0, 1]. Evaluation, figures and prediction use this module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..findings import FINDINGS, canonical_finding
from ..recipes import CAM_THRESHOLD

PAPER_SIZE = 256
"""Edge in pixels of the heat maps that the paper draws boxes on."""


def cam_to_heatmap(
    cam: Tensor, size: int | tuple[int, int], *, baseline: str = "zero", negative_mean: Tensor | None = None
) -> Tensor:
    """Turn raw or refined class activation maps into heat maps in [0, 1].

    The order is: subtract the baseline, ReLU, bilinear upsampling (`align_corners=False`, so that the edges of the map
    stay on the edges of the image), division of each map by its own maximum. ReLU comes before the upsampling, so that
    negative values beside a lesion do not shrink it. Every map with a positive value has a maximum of exactly 1; a map
    without one is zero everywhere. Source: sections 5.1 and 5.3; the authors' order of operations.

    Args:
        cam: (B, C, h, w), any floating type, any sign. Half precision is computed in float32.
        size: edge of a square heat map in pixels, or (height, width).
        baseline: the value that counts as no evidence. "zero" (the paper); "min": each map's own minimum, so that every
            map that is not constant has a peak; "negative_mean": the mean CAM of images without the finding.
        negative_mean: (C, h', w') for "negative_mean"; resized to (h, w) if necessary.

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
        if negative_mean.shape[-2:] != cam.shape[-2:]:
            negative_mean = F.interpolate(negative_mean[None], size=cam.shape[-2:], mode="bilinear")[0]
        cam = cam - negative_mean
    size = (size, size) if isinstance(size, int) else size
    maps = F.interpolate(cam.relu(), size=size, mode="bilinear", align_corners=False)
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return maps / torch.where(peak > 0, peak, 1.0)


class HeatmapOptions(NamedTuple):
    """How one model turns CAMs into heat maps and boxes: `threshold` is Q of `boxes_from_heatmap`."""

    baseline: str = "zero"
    negative_mean: Tensor | None = None  # (K, h, w)
    threshold: float = CAM_THRESHOLD
    findings: tuple[str, ...] = FINDINGS  # the K findings of the maps

    def heatmaps(
        self, cam: Tensor, size: int | tuple[int, int], *, findings: slice | Sequence[int] = slice(None)
    ) -> Tensor:
        """Turn CAMs (B, K, h, w) into heat maps (B, C, height, width) of the findings with the given indices."""
        mean = None if self.negative_mean is None else self.negative_mean[findings]
        return cam_to_heatmap(cam[:, findings], size, baseline=self.baseline, negative_mean=mean)

    def heatmap(self, cam: np.ndarray, finding: str, size: int | tuple[int, int]) -> np.ndarray:
        """Turn the CAM of one finding of one image (K, h, w) into its heat map (height, width)."""
        index = self.findings.index(canonical_finding(finding, self.findings))
        return self.heatmaps(torch.from_numpy(cam)[None], size, findings=[index])[0, 0].numpy()
