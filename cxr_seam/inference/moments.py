"""Turn a heat map into one box by its moments: centre and spread of the strongest evidence.

With weights w = heatmap^4, divided by their sum, along each axis:

    centre = sum(w x),    variance = sum(w (x - centre)^2),    width = 3 sqrt(variance),

cut at the edges of the image. A contour at Q follows the outline of a map and breaks into many boxes where the map is
noisy; moments use the whole map and always give one box. Exponent and factor were chosen by the agreement of two
models on labelled images (docs/beyond-the-paper.md), not by true boxes.

Source: this project; moments of an image as in Hu 1962.
"""

from __future__ import annotations

import numpy as np

EXPONENT = 4
DEVIATIONS = 3.0
"""Width and height of a box in standard deviations."""


def moment_box(heatmap: np.ndarray) -> np.ndarray:
    """Compute the box of a heat map.

    Args:
        heatmap: (H, W), not negative, with a positive value.

    Returns:
        (4,) float64 x, y, w, h in [0, 1]. A map with one positive pixel gives a box of 0.87 times the pixel's sides,
        because a pixel has the variance of its own area, 1/12 of its side squared.

    Example:
        >>> moment_box(np.ones((8, 8))).round(3)
        array([0.067, 0.067, 0.866, 0.866])
    """
    weights = (heatmap / heatmap.max()).astype(np.float64) ** EXPONENT
    start, end = np.transpose([_range(weights.sum(axis=axis)) for axis in (0, 1)])  # x, then y
    return np.concatenate([start, end - start])


def _range(weights: np.ndarray) -> tuple[float, float]:
    """Return the start and the end of the range of weights (N,) along an axis of length 1."""
    weights = weights / weights.sum()
    at = (np.arange(len(weights)) + 0.5) / len(weights)
    centre = weights @ at
    half = DEVIATIONS / 2 * np.sqrt(weights @ (at - centre) ** 2 + 1 / (12 * len(weights) ** 2))
    return max(0.0, centre - half), min(1.0, centre + half)
