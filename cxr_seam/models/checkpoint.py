"""Save and load trained models: safetensors files with recipe and measured values as JSON in the header.

Loading executes no code. Tensor names are those of `LocalizationModel`'s state dict. The names of the checkpoints and
of the history of a training are defined here as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..findings import FINDINGS, OPERATING_POINTS, check_findings
from ..io import atomic_write, from_plain, open_file, user_path, validated
from ..recipes import CountOr0, Fraction, ImageSize, Positive, Recipe
from .build import build_from_recipe
from .multires import LocalizationModel, ModelOutput

HEADER = "cxr_seam"
FORMAT = 4
QUICKSTART = "quickstart"
"""Name of the packaged model, accepted wherever the path of a checkpoint is; see docs/quickstart.md."""
QUICKSTART_FILE = Path(__file__).parent.parent / "quickstart" / "model.safetensors"
MEAN_MAPS = ("negative_mean", "prior")
"""Fields of `Checkpoint` that are tensors beside the weights, called FIELD.KIND, such as "prior.cam"."""
OperatingPoint = Literal[tuple(OPERATING_POINTS)]


@validated
class TrainingData:
    """Identify the data of a training run.

    Attributes:
        cache_size: side in pixels of the cached images; batches are resized to the recipe's image size.
        train_fingerprint, val_fingerprint: of names and labels of the images.
        pixel_crc: checksums of the cached pixels of both datasets.
        init_fingerprint: of the weights that a SEAM stage begins with; None for a classifier stage.
    """

    cache_size: ImageSize
    train_fingerprint: str
    val_fingerprint: str
    pixel_crc: str
    init_fingerprint: str | None = None


@validated
class ScoreCalibration:
    """Meaning of the scores of one finding, measured on the validation images with a known label.

    The raw score of an image is the sigmoid of its logit. `inference.scores` fits and applies these values.

    Attributes:
        positives, negatives: numbers of these images with and without the finding.
        slope, intercept: the calibrated probability is sigmoid(slope * logit + intercept); None if it has none.
        thresholds: for each operating point the raw score from which the finding counts as present; None without one.
    """

    positives: CountOr0
    negatives: CountOr0
    slope: Positive | None = None
    intercept: float | None = None
    thresholds: dict[OperatingPoint, Fraction | None] = field(default_factory=dict)

    @model_validator(mode="after")
    def _is_consistent(self) -> ScoreCalibration:
        if (self.slope is None) != (self.intercept is None):
            raise ValueError("slope and intercept belong together")
        if self.slope is not None and not (self.positives and self.negatives):
            raise ValueError("a calibration needs positive and negative images")
        return self


@validated
class Checkpoint:
    """Metadata of a trained model.

    Attributes:
        recipe: the recipe that the model was trained with.
        findings: names of the findings, in the order of the model's outputs.
        epoch: number of finished epochs.
        metrics: values measured in that epoch, such as "validation_auc".
        scores: calibration and thresholds of each finding; None before they are measured, which completes a training.
        data: what the model was trained on; None if it is unknown.
        negative_mean: mean CAM of negative images for "cam" and "refined", (K, h, w) each, if the recipe's
            `cam_baseline` is "negative_mean". They are tensors beside the weights; `read_header` does not read them.
        prior: where each finding usually is, in the same form, if the recipe's `map_prior` is "labels".
    """

    recipe: Recipe
    findings: tuple[str, ...] = FINDINGS
    epoch: CountOr0 = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, ScoreCalibration] | None = None
    data: TrainingData | None = None
    negative_mean: dict[str, Tensor] | None = field(default=None, compare=False)
    prior: dict[str, Tensor] | None = field(default=None, compare=False)

    @model_validator(mode="after")
    def _has_known_findings(self) -> Checkpoint:
        check_findings(self.findings)
        if unknown := [name for name in self.scores or {} if name not in self.findings]:
            raise ValueError(f"scores name {unknown[0]!r}, which is none of {', '.join(self.findings)}")
        return self

    @property
    def cache_size(self) -> int:
        """Side in pixels of the cached images that the model was trained on."""
        return self.recipe.image_size if self.data is None else self.data.cache_size


def save_checkpoint(path: str | os.PathLike[str], model: LocalizationModel, *, metadata: Checkpoint) -> Path:
    """Write `model` and its metadata to `path` (ending .safetensors), whole or not at all.

    The findings are those of the model, whatever the metadata say.
    """
    with atomic_write(path) as temporary:  # safetensors' save_file would make a file that only its owner can read
        temporary.write_bytes(checkpoint_bytes(model, metadata=metadata))
    return Path(path)


def checkpoint_bytes(model: LocalizationModel, *, metadata: Checkpoint) -> bytes:
    """Return the content of a checkpoint file."""
    header = {"format": FORMAT, "findings": [], **asdict(replace(metadata, findings=model.findings))}
    tensors = model.state_dict()
    for name in MEAN_MAPS:
        tensors |= {f"{name}.{kind}": value for kind, value in (header.pop(name) or {}).items()}
    state = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    return save(state, metadata={HEADER: json.dumps(header)})


def checkpoint_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a checkpoint that a user named: a file, or the text "quickstart" for the packaged model.

    "./quickstart" and a `Path` are always a file.

    Raises:
        InputError: the path is empty, or the current folder has a file called "quickstart".
    """
    if path != QUICKSTART:
        return user_path(path, what="path of the checkpoint")
    if Path(QUICKSTART).is_file():
        raise InputError(
            f"{QUICKSTART} is the name of the packaged model and of a file in this folder; write ./{QUICKSTART} for "
            "the file, or rename it"
        )
    return QUICKSTART_FILE


