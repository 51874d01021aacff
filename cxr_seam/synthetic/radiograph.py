"""Synthesize a radiograph: position, exposure, noise, marker and collimator; and the boxes of its findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ..findings import FINDINGS
from .anatomy import Body, Chest, build_thorax
from .drawing import GRID, gaussian_blur, polylines
from .pathology import FINDING_FUNCTIONS

SIZE = 1024
"""Width and height of an image in pixels, as in ChestX-ray14."""

FONT = cv2.FONT_HERSHEY_SIMPLEX

_cached_thorax = lru_cache(maxsize=3)(build_thorax)  # follow-ups of a person share it; never modified


@dataclass(frozen=True)
class SyntheticRadiograph:
    """A synthetic radiograph with its boxes.

    Attributes:
        pixels: (1024, 1024) uint8.
        boxes: finding -> x, y, w, h in pixels.
        chest: the anatomy with its findings, on the 512-pixel grid.
        grid_to_image: (2, 3) affine map from grid to image coordinates.
    """

    pixels: np.ndarray
    boxes: dict[str, tuple[float, float, float, float]]
    chest: Chest
    grid_to_image: np.ndarray


def synthesize_radiograph(
    body: Body, findings: Sequence[str], *, view: str = "PA", site_seed: int = 0, image_seed: int = 0
) -> SyntheticRadiograph:
    """Synthesize one radiograph of a person.

    Every finding has its own random generator, so leaving one out changes only that finding and those that avoid it.

    Args:
        body: the person.
        findings: names of the findings.
        view: "PA" or "AP".
        site_seed: of the positions of the findings; the same for all follow-ups of a person.
        image_seed: of the severity of the findings and of the exposure.
    """
    site = {name: np.random.default_rng([site_seed, 1, i]) for i, name in enumerate(FINDINGS)}
    severity = {name: np.random.default_rng([image_seed, 2, i]).random() for i, name in enumerate(FINDINGS)}
    shape = {}
    if "Cardiomegaly" in findings:
        shape["heart_ratio"] = 0.545 + 0.03 * site["Cardiomegaly"].random() + 0.075 * severity["Cardiomegaly"]
    if "Emphysema" in findings:
        shape["hyperinflation"] = 0.65 + 0.35 * severity["Emphysema"]
    chest = Chest(_cached_thorax(body, view=view, **shape))
    present = {name: add_finding for name, add_finding in FINDING_FUNCTIONS.items() if name in findings}
    masks = {name: add_finding(chest, site[name], severity[name]) for name, add_finding in present.items()}
    rng = np.random.default_rng([image_seed, 3])
    grid_to_image = _placement(rng, view)
    pixels = _expose(rng, chest.absorption(), grid_to_image, view)
    boxes = {name: box for name in FINDINGS if name in masks and (box := _box(masks[name], grid_to_image))}
    return SyntheticRadiograph(pixels, boxes, chest, grid_to_image)


def _placement(rng: np.random.Generator, view: str) -> np.ndarray:
    """Sample the position of the patient (scale, tilt, shift) as an affine map from grid to image."""
    loose = 1.6 if view == "AP" else 1.0
    scale = SIZE / GRID * rng.uniform(0.98, 1.10)
    matrix = cv2.getRotationMatrix2D((GRID / 2, GRID / 2), float(rng.normal(0, 1.3 * loose)), scale)
    matrix[:, 2] += SIZE / 2 - GRID / 2 + rng.normal(0, 13 * loose, 2).clip(-40, 40)
    return matrix


def _box(mask: np.ndarray, grid_to_image: np.ndarray) -> tuple[float, float, float, float] | None:
    """Return the box of a mask of the grid in image pixels, cut at the border; None if it is too small."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    if points is None:
        return None
    hull = cv2.convexHull(points)[:, 0].astype(float)
    hull = np.concatenate([hull + d for d in ((0, 0), (1, 0), (0, 1), (1, 1))]) - 0.5
    placed = (hull @ grid_to_image[:, :2].T + grid_to_image[:, 2]).clip(0, SIZE - 1)
    (x, y), (w, h) = placed.min(0), np.ptp(placed, 0)
    return (float(x), float(y), float(w), float(h)) if min(w, h) >= 4 else None


