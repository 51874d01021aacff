"""Score heat maps against outlines of findings pixel by pixel: IoU, Dice and hit rate.

Source: Saporta et al. 2022 (CheXlocalize). The heat map is binarised at the model's threshold; all outlines of a
finding on an image are one mask. Scores are means over the images with a mask. The hit rate is the pointing game in the
mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .bootstrap import PatientBootstrap
from .pointing_game import mean_by_finding

PIXEL_METRICS = ("iou", "dice", "hit_rate")
PIXEL_COLUMNS = ["image_index", "finding", *PIXEL_METRICS]


def rasterize(polygons: Iterable[Sequence[tuple[float, float]]], size: tuple[int, int]) -> np.ndarray:
    """Rasterize the union of polygons: (H, W) bool, true where the centre of a pixel lies inside one of them.

    Args:
        polygons: corners (x, y) of each polygon as fractions of width and height; where a polygon crosses itself, the
            even-odd rule decides.
        size: (H, W).
    """
    height, width = size
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    union = np.zeros(size, dtype=bool)
    for polygon in polygons:
        mask = np.zeros(size, dtype=bool)
        corners = np.asarray(polygon, dtype=np.float64)
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            rows = np.flatnonzero((y1 <= y) != (y2 <= y))  # the rows that this edge crosses
            crossing = x1 + (y[rows] - y1) * (x2 - x1) / (y2 - y1) if len(rows) else y[rows]
            mask[rows] ^= x < crossing[:, None]
        union |= mask
    return union


def pixel_rows(
    heatmaps: np.ndarray, image_index: str, findings: Sequence[str], *, masks: pd.DataFrame, threshold: float
) -> pd.DataFrame:
    """Score the heat maps of one image, once for each finding that has an outline there.

    Args:
        heatmaps: (C, H, W), one image of `cam_to_heatmap`.
        image_index: name of the image.
        findings: C names, one for each map.
        masks: columns `image_index`, `finding`, `polygon`; other images and findings are left out.
        threshold: pixels with heatmap >= threshold * heatmap.max() count as predicted; none of a map of zeros.

    Returns:
        `PIXEL_COLUMNS`, each score in [0, 1]. If several pixels have the maximum, `hit_rate` is the fraction of them
        that lies in the mask.
    """
    masks = masks[masks["image_index"] == image_index]
    rows = []
    for finding, heatmap in zip(findings, heatmaps, strict=True):
        polygons = masks.loc[masks["finding"] == finding, "polygon"]
        if len(polygons):
            true = rasterize(polygons, heatmap.shape)
            predicted = (heatmap >= threshold * heatmap.max()) & (heatmap > 0)
            both, either = (predicted & true).sum(), (predicted | true).sum()
            overlap = both / max(either, 1), 2 * both / max(both + either, 1)
            hit = true[heatmap == heatmap.max()].mean() if heatmap.max() > 0 else 0.0
            rows.append((image_index, finding, *overlap, float(hit)))
    return pd.DataFrame(rows, columns=PIXEL_COLUMNS)


def pixel_scores(
    rows: pd.DataFrame, *, images: Sequence[str], findings: Sequence[str], bootstrap: PatientBootstrap
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Average the scores of images over the images with a mask, then over the findings.

    Args:
        rows: of all images, from `pixel_rows`.
        images: the images of the bootstrap, in the same order.
        findings: those that have a mask.
        bootstrap: of the patients of the images.

    Returns:
        {metric: {"findings": {finding: estimate}, "macro": estimate}}, and the replicates (n_bootstrap,) of each macro.
    """
    scores, samples = {}, {}
    for metric in PIXEL_METRICS:
        scores[metric], samples[metric] = mean_by_finding(
            rows, metric, images=images, findings=findings, bootstrap=bootstrap
        )
    return scores, samples
