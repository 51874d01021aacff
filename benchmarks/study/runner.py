"""Train and measure the rows of a study. Finished rows are skipped, and stopped training continues.

Files in the folder of a study: `study.json` (settings), `rows/ROW.sSEED.json` (values and bootstrap replicates of a
row), `rows/ROW.s0.s1.agreement.json` (two models of a row), `baselines.json`, and the tables of `tables.write_tables`.
Checkpoints are in the folder of models of the workspace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.base import DatasetMetadata
from cxr_seam.device import select_device
from cxr_seam.errors import InputError
from cxr_seam.evaluation.baselines import HALF_IMAGE, centre_boxes, random_map_boxes
from cxr_seam.evaluation.evaluate import describe_data, find_targets
from cxr_seam.evaluation.methods import Targets, model_methods, models_of
from cxr_seam.evaluation.results import (
    BEST_BOX,
    FORMAT,
    FROC,
    LOCALIZATION,
    LOOSE_BEST_BOX,
    LOOSE_FROC,
    MASKS,
    MEAN_AUC,
)
from cxr_seam.inference.calibration import Calibration, calibrate
from cxr_seam.inference.predictor import Predictor, PredictorOutput
from cxr_seam.io import atomic_write
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP, PatientBootstrap, bootstrap_for_json, bootstrap_patients, estimate
from cxr_seam.metrics.classification import classification_scores, classification_table
from cxr_seam.metrics.localization import MetricKey, localization_scores
from cxr_seam.metrics.matching import rank_by_raw_score
from cxr_seam.models.checkpoint import Checkpoint, best_path, load_checkpoint, read_history, save_checkpoint
from cxr_seam.recipes import Recipe
from cxr_seam.training.fit import fit
from cxr_seam.workspace import Workspace

from .derived import GradCamModel, MeanModel, mean_calibration, with_all_means
from .model_agreement import MIN_IMAGES, agreement, label_table, predict_labelled_boxes
from .occlusion import make_judge, mean_drop, occlusion_drops
from .rows import Row, count_passes

LARGE_AUC, CENTRE_FROC = "mean_auc_large_images", "centre_box_froc"
OVER_CENTRE = "_over_centre"
"""Ends the names of differences from the centred half of the image, ranked by the same raw scores."""
COMPARED = (FROC, LOOSE_FROC, BEST_BOX, LOOSE_BEST_BOX)
IOBB_BEST, IOU_ALL = "best_box_iobb_0.1", "all_boxes_iou_0.3"
COST = "_false_positives"
LOCALIZED = {name: key for name, key in LOCALIZATION.items() if name not in MASKS} | {
    name + suffix: MetricKey(kind, overlap, quantity)
    for name, kind, overlap in (
        (IOBB_BEST, "best_box", "iobb>0.1"),
        (IOU_ALL, "all_boxes", "iou>0.3"),
    )
    for suffix, quantity in (("", "accuracy"), (COST, "false_positives_per_image"))
}
Values = dict[str, dict[str, Any]]
"""Metric -> {"value": float, "replicates": list}."""


Outputs = list[tuple[list[str], PredictorOutput]]
"""Batches of image names and outputs, as `Predictor.forward_dataset` yields them."""


@dataclass(eq=False)
class ModelMemory:
    """Results of a model that rows with the same model and test-time augmentation share.

    Attributes:
        calibration: with all mean CAMs; None before it is measured.
        outputs: (names of images, whether maps were computed) -> outputs.
    """

    calibration: Calibration | None = None
    outputs: dict[tuple[tuple[str, ...], bool], Outputs] = field(default_factory=dict)


@dataclass(eq=False)
class Study:
    """The data and the rows of a study.

    Attributes:
        run: workspace with prepared data; its folder of models holds the checkpoints of all rows.
        folder: of the study's files.
        make_rows: returns the rows for a seed.
        n_bootstrap: replicates of the bootstrap over patients.
        small_sources: sources of the cache with images that an unknown filter has shrunk; a second AUC leaves them out.
    """

    run: Workspace
    folder: Path
    make_rows: Callable[[Study, int], dict[str, Row]]
    n_bootstrap: int = N_BOOTSTRAP
    small_sources: Sequence[str] = ()
    _rows: dict[int, dict[str, Row]] = field(default_factory=dict)
    _counts: dict[Any, int] = field(default_factory=dict)
    _memory: dict[Any, ModelMemory] = field(default_factory=dict)

    def rows(self, seed: int) -> dict[str, Row]:
        """Return all rows by name."""
        if seed not in self._rows:
            self._rows[seed] = self.make_rows(self, seed)
        return self._rows[seed]

    def count(self, recipe: Recipe) -> int:
        """Return the number of training images of a recipe."""
        key = (recipe.data, recipe.seed)
        if key not in self._counts:
            self._counts[key] = len(self.run.train_val_datasets(recipe)[0])
        return self._counts[key]

    def memory(self, row: Row, recipe: Recipe) -> ModelMemory:
        """Return the memory of a row's model with the test-time augmentation of `recipe`; only the last is kept."""
        key = (recipe.name, recipe.tta_scales, recipe.tta_flip, row.average, row.gradcam)
        if key not in self._memory:
            self._memory.clear()
        return self._memory.setdefault(key, ModelMemory())

    def path(self, name: str) -> Path:
        """Return the path of a file about rows."""
        return self.folder / "rows" / f"{name}.json"

    @cached_property
    def metadata(self) -> DatasetMetadata:
        return self.run.metadata()

    @cached_property
    def test_set(self) -> ChestXrayDataset:
        return self.run.test_dataset()

    @cached_property
    def targets(self) -> Targets:
        """The test images with true boxes.

        Raises:
            InputError: there are none.
        """
        targets = find_targets(self.metadata, self.test_set, findings=self.metadata.findings)
        if targets is None:
            raise InputError(f"{self.run.data_dir} has no test image with a true box; a study needs some")
        return targets

    def bootstrap(self, images: Sequence[str]) -> PatientBootstrap:
        """Sample patients of images; all rows share the samples."""
        patients = self.metadata.images["patient_id"][list(images)].to_numpy()
        return bootstrap_patients(patients, n_bootstrap=self.n_bootstrap)

    def claim(self, settings: dict[str, Any]) -> None:
        """Write the settings of the study, or refuse a folder of another study.

        Raises:
            InputError: the folder holds rows of other settings.
        """
        settings = {"results_format": FORMAT} | settings  # the meaning of the metrics' names
        path = self.folder / "study.json"
        if path.exists() and (other := json.loads(path.read_text())) != settings:
            raise InputError(f"{path} has the settings {other}, not {settings}; choose another --output")
        write_json(path, settings)


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False) + "\n")


