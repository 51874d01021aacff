"""Add the fourteen findings to a synthetic chest.

Each function takes `(chest, rng, severity)`: `rng` determines side, position, size and shape, `severity` in [0, 1] how
advanced the finding is. It changes the chest and returns the mask (bool, 512 x 512) of the visible abnormality; the box
is the bounding rectangle of the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .anatomy import Chest
from .drawing import (
    GRID,
    MIDLINE,
    SIDES,
    X,
    Y,
    branching_tree,
    ellipse,
    gaussian_blur,
    noise,
    polygon,
    polylines,
    smooth_outline,
    soft_edge,
)


def _ellipse_distance(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Return the distance from (x, y) in units of the radii, float32 (512, 512)."""
    return np.hypot((X - x) / rx, (Y - y) / ry)


def atelectasis(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add two or three sharp bands of collapsed lung in a lower or middle zone."""
    x, y, side = chest.free_point(rng, reach=20, height=(0.45, 0.95), depth=(0.35, 0.65))
    tilt = rng.normal(0, 0.22) + SIDES[side] * 0.12
    opacity = np.zeros((GRID, GRID), np.float32)
    for plate in range(int(rng.integers(2, 4))):
        length, width = rng.uniform(34, 58) * (0.85 + 0.4 * severity), rng.uniform(3.2, 5.2)
        cx, cy = x + rng.normal(0, 7), y + (plate - 1) * rng.uniform(13, 19)
        angle = tilt + rng.normal(0, 0.08)
        along = (X - cx) * np.cos(angle) + (Y - cy) * np.sin(angle)
        across = (Y - cy) * np.cos(angle) - (X - cx) * np.sin(angle) + along**2 * 0.0012
        band = soft_edge(np.abs(across) - width * (1 - 0.7 * (along / length) ** 2), 1.3)
        band *= soft_edge(np.abs(along) - length, 3)
        opacity = np.maximum(opacity, band * rng.uniform(0.8, 1.0))
    opacity *= chest.lungs[side]
    chest.add_opacity(opacity * 0.95)
    chest.density += 0.05 * opacity
    return opacity > 0.4


def cardiomegaly(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Return the area of the heart; its size is part of the anatomy (`build_thorax(heart_ratio=...)`)."""
    return polygon(chest.thorax.heart) > 0.5


def effusion(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add fluid in a costophrenic angle, with a meniscus that rises along the chest wall."""
    thorax, side = chest.thorax, int(rng.integers(2))
    dome, deep = thorax.domes[side], thorax.angles[side] - thorax.domes[side]
    level = dome - (0.02 + 0.20 * rng.random() ** 1.5 + 0.24 * severity**2) * (dome - thorax.body.apex)
    wall = np.nanmin(thorax.rows[0]) if side == 0 else np.nanmax(thorax.rows[1])
    inward = (np.abs(X - wall) / thorax.body.half_width).clip(0, 1)
    surface = level + deep * 0.55 * np.tanh(inward / 0.28) - 42 * np.exp(-inward / 0.10)
    fluid = (soft_edge(surface - Y, 2.2) * thorax.lungs[side]).astype(np.float32)
    fluid *= 1 - 0.4 * gaussian_blur(polygon(thorax.heart), 2)  # less fluid in front of and behind the heart
    chest.add_opacity(fluid)
    chest.density += 0.15 * gaussian_blur(fluid, 2.0)
    return fluid > 0.5


def infiltration(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add a mottled haze without edges, in any zone."""
    x, y, side = chest.free_point(rng, reach=34, height=(0.2, 0.9), depth=(0.3, 0.7))
    field = np.exp(-(_ellipse_distance(x, y, rng.uniform(36, 50), rng.uniform(40, 62)) ** 3)) * chest.lungs[side]
    tufts = soft_edge(-noise(rng, grain=10) - 0.5 * noise(rng, grain=22), 0.55)
    opacity = field * (0.16 + 0.58 * tufts) * (0.8 + 0.3 * severity)
    chest.add_opacity(opacity)
    return gaussian_blur(opacity, 4) > 0.16


def mass(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add a round, often lobulated tumour of more than 3 cm: 90 to 170 image pixels across."""
    x, y, _ = chest.free_point(rng, reach=24, height=(0.12, 0.92), depth=(0.22, 0.8))
    radius = rng.uniform(23, 34) + 8 * severity
    return _round_opacity(chest, rng, x, y, radius=radius, bumps=0.09, density=0.5 + 0.5 * severity)


def nodule(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add a round spot of less than 3 cm: 36 to 64 image pixels across."""
    x, y, _ = chest.free_point(rng, height=(0.08, 0.98), depth=(0.2, 0.88))
    radius = rng.uniform(9, 13.5) + 2.5 * severity
    return _round_opacity(chest, rng, x, y, radius=radius, bumps=0.04, density=0.7 + 0.3 * severity)


def _round_opacity(
    chest: Chest, rng: np.random.Generator, x: float, y: float, *, radius: float, bumps: float, density: float
) -> np.ndarray:
    r = radius * (1 + rng.normal(0, bumps, 9).clip(-0.2, 0.2))
    outline = smooth_outline(ellipse(x, y, r, r, np.linspace(0, 2 * np.pi, 9, endpoint=False)))
    inside = gaussian_blur(polygon(outline), 1.2 + 0.04 * radius) * (chest.lungs[0] | chest.lungs[1])
    thickness = np.sqrt(np.clip(1 - _ellipse_distance(x, y, radius * 1.15, radius * 1.15) ** 2, 0, 1))  # of a ball
    chest.add_opacity(inside * (0.66 + 0.25 * thickness) * density)
    chest.density += 0.06 * density * inside * thickness
    return inside > 0.4


def pneumonia(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add a patchy opacity of a lobe, with one faint border and one sharp border at a fissure."""
    x, y, side = chest.free_point(rng, reach=36, height=(0.2, 0.85), depth=(0.4, 0.7))
    rx, ry = rng.uniform(46, 64), rng.uniform(46, 66)
    above = rng.random() < 0.5  # upper lobe over its fissure, or lower lobe under it
    slope = SIDES[side] * rng.uniform(0.05, 0.35)
    fissure = (-1 if above else 1) * ((Y - y) - slope * (X - x))
    body = soft_edge(_ellipse_distance(x, y, rx, ry) - 1, 0.10) * soft_edge(-(fissure + 4), 1.3)
    body *= np.exp(-((fissure.clip(0) / (1.1 * ry)) ** 2))
    patchy = 0.80 + 0.20 * noise(rng, grain=20).clip(-1.6, 1.4)
    opacity = body * patchy * (0.85 + 0.25 * severity) * chest.lungs[side]
    chest.add_opacity(opacity.clip(0, 0.95))
    return gaussian_blur(opacity, 2) > 0.25


def pneumothorax(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Collapse a lung partly: a dark rim without vessels, bounded by the white line of the pleura."""
    thorax, side = chest.thorax, int(rng.integers(2))
    lung = thorax.lungs[side].astype(np.uint8)
    sx, sy = 0.90 - 0.10 * rng.random() - 0.13 * severity, 0.93 - 0.10 * rng.random() - 0.08 * severity
    x, y = MIDLINE + SIDES[side] * 0.12 * thorax.body.half_width, thorax.angles[side] - 6
    matrix = np.array([[sx, 0, x * (1 - sx)], [0, sy, y * (1 - sy)]])
    inner = cv2.warpAffine(lung, matrix, (GRID, GRID), flags=cv2.INTER_NEAREST) * lung
    rim = cv2.morphologyEx(lung - inner, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    outline = cv2.findContours(inner, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    line = gaussian_blur(polylines([max(outline, key=len)[:, 0].astype(float)], width=2), 0.7)
    soft_rim = gaussian_blur(rim * 255, 1.0)
    near = gaussian_blur(cv2.dilate(rim, np.ones((5, 5), np.uint8)) * 255, 1.0)
    chest.vessel_visibility *= 1 - soft_rim
    chest.lungs[side] = inner > 0
    chest.lucency += 0.17 * soft_rim * (thorax.air > 0.05)
    chest.density += 0.15 * line * near
    chest.add_opacity(0.22 * inner * (0.6 + 0.4 * severity))
    return (rim > 0) & (chest.opacity < 0.5)


def consolidation(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add a dense, even opacity with dark, air-filled bronchi."""
    x, y, side = chest.free_point(rng, reach=36, height=(0.25, 0.9), depth=(0.3, 0.65))
    wobble = 0.11 * noise(rng, grain=40)
    distance = _ellipse_distance(x, y, rng.uniform(40, 56), rng.uniform(36, 52)) + wobble
    body = soft_edge(distance - 1 - 0.15 * severity, 0.045)
    hilum_x, hilum_y = chest.thorax.hila[side]
    root = (0.7 * x + 0.3 * hilum_x, 0.7 * y + 0.3 * hilum_y)
    fan = np.arctan2(y - hilum_y, x - hilum_x) + np.array([-0.9, -0.3, 0.3, 0.9])
    tree = branching_tree(rng, [root] * 4, fan, length=62, generations=2)
    bronchi = gaussian_blur(polylines(tree[1], width=2, canvas=polylines(tree[0], width=3)), 0.9)
    opacity = body * chest.lungs[side]
    chest.add_opacity(opacity * (0.78 + 0.19 * severity - 0.5 * bronchi))
    chest.density += 0.05 * opacity * (1 - bronchi)
    return opacity > 0.5


def edema(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add haze around both hila (bat wings) and short septal (Kerley B) lines at the bases."""
    opacity, lines = np.zeros((GRID, GRID), np.float32), []
    thorax = chest.thorax
    for side, (x, y) in enumerate(thorax.hila):
        wing = _ellipse_distance(x + SIDES[side] * 26, y + 18, rng.uniform(54, 66), rng.uniform(82, 100))
        opacity = np.maximum(opacity, np.exp(-(wing**2.2)) * chest.lungs[side])
    opacity *= (1 + 0.16 * noise(rng, grain=11)).clip(0.5, 1.4) * (0.62 + 0.3 * severity)
    for side in (0, 1):
        for height in np.linspace(0.72, 1.02, 7):
            x, y = thorax.point(side, height=float(height), depth=0.97)
            lines.append(np.array([(x, y), (x - SIDES[side] * rng.uniform(10, 18), y + 1)]))
    chest.add_opacity(opacity)
    chest.vessel_visibility *= 1 + 0.5 * opacity
    chest.density += 0.09 * gaussian_blur(polylines(lines, width=1), 0.6)
    return opacity > 0.25


def emphysema(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add bullae; the over-inflated lungs are part of the anatomy (`build_thorax(hyperinflation=...)`)."""
    thorax = chest.thorax
    for _ in range(int(rng.integers(2, 5))):
        x, y, side = chest.free_point(rng, height=(0.05, 0.5), depth=(0.4, 0.9))
        bulla = _ellipse_distance(x, y, rng.uniform(16, 30), rng.uniform(18, 34))
        inside = soft_edge(bulla - 1, 0.05) * thorax.lungs[side]
        chest.lucency += 0.05 * inside
        chest.vessel_visibility *= 1 - 0.8 * inside
        chest.density += 0.05 * np.exp(-(((bulla - 1) * 12) ** 2)) * thorax.lungs[side]
    return thorax.lungs[0] | thorax.lungs[1]


def fibrosis(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add a net of scar lines and honeycomb rings near the pleura of both bases, or sometimes both apices."""
    thorax = chest.thorax
    tips = rng.random() < 0.3
    zone = np.zeros((GRID, GRID), np.float32)
    canvas = np.zeros((GRID, GRID), np.uint8)
    for side in (0, 1):
        x, y = thorax.point(side, height=0.12 if tips else 0.92, depth=0.72)
        here = np.exp(-(_ellipse_distance(x, y, rng.uniform(52, 64), rng.uniform(52, 70)) ** 4)) * chest.lungs[side]
        zone = np.maximum(zone, here)
        for px, py in np.stack([x + rng.uniform(-60, 60, 95), y + rng.uniform(-66, 66, 95)], 1):
            cv2.circle(canvas, (int(px * 16), int(py * 16)), int(rng.uniform(3.5, 7.5) * 16), 230, 1, cv2.LINE_AA, 4)
        middles = np.stack([x + rng.uniform(-60, 60, 40), y + rng.uniform(-66, 66, 40)], 1)
        halves = ellipse(0, 0, 13, 13, rng.uniform(0, np.pi, 40))
        polylines([*np.stack([middles - halves, middles + halves], 1)], width=2, canvas=canvas, value=230)
    chest.add_opacity(0.22 * zone)
    chest.density += (0.14 + 0.10 * severity) * (gaussian_blur(canvas, 0.7) * zone)
    return zone > 0.4


def pleural_thickening(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add a dense wavy layer between ribs and lung: along the side wall, or over the apex."""
    thorax, side = chest.thorax, int(rng.integers(2))
    lung, body = thorax.lungs[side], thorax.body
    wall = thorax.rows[side][:, side][:, None]
    inward = np.nan_to_num((X - wall) * -SIDES[side], nan=0.0)
    waves = 2.5 * noise(rng, grain=22)
    if rng.random() < 0.35:
        rind = soft_edge(Y - (body.apex + rng.uniform(24, 36) + 9 * severity) - waves, 1.2)
    else:
        middle = body.apex + rng.uniform(0.35, 0.75) * (thorax.domes[side] - body.apex)
        thick = (rng.uniform(16, 22) + 7 * severity) * np.exp(-((np.abs(Y - middle) / rng.uniform(62, 90)) ** 4))
        rind = soft_edge(inward - thick - waves, 1.2) * (thick > 4)
    rind = (rind * lung).astype(np.float32)
    chest.add_opacity(rind * 0.95)
    chest.density += 0.13 * rind
    return rind > 0.5


def hernia(chest: Chest, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Add a part of the stomach above the diaphragm: a round opacity with gas over a level of fluid."""
    thorax = chest.thorax
    radius = rng.uniform(30, 40) + 9 * severity
    x = MIDLINE + rng.uniform(-0.05, 0.28) * thorax.body.half_width
    y = min(thorax.domes) + 6 - 0.75 * radius
    sack = _ellipse_distance(x, y, radius * 1.12, radius)
    inside = soft_edge(sack - 1, 0.04)
    level = y + rng.uniform(-0.15, 0.25) * radius
    gas = soft_edge(Y - level, 0.9) * soft_edge(_ellipse_distance(x, y, radius * 0.98, radius * 0.86) - 1, 0.04)
    chest.add_opacity(0.9 * inside)
    chest.density += inside * 0.13 - gas * 0.33
    return inside > 0.5


FINDING_FUNCTIONS: dict[str, Callable[[Chest, np.random.Generator, float], np.ndarray]] = {
    "Emphysema": emphysema, "Cardiomegaly": cardiomegaly, "Effusion": effusion,
    "Pleural_Thickening": pleural_thickening, "Pneumothorax": pneumothorax, "Edema": edema, "Fibrosis": fibrosis,
    "Hernia": hernia, "Consolidation": consolidation, "Pneumonia": pneumonia, "Infiltration": infiltration,
    "Atelectasis": atelectasis, "Mass": mass, "Nodule": nodule,
}  # fmt: skip
"""In the order of drawing: findings with a fixed position come first; the others then avoid them."""
