"""The fourteen findings, drawn on a synthetic chest where and as they occur.

Every painter takes `(chest, rng, strength)`: `rng` settles side, place, size and shape, `strength` in 0..1 how
advanced the finding is on this film. It changes the chest and returns the mask (bool, 512 x 512) of the visible
abnormality, whose bounding rectangle becomes the box.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .anatomy import Chest
from .drawing import GRID, MIDLINE, SIDES, branches, clouds, fill, smooth_outline, soften, strokes

YY, XX = np.mgrid[:GRID, :GRID].astype(np.float32)


def _round(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Distance from (x, y) in units of the radii, float32 (512, 512)."""
    return np.hypot((XX - x) / rx, (YY - y) / ry)


def _edge(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 where `distance` is well below 0, 0 well above, over about `softness` pixels."""
    return 1 / (1 + np.exp((distance / softness).clip(-30, 30)))


def atelectasis(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Plates of collapsed lung: two or three sharp bands across a lower or middle zone."""
    x, y, side = chest.free_point(rng, reach=20, height=(0.45, 0.95), depth=(0.35, 0.65))
    tilt = rng.normal(0, 0.22) + SIDES[side] * 0.12
    opacity = np.zeros((GRID, GRID), np.float32)
    for plate in range(int(rng.integers(2, 4))):
        length, width = rng.uniform(34, 58) * (0.85 + 0.4 * strength), rng.uniform(3.2, 5.2)
        cx, cy = x + rng.normal(0, 7), y + (plate - 1) * rng.uniform(13, 19)
        angle = tilt + rng.normal(0, 0.08)
        along = (XX - cx) * np.cos(angle) + (YY - cy) * np.sin(angle)
        across = (YY - cy) * np.cos(angle) - (XX - cx) * np.sin(angle) + along**2 * 0.0012
        band = _edge(np.abs(across) - width * (1 - 0.7 * (along / length) ** 2), 1.3) * _edge(np.abs(along) - length, 3)
        opacity = np.maximum(opacity, band * rng.uniform(0.8, 1.0))
    opacity *= chest.lungs[side]
    chest.fill_air(opacity * 0.95)
    chest.shadow += 0.05 * opacity
    return opacity > 0.4


def cardiomegaly(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """The enlarged heart is part of the anatomy (`build_thorax(heart_ratio=...)`); this names its area."""
    return fill(chest.thorax.heart) > 0.5


def effusion(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Fluid in the costophrenic angle: opaque below a line that climbs along the chest wall (the meniscus)."""
    thorax, side = chest.thorax, int(rng.integers(2))
    deep = thorax.angles[side] - thorax.domes[side]
    level = thorax.domes[side] - (0.02 + 0.20 * rng.random() ** 1.5 + 0.24 * strength**2) * (
        thorax.domes[side] - thorax.body.apex
    )
    first, last = thorax.rows[side][:, 0], thorax.rows[side][:, 1]
    wall = np.nanmin(first) if side == 0 else np.nanmax(last)
    inward = (np.abs(XX - wall) / thorax.body.half_width).clip(0, 1)
    surface = level + deep * 0.55 * np.tanh(inward / 0.28) - 42 * np.exp(-inward / 0.10)
    fluid = (_edge(surface - YY, 2.2) * thorax.lungs[side]).astype(np.float32)
    fluid *= 1 - 0.4 * soften(fill(thorax.heart), 2)  # before and behind the heart there is little room
    chest.fill_air(fluid)
    lower = soften(fluid, 2.0)
    chest.shadow += 0.15 * lower
    return fluid > 0.5


def infiltration(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A mottled, fluffy haze without edges, in any zone."""
    x, y, side = chest.free_point(rng, reach=34, height=(0.2, 0.9), depth=(0.3, 0.7))
    field = np.exp(-(_round(x, y, rng.uniform(36, 50), rng.uniform(40, 62)) ** 3)) * chest.lungs[side]
    tufts = _edge(-clouds(rng, grain=10) - 0.5 * clouds(rng, grain=22), 0.55)
    opacity = field * (0.16 + 0.58 * tufts) * (0.8 + 0.3 * strength)
    chest.fill_air(opacity)
    return soften(opacity, 4) > 0.16


def mass(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A round, often lobulated tumour of more than 3 cm: 90 to 170 pixels across on the film."""
    x, y, side = chest.free_point(rng, reach=24, height=(0.12, 0.92), depth=(0.22, 0.8))
    return _lump(chest, rng, x, y, radius=rng.uniform(23, 34) + 8 * strength, bumps=0.09, density=0.5 + 0.5 * strength)


def nodule(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A round spot of less than 3 cm: 36 to 64 pixels across on the film."""
    x, y, side = chest.free_point(rng, height=(0.08, 0.98), depth=(0.2, 0.88))
    return _lump(
        chest, rng, x, y, radius=rng.uniform(9, 13.5) + 2.5 * strength, bumps=0.04, density=0.7 + 0.3 * strength
    )


def _lump(
    chest: Chest, rng: np.random.Generator, x: float, y: float, *, radius: float, bumps: float, density: float
) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    r = radius * (1 + rng.normal(0, bumps, 9).clip(-0.2, 0.2))
    outline = np.stack([x + r * np.cos(t), y + r * np.sin(t)], 1)
    disc = soften(fill(smooth_outline(outline)), 1.2 + 0.04 * radius)
    inside = disc * (chest.lungs[0] | chest.lungs[1])
    ball = np.sqrt(np.clip(1 - _round(x, y, radius * 1.15, radius * 1.15) ** 2, 0, 1))  # thicker in the middle
    chest.fill_air(inside * (0.66 + 0.25 * ball) * density)
    chest.shadow += 0.06 * density * inside * ball
    return inside > 0.4


def pneumonia(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A lobe filled in patches: uneven, fading on one side, cut sharply by a fissure on the other."""
    x, y, side = chest.free_point(rng, reach=36, height=(0.2, 0.85), depth=(0.4, 0.7))
    rx, ry = rng.uniform(46, 64), rng.uniform(46, 66)
    above = rng.random() < 0.5  # upper lobe over its fissure, or lower lobe under it
    slope = SIDES[side] * rng.uniform(0.05, 0.35)
    fissure = (YY - y) - slope * (XX - x)
    fissure = -fissure if above else fissure
    body = (
        _edge(_round(x, y, rx, ry) - 1, 0.10)
        * _edge(-(fissure + 4), 1.3)
        * np.exp(-((fissure.clip(0) / (1.1 * ry)) ** 2))
    )
    patchy = 0.80 + 0.20 * clouds(rng, grain=20).clip(-1.6, 1.4)
    opacity = body * patchy * (0.85 + 0.25 * strength) * chest.lungs[side]
    chest.fill_air(opacity.clip(0, 0.95))
    return soften(opacity, 2) > 0.25


def pneumothorax(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Air around a shrunken lung: a dark rim without vessels at apex and side, bounded by the pleura's white line."""
    import cv2

    thorax, side = chest.thorax, int(rng.integers(2))
    lung = thorax.lungs[side].astype(np.uint8)
    sx, sy = 0.90 - 0.10 * rng.random() - 0.13 * strength, 0.93 - 0.10 * rng.random() - 0.08 * strength
    x, y = MIDLINE + SIDES[side] * 0.12 * thorax.body.half_width, thorax.angles[side] - 6
    resize_square = np.array([[sx, 0, x * (1 - sx)], [0, sy, y * (1 - sy)]])
    inner = cv2.warpAffine(lung, resize_square, (GRID, GRID), flags=cv2.INTER_NEAREST) * lung
    rim = cv2.morphologyEx(lung - inner, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    outline = cv2.findContours(inner, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    line = soften(strokes([max(outline, key=len)[:, 0].astype(float)], width=2), 0.7)
    soft_rim = soften(rim * 255, 1.0)
    near = soften(cv2.dilate(rim, np.ones((5, 5), np.uint8)) * 255, 1.0)
    chest.kept *= 1 - soft_rim
    chest.lungs[side] = inner > 0
    chest.more_air += 0.17 * soft_rim * (thorax.air > 0.05)
    chest.shadow += 0.15 * line * near
    chest.fill_air(0.22 * inner * (0.6 + 0.4 * strength))
    return (rim > 0) & (chest.filled < 0.5)


def consolidation(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Air spaces filled solid: dense, even, with the dark branching bronchi still holding air."""
    x, y, side = chest.free_point(rng, reach=36, height=(0.25, 0.9), depth=(0.3, 0.65))
    wobble = 0.11 * clouds(rng, grain=40)
    body = _edge(_round(x, y, rng.uniform(40, 56), rng.uniform(36, 52)) + wobble - 1 - 0.15 * strength, 0.045)
    hilum = chest.thorax.hila[side]
    start = np.arctan2(y - hilum[1], x - hilum[0])
    root = (0.7 * x + 0.3 * hilum[0], 0.7 * y + 0.3 * hilum[1])
    fan = start + np.array([-0.9, -0.3, 0.3, 0.9])
    tree = branches(rng, [root] * 4, fan, length=62, generations=2)
    bronchi = soften(strokes(tree[1], width=2, canvas=strokes(tree[0], width=3)), 0.9)
    opacity = body * chest.lungs[side]
    chest.fill_air(opacity * (0.78 + 0.19 * strength - 0.5 * bronchi))
    chest.shadow += 0.05 * opacity * (1 - bronchi)
    return opacity > 0.5


def edema(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Bat wings: haze around both hila with the outer lung spared, and short septal (Kerley B) lines at the bases."""
    opacity = np.zeros((GRID, GRID), np.float32)
    thorax = chest.thorax
    for side, (x, y) in enumerate(thorax.hila):
        wing = _round(x + SIDES[side] * 26, y + 18, rng.uniform(54, 66), rng.uniform(82, 100))
        opacity = np.maximum(opacity, np.exp(-(wing**2.2)) * chest.lungs[side])
    grainy = (1 + 0.16 * clouds(rng, grain=11)).clip(0.5, 1.4)
    opacity *= grainy * (0.62 + 0.3 * strength)
    lines = []
    for side in (0, 1):
        for height in np.linspace(0.72, 1.02, 7):
            start = thorax.point(side, height=float(height), depth=0.97)
            lines.append(np.array([start, (start[0] - SIDES[side] * rng.uniform(10, 18), start[1] + 1)]))
    chest.fill_air(opacity)
    chest.kept *= 1 + 0.5 * opacity
    chest.shadow += 0.09 * soften(strokes(lines, width=1), 0.6)
    return opacity > 0.25


def emphysema(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Over-inflated lungs (see `build_thorax(hyperinflation=...)`): dark, few vessels, flat low diaphragm, bullae."""
    thorax = chest.thorax
    for _ in range(int(rng.integers(2, 5))):
        x, y, side = chest.free_point(rng, height=(0.05, 0.5), depth=(0.4, 0.9))
        bulla = _round(x, y, rng.uniform(16, 30), rng.uniform(18, 34))
        inside = _edge(bulla - 1, 0.05) * thorax.lungs[side]
        chest.more_air += 0.05 * inside
        chest.kept *= 1 - 0.8 * inside
        chest.shadow += 0.05 * np.exp(-(((bulla - 1) * 12) ** 2)) * thorax.lungs[side]
    return thorax.lungs[0] | thorax.lungs[1]


def fibrosis(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A net of scar lines and honeycomb rings under the pleura of both bases (seldom of both tips)."""
    import cv2

    thorax = chest.thorax
    tips = rng.random() < 0.3
    zone = np.zeros((GRID, GRID), np.float32)
    canvas = np.zeros((GRID, GRID), np.uint8)
    for side in (0, 1):
        x, y = thorax.point(side, height=0.12 if tips else 0.92, depth=0.72)
        here = np.exp(-(_round(x, y, rng.uniform(52, 64), rng.uniform(52, 70)) ** 4)) * chest.lungs[side]
        zone = np.maximum(zone, here)
        for px, py in np.stack([x + rng.uniform(-60, 60, 95), y + rng.uniform(-66, 66, 95)], 1):
            cv2.circle(canvas, (int(px * 16), int(py * 16)), int(rng.uniform(3.5, 7.5) * 16), 230, 1, cv2.LINE_AA, 4)
        for px, py, a in zip(
            x + rng.uniform(-60, 60, 40), y + rng.uniform(-66, 66, 40), rng.uniform(0, np.pi, 40), strict=True
        ):
            d = 13 * np.array([np.cos(a), np.sin(a)])
            strokes([np.array([(px, py) - d, (px, py) + d])], width=2, canvas=canvas, value=230)
    net = soften(canvas, 0.7) * zone
    chest.fill_air(0.22 * zone)
    chest.shadow += (0.14 + 0.10 * strength) * net
    return zone > 0.4


def pleural_thickening(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A dense wavy rind between ribs and lung: along the side wall, or a cap over the apex."""
    thorax, side = chest.thorax, int(rng.integers(2))
    lung, body = thorax.lungs[side], thorax.body
    wall = thorax.rows[side][:, side][:, None]
    inward = np.nan_to_num((XX - wall) * -SIDES[side], nan=0.0)
    waves = 2.5 * clouds(rng, grain=22)
    if rng.random() < 0.35:
        rind = _edge(YY - (body.apex + rng.uniform(24, 36) + 9 * strength) - waves, 1.2)
    else:
        middle = body.apex + rng.uniform(0.35, 0.75) * (thorax.domes[side] - body.apex)
        thick = (rng.uniform(16, 22) + 7 * strength) * np.exp(-((np.abs(YY - middle) / rng.uniform(62, 90)) ** 4))
        rind = _edge(inward - thick - waves, 1.2) * (thick > 4)
    rind = (rind * lung).astype(np.float32)
    chest.fill_air(rind * 0.95)
    chest.shadow += 0.13 * rind
    return rind > 0.5


def hernia(chest: Chest, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A part of the stomach above the diaphragm: a round shadow behind the heart with gas over a level of fluid."""
    thorax = chest.thorax
    radius = rng.uniform(30, 40) + 9 * strength
    x = MIDLINE + rng.uniform(-0.05, 0.28) * thorax.body.half_width
    y = min(thorax.domes) + 6 - 0.75 * radius
    sack = _round(x, y, radius * 1.12, radius)
    inside = _edge(sack - 1, 0.04)
    level = y + rng.uniform(-0.15, 0.25) * radius
    gas = _edge(YY - level, 0.9) * _edge(_round(x, y, radius * 0.98, radius * 0.86) - 1, 0.04)
    chest.fill_air(0.9 * inside)
    chest.shadow += inside * 0.13 - gas * 0.33
    return inside > 0.5


PAINTERS: dict[str, Callable[[Chest, np.random.Generator, float], np.ndarray]] = {
    "Atelectasis": atelectasis,
    "Cardiomegaly": cardiomegaly,
    "Effusion": effusion,
    "Infiltration": infiltration,
    "Mass": mass,
    "Nodule": nodule,
    "Pneumonia": pneumonia,
    "Pneumothorax": pneumothorax,
    "Consolidation": consolidation,
    "Edema": edema,
    "Emphysema": emphysema,
    "Fibrosis": fibrosis,
    "Pleural_Thickening": pleural_thickening,
    "Hernia": hernia,
}


ORDER = (
    "Emphysema", "Cardiomegaly", "Effusion", "Pleural_Thickening", "Pneumothorax", "Edema", "Fibrosis", "Hernia",
    "Consolidation", "Pneumonia", "Infiltration", "Atelectasis", "Mass", "Nodule",
)  # fmt: skip
"""Painting order: what fills a fixed place comes first, what can sit anywhere then avoids it."""
