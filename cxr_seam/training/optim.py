"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..recipes import Recipe, SeamStage, Stage

CLASSIFIER_RATE = 0.1
"""Rate of the classifier divided by that of the refiner.

Wang et al. 2020 (Sect. 4.1) train new layers ten times as fast as the others.
"""


def make_optimiser(objective: nn.Module, recipe: Recipe, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """Make the optimiser of an objective's trainable parameters.

    "adamw" decays weights, but no vectors: biases, and the scales of normalisation or of a block (ConvNeXt's are
    (C, 1, 1)). In joint training the classifier learns at `CLASSIFIER_RATE` times the rate of the refiner.

    Args:
        objective: frozen as the stage wants it.
        recipe: names the optimiser and its numbers.
        fused: see `torch.optim.Adam`.

    Raises:
        InputError: `weight_decay` is given for "adam".
    """
    stage = recipe.stage
    if stage.weight_decay and stage.optimiser != "adamw":
        raise InputError(f"weight_decay of {recipe.name} is for the optimiser 'adamw'; choose that one, or 0")
    optimiser = torch.optim.AdamW if stage.optimiser == "adamw" else torch.optim.Adam
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            decay = stage.weight_decay if parameter.squeeze().ndim > 1 else 0.0
            slower = isinstance(stage, SeamStage) and stage.joint and "refiner" not in name.split(".")
            rate = stage.learning_rate * (CLASSIFIER_RATE if slower else 1)
            groups.setdefault((decay, rate), []).append(parameter)
    return optimiser(
        [
            {"params": parameters, "weight_decay": decay, "lr": rate}
            for (decay, rate), parameters in sorted(groups.items())
        ],
        lr=stage.learning_rate,
        betas=stage.betas,
        fused=fused,
    )


def make_schedule(optimiser: torch.optim.Optimizer, stage: Stage, *, steps: int) -> Any:
    """Make the learning-rate schedule of a stage with `steps` updates; None for "constant".

    "plateau" is stepped once an epoch with the epoch's score: with a patience of 6 it lowers the rate after the 7th
    epoch in a row without a rise. "one_cycle" and "cosine" are stepped after each update. "cosine" raises the rate
    linearly over the first `warmup_fraction` of the updates, then lowers it along half a cosine to 0 (Loshchilov and
    Hutter 2017, without restarts).
    """
    if stage.schedule == "constant":
        return None
    if stage.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, mode="max", factor=stage.plateau_factor, patience=stage.plateau_patience
        )
    if stage.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=[group["lr"] for group in optimiser.param_groups], total_steps=steps, cycle_momentum=False
        )
    warmup = round(stage.warmup_fraction * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
