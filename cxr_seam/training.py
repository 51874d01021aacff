"""Both phases from the first epoch to the last: history, checkpoints, and going on where a run was stopped."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from torch import nn
from tqdm.auto import tqdm

from .checkpoints import Checkpoint, checkpoint_bytes, load_checkpoint, read_header
from .errors import InputError
from .films import Films
from .findings import FINDINGS
from .keeping import Keeper
from .loop import Loop
from .models import LocalizationModel, model_of
from .objectives import make_objective
from .recipes import Recipe
from .resuming import (
    Progress,
    describe_films,
    describe_run,
    find_states,
    latest_state,
    require_same_run,
    restore,
    save_state,
    state_name,
)
from .validation import named_thresholds, validate


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
        InputError: weights cannot be had, or the checkpoint cannot be loaded.
    """
    if start is None:
        return model_of(recipe, weights=weights), None
    model, about = load_checkpoint(start)
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


def best_path(folder: Path, name: str) -> Path:
    """Where the best checkpoint of the recipe called `name` lies."""
    return Path(folder) / f"{name}.best.safetensors"


def last_path(folder: Path, name: str) -> Path:
    """Where the model of the last epoch of the recipe called `name` lies."""
    return Path(folder) / f"{name}.last.safetensors"


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
    restart: bool = False,
    scratch: Path | None = None,
    save_minutes: float = 10.0,
    keep_states: int = 2,
) -> list[dict[str, Any]]:
    """Train what `recipe` describes, or go on where an earlier call was stopped, and keep its models in `folder`.

    Writes `NAME.best.safetensors`, `NAME.last.safetensors` and `NAME.history.jsonl` after every epoch, and while it
    trains `NAME.*.state.safetensors`, from which it goes on. On a CPU a run that was stopped, however, and went on ends
    with the same bits as one that was not. Where the run is complete already nothing is done. Under `accelerate launch`
    each process calls it and takes a part of every batch.

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
        InputError: the model cannot be made, the films are too small for the recipe, what lies in `folder` is of
            another recipe or other films, the loss is no longer a finite number, or the last models cannot be written.
            Where an earlier epoch's cannot (Drive drops), a warning says so and training goes on; the next epoch
            writes again.
    """
    folder = Path(folder)
    start = starting_path(recipe, folder)
    films = describe_films(train_films, validation_films, start=start)
    run = describe_run(recipe, films)
    keeper = Keeper(folder, name=recipe.name, scratch=scratch)
    found = None if restart else latest_state(find_states(keeper.places, recipe.name), run)
    if found is None and not restart and is_complete(folder, recipe, run):
        print(f"{recipe.name} is trained already; restart=True (--restart) trains it anew")
        keeper.finish()
        return read_history(folder, recipe.name)
    set_seed(recipe.seed)
    model, thresholds = starting_model(recipe, start, weights=recipe.weights if found is None else "none")
    loop = Loop(make_objective(model, recipe), recipe, train_films)
    main, phase, progress = loop.accelerator.is_main_process, recipe.phase, Progress(thresholds=thresholds)
    if found is not None:
        progress = restore(loop, *found[1:])
    elif main:
        for path in (last_path(folder, recipe.name), *find_states(keeper.places, recipe.name)):
            keeper.remove(path.name)
    if main:
        tell(recipe, train_films, progress, batch=len(loop.losses))
    bar = tqdm(total=phase.epochs * len(loop.sampler), desc=recipe.name, unit="batch", disable=not main)
    saved = time.monotonic()
    while progress.epoch < phase.epochs:
        began = time.perf_counter() - progress.seconds
        for done in loop.updates():
            bar.update(progress.epoch * len(loop.sampler) + done - bar.n)
            if main and loop.checked and time.monotonic() - saved >= 60 * save_minutes:
                progress.seconds = time.perf_counter() - began
                keep_state(keeper, loop, progress=progress, run=run, count=keep_states)
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
            about = Checkpoint(
                recipe, epoch=progress.epoch, metrics=record, thresholds=progress.thresholds, films=films
            )
            try:
                keep(loop.judged, keeper, about=about, progress=progress)
            except OSError as error:
                if progress.epoch == phase.epochs:
                    raise
                warn_of(f"epoch {record['epoch']}", error)
        bar.set_postfix(
            {key: f"{record[key]:.3f}" for key in ("train_loss", "validation_auc") if record[key] is not None}
        )
        if on_epoch is not None:
            on_epoch(record)
    bar.close()
    if main:
        keeper.finish()
        for path in find_states(keeper.places, recipe.name):
            keeper.remove(path.name)
    loop.accelerator.wait_for_everyone()
    return progress.history


