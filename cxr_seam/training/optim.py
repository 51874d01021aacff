"""How the weights are updated while a phase is trained: the optimiser, and how its learning rate moves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import InputError
from ..recipes import Recipe, Stage

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


REFINER = "refiner"
"""The part of a model that a joint recipe trains at a rate of its own."""


def make_optimiser(objective: nn.Module, recipe: Recipe, *, fused: bool | None) -> torch.optim.Optimizer:
    """The optimiser of an objective's trainable parameters, as the recipe's phase says.

    "adamw" lets weights decay and leaves alone what is a vector: biases, and the scales of normalisation or of a block
    (ConvNeXt's are (C, 1, 1)). A joint recipe's refiner has the learning rate of its seam phase.

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
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            kind = recipe.joint and REFINER in name.split("."), decays and parameter.squeeze().ndim > 1
            groups.setdefault(kind, []).append(parameter)
    return OPTIMISERS[phase.optimiser](
        [
            {
                "params": parameters,
                "lr": recipe.seam_stage.learning_rate if refines else phase.learning_rate,
                "weight_decay": phase.weight_decay if heavy else 0.0,
            }
            for (refines, heavy), parameters in sorted(groups.items())
        ],
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


def average_of(module: nn.Module, *, decay: float) -> AveragedModel:
    """The average of a module's weights and statistics, as yet of none; `update_parameters(module)` adds to it.

    Its count of updates stays on the CPU, so that a GPU is not waited for.

    Args:
        module: is copied, on its device; draws no random number.
        decay: from 0 to below 1; 0.999 looks back a thousand updates.
    """
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False)
