"""Both phases from the first epoch to the last: history, checkpoints, and going on where a run was stopped."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import set_seed
from torch import nn
from tqdm.auto import tqdm

from ..data.dataset import ChestXrayDataset
from ..device import oom_as_input_error
from ..errors import InputError
from ..findings import FINDINGS
from ..inference.calibration import calibrate, needs_calibration
from ..models.checkpoint import (
    Checkpoint,
    best_path,
    checkpoint_bytes,
    history_path,
    last_path,
    load_checkpoint,
    parse_history,
    read_header,
    read_history,
    state_name,
)
from ..models.multires import LocalizationModel, build_from_recipe
from ..recipes import Recipe
from .objectives import make_objective
from .resume import TrainState, data_fingerprint, latest_state, require_same_run, restore, run_fingerprint, save_state
from .storage import CheckpointWriter
from .trainer import Trainer, select_thresholds, validate


@oom_as_input_error()
def train(
    recipe: Recipe,
    folder: Path | str,
    *,
    train_set: ChestXrayDataset,
    val_set: ChestXrayDataset,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    overwrite: bool = False,
    local_dir: Path | None = None,
    save_minutes: float = 10.0,
    keep_states: int = 2,
) -> list[dict[str, Any]]:
    """Train what `recipe` describes, or go on where an earlier call was stopped, and keep its models in `folder`.

    Writes the files that `run_files` names: models and history after every epoch, and while it trains the states from
    which it goes on, the first one after the first epoch at the latest. On a CPU a run that was stopped, however, and
    went on ends with the same bits as one that was not. Where the run is complete already nothing is done. Under
    `accelerate launch` each process calls it and takes a part of every batch.

    Args:
        recipe: from `recipes`.
        folder: where checkpoints go and where the model of `recipe.init_from` is looked for.
        train_set: to learn from.
        val_set: to choose the best epoch by.
        on_epoch: called with each epoch's record.
        restart: begin anew, whatever is there.
        scratch: folder on a disk of the machine's own, where `folder` is one that may vanish; see `keeping`.
        save_minutes: time between two states.
        keep_states: so many states are kept, so that a damaged one costs no more than the time to the one before.

    Returns:
        The history: records with phase, epoch, train_loss, validation_loss, validation_auc, learning_rate, seconds.

    Raises:
        InputError: the model cannot be made, the films are too small for the recipe, what lies in `folder` cannot be
            read or is of another recipe or other films, all its states are damaged, the loss is no longer a finite
            number, the GPU's memory is too small, or the last models cannot be written.
            Where an earlier epoch's cannot (Drive drops), a warning says so and training goes on; the next epoch
            writes again.
    """
    folder = Path(folder)
    writer = CheckpointWriter(folder, name=recipe.name, local_dir=local_dir)
    start = init_checkpoint(recipe, folder)
    films = data_fingerprint(train_set, val_set, start=start)
    run = run_fingerprint(recipe, films)
    found = None if overwrite else latest_state(writer.states(), run)
    best = None if overwrite else header_of(writer, best_path(folder, recipe.name), run)
    if not overwrite and is_complete(writer, recipe, run):
        alone = PartialState()
        alone.wait_for_everyone()  # until each has looked at the files: they are moved now
        if alone.is_main_process:
            print(f"{recipe.name} is trained already; restart=True (--overwrite) trains it anew")
            writer.finish()
            writer.keep_states(0)  # there are some where the run was killed while it removed them
        alone.wait_for_everyone()
        return read_history(folder, recipe.name)
    set_seed(recipe.seed)
    model, thresholds = init_model(recipe, start, weights=recipe.weights if found is None else "none")
    trainer = Trainer(make_objective(model, recipe), recipe, train_set)
    main, phase, progress = trainer.accelerator.is_main_process, recipe.stage, TrainState(thresholds=thresholds)
    if found is not None:
        progress = restore(trainer, *found)
        for path in writer.states() if main else ():
            if path.name > found[0].name:  # damaged, or of a run that was to be begun anew
                writer.remove(path.name)
    elif main:
        if not overwrite and writer.find(last_path(folder, recipe.name)) is not None:
            warnings.warn(f"no state of {recipe.name} is in {folder}, so it begins anew", stacklevel=3)
        writer.remove(last_path(folder, recipe.name).name)
        writer.keep_states(0)
    # Of the model that lies there: a killed run may have kept a better one than the state knows that it left.
    progress.best = None if best is None else score_of(trainer.module, best.metrics)
    if main:
        tell(recipe, train_set, progress, batch=len(trainer.losses))
    bar = tqdm(total=phase.epochs * len(trainer.sampler), desc=recipe.name, unit="batch", disable=not main)
    saved, stateless = time.monotonic(), found is None
    while progress.epoch < phase.epochs:
        began = time.perf_counter() - progress.seconds
        for done in trainer.updates():
            bar.update(progress.epoch * len(trainer.sampler) + done - bar.n)
            if main and trainer.checked and time.monotonic() - saved >= 60 * save_minutes:
                progress.seconds = time.perf_counter() - began
                stateless &= not keep_state(writer, trainer, progress=progress, run=run, count=keep_states)
                saved = time.monotonic()
        measured, logits = validate(trainer, val_set)
        require_finite(measured["validation_loss"], f"the validation loss of {recipe.name} in epoch {progress.epoch}")
        record = {
            "stage": "seam" if recipe.stage is recipe.seam_stage else "classifier",
            "epoch": progress.epoch,
            "train_loss": trainer.mean_loss(),
            **measured,
            "learning_rate": trainer.optimiser.param_groups[0]["lr"],
            "seconds": time.perf_counter() - began,
        }
        progress.history.append(record)
        if phase.schedule == "plateau" and record["validation_auc"] is not None:
            trainer.schedule.step(record["validation_auc"])
        if logits is not None:
            progress.thresholds = select_thresholds(val_set.labels, logits)
        progress.epoch, progress.seconds = progress.epoch + 1, 0.0
        trainer.begin(progress.epoch)
        if main:
            # To look again costs as much as a validation or more; an epoch that is replaced by the next goes without.
            lasting = progress.epoch == phase.epochs or is_better(trainer.module, record, progress)
            negative_mean = None
            if lasting and needs_calibration(recipe):
                again, negative_mean = calibrate(trainer.module.model, val_set, recipe=recipe)
                progress.thresholds = select_thresholds(val_set.labels, again)
            metadata = Checkpoint(
                recipe,
                epoch=progress.epoch,
                metrics=record,
                thresholds=progress.thresholds,
                data=films,
                negative_mean=negative_mean,
            )
            try:
                keep(trainer.module, writer, metadata=metadata, progress=progress)
            except OSError as error:
                if progress.epoch == phase.epochs:
                    raise
                warn_of(f"epoch {record['epoch']}", error)
            if stateless and progress.epoch < phase.epochs:  # from here on no kill costs the epochs before it
                stateless &= not keep_state(writer, trainer, progress=progress, run=run, count=keep_states)
                saved = time.monotonic()
        bar.set_postfix(
            {key: f"{record[key]:.3f}" for key in ("train_loss", "validation_auc") if record[key] is not None}
        )
        if on_epoch is not None:
            on_epoch(record)
    bar.close()
    if main:
        writer.finish()
        writer.keep_states(0)
    trainer.accelerator.wait_for_everyone()
    return progress.history


def is_complete(writer: CheckpointWriter, recipe: Recipe, run: Mapping[str, Any]) -> bool:
    """Whether there is all that this very run leaves at its end; the last model, written last, is its seal.

    Raises:
        InputError: there is a model of another run, or the history of a complete one is gone.
    """
    folder, name = writer.folder, recipe.name
    last, best = (header_of(writer, path(folder, name), run) for path in (last_path, best_path))
    if last is None or best is None or last.epoch != recipe.stage.epochs:
        return False
    history = writer.find(history_path(folder, name))
    if history is None or len(parse_history(history)) != recipe.stage.epochs:
        raise InputError(
            f"{last} is of a run that is complete, but {history_path(folder, name)} does not tell of its "
            f"{recipe.stage.epochs} epochs; put it back, or train anew with restart=True (--overwrite)"
        )
    return True


def header_of(writer: CheckpointWriter, path: Path, run: Mapping[str, Any]) -> Checkpoint | None:
    """What a model of this run says of itself; None where there is none.

    Raises:
        InputError: it is of another run, or cannot be read.
    """
    found = writer.find(path)
    if found is None:
        return None
    metadata = read_header(found)
    theirs = None if metadata.data is None else run_fingerprint(metadata.recipe, metadata.data)
    require_same_run(found, theirs=theirs, ours=run)
    return metadata


def score_of(objective: nn.Module, metrics: Mapping[str, Any]) -> float:
    """How good an epoch is by what the objective is judged by, the more the better.

    Raises:
        InputError: the metrics, of a file that was changed, do not say.
    """
    key, direction = objective.monitor
    value = metrics.get(key, math.nan)
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise InputError(f"the best model does not tell its {key}; train anew with restart=True (--overwrite)")
    return -math.inf if value is None else value if direction == "max" else -value


def is_better(objective: nn.Module, metrics: Mapping[str, Any], progress: TrainState) -> bool:
    """Whether an epoch is the best so far."""
    return progress.best is None or score_of(objective, metrics) > progress.best


def tell(recipe: Recipe, films: ChestXrayDataset, progress: TrainState, *, batch: int) -> None:
    """Say what a user should know before a run."""
    if progress.epoch or batch:
        print(f"{recipe.name} goes on from epoch {progress.epoch}, batch {batch}")
    absent = [name for name, shown in zip(FINDINGS, films.labels.any(axis=0), strict=True) if not shown]
    if absent:
        warnings.warn(
            f"no film that {recipe.name} is trained on shows {', '.join(absent)}; probabilities and maps of it mean "
            "nothing",
            stacklevel=4,
        )


def require_finite(loss: float, what: str) -> float:
    """Return `loss`, or stop a run whose loss is no number any more: nothing that follows would be one."""
    if not math.isfinite(loss):
        raise InputError(f"{what} is {loss}; lower the learning rate")
    return loss


def keep(objective: nn.Module, writer: CheckpointWriter, *, metadata: Checkpoint, progress: TrainState) -> None:
    """Write the best model if this epoch is it, the history, and the last model, which seals a run that is complete.

    Args:
        objective: says what the best epoch is judged by.
        keeper: where to.
        about: of this epoch.
        progress: whose `best` changes with it; a model that cannot be written is owed, and written before the rest.
    """
    name = metadata.recipe.name
    lines = "".join(json.dumps(record) + "\n" for record in progress.history)
    model = checkpoint_bytes(objective.model, metadata=metadata)
    if is_better(objective, metadata.metrics, progress):
        writer.owed[best_path(writer.folder, name).name] = model
        progress.best = score_of(objective, metadata.metrics)
    writer.settle()
    writer.write(history_path(writer.folder, name).name, lambda path: path.write_text(lines))
    writer.write(last_path(writer.folder, name).name, lambda path: path.write_bytes(model))


def keep_state(
    writer: CheckpointWriter, trainer: Trainer, *, progress: TrainState, run: Mapping[str, Any], count: int
) -> bool:
    """Write the state of a run and remove all but the latest `count`; False if it cannot be written, with a warning."""
    name = state_name(trainer.recipe.name, epoch=progress.epoch, batch=len(trainer.losses))
    try:
        writer.settle()  # a state that knew of a best model which nobody has would lose it
        writer.write(name, lambda path: save_state(path, trainer, progress=progress, run=run))
    except OSError as error:
        warn_of(f"epoch {progress.epoch}", error)
        return False
    writer.keep_states(count)
    return True


def warn_of(when: str, error: OSError) -> None:
    """Tell that something could not be written; the run goes on."""
    warnings.warn(f"{when}: {error}; training goes on and writes again later", stacklevel=3)


def init_model(
    recipe: Recipe, start: Path | None, *, weights: str
) -> tuple[LocalizationModel, dict[str, float | None] | None]:
    """A fresh model, or for a second phase the one that it goes on from.

    Args:
        recipe: what is trained.
        start: checkpoint of the earlier phase, see `init_checkpoint`; None for a first phase.
        weights: of a fresh model's backbone, see `models.build_model`.

    Returns:
        The model and the thresholds of its classifier, None where it has yet to be trained.

    Raises:
        InputError: weights cannot be had, the checkpoint cannot be loaded, its classifier is not the recipe's, or there
            is no such refiner.
    """
    if start is None:
        return build_from_recipe(recipe, weights=weights), None
    model, metadata = load_checkpoint(start)
    for field in ("model", "pooling", "lse_gamma"):  # what the second phase leaves as it is
        ours, theirs = getattr(recipe, field), getattr(metadata.recipe, field)
        if ours != theirs:
            raise InputError(f"{recipe.name} has the {field} {ours!r}, but {start} has {theirs!r}; give both the same")
    model.background = recipe.background
    if recipe.refiner != metadata.recipe.refiner:
        model.set_refiner(recipe.refiner)
    return model, metadata.thresholds


def init_checkpoint(recipe: Recipe, folder: Path) -> Path | None:
    """The checkpoint that the second phase of `recipe` goes on from, None for a first phase.

    Raises:
        InputError: it is not there.
    """
    if recipe.init_from is None:
        return None
    path = best_path(folder, recipe.init_from)
    if not path.exists():
        raise InputError(f"{recipe.name} goes on from {recipe.init_from}, but there is no {path}; train that one first")
    return path