def read_row(path: Path, row: Row) -> dict[str, Any]:
    """Read the file of a row.

    Raises:
        InputError: it belongs to other recipes, because the row has changed since it was measured.
    """
    content = json.loads(path.read_text())
    if any(content.get(key) != value for key, value in row.identity.items()):
        raise InputError(f"{path} was measured with other recipes; delete it or rename the row")
    return content


def run_row(study: Study, row: Row, *, seed: int) -> None:
    """Train and measure a row, unless its file exists.

    Raises:
        InputError: the file belongs to other recipes, or a model cannot be trained.
    """
    path = study.path(f"{row.name}.s{seed}")
    if path.exists():
        read_row(path, row)
        return
    models = study.run.models
    for recipe in row.recipes:
        train_set, val_set = study.run.train_val_datasets(recipe)
        train_set = select_patients(study, train_set, share=row.patient_share, seed=seed)
        fit(recipe, models, train_set=train_set, val_set=val_set)
    predictor, logits, val_set = load_model(study, row)
    history = [record for recipe in row.recipes for record in read_history(models, recipe.name)]
    content = row.identity | {"seed": seed, "data": study_data(study)}
    content["passes"] = sum(count_passes(row, study.count).values())
    content["seconds"] = sum(record["seconds"] for record in history)
    content["validation_auc"] = float(
        classification_table(val_set.labels, logits, findings=study.metadata.findings)["auc"].mean()
    )
    content["maps"], content["froc_curves"] = measure(study, row.model, predictor)
    write_json(path, content)


