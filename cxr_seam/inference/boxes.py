"""From one heat map to boxes, and how much two boxes overlap.

Boxes are arrays of x, y, w, h: left edge, upper edge, width, height. A box covers the half-open ranges
[x, x + w) and [y, y + h). Coordinates are fractions of the image's width and height, in [0, 1]: the pixel in row 5,
column 3 of a heat map of 8 x 8 is the box 3/8, 5/8, 1/8, 1/8.

Source: D'Souza et al. 2022, section 5.3 (boxes); Wang et al. 2017 (IoBB).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import XYWH
from ..metrics.boxes import check_heatmaps

PAPER_THRESHOLD = 0.7
"""Q of section 5.3: a pixel belongs to a box from this part of the heat map's maximum on."""


class Boxes(NamedTuple):
    """Boxes of one heat map, best first.

    `xywh` is (K, 4) float64, fractions of the heat map's width and height; `score` (K,) float64 is the heat map's peak inside each box's
    contour, so for a heat map in [0, 1] a score is in (0, 1].
    """

    xywh: np.ndarray
    score: np.ndarray


def boxes_from_heatmap(heatmap: np.ndarray, *, threshold: float = PAPER_THRESHOLD) -> Boxes:
    """Turn one heat map into boxes: threshold, external contours, bounding rectangle of each, all kept.

    A pixel is kept where `heatmap >= threshold * heatmap.max()`. Pixels touching at a corner belong to one
    contour; a blob lying in the hole of another one has no external contour and gives no box of its own, but
    its peak counts for the contour around it. Order: higher score, then larger area, then higher up, then
    further left. A map that is zero everywhere gives no boxes.

    Source: section 5.3 with Q = 0.7.

    Args:
        heatmap: (H, W), finite and not negative, any scale.
        threshold: Q, above 0 and at most 1.

    Raises:
        InputError: the map is not two-dimensional, empty, negative or not finite, or the threshold is outside
            its range.

    Example:
        >>> boxes_from_heatmap(np.array([[0, 0, 0], [0, 1, 0.8], [0, 0, 0]])).xywh
        array([[0.33333333, 0.33333333, 0.66666667, 0.33333333]])
    """
    import cv2

    heatmap = np.asarray(heatmap)
    if heatmap.ndim != 2 or heatmap.size == 0:
        raise InputError(f"a heat map must have the shape (H, W), not {heatmap.shape}")
    if not 0 < threshold <= 1:
        raise InputError(f"threshold {threshold} is outside its range; choose one above 0 and at most 1")
    peak = heatmap.max()
    # A NaN fails both comparisons, so this refuses it as well.
    if not (heatmap.min() >= 0 and peak < np.inf):
        raise InputError("a heat map must be finite and not negative; make it with cxr_seam.heatmaps.heat_maps")
    if peak == 0:
        return Boxes(np.zeros((0, 4)), np.zeros(0))

    mask = heatmap >= threshold * peak
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    xywh = np.array([cv2.boundingRect(contour) for contour in contours], dtype=np.float64)
    if len(contours) == 1:
        score = np.array([peak], dtype=np.float64)
    else:
        score = _peaks(heatmap, mask, contours)
    x, y, w, h = xywh.T
    order = np.lexsort((x, y, -w * h, -score))
    height, width = heatmap.shape
    return Boxes(xywh[order] / [width, height, width, height], score[order])


def _peaks(heatmap: np.ndarray, mask: np.ndarray, contours: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the heat map's maximum inside each contour, holes and what lies in them included."""
    import cv2

    blobs, owner = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    if blobs - 1 == len(contours):  # no blob lies in another's hole: one look tells whose a pixel is
        x, y = np.array([contour[0, 0] for contour in contours]).T
        order = owner[y, x]
    else:
        for number in range(len(contours)):
            cv2.drawContours(owner, contours, number, number, cv2.FILLED)
        order = np.arange(len(contours))
    # Pixels below the threshold cannot be a peak, so those of the mask are enough. One dtype and native
    # indices keep `maximum.at` on its fast path.
    score = np.zeros(blobs, dtype=heatmap.dtype)
    np.maximum.at(score, owner[mask].astype(np.intp), heatmap[mask])
    return score[order].astype(np.float64)


def predicted_boxes(
    heatmaps: np.ndarray, image_index: str, findings: Sequence[str], *, threshold: float = PAPER_THRESHOLD
) -> pd.DataFrame:
    """Make the table of boxes of one image from its heat maps.

    Args:
        heatmaps: (C, H, W), finite and not negative, such as one image of `heat_maps`.
        image_index: name of the image.
        findings: C names, one for each map.
        threshold: Q of `boxes_from_heatmap`.

    Returns:
        `PREDICTED_COLUMNS`; findings in the order given, the best box of each first.

    Raises:
        InputError: there are not as many maps as findings, or a map is refused by `boxes_from_heatmap`.
    """
    heatmaps = check_heatmaps(heatmaps, findings, image_index)
    found = [boxes_from_heatmap(heatmap, threshold=threshold) for heatmap in heatmaps]
    xywh = np.concatenate([boxes.xywh for boxes in found]) if found else np.zeros((0, 4))
    table = pd.DataFrame(xywh, columns=XYWH)
    table.insert(0, "image_index", image_index)
    table.insert(1, "finding", np.repeat(np.asarray(findings, dtype=object), [len(b.score) for b in found]))
    table["score"] = np.concatenate([boxes.score for boxes in found]) if found else np.zeros(0)
    return table.astype({"image_index": object, "finding": object})
