"""Paint heat maps and boxes onto images: arrays in, arrays out, fast enough for a slider.

True boxes are green and dashed, predicted boxes are red and solid, as in Fig. 7.
"""

from __future__ import annotations

import cv2
import numpy as np

from .style import OPACITY, PREDICTED_COLOUR, TRUE_COLOUR

NO_BOXES = np.empty((0, 4))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height): area averaging to shrink, bilinear to enlarge."""
    interpolation = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=interpolation)


def scale_to_width(shape: tuple[int, ...], width: int) -> tuple[int, int]:
    """Return the size (width, height) in pixels with the proportions of an image (H, W)."""
    return width, max(1, round(width * shape[0] / shape[1]))


def overlay_heatmap(
    image: np.ndarray, heatmap: np.ndarray, *, opacity: float = OPACITY, colour_map: str = "inferno"
) -> np.ndarray:
    """Blend a heat map into an image.

    The weight of the colour in a pixel is `opacity` times the heat map, so that the image is unchanged where the heat
    map is zero.

    Args:
        image: (H, W) uint8 grey.
        heatmap: (h, w) float in [0, 1], stretched over the image.
        opacity: 0 (image only) to 1 (image hidden at the maximum of the heat map).
        colour_map: one of `style.COLOUR_MAPS`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    heatmap = np.clip(resize(heatmap.astype(np.float32), image.shape[::-1]), 0, 1)
    grey = image[..., None].astype(np.float32)
    colours = apply_colour_map(heatmap, colour_map)
    return np.rint(grey + opacity * heatmap[..., None] * (colours - grey)).astype(np.uint8)


def apply_colour_map(values: np.ndarray, colour_map: str) -> np.ndarray:
    """Map values (H, W) in [0, 1] to colours (H, W, 3) uint8 RGB."""
    levels = np.rint(values * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, getattr(cv2, f"COLORMAP_{colour_map.upper()}"))[..., ::-1]


def draw_boxes(image: np.ndarray, predicted: np.ndarray = NO_BOXES, true: np.ndarray = NO_BOXES) -> np.ndarray:
    """Draw boxes on a copy of an image: lines with a dark edge, two pixels wide for each 320 pixels of width.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        predicted: (K, 4) x, y, w, h as fractions of the image.
        true: (M, 4), drawn last.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = np.ascontiguousarray(image) if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    size, scale = np.array(image.shape[1::-1]), max(1, round(image.shape[1] / 320))
    for boxes, colour, dashed in ((predicted, PREDICTED_COLOUR, False), (true, TRUE_COLOUR, True)):
        drawn = image.copy()
        for x, y, w, h in boxes:
            first, last = np.rint([(x, y), (x + w, y + h)] * size).astype(int) - [[0], [1]]  # boxes are half-open
            corners = [corner.tolist() for corner in np.clip([first, last], 1, size - 2)]
            for line_colour, thickness in (((0, 0, 0), 4 * scale), (colour, 2 * scale)):
                cv2.rectangle(drawn, *corners, line_colour, thickness)
        if dashed and len(boxes):  # remove the gaps: five of twelve pixels along each line
            diagonal = np.uint8(np.arange(sum(image.shape[:2])) // scale % 12 >= 7)
            gaps = np.lib.stride_tricks.sliding_window_view(diagonal, image.shape[1])[: image.shape[0]]
            drawn = cv2.copyTo(image, np.ascontiguousarray(gaps), drawn)
        image = drawn
    return image
