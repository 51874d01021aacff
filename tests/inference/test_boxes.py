"""Boxes of a heat map against hand calculations and a plain flood fill."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.pixel_boxes import pixel_boxes

from cxr_seam.errors import InputError
from cxr_seam.inference.boxes import boxes_from_heatmap


def test_boxes_are_fractions_of_the_image():
    heatmap = np.zeros((8, 16))
    heatmap[5, 3] = 1
    assert boxes_from_heatmap(heatmap).xywh.tolist() == [[3 / 16, 5 / 8, 1 / 16, 1 / 8]]


def test_box_of_one_rectangle():
    heatmap = np.zeros((8, 10))
    heatmap[2:5, 3:9] = 0.9
    boxes = pixel_boxes(heatmap)
    assert boxes.xywh.tolist() == [[3, 2, 6, 3]]
    assert boxes.score.tolist() == [0.9]


def test_threshold_is_inclusive_fraction_of_maximum():
    row = np.array([[0.0, 6.9, 7.0, 10.0, 7.5, 6.0]])
    assert pixel_boxes(row).xywh.tolist() == [[2, 0, 3, 1]]
    assert pixel_boxes(row, threshold=1).xywh.tolist() == [[3, 0, 1, 1]]
    assert pixel_boxes(row * 1e-3).xywh.tolist() == [[2, 0, 3, 1]]


def test_boxes_reach_the_border():
    heatmap = np.zeros((6, 6), dtype=np.float32)
    heatmap[0, 0] = heatmap[5, 4:] = 1
    assert pixel_boxes(heatmap).xywh.tolist() == [[4, 5, 2, 1], [0, 0, 1, 1]]
    assert pixel_boxes(np.ones((6, 5))).xywh.tolist() == [[0, 0, 5, 6]]


def test_boxes_are_sorted_by_score_area_y_x():
    heatmap = np.zeros((9, 9))
    heatmap[8, 8] = 1.0  # best
    heatmap[6, 0:2] = 0.8  # larger than the other 0.8
    heatmap[0, 4] = heatmap[0, 2] = heatmap[3, 0] = 0.8
    boxes = pixel_boxes(heatmap)
    assert boxes.xywh[:, :2].tolist() == [[8, 8], [0, 6], [2, 0], [4, 0], [0, 3]]
    assert boxes.score.tolist() == [1.0, 0.8, 0.8, 0.8, 0.8]


def test_diagonal_pixels_are_connected():
    assert pixel_boxes(np.eye(4)).xywh.tolist() == [[0, 0, 4, 4]]


def test_blob_in_hole_gives_no_box():
    heatmap = np.full((7, 7), 0.8)
    heatmap[1:6, 1:6] = 0
    heatmap[3, 3] = 1
    boxes = pixel_boxes(heatmap)
    assert boxes.xywh.tolist() == [[0, 0, 7, 7]]
    assert boxes.score.tolist() == [1]


def test_map_of_zeros_has_no_boxes():
    boxes = boxes_from_heatmap(np.zeros((5, 5)))
    assert boxes.xywh.shape == (0, 4)
    assert boxes.score.shape == (0,)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_negative_or_not_finite_heatmap_is_refused(value):
    with pytest.raises(InputError):
        boxes_from_heatmap(np.array([[0.5, value]]))


@pytest.mark.parametrize("seed", range(12))
def test_boxes_match_flood_fill(seed):
    generator = np.random.default_rng(seed)
    heatmap = generator.random((14, 17)) ** (1 if seed % 2 else 2)  # crowded (holes, nesting) or sparse
    boxes = pixel_boxes(heatmap, threshold=0.6)
    found = [(*box, score) for box, score in zip(boxes.xywh.tolist(), boxes.score.tolist(), strict=True)]
    assert sorted(found) == sorted(_boxes_by_flood_fill(heatmap, 0.6))


def _boxes_by_flood_fill(heatmap: np.ndarray, threshold: float) -> list[tuple[float, ...]]:
    mask = heatmap >= threshold * heatmap.max()
    height, width = mask.shape
    found, seen = [], set()
    for start in zip(*np.nonzero(mask), strict=True):
        if start in seen:
            continue
        blob = _flood({start}, lambda p: mask[p], height, width, corners=True)
        seen |= blob
        # Everything that cannot be reached from a frame around the picture without crossing the blob.
        inside = _filled(blob, height, width)
        rows, columns = [p[0] for p in blob], [p[1] for p in blob]
        box = (min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1)
        found.append((inside, box, max(heatmap[p] for p in inside)))
    return [
        (*map(float, box), float(peak))
        for inside, box, peak in found
        if not any(inside < other for other, _, _ in found)
    ]


def _filled(blob: set, height: int, width: int) -> set:
    padded = {(y + 1, x + 1) for y, x in blob}
    outside = _flood({(0, 0)}, lambda p: p not in padded, height + 2, width + 2, corners=False)
    return {(y, x) for y in range(height) for x in range(width) if (y + 1, x + 1) not in outside}


def _flood(seeds: set, open_at, height: int, width: int, *, corners: bool) -> set:
    reached, todo = set(seeds), list(seeds)
    while todo:
        y, x = todo.pop()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                p = (y + dy, x + dx)
                if (corners or 0 in (dy, dx)) and 0 <= p[0] < height and 0 <= p[1] < width:
                    if p not in reached and open_at(p):
                        reached.add(p)
                        todo.append(p)
    return reached
