"""What a run must know to go on as if it had never been stopped, in one file: weights, optimiser, place, random states.

The file is safetensors with JSON in its header: nothing in it is code and reading it executes none. It is written
between two updates, under a temporary name, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..data.dataset import ChestXrayDataset
from ..errors import InputError
from ..io import from_plain
from ..models.checkpoint import TrainingData, read_header
from ..recipes import Recipe, recipe_from_dict, recipe_to_dict
from .trainer import Trainer

HEADER = "cxr_seam_state"


FORMAT = 1


class DamagedStateError(InputError):
    """A state that nobody can go on from; the one before it may do."""


@dataclass
class TrainState:
    """How far a run has come.

    Attributes:
        epoch: that is being trained.
        history: records of the epochs before it.
        best: what the best model that lies there scored, the more the better; None where there is none.
        thresholds: by finding, see `checkpoints.Checkpoint`.
        seconds: spent on this epoch so far.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    thresholds: dict[str, float | None] | None = None
    seconds: float = 0.0


def data_fingerprint(train_set: ChestXrayDataset, val_set: ChestXrayDataset, *, start: Path | None) -> TrainingData:
    """Identify the data of a run and the checkpoint `start` that it begins with."""
    return TrainingData(
        cache_size=train_set.size,
        train_fingerprint=_fingerprint(train_set),
        val_fingerprint=_fingerprint(val_set),
        pixel_crc=f"{train_set.checksum}, {val_set.checksum}",
        init_fingerprint=None if start is None else _weights(start),
    )


def run_fingerprint(recipe: Recipe, data: TrainingData) -> dict[str, Any]:
    """What makes two runs the same run: all fields of the recipe and what it works on, as JSON gives them back."""
    return json.loads(json.dumps({**recipe_to_dict(recipe), **asdict(data)}))


