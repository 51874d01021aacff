"""Every way of localising that is scored: the models' maps, other maps of the same network, and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pandas as pd
from torch import Tensor

from ..data.dataset import ChestXrayDataset, iter_batches
from ..data.transforms import eval_transform
from ..findings import BOXED_FINDINGS
from ..inference.boxes import predicted_boxes
from ..inference.gradcam import gradcam_maps
from ..inference.heatmaps import PAPER_SIZE, heat_maps
from ..inference.predictor import BATCH_SIZE, Predictor
from ..metrics.localization import best_boxes, rank_by_probability
from ..metrics.pointing_game import box_points, points
from .baselines import centre_boxes, prior_boxes, random_map_boxes
from .results import COMPARISON, CONTROL, MODEL, MULTIRES, REFINED, SEEN_BOXES

HALF_FILM = 0.5


GRADIENT_METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}


@dataclass(frozen=True, eq=False)
class Method:
    """Boxes and points of one way of localising.

    Attributes:
        kind: "model", "comparison" or "control".
        note: what a reader must know of it, in a few words.
        boxes: as of `predicted_boxes`, with `probability` of the finding on the film.
        points: of the pointing game, see `pointing.points`.
    """

    kind: str
    note: str
    boxes: pd.DataFrame
    points: pd.DataFrame


@dataclass
class BoxCollector:
    """Gathers boxes and points of one method, batch by batch."""

    threshold: float
    truth: pd.DataFrame
    boxes: list[pd.DataFrame] = field(default_factory=list)
    points: list[pd.DataFrame] = field(default_factory=list)

    def add(self, names: Sequence[str], cam: Tensor) -> None:
        """Take the maps (B, 8 or more, h, w) of a batch of films; the boxed findings come first."""
        maps = heat_maps(cam[:, : len(BOXED_FINDINGS)], PAPER_SIZE).numpy()
        for name, film in zip(names, maps, strict=True):
            self.boxes.append(predicted_boxes(film, name, BOXED_FINDINGS, threshold=self.threshold))
            self.points.append(points(film, name, BOXED_FINDINGS, truth=self.truth))

    def method(self, kind: str, note: str, probabilities: pd.DataFrame) -> Method:
        """What was gathered, boxes with their probabilities."""
        boxes, dots = (pd.concat(tables, ignore_index=True) for tables in (self.boxes, self.points))
        return Method(kind, note, rank_by_probability(boxes, probabilities), dots)


def maps_by_model(key: str, output: Any) -> dict[str, Tensor]:
    """The maps of one output under the names of the models they belong to."""
    if key == REFINED:
        return {MULTIRES: output.cam, REFINED: output.refined}
    return {key: output.cam}


def model_methods(
    predictors: Mapping[str, Predictor],
    films: ChestXrayDataset,
    truth: pd.DataFrame,
    probabilities: Mapping[str, pd.DataFrame],
) -> dict[str, Method]:
    """Each model's own maps on `films`, made into boxes with the recipe's threshold."""
    collected: dict[str, BoxCollector] = {}
    for key, predictor in predictors.items():
        for names, output in predictor.batches(films, maps=True, what=f"locate, {key}"):
            for model, cam in maps_by_model(key, output).items():
                collected.setdefault(model, BoxCollector(predictor.recipe.cam_threshold, truth)).add(names, cam)
    return {model: c.method(MODEL, "", probabilities[model]) for model, c in collected.items()}


def gradient_methods(
    predictors: Mapping[str, Predictor],
    films: ChestXrayDataset,
    truth: pd.DataFrame,
    probabilities: Mapping[str, pd.DataFrame],
) -> dict[str, Method]:
    """Grad-CAM and Grad-CAM++ of the MultiRes model's last features.

    Nothing where no MultiRes model is trained or the package grad-cam is not installed: they are no part of the method.
    """
    key = next((name for name in (REFINED, MULTIRES) if name in predictors), None)
    if key is None or skipped_methods(predictors):
        return {}
    predictor = predictors[key]
    methods = {}
    for method, name in GRADIENT_METHODS.items():
        collected = BoxCollector(predictor.recipe.cam_threshold, truth)
        for pixels, _, indices in iter_batches(films, BATCH_SIZE, desc=f"locate, {name}"):
            images = eval_transform(pixels.to(predictor.device), size=predictor.recipe.image_size)
            cam = gradcam_maps(predictor.model, images, method=method, findings=BOXED_FINDINGS)
            collected.add([films.image_index[index] for index in indices], cam.cpu())
        note = "gradients of the MultiRes model"
        methods[f"{MULTIRES}, {name}"] = collected.method(COMPARISON, note, probabilities[MULTIRES])
    return methods


def skipped_methods(predictors: Mapping[str, Predictor]) -> list[str]:
    """Sentences that tell which comparisons are not computed though there is a model for them."""
    if find_spec("pytorch_grad_cam") is not None or not {REFINED, MULTIRES} & set(predictors):
        return []
    names = " and ".join(GRADIENT_METHODS.values())
    return [f"{names} were not computed, since the package grad-cam is not installed."]


def baseline_methods(
    images: Sequence[str],
    truth: pd.DataFrame,
    *,
    patient_of: Mapping[str, int],
    probabilities: Mapping[str, pd.DataFrame],
    seed: int = 0,
) -> dict[str, Method]:
    """What needs no trained map: random maps of both grids, centred boxes, mean boxes.

    The last one ranks the centred box by a model's probabilities: what the FROC curve owes to classification alone.

    Args:
        images: names of the films.
        truth: their true boxes.
        patient_of: `image_index` -> patient, so that no patient's box serves the same patient.
        probabilities: of each model, index `image_index`; the last one ranks.
        seed: of the random maps and of the halves.
    """
    half = centre_boxes(images, extent=HALF_FILM)
    model, ranks = list(probabilities.items())[-1]
    blind = "never saw a film"
    baselines = {
        "Random 8x8 map": (random_map_boxes(images, grid=8, seed=seed), blind),
        "Random 32x32 map": (random_map_boxes(images, grid=32, seed=seed), blind),
        "Centre box, third of film": (centre_boxes(images), blind),
        "Centre box, half of film": (half, blind),
        f"Centre box, ranked by {model}": (rank_by_probability(half, ranks), "half of film, the model's probabilities"),
    }
    if len({patient_of[name] for name in truth["image_index"]}) > 1:
        baselines["Mean box of the other half"] = prior_boxes(truth, patient_of=patient_of, seed=seed), SEEN_BOXES
    return {
        name: Method(CONTROL, note, boxes, box_points(best_boxes(boxes), truth))
        for name, (boxes, note) in baselines.items()
    }
