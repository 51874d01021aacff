"""From one heat map to boxes, and how much two boxes overlap.

Boxes are arrays of x, y, w, h: left edge, upper edge, width, height. A box covers the half-open ranges
[x, x + w) and [y, y + h), so a single pixel in row 5, column 3 is the box 3, 5, 1, 1, and multiplying a box
by (original size / heat-map size) moves it to the original without an offset.

Source: D'Souza et al. 2022, section 5.3 (boxes); Wang et al. 2017 (IoBB).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from .errors import InputError

Measure = Literal["iobb", "iou"]
PAPER_THRESHOLD = 0.7
"""Q of section 5.3: a pixel belongs to a box from this part of the heat map's maximum on."""


class Boxes(NamedTuple):
    """Boxes of one heat map, best first.

    `xywh` is (K, 4) float64 in heat-map pixels; `score` (K,) float64 is the heat map's peak inside each box's
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
        array([[1., 1., 2., 1.]])
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
    return Boxes(xywh[order], score[order])


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


def overlap(predicted: np.ndarray, true: np.ndarray, *, measure: Measure) -> np.ndarray:
    """Measure the overlap of boxes whose leading axes broadcast, as NumPy broadcasts them.

    `iou`: intersection / union. `iobb`: intersection / area of the PREDICTED box (Wang et al. 2017). Where
    the divisor is zero the overlap is 0.

    Args:
        predicted: (..., 4) x, y, w, h.
        true: (..., 4) x, y, w, h in the same pixels.
        measure: "iou" or "iobb".

    Returns:
        float64 in [0, 1] of the broadcast leading shape.

    Raises:
        InputError: the measure is unknown or the last axis does not hold four numbers.
    """
    if measure not in ("iobb", "iou"):
        raise InputError(f"unknown measure {measure!r}; choose 'iobb' or 'iou'")
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.shape[-1:] != (4,) or true.shape[-1:] != (4,):
        raise InputError(f"boxes must be x, y, w, h along the last axis, not {predicted.shape} and {true.shape}")
    upper_left = np.maximum(predicted[..., :2], true[..., :2])
    lower_right = np.minimum(
        predicted[..., :2] + predicted[..., 2:],
        true[..., :2] + true[..., 2:],
    )
    intersection = np.clip(lower_right - upper_left, 0, None).prod(axis=-1)
    divisor = predicted[..., 2:].prod(axis=-1)
    if measure == "iou":
        divisor = divisor + true[..., 2:].prod(axis=-1) - intersection
    return np.divide(intersection, divisor, out=np.zeros_like(intersection), where=divisor > 0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union of every box of `a` (M, 4) with every box of `b` (K, 4), as (M, K)."""
    return overlap(np.asarray(a)[:, None], np.asarray(b)[None], measure="iou")


def iobb(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return intersection over the area of the predicted box, for (M, 4) and (K, 4) boxes, as (M, K).

    Source: Wang et al. 2017. A small predicted box wholly inside a true one has an IoBB of 1; a predicted box
    that covers the whole image does not score high, unlike with intersection over the true box.
    """
    return overlap(np.asarray(predicted)[:, None], np.asarray(true)[None], measure="iobb")
