"""Options of one model that turn its CAMs into heat maps and boxes, as its recipe and its calibration say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..findings import FINDINGS, canonical_finding
from ..recipes import CAM_THRESHOLD, BoxRule
from .boxes import predicted_boxes
from .heatmaps import cam_to_heatmap


class HeatmapOptions(NamedTuple):
    """How one model turns CAMs into heat maps and boxes.

    `baseline`, `negative_mean`, `prior` and `mirror_share` as in `cam_to_heatmap`, `threshold` (Q) and `box_rule` as in
    `boxes.predicted_boxes`.
    """

    baseline: str = "zero"
    negative_mean: Tensor | None = None  # (K, h, w)
    prior: Tensor | None = None  # (K, h, w)
    threshold: float = CAM_THRESHOLD
    box_rule: BoxRule = "contour"
    findings: tuple[str, ...] = FINDINGS  # the K findings of the maps
    mirror_share: float = 0.0

    def select(self, findings: Sequence[int]) -> HeatmapOptions:
        """Return the options of the findings with the given indices, in this order."""
        chosen = list(findings)
        mean, prior = (None if maps is None else maps[chosen] for maps in (self.negative_mean, self.prior))
        names = tuple(self.findings[index] for index in chosen)
        return self._replace(negative_mean=mean, prior=prior, findings=names)

    def heatmaps(self, cam: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Turn CAMs (B, K, h, w) into heat maps (B, K, height, width)."""
        return cam_to_heatmap(
            cam,
            size,
            baseline=self.baseline,
            negative_mean=self.negative_mean,
            mirror_share=self.mirror_share,
            prior=self.prior,
        )

    def boxes(self, heatmaps: np.ndarray, image_index: str, *, findings: Sequence[str]) -> pd.DataFrame:
        """Make the table of boxes of one image from its heat maps, see `predicted_boxes`."""
        return predicted_boxes(heatmaps, image_index, findings, threshold=self.threshold, rule=self.box_rule)

    def heatmap(self, cam: np.ndarray, finding: str, size: int | tuple[int, int]) -> np.ndarray:
        """Turn the CAM of one finding of one image (K, h, w) into its heat map (height, width)."""
        index = self.findings.index(canonical_finding(finding, self.findings))
        return self.select([index]).heatmaps(torch.from_numpy(cam)[None, [index]], size)[0, 0].numpy()
