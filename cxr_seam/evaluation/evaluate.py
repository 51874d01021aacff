"""Evaluate trained models on the test images, beside Grad-CAM and baselines, and write results.json.

Every accuracy is reported with its false-positive rate, because more boxes always raise the accuracy.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..data.dataset import ChestXrayDataset
from ..data.layouts.base import DatasetMetadata
from ..device import installed_versions
from ..errors import InputError
from ..findings import OPERATING_POINTS, XYWH
from ..inference.predictor import Predictor
from ..inference.scores import raw_scores
from ..metrics.bootstrap import N_BOOTSTRAP, PatientBootstrap, bootstrap_for_json, bootstrap_patients
from ..metrics.calibration import calibration_scores
from ..metrics.classification import classification_scores
from ..metrics.localization import localization_scores
from ..metrics.matching import boxed_findings
from ..models.checkpoint import ScoreCalibration, best_path, load_checkpoint, read_header, weights_fingerprint
from ..recipes import Recipe, recipe_to_dict
from ..workspace import DEMO_PATIENTS, Workspace
from .methods import Method, Targets, baseline_methods, gradcam_methods, model_methods, models_of
from .results import (
    FORMAT,
    LOCALIZATION,
    MULTIRES,
    REFINED,
    STANDARD,
    metric_definitions,
    paired_differences,
    ranking,
    save_results,
)

OFFICIAL_LIST = "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc"
"""`digest` of the 25,596 names in NIH's test_list.txt."""
OFFICIAL = "the official test list"
"""Its name in `data.split` of results.json."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of an evaluation, and the data that figures and examples need.

    Attributes:
        results: the content of results.json, see docs/results.md.
        predictors: the loaded models.
        findings: the K findings that both the models and the dataset have.
        labels: (N, K) of the test images, 0, 1 or NaN.
        raw_scores: model name -> (N, K) float64 in [0, 1].
        targets: the images with true boxes, and these boxes; None without boxes of these findings.
        methods: boxes of each method on these images.
    """

    results: dict[str, Any]
    predictors: dict[str, Predictor]
    findings: tuple[str, ...]
    labels: np.ndarray
    raw_scores: dict[str, np.ndarray]
    targets: Targets | None
    methods: dict[str, Method]

    @property
    def final_model(self) -> str:
        """Name of the last model, which ROC curves show."""
        return list(self.raw_scores)[-1]


def evaluate(run: Workspace, *, n_bootstrap: int = N_BOOTSTRAP, seed: int = 0) -> Evaluation:
    """Evaluate the trained models of a run on its test images and write results.json.

    The findings that both the models and the dataset have are evaluated. Without true boxes of them, only
    classification is scored. Boxes of images outside the test list are left out with a warning.

    Args:
        run: with prepared images and at least one trained model.
        n_bootstrap: bootstrap replicates of the patients. The same number and seed pair different evaluations.
        seed: of the bootstrap, the random maps and the halves of the mean boxes.

    Raises:
        InputError: no image is prepared, no model is trained, or models and dataset have no finding in common.
    """
    predictors = load_predictors(run.recipes, run.models)
    metadata, test_set = run.metadata(), run.test_dataset()
    targets = find_targets(metadata, test_set, findings=shared_findings(predictors, metadata))
    evaluation = evaluate_models(predictors, metadata, test_set, targets, n_bootstrap=n_bootstrap, seed=seed)
    header = {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "n_bootstrap": n_bootstrap,
        "seed": seed,
        "data": describe_data(run, metadata, test_set, targets, labels=evaluation.labels)
        | describe_findings(evaluation, metadata)
        | count_training_images(run, predictors, metadata),
        "checkpoints": describe_checkpoints(run, predictors),
        "versions": installed_versions(),
    }
    evaluation = replace(evaluation, results=header | evaluation.results)
    save_results(evaluation.results, run.results)
    return evaluation


