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
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from .augment import to_input
from .checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from .classification import choose_thresholds, classification_table, mean_auc
from .errors import InputError
from .files import whole_file
from .films import Films, loader
from .findings import FINDINGS
from .loop import make_loop
from .losses import balanced_bce
from .models import LocalizationModel, build_model
from .recipes import BackbonePhase, Recipe
from .seam import SeamObjective

VALIDATION_SEED = 1
"""Validation draws its rotations from here, the same ones every epoch, so that losses compare between epochs."""


class ClassificationObjective(nn.Module):
    """The loss of the first phase for a batch: balanced cross-entropy of the logits (Eq. 3-5)."""

    monitor = ("validation_auc", "max")

    def __init__(self, model: LocalizationModel, phase: BackbonePhase) -> None:
        """Freeze what the phase does not train."""
        super().__init__()
        model.train_only_from_stride(
            phase.trainable_from_stride, head=phase.head_trainable, frozen_statistics=phase.frozen_statistics
        )
        self.model = model

    def forward(
        self, images: Tensor, labels: Tensor, *, generator: torch.Generator, part: slice = slice(None)
    ) -> dict[str, Tensor]:
        """Classify `part` of a batch; see `seam.SeamObjective.forward`. Returns "loss" and "logits" (B, 14)."""
        del generator  # nothing random here
        logits = self.model(images, maps=False).logits
        return {"loss": balanced_bce(logits, labels[part], batch=labels), "logits": logits}


def make_objective(model: LocalizationModel, recipe: Recipe) -> nn.Module:
    """The objective of the phase that `recipe` trains."""
    if recipe.seam is not None:
        return SeamObjective(model, recipe.seam)
    return ClassificationObjective(model, recipe.backbone)


def starting_model(recipe: Recipe, folder: Path) -> tuple[LocalizationModel, dict[str, float | None] | None]:
    """A fresh model, or for a recipe with `start_from` the best one that that recipe left in `folder`.

    Returns:
        The model and the thresholds of its classifier, None where it has yet to be trained.

    Raises:
        InputError: the earlier phase has left no checkpoint, or weights cannot be had.
    """
    if recipe.start_from is None:
        return build_model(
            recipe.model, weights=recipe.weights, gamma=recipe.lse_gamma, background=recipe.background
        ), None
    path = best_path(folder, recipe.start_from)
    if not path.exists():
        raise InputError(
            f"{recipe.name} goes on from {recipe.start_from}, but there is no {path}; train that one first"
        )
    model, about = load_checkpoint(path)
    model.background = recipe.background
    return model, about.thresholds


def best_path(folder: Path, name: str) -> Path:
    """Where the best checkpoint of the recipe called `name` lies."""
    return Path(folder) / f"{name}.best.safetensors"


def history_path(folder: Path, name: str) -> Path:
    """Where the history of the recipe called `name` lies: one JSON object a line, one line an epoch."""
    return Path(folder) / f"{name}.history.jsonl"


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
    set_seed(recipe.seed)
    model, thresholds = starting_model(recipe, folder)
    loop = make_loop(make_objective(model, recipe), recipe, train_films)
    phase = recipe.phase
    history: list[dict[str, Any]] = []
    best = None
    progress = tqdm(total=phase.epochs * len(loop.sampler), desc=recipe.name, unit="batch")
    for epoch in range(phase.epochs):
        started = time.perf_counter()
        train_loss = require_finite(
            loop.epoch(epoch, on_batch=progress.update), f"the loss of {recipe.name} in epoch {epoch}"
        )
        measured, logits = validate(loop.objective, validation_films, recipe=recipe, device=loop.accelerator.device)
        require_finite(measured["validation_loss"], f"the validation loss of {recipe.name} in epoch {epoch}")
        record = {
            "phase": "pcm" if recipe.seam is not None else "backbone",
            "epoch": epoch,
            "train_loss": train_loss,
            **measured,
            "learning_rate": loop.optimiser.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
        }
        history.append(record)
        if phase.schedule == "plateau" and record["validation_auc"] is not None:
            loop.schedule.step(record["validation_auc"])
        if logits is not None:
            thresholds = named_thresholds(validation_films.labels, logits)
        about = Checkpoint(recipe, epoch=epoch + 1, metrics=record, thresholds=thresholds)
        try:
            best = keep(loop.accelerator.unwrap_model(loop.objective), folder, about=about, history=history, best=best)
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


def require_finite(loss: float, what: str) -> float:
    """Return `loss`, or stop a run whose loss is no number any more: nothing that follows would be one."""
    if not math.isfinite(loss):
        raise InputError(f"{what} is {loss}; lower the learning rate")
    return loss


@torch.inference_mode()
def validate(
    objective: nn.Module, films: Films, *, recipe: Recipe, device: torch.device
) -> tuple[dict[str, float | None], np.ndarray | None]:
    """Measure an objective on `films`, without augmentation.

    Returns:
        "validation_loss" and "validation_auc", the means, the latter None where no classifier is trained; and the
        logits (N, 14) float32, None there too.
    """
    objective.eval()
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    total, logits = 0.0, []
    for pixels, labels in loader(films, recipe.phase.batch_size):
        images = to_input(pixels.to(device, non_blocking=True), size=recipe.image_size)
        result = objective(images, labels.to(device, non_blocking=True), generator=generator)
        total = total + result["loss"] * len(labels)
        if "logits" in result:
            logits.append(result["logits"].float())
    loss = float(total) / len(films)
    if not logits or not math.isfinite(loss):
        return {"validation_loss": loss, "validation_auc": None}, None
    found = torch.cat(logits).cpu().numpy()
    auc = mean_auc(classification_table(films.labels, found))
    auc = None if math.isnan(auc) else auc  # JSON has no NaN
    return {"validation_loss": loss, "validation_auc": auc}, found


def named_thresholds(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    """The probability from which on each finding is called present (`choose_thresholds`), None where not defined."""
    chosen = choose_thresholds(labels, torch.from_numpy(logits).double().sigmoid().numpy())
    return {name: None if math.isnan(value) else float(value) for name, value in zip(FINDINGS, chosen, strict=True)}


def keep(
    objective: nn.Module, folder: Path, *, about: Checkpoint, history: list[dict[str, Any]], best: float | None
) -> float:
    """Write the last model, the best one if this epoch is it, and the history.

    Args:
        objective: says what the best epoch is judged by.
        folder: where to.
        about: of this epoch.
        history: up to this epoch.
        best: what the best model that was written scored, the more the better; None before any was.

    Returns:
        The same after this epoch.
    """
    key, direction = objective.monitor
    value = about.metrics[key]
    score = -math.inf if value is None else value if direction == "max" else -value
    name = about.recipe.name
    save_checkpoint(folder / f"{name}.last.safetensors", objective.model, about=about)
    with whole_file(history_path(folder, name)) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in history))
    if best is None or score > best:  # written last: where anything fails, `best` still tells of the file that is there
        save_checkpoint(best_path(folder, name), objective.model, about=about)
        best = score
    return best


def read_history(folder: Path | str, name: str) -> list[dict[str, Any]]:
    """Read the history that training the recipe called `name` left in `folder`.

    Raises:
        InputError: there is none.
    """
    path = history_path(Path(folder), name)
    if not path.exists():
        raise InputError(f"there is no {path}; train {name} first")
    return [json.loads(line) for line in path.read_text().splitlines()]
