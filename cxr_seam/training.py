"""One loop for both phases: batches, an objective that gives a loss, an optimiser, a history, checkpoints.

An objective is a module whose `forward(images, labels, generator=...)` returns a dictionary of scalars with "loss" (and
"logits" where it has them). `ClassificationObjective` here is the first phase, `seam.SeamObjective` the second.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from .augment import augment, to_input
from .checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from .classification import classification_table, mean_auc
from .errors import InputError
from .files import whole_file
from .films import Films, loader
from .hardware import find_hardware
from .losses import balanced_bce
from .models import LocalizationModel, build_model
from .recipes import Phase, Recipe
from .seam import SeamObjective

VALIDATION_SEED = 1
"""Validation draws its rotations from here, the same ones every epoch, so that losses compare between epochs."""


class ClassificationObjective(nn.Module):
    """The loss of the first phase for a batch: balanced cross-entropy of the logits (Eq. 3-5)."""

    monitor = ("validation_auc", "max")

    def __init__(self, model: LocalizationModel, *, trainable_from_stride: int) -> None:
        """Freeze the finer stages of `model`'s backbone."""
        super().__init__()
        model.train_only_from_stride(trainable_from_stride)
        self.model = model

    def forward(self, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return "loss" and "logits" (B, 14)."""
        del generator  # nothing random here
        logits = self.model(images, maps=False).logits
        return {"loss": balanced_bce(logits, labels), "logits": logits}


def make_objective(model: LocalizationModel, recipe: Recipe) -> nn.Module:
    """The objective of the phase that `recipe` trains."""
    if recipe.seam is not None:
        return SeamObjective(model, recipe.seam)
    return ClassificationObjective(model, trainable_from_stride=recipe.backbone.trainable_from_stride)


def starting_model(recipe: Recipe, folder: Path) -> LocalizationModel:
    """A fresh model, or for a recipe with `start_from` the best one that that recipe left in `folder`.

    Raises:
        InputError: the earlier phase has left no checkpoint, or weights cannot be had.
    """
    if recipe.start_from is None:
        return build_model(recipe.model, weights=recipe.weights, gamma=recipe.lse_gamma)
    path = best_path(folder, recipe.start_from)
    if not path.exists():
        raise InputError(
            f"{recipe.name} goes on from {recipe.start_from}, but there is no {path}; train that one first"
        )
    return load_checkpoint(path)[0]


def best_path(folder: Path, name: str) -> Path:
    """Where the best checkpoint of the recipe called `name` lies."""
    return Path(folder) / f"{name}.best.safetensors"


def history_path(folder: Path, name: str) -> Path:
    """Where the history of the recipe called `name` lies: one JSON object a line, one line an epoch."""
    return Path(folder) / f"{name}.history.jsonl"


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


def train(
    recipe: Recipe,
    folder: Path | str,
    *,
    train_films: Films,
    validation_films: Films,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train what `recipe` describes and keep its best and last model in `folder`.

    Writes `NAME.best.safetensors`, `NAME.last.safetensors` and `NAME.history.jsonl`, after every epoch. An earlier run
    of the same recipe in the same folder is replaced.

    Args:
        recipe: from `recipes`.
        folder: where checkpoints go and where the model of `recipe.start_from` is looked for.
        train_films: to learn from.
        validation_films: to choose the best epoch by.
        on_epoch: called with each epoch's record.

    Returns:
        The history: records with phase, epoch, train_loss, validation_loss, validation_auc, learning_rate, seconds.

    Raises:
        InputError: the model cannot be made, the films are too small for the recipe, the loss is no longer a finite
            number, or the last models cannot be written. Where an earlier epoch's cannot (Drive drops), a warning says
            so and training goes on; the next epoch writes again.
    """
    folder = Path(folder)
    if train_films.size < recipe.image_size:
        raise InputError(
            f"{recipe.name} is for films of {recipe.image_size} pixels, but those at hand have {train_films.size}; "
            f"prepare them again with size {recipe.image_size}"
        )
    hardware = find_hardware()
    phase = recipe.phase
    set_seed(recipe.seed)
    objective = make_objective(starting_model(recipe, folder), recipe)
    objective.to(memory_format=torch.channels_last)  # on two CPU cores 1.4 times the images a second
    accelerator = Accelerator(
        mixed_precision=hardware.mixed_precision,
        gradient_accumulation_steps=phase.accumulation,
        cpu=hardware.device == "cpu",
    )
    batches = loader(train_films, phase.batch_size, shuffle_seed=recipe.seed)
    optimiser = torch.optim.Adam(
        [p for p in objective.parameters() if p.requires_grad], lr=phase.learning_rate, betas=phase.betas
    )
    updates = phase.epochs * math.ceil(len(batches) / phase.accumulation)
    schedule = make_schedule(optimiser, phase, steps=updates)
    sampler = batches.batch_sampler
    objective, optimiser, batches = accelerator.prepare(objective, optimiser, batches)

    history: list[dict[str, Any]] = []
    progress = tqdm(total=phase.epochs * len(sampler), desc=recipe.name, unit="batch")
    for epoch in range(phase.epochs):
        started = time.perf_counter()
        sampler.epoch = epoch
        generator = torch.Generator().manual_seed(epoch_seed(recipe.seed, epoch))
        objective.train()
        losses = []
        for films, labels in batches:
            images = augment(films, recipe.augmentation, size=recipe.image_size, generator=generator)
            with accelerator.accumulate(objective):
                loss = objective(images, labels, generator=generator)["loss"]
                accelerator.backward(loss)
                if accelerator.sync_gradients and phase.clip_norm is not None:
                    accelerator.clip_grad_norm_(objective.parameters(), phase.clip_norm)
                optimiser.step()
                optimiser.zero_grad()
            if phase.schedule == "one_cycle" and accelerator.sync_gradients:
                schedule.step()
            losses.append(loss.detach())  # read once an epoch: reading each would make the GPU wait
            progress.update()
        train_loss = torch.stack(losses).mean().item()
        require_finite(train_loss, f"the loss of {recipe.name} in epoch {epoch}")
        record = {
            "phase": "pcm" if recipe.seam is not None else "backbone",
            "epoch": epoch,
            "train_loss": train_loss,
            **validate(objective, validation_films, recipe=recipe, device=accelerator.device),
            "learning_rate": optimiser.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
        }
        require_finite(record["validation_loss"], f"the validation loss of {recipe.name} in epoch {epoch}")
        history.append(record)
        if phase.schedule == "plateau" and record["validation_auc"] is not None:
            schedule.step(record["validation_auc"])
        try:
            keep(accelerator.unwrap_model(objective), recipe, folder, history=history)
        except OSError as error:
            if epoch + 1 == phase.epochs:
                raise
            warnings.warn(f"epoch {epoch}: {error}; training goes on and writes again after the next one", stacklevel=2)
        progress.set_postfix(
            {key: f"{record[key]:.3f}" for key in ("train_loss", "validation_auc") if record[key] is not None}
        )
        if on_epoch is not None:
            on_epoch(record)
    progress.close()
    return history


def require_finite(loss: float, what: str) -> None:
    """Stop a run whose loss is no number any more: nothing that follows would be one."""
    if not math.isfinite(loss):
        raise InputError(f"{what} is {loss}; lower the learning rate")


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch of every run."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


@torch.inference_mode()
def validate(objective: nn.Module, films: Films, *, recipe: Recipe, device: torch.device) -> dict[str, float | None]:
    """Mean loss and mean AUC over `films`, without augmentation; the AUC is None where no classifier is trained."""
    objective.eval()
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    total, logits = 0.0, []
    for pixels, labels in loader(films, recipe.phase.batch_size):
        images = to_input(pixels.to(device), size=recipe.image_size)
        result = objective(images, labels.to(device), generator=generator)
        total = total + result["loss"] * len(labels)
        if "logits" in result:
            logits.append(result["logits"].float().cpu())
    auc = None
    if logits:
        auc = mean_auc(classification_table(films.labels, torch.cat(logits).sigmoid().numpy()))
        auc = None if math.isnan(auc) else auc  # JSON has no NaN
    return {"validation_loss": float(total) / len(films), "validation_auc": auc}


def keep(objective: nn.Module, recipe: Recipe, folder: Path, *, history: list[dict[str, Any]]) -> None:
    """Write the last model, the best one if this epoch is it, and the history."""
    key, direction = objective.monitor
    sign = 1 if direction == "max" else -1
    values = [-math.inf if record[key] is None else sign * record[key] for record in history]
    latest = history[-1]
    about = Checkpoint(recipe, epoch=latest["epoch"] + 1, metrics=latest)
    save_checkpoint(folder / f"{recipe.name}.last.safetensors", objective.model, about=about)
    if len(values) == 1 or values[-1] > max(values[:-1]):
        save_checkpoint(best_path(folder, recipe.name), objective.model, about=about)
    with whole_file(history_path(folder, recipe.name)) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in history))


def read_history(folder: Path | str, name: str) -> list[dict[str, Any]]:
    """Read the history that training the recipe called `name` left in `folder`.

    Raises:
        InputError: there is none.
    """
    path = history_path(Path(folder), name)
    if not path.exists():
        raise InputError(f"there is no {path}; train {name} first")
    return [json.loads(line) for line in path.read_text().splitlines()]
