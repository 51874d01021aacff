"""Collect the boxes of every localization method: trained models, Grad-CAM of the same network, and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from ..data.dataset import ChestXrayDataset, iter_batches
from ..data.transforms import eval_transform
from ..inference.heatmap_options import HeatmapOptions
from ..inference.heatmaps import PAPER_SIZE
from ..inference.maps.registry import gradient_map
from ..inference.predictor import BATCH_SIZE, Predictor
from ..metrics.localization import best_boxes
from ..metrics.matching import rank_by_raw_score
from ..metrics.pixels import pixel_rows
from ..metrics.pointing_game import box_points, points
from .baselines import HALF_IMAGE, centre_boxes, prior_boxes, random_map_boxes
from .results import BASELINE, COMPARISON, MODEL, MULTIRES, REFINED, SEEN_BOXES

GRADCAM_METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}


@dataclass(frozen=True, eq=False)
class Method:
    """Boxes, points and pixel scores of one localization method.

    Attributes:
        type: "model", "comparison" or "baseline".
        note: a few words that a reader must know about the method, or "".
        boxes: as returned by `predicted_boxes`, with the `raw_score` of the finding on the image.
        points: of the pointing game, see `metrics.pointing_game.points`.
        pixels: scores of heat maps against outlines, see `metrics.pixels.pixel_rows`; None of a baseline.
    """

    type: str
    note: str
    boxes: pd.DataFrame
    points: pd.DataFrame
    pixels: pd.DataFrame | None = None


@dataclass(frozen=True, eq=False)
class Targets:
    """True boxes and outlines, and the images that they lie on.

    Attributes:
        findings: the findings with a true box.
        dataset: the images with a true box.
        boxes: true boxes of these findings on these images.
        masks: their outlines, columns `image_index`, `finding`, `polygon`; may be empty.
    """

    findings: tuple[str, ...]
    dataset: ChestXrayDataset
    boxes: pd.DataFrame
    masks: pd.DataFrame


class BoxCollector:
    """Collect boxes and, with the targets, points and pixel scores of one method, batch by batch."""

    def __init__(self, options: HeatmapOptions, targets: Targets) -> None:
        self.options, self.targets = options, targets
        self.boxes: list[pd.DataFrame] = []
        self.points: list[pd.DataFrame] = []
        self.pixels: list[pd.DataFrame] = []

    def add(self, names: Sequence[str], cam: Tensor, *, channels: slice | Sequence[int] = slice(None)) -> None:
        """Add the CAMs (B, C, h, w) of a batch of images; `channels` are those of the targets' findings."""
        findings, threshold = self.targets.findings, self.options.threshold
        maps = self.options.heatmaps(cam, PAPER_SIZE)[:, channels].numpy()
        for name, heatmaps in zip(names, maps, strict=True):
            self.boxes.append(self.options.boxes(heatmaps, name, findings=findings))
            self.points.append(points(heatmaps, name, findings, truth=self.targets.boxes))
            self.pixels.append(pixel_rows(heatmaps, name, findings, masks=self.targets.masks, threshold=threshold))

    def method(self, type: str, note: str, *, raw_scores: pd.DataFrame) -> Method:
        """Return all boxes, each with the raw score of its finding (index image_index, columns findings)."""
        tables = (self.boxes, self.points, self.pixels)
        boxes, point_rows, pixels = (pd.concat(rows, ignore_index=True) for rows in tables)
        return Method(type, note, rank_by_raw_score(boxes, raw_scores), point_rows, pixels)


def models_of(key: str) -> tuple[str, ...]:
    """Name the models that a predictor serves: the refined checkpoint also gives the maps without the PCM."""
    return (MULTIRES, REFINED) if key == REFINED else (key,)


def maps_by_model(key: str, output: Any) -> dict[str, Tensor]:
    """Return the CAMs of a predictor's output by model name."""
    return dict(zip(models_of(key), (output.cam, output.refined), strict=False))


