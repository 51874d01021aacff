"""Boxes of a heat map in its own pixels, which are easier to write down than fractions."""

from __future__ import annotations

import numpy as np

from cxr_seam.inference.boxes import Boxes, boxes_from_heatmap


def pixel_boxes(heatmap: np.ndarray, **options: float) -> Boxes:
    """Return `boxes_from_heatmap` with x, y, w, h in pixels of the heat map, which are whole numbers."""
    boxes = boxes_from_heatmap(heatmap, **options)
    height, width = heatmap.shape
    xywh = boxes.xywh * [width, height, width, height]
    np.testing.assert_allclose(xywh, xywh.round(), atol=1e-9)
    assert (boxes.xywh >= 0).all() and (boxes.xywh <= 1).all()
    return Boxes(xywh.round(), boxes.score)