def evaluate_models(
    predictors: dict[str, Predictor],
    metadata: DatasetMetadata,
    test_set: ChestXrayDataset,
    targets: Targets | None,
    *,
    n_bootstrap: int,
    seed: int,
) -> Evaluation:
    """Classify all test images, localize on those with true boxes (`targets`), and score both.

    Returns:
        An evaluation with the results from `metrics` on, without the header of results.json.
    """
    findings = shared_findings(predictors, metadata)
    labels = test_set.labels[:, [metadata.findings.index(finding) for finding in findings]]
    patients = metadata.images["patient_id"]

    def bootstrap(images: Sequence[str]) -> PatientBootstrap:
        return bootstrap_patients(patients[images].to_numpy(), n_bootstrap=n_bootstrap, seed=seed)

    raw_scores, classification, replicates = classify(
        predictors, test_set, labels=labels, findings=findings, bootstrap=bootstrap(test_set.image_index)
    )
    tables = {model: pd.DataFrame(p, test_set.image_index, findings) for model, p in raw_scores.items()}
    methods, localization = {}, {}
    if targets is not None:
        images = targets.dataset.image_index
        methods = model_methods(predictors, targets, raw_scores=tables)
        methods |= gradcam_methods(predictors, targets, raw_scores=tables)
        methods |= baseline_methods(
            targets.boxes,
            patient_of=patients[images].to_dict(),
            findings=targets.findings,
            raw_scores=tables,
            seed=seed,
        )
        localization, samples = score_methods(methods, targets, bootstrap=bootstrap(images))
        replicates = {name: replicates.get(name, {}) | samples.get(name, {}) for name in replicates | samples}
    results = {
        "metrics": metric_definitions(
            boxes=targets is not None, masks=any(scores["pixels"] for scores in localization.values())
        ),
        "classification": classification,
        "localization": localization,
        "bootstrap": {
            name: {metric: bootstrap_for_json(values) for metric, values in metrics.items()}
            for name, metrics in replicates.items()
        },
    }
    results["differences"] = paired_differences(results)
    results["ranking"] = ranking(results)
    return Evaluation(results, predictors, findings, labels, raw_scores, targets, methods)