def model_methods(
    predictors: Mapping[str, Predictor], targets: Targets, *, raw_scores: Mapping[str, pd.DataFrame]
) -> dict[str, Method]:
    """Localize with the CAMs of each model, at the threshold Q of its recipe."""
    collectors: dict[str, BoxCollector] = {}
    for key, predictor in predictors.items():
        channels = [predictor.findings.index(finding) for finding in targets.findings]
        for names, output in predictor.forward_dataset(targets.dataset, desc=f"locate, {key}"):
            for model, cam in maps_by_model(key, output).items():
                options = predictor.heatmap_options(refined=model == REFINED)
                collectors.setdefault(model, BoxCollector(options, targets)).add(names, cam, channels=channels)
    return {model: c.method(MODEL, "", raw_scores=raw_scores[model]) for model, c in collectors.items()}


def gradcam_methods(
    predictors: Mapping[str, Predictor], targets: Targets, *, raw_scores: Mapping[str, pd.DataFrame]
) -> dict[str, Method]:
    """Localize with Grad-CAM and Grad-CAM++ of the MultiRes model; nothing where no such model is given.

    Test-time augmentation and the options of heat maps and boxes are those of `gradient_map`.
    """
    predictor = predictors.get(REFINED) or predictors.get(MULTIRES)
    if predictor is None:
        return {}
    methods, recipe = {}, predictor.recipe
    for method, title in GRADCAM_METHODS.items():
        collector = None
        for pixels, _, indices in iter_batches(targets.dataset, BATCH_SIZE, desc=f"locate, {title}"):
            images = eval_transform(pixels.to(predictor.device), size=recipe.image_size)
            found = gradient_map(method, predictor.model, images, recipe=recipe, findings=targets.findings)
            collector = collector or BoxCollector(found.options, targets)
            collector.add([targets.dataset.image_index[index] for index in indices], found.cam)
        note = "gradients of the MultiRes model"
        methods[f"{MULTIRES}, {title}"] = collector.method(COMPARISON, note, raw_scores=raw_scores[MULTIRES])
    return methods


def baseline_methods(
    truth: pd.DataFrame,
    *,
    patient_of: Mapping[str, object],
    findings: Sequence[str],
    raw_scores: Mapping[str, pd.DataFrame],
    seed: int = 0,
) -> dict[str, Method]:
    """Localize without a trained map: random maps, centred boxes, mean boxes of other patients.

    "Centre box, ranked by ..." ranks the centred box by the raw scores of the last model: it measures how much of
    a FROC value is due to classification alone.

    Args:
        truth: true boxes of the findings.
        patient_of: `image_index` -> patient of all images; no mean box includes boxes of the same patient.
        findings: the findings that are localized.
        raw_scores: model -> table of raw scores with index `image_index`.
        seed: of the random maps and of the two halves of the patients.
    """
    images = list(patient_of)
    half = centre_boxes(images, extent=HALF_IMAGE, findings=findings)
    model, ranks = list(raw_scores.items())[-1]
    blind = "never saw an image"
    boxes = {
        "Random 8x8 map": (blind, random_map_boxes(images, grid=8, seed=seed, findings=findings)),
        "Random 32x32 map": (blind, random_map_boxes(images, grid=32, seed=seed, findings=findings)),
        "Centre box, third of image": (blind, centre_boxes(images, findings=findings)),
        "Centre box, half of image": (blind, half),
        f"Centre box, ranked by {model}": (
            "half of image, the model's raw scores",
            rank_by_raw_score(half, ranks),
        ),
    }
    if len({patient_of[name] for name in truth["image_index"]}) > 1:
        boxes["Mean box of the other half"] = SEEN_BOXES, prior_boxes(truth, patient_of=patient_of, seed=seed)
    return {
        name: Method(BASELINE, note, table, box_points(best_boxes(table), truth))
        for name, (note, table) in boxes.items()
    }
