"""How the film moves in the second phase, by name: what a map should follow whichever way the film lies (Sect. 4.4).

A recipe's `SeamPhase.equivariance` names one of `EQUIVARIANCES`. Each draws a `geometry.Motion` for every film of a
batch; `geometry` moves films and maps by it and says what is valid afterwards. The paper rotates; its source (SEAM,
Wang et al. 2020) tries rescaling, rotation, translation and flip, and keeps rescaling.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .errors import InputError
from .geometry import Motion, no_motion
from .recipes import SeamPhase

SMALLEST_ZOOM = 0.5
"""SEAM shrinks to 0.3. Of 32 x 32 cells that would leave 10 x 10, and bilinear sampling sees two pixels a side of the
3.3 that become one; down to 0.5 it sees them all."""
LARGEST_SHIFT = 0.1
"""Share of the side: three of 32 cells. A shift of less than a cell would ask little of a map."""


def draw_rotation(count: int, phase: SeamPhase, *, generator: torch.Generator) -> Motion:
    """Turn by an angle a uniform in [-phase.rotation_degrees, phase.rotation_degrees], the paper's.

    x' = R x about the centre, R = [[cos a, sin a], [-sin a, cos a]] with y down: counter-clockwise as the eye sees it.
    """
    degrees = (2 * torch.rand(count, generator=generator) - 1) * phase.rotation_degrees
    return no_motion(count)._replace(degrees=degrees)


def draw_rescaling(count: int, phase: SeamPhase, *, generator: torch.Generator) -> Motion:
    """Shrink by a factor z log-uniform in [SMALLEST_ZOOM, 1]; enlarging would lose findings that the labels name.

    x' = z x about the centre, z = SMALLEST_ZOOM^u with u uniform in [0, 1].
    """
    return no_motion(count)._replace(zoom=SMALLEST_ZOOM ** torch.rand(count, generator=generator))


def draw_translation(count: int, phase: SeamPhase, *, generator: torch.Generator) -> Motion:
    """Shift by a share of the side uniform in [-LARGEST_SHIFT, LARGEST_SHIFT], across and down: x' = x + (r, d)."""
    right, down = (2 * torch.rand(2, count, generator=generator) - 1) * LARGEST_SHIFT
    return no_motion(count)._replace(right=right, down=down)


def draw_flip(count: int, phase: SeamPhase, *, generator: torch.Generator) -> Motion:
    """Mirror left to right, (x, y)' = (-x, y) about the centre: every film, since one left alone would meet itself."""
    return no_motion(count)._replace(mirror=-torch.ones(count))


SINGLE = {
    "rotation": draw_rotation,
    "rescaling": draw_rescaling,
    "translation": draw_translation,
    "flip": draw_flip,
}


def draw_mixture(count: int, phase: SeamPhase, *, generator: torch.Generator) -> Motion:
    """Move each film in one of the single ways, all equally likely."""
    chosen = torch.randint(len(SINGLE), (count,), generator=generator)
    motions = [torch.stack(draw(count, phase, generator=generator)) for draw in SINGLE.values()]
    return Motion(*torch.stack(motions)[chosen, :, torch.arange(count)].unbind(dim=1))


EQUIVARIANCES: dict[str, Callable[..., Motion]] = {**SINGLE, "mixture": draw_mixture}


def find_equivariance(name: str) -> Callable[..., Motion]:
    """Return the function that draws the motions called `name`: (count, phase, *, generator on the CPU) -> Motion.

    Raises:
        InputError: there is none of that name.
    """
    if name not in EQUIVARIANCES:
        raise InputError(f"there is no equivariance {name!r}; choose one of {', '.join(EQUIVARIANCES)}")
    return EQUIVARIANCES[name]
