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

from ..data.dataset import Films
from ..device import told_where_too_small
from ..errors import InputError
from ..findings import FINDINGS
from ..inference.calibration import look_again, looks_again
from ..models.checkpoint import (
    Checkpoint,
    best_path,
    checkpoint_bytes,
    history_path,
    last_path,
    load_checkpoint,
    read_header,
    read_history,
    records_of,
    state_name,
)
from ..models.multires import LocalizationModel, model_of
from ..recipes import Recipe, require_normalisation
from .objectives import make_objective
from .resume import Progress, describe_films, describe_run, latest_state, require_same_run, restore, save_state
from .storage import Keeper
from .trainer import Loop, named_thresholds, validate


@told_where_too_small()
def train(
    recipe: Recipe,
    folder: Path | str,
    *,
    train_films: Films,
    validation_films: Films,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    restart: bool = False,
    scratch: Path | None = None,
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
        folder: where checkpoints go and where the model of `recipe.start_from` is looked for.
        train_films: to learn from.
        validation_films: to choose the best epoch by.
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
    keeper = Keeper(folder, name=recipe.name, scratch=scratch)
    start = starting_path(recipe, folder)
    films = describe_films(train_films, validation_films, start=start)
    run = describe_run(recipe, films)
    found = None if restart else latest_state(keeper.states(), run)
    best = None if restart else header_of(keeper, best_path(folder, recipe.name), run)
    if not restart and is_complete(keeper, recipe, run):
        alone = PartialState()
        alone.wait_for_everyone()  # until each has looked at the files: they are moved now
        if alone.is_main_process:
            print(f"{recipe.name} is trained already; restart=True (--restart) trains it anew")
            keeper.finish()
            keeper.keep_states(0)  # there are some where the run was killed while it removed them
        alone.wait_for_everyone()
        return read_history(folder, recipe.name)
    set_seed(recipe.seed)
    model, thresholds = starting_model(recipe, start, weights=recipe.weights if found is None else "none")
    loop = Loop(make_objective(model, recipe), recipe, train_films)
    main, phase, progress = loop.accelerator.is_main_process, recipe.phase, Progress(thresholds=thresholds)
    if found is not None:
        progress = restore(loop, *found)
        for path in keeper.states() if main else ():
            if path.name > found[0].name:  # damaged, or of a run that was to be begun anew
                keeper.remove(path.name)
    elif main:
        if not restart and keeper.find(last_path(folder, recipe.name)) is not None:
            warnings.warn(f"no state of {recipe.name} is in {folder}, so it begins anew", stacklevel=3)
        keeper.remove(last_path(folder, recipe.name).name)
        keeper.keep_states(0)
    # Of the model that lies there: a killed run may have kept a better one than the state knows that it left.
    progress.best = None if best is None else score_of(loop.judged, best.metrics)
    if main:
        tell(recipe, train_films, progress, batch=len(loop.losses))
    bar = tqdm(total=phase.epochs * len(loop.sampler), desc=recipe.name, unit="batch", disable=not main)
    saved, stateless = time.monotonic(), found is None
    while progress.epoch < phase.epochs:
        began = time.perf_counter() - progress.seconds
        for done in loop.updates():
            bar.update(progress.epoch * len(loop.sampler) + done - bar.n)
            if main and loop.checked and time.monotonic() - saved >= 60 * save_minutes:
                progress.seconds = time.perf_counter() - began
                stateless &= not keep_state(keeper, loop, progress=progress, run=run, count=keep_states)
                saved = time.monotonic()
        measured, logits = validate(loop, validation_films)
        require_finite(measured["validation_loss"], f"the validation loss of {recipe.name} in epoch {progress.epoch}")
        record = {
            "phase": "pcm" if recipe.phase is recipe.seam else "backbone",
            "epoch": progress.epoch,
            "train_loss": loop.mean_loss(),
            **measured,
            "learning_rate": loop.optimiser.param_groups[0]["lr"],
            "seconds": time.perf_counter() - began,
        }
        progress.history.append(record)
        if phase.schedule == "plateau" and record["validation_auc"] is not None:
            loop.schedule.step(record["validation_auc"])
        if logits is not None:
            progress.thresholds = named_thresholds(validation_films.labels, logits)
        progress.epoch, progress.seconds = progress.epoch + 1, 0.0
        loop.begin(progress.epoch)
        if main:
            # To look again costs as much as a validation or more; an epoch that is replaced by the next goes without.
            lasting = progress.epoch == phase.epochs or is_better(loop.judged, record, progress)
            usual = None
            if lasting and looks_again(recipe):
                again, usual = look_again(loop.judged.model, validation_films, recipe=recipe)
                progress.thresholds = named_thresholds(validation_films.labels, again)
            about = Checkpoint(
                recipe,
                epoch=progress.epoch,
                metrics=record,
                thresholds=progress.thresholds,
                films=films,
                usual=usual,
            )
            try:
                keep(loop.judged, keeper, about=about, progress=progress)
            except OSError as error:
                if progress.epoch == phase.epochs:
                    raise
                warn_of(f"epoch {record['epoch']}", error)
            if stateless and progress.epoch < phase.epochs:  # from here on no kill costs the epochs before it
                stateless &= not keep_state(keeper, loop, progress=progress, run=run, count=keep_states)
                saved = time.monotonic()
        bar.set_postfix(
            {key: f"{record[key]:.3f}" for key in ("train_loss", "validation_auc") if record[key] is not None}
        )
        if on_epoch is not None:
            on_epoch(record)
    bar.close()
    if main:
        keeper.finish()
        keeper.keep_states(0)
    loop.accelerator.wait_for_everyone()
    return progress.history


def is_complete(keeper: Keeper, recipe: Recipe, run: Mapping[str, Any]) -> bool:
    """Whether there is all that this very run leaves at its end; the last model, written last, is its seal.

    Raises:
        InputError: there is a model of another run, or the history of a complete one is gone.
    """
    folder, name = keeper.folder, recipe.name
    last, best = (header_of(keeper, path(folder, name), run) for path in (last_path, best_path))
    if last is None or best is None or last.epoch != recipe.phase.epochs:
        return False
    history = keeper.find(history_path(folder, name))
    if history is None or len(records_of(history)) != recipe.phase.epochs:
        raise InputError(
            f"{last} is of a run that is complete, but {history_path(folder, name)} does not tell of its "
            f"{recipe.phase.epochs} epochs; put it back, or train anew with restart=True (--restart)"
        )
    return True


def header_of(keeper: Keeper, path: Path, run: Mapping[str, Any]) -> Checkpoint | None:
    """What a model of this run says of itself; None where there is none.

    Raises:
        InputError: it is of another run, or cannot be read.
    """
    found = keeper.find(path)
    if found is None:
        return None
    about = read_header(found)
    theirs = None if about.films is None else describe_run(about.recipe, about.films)
    require_same_run(found, theirs=theirs, ours=run)
    return about


def score_of(objective: nn.Module, metrics: Mapping[str, Any]) -> float:
    """How good an epoch is by what the objective is judged by, the more the better.

    Raises:
        InputError: the metrics, of a file that was changed, do not say.
    """
    key, direction = objective.monitor
    value = metrics.get(key, math.nan)
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise InputError(f"the best model does not tell its {key}; train anew with restart=True (--restart)")
    return -math.inf if value is None else value if direction == "max" else -value


def is_better(objective: nn.Module, metrics: Mapping[str, Any], progress: Progress) -> bool:
    """Whether an epoch is the best so far."""
    return progress.best is None or score_of(objective, metrics) > progress.best


def tell(recipe: Recipe, films: Films, progress: Progress, *, batch: int) -> None:
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


def keep(objective: nn.Module, keeper: Keeper, *, about: Checkpoint, progress: Progress) -> None:
    """Write the best model if this epoch is it, the history, and the last model, which seals a run that is complete.

    Args:
        objective: says what the best epoch is judged by.
        keeper: where to.
        about: of this epoch.
        progress: whose `best` changes with it; a model that cannot be written is owed, and written before the rest.
    """
    name = about.recipe.name
    lines = "".join(json.dumps(record) + "\n" for record in progress.history)
    model = checkpoint_bytes(objective.model, about=about)
    if is_better(objective, about.metrics, progress):
        keeper.owed[best_path(keeper.folder, name).name] = model
        progress.best = score_of(objective, about.metrics)
    keeper.settle()
    keeper.write(history_path(keeper.folder, name).name, lambda path: path.write_text(lines))
    keeper.write(last_path(keeper.folder, name).name, lambda path: path.write_bytes(model))


def keep_state(keeper: Keeper, loop: Loop, *, progress: Progress, run: Mapping[str, Any], count: int) -> bool:
    """Write the state of a run and remove all but the latest `count`; False if it cannot be written, with a warning."""
    name = state_name(loop.recipe.name, epoch=progress.epoch, batch=len(loop.losses))
    try:
        keeper.settle()  # a state that knew of a best model which nobody has would lose it
        keeper.write(name, lambda path: save_state(path, loop, progress=progress, run=run))
    except OSError as error:
        warn_of(f"epoch {progress.epoch}", error)
        return False
    keeper.keep_states(count)
    return True


def warn_of(when: str, error: OSError) -> None:
    """Tell that something could not be written; the run goes on."""
    warnings.warn(f"{when}: {error}; training goes on and writes again later", stacklevel=3)


def starting_model(
    recipe: Recipe, start: Path | None, *, weights: str
) -> tuple[LocalizationModel, dict[str, float | None] | None]:
    """A fresh model, or for a second phase the one that it goes on from.

    Args:
        recipe: what is trained.
        start: checkpoint of the earlier phase, see `starting_path`; None for a first phase.
        weights: of a fresh model's backbone, see `models.build_model`.

    Returns:
        The model and the thresholds of its classifier, None where it has yet to be trained.

    Raises:
        InputError: weights cannot be had, the checkpoint cannot be loaded, its classifier is not the recipe's, or there
            is no such refiner or normalisation of maps.
    """
    if start is None:
        return model_of(recipe, weights=weights), None
    model, about = load_checkpoint(start)
    require_normalisation(recipe.map_normalisation)
    for field in ("model", "pooling", "lse_gamma"):  # what the second phase leaves as it is
        ours, theirs = getattr(recipe, field), getattr(about.recipe, field)
        if ours != theirs:
            raise InputError(f"{recipe.name} has the {field} {ours!r}, but {start} has {theirs!r}; give both the same")
    model.background = recipe.background
    if recipe.refiner != about.recipe.refiner:
        model.give_refiner(recipe.refiner)
    return model, about.thresholds


def starting_path(recipe: Recipe, folder: Path) -> Path | None:
    """The checkpoint that the second phase of `recipe` goes on from, None for a first phase.

    Raises:
        InputError: it is not there.
    """
    if recipe.start_from is None:
        return None
    path = best_path(folder, recipe.start_from)
    if not path.exists():
        raise InputError(
            f"{recipe.name} goes on from {recipe.start_from}, but there is no {path}; train that one first"
        )
    return path