def score_methods(
    methods: Mapping[str, Method], targets: Targets, *, bootstrap: PatientBootstrap
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Return the localization scores of each method, and the replicates of its metrics."""
    localization, replicates = {}, {}
    for name, method in tqdm(methods.items(), desc="score", unit="method", leave=False):
        scores, samples = localization_scores(
            method.boxes,
            targets.boxes,
            images=targets.dataset.image_index,
            findings=targets.findings,
            bootstrap=bootstrap,
            points=method.points,
            pixels=method.pixels,
        )
        localization[name] = {"type": method.type, "note": method.note, **scores}
        replicates[name] = {metric: samples[key] for metric, key in LOCALIZATION.items() if key in samples}
    return localization, replicates


def shared_findings(predictors: Mapping[str, Predictor], metadata: DatasetMetadata) -> tuple[str, ...]:
    """Return the findings that both the models and the dataset have, in the order of the models.

    Raises:
        InputError: there is none, or the models predict different findings.
    """
    (first, known), *others = ((key, tuple(predictor.findings)) for key, predictor in predictors.items())
    for other, findings in others:
        if findings != known:
            raise InputError(f"the models {first} and {other} predict different findings; train both on one dataset")
    if shared := tuple(finding for finding in known if finding in metadata.findings):
        return shared
    raise InputError(
        f"the models predict {', '.join(known)}, but the dataset has labels of {', '.join(metadata.findings)}; "
        "evaluate on a dataset with one of the models' findings"
    )


def find_targets(metadata: DatasetMetadata, test_set: ChestXrayDataset, *, findings: Sequence[str]) -> Targets | None:
    """Select the test images with true boxes of some findings; None without such images.

    Boxes of images outside the test list are left out with a warning.
    """
    if outside := count_boxes_outside_test(metadata):
        warnings.warn(f"true boxes of images outside the test list are left out: {outside:,}", stacklevel=3)
    boxes = true_boxes(metadata.boxes, test_set.image_index, findings=findings)
    if not len(boxes):
        return None
    dataset = ChestXrayDataset(test_set.cache, metadata, image_index=list(boxes["image_index"].unique()))
    masks = true_boxes(metadata.masks, dataset.image_index, findings=findings)
    return Targets(boxed_findings(findings, boxes), dataset, boxes, masks)


def count_boxes_outside_test(metadata: DatasetMetadata) -> int:
    """Count the true boxes of images that are not on the test list."""
    return int((~metadata.boxes["image_index"].isin(metadata.test)).sum())


def true_boxes(boxes: pd.DataFrame, images: Sequence[str], *, findings: Sequence[str]) -> pd.DataFrame:
    """Return the boxes (or outlines) of some images and findings."""
    return boxes[boxes["image_index"].isin(images) & boxes["finding"].isin(findings)]


def load_predictors(recipes: Sequence[Recipe], folder: Path | str) -> dict[str, Predictor]:
    """Load the best standard and the best refined model of a preset.

    The refined checkpoint also gives the MultiRes model: the same network, read before its PCM (Table 4). Joint
    training changes the classifier, so both models then have the scores of the refined checkpoint. The checkpoint of
    the classifier stage is loaded only if the refined one does not exist.

    Raises:
        InputError: no model has been trained in `folder`, or the MultiRes model was trained again and the PCM was not.
    """
    standard, multires, refined = (best_path(Path(folder), recipe.name) for recipe in recipes)
    predictors = {}
    if standard.exists():
        predictors[STANDARD] = Predictor.load(standard)
    if refined.exists():
        model, metadata = load_checkpoint(refined)
        trained_from = None if metadata.data is None else metadata.data.init_fingerprint
        if multires.exists() and trained_from not in (None, weights_fingerprint(multires)):
            raise InputError(f"{refined} was trained from an earlier model than {multires}; run notebook 03 again")
        predictors[REFINED] = Predictor.from_checkpoint(model, metadata)
    elif multires.exists():
        predictors[MULTIRES] = Predictor.load(multires)
    if not predictors:
        raise InputError(f"no trained model in {folder}; run notebooks 02 and 03 (or python -m cxr_seam train) first")
    return predictors


def classify(
    predictors: Mapping[str, Predictor],
    test_set: ChestXrayDataset,
    *,
    labels: np.ndarray,
    findings: Sequence[str],
    bootstrap: PatientBootstrap,
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Return each model's raw scores (N, K) of `findings`, its metrics, and the replicates of its means.

    The PCM does not change logits, so the two models of a refined checkpoint share them.
    """
    scores, tables, replicates = {}, {}, {}
    for key, predictor in predictors.items():
        columns = [predictor.findings.index(finding) for finding in findings]
        logits, calibrator = predictor.logits(test_set, desc=f"classify, {key}"), predictor.calibrator
        values = raw_scores(logits)[:, columns]
        thresholds = {point: calibrator.thresholds(point)[columns] for point in OPERATING_POINTS}
        table, samples = classification_scores(
            labels, values, bootstrap=bootstrap, thresholds=thresholds, findings=findings
        )
        calibrated = calibrator.probabilities(logits)[:, columns]
        calibration = calibration_scores(labels, calibrated, bootstrap=bootstrap, findings=findings)
        for finding, row in calibration["findings"].items():
            table["findings"][finding]["calibration"] = describe_calibration(calibrator.scores.get(finding)) | row
        table["mean"] |= calibration["mean"]
        for model in models_of(key):
            scores[model], tables[model], replicates[model] = values, table, samples
    return scores, tables, replicates


def describe_calibration(score: ScoreCalibration | None) -> dict[str, Any]:
    """Return counts, slope and intercept of the calibration of a finding, for JSON; zeros and None without one."""
    score = score or ScoreCalibration(0, 0)
    return {
        "validation_positives": score.positives,
        "validation_negatives": score.negatives,
        "slope": score.slope,
        "intercept": score.intercept,
    }


def describe_data(
    run: Workspace,
    metadata: DatasetMetadata,
    test_set: ChestXrayDataset,
    targets: Targets | None,
    *,
    labels: np.ndarray,
) -> dict[str, Any]:
    """Describe the test images and their labels (N, K); results with the same digests are paired."""
    patients = metadata.images["patient_id"]
    rows = zip(test_set.image_index, patients[test_set.image_index], labels.tolist(), strict=True)
    boxed: list[str] = [] if targets is None else targets.dataset.image_index
    regions: list[Sequence[Any]] = list(zip(boxed, patients[boxed], strict=True))
    if targets is not None:
        regions += targets.boxes[["image_index", "finding", *XYWH]].itertuples(index=False, name=None)
        regions += targets.masks[["image_index", "finding", "polygon"]].itertuples(index=False, name=None)
    return {
        "description": run.data,
        "split": describe_split(run.data, metadata.test, test_set.image_index),
        "listed_test_images": len(metadata.test),
        "test_images": len(test_set),
        "test_patients": int(patients[test_set.image_index].nunique()),
        "boxed_images": len(boxed),
        "boxed_patients": int(patients[boxed].nunique()),
        "true_boxes": 0 if targets is None else len(targets.boxes),
        "boxes_outside_test": count_boxes_outside_test(metadata),
        "test_sha256": digest(rows),
        "boxed_sha256": digest(regions),
    }


def describe_findings(evaluation: Evaluation, metadata: DatasetMetadata) -> dict[str, list[str]]:
    """List the evaluated findings, those with boxes, and those that only the models or only the dataset have."""
    known, shared = next(iter(evaluation.predictors.values())).findings, evaluation.findings
    return {
        "findings": list(shared),
        "boxed_findings": [] if evaluation.targets is None else list(evaluation.targets.findings),
        "findings_without_labels": [finding for finding in known if finding not in shared],
        "findings_not_predicted": [finding for finding in metadata.findings if finding not in shared],
    }


def describe_split(data: str, listed: Sequence[str], evaluated: Sequence[str]) -> str:
    """Say which test list was evaluated, and whether all of it.

    The official list is recognised by its names, in any folder. The path of a folder is left out, because model cards
    show this text.
    """
    if digest([name] for name in listed) == OFFICIAL_LIST:
        test_list = OFFICIAL
    else:
        test_list = f"the test list of {'the synthetic images' if data in DEMO_PATIENTS else 'own images'}"
    return f"{'part' if set(listed) - set(evaluated) else 'all'} of {test_list}"


def count_training_images(
    run: Workspace, predictors: Mapping[str, Predictor], metadata: DatasetMetadata
) -> dict[str, int | None]:
    """Count the images and patients that the recipes choose for training and validation.

    None where they cannot be counted: the images are not in the cache, the recipes choose different images, or a model
    was trained on other images than its recipe chooses here.
    """
    recipes = {(predictor.recipe.data, predictor.recipe.seed): predictor.recipe for predictor in predictors.values()}
    try:
        datasets = run.train_val_datasets(*recipes.values()) if len(recipes) == 1 else (None, None)
    except InputError:
        datasets = (None, None)
    trained = [read_header(best_path(run.models, predictor.recipe.name)).data for predictor in predictors.values()]
    if datasets[0] is not None and any(data and data.train_fingerprint != datasets[0].fingerprint for data in trained):
        datasets = (None, None)
    counts: dict[str, int | None] = {}
    for name, dataset in zip(("training", "validation"), datasets, strict=True):
        patients = None if dataset is None else metadata.images["patient_id"][dataset.image_index]
        counts[f"{name}_images"] = None if patients is None else len(patients)
        counts[f"{name}_patients"] = None if patients is None else int(patients.nunique())
    return counts


def digest(rows: Iterable[Sequence[Any]]) -> str:
    """Return the SHA-256 of rows, independent of their order."""
    return hashlib.sha256("\n".join(sorted(" ".join(map(str, row)) for row in rows)).encode()).hexdigest()


def describe_checkpoints(run: Workspace, predictors: Mapping[str, Predictor]) -> dict[str, Any]:
    """Return the source of each model."""
    sources = {}
    for key, predictor in predictors.items():
        path = best_path(run.models, predictor.recipe.name)
        header = read_header(path)
        sources[predictor.recipe.name] = {
            "models": list(models_of(key)),
            "epoch": header.epoch,
            "metrics": header.metrics,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "recipe": recipe_to_dict(predictor.recipe),
        }
    return sources
