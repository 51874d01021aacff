"""How good the trained models of a family are, beside controls that never saw an image: everything in results.json.

Each accuracy stands with its false positives: boxes buy accuracy. Methods are ranked by what cannot be bought so.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm

from .. import __version__
from ..data.dataset import ChestXrayDataset
from ..data.nih import NihMetadata
from ..errors import InputError
from ..findings import FINDINGS, XYWH
from ..inference.predictor import Predictor
from ..metrics.bootstrap import DRAWS, PatientBootstrap, bootstrap_for_json, bootstrap_patients
from ..metrics.classification import classification_scores
from ..metrics.localization import localization_scores
from ..models.checkpoint import NEGATIVE_MEAN, best_path, load_checkpoint, read_header
from ..recipes import Recipe, recipe_to_dict
from ..workspace import DEMO_PATIENTS, Workspace
from .methods import Method, baseline_methods, gradient_methods, model_methods, skipped_methods
from .results import FORMAT, MEAN_AUC, MEAN_AVERAGE_PRECISION, MULTIRES, REFINED, STANDARD, paired_differences, ranking

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "opencv-python",
    "scikit-learn",
    "safetensors",
    "grad-cam",
)


OFFICIAL_LIST = "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc"
"""`digest` of NIH's test_list.txt, its 25,596 names."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found, and what figures and galleries need besides.

    Attributes:
        results: the content of results.json, see docs/results.md.
        predictors: the loaded models.
        labels: (N, 14) of the test films, 0 or 1.
        probabilities: model name -> (N, 14).
        boxed: the films with true boxes.
        truth: true boxes of these.
        methods: boxes of each method on these.
    """

    results: dict[str, Any]
    predictors: dict[str, Predictor]
    labels: np.ndarray
    probabilities: dict[str, np.ndarray]
    boxed: ChestXrayDataset
    truth: pd.DataFrame
    methods: dict[str, Method]

    @property
    def final_model(self) -> str:
        """Name of the model that came last, whose ROC curves are shown."""
        return list(self.probabilities)[-1]


def load_predictors(family: Sequence[Recipe], folder: Path | str) -> dict[str, Predictor]:
    """Load the best standard and the best refined model of a family.

    The MultiRes model before the PCM is the same trained network, read before its PCM (Table 4), so two checkpoints
    serve three models; where the second phase has not been trained yet, the first phase's checkpoint stands in.

    Raises:
        InputError: no model of the family has been trained in `folder`, or the first phase was trained anew and the
            second was not.
    """
    standard, multires, refined = (best_path(Path(folder), recipe.name) for recipe in family)
    found = {}
    if standard.exists():
        found[STANDARD] = Predictor.load(standard)
    if refined.exists():
        model, metadata = load_checkpoint(refined)
        if multires.exists() and not same_backbone(model, multires):
            raise InputError(f"{refined} goes on from an earlier model than {multires}; run notebook 03 again")
        found[REFINED] = Predictor.of(model, metadata)
    elif multires.exists():
        found[MULTIRES] = Predictor.load(multires)
    if not found:
        raise InputError(f"no trained model in {folder}; run notebooks 02 and 03 (or python -m cxr_seam train) first")
    return found


def same_backbone(model: torch.nn.Module, path: Path) -> bool:
    """Whether a checkpoint holds the model's weights but for its refiner's, which a second phase may exchange."""
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("refiner.")}
    earlier = {key: value for key, value in load_file(path).items() if not key.startswith((NEGATIVE_MEAN, "refiner."))}
    return state.keys() == earlier.keys() and all(torch.equal(value, earlier[key]) for key, value in state.items())


def evaluate(
    workspace: Workspace, *, draws: int = DRAWS, seed: int = 0, alone: Mapping[str, Predictor] | None = None
) -> Evaluation:
    """Evaluate the trained models of a workspace's family on its test films and on those with true boxes.

    Args:
        workspace: with prepared films and at least one trained model.
        draws: of the bootstrap over patients. The same number and seed are paired between models and between reports.
        seed: of the bootstrap, the random maps and the halves of the mean boxes.
        alone: models by name to evaluate in place of the family's, with neither comparisons nor controls beside them.

    Raises:
        InputError: no film is prepared, none carries a box, or no model is trained.
    """
    predictors = alone or load_predictors(workspace.recipes, workspace.models)
    tables, films, boxed = workspace.tables(), workspace.test_dataset(), workspace.boxed_dataset()
    truth = tables.boxes[tables.boxes["image_index"].isin(boxed.image_index)]
    patients = tables.images["patient_id"]
    probabilities = classify_all(predictors, films)
    drawn = bootstrap_patients(patients[films.image_index].to_numpy(), draws=draws, seed=seed)
    classification, samples = _classified(films.labels, probabilities, predictors, drawn)

    of_film = {model: pd.DataFrame(p, films.image_index, FINDINGS) for model, p in probabilities.items()}
    methods = model_methods(predictors, boxed, truth, of_film)
    if alone is None:
        methods |= gradient_methods(predictors, boxed, truth, of_film)
        patient_of = patients[boxed.image_index].to_dict()
        methods |= baseline_methods(boxed.image_index, truth, patient_of=patient_of, probabilities=of_film, seed=seed)
    drawn = bootstrap_patients(patients[boxed.image_index].to_numpy(), draws=draws, seed=seed)
    localization = {}
    for name, method in tqdm(methods.items(), desc="score", unit="method", leave=False):
        scores, drawn_scores = localization_scores(
            method.boxes, truth, images=boxed.image_index, draws=drawn, points=method.points
        )
        localization[name] = {"kind": method.kind, "note": method.note, **scores}
        samples[name] = samples.get(name, {}) | drawn_scores
    results = {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "draws": draws,
        "seed": seed,
        "data": _data(workspace, tables, films, boxed, truth) | _training_data(workspace, predictors, patients),
        "checkpoints": _checkpoints(workspace, predictors),
        "versions": _versions(next(iter(predictors.values())).device),
        "notes": skipped_methods(predictors),
        "classification": classification,
        "localization": localization,
        "samples": {name: {key: bootstrap_for_json(v) for key, v in s.items()} for name, s in samples.items()},
    }
    results["differences"] = paired_differences(results)
    results["ranking"] = ranking(results)
    return Evaluation(results, predictors, films.labels, probabilities, boxed, truth, methods)


def classify_all(predictors: Mapping[str, Predictor], films: ChestXrayDataset) -> dict[str, np.ndarray]:
    """Probabilities (N, 14) of each model; the PCM does not touch the logits, so two models may share them."""
    scores = {}
    for key, predictor in predictors.items():
        probabilities = predictor.probabilities(films, what=f"classify, {key}")
        scores |= {MULTIRES: probabilities, REFINED: probabilities} if key == REFINED else {key: probabilities}
    return scores


def _classified(
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    predictors: Mapping[str, Predictor],
    drawn: PatientBootstrap,
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Scores of every model and the draws of its means; models that share probabilities are computed once."""
    tables, samples, known = {}, {}, {}
    for model, values in probabilities.items():
        if id(values) not in known:
            thresholds = (predictors.get(model) or predictors[REFINED]).thresholds_array
            known[id(values)] = classification_scores(labels, values, draws=drawn, thresholds=thresholds)
        scores = known[id(values)]
        tables[model] = scores.table
        samples[model] = {figure: scores.samples[figure] for figure in (MEAN_AUC, MEAN_AVERAGE_PRECISION)}
    return tables, samples


