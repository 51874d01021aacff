"""One film with what was said about it: labels, true boxes, and each model's probabilities and maps."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..data.cache import ImageCache
from ..data.dataset import ChestXrayDataset
from ..data.image_io import load_image, resize_square
from ..data.nih import NihMetadata
from ..errors import InputError
from ..evaluation.evaluate import load_predictors
from ..evaluation.methods import maps_by_model
from ..evaluation.results import format_estimate
from ..findings import BOXED_FINDINGS, FINDINGS, XYWH, canonical_finding
from ..inference.boxes import boxes_from_heatmap
from ..inference.heatmaps import PAPER_SIZE, heat_maps
from ..inference.predictor import Prediction, Predictor
from ..inference.view_check import check_frontal
from ..io import atomic_write
from ..metrics.boxes import box_overlap, iou
from ..metrics.localization import best_boxes, rank_by_probability
from ..workspace import Workspace
from .render import PANEL_WIDTH, Panel, render_png

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, eq=False)
class Example:
    """One film, ready to be shown; figures and the explorer take these. Nothing of it changes once it is made.

    Attributes:
        image_index: name of the film.
        film: (H, W) uint8 grey.
        labels: the findings it is labelled with.
        probabilities: model name -> (14,) in [0, 1]. The order of the names is the order of the panels.
        cams: model name -> (14, h, w), raw or refined class activation maps, any float; the same names.
        cam_thresholds: model name -> Q of its recipe, which its boxes are drawn and judged with; the same names.
        true_boxes: columns `finding`, `x`, `y`, `w`, `h` as fractions of the film; may be empty.
        patient_id: whose film it is; None for a film that somebody brought, of which nothing but its pixels is known.
        doubts: why it may be no frontal chest film, a sentence each (`frontal`).

    Raises:
        InputError: the parts do not fit together.
    """

    image_index: str
    film: np.ndarray
    labels: tuple[str, ...]
    probabilities: Mapping[str, np.ndarray]
    cams: Mapping[str, np.ndarray]
    cam_thresholds: Mapping[str, float]
    true_boxes: pd.DataFrame
    patient_id: int | None = None
    image_warnings: tuple[str, ...] = ()
    _hits: dict[tuple[str, str], bool | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        if self.film.ndim != 2 or self.film.dtype != np.uint8:
            raise InputError(
                f"{self.image_index}: a film must be (H, W) uint8, not {self.film.shape} {self.film.dtype}"
            )
        if not self.cams or not set(self.cams) == set(self.probabilities) == set(self.cam_thresholds):
            raise InputError(f"{self.image_index}: give maps, probabilities and Q of the same models, at least one")
        for model, cam in self.cams.items():
            if cam.ndim != 3 or len(cam) != len(FINDINGS) or len(self.probabilities[model]) != len(FINDINGS):
                raise InputError(f"{self.image_index}: {model} must give {len(FINDINGS)} maps and probabilities")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of their panels."""
        return tuple(self.cams)

    def probability(self, model: str, finding: str) -> float:
        """Return what `model` says of `finding`, in [0, 1]."""
        return float(self.probabilities[model][FINDINGS.index(canonical_finding(finding))])

    def heatmap(self, model: str, finding: str, *, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """Return `model`'s heat map of `finding`, float in [0, 1], at the film's size unless told otherwise."""
        cam = np.ascontiguousarray(self.cams[model][FINDINGS.index(canonical_finding(finding))])
        height, width = self.film.shape
        return heat_maps(torch.from_numpy(cam)[None, None], size or (height, width))[0, 0].numpy()

    def predicted(self, model: str, finding: str) -> np.ndarray:
        """Return `model`'s boxes of `finding`, (K, 4) x, y, w, h in [0, 1], best first.

        They are made from a heat map of the paper's size, whatever the film's, with the Q of the model's recipe, so
        that the boxes drawn are the boxes scored.
        """
        heatmap = self.heatmap(model, finding, size=PAPER_SIZE)
        return boxes_from_heatmap(heatmap, threshold=self.cam_thresholds[model]).xywh

    def true(self, finding: str) -> np.ndarray:
        """Return the true boxes of `finding`, (M, 4) x, y, w, h in [0, 1]."""
        return self.true_boxes[XYWH].to_numpy(dtype=np.float64)[self.true_boxes["finding"].to_numpy() == finding]

    def is_correct(self, model: str, finding: str) -> bool | None:
        """Tell whether `model`'s best box has an IoU above 0.1 with a true one; None where there is no true one.

        The answer is kept: menus ask for it of every film, again and again.
        """
        if (model, finding) not in self._hits:
            true = self.true(finding)
            self._hits[model, finding] = best_iou(self.predicted(model, finding), true) > HIT if len(true) else None
        return self._hits[model, finding]


def best_iou(predicted: np.ndarray, true: np.ndarray) -> float:
    """IoU of the first of some boxes (K, 4) with the true box (M, 4) that it meets best; 0 where there is none."""
    return float(iou(predicted[:1], true).max(initial=0.0))


ALL, LABELLED, HITS, MISSES = "all", "labelled", "hits", "misses"
"""Which cases to look at: any, those labelled with a finding, those where a model's best box is right, or wrong."""


def filter_examples(
    examples: Sequence[Example], *, which: str, finding: str, model: str, patient_id: int | None = None
) -> list[int]:
    """Choose cases by label, by patient, or by whether a model finds what is there.

    Args:
        cases: to choose from.
        which: `ALL`, `LABELLED`, `HITS` of `model` (`Example.is_correct`) or `MISSES`.
        finding: whose labels, hits or misses.
        model: whose hits or misses.
        patient_id: whose films; None: anybody's.

    Returns:
        Places in `cases`, in their order. Images without a true box of the finding are neither hits nor misses.
    """
    chosen = []
    for place, example in enumerate(examples):
        if patient_id is not None and example.patient_id != patient_id:
            continue
        if which in (HITS, MISSES):
            fits = example.is_correct(model, finding) is (which == HITS)
        else:
            fits = which == ALL or finding in example.labels
        if fits:
            chosen.append(place)
    return chosen


def pick_boxed(truth: pd.DataFrame, available: Collection[str], *, per_finding: int) -> dict[str, str]:
    """Choose films with true boxes: for each boxed finding the first `per_finding` of the table that are not yet taken.

    Args:
        truth: true boxes (`NihMetadata.boxes`).
        available: names of the films at hand, such as a store.
        per_finding: how many films of each finding; fewer where there are fewer.

    Returns:
        `image_index` -> the finding it was chosen for, in the order of `BOXED_FINDINGS`.
    """
    chosen: dict[str, str] = {}
    for finding in BOXED_FINDINGS:
        names = truth.loc[truth["finding"] == finding, "image_index"]
        left = [name for name in names if name in available and name not in chosen]
        chosen.update(dict.fromkeys(left[:per_finding], finding))
    return chosen


def load_examples(
    workspace: Workspace, *, per_finding: int = 3, predictors: dict[str, Predictor] | None = None
) -> list[Example]:
    """Show films with true boxes to a workspace's trained models.

    Args:
        workspace: with prepared images and at least one trained model.
        per_finding: films of each boxed finding, see `pick_boxed`.
        predictors: the models, where they are loaded already.

    Raises:
        InputError: no image is prepared, none carries a box, or no model is trained.
    """
    cache, tables = workspace.cache(), workspace.tables()
    predictors = predictors or load_predictors(workspace.recipes, workspace.models)
    chosen = pick_boxed(tables.boxes, cache, per_finding=per_finding)
    return make_examples(predictors, list(chosen), cache=cache, tables=tables)


def make_examples(
    predictors: dict[str, Predictor], image_index: Sequence[str], *, cache: ImageCache, tables: NihMetadata
) -> list[Example]:
    """Show the films called `image_index` to models (`evaluation.load_predictors`), one case a film.

    Raises:
        InputError: there is no film, or one is missing in the store or in the tables.
    """
    films = ChestXrayDataset(cache, tables, image_index=image_index)
    probabilities: dict[str, dict[str, np.ndarray]] = {name: {} for name in films.image_index}
    cams: dict[str, dict[str, np.ndarray]] = {name: {} for name in films.image_index}
    cam_thresholds: dict[str, float] = {}
    for key, predictor in predictors.items():
        for names, output in predictor.batches(films, maps=True, what=f"look, {key}"):
            scores = output.logits.sigmoid().numpy()
            for model, maps in maps_by_model(key, output).items():
                cam_thresholds[model] = predictor.recipe.cam_threshold
                for name, score, cam in zip(names, scores, maps.numpy(), strict=True):
                    probabilities[name][model], cams[name][model] = score, cam
    return [
        Example(
            image_index=name,
            film=np.array(cache.images[row]),
            labels=tuple(finding for finding, label in zip(FINDINGS, labels, strict=True) if label),
            probabilities=probabilities[name],
            cams=cams[name],
            cam_thresholds=cam_thresholds,
            true_boxes=tables.boxes.loc[tables.boxes["image_index"] == name, ["finding", *XYWH]],
            patient_id=int(tables.images.at[name, "patient_id"]),
        )
        for name, row, labels in zip(films.image_index, cache.indices(films.image_index), films.labels, strict=True)
    ]


def example_from_file(predictors: Mapping[str, Predictor], data: bytes, *, name: str) -> Example:
    """Show a film that somebody brought to models (`evaluation.load_predictors`).

    Args:
        predictors: at least one.
        data: content of the image file.
        name: of the file.

    Raises:
        InputError: the file is no readable image, see `radiographs.read_radiograph`.
    """
    radiograph = load_image(data, name=name)
    probabilities, cams, cam_thresholds = {}, {}, {}
    for key, predictor in predictors.items():
        film = resize_square(radiograph.pixels, predictor.cache_size)
        output = predictor.run(torch.from_numpy(film)[None, None])
        for model, maps in maps_by_model(key, output).items():
            probabilities[model], cams[model] = output.logits[0].sigmoid().numpy(), maps[0].numpy()
            cam_thresholds[model] = predictor.recipe.cam_threshold
    return Example(
        image_index=name,
        film=radiograph.pixels,
        labels=(),
        probabilities=probabilities,
        cams=cams,
        cam_thresholds=cam_thresholds,
        true_boxes=pd.DataFrame(columns=["finding", *XYWH]),
        image_warnings=check_frontal(radiograph),
    )


def one_per_finding(examples: Sequence[Example]) -> list[tuple[Example, str]]:
    """One case for each boxed finding that occurs, as in Fig. 7; another film in every row where there are enough."""
    rows: list[tuple[Example, str]] = []
    for finding in BOXED_FINDINGS:
        shown = [example for example, _ in rows]
        candidates = [example for example in examples if len(example.true(finding))]
        # A film with two boxes would otherwise stand for both findings.
        fresh = [example for example in candidates if example not in shown]
        rows += [(example, finding) for example in (fresh or candidates)[:1]]
    return rows


def prediction_png(
    prediction: Prediction, *, findings: int = 3, pixels: np.ndarray | None = None, width: int = PANEL_WIDTH
) -> bytes:
    """Draw the heat maps and boxes of the most probable findings of one film, in the image's own proportions.

    Args:
        prediction: of the film.
        findings: how many to draw, side by side.
        pixels: the image in its own pixels (`radiographs.read_radiograph`), for a sharper picture than the film as the
            model saw it.
        width: of a panel in pixels.

    Returns:
        The bytes of a PNG.

    Raises:
        InputError: it is the predictions of several films.
    """
    import cv2

    if not isinstance(prediction, Prediction):
        raise InputError("a picture shows one film; give the prediction of a file, not of a folder")
    height, across = prediction.size
    if pixels is None:
        pixels = cv2.resize(prediction.film, (width, max(1, round(width * height / across))))
    panels = []
    for finding in prediction.top_k(findings):
        decision = {True: ", present", False: ", not present", None: ""}[prediction.present[finding]]
        note = f"probability {prediction.probabilities[finding]:.2f}{decision}"
        heatmap = prediction.heat_map(finding, size=PAPER_SIZE)
        boxes = prediction.boxes_of(finding) / [across, height, across, height]
        panels.append(Panel(finding.replace("_", " "), note, heatmap, boxes))
    return render_png(pixels, panels, true_boxes=np.empty((0, 4)), width=width)


def save_image(example: Example, path: str | os.PathLike[str]) -> Path:
    """Write a case's film as a grey image file; the suffix of `path` chooses the format. Returns `path`."""
    with atomic_write(path) as temporary:
        Image.fromarray(example.film).save(temporary)
    return Path(path)


HIT = 0.1


RULE = (
    "Of all films with a true box of a finding, the one with the highest probability of the finding whose best box is "
    "right (IoU > 0.1: the surest hit), and the one with the highest probability whose best box is wrong or missing "
    "(the surest miss). Of equal ones, the first by name."
)


def score_best_boxes(boxes: pd.DataFrame, truth: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
    """Judge the best box of each film and finding that has a true box.

    Args:
        boxes: of one method, as of `predicted_boxes`.
        truth: true boxes.
        probabilities: index `image_index`, a column a finding.

    Returns:
        Columns `image_index`, `finding`, `probability`, `iou` (of the best box with the true box that it meets best;
        0 without a box), `hit`; surest first.
    """
    key = ["image_index", "finding"]
    pairs = truth.merge(best_boxes(boxes)[[*key, *XYWH]], on=key, how="left", suffixes=("_true", ""))
    found = pairs["x"].notna()
    pairs["iou"] = 0.0
    predicted, true = (pairs.loc[found, [f"{c}{end}" for c in XYWH]].to_numpy(dtype=float) for end in ("", "_true"))
    pairs.loc[found, "iou"] = box_overlap(predicted, true, measure="iou")
    judged = rank_by_probability(pairs.groupby(key, sort=True)["iou"].max().reset_index(), probabilities)
    judged["hit"] = judged["iou"] > HIT
    return judged.sort_values("probability", ascending=False, kind="stable", ignore_index=True)


def most_confident(judged: pd.DataFrame, *, hit: bool) -> list[tuple[str, str]]:
    """The surest hit, or miss, of each boxed finding that has one: (image_index, finding) in NIH's order."""
    first = judged[judged["hit"] == hit].drop_duplicates("finding").set_index("finding")["image_index"]
    return [(first[finding], finding) for finding in BOXED_FINDINGS if finding in first.index]


def count_text(judged: pd.DataFrame, best_box: Mapping[str, Any]) -> str:
    """Say how many are hits, and how many false positives the best boxes cost on all films.

    Args:
        judged: of `judge`.
        best_box: "localization.METHOD.best_box" of results.json, of the same method.
    """
    scores = best_box[f"iou>{HIT}"]
    count, cost = scores["micro"]["false_positives"], format_estimate(scores["macro"]["false_positives_per_image"])
    return (
        f"{judged['hit'].sum():,} of {len(judged):,} films and findings with a true box are hits, at {count:,} false "
        f"positives, {cost} per film and finding."
    )
