"""Build examples: an image with its labels, its true boxes, and the scores and heat maps of each model."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..data.dataset import ChestXrayDataset
from ..data.image_io import load_image, resize_square
from ..data.layouts.base import DatasetMetadata
from ..data.view_check import check_frontal
from ..errors import InputError
from ..evaluation.evaluate import load_predictors
from ..evaluation.methods import maps_by_model
from ..evaluation.results import REFINED
from ..findings import OPERATING_POINTS, XYWH
from ..inference.boxes import boxes_from_heatmap
from ..inference.heatmap_options import HeatmapOptions
from ..inference.heatmaps import PAPER_SIZE
from ..inference.maps.registry import MAPS
from ..inference.predictor import Prediction, Predictor, PredictorOutput
from ..io import atomic_write
from ..metrics.best_box import is_correct
from ..synthetic.anatomy import Body
from ..synthetic.radiograph import synthesize_radiograph
from ..workspace import DEMO_PATIENTS, Workspace
from .overlay import resize, scale_to_width
from .render import PANEL_WIDTH, Panel, render_png

ALL, LABELLED, CORRECT, WRONG = "all", "labelled", "correct", "wrong"
"""Subsets of examples: all; labelled with the finding; the best box of a model is correct; it is wrong or missing."""


class ModelOutput(NamedTuple):
    """Output of one model for one image."""

    raw_scores: np.ndarray  # (K,) in [0, 1]
    cam: np.ndarray  # (K, h, w) float, raw or refined
    options: HeatmapOptions  # how the recipe turns CAMs into heat maps and boxes, and the K findings
    probabilities: np.ndarray  # (K,) calibrated probabilities; NaN: none
    thresholds: Mapping[str, np.ndarray]  # operating point -> (K,) of the raw scores; NaN: no threshold


@dataclass(frozen=True, eq=False)
class Example:
    """One image with the output of each model, for figures and the viewer.

    Attributes:
        image_index: name of the image.
        image: (H, W) uint8 grey.
        outputs: model name -> output. The order of the names is the order of the panels.
        labels: the findings that the image is labelled with, those of the models first.
        true_boxes: of the models' findings; columns `finding`, `x`, `y`, `w`, `h` as fractions; may be empty.
        patient_id: None for an uploaded image, which has no labels and no true boxes.
        image_warnings: sentences why the image may not be a frontal chest radiograph (`data.view_check`).
    """

    image_index: str
    image: np.ndarray
    outputs: Mapping[str, ModelOutput]
    labels: tuple[str, ...]
    true_boxes: pd.DataFrame
    patient_id: int | str | None = None
    image_warnings: tuple[str, ...] = ()
    _correct: dict[tuple[str, str], bool | None] = field(default_factory=dict, init=False, repr=False)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of their panels."""
        return tuple(self.outputs)

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings of the models, which are the same for all models."""
        return next(iter(self.outputs.values())).options.findings

    @property
    def title(self) -> str:
        """Name and labels, for a menu."""
        labels = "your image" if self.patient_id is None else ", ".join(self.labels) or "no finding"
        return f"{self.image_index}: {labels}"

    def raw_score(self, model: str, finding: str) -> float:
        """Return the raw score of a finding, in [0, 1]."""
        return float(self.outputs[model].raw_scores[self.findings.index(finding)])

    def probability(self, model: str, finding: str) -> float | None:
        """Return the calibrated probability of a finding; None without one."""
        value = float(self.outputs[model].probabilities[self.findings.index(finding)])
        return None if np.isnan(value) else value

    def heatmap(self, model: str, finding: str, *, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """Return the heat map of a finding, float in [0, 1], at `size` or else at the size of the image."""
        output = self.outputs[model]
        return output.options.heatmap(output.cam, finding, size or self.image.shape)

    def pred_boxes(self, model: str, finding: str) -> np.ndarray:
        """Return the predicted boxes of a finding, (K, 4) x, y, w, h in [0, 1], best first.

        They come from a heat map of the paper's size and the rule and threshold Q of the recipe, so that the boxes in
        figures are the boxes that are scored.
        """
        heatmap, options = self.heatmap(model, finding, size=PAPER_SIZE), self.outputs[model].options
        return boxes_from_heatmap(heatmap, threshold=options.threshold, rule=options.box_rule).xywh

    def gt_boxes(self, finding: str) -> np.ndarray:
        """Return the true boxes of a finding, (M, 4) x, y, w, h in [0, 1]."""
        return self.true_boxes[XYWH].to_numpy(dtype=np.float64)[self.true_boxes["finding"].to_numpy() == finding]

    def is_correct(self, model: str, finding: str) -> bool | None:
        """Return whether the best box of a model is correct (IoU > 0.3); None without a true box.

        The result is cached, because the menus of the viewer ask for all examples at every change.
        """
        if (model, finding) not in self._correct:
            true = self.gt_boxes(finding)
            self._correct[model, finding] = is_correct(self.pred_boxes(model, finding), true) if len(true) else None
        return self._correct[model, finding]


def filter_examples(
    examples: Sequence[Example], *, subset: str, finding: str, model: str, patient_id: int | str | None = None
) -> list[int]:
    """Select examples by label, by patient, or by whether the best box of a model is correct.

    Args:
        subset: `ALL`, `LABELLED`, `CORRECT` or `WRONG`. Images without a true box are neither correct nor wrong.
        finding, model: of the labels and boxes.
        patient_id: None for all patients.

    Returns:
        Indices into `examples`.
    """

    def is_selected(example: Example) -> bool:
        if patient_id is not None and example.patient_id != patient_id:
            return False
        if subset in (CORRECT, WRONG):
            return example.is_correct(model, finding) is (subset == CORRECT)
        return subset == ALL or finding in example.labels

    return [index for index, example in enumerate(examples) if is_selected(example)]


def example_pairs(metadata: DatasetMetadata, *, findings: Sequence[str]) -> pd.DataFrame:
    """List the test images with a true box of some findings; without such boxes, the test images and their labels.

    Returns:
        Columns `image_index`, `finding`.
    """
    boxes = metadata.boxes[metadata.boxes["image_index"].isin(metadata.test) & metadata.boxes["finding"].isin(findings)]
    if len(boxes):
        return boxes[["image_index", "finding"]]
    labelled = [finding for finding in metadata.findings if finding in findings]
    labels = metadata.images.loc[metadata.images.index.isin(metadata.test), labelled]
    rows, columns = np.nonzero(labels.to_numpy() == 1)
    return pd.DataFrame({"image_index": labels.index[rows], "finding": labels.columns[columns]})


def pick_boxed(
    truth: pd.DataFrame, available: Collection[str], *, findings: Sequence[str], per_finding: int
) -> dict[str, str]:
    """Pick the first `per_finding` images of each finding, each image only once.

    Args:
        truth: true boxes or `example_pairs`.
        available: names of the images that exist, for example an `ImageCache`.
        findings: findings to show.
        per_finding: number of images of each finding; fewer if there are fewer.

    Returns:
        `image_index` -> finding, in the order of `findings`.
    """
    picked: dict[str, str] = {}
    for finding in findings:
        names = truth.loc[truth["finding"] == finding, "image_index"]
        fresh = [name for name in names if name in available and name not in picked]
        picked.update(dict.fromkeys(fresh[:per_finding], finding))
    return picked


def first_image(run: Workspace) -> Path:
    """Write an image to look at before a model is trained, `first_image.png` among the figures, and return its path.

    It is the first test image with a true box (see `example_pairs`) if real images are prepared, else a synthetic
    radiograph with an effusion of the right lung.
    """
    name = None
    if run.data not in DEMO_PATIENTS and run.cache_folder.exists():
        cache, metadata = run.cache(), run.metadata()
        names = example_pairs(metadata, findings=metadata.findings)["image_index"]
        name = next((name for name in names if name in cache), None)
    if name is not None:
        pixels = np.array(cache.images[cache.indices([name])[0]])
    else:
        person = Body.sample(np.random.default_rng(2))
        pixels = synthesize_radiograph(person, ("Effusion",), site_seed=2, image_seed=2).pixels
    return write_image(pixels, run.figures / "first_image.png")


def load_examples(
    run: Workspace,
    *,
    per_finding: int = 3,
    image_index: Sequence[str] | None = None,
    predictors: Mapping[str, Predictor] | None = None,
) -> list[Example]:
    """Load images and run the trained models of a workspace on them.

    Args:
        run: with prepared images and at least one trained model.
        per_finding: test images of each finding, see `example_pairs` and `pick_boxed`.
        image_index: names of the images, instead of `per_finding`.
        predictors: the models, if they are already loaded.

    Raises:
        InputError: no image is prepared, none has a finding, a named one is missing, or no model is trained.
    """
    cache, metadata = run.cache(), run.metadata()
    predictors = predictors or load_predictors(run.recipes, run.models)
    findings = next(iter(predictors.values())).findings
    pairs = example_pairs(metadata, findings=findings)
    picked = image_index or pick_boxed(pairs, cache, findings=findings, per_finding=per_finding)
    dataset = ChestXrayDataset(cache, metadata, image_index=list(picked))
    outputs: dict[str, dict[str, ModelOutput]] = {name: {} for name in dataset.image_index}
    for key, predictor in predictors.items():
        for names, batch in predictor.forward_dataset(dataset, desc=f"predict, {key}"):
            for name, output in zip(names, batch.split(), strict=True):
                outputs[name] |= _output_by_model(key, predictor, output)
    rows = zip(dataset.image_index, cache.indices(dataset.image_index), dataset.labels, strict=True)
    boxes = metadata.boxes[metadata.boxes["finding"].isin(findings)]
    order = sorted(range(len(metadata.findings)), key=lambda index: metadata.findings[index] not in findings)
    return [
        Example(
            image_index=name,
            image=np.array(cache.images[row]),
            outputs=outputs[name],
            labels=tuple(metadata.findings[index] for index in order if labels[index] == 1),
            true_boxes=boxes.loc[boxes["image_index"] == name, ["finding", *XYWH]],
            patient_id=metadata.images["patient_id"].astype(object)[name],
        )
        for name, row, labels in rows
    ]


def example_from_file(predictors: Mapping[str, Predictor], data: bytes, *, name: str) -> Example:
    """Run models on the bytes of an image file (PNG, JPEG, TIFF or DICOM), for example an uploaded one.

    Raises:
        InputError: the file is not a readable image, see `data.image_io.load_image`.
    """
    radiograph = load_image(data, name=name)
    outputs: dict[str, ModelOutput] = {}
    for key, predictor in predictors.items():
        image = resize_square(radiograph.pixels, predictor.cache_size)
        outputs |= _output_by_model(key, predictor, predictor.forward(torch.from_numpy(image)[None, None]))
    no_boxes = pd.DataFrame(columns=["finding", *XYWH])
    return Example(name, radiograph.pixels, outputs, (), no_boxes, image_warnings=check_frontal(radiograph))


def _output_by_model(key: str, predictor: Predictor, output: PredictorOutput) -> dict[str, ModelOutput]:
    """Return the output of a predictor for one image by model: one model, or two with raw and refined maps."""
    calibrator = predictor.calibrator
    probabilities = calibrator.probabilities(output.logits[0].numpy())
    thresholds = {point: calibrator.thresholds(point) for point in OPERATING_POINTS}
    return {
        model: ModelOutput(
            output.raw_scores[0].numpy(),
            maps[0].numpy(),
            predictor.heatmap_options(refined=model == REFINED),
            probabilities,
            thresholds,
        )
        for model, maps in maps_by_model(key, output).items()
    }


def one_per_finding(examples: Sequence[Example]) -> list[tuple[Example, str]]:
    """Pick one example for each finding with a true box, as in Fig. 7; without any true box, for each labelled finding.

    Each row has a different image if there are enough.
    """
    rows: list[tuple[Example, str]] = []
    with_boxes = any(len(example.true_boxes) for example in examples)
    for finding in examples[0].findings if examples else ():
        used = [example for example, _ in rows]
        shown = [len(e.gt_boxes(finding)) if with_boxes else finding in e.labels for e in examples]
        candidates = [example for example, is_shown in zip(examples, shown, strict=True) if is_shown]
        rows += [(example, finding) for example in sorted(candidates, key=used.__contains__)[:1]]
    return rows


def prediction_png(prediction: Prediction, *, pixels: np.ndarray | None = None, width: int = PANEL_WIDTH) -> bytes:
    """Render heat maps and boxes of the three findings with the highest raw scores of one prediction as a PNG.

    Args:
        prediction: of one image.
        pixels: (H, W) uint8, the image at its own size (`load_image`), for a sharper picture than the model's input.
        width: of a panel in pixels. The height follows from the proportions of the image.

    Raises:
        InputError: `prediction` holds several predictions.
    """
    if not isinstance(prediction, Prediction):
        raise InputError("a picture shows one image; give the prediction of one file, not of a folder")
    height, across = prediction.size
    if pixels is None:
        pixels = resize(prediction.image, scale_to_width(prediction.size, width))
    panels = []
    for finding in prediction.top_k(3):
        probability = prediction.probabilities[finding]
        text = (
            "no calibrated probability"
            if probability is None
            else f"calibrated probability {format_probability(probability)}"
        )
        caption = f"raw score {prediction.raw_scores[finding]:.2f}, {text}"
        if prediction.decisions[finding] is not None:
            title = OPERATING_POINTS[prediction.calibrator.operating_point]
            caption += f"\n{prediction.decision(finding)} at {title}"
        boxes = prediction.boxes_of(finding) / [across, height, across, height]
        heatmap = prediction.heat_map(finding, size=PAPER_SIZE)
        panels.append(Panel(finding.replace("_", " "), caption, heatmap, boxes))
    return render_png(pixels, panels, width=width, heat=MAPS[prediction.map])


def format_probability(probability: float | None) -> str:
    """Format a calibrated probability: "0.212", "< 0.001" for a smaller one, "none" without one."""
    if probability is None:
        return "none"
    return "< 0.001" if probability < 0.001 else f"{probability:.3f}"


def save_image(example: Example, path: str | os.PathLike[str]) -> Path:
    """Write the image of an example as a grey image file and return `path`; the suffix chooses the format."""
    return write_image(example.image, path)


def write_image(pixels: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Write grey values (H, W) uint8 as an image file and return `path`."""
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)
    return Path(path)


def most_confident(scored: pd.DataFrame, *, findings: Sequence[str], correct: bool) -> list[tuple[str, str]]:
    """Pick the correct (or wrong) prediction with the highest raw score of each finding.

    Args:
        scored: best boxes (`score_best_boxes`), each with the `raw_score` of its finding on its image.
        findings: findings to show.
        correct: whether to pick correct or wrong predictions.

    Returns:
        (image_index, finding) in the order of `findings`. The first by name if raw scores are equal.
    """
    ranked = scored[scored["correct"] == correct].sort_values("raw_score", ascending=False, kind="stable")
    first = ranked.drop_duplicates("finding").set_index("finding")["image_index"]
    return [(first[finding], finding) for finding in findings if finding in first.index]
