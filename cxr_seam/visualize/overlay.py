"""Paint heat maps and boxes onto images: arrays in, arrays out, fast enough for a slider.

True boxes are green and dashed, predicted boxes are red and solid, as in Fig. 7.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..errors import InputError
from .style import COLOUR_MAPS, DASH, EDGE_COLOUR, GAP, OPACITY, PREDICTED_COLOUR


def overlay_heatmap(
    image: np.ndarray, heatmap: np.ndarray, *, opacity: float = OPACITY, colour_map: str = "inferno"
) -> np.ndarray:
    """Blend a heat map into an image.

    The weight of the colour in a pixel is `opacity` times the heat map, so that the image is unchanged where the heat
    map is zero.

    Args:
        image: (H, W) uint8 grey.
        heatmap: (H, W) float in [0, 1].
        opacity: 0 (image only) to 1 (image hidden at the maximum of the heat map).
        colour_map: one of `COLOUR_MAPS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the shapes differ, the heat map is not in [0, 1], or the opacity or colour map is unknown.
    """
    if image.ndim != 2 or image.shape != heatmap.shape:
        raise InputError(f"image and heat map must both be (H, W), not {image.shape} and {heatmap.shape}")
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity {opacity} is not between 0 and 1")
    if not (heatmap.min() >= 0 and heatmap.max() <= 1):
        raise InputError("a heat map must be in [0, 1]; make it with cxr_seam.inference.heatmaps")
    weight = (opacity * heatmap.astype(np.float32))[..., None]
    grey = image[..., None].astype(np.float32)
    return np.rint(grey + weight * (apply_colour_map(heatmap, colour_map) - grey)).astype(np.uint8)


def apply_colour_map(values: np.ndarray, colour_map: str) -> np.ndarray:
    """Map values (H, W) in [0, 1] to colours (H, W, 3) uint8 RGB.

    Raises:
        InputError: the colour map is none of `COLOUR_MAPS`.
    """
    if colour_map not in COLOUR_MAPS:
        raise InputError(f"unknown colour map {colour_map!r}; choose one of {', '.join(COLOUR_MAPS)}")
    levels = np.rint(values * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, getattr(cv2, f"COLORMAP_{colour_map.upper()}"))[..., ::-1]


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    *,
    colour: tuple[int, int, int] = PREDICTED_COLOUR,
    dashed: bool = False,
    thickness: int = 2,
) -> np.ndarray:
    """Draw boxes on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (K, 4) x, y, w, h as fractions of the image.
        colour: RGB of the lines.
        dashed: draw dashes instead of a closed line.
        thickness: of the line in pixels. A dark edge of one pixel on either side is added.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    for x, y, w, h in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        left, right = _ends(x, w, width)
        top, bottom = _ends(y, h, height)
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        lines = list(zip(corners, corners[1:] + corners[:1], strict=True))
        if dashed:
            lines = [dash for start, end in lines for dash in dashes(start, end)]
        for line_colour, line_width in ((EDGE_COLOUR, thickness + 2), (colour, thickness)):
            for start, end in lines:
                cv2.line(image, start, end, line_colour, line_width, cv2.LINE_8)
    return image


def _ends(start: float, extent: float, size: int) -> tuple[int, int]:
    """Return the first and last pixel of one side of a box, at least one pixel inside an image of `size` pixels."""
    first = round(start * size)
    last = round((start + extent) * size) - 1  # boxes are half-open
    return min(max(first, 1), size - 2), min(max(last, 1), size - 2)


def dashes(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut a horizontal or vertical line into dashes: (start, end) of each, as (x, y) in pixels."""
    (x0, y0), (x1, y1) = start, end
    length = abs(x1 - x0) + abs(y1 - y0)
    dx, dy = int(np.sign(x1 - x0)), int(np.sign(y1 - y0))
    ends = [(first, min(first + DASH, length)) for first in range(0, max(length, 1), DASH + GAP)]
    return [((x0 + dx * a, y0 + dy * a), (x0 + dx * b, y0 + dy * b)) for a, b in ends]
