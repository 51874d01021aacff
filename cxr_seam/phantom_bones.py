"""The bones of the synthetic chest: ribs, clavicles, shoulder blades, upper arms and the spine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .phantom_pens import GRID, MIDLINE, SIDES, smooth_outline, soften, strokes

if TYPE_CHECKING:
    from .phantom_thorax import Body

X = np.arange(GRID, dtype=np.float32)[None, :]
Y = np.arange(GRID, dtype=np.float32)[:, None]


def skeleton(
    rng: np.random.Generator, body: Body, *, width: float, height: float, bottom: float, supine: bool
) -> np.ndarray:
    """Absorption of the bones, float32 (512, 512); arguments as in `build_thorax`, in grid pixels.

    Hind ribs run nearly level from the spine and drop along the chest wall; front ribs come back down towards the
    breastbone and fade where they turn to cartilage.
    """
    hind, front = _ribs(rng, body, width, height, bottom)
    aside = np.abs(X - MIDLINE) / width
    ribs = soften(_tubes(hind, 11), 0.8) * np.clip((aside - 0.02) / 0.22, 0.25, 1)
    ribs += 0.5 * soften(_tubes(front, 12), 1.2) * np.clip((aside - 0.25) / 0.4, 0, 1)
    t = Y[:, 0]
    wall = (_wall(body, bottom, t) * width).astype(np.float32)[:, None]
    outside = np.abs(X - MIDLINE) - wall
    ribs *= np.clip(2.6 - outside / 2.5, 0, 1)  # seen end-on at the side: one smooth rim, no row of beads
    ribs += 0.55 * np.exp(-(((outside - 3) / 3.2) ** 2)) * (Y > body.apex + 4) * np.clip((bottom + 60 - Y) / 60, 0, 1)
    ribs *= np.clip((bottom + 95 - Y) / 110, 0.15, 1)
    bones = body.rib_contrast * ribs
    bones += _clavicles(rng, body, width, height, supine) + _shoulders(body, width, supine) + _spine(rng, body)
    return bones.astype(np.float32)


def _tubes(lines: list[np.ndarray], width: int) -> np.ndarray:
    """Bones seen from the side: a bright rim around a paler marrow."""
    canvas = strokes(lines, width=width)
    return strokes(lines, width=width - 4, canvas=canvas, value=180)


def _wall(body: Body, bottom: float, y: np.ndarray) -> np.ndarray:
    """Half width of the rib cage at height y, as a share of the widest."""
    t = (y - body.apex) / (bottom - body.apex)
    share = [0.40, 0.53, 0.67, 0.79, 0.895, 0.965, 1.005, 1.01, 0.99]
    return np.interp(t, [-0.03, 0, 0.06, 0.15, 0.3, 0.5, 0.75, 1, 1.4], share)


def _ribs(
    rng: np.random.Generator, body: Body, width: float, height: float, bottom: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    hind, front = [], []
    gap = (height + 62) / 10.2
    u = np.linspace(0, 1, 26)
    for sign in SIDES:
        wobble = rng.normal(0, 1.2, 12)
        for rib in range(12):
            start = body.apex + 4 + gap * (rib + 0.1) + wobble[rib]
            drop = np.interp(rib, [0, 2, 5, 10], [24, 42, 62, 84])
            y = start - 12 * np.sin(np.pi * u * 0.9) + drop * u**2.6
            edge = _wall(body, bottom, y) + 0.012
            x = 0.08 + (edge - 0.08) * np.sin(u * np.pi / 2) ** 0.92
            hind.append(np.stack([MIDLINE + sign * x * width, y], 1))
            if rib < 7:  # the front end of the same rib
                fall = np.interp(rib, [0, 1, 4, 7], [30, 44, 74, 86])
                v = np.linspace(0, 1, 16)
                yf = y[-1] + 4 + fall * np.sin(v * np.pi / 2)
                xf = edge[-1] * (1 - v**1.7) + v**1.7 * np.interp(rib, [0, 7], [0.22, 0.50])
                front.append(np.stack([MIDLINE + sign * xf * width, yf], 1))
    return hind, front


def _clavicles(rng: np.random.Generator, body: Body, width: float, height: float, supine: bool) -> np.ndarray:
    lines = []
    rise = 14 if supine else 0
    for sign in SIDES:
        u = np.linspace(0, 1, 16)
        x = 0.10 + 1.08 * u
        y = body.apex + 0.25 * height - rise - 66 * u + 7 * np.sin(2 * np.pi * (u + 0.05)) + rng.normal(0, 3)
        lines.append(np.stack([MIDLINE + sign * x * width, y], 1))
    return 0.11 * soften(_tubes(lines, 13), 1.0) * np.clip(np.abs(X - MIDLINE) / (0.3 * width), 0.2, 1)


def _shoulders(body: Body, width: float, supine: bool) -> np.ndarray:
    """Shoulder blades, turned off the lungs on PA films and left over them on AP films, and upper arms."""
    import cv2

    blades, edges, arms = (np.zeros((GRID, GRID), np.uint8) for _ in range(3))
    inward = 0.20 if supine else 0.0
    for sign in SIDES:
        blade = [(1.22, -6), (1.08 - inward, 16), (1.0 - inward, 60), (1.03 - inward, 165), (1.09 - inward, 150)]
        outline = smooth_outline([(MIDLINE + sign * x * width, body.apex + y) for x, y in [*blade, (1.20, 56)]])
        cv2.fillPoly(blades, [outline.astype(np.int32)], 255)
        strokes([np.vstack([outline, outline[:1]])], width=3, canvas=edges)
        ridge = np.array([(1.30, -8), (1.15 - inward / 2, 16), (1.03 - inward, 40)]) * (width, 1)
        strokes([ridge * (sign, 1) + (MIDLINE, body.apex)], width=8, canvas=blades)
        centre = (int(MIDLINE + sign * 1.30 * width), int(body.apex + 20))
        cv2.circle(arms, centre, 25, 255, -1, cv2.LINE_AA)
        shaft = np.array([centre, (MIDLINE + sign * (1.36 * width + 60), body.apex + 190)], float)
        strokes([shaft], width=24, canvas=arms)
    return 0.04 * soften(blades, 2.0) + 0.045 * soften(edges, 1.4) + 0.09 * soften(arms, 1.8)


def _spine(rng: np.random.Generator, body: Body) -> np.ndarray:
    """Vertebral bodies with end plates, pedicles and spinous processes, faint behind the mediastinum."""
    import cv2

    canvas = np.zeros((GRID, GRID), np.uint8)
    y, tall = -6.0, 19.0
    while y < GRID:
        x = MIDLINE + body.lean * np.sin(y / 90)
        half = 19 + 8 * y / GRID
        waist = [(-1, 0), (1, 0), (0.86, 0.4), (1, 0.82), (-1, 0.82), (-0.86, 0.4)]
        corners = np.array([(x + half * a, y + tall * b) for a, b in waist])
        cv2.fillPoly(canvas, [np.round(corners * 16).astype(np.int32)], 120, cv2.LINE_AA, 4)
        strokes([corners[:2], corners[3:5]], width=2, canvas=canvas, value=190)
        processes = [np.array([(x + sign * 1.5 * half, y + 4), (x + sign * half, y + 8)]) for sign in SIDES]
        strokes(processes, width=6, canvas=canvas, value=80)
        for sign in SIDES:
            cv2.ellipse(canvas, (int(x + sign * half * 0.62), int(y + 7)), (3, 5), 0, 0, 360, 205, 1, cv2.LINE_AA)
        cv2.ellipse(canvas, (int(x), int(y + 13)), (2, 4), 0, 0, 360, 200, 1, cv2.LINE_AA)
        y, tall = y + tall, tall * 1.03
    axis = MIDLINE + body.lean * np.sin(Y / 90)
    column = 0.13 * np.exp(-((np.abs(X - axis) / 34) ** 3)) * (0.62 + 0.5 * Y / GRID)
    return column + 0.07 * soften(canvas, 1.5)
