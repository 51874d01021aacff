"""Turn heat maps into boxes.

Boxes are arrays of x, y, w, h: left edge, upper edge, width, height, as fractions of the image's width and height in
[0, 1]. A box covers the half-open ranges [x, x + w) and [y, y + h): the pixel in row 5, column 3 of a heat map of 8 x 8
is the box 3/8, 5/8, 1/8, 1/8.

Source: D'Souza et al. 2022, section 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import XYWH
from ..recipes import CAM_THRESHOLD, BoxRule
from .extras.moments import local_moment_box, moment_box

MOMENT_RULES = {"moments": moment_box, "local_moments": local_moment_box}


class Boxes(NamedTuple):
    """Boxes of one heat map, best first.

    `score` is the maximum of the heat map inside the contour of each box.
    """

    xywh: np.ndarray  # (K, 4) float64 in [0, 1]
    score: np.ndarray  # (K,) float64


def boxes_from_heatmap(heatmap: np.ndarray, *, threshold: float = CAM_THRESHOLD, rule: BoxRule = "contour") -> Boxes:
    """Turn one heat map into boxes: threshold, external contours, bounding rectangle of each.

    Pixels with `heatmap >= threshold * heatmap.max()` are kept. Pixels that touch at a corner belong to one contour. A
    blob in the hole of another blob gets no box of its own, but its peak counts for the contour around it. Boxes are
    sorted by score (highest first), then area (largest first), then y, then x. A map of zeros has no boxes.

    Args:
        heatmap: (H, W), finite and not negative, any scale.
        threshold: Q, above 0 and at most 1; only the rule "contour" uses it.
        rule: "contour" (the paper); or "moments" or "local_moments", one box, see `extras.moments`.

    Raises:
        InputError: the map holds a negative or non-finite value.

    Example:
        >>> boxes_from_heatmap(np.array([[0, 0, 0, 0], [0, 1, 0.8, 0]])).xywh
        array([[0.25, 0.5 , 0.5 , 0.5 ]])
    """
    import cv2

    peak = heatmap.max()
    if not (heatmap.min() >= 0 and peak < np.inf):  # NaN fails both comparisons
        raise InputError("a heat map holds a negative or non-finite value; make it with cam_to_heatmap")
    if peak == 0:
        return Boxes(np.zeros((0, 4)), np.zeros(0))
    if rule in MOMENT_RULES:
        return Boxes(MOMENT_RULES[rule](heatmap)[None], np.array([peak], dtype=np.float64))
    mask = heatmap >= threshold * peak
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    xywh = np.array([cv2.boundingRect(contour) for contour in contours], dtype=np.float64)
    score = np.array([peak], dtype=np.float64) if len(contours) == 1 else _contour_peaks(heatmap, mask, contours)
    x, y, w, h = xywh.T
    order = np.lexsort((x, y, -w * h, -score))
    height, width = heatmap.shape
    return Boxes(xywh[order] / [width, height, width, height], score[order])


def _contour_peaks(heatmap: np.ndarray, mask: np.ndarray, contours: Sequence[np.ndarray]) -> np.ndarray:
    """Return the maximum of the heat map inside each contour, including holes and blobs in them."""
    import cv2

    n_labels, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    if n_labels - 1 == len(contours):  # no blob lies in the hole of another: each component is one contour
        x, y = np.array([contour[0, 0] for contour in contours]).T
        label_of_contour = labels[y, x]
    else:
        for number in range(len(contours)):
            cv2.drawContours(labels, contours, number, number, cv2.FILLED)
        label_of_contour = np.arange(len(contours))
    # The peak is a pixel of the mask. Native indices and one dtype keep `maximum.at` fast.
    peaks = np.zeros(n_labels, dtype=heatmap.dtype)
    np.maximum.at(peaks, labels[mask].astype(np.intp), heatmap[mask])
    return peaks[label_of_contour].astype(np.float64)


def predicted_boxes(
    heatmaps: np.ndarray,
    image_index: str,
    findings: Sequence[str],
    *,
    threshold: float = CAM_THRESHOLD,
    rule: BoxRule = "contour",
) -> pd.DataFrame:
    """Make the table of boxes of one image from its heat maps.

    Args:
        heatmaps: (C, H, W), one image of `cam_to_heatmap`.
        image_index: name of the image.
        findings: C names, one for each map.
        threshold, rule: see `boxes_from_heatmap`.

    Returns:
        `PREDICTED_COLUMNS`; findings in the order given, the best box of each first.
    """
    boxes = [boxes_from_heatmap(heatmap, threshold=threshold, rule=rule) for heatmap in heatmaps]
    table = pd.DataFrame(np.concatenate([b.xywh for b in boxes]), columns=XYWH)
    table.insert(0, "image_index", np.full(len(table), image_index, dtype=object))
    table.insert(1, "finding", np.repeat(np.asarray(findings, dtype=object), [len(b.score) for b in boxes]))
    table["score"] = np.concatenate([b.score for b in boxes])
    return table
