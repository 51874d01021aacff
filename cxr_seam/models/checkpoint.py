"""A trained model in one file: safetensors, with recipe and measured values as JSON in its header.

Nothing in it is code and reading it executes none. Keys are the names of `LocalizationModel`'s state dict.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..findings import FINDINGS
from ..io import atomic_write
from ..recipes import RANGES, Recipe, recipe_from_dict, recipe_to_dict
from .multires import LocalizationModel, ModelOutput, build_from_recipe

HEADER = "cxr_seam"


FORMAT = 2


CACHE_SIZE = "size of the films"
"""Key of `Checkpoint.films`."""


NEGATIVE_MEAN = "negative_mean."
"""Before the names of the usual maps among a checkpoint's tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """What stands in the header beside the weights.

    Attributes:
        recipe: how the model was trained.
        epoch: epochs finished in the recipe's phase.
        metrics: measured values of that epoch, such as "validation_auc".
        thresholds: by finding, the probability from which on it is called present, chosen on the validation films;
            None for a finding for which they define none, or for all where the classifier was never validated.
        films: what it was trained on, see `resuming.data_fingerprint`; None where an earlier version wrote the file.
        usual: what maps are measured from where the recipe says "negative_mean", see `usual.calibrate`; these are tensors
            beside the weights, which `read_header` does not read.
    """

    recipe: Recipe
    epoch: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, float | None] | None = None
    films: dict[str, Any] | None = None
    negative_mean: dict[str, Tensor] | None = field(default=None, compare=False)

    @property
    def cache_size(self) -> int:
        """Side in pixels of the prepared films that the model learnt from; batches are shrunk to the recipe's size."""
        return (self.films or {}).get(CACHE_SIZE, self.recipe.image_size)


def save_checkpoint(path: str | os.PathLike[str], model: LocalizationModel, *, metadata: Checkpoint) -> Path:
    """Write `model` to `path` (ending .safetensors), whole or not at all."""
    with atomic_write(path) as temporary:
        # Bytes, not save_file: that makes files which nobody but their owner can read.
        temporary.write_bytes(checkpoint_bytes(model, metadata=metadata))
    return Path(path)


def checkpoint_bytes(model: LocalizationModel, *, metadata: Checkpoint) -> bytes:
    """What the file of a checkpoint holds."""
    header = {
        "format": FORMAT,
        "findings": list(FINDINGS),
        "recipe": recipe_to_dict(metadata.recipe),
        "epoch": metadata.epoch,
        "metrics": metadata.metrics,
        "thresholds": metadata.thresholds,
        "films": metadata.films,
    }
    tensors = model.state_dict() | {NEGATIVE_MEAN + key: value for key, value in (metadata.negative_mean or {}).items()}
    state = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    return save(state, metadata={HEADER: json.dumps(header)})