def _completed(run: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The run of a state, also of an earlier version's: fields that recipes had not yet get their defaults.

    Raises:
        InputError: it holds no recipe of this version or an earlier one.
    """
    if not isinstance(run, dict):
        raise InputError(f"{path} is of another version (its run is no object); delete it and train anew")
    names = {field.name for field in fields(Recipe)}
    recipe, data = ({key: run[key] for key in run if (key in names) == wanted} for wanted in (True, False))
    try:
        return run_fingerprint(recipe_from_dict(recipe), from_plain(TrainingData, data))
    except InputError as error:
        raise InputError(f"{path} is of another version ({error}); delete it and train anew") from error


def _fingerprint(films: ChestXrayDataset) -> str:
    digest = hashlib.sha256("\n".join(films.image_index).encode())
    digest.update(films.labels.tobytes())
    return f"{len(films)} films, {digest.hexdigest()[:16]}"


def _weights(checkpoint: Path) -> str:
    """A digest of a checkpoint's weights, not of its header, which tells how long an epoch took."""
    read_header(checkpoint)  # refuses, in a sentence, what is none
    digest = hashlib.sha256()
    with safe_open(checkpoint, framework="np") as file:
        for key in sorted(file.keys()):
            digest.update(key.encode() + file.get_tensor(key).tobytes())
    return digest.hexdigest()[:16]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of nested dictionaries, those of inner ones with a dot in the name."""
    found = {}
    for key, value in values.items():
        found |= {f"{key}.{inner}": v for inner, v in flat(value).items()} if isinstance(value, dict) else {key: value}
    return found


def require_same_run(path: Path, *, theirs: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> None:
    """Refuse a file of another run.

    Raises:
        InputError: names the file and every field that differs.
    """
    way_out = "choose another folder, or train anew with restart=True (--overwrite), which replaces it"
    if theirs is None:
        raise InputError(f"{path} does not say which films it was trained on, as earlier versions did not; {way_out}")
    before, now = flat(theirs), flat(ours)
    missing = "not there"
    differ = [
        f"{key} is {before.get(key, missing)} there and {now.get(key, missing)} here"
        for key in {**before, **now}
        if before.get(key, missing) != now.get(key, missing)
    ]
    if differ:
        raise InputError(f"{path} is of another run: {'; '.join(differ)}; {way_out}")


def save_state(path: Path, trainer: Trainer, *, progress: TrainState, run: Mapping[str, Any]) -> None:
    """Write the state of a run, between two updates, to `path`; the caller sees to a temporary name."""
    optimiser = trainer.optimiser.state_dict()
    tensors = {f"objective.{key}": value for key, value in trainer.module.state_dict().items()}
    for place, values in optimiser["state"].items():
        tensors |= {f"optimiser.{place}.{key}": value for key, value in values.items()}
    tensors |= {"draws": trainer.generator.get_state(), "random.cpu": torch.get_rng_state()}
    if trainer.losses:
        tensors["losses"] = torch.stack(trainer.losses)
    if trainer.accelerator.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    scaler = trainer.accelerator.scaler
    header = {
        "format": FORMAT,
        "run": run,
        "progress": vars(progress),
        "terms": trainer.terms,
        "pieces": trainer.pieces.count,
        "groups": optimiser["param_groups"],
        "schedule": None if trainer.schedule is None else trainer.schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    header = json.loads(json.dumps(header))  # as it will be read
    state = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    path.write_bytes(save(state, metadata={HEADER: json.dumps(header | {"digest": _digest(header, state)})}))


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Tells whether a bit has changed on a disk; safetensors itself has no checksum."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key, value in sorted(tensors.items()):
        digest.update(key.encode() + str((value.dtype, tuple(value.shape))).encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a state's header and tensors.

    Raises:
        DamagedStateError: the file cannot be read, lacks what it must hold, or holds other bits than were written.
        InputError: it is of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DamagedStateError(f"{path} is damaged ({error}); delete it") from error
    told = header.get("format") if isinstance(header, dict) else None
    if told != FORMAT:
        raise InputError(f"{path} has the state format {told}, this version reads {FORMAT}; delete it and train anew")
    if missing := {"run", "progress", "terms", "pieces", "groups", "schedule", "scaler"} - set(header):
        raise DamagedStateError(f"{path} is damaged (it lacks {', '.join(sorted(missing))}); delete it")
    written = header.pop("digest", None)  # an earlier version wrote none
    if written not in (None, _digest(header, tensors)):
        raise DamagedStateError(f"{path} is damaged (some bits have changed); delete it")
    return header, tensors


def latest_state(
    paths: Sequence[Path], run: Mapping[str, Any]
) -> tuple[Path, dict[str, Any], dict[str, Tensor]] | None:
    """The first of `paths` that can be read; a damaged one costs a warning and the minutes to the one before it.

    Raises:
        InputError: it is of another format or run, see `require_same_run`; or all of them are damaged.
    """
    for path in paths:
        try:
            header, tensors = read_state(path)
        except DamagedStateError as error:
            if path == paths[-1]:
                later = f", and so are {', '.join(other.name for other in paths[:-1])}" if paths[1:] else ""
                raise InputError(f"{error} to train anew{later}; or use restart=True (--overwrite)") from error
            warnings.warn(f"{error}; the state before it is taken", stacklevel=2)
            continue
        require_same_run(path, theirs=_completed(header["run"], path), ours=run)
        return path, header, tensors
    return None


def restore(trainer: Trainer, path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrainState:
    """Set a fresh loop to where a saved one was; the number of processes may be another.

    Random states are the main process's. Others draw anew, which matters to networks with drop connect only: every
    other draw is made for the whole batch in all processes alike.

    Raises:
        InputError: the state, as `read_state` gives it, is not one of such a loop.
    """
    try:
        return _restored(trainer, header, tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} does not hold what {trainer.recipe.name} needs to go on ({reason}); delete it: the state before it "
            "is taken then, or where there is none, training begins anew"
        ) from error


def _restored(trainer: Trainer, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrainState:
    trainer.module.load_state_dict(_below(tensors, "objective."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "optimiser.").items():
        place, _, name = key.partition(".")
        state.setdefault(int(place), {})[name] = value
    groups = [group | {"betas": tuple(group["betas"])} for group in header["groups"]]
    trainer.optimiser.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in trainer.optimiser.state.items():
        if any(values[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
            raise ValueError("a moment of the optimiser has another shape than its weight")
        # Back to the parameter's layout in memory, in which the first run had them.
        like = {k: torch.empty_like(parameter).copy_(v) for k, v in values.items() if v.shape == parameter.shape}
        values.update(like)
    schedule = header["schedule"]
    if (schedule is None) != (trainer.schedule is None) or (schedule is not None and "last_epoch" not in schedule):
        raise ValueError("its schedule is none, or of another kind")
    if schedule is not None:
        trainer.schedule.load_state_dict(schedule)
    if header["scaler"] is not None and trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(header["scaler"])
    progress = TrainState(**header["progress"])
    losses = tensors.get("losses")
    numbers = (progress.seconds, progress.epoch)
    if not all(isinstance(number, int | float) and math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError("its epoch or seconds are no number")
    if len(progress.history) != progress.epoch or (losses is not None and losses.shape[1:] != (len(header["terms"]),)):
        raise ValueError("its history or its losses are of another length")
    trainer.begin(progress.epoch)
    trainer.go_on(header["terms"], losses)
    trainer.pieces.count = int(header["pieces"])
    trainer.generator.set_state(tensors["draws"])
    if trainer.accelerator.is_main_process:
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and trainer.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"])
    return progress


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
