"""Train recipes from the first epoch to the calibrated checkpoint, and continue runs that were interrupted."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from ..data.dataset import ChestXrayDataset
from ..device import oom_as_input_error, select_device
from ..errors import InputError
from ..findings import FINDINGS
from ..inference.calibration import calibrate
from ..models.build import build_from_recipe
from ..models.checkpoint import (
    Checkpoint,
    TrainingData,
    best_path,
    checkpoint_bytes,
    load_checkpoint,
    read_header,
    require_findings,
)
from ..models.multires import LocalizationModel
from ..recipes import Recipe
from ..workspace import Workspace
from .objectives import make_objective
from .resume import data_fingerprint, latest_state, restore, run_fingerprint, state_bytes
from .storage import CheckpointWriter, RunFolder, state_name
from .trainer import Trainer

ANEW = "overwrite=True (--overwrite) trains it again"
KEPT_STATES = 2
"""Number of training states that stay in the folder: the latest may be damaged."""


class Callback:
    """Follow a training; override what you need. With several processes only the main process calls callbacks."""

    def on_complete(self, recipe: Recipe) -> None:
        """Called if the recipe is trained already; nothing else is called then."""

    def on_start(self, trainer: Trainer) -> None:
        """Called before the first batch, also if the run continues."""

    def on_update(self, trainer: Trainer) -> None:
        """Called after each update of the weights."""

    def on_epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Called after each epoch with its record of the history."""

    def on_end(self, trainer: Trainer) -> None:
        """Called after the last epoch, before the calibration."""


class ProgressBar(Callback):
    """Show a progress bar with the losses, and print where a run continues."""

    def on_complete(self, recipe: Recipe) -> None:
        """Print that there is nothing to do."""
        print(f"{recipe.name} is trained already; {ANEW}")

    def on_start(self, trainer: Trainer) -> None:
        """Open the bar."""
        if trainer.epoch or trainer.batch:
            print(f"{trainer.recipe.name} continues at epoch {trainer.epoch}, batch {trainer.batch}")
        batches = trainer.recipe.stage.epochs * len(trainer.sampler)
        self.bar = tqdm(total=batches, desc=trainer.recipe.name, unit="batch")
        self.on_update(trainer)

    def on_update(self, trainer: Trainer) -> None:
        """Advance the bar."""
        self.bar.update(trainer.epoch * len(trainer.sampler) + trainer.batch - self.bar.n)

    def on_epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Show the losses."""
        keys = ("train_loss", "validation_loss", "validation_auc")
        self.bar.set_postfix({key: f"{record[key]:.3f}" for key in keys if record[key] is not None})

    def on_end(self, trainer: Trainer) -> None:
        """Close the bar."""
        self.bar.close()


class JsonLines(Callback):
    """Print the record of each epoch as a line of JSON."""

    def on_epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Print the record, above a progress bar."""
        tqdm.write(json.dumps(record))


