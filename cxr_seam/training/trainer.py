"""Train one stage: one step, one epoch, validation.

A step passes dataset, transforms, objective (model and losses) and optimiser. All random parameters of a batch are
sampled first, for the whole batch. `BatchSplit` may then compute the batch in slices: over several processes, or in
micro-batches on a GPU with little memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.dataset import BatchSampler, ChestXrayDataset
from ..data.transforms import eval_transform, sample_augmentation, sample_rotation, train_transform
from ..device import select_device
from ..errors import InputError
from ..metrics.classification import classification_table
from ..recipes import Recipe
from .batch_split import BatchParams, BatchSplit, check_environment, optimiser_step, prepare_for_processes
from .losses import class_weights, known_fraction
from .optim import make_optimiser, make_schedule

CHECK_EVERY = {"cpu": 1, "cuda": 32}
"""Number of updates after which the losses are checked for NaN; each check makes a GPU wait."""

VALIDATION_SEED = 1
"""Seed of the rotations in validation: the same in every epoch, so that losses can be compared."""


class Trainer:
    """Train the stage of a recipe on the device of this machine.

    Attributes:
        objective: the loss of the stage, as accelerate prepared it for device, precision and processes.
        module: the objective itself.
        optimiser: of the trainable parameters.
        schedule: of the learning rate; None if it is constant.
        epoch: number of finished epochs.
        batch: number of finished batches in this epoch.
        losses: of these batches, by name: "loss" and its terms.
        history: a record for each finished epoch: stage, epoch, train_loss, validation_loss, validation_auc,
            learning_rate, seconds.
        generator: of all random parameters of a batch; on the CPU.
    """

    def __init__(self, objective: nn.Module, recipe: Recipe, train_set: ChestXrayDataset) -> None:
        """Prepare an objective on the CPU, see `make_objective`; the images have at least the recipe's size.

        Raises:
            InputError: the images are too small, there are more processes than images in a batch, the GPU cannot be
                used, or `weight_decay` is given for Adam.
        """
        if train_set.size < recipe.image_size:
            raise InputError(
                f"{recipe.name} needs images of {recipe.image_size} pixels, but those of the cache have "
                f"{train_set.size}; prepare them again with size {recipe.image_size}"
            )
        device, stage = select_device(), recipe.stage
        check_environment(device.device)
        self.recipe, self.train_set = recipe, train_set
        self.accelerator = Accelerator(mixed_precision=device.mixed_precision, cpu=device.device == "cpu")
        self.split = BatchSplit(self.accelerator, name=recipe.name)
        self.sampler = BatchSampler(len(train_set), stage.batch_size, shuffle_seed=recipe.seed)
        processes, batch_size = self.accelerator.num_processes, min(stage.batch_size, len(train_set))
        if processes > batch_size:
            raise InputError(f"{processes} processes cannot share a batch of {batch_size} images; launch fewer")
        objective.to(memory_format=torch.channels_last)  # 1.4 times the images a second on two CPU cores
        objective = prepare_for_processes(objective, self.accelerator)
        # The fused optimiser checks for overflow on the GPU; under fp16 the others make the CPU wait at each update.
        optimiser = make_optimiser(objective, recipe, fused=True if device.device == "cuda" else None)
        updates = stage.epochs * math.ceil(len(self.sampler) / stage.grad_accum_steps)
        self.schedule = make_schedule(optimiser, stage, steps=updates)
        self.objective, self.optimiser = self.accelerator.prepare(objective, optimiser)
        self.module = self.accelerator.unwrap_model(self.objective)
        self.history: list[dict[str, Any]] = []
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Reset what belongs to one epoch; each epoch of each seed has its own random numbers."""
        self.epoch, self.batch, self.seconds = epoch, 0, 0.0
        self.losses: dict[str, Tensor] = {}
        self.n_checked = 0
        seed = np.random.SeedSequence((self.recipe.seed, epoch)).generate_state(1)[0]
        self.generator = torch.Generator().manual_seed(int(seed))

    def train_epoch(self) -> Iterator[int]:
        """Train on all batches of the epoch that are left, and yield the number of finished batches after each update.

        Raises:
            InputError: a loss is NaN or infinite, or the memory is too small for one image.
        """
        steps = self.recipe.stage.grad_accum_steps
        self.objective.train()
        batches = list(self.sampler.batches(self.epoch, start=self.batch))
        for first in range(0, len(batches), steps):
            self.train_step(batches[first : first + steps])
            yield self.batch

    def train_step(self, batches: list[np.ndarray]) -> None:
        """Update the weights once, with the gradients of some batches, given as indices into the training set."""
        started, stage = time.perf_counter(), self.recipe.stage
        sampled = [(indices, self.sample_params(self.train_set, indices, self.generator)) for indices in batches]
        compute = partial(self.compute_losses, self.objective, self.train_set)
        losses = self.split.backward(sampled, compute, model=self.objective, steps=stage.grad_accum_steps)
        if stage.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.objective.parameters(), stage.max_grad_norm)
        optimiser_step(self.optimiser)
        if stage.schedule in ("one_cycle", "cosine"):
            self.schedule.step()
        self.losses = {name: torch.cat([self.losses.get(name, new[:0]), new]) for name, new in losses.items()}
        self.batch += len(batches)
        every = CHECK_EVERY[self.accelerator.device.type] * stage.grad_accum_steps
        if self.batch - self.n_checked >= every or self.batch == len(self.sampler):
            self.check_losses()
        self.seconds += time.perf_counter() - started

    def sample_params(
        self, dataset: ChestXrayDataset, indices: np.ndarray, generator: torch.Generator, *, augment: bool = True
    ) -> BatchParams:
        """Sample the random parameters of a whole batch and compute its class weights (Eq. 4, 5)."""
        recipe, n, labels = self.recipe, len(indices), torch.from_numpy(dataset.labels[indices])
        return BatchParams(
            class_weights(labels),
            known_fraction(labels),
            sample_augmentation(n, recipe.augmentation, generator=generator) if augment else None,
            sample_rotation(n, recipe.seam_stage.rotation_degrees, generator=generator) if recipe.seam_stage else None,
        )

    def compute_losses(
        self, objective: nn.Module, dataset: ChestXrayDataset, indices: np.ndarray, params: BatchParams
    ) -> dict[str, Tensor]:
        """Compute the losses of some images of a dataset: means over the images, see `objectives`."""
        images, labels, weights, known = (
            values.to(self.accelerator.device, non_blocking=True)
            for values in (*dataset.load(indices), params.class_weights, params.known)
        )
        size = self.recipe.image_size
        if params.augmentation is None:
            images = eval_transform(images, size=size)  # (B, 1, S, S) uint8 to (B, 3, size, size)
        else:
            images = train_transform(images, params.augmentation, size=size)
        return objective(images, labels, class_weights=weights, rotation=params.rotation, known=known)

    def check_losses(self) -> None:
        """Stop the training if a loss is NaN or infinite.

        Raises:
            InputError: names epoch, batch, loss and images.
        """
        names = sorted(self.losses, key="loss".__eq__)  # the terms first
        losses = torch.stack([self.losses[name][self.n_checked :] for name in names])  # (names, batches)
        wrong = ~losses.isfinite().cpu()
        if wrong.any():
            first = int(wrong.any(dim=0).int().argmax())
            name, batch = names[int(wrong[:, first].int().argmax())], self.n_checked + first
            indices = next(self.sampler.batches(self.epoch, start=batch))
            raise InputError(
                f"{name} of {self.recipe.name} is {self.losses[name][batch].item()} in epoch {self.epoch}, batch "
                f"{batch}; lower the learning rate, or check the images of the batch: "
                f"{', '.join(self.train_set.image_index[index] for index in indices)}"
            )
        self.n_checked = self.batch

    @property
    def is_checked(self) -> bool:
        """Whether all losses so far have been checked: other weights must not be saved."""
        return self.n_checked == self.batch

    def finish_epoch(self, val_set: ChestXrayDataset) -> dict[str, Any]:
        """Validate, append a record to the history, step the plateau schedule and start the next epoch."""
        started = time.perf_counter()
        record = {
            "stage": "classifier" if self.recipe.seam_stage is None else "seam",
            "epoch": self.epoch,
            "train_loss": self.losses["loss"].mean().item(),
            **self.validate(val_set),
            "learning_rate": max(group["lr"] for group in self.optimiser.param_groups),
        }
        record["seconds"] = self.seconds + time.perf_counter() - started
        self.history.append(record)
        score = self.module.score(record)
        if self.recipe.stage.schedule == "plateau" and math.isfinite(score):
            self.schedule.step(score)
        self.start_epoch(self.epoch + 1)
        return record

    @torch.inference_mode()
    def validate(self, val_set: ChestXrayDataset) -> dict[str, float | None]:
        """Compute "validation_loss" and "validation_auc" (None if the stage trains no classifier), one view an image.

        Raises:
            InputError: the loss is NaN or infinite.
        """
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        total = torch.zeros((), device=self.accelerator.device)
        logits = torch.zeros(val_set.labels.shape, device=self.accelerator.device)  # (N, K)
        compute = partial(self.compute_losses, self.module.eval(), val_set)
        for batch in BatchSampler(len(val_set), self.recipe.stage.batch_size).batches():
            params = self.sample_params(val_set, batch, generator, augment=False)
            for indices, result in self.split.forward(batch, params, compute):
                total += result["loss"] * len(indices)
                if "logits" in result:
                    logits[indices] = result["logits"].float()
        loss, auc = float(self.split.sum(total)) / len(val_set), math.nan
        if not math.isfinite(loss):
            raise InputError(
                f"the validation loss of {self.recipe.name} is {loss} in epoch {self.epoch}; lower the learning rate"
            )
        if self.recipe.seam_stage is None or self.recipe.seam_stage.joint:
            logits = self.split.sum(logits)  # each process has computed some rows
            table = classification_table(val_set.labels, logits.cpu().numpy(), findings=val_set.findings)
            auc = float(table["auc"].mean())
        return {"validation_loss": loss, "validation_auc": None if math.isnan(auc) else auc}