def select_patients(study: Study, dataset: ChestXrayDataset, *, share: float, seed: int) -> ChestXrayDataset:
    """Select the images of a random share of the patients of a dataset."""
    if share == 1:
        return dataset
    patients = study.metadata.images["patient_id"][list(dataset.image_index)].to_numpy()
    known = np.random.default_rng(seed).permutation(np.unique(patients))
    chosen = np.isin(patients, known[: round(share * len(known))])
    names = [name for name, is_chosen in zip(dataset.image_index, chosen, strict=True) if is_chosen]
    return ChestXrayDataset(study.run.cache(), study.metadata, image_index=names)


def study_data(study: Study) -> dict[str, str]:
    """Return digests of the test images and boxes: rows can be compared only if they are equal."""
    data = describe_data(study.run, study.metadata, study.test_set, study.targets, labels=study.test_set.labels)
    return {key: data[key] for key in ("test_sha256", "boxed_sha256")}


class RecordedPredictor(Predictor):
    """A predictor that keeps its outputs in `memory`, for rows that use one model in several ways at test."""

    memory: ModelMemory

    def forward_dataset(
        self, dataset: ChestXrayDataset, *, maps: bool = True, desc: str
    ) -> Iterator[tuple[list[str], PredictorOutput]]:
        """Yield (image names, output) of a dataset batch by batch; the model runs once for each dataset."""
        key = (tuple(dataset.image_index), maps)
        outputs = self.memory.outputs
        if key not in outputs:
            outputs[key] = list(super().forward_dataset(dataset, maps=maps, desc=desc))
        yield from outputs[key]


def load_model(study: Study, row: Row) -> tuple[RecordedPredictor, np.ndarray, ChestXrayDataset]:
    """Load the trained model of a row, calibrated for its use at test, its validation logits and validation images."""
    model, metadata, logits, val_set = load_calibrated(study, row)
    predictor = RecordedPredictor.from_checkpoint(model, metadata)
    predictor.memory = study.memory(row, metadata.recipe)
    return predictor, logits, val_set


def load_calibrated(study: Study, row: Row) -> tuple[nn.Module, Checkpoint, np.ndarray, ChestXrayDataset]:
    """Load model and metadata as `load_model`, with the fields of the recipe that change after training.

    Models that are averaged have different validation images, so each is calibrated on its own, and the mean CAMs are
    averaged. Scores, logits and validation images are those of the last one.
    """
    recipe = replace(row.recipes[-1], **row.at_test)
    memory = study.memory(row, recipe)
    models, found = [], []
    for trained in row.recipes if row.average else row.recipes[-1:]:
        model, metadata = load_checkpoint(best_path(study.run.models, trained.name))
        model.to(select_device().device, memory_format=torch.channels_last)
        model = GradCamModel(model) if row.gradcam else model
        models.append(model)
        _, val_set = study.run.train_val_datasets(trained)
        if memory.calibration is None:
            found.append(calibrate(model, val_set, recipe=with_all_means(recipe)))
    if found:
        memory.calibration = mean_calibration(found)
    calibration = memory.calibration
    measured = {
        "scores": calibration.scores,
        "negative_mean": calibration.negative_mean if recipe.cam_baseline == "negative_mean" else None,
        "prior": calibration.prior if recipe.map_prior == "labels" else None,
    }
    model = MeanModel(models) if row.average else models[0]
    return model, replace(metadata, recipe=recipe, **measured), calibration.logits, val_set