def read_header(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what a checkpoint says of itself, without its weights.

    Raises:
        InputError: the file is missing, not safetensors, not ours, of another format or set of findings, or its header
            holds what it cannot.
    """
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; name a checkpoint in it, such as NAME.best.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"there is no checkpoint {path}; train a model first or correct the path") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a readable safetensors checkpoint ({error}); only files written by cxr_seam can be loaded, "
            "never pickles"
        ) from error
    if text is None:
        raise InputError(f"{path} holds weights but no {HEADER} header; only checkpoints of this program can be loaded")
    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} has a damaged {HEADER} header ({error}); train again") from error
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path} has checkpoint format {header.get('format')}, this version reads {FORMAT}; train again"
        )
    if header.get("findings") != list(FINDINGS):
        raise InputError(f"{path} was trained on other findings: {header.get('findings')}; train again")
    missing = {"recipe", "epoch", "metrics", "thresholds"} - set(header)
    if missing:
        raise InputError(f"the {HEADER} header of {path} lacks {', '.join(sorted(missing))}; train again")
    told = {key: header.get(key) for key in ("epoch", "metrics", "thresholds", "films")}
    try:
        return Checkpoint(recipe_from_dict(header["recipe"]), **_refuse_odd(told))
    except InputError as error:
        raise InputError(f"the {HEADER} header of {path} is damaged: {error}") from error


def _refuse_odd(told: dict[str, Any]) -> dict[str, Any]:
    """Return what a header tells, if it is of the types that `Checkpoint` names."""
    thresholds = told["thresholds"]
    if type(told["epoch"]) is not int or not isinstance(told["metrics"], dict):
        raise InputError("epoch or metrics are of another type; train again")
    if not isinstance(told["films"], dict | None):
        raise InputError("films are of another type; train again")
    least, most = RANGES["image_size"]
    size = (told["films"] or {}).get(CACHE_SIZE, least)
    if type(size) is not int or not least <= size <= most:
        raise InputError(f"the films that it was trained on cannot be of {size!r} pixels; train again")
    if thresholds is not None:
        numbers = thresholds.values() if isinstance(thresholds, dict) and set(thresholds) <= set(FINDINGS) else [-1]
        if not all(number is None or (isinstance(number, float | int) and 0 <= number <= 1) for number in numbers):
            raise InputError("thresholds must be numbers from 0 to 1 by finding; train again")
    return told


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[LocalizationModel, Checkpoint]:
    """Build the model a checkpoint describes and fill it.

    Returns:
        The model, in evaluation mode on the CPU, and the header.

    Raises:
        InputError: see `read_header`; also when the weights do not fit the model that the recipe names, or are no
            finite numbers.
    """
    metadata = read_header(path)
    recipe = metadata.recipe
    try:
        model = build_from_recipe(recipe, weights="none")
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except (InputError, SafetensorError, OSError) as error:
        raise InputError(f"the model in {path} cannot be built: {error}") from error
    if wrong := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise InputError(f"the weights in {path} hold NaN or infinite numbers ({wrong[0]}); train again")
    negative_mean = {
        key.removeprefix(NEGATIVE_MEAN): state.pop(key) for key in [*state] if key.startswith(NEGATIVE_MEAN)
    }
    if any(
        key not in ModelOutput._fields or value.shape[:-2] != (len(FINDINGS),) for key, value in negative_mean.items()
    ):
        raise InputError(f"the usual maps in {path} are of another shape; train again")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(
            f"the weights in {path} do not fit a {recipe.model}: {reason}; train again or correct the path"
        ) from error
    return model.eval(), replace(metadata, negative_mean=negative_mean or None)


BEST, LAST, HISTORY = "best.safetensors", "last.safetensors", "history.jsonl"


STATE = r"\d{5,}-\d{7,}\.state\.safetensors"


def best_path(folder: Path, name: str) -> Path:
    """Where the best checkpoint of the recipe called `name` lies."""
    return Path(folder) / f"{name}.{BEST}"


def last_path(folder: Path, name: str) -> Path:
    """Where the model of the last epoch of the recipe called `name` lies."""
    return Path(folder) / f"{name}.{LAST}"


def history_path(folder: Path, name: str) -> Path:
    """Where the history of the recipe called `name` lies."""
    return Path(folder) / f"{name}.{HISTORY}"


def state_name(name: str, *, epoch: int, batch: int) -> str:
    """What a state of the recipe called `name` is called; later ones come later in the alphabet."""
    return f"{name}.{epoch:05}-{batch:07}.state.safetensors"


def is_state(file: str, name: str) -> bool:
    """Whether a file of that name is a state of the recipe called `name`."""
    return re.fullmatch(rf"{re.escape(name)}\.{STATE}", file) is not None


def is_of_run(file: str, name: str) -> bool:
    """Whether a file of that name is one of the recipe called `name`."""
    return file in {f"{name}.{end}" for end in (BEST, LAST, HISTORY)} or is_state(file, name)


def is_partial_file(file: str, name: str) -> bool:
    """Whether a file of that name is what `files.atomic_write` was stopped in writing for the recipe called `name`."""
    whole = re.fullmatch(r"\.(.+)\.\d+\.part(\.\w+)", file)
    return whole is not None and is_of_run("".join(whole.groups()), name)


def read_history(folder: Path | str, name: str) -> list[dict[str, Any]]:
    """Read the history that training the recipe called `name` left in `folder`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = history_path(Path(folder), name)
    if not path.exists():
        raise InputError(f"there is no {path}; train {name} first")
    return parse_history(path)


def parse_history(path: Path) -> list[dict[str, Any]]:
    """The epochs that a history tells of.

    Raises:
        InputError: it is no history.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}); put back a whole one, or train anew with restart=True (--overwrite)"
        ) from error
    return records
