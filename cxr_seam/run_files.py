"""The files that training a recipe leaves in a folder: what they are called, and whose a file is.

NAME.best.safetensors and NAME.last.safetensors are models, NAME.history.jsonl tells of the epochs, one JSON object a
line, and NAME.EPOCH-BATCH.state.safetensors are the states of a run that is not complete. Names of recipes may hold
dots, so `x` and `x.v2` can share a folder: a file is told from another recipe's by its whole name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .errors import InputError

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


def is_half_written(file: str, name: str) -> bool:
    """Whether a file of that name is what `files.whole_file` was stopped in writing for the recipe called `name`."""
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
    return records_of(path)


def records_of(path: Path) -> list[dict[str, Any]]:
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
            f"{path} is damaged ({error}); put back a whole one, or train anew with restart=True (--restart)"
        ) from error
    return records