def save_model(study: Study, row: Row, *, folder: Path, seed: int) -> Path:
    """Write the trained model of a row, ready for prediction, as ROW.sSEED.safetensors.

    Raises:
        InputError: the row averages two models or measures Grad-CAM; a checkpoint is one model with its CAMs.
    """
    if row.average or row.gradcam:
        raise InputError(f"{row.name} is not one model with its CAMs; leave it out of --save-models")
    model, metadata, _, _ = load_calibrated(study, row)
    return save_checkpoint(folder / f"{row.name}.s{seed}.safetensors", model, metadata=metadata)


def measure(study: Study, model: str, predictor: Predictor) -> tuple[dict[str, Values], dict[str, Any]]:
    """Measure a model on the test images: metrics and FROC curve of each kind of maps, and the curve of the centre."""
    raw_scores = predictor.raw_scores(study.test_set)
    table = pd.DataFrame(raw_scores, study.test_set.image_index, study.metadata.findings)
    shared = measure_classification(study, raw_scores)
    images, findings = study.targets.dataset.image_index, study.targets.findings
    half = rank_by_raw_score(centre_boxes(images, extent=HALF_IMAGE, findings=findings), table)
    centre, centre_curve = measure_boxes(study, half)
    shared[CENTRE_FROC] = centre[FROC]
    tables = dict.fromkeys(models_of(model), table)
    methods = model_methods({model: predictor}, study.targets, raw_scores=tables)
    values, curves = {}, {CENTRE_FROC: centre_curve}
    for kind, method in methods.items():
        localized, curves[kind] = measure_boxes(study, method.boxes)
        over_centre = {metric + OVER_CENTRE: subtract(localized[metric], centre[metric]) for metric in COMPARED}
        values[kind] = shared | localized | over_centre
    return values, curves


def measure_classification(study: Study, raw_scores: np.ndarray) -> Values:
    """Measure the mean AUC of all test images and, if some images were shrunk, of the others."""
    cache, start, small = study.run.cache(), 0, set()
    for name, count in cache.sources:
        if name in study.small_sources:
            small.update(cache.image_index[start : start + count])
        start += count
    images = study.test_set.image_index
    large = [i for i, name in enumerate(images) if name not in small]
    values = {}
    for metric, chosen in ((MEAN_AUC, list(range(len(images)))), (LARGE_AUC, large if small else [])):
        if chosen:
            samples = study.bootstrap([images[i] for i in chosen])
            scores, replicates = classification_scores(
                study.test_set.labels[chosen],
                raw_scores[chosen],
                bootstrap=samples,
                findings=study.metadata.findings,
            )
            values[metric] = as_value(scores["mean"]["auc"]["value"], replicates[MEAN_AUC])
    return values


def measure_boxes(study: Study, boxes: pd.DataFrame) -> tuple[Values, dict[str, Any]]:
    """Measure boxes on the images with true boxes; return the metrics and the macro FROC curve (IoU > 0.3)."""
    images = study.targets.dataset.image_index
    options = {"images": images, "findings": study.targets.findings, "bootstrap": study.bootstrap(images)}
    scores, samples = localization_scores(boxes, study.targets.boxes, **options)
    values = {name: as_value(key.value(scores)["value"], samples[key]) for name, key in LOCALIZED.items()}
    return values, scores["froc"][LOCALIZATION[FROC].overlap]["curve"]


