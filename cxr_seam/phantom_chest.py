"""A chest that can fall ill: the healthy anatomy and what disease has added to it."""

from __future__ import annotations

import numpy as np

from .phantom_pens import GRID
from .phantom_thorax import Thorax


class Chest:
    """A healthy thorax and what disease has added to it.

    `filled` 0..1 is the share of the lung's air that fluid, cells or collapse have replaced; `kept` 0..1 the share
    of the vessels still seen; `more_air` extra lucency (absorption taken away); `shadow` absorption added anywhere.
    """

    def __init__(self, thorax: Thorax) -> None:
        """Start from a healthy chest."""
        self.thorax = thorax
        self.filled = np.zeros((GRID, GRID), np.float32)
        self.kept = np.ones((GRID, GRID), np.float32)
        self.more_air = np.zeros((GRID, GRID), np.float32)
        self.shadow = np.zeros((GRID, GRID), np.float32)

    def fill_air(self, opacity: np.ndarray) -> None:
        """Replace a share (0..1 per pixel) of the remaining air; overlapping opacities add up as veils do."""
        self.filled = 1 - (1 - self.filled) * (1 - opacity.clip(0, 1).astype(np.float32))

    def absorption(self) -> np.ndarray:
        """Absorption of the whole chest, float32 (512, 512)."""
        t = self.thorax
        vessels = t.vessels * self.kept * (1 - 0.75 * self.filled)
        return t.solid - (t.air + self.more_air) * (1 - self.filled) + vessels + t.bones + self.shadow

    def free_point(
        self, rng: np.random.Generator, *, height: tuple[float, float], depth: tuple[float, float] = (0.25, 0.8)
    ) -> tuple[float, float, int]:
        """Draw a place x, y, side in a lung, in the given ranges (see `Thorax.point`), away from other opacities."""
        tries = []
        for _ in range(8):
            side = int(rng.integers(2))
            x, y = self.thorax.point(side, height=rng.uniform(*height), depth=rng.uniform(*depth))
            around = (slice(max(0, int(y) - 14), int(y) + 15), slice(max(0, int(x) - 14), int(x) + 15))
            air = self.thorax.air[around] + self.more_air[around] * -1
            tries.append((float((air * (1 - self.filled[around])).mean()), x, y, side))
        good = [t for t in tries if t[0] > 0.26]
        return (good[0] if good else max(tries))[1:]
