"""Heat maps and boxes painted onto films: pixels in, pixels out, fast enough for a slider.

True boxes are green and dashed, predicted ones red and solid (Fig. 7), in shades that people with any colour
vision tell apart; the dashes tell them apart in print. A dark edge keeps both legible on any ground.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError

TRUE_COLOUR = (0, 214, 143)
"""RGB of true boxes: bluish green."""


PREDICTED_COLOUR = (255, 86, 48)
"""RGB of predicted boxes: vermilion."""


COLOUR_MAPS = ("inferno", "viridis", "turbo", "jet")
"""`jet` is what the paper's figures use; it is neither uniform nor safe for the colour-blind."""


OPACITY = 0.5
"""How much of the film the strongest point of a heat map hides."""


_EDGE = (0, 0, 0)


_DASH, _GAP = 7, 5  # pixels


def overlay_heatmap(
    film: np.ndarray, heatmap: np.ndarray, *, opacity: float = OPACITY, colour_map: str = "inferno"
) -> np.ndarray:
    """Lay a heat map over a film.

    The share of colour in a pixel is `opacity` times the heat map there, so the film stays untouched where the
    model saw nothing.

    Args:
        film: (H, W) uint8 grey.
        heatmap: (H, W) float in [0, 1], such as `heat_maps` gives.
        opacity: 0 (film alone) to 1 (film hidden at the peak).
        colour_map: one of `COLOUR_MAPS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: shapes differ, the heat map leaves [0, 1], or opacity or colour map are unknown.
    """
    if film.ndim != 2 or film.shape != heatmap.shape:
        raise InputError(f"film and heat map must both be (H, W), not {film.shape} and {heatmap.shape}")
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity {opacity} is outside its range; choose one from 0 to 1")
    if colour_map not in COLOUR_MAPS:
        raise InputError(f"unknown colour map {colour_map!r}; choose one of {', '.join(COLOUR_MAPS)}")
    if not (heatmap.min() >= 0 and heatmap.max() <= 1):
        raise InputError("a heat map must lie in [0, 1]; make it with cxr_seam.heatmaps.heat_maps")
    share = (opacity * heatmap.astype(np.float32))[..., None]
    grey = film[..., None].astype(np.float32)
    return np.rint(grey + share * (apply_colour_map(heatmap, colour_map) - grey)).astype(np.uint8)


def apply_colour_map(values: np.ndarray, colour_map: str) -> np.ndarray:
    """Colours (H, W, 3) uint8 RGB of values (H, W) in [0, 1]."""
    import cv2

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
    """Draw boxes on a copy of an image of any size.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (K, 4) x, y, w, h as fractions of the image.
        colour: RGB of the lines.
        dashed: dashes instead of a closed line.
        thickness: of the line in pixels; a dark edge of one pixel on either side comes on top.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    import cv2

    image = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    for x, y, w, h in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        left, right = _ends(x, w, width)
        upper, lower = _ends(y, h, height)
        corners = [(left, upper), (right, upper), (right, lower), (left, lower)]
        lines = list(zip(corners, corners[1:] + corners[:1], strict=True))
        if dashed:
            lines = [dash for start, end in lines for dash in _dashes(start, end)]
        for paint, wide in ((_EDGE, thickness + 2), (colour, thickness)):
            for start, end in lines:
                cv2.line(image, start, end, paint, wide, cv2.LINE_8)
    return image


def _ends(start: float, extent: float, size: int) -> tuple[int, int]:
    """Return the first and last pixel of a side, in an image of `size` pixels along it.

    Boxes are half-open, so the last pixel is the one before the end. Both are kept a pixel inside the image, so
    that an edge on the border is seen.
    """
    first = round(start * size)
    last = round((start + extent) * size) - 1
    return min(max(first, 1), size - 2), min(max(last, 1), size - 2)


def _dashes(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut a horizontal or vertical line into dashes."""
    (x0, y0), (x1, y1) = start, end
    length = abs(x1 - x0) + abs(y1 - y0)
    dx, dy = np.sign(x1 - x0), np.sign(y1 - y0)
    return [
        (
            (int(x0 + dx * at), int(y0 + dy * at)),
            (int(x0 + dx * min(at + _DASH, length)), int(y0 + dy * min(at + _DASH, length))),
        )
        for at in range(0, max(length, 1), _DASH + _GAP)
    ]