def is_complete(folder: Path, recipe: Recipe, run: Mapping[str, Any]) -> bool:
    """Whether `folder` holds a model that this very run trained to its end.

    Raises:
        InputError: it holds one of another run.
    """
    last = last_path(folder, recipe.name)
    if not last.exists():
        return False
    about = read_header(last)
    theirs = None if about.films is None else describe_run(about.recipe, about.films)
    require_same_run(last, theirs=theirs, ours=run)
    others = best_path(folder, recipe.name), history_path(folder, recipe.name)
    return about.epoch == recipe.phase.epochs and all(path.exists() for path in others)


def tell(recipe: Recipe, films: Films, progress: Progress, *, batch: int) -> None:
    """Say what a user should know before a run."""
    if progress.epoch or batch:
        print(f"{recipe.name} goes on from epoch {progress.epoch}, batch {batch}")
    absent = [name for name, shown in zip(FINDINGS, films.labels.any(axis=0), strict=True) if not shown]
    if absent:
        warnings.warn(
            f"no film that {recipe.name} is trained on shows {', '.join(absent)}; probabilities and maps of it mean "
            "nothing",
            stacklevel=3,
        )


def require_finite(loss: float, what: str) -> float:
    """Return `loss`, or stop a run whose loss is no number any more: nothing that follows would be one."""
    if not math.isfinite(loss):
        raise InputError(f"{what} is {loss}; lower the learning rate")
    return loss


def keep(objective: nn.Module, keeper: Keeper, *, about: Checkpoint, progress: Progress) -> None:
    """Write the last model, the history, and the best model if this epoch is it.

    Args:
        objective: says what the best epoch is judged by.
        keeper: where to.
        about: of this epoch.
        progress: whose `best` changes once that model is written.
    """
    key, direction = objective.monitor
    value = about.metrics[key]
    score = -math.inf if value is None else value if direction == "max" else -value
    name = about.recipe.name
    lines = "".join(json.dumps(record) + "\n" for record in progress.history)

    model = checkpoint_bytes(objective.model, about=about)
    keeper.write(last_path(keeper.folder, name).name, lambda path: path.write_bytes(model))
    keeper.write(history_path(keeper.folder, name).name, lambda path: path.write_text(lines))
    if progress.best is None or score > progress.best:
        # Written last: where anything fails, `best` still tells of the file that is there.
        keeper.write(best_path(keeper.folder, name).name, lambda path: path.write_bytes(model))
        progress.best = score


def keep_state(keeper: Keeper, loop: Loop, *, progress: Progress, run: Mapping[str, Any], count: int) -> None:
    """Write the state of a run and remove all but the latest `count`; what cannot be written costs a warning."""
    name = state_name(loop.recipe.name, epoch=progress.epoch, batch=len(loop.losses))
    try:
        keeper.write(name, lambda path: save_state(path, loop, progress=progress, run=run))
    except OSError as error:
        warn_of(f"epoch {progress.epoch}", error)
        return
    for path in find_states(keeper.places, loop.recipe.name)[count:]:
        keeper.remove(path.name)


def warn_of(when: str, error: OSError) -> None:
    """Tell that something could not be written; the run goes on."""
    warnings.warn(f"{when}: {error}; training goes on and writes again later", stacklevel=3)


def read_history(folder: Path | str, name: str) -> list[dict[str, Any]]:
    """Read the history that training the recipe called `name` left in `folder`.

    Raises:
        InputError: there is none.
    """
    path = history_path(Path(folder), name)
    if not path.exists():
        raise InputError(f"there is no {path}; train {name} first")
    return [json.loads(line) for line in path.read_text().splitlines()]
