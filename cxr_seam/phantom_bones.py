"""The bones of the synthetic chest: ribs, clavicles, shoulder blades, upper arms and the spine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .phantom_pens import GRID, MIDLINE, SIDES, fill, smooth_outline, soften, strokes

if TYPE_CHECKING:
    from .phantom_thorax import Body


def skeleton(
    rng: np.random.Generator, body: Body, *, width: float, height: float, bottom: float, supine: bool
) -> np.ndarray:
    """Absorption of the bones, float32 (512, 512); arguments as in `build_thorax`, in grid pixels.

    Hind ribs run nearly level from the spine and drop along the chest wall; front ribs come back down towards the
    breastbone and fade where they turn to cartilage.
    """
    hind, front = _ribs(rng, body, width, height, bottom)
    bones = body.rib_contrast * (soften(_tubes(hind, 11), 0.8) + 0.55 * soften(_tubes(front, 12), 1.2))
    bones += 0.11 * soften(_tubes(_clavicles(rng, body, width, height, supine), 13), 0.9)
    bones += _shoulders(body, width, supine) + _spine(rng, body)
    return bones.astype(np.float32)


def _tubes(lines: list[np.ndarray], width: int) -> np.ndarray:
    """Bones seen from the side: a bright rim around a paler marrow."""
    canvas = strokes(lines, width=width)
    return strokes(lines, width=width - 4, canvas=canvas, value=170)


def _wall(body: Body, bottom: float, y: np.ndarray) -> np.ndarray:
    """Half width of the rib cage at height y, as a share of the widest."""
    t = (y - body.apex) / (bottom - body.apex)
    return np.interp(
        t, [-0.06, 0, 0.06, 0.15, 0.3, 0.5, 0.75, 1, 1.4], [0.45, 0.58, 0.68, 0.79, 0.895, 0.965, 1, 1.01, 0.98]
    )


def _ribs(rng, body: Body, width: float, height: float, bottom: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    hind, front = [], []
    gap = (height + 62) / 10.2
    u = np.linspace(0, 1, 26)
    for sign in SIDES:
        wobble = rng.normal(0, 1.2, 12)
        for rib in range(11):
            start = body.apex - 2 + gap * (rib + 0.15) + wobble[rib]
            drop = np.interp(rib, [0, 2, 5, 10], [26, 40, 58, 74])
            y = start - 12 * np.sin(np.pi * u * 0.9) + drop * u**2.6
            edge = _wall(body, bottom, y) + 0.012
            x = 0.08 + (edge - 0.08) * np.sin(u * np.pi / 2) ** 0.92
            hind.append(np.stack([MIDLINE + sign * x * width, y], 1))
            if 1 <= rib <= 7:  # the front end of the same rib
                fall = np.interp(rib, [1, 4, 7], [34, 62, 74])
                v = np.linspace(0, 1, 16)
                yf = y[-1] + 4 + fall * np.sin(v * np.pi / 2)
                xf = edge[-1] * (1 - v**1.7) + v**1.7 * np.interp(rib, [1, 7], [0.30, 0.52])
                front.append(np.stack([MIDLINE + sign * xf * width, yf], 1))
    return hind, front


def _clavicles(rng, body: Body, width: float, height: float, supine: bool) -> list[np.ndarray]:
    lines = []
    rise = 14 if supine else 0
    for sign in SIDES:
        u = np.linspace(0, 1, 16)
        x = 0.11 + 1.05 * u
        y = body.apex + 0.24 * height - rise - 58 * u - 9 * np.sin(2 * np.pi * u) + rng.normal(0, 3)
        lines.append(np.stack([MIDLINE + sign * x * width, y], 1))
    return lines


def _shoulders(body: Body, width: float, supine: bool) -> np.ndarray:
    """Shoulder blades, drawn forward off the lungs on PA films and left over them on AP films, and upper arms."""
    import cv2

    out = np.zeros((GRID, GRID), np.float32)
    inward = 0.20 if supine else 0.0
    for sign in SIDES:
        blade = [
            (1.20, -18),
            (1.02 - inward, 22),
            (0.97 - inward, 70),
            (1.03 - inward, 165),
            (1.10 - inward, 150),
            (1.22, 60),
        ]
        outline = smooth_outline([(MIDLINE + sign * x * width, body.apex + y) for x, y in blade])
        edge = strokes([np.vstack([outline, outline[:1]])], width=3)
        out += 0.035 * soften(fill(outline), 1.5) + 0.06 * soften(edge, 1.0)
        head = np.zeros((GRID, GRID), np.uint8)
        centre = (int(MIDLINE + sign * 1.27 * width), int(body.apex + 12))
        cv2.circle(head, centre, 24, 255, -1, cv2.LINE_AA)
        shaft = np.array([centre, (MIDLINE + sign * (1.36 * width + 6), body.apex + 190)], float)
        strokes([shaft], width=24, canvas=head)
        out += 0.10 * soften(head, 1.5)
    return out


def _spine(rng, body: Body) -> np.ndarray:
    """Vertebral bodies with end plates, pedicles and spinous processes, faint behind the mediastinum."""
    import cv2

    canvas = np.zeros((GRID, GRID), np.uint8)
    y, tall = 4.0, 20.0
    while y < GRID:
        x = MIDLINE + body.lean * np.sin(y / 90)
        half = 20 + 8 * y / GRID
        cv2.rectangle(canvas, (int(x - half), int(y)), (int(x + half), int(y + tall - 4)), 110, -1)
        strokes(
            [np.array([[x - half, y], [x + half, y]]), np.array([[x - half, y + tall - 4], [x + half, y + tall - 4]])],
            width=2,
            canvas=canvas,
            value=190,
        )
        for sign in SIDES:
            cv2.ellipse(canvas, (int(x + sign * half * 0.62), int(y + 7)), (4, 6), 0, 0, 360, 205, 1, cv2.LINE_AA)
        cv2.ellipse(canvas, (int(x), int(y + 13)), (3, 5), 0, 0, 360, 200, 1, cv2.LINE_AA)
        y, tall = y + tall, tall * 1.03
    return 0.075 * soften(canvas, 1.3)
