"""Save and read training states, and recognise whether a file belongs to the same run.

A state holds all that a run needs to continue: weights, optimiser, position, losses, random states. It is a file of
`torch.save` after its SHA-256 checksum (PyTorch has none), and is read with `weights_only=True`: this executes no code.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..data.dataset import ChestXrayDataset
from ..errors import InputError
from ..findings import FINDINGS
from ..models.checkpoint import TrainingData, require_findings, weights_fingerprint
from ..recipes import Recipe, recipe_to_dict
from .trainer import Trainer

FORMAT = 2
DIGEST_SIZE = hashlib.sha256().digest_size
PROGRESS = ("epoch", "batch", "seconds", "losses", "history")
"""Attributes of a trainer."""


class DamagedStateError(InputError):
    """A state that cannot be read; the one before it may be readable."""


def data_fingerprint(
    train_set: ChestXrayDataset, val_set: ChestXrayDataset, *, init_path: Path | None = None
) -> TrainingData:
    """Identify the data of a run, and the checkpoint `init_path` with whose weights it begins."""
    return TrainingData(
        cache_size=train_set.size,
        train_fingerprint=train_set.fingerprint,
        val_fingerprint=val_set.fingerprint,
        pixel_crc=f"{train_set.checksum}, {val_set.checksum}",
        init_fingerprint=None if init_path is None else weights_fingerprint(init_path),
    )


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested dictionaries; names of inner fields are joined by dots."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": field for inner, field in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def run_fingerprint(recipe: Recipe, data: TrainingData, findings: Sequence[str]) -> dict[str, Any]:
    """Identify a run: its findings, and all fields of its recipe and its data, nested ones with dots in their names."""
    return flatten(recipe_to_dict(recipe) | asdict(data) | {"findings": list(findings)})


def require_same_run(path: Path, *, found: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> None:
    """Refuse a file of another run.

    Raises:
        InputError: names the file and every field that differs. A file without findings is one with NIH's.
    """
    way_out = "choose another folder, or train again with overwrite=True (--overwrite), which replaces it"
    if found is None:
        raise InputError(f"{path} does not contain what it was trained on; {way_out}")
    found = {"findings": list(FINDINGS), **found}
    require_findings(path, found=found["findings"], expected=expected["findings"])
    values = {key: (found.get(key, "missing"), expected.get(key, "missing")) for key in {**found, **expected}}
    different = [f"{key} is {old} in the file and {new} now" for key, (old, new) in values.items() if old != new]
    if different:
        raise InputError(f"{path} belongs to another run: {'; '.join(different)}; {way_out}")


def state_bytes(trainer: Trainer, run: Mapping[str, Any]) -> bytes:
    """Return the content of a state file; the trainer must be between two updates."""
    on_gpu, scaler = trainer.accelerator.device.type == "cuda", trainer.accelerator.scaler
    state = {
        "format": FORMAT,
        "run": dict(run),
        "objective": trainer.module.state_dict(),
        "optimiser": trainer.optimiser.state_dict(),
        "schedule": None if trainer.schedule is None else trainer.schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "micro_batches": trainer.split.micro_batches,
        "progress": {name: getattr(trainer, name) for name in PROGRESS},
        "generator": trainer.generator.get_state(),
        "rng_state": [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if on_gpu else []),
    }
    file = io.BytesIO()
    torch.save(state, file)
    content = file.getvalue()
    return hashlib.sha256(content).digest() + content


def read_state(path: Path) -> dict[str, Any]:
    """Read a state file, tensors on the CPU.

    Raises:
        DamagedStateError: the file cannot be read, or its checksum is wrong.
        InputError: it was written by another version.
    """
    if path.suffix != ".pt":
        raise InputError(f"{path} was written by an earlier version of cxr_seam; delete it and train again")
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[DIGEST_SIZE:]).digest() != content[:DIGEST_SIZE]:
            raise ValueError("its checksum is wrong")
        state = torch.load(io.BytesIO(content[DIGEST_SIZE:]), map_location="cpu", weights_only=True)
        version = state["format"]
    except Exception as error:  # damaged files make torch.load raise errors of many types
        raise DamagedStateError(f"{path} is damaged ({error}); delete it") from error
    if version != FORMAT:
        raise InputError(f"{path} was written by another version of cxr_seam; delete it and train again")
    return state


def latest_state(paths: Sequence[Path], run: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """Read the first of `paths` that is not damaged; None if there are no paths. A damaged file costs a warning.

    Raises:
        InputError: the state is of another version or run, or all of them are damaged.
    """
    for path in paths:
        try:
            state = read_state(path)
        except DamagedStateError as error:
            if path == paths[-1]:
                others = f", and {', '.join(other.name for other in paths[:-1])} too" if paths[1:] else ""
                raise InputError(f"{error}{others} to train again, or use overwrite=True (--overwrite)") from error
            warnings.warn(f"{error}; using the state before it", stacklevel=2)
            continue
        require_same_run(path, found=state["run"], expected=run)
        return path, state
    return None


def restore(trainer: Trainer, path: Path, state: Mapping[str, Any]) -> None:
    """Continue where a state was saved; the number of processes may differ.

    The global random state is the main process's. It matters only for networks with stochastic depth, which each
    process samples by itself.

    Raises:
        InputError: the state does not fit the trainer.
    """
    try:
        _restore(trainer, state)
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path} does not fit {trainer.recipe.name} ({type(error).__name__}: {error}); delete it to continue from "
            "the state before it, or to train again"
        ) from error


def _restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    progress, device, scaler = state["progress"], trainer.accelerator.device, trainer.accelerator.scaler
    trainer.module.load_state_dict(state["objective"])
    trainer.optimiser.load_state_dict(state["optimiser"])
    if trainer.schedule is not None:
        trainer.schedule.load_state_dict(state["schedule"])
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    trainer.start_epoch(progress["epoch"])
    for name in PROGRESS:
        setattr(trainer, name, progress[name])
    trainer.losses = {name: values.to(device) for name, values in progress["losses"].items()}
    trainer.n_checked = trainer.batch
    trainer.split.micro_batches = state["micro_batches"]
    trainer.generator.set_state(state["generator"])
    if trainer.accelerator.is_main_process:
        torch.set_rng_state(state["rng_state"][0])
        if device.type == "cuda" and len(state["rng_state"]) > 1:
            torch.cuda.set_rng_state(state["rng_state"][1])
