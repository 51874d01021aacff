"""Pens for drawing synthetic radiographs: outlines, filled areas, strokes, blur, smooth noise, branching trees.

Everything is drawn on a grid of 512 x 512 pixels, half the resolution of the finished film.
"""

from __future__ import annotations

import numpy as np

GRID = 512


MIDLINE = 256.0


SIDES = (-1.0, 1.0)
"""Direction of the patient's right (0) and left (1) side on the film: the right hangs at the image's left."""


def smooth_outline(points: list[tuple[float, float]], *, steps: int = 12) -> np.ndarray:
    """Closed Catmull-Rom curve through `points`: (n, 2) float, `steps` samples between two points."""
    p1 = np.asarray(points, float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    a, b, c = p2 - p0, 2 * p0 - 5 * p1 + 4 * p2 - p3, 3 * (p1 - p2) + p3 - p0
    return (0.5 * (2 * p1 + a * t + b * t**2 + c * t**3)).reshape(-1, 2)


def fill(outline: np.ndarray) -> np.ndarray:
    """Area of a closed outline (n, 2) as float32 (512, 512) in 0..1 with a soft rim."""
    import cv2

    canvas = np.zeros((GRID, GRID), np.uint8)
    cv2.fillPoly(canvas, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def strokes(lines: list[np.ndarray], *, width: int, canvas: np.ndarray | None = None, value: int = 255) -> np.ndarray:
    """Draw open polylines (n, 2) on an 8-bit canvas (a new one if none is given) and return it."""
    import cv2

    canvas = np.zeros((GRID, GRID), np.uint8) if canvas is None else canvas
    whole = [np.round(line * 16).astype(np.int32) for line in lines]
    cv2.polylines(canvas, whole, False, value, width, cv2.LINE_AA, 4)
    return canvas


def soften(canvas: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of an image, as float32; 8-bit input is scaled to 0..1."""
    import cv2

    scale = 1 / 255 if canvas.dtype == np.uint8 else 1.0
    return cv2.GaussianBlur(canvas.astype(np.float32) * scale, (0, 0), sigma)


def clouds(rng: np.random.Generator, *, grain: int) -> np.ndarray:
    """Smooth noise of mean 0 and deviation about 1, float32 (512, 512); `grain` is the size of a lump in pixels."""
    import cv2

    cells = GRID // grain + 2
    return cv2.resize(
        rng.standard_normal((cells, cells), np.float32) * 1.5, (GRID, GRID), interpolation=cv2.INTER_CUBIC
    )


def branches(
    rng: np.random.Generator, roots: np.ndarray, angles: np.ndarray, *, length: float, generations: int = 3
) -> list[list[np.ndarray]]:
    """A tree of vessels or bronchi: for every generation the list of its tracks, each (9, 2) points.

    One track starts at each of `roots` (n, 2) in the direction of `angles` (n,), about `length` pixels long. Three
    children leave each track of the generation before at random places, each two thirds as long.
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
