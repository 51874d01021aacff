"""How the weights are updated while a phase is trained: the optimiser, and how its learning rate moves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..recipes import Recipe, Stage

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimiser(objective: nn.Module, recipe: Recipe, *, fused: bool | None) -> torch.optim.Optimizer:
    """The optimiser of an objective's trainable parameters, as the recipe's phase says.

    "adamw" lets weights decay and leaves alone what is a vector: biases, and the scales of normalisation or of a block
    (ConvNeXt's are (C, 1, 1)).

    Args:
        objective: frozen as the phase wants it.
        recipe: whose phase it is.
        fused: see `torch.optim.Adam`.

    Raises:
        InputError: there is no such optimiser, or "adam" is to decay weights, which it would do in another way.
    """
    phase = recipe.stage
    if phase.optimiser not in OPTIMISERS:
        raise InputError(f"there is no optimiser {phase.optimiser!r}; choose {' or '.join(OPTIMISERS)}")
    decays = phase.optimiser == "adamw" and phase.weight_decay > 0
    if phase.weight_decay and not decays:
        raise InputError(f"weight_decay of {recipe.name} is for the optimiser 'adamw'; choose that one, or 0")
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in objective.parameters():
        if parameter.requires_grad:
            decay = phase.weight_decay if decays and parameter.squeeze().ndim > 1 else 0.0
            groups.setdefault(decay, []).append(parameter)
    return OPTIMISERS[phase.optimiser](
        [{"params": parameters, "weight_decay": decay} for decay, parameters in sorted(groups.items())],
        lr=phase.learning_rate,
        betas=phase.betas,
        fused=fused,
    )


def make_schedule(optimiser: torch.optim.Optimizer, phase: Stage, *, steps: int) -> Any:
    """The learning-rate schedule: "plateau" is stepped once an epoch, "constant" never, the others once an update.

    "cosine" raises the rate in equal steps over the first `warmup_fraction` of the updates, then lowers it along half a cosine
    to 0 (Loshchilov and Hutter 2017, without restarts).

    Raises:
        InputError: the phase names another.
    """
    if phase.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, mode="max", factor=phase.plateau_factor, patience=phase.plateau_patience
        )
    if phase.schedule == "one_cycle":
        rates = [group["lr"] for group in optimiser.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rates, total_steps=steps, cycle_momentum=False)
    if phase.schedule == "cosine":
        rising = round(phase.warmup_fraction * steps)

        def share(done: int) -> float:
            """Of the full rate, for the update after `done` others."""
            if done < rising:
                return (done + 1) / rising
            return 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, steps - rising)))

        return torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    if phase.schedule == "constant":
        return None
    raise InputError(f"there is no schedule {phase.schedule!r}; choose plateau, one_cycle, cosine or constant")


def steps_per_batch(phase: Stage) -> bool:
    """Whether the schedule is stepped once an update."""
    return phase.schedule in ("one_cycle", "cosine")