def _data(
    workspace: Workspace, tables: NihMetadata, films: ChestXrayDataset, boxed: ChestXrayDataset, truth: pd.DataFrame
) -> dict[str, Any]:
    """What was evaluated on; the digests tell whether two results may be paired."""
    patients = tables.images["patient_id"]
    rows = zip(films.image_index, patients[films.image_index], films.labels.tolist(), strict=True)
    people = zip(boxed.image_index, patients[boxed.image_index], strict=True)
    true = truth[["image_index", "finding", *XYWH]].itertuples(index=False, name=None)
    return {
        "description": workspace.data,
        "split": split_of(workspace.data, tables.test, films.image_index),
        "listed_test_images": len(tables.test),
        "test_images": len(films),
        "test_patients": int(patients[films.image_index].nunique()),
        "boxed_images": len(boxed),
        "boxed_patients": int(patients[boxed.image_index].nunique()),
        "true_boxes": len(truth),
        "test_sha256": digest(rows),
        "boxed_sha256": digest([*people, *true]),
    }


def split_of(data: str, listed: Sequence[str], evaluated: Sequence[str]) -> str:
    """Say which films were evaluated: all or part of the official test list, of the drawn films' or of one's own.

    The official list is known by its names, wherever it lies; a folder's path is not told, since cards quote this.
    """
    if digest([name] for name in listed) == OFFICIAL_LIST:
        of = "the official test list"
    else:
        of = "the test list of the drawn films" if data in DEMO_PATIENTS else "the test list of own films"
    return f"{'part' if set(listed) - set(evaluated) else 'all'} of {of}"


def _training_data(
    workspace: Workspace, predictors: Mapping[str, Predictor], patients: pd.Series
) -> dict[str, int | None]:
    """ChestXrayDataset and patients that the models' recipes choose, of those at hand, to train on and to validate on.

    None where that cannot be told: no such film is at hand, as where models were trained elsewhere, or the recipes
    choose differently.
    """
    choices = {(predictor.recipe.data, predictor.recipe.seed): predictor.recipe for predictor in predictors.values()}
    chosen: dict[str, list[str]] = {}
    if len(choices) == 1:
        try:
            train, validation = workspace.train_val_datasets(*choices.values())
            chosen = {"training": train.image_index, "validation": validation.image_index}
        except InputError:
            pass
    counts: dict[str, int | None] = {}
    for name in ("training", "validation"):
        films = chosen.get(name)
        counts[f"{name}_images"] = None if films is None else len(films)
        counts[f"{name}_patients"] = None if films is None else int(patients[films].nunique())
    return counts


def _versions(device: torch.device) -> dict[str, str | None]:
    """What the numbers were computed with; None for a package that is not installed."""
    found: dict[str, str | None] = {"cxr_seam": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    gpu = device.type == "cuda"
    return found | {"device": torch.cuda.get_device_name(device) if gpu else f"CPU ({platform.machine()})"}


def digest(rows: Iterable[Sequence[Any]]) -> str:
    """SHA-256 of some rows, whatever their order."""
    return hashlib.sha256("\n".join(sorted(" ".join(map(str, row)) for row in rows)).encode()).hexdigest()


def _checkpoints(workspace: Workspace, predictors: Mapping[str, Predictor]) -> dict[str, Any]:
    """Where each model comes from."""
    metadata = {}
    for key, predictor in predictors.items():
        path = best_path(workspace.models, predictor.recipe.name)
        header = read_header(path)
        metadata[predictor.recipe.name] = {
            "models": list(models_in_method(key)),
            "epoch": header.epoch,
            "metrics": header.metrics,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "recipe": recipe_to_dict(predictor.recipe),
        }
    return metadata


def models_in_method(key: str) -> tuple[str, ...]:
    """The models that a predictor serves."""
    return (MULTIRES, REFINED) if key == REFINED else (key,)
