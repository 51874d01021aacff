"""How the learning rate moves while a phase is trained."""

from __future__ import annotations

from typing import Any

import torch

from .errors import InputError
from .recipes import Phase


def make_schedule(optimiser: torch.optim.Optimizer, phase: Phase, *, steps: int) -> Any:
    """The learning-rate schedule: "plateau" is stepped once an epoch, "one_cycle" once an update, "constant" never.

    Raises:
        InputError: the phase names another.
    """
    if phase.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, mode="max", factor=phase.plateau_factor, patience=phase.plateau_patience
        )
    if phase.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=phase.learning_rate, total_steps=steps, cycle_momentum=False
        )
    if phase.schedule == "constant":
        return None
    raise InputError(f"there is no schedule {phase.schedule!r}; choose plateau, one_cycle or constant")
