"""One pass over the films: vary, forward, backward, update. A GPU is waited for once, at its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .augment import augment
from .errors import InputError
from .films import Batches, Films, loader
from .hardware import find_hardware
from .recipes import Phase, Recipe


@dataclass(frozen=True)
class Loop:
    """What training a recipe's phase needs, set up for the device at hand; made by `make_loop`.

    Attributes:
        recipe: what is trained.
        objective: a module whose `forward(images, labels, generator=...)` returns a dictionary with "loss".
        optimiser: over the objective's trainable parameters.
        schedule: of the learning rate, None where it is constant.
        batches: of the training films.
        sampler: the order of the films, which depends on its `epoch`.
        accelerator: device, precision, accumulation of gradients.
    """

    recipe: Recipe
    objective: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: Any
    batches: DataLoader
    sampler: Batches
    accelerator: Accelerator

    def epoch(self, epoch: int, *, on_batch: Callable[[], object] = lambda: None) -> float:
        """Learn from every film once, but for an incomplete last batch (`films.Batches`).

        Args:
            epoch: its number, from which order and variation of the films are drawn.
            on_batch: called after each batch.

        Returns:
            The mean loss.
        """
        self.sampler.epoch = epoch
        generator = torch.Generator().manual_seed(epoch_seed(self.recipe.seed, epoch))
        self.objective.train()
        losses = []
        for films, labels in self.batches:  # to its end: accelerate updates early after a pass that was left midway
            losses.append(self.step(self.vary(films, generator=generator), labels, generator=generator))
            on_batch()
        return torch.stack(losses).mean().item()  # read once: reading each loss would make a GPU wait

    def vary(self, films: Tensor, *, generator: torch.Generator) -> Tensor:
        """Augment and normalise a batch of grey films (B, 1, S, S) uint8 as the recipe says."""
        return augment(films, self.recipe.augmentation, size=self.recipe.image_size, generator=generator)

    def step(self, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """Learn from one batch, (B, 3, H, W) normalised with (B, 14) labels; returns its loss, a detached scalar.

        Where an epoch's batches do not fill the last update, their gradients are divided by the full number of
        accumulation steps (accelerate's way): a weaker update, once an epoch.
        """
        phase, accelerator = self.recipe.phase, self.accelerator
        with accelerator.accumulate(self.objective):
            loss = self.objective(images, labels, generator=generator)["loss"]
            accelerator.backward(loss)
            if accelerator.sync_gradients and phase.clip_norm is not None:
                accelerator.clip_grad_norm_(self.objective.parameters(), phase.clip_norm)
            self.optimiser.step()
            self.optimiser.zero_grad()
        if phase.schedule == "one_cycle" and accelerator.sync_gradients:
            self.schedule.step()
        return loss.detach()


def make_loop(objective: nn.Module, recipe: Recipe, films: Films) -> Loop:
    """Set up the training of `recipe`'s phase on `films`.

    Args:
        objective: on the CPU, frozen as the phase wants it.
        recipe: says batches, optimiser, schedule, augmentation, seed.
        films: to learn from.

    Raises:
        InputError: the films are smaller than the recipe's, the GPU cannot be used, or there is no such schedule.
    """
    if films.size < recipe.image_size:
        raise InputError(
            f"{recipe.name} is for films of {recipe.image_size} pixels, but those at hand have {films.size}; "
            f"prepare them again with size {recipe.image_size}"
        )
    hardware, phase = find_hardware(), recipe.phase
    objective.to(memory_format=torch.channels_last)  # on two CPU cores 1.4 times the images a second
    accelerator = Accelerator(
        mixed_precision=hardware.mixed_precision,
        gradient_accumulation_steps=phase.accumulation,
        cpu=hardware.device == "cpu",
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
    )
    batches = loader(films, phase.batch_size, shuffle_seed=recipe.seed)
    sampler = batches.batch_sampler
    optimiser = torch.optim.Adam(
        [p for p in objective.parameters() if p.requires_grad],
        lr=phase.learning_rate,
        betas=phase.betas,
        # The fused one looks for overflowing gradients on the GPU; the others, under fp16, ask the CPU at each update.
        fused=True if hardware.device == "cuda" else None,
    )
    updates = phase.epochs * math.ceil(len(batches) / phase.accumulation)
    schedule = make_schedule(optimiser, phase, steps=updates)
    objective, optimiser, batches = accelerator.prepare(objective, optimiser, batches)
    return Loop(recipe, objective, optimiser, schedule, batches, sampler, accelerator)


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


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch of every run."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
