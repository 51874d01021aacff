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
        self.lungs = list(thorax.lungs)  # what is left of them where one has collapsed
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
        self,
        rng: np.random.Generator,
        *,
        height: tuple[float, float],
        depth: tuple[float, float] = (0.25, 0.8),
        reach: int = 14,
    ) -> tuple[float, float, int]:
        """Draw a place x, y, side in a lung, in the given ranges (see `Thorax.point`).

        Of eight draws the first is taken whose surroundings, up to `reach` pixels away, still hold their air; if there
        is none, the one that has kept most. Places hidden by the heart count as poor.
        """
        tries = []
        for _ in range(8):
            side = int(rng.integers(2))
            x, y = self.thorax.point(side, height=rng.uniform(*height), depth=rng.uniform(*depth))
            row, column = min(int(y), GRID - 1), min(int(x), GRID - 1)
            near = (slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1))
            air = self.thorax.air[near]
            free = float((air * self.lungs[side][near] * (1 - self.filled[near])).sum() / max(air.sum(), 1e-6))
            open_view = min(1.0, float(self.thorax.air[row, column]) / 0.27)
            tries.append((free * open_view, x, y, side))
        good = [place for place in tries if place[0] > 0.85]
        return (good[0] if good else max(tries))[1:]