def subtract(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Subtract values and, replicate by replicate, their bootstraps over the same patients."""
    replicates = [np.array(side["replicates"], dtype=np.float64) for side in (one, other)]
    return as_value(one["value"] - other["value"], replicates[0] - replicates[1])


def as_value(value: float | None, replicates: np.ndarray) -> dict[str, Any]:
    return {"value": value, "replicates": bootstrap_for_json(replicates)}


def run_baselines(study: Study) -> None:
    """Measure baselines that use no image, unless their file exists."""
    path = study.folder / "baselines.json"
    if path.exists():
        return
    images, findings = study.targets.dataset.image_index, study.targets.findings
    baselines = {
        "random 8x8 map": random_map_boxes(images, grid=8, findings=findings),
        "centre box, third of image": centre_boxes(images, findings=findings),
        "centre box, half of image": centre_boxes(images, extent=HALF_IMAGE, findings=findings),
    }
    measured = {name: measure_boxes(study, boxes) for name, boxes in baselines.items()}
    write_json(path, {name: {"values": values, "froc_curve": curve} for name, (values, curve) in measured.items()})


def agreement_path(study: Study, name: str, seeds: Sequence[int]) -> Path:
    """Return the file about the agreement of a row's models of two seeds."""
    return study.path(f"{name}.s{seeds[0]}.s{seeds[1]}.agreement")


def run_agreement(study: Study, name: str, seeds: Sequence[int]) -> None:
    """Compare the models of a row's first two seeds on their validation images, unless the file exists.

    Raises:
        InputError: the file belongs to other recipes.
    """
    if len(seeds) < 2:
        return
    path = agreement_path(study, name, seeds)
    rows = [study.rows(seed)[name] for seed in seeds[:2]]
    if path.exists():
        read_row(path, rows[0])
        return
    loaded = [load_model(study, row) for row in rows]
    datasets = [with_findings(study, val_set) for _, _, val_set in loaded]
    maps = compare_models(rows[0].model, [predictor for predictor, _, _ in loaded], datasets, study=study)
    write_json(path, rows[0].identity | {"seeds": list(seeds[:2]), "maps": maps})


def with_findings(study: Study, dataset: ChestXrayDataset) -> ChestXrayDataset:
    """Choose the images with a finding in their labels."""
    present = (dataset.labels == 1).any(axis=1)
    names = [name for name, is_present in zip(dataset.image_index, present, strict=True) if is_present]
    return ChestXrayDataset(study.run.cache(), study.metadata, image_index=names)


def compare_models(
    model: str,
    predictors: Sequence[Predictor],
    datasets: Sequence[ChestXrayDataset],
    *,
    study: Study,
    min_images: int = MIN_IMAGES,
) -> dict[str, dict[str, Any]]:
    """Measure how far two models agree, and the confidence that each loses where the other's boxes are occluded.

    Args:
        model: name of the models, see `Row.model`.
        predictors: two models.
        datasets: validation images of each; either model may have been trained on some images of the other.
        study: gives patients and the number of replicates.
        min_images: see `model_agreement.agreement`.

    Returns:
        Kind of maps -> "agree", "by_chance" and "gain", means over both datasets, None if they have too few images; and
        "confidence_lost", an estimate of `occlusion.mean_drop`, mean over both models and datasets.
    """
    tables: dict[str, list[pd.Series]] = {}
    drops: dict[str, list[np.ndarray]] = {}
    for dataset in datasets:
        boxes = [predict_labelled_boxes(model, predictor, dataset) for predictor in predictors]
        for kind in boxes[0]:
            table = agreement(boxes[0][kind], boxes[1][kind], labels=label_table(dataset), min_images=min_images)
            tables.setdefault(kind, []).append(table.loc["mean", ["agree", "by_chance", "gain"]])
            lost = [
                occlusion_drops(own[kind], make_judge(other), dataset, min_images=min_images)
                for own, other in zip(boxes, reversed(predictors), strict=True)
            ]
            drops.setdefault(kind, []).append(np.mean(lost, axis=0))
    samples = study.bootstrap([name for dataset in datasets for name in dataset.image_index])
    maps: dict[str, dict[str, Any]] = {}
    for kind, series in tables.items():
        means = pd.DataFrame(series).mean()
        maps[kind] = {name: None if np.isnan(value) else float(value) for name, value in means.items()}
        maps[kind]["confidence_lost"] = estimate(*mean_drop(np.concatenate(drops[kind]), samples))
    return maps