@dataclass
class CheckpointSaver(Callback):
    """Save the best and the last checkpoint and the history after each epoch, and states in between.

    The first state is saved after the first epoch at the latest.

    Attributes:
        writer: writes the files.
        data: what the run is trained on.
        best_score: of the best checkpoint in the folder, None if there is none.
        has_state: whether there is a state in the folder.
        save_minutes: time between two states.
        saved: when the last state was saved.
    """

    writer: CheckpointWriter
    data: TrainingData
    best_score: float | None
    has_state: bool
    save_minutes: float
    saved: float = field(default_factory=time.monotonic)

    def on_update(self, trainer: Trainer) -> None:
        """Save a state if it is time, and if all losses have been checked."""
        if trainer.is_checked and time.monotonic() - self.saved >= 60 * self.save_minutes:
            self.save_state(trainer)

    def on_epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Save the checkpoint if it is the best, and the history."""
        files, score = self.writer.files, trainer.module.score(record)
        metadata = Checkpoint(trainer.recipe, epoch=trainer.epoch, metrics=record, data=self.data)
        if self.best_score is None or score > self.best_score:
            self.best_score = score
            self.writer.write(files.best_path.name, checkpoint_bytes(trainer.module.model, metadata=metadata))
        lines = "".join(json.dumps(record) + "\n" for record in trainer.history)
        self.writer.write(files.history_path.name, lines.encode())
        if trainer.epoch == trainer.recipe.stage.epochs:
            self.writer.write(files.last_path.name, checkpoint_bytes(trainer.module.model, metadata=metadata))
        elif not self.has_state:
            self.save_state(trainer)

    def save_state(self, trainer: Trainer) -> None:
        """Save a state and remove old ones."""
        name = state_name(trainer.recipe.name, epoch=trainer.epoch, batch=trainer.batch)
        run = run_fingerprint(trainer.recipe, self.data, trainer.train_set.findings)
        if self.writer.write(name, state_bytes(trainer, run)):
            self.has_state = True
            self.writer.prune(KEPT_STATES)
        self.saved = time.monotonic()


@oom_as_input_error()
def fit(
    recipe: Recipe,
    output_dir: Path | str,
    *,
    train_set: ChestXrayDataset,
    val_set: ChestXrayDataset,
    callbacks: Sequence[Callback] | None = None,
    overwrite: bool = False,
    local_dir: Path | None = None,
    save_minutes: float = 10.0,
) -> list[dict[str, Any]]:
    """Train a recipe, or continue where an earlier call was interrupted, and calibrate the best checkpoint.

    On a CPU an interrupted run that continues ends with the same bits as one that was not interrupted. If the run is
    complete, nothing is done. Under `accelerate launch` each process calls this function and computes a slice of every
    batch.

    Args:
        recipe: see `presets`.
        output_dir: folder of checkpoints and history, and of the checkpoint of `recipe.init_from`.
        train_set: images to train on.
        val_set: images that select the best epoch and that calibrate its checkpoint.
        callbacks: by default a progress bar; an empty list prints nothing.
        overwrite: train again, even if the run is complete or could continue.
        local_dir: folder on a local disk, if `output_dir` is on a disk that may vanish, see `storage`.
        save_minutes: time between two training states.

    Returns:
        The history, a record for each epoch, see `Trainer.history`.

    Raises:
        InputError: the model cannot be built, the images are too small for the recipe, a file in `output_dir` is
            damaged or belongs to another run, a loss is NaN, the GPU's memory is too small, or the files cannot be
            written at the end. Before, a failed write costs a warning.
    """
    process = PartialState(cpu=select_device().device == "cpu")
    callbacks = [ProgressBar()] if callbacks is None else list(callbacks)
    init_path = init_checkpoint(recipe, Path(output_dir))
    data = data_fingerprint(train_set, val_set, init_path=init_path)
    run = run_fingerprint(recipe, data, train_set.findings)
    files = RunFolder(output_dir, recipe.name, local_dir=local_dir)
    best, found, history = None, None, None
    if not overwrite:
        best = files.best(run)
        if best is not None and best.scores is not None:  # the calibrated checkpoint is written last
            history = files.complete_history(epochs=recipe.stage.epochs)
        else:
            found = latest_state(files.states(), run)
    trainer = None if history is not None else start_trainer(recipe, init_path, train_set, found)
    process.wait_for_everyone()  # until all processes have read the files: the main process changes them now
    if process.is_main_process:
        writer = CheckpointWriter(files)
        if trainer is None:
            for callback in callbacks:
                callback.on_complete(recipe)
        else:
            remove_old_files(writer, None if found is None else found[0], overwrite=overwrite)
            warn_of_absent_findings(recipe, train_set)
            saver = CheckpointSaver(
                writer,
                data,
                best_score=None if best is None else best_score(trainer, best),
                has_state=found is not None,
                save_minutes=save_minutes,
            )
            run_epochs(trainer, val_set, callbacks=[saver, *callbacks])
            batch_size = math.ceil(recipe.stage.batch_size / trainer.split.micro_batches)
            calibrate_best(writer, val_set, batch_size=batch_size)
        writer.close()
        writer.prune(0)
    elif trainer is not None:
        run_epochs(trainer, val_set, callbacks=[])
    process.wait_for_everyone()
    return trainer.history if history is None else history


def start_trainer(
    recipe: Recipe, init_path: Path | None, train_set: ChestXrayDataset, found: tuple[Path, dict[str, Any]] | None
) -> Trainer:
    """Build the trainer of a recipe, and continue from the state `found`, see `latest_state`."""
    set_seed(recipe.seed)
    weights = recipe.weights if found is None else "none"
    model = init_model(recipe, init_path, weights=weights, findings=train_set.findings)
    trainer = Trainer(make_objective(model, recipe), recipe, train_set)
    if found is not None:
        restore(trainer, *found)
    return trainer


def run_epochs(trainer: Trainer, val_set: ChestXrayDataset, *, callbacks: Sequence[Callback]) -> None:
    """Train all epochs that are left."""
    for callback in callbacks:
        callback.on_start(trainer)
    while trainer.epoch < trainer.recipe.stage.epochs:
        for _ in trainer.train_epoch():
            for callback in callbacks:
                callback.on_update(trainer)
        record = trainer.finish_epoch(val_set)
        for callback in callbacks:
            callback.on_epoch(trainer, record)
    for callback in callbacks:
        callback.on_end(trainer)


def calibrate_best(writer: CheckpointWriter, val_set: ChestXrayDataset, *, batch_size: int) -> None:
    """Fit scores and compute mean CAMs of the best checkpoint, and store both in it; this completes the run.

    Raises:
        InputError: a file cannot be written.
    """
    writer.close()
    path = writer.files.best_path
    model, metadata = load_checkpoint(path)
    model.to(select_device().device, memory_format=torch.channels_last)
    result = calibrate(model, val_set, recipe=metadata.recipe, batch_size=batch_size)
    metadata = replace(metadata, scores=result.scores, negative_mean=result.negative_mean, prior=result.prior)
    writer.write(path.name, checkpoint_bytes(model, metadata=metadata))


def remove_old_files(writer: CheckpointWriter, state: Path | None, *, overwrite: bool) -> None:
    """Remove the files that a run does not continue from.

    Args:
        writer: of the run's files.
        state: that the run continues from. Later ones are damaged. None: no state is needed any more.
        overwrite: whether checkpoints and history are replaced as well.
    """
    files = writer.files
    for path in files.states():
        if state is None or path.name > state.name:
            writer.remove(path.name)
    results = [path for path in (files.best_path, files.last_path, files.history_path) if files.find(path)]
    if overwrite:
        for path in results:
            writer.remove(path.name)
    elif results and state is None:
        warnings.warn(f"{files.folder} has no state of {files.name}; training starts from the beginning", stacklevel=3)


def best_score(trainer: Trainer, best: Checkpoint) -> float:
    """Return the score of the best checkpoint in the folder. A killed run may have saved it after its last state.

    Raises:
        InputError: its metrics were changed.
    """
    try:
        return float(trainer.module.score(best.metrics))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the best checkpoint of {best.recipe.name} does not contain its score; {ANEW}") from error


def warn_of_absent_findings(recipe: Recipe, train_set: ChestXrayDataset) -> None:
    """Warn of findings without a positive training image."""
    shown = (train_set.labels == 1).any(axis=0)
    absent = [name for name, is_shown in zip(train_set.findings, shown, strict=True) if not is_shown]
    if absent:
        warnings.warn(
            f"no training image of {recipe.name} shows {', '.join(absent)}; its scores and CAMs mean nothing",
            stacklevel=4,
        )


def init_model(
    recipe: Recipe, init_path: Path | None, *, weights: str, findings: Sequence[str] = FINDINGS
) -> LocalizationModel:
    """Build the model of a classifier stage, or load the one that a SEAM stage begins with.

    Args:
        recipe: that is trained.
        init_path: see `init_checkpoint`.
        weights: of a new model's backbone, see `build_model`.
        findings: of the training images.

    Raises:
        InputError: the weights or the checkpoint cannot be loaded, or the checkpoint has another classifier or other
            findings.
    """
    if init_path is None:
        return build_from_recipe(recipe, weights=weights, findings=findings)
    model, metadata = load_checkpoint(init_path)
    require_findings(init_path, found=model.findings, expected=findings)
    for name in ("model", "pooling", "lse_gamma"):
        ours, theirs = getattr(recipe, name), getattr(metadata.recipe, name)
        if ours != theirs:
            raise InputError(
                f"{recipe.name} has the {name} {ours!r}, but {init_path} has {theirs!r}; give both the same"
            )
    model.background, model.refiner_input = recipe.background, recipe.refiner_input
    if recipe.refiner != metadata.recipe.refiner:
        model.set_refiner(recipe.refiner)
    return model


def init_checkpoint(recipe: Recipe, folder: Path) -> Path | None:
    """Return the checkpoint that the SEAM stage of `recipe` begins with; None for a classifier stage.

    Raises:
        InputError: it is missing.
    """
    if recipe.init_from is None:
        return None
    path = best_path(folder, recipe.init_from)
    if not path.exists():
        raise InputError(f"{recipe.name} begins with {recipe.init_from}, but {path} is missing; train that one first")
    return path


def train(run: Workspace, name: str, **options: Any) -> list[dict[str, Any]]:
    """Train a recipe of a workspace into `run.models`; the recipe that it begins with is trained first if necessary.

    Args:
        run: data and recipes.
        name: "standard", "multires", "multires_pcm", or the name of a recipe.
        options: see `fit`.

    Returns:
        The history of the recipe, see `fit`.

    Raises:
        InputError: see `fit`; or there is no such recipe.

    Example:
        >>> run = Workspace.open(data="demo", preset="demo")
        >>> run.prepare_data()
        >>> history = train(run, "multires_pcm")
    """
    recipe = run.recipe(name)
    if recipe.init_from is not None and not is_trained(run, recipe.init_from):
        print(f"{recipe.name} begins with {recipe.init_from}, which is not trained yet: training it first")
        train(run, recipe.init_from, **options)
    train_set, val_set = run.train_val_datasets(recipe)
    return fit(recipe, run.models, train_set=train_set, val_set=val_set, local_dir=run.local_dir, **options)


def train_missing(run: Workspace, **options: Any) -> dict[str, list[dict[str, Any]]]:
    """Train all recipes of a workspace's preset that are not trained yet.

    Args:
        run: data and recipes.
        options: see `fit`.

    Returns:
        The histories of the recipes that were trained now, by name.
    """
    missing = [recipe.name for recipe in run.recipes if not is_trained(run, recipe.name)]
    if missing:
        print(f"{', '.join(missing)}: no checkpoint in {run.models}, so training now")
    return {name: train(run, name, **options) for name in missing}


def is_trained(run: Workspace, name: str) -> bool:
    """Return whether a workspace contains the calibrated checkpoint of a recipe."""
    path = best_path(run.models, run.recipe(name).name)
    return path.exists() and read_header(path).scores is not None