def _expose(rng: np.random.Generator, absorption: np.ndarray, grid_to_image: np.ndarray, view: str) -> np.ndarray:
    """Convert absorption to grey values, uint8 (1024, 1024)."""
    low, high = rng.uniform(0.02, 0.12), rng.uniform(0.98, 1.16)
    if view == "AP":  # portable images have less contrast and more motion blur
        low, high = low - rng.uniform(0.0, 0.15), high + rng.uniform(0.0, 0.12)
        absorption = gaussian_blur(absorption, rng.uniform(0.5, 0.9))
        if rng.random() < 0.45:
            absorption += 0.16 * _leads(rng)
    level = np.clip((absorption - low) / (high - low), 1e-6, 1.6).astype(np.float32)
    bend, gamma = rng.uniform(0.7, 1.2), rng.uniform(1.05, 1.45)
    grey = 252 * (1 - np.exp(-bend * np.exp(gamma * np.log(level)))) / (1 - float(np.exp(-bend * 1.15)))
    image = cv2.warpAffine(grey, grid_to_image, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    grain = rng.standard_normal((GRID, GRID), np.float32) * rng.uniform(1.5, 4.0)
    image.reshape(2, GRID, 2, GRID)[:] += grain[None, :, None]
    if rng.random() < 0.25:
        image *= _collimator(rng)
    pixels = np.clip(image, 0, 255, out=image).astype(np.uint8)
    _marker(rng, pixels, view)
    return pixels


def _leads(rng: np.random.Generator) -> np.ndarray:
    """Draw two or three leads of a monitor with their electrodes, float32 (512, 512)."""
    canvas = np.zeros((GRID, GRID), np.uint8)
    for _ in range(int(rng.integers(2, 4))):
        start, end = rng.uniform((60, 90), (450, 260)), rng.uniform((20, 440), (490, 560))
        sag = rng.uniform(-60, 60)
        t = np.linspace(0, 1, 24)[:, None]
        line = start + (end - start) * t + np.sin(np.pi * t) * [sag, 0.3 * abs(sag)]
        polylines([line], width=1, canvas=canvas)
        polylines([start + [(-4, -3), (4, 3)]], width=3, canvas=canvas)
    return gaussian_blur(canvas, 0.6)


def _marker(rng: np.random.Generator, pixels: np.ndarray, view: str) -> None:
    """Draw the side marker (usually an L at the patient's left), and sometimes initials and "AP PORTABLE"."""
    left = rng.random() < 0.88
    x, y = int(rng.uniform(880, 960) if left else rng.uniform(20, 90)), int(rng.uniform(60, 150))
    ink, size = int(rng.integers(215, 256)), rng.uniform(1.0, 1.9)
    cv2.putText(pixels, "L" if left else "R", (x, y), FONT, size, ink, 5, cv2.LINE_AA)
    initials = "".join(chr(65 + int(c)) for c in rng.integers(0, 26, 2))
    if rng.random() < 0.5:
        cv2.putText(pixels, initials, (x, y + 34), FONT, 0.8, ink, 2, cv2.LINE_AA)
    if view == "AP" and rng.random() < 0.6:
        x, y = int(rng.uniform(600, 760)), int(rng.uniform(30, 60))
        cv2.putText(pixels, "AP", (x + 50, y), FONT, 0.8, 255, 2, cv2.LINE_AA)
        cv2.putText(pixels, "PORTABLE", (x, y + 30), FONT, 0.8, 255, 2, cv2.LINE_AA)


def _collimator(rng: np.random.Generator) -> np.ndarray:
    """Draw the collimator: 1 inside the beam, 0 outside, float32 (1024, 1024)."""
    left, right, top, bottom = rng.uniform(-20, 42, 4)
    size, tilt = (SIZE - left - right, SIZE - top - bottom), float(rng.normal(0, 0.7))
    window = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(window, [cv2.boxPoints(((SIZE / 2, SIZE / 2), size, tilt)).astype(np.int32)], 255)
    return cv2.blur(window, (7, 7)).astype(np.float32) / 255
