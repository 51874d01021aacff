"""Draw outlines, polygons, polylines, soft edges, blur, noise and branching trees for synthetic radiographs.

All functions use a grid of 512 x 512 pixels, half the resolution of the image.
"""

from __future__ import annotations

import cv2
import numpy as np

GRID = 512

MIDLINE = 256.0

X = np.arange(GRID, dtype=np.float32)[None, :]
Y = np.arange(GRID, dtype=np.float32)[:, None]
"""Coordinates of the grid, (1, 512) and (512, 1)."""

SIDES = (-1.0, 1.0)
"""Direction of the patient's right (0) and left (1) side; the right side is on the left of the image."""


def smooth_outline(points: list[tuple[float, float]], *, steps: int = 12) -> np.ndarray:
    """Return a closed Catmull-Rom curve through points (n, 2), with `steps` samples between two points."""
    p1 = np.asarray(points, float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    a, b, c = p2 - p0, 2 * p0 - 5 * p1 + 4 * p2 - p3, 3 * (p1 - p2) + p3 - p0
    return (0.5 * (2 * p1 + a * t + b * t**2 + c * t**3)).reshape(-1, 2)


def polygon(outline: np.ndarray) -> np.ndarray:
    """Fill a closed outline (n, 2), antialiased; return float32 (512, 512) in [0, 1]."""
    canvas = np.zeros((GRID, GRID), np.uint8)
    cv2.fillPoly(canvas, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def polylines(lines: list[np.ndarray], *, width: int, canvas: np.ndarray | None = None, value: int = 255) -> np.ndarray:
    """Draw open polylines (n, 2) on a uint8 canvas, by default a new one, and return it."""
    canvas = np.zeros((GRID, GRID), np.uint8) if canvas is None else canvas
    whole = [np.round(line * 16).astype(np.int32) for line in lines]
    cv2.polylines(canvas, whole, False, value, width, cv2.LINE_AA, 4)
    return canvas


def ellipse(x: float, y: float, rx: float, ry: float, angles: np.ndarray) -> np.ndarray:
    """Return the points (n, 2) of an ellipse at `angles` (n,); the radii may be arrays (n,)."""
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1)


def soft_edge(distance: np.ndarray, softness: float | np.ndarray) -> np.ndarray:
    """Return 1 where the distance is below 0 and 0 above, with a sigmoid between."""
    return 1 / (1 + np.exp((distance / softness).clip(-30, 30)))


def depth_inside(shape: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel of a shape (above 0.5) from its edge, float32."""
    return cv2.distanceTransform((shape > 0.5).astype(np.uint8), cv2.DIST_L2, 3)


def gaussian_blur(canvas: np.ndarray, sigma: float) -> np.ndarray:
    """Blur an image, to float32; uint8 input is scaled to [0, 1]."""
    scale = 1 / 255 if canvas.dtype == np.uint8 else 1.0
    return cv2.GaussianBlur(canvas.astype(np.float32) * scale, (0, 0), sigma)


def noise(rng: np.random.Generator, *, grain: int) -> np.ndarray:
    """Return smooth noise of mean 0 and deviation about 1, float32 (512, 512), with a grain of `grain` pixels."""
    cells = rng.standard_normal((GRID // grain + 2,) * 2, np.float32) * 1.5
    return cv2.resize(cells, (GRID, GRID), interpolation=cv2.INTER_CUBIC)


def branching_tree(
    rng: np.random.Generator, roots: np.ndarray, angles: np.ndarray, *, length: float, generations: int = 3
) -> list[list[np.ndarray]]:
    """Grow a tree of vessels or bronchi; return a list of branches, each (9, 2) points, for every generation.

    One branch starts at each of `roots` (n, 2) in the direction of `angles` (n,), about `length` pixels long. Three
    children start at random points of each branch, each about two thirds as long.
    """
    steps = 9
    starts, tree = np.asarray(roots, float), []
    for _ in range(generations):
        turn = angles[:, None] + rng.normal(0, 0.15, (len(angles), steps)).cumsum(1)
        stride = length / steps * rng.uniform(0.7, 1.2, (len(angles), 1, 1))
        track = starts[:, None] + np.stack([np.cos(turn), np.sin(turn)], -1).cumsum(1) * stride
        track[:, 0] = starts
        tree.append(list(track))
        parent, at = np.repeat(np.arange(len(angles)), 3), rng.integers(2, steps, 3 * len(angles))
        starts = track[parent, at]
        angles = turn[parent, at] + rng.choice([-1, 1], len(parent)) * rng.uniform(0.3, 0.75, len(parent))
        length *= 0.62
    return tree