def read_header(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the metadata of a checkpoint (see `checkpoint_path`) without its weights.

    Raises:
        InputError: the file is missing, is not a safetensors file of this program and of this format, or its header is
            damaged.
    """
    path = checkpoint_path(path)
    try:
        with open_file(path), safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"there is no checkpoint {path}; train a model first or correct the path") from error
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} is not a readable safetensors checkpoint ({reason}); give a file NAME.best.safetensors that "
            "cxr_seam wrote; pickles are never loaded"
        ) from error
    if text is None:
        raise InputError(f"{path} holds weights but no {HEADER} header; only checkpoints of this program can be loaded")
    try:
        header = dict(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} has a damaged {HEADER} header ({error}); train again") from error
    if header.pop("format", None) != FORMAT:
        raise InputError(f"{path} was written by another version of cxr_seam; train again with this version")
    try:
        if "findings" not in header:
            raise InputError("it lacks the findings; train again")
        return from_plain(Checkpoint, header)
    except InputError as error:
        raise InputError(f"the {HEADER} header of {path} is damaged: {error}") from error


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[LocalizationModel, Checkpoint]:
    """Load a model and its metadata; see `checkpoint_path`.

    Returns:
        The model, float32, in evaluation mode on the CPU, and the metadata. Weights that are stored in half precision
        are converted.

    Raises:
        InputError: see `read_header`; also if the weights do not fit the model of the recipe or are not finite.
    """
    path = checkpoint_path(path)
    metadata = read_header(path)
    recipe = metadata.recipe
    try:
        model = build_from_recipe(recipe, weights="none", findings=metadata.findings)
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except (InputError, SafetensorError, OSError) as error:
        raise InputError(f"the model in {path} cannot be built: {error}") from error
    if wrong := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise InputError(f"the weights in {path} hold NaN or infinite numbers ({wrong[0]}); train again")
    mean_maps = take_mean_maps(state)
    for name, maps in mean_maps.items():
        for kind, value in (maps or {}).items():
            if kind not in ModelOutput._fields or value.ndim != 3 or len(value) != len(metadata.findings):
                raise InputError(f"{name}.{kind} in {path} has the shape {tuple(value.shape)}; train again")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(
            f"the weights in {path} do not fit a {recipe.model}: {reason}; train again or correct the path"
        ) from error
    return model.eval(), replace(metadata, **mean_maps)


def weights_fingerprint(path: Path) -> str:
    """Hash a checkpoint's weights, but not its header: that contains how long an epoch took.

    Raises:
        InputError: see `read_header`.
    """
    read_header(path)
    digest = hashlib.sha256()
    with safe_open(path, framework="np") as file:
        for key in sorted(file.keys()):
            digest.update(key.encode() + file.get_tensor(key).tobytes())
    return digest.hexdigest()[:16]


def take_mean_maps(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor] | None]:
    """Remove the `MEAN_MAPS` from the tensors of a checkpoint and return them by field, None where there are none."""
    found: dict[str, dict[str, Tensor]] = {name: {} for name in MEAN_MAPS}
    for key in list(state):
        name, _, kind = key.partition(".")
        if name in found:
            found[name][kind] = state.pop(key)
    return {name: maps or None for name, maps in found.items()}


def require_findings(path: Path, *, found: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse to train a file's model on a dataset with other findings.

    Args:
        path: the file, for the error.
        found: findings of the file.
        expected: findings of the dataset.

    Raises:
        InputError: names what differs.
    """
    if tuple(found) == tuple(expected):
        return
    parts = {
        "only the file has": [name for name in found if name not in expected],
        "only the data have": [name for name in expected if name not in found],
    }
    difference = ", ".join(f"{text} {', '.join(names)}" for text, names in parts.items() if names)
    raise InputError(
        f"{path} was trained on other findings than those of the data: {difference or 'their order differs'}; choose "
        "another folder, or train again with overwrite=True (--overwrite), which replaces it"
    )


def best_path(folder: Path, name: str) -> Path:
    """Return the path of the best checkpoint of the recipe `name`."""
    return Path(folder) / f"{name}.best.safetensors"


def last_path(folder: Path, name: str) -> Path:
    """Return the path of the last epoch's checkpoint of the recipe `name`."""
    return Path(folder) / f"{name}.last.safetensors"


def history_path(folder: Path, name: str) -> Path:
    """Return the path of the training history of the recipe `name`."""
    return Path(folder) / f"{name}.history.jsonl"


def read_history(folder: Path | str, name: str) -> list[dict[str, Any]]:
    """Read the training history of the recipe `name` in `folder`, one record per epoch.

    Raises:
        InputError: it is missing or damaged.
    """
    path = history_path(folder, name)
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line is not an object")
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; train {name} first") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}); restore it, or train again with overwrite=True (--overwrite)"
        ) from error
    return records
