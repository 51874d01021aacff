"""Examples: which images are picked, and that they hold the output of the models."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers.examples import IMAGE, peak_example

from cxr_seam.data.image_io import load_image
from cxr_seam.evaluation.evaluate import find_targets, load_predictors
from cxr_seam.evaluation.methods import model_methods
from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS, XYWH
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.best_box import score_best_boxes
from cxr_seam.metrics.matching import rank_by_raw_score
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, best_path, save_checkpoint
from cxr_seam.visualize.examples import (
    example_from_file,
    first_image,
    load_examples,
    most_confident,
    one_per_finding,
    pick_boxed,
    prediction_png,
    save_image,
)
from cxr_seam.visualize.figures import plot_augmentations, plot_samples
from cxr_seam.visualize.style import TRUE_COLOUR
from cxr_seam.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Prepared images, a standard and a refined model, both untrained."""
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path_factory.mktemp("examples"))
    workspace.prepare_data()
    standard, _, refined = workspace.recipes
    for recipe in (standard, refined):
        metadata = Checkpoint(recipe, epoch=1, metrics={})
        save_checkpoint(
            best_path(workspace.models, recipe.name), build_model(recipe.model, weights="none"), metadata=metadata
        )
    return workspace


def test_first_image_is_a_boxed_test_image_or_synthetic(workspace: Workspace, tmp_path: Path) -> None:
    metadata, cache = workspace.metadata(), workspace.cache()
    prepared = cv2.imread(str(first_image(workspace)), cv2.IMREAD_UNCHANGED)
    boxed = [n for n in metadata.boxes["image_index"].unique() if n in set(metadata.test)]
    assert any(np.array_equal(prepared, cache.images[row]) for row in cache.indices(boxed))
    unprepared = replace(workspace, output_dir=tmp_path)
    synthetic = cv2.imread(str(first_image(unprepared)), cv2.IMREAD_UNCHANGED)
    assert synthetic.shape == (1024, 1024) and synthetic.std() > 20
    assert not unprepared.cache_folder.exists()
    assert Predictor.load("quickstart").predict(first_image(unprepared)).decisions["Effusion"]


def test_pick_boxed_takes_each_image_once() -> None:
    rows = [("a", "Mass"), ("a", "Effusion"), ("b", "Effusion"), ("c", "Effusion"), ("d", "Effusion"), ("x", "Mass")]
    truth = pd.DataFrame(rows, columns=["image_index", "finding"])
    # Effusion comes before Mass; x is not available; a is already picked for Effusion.
    options = {"findings": FINDINGS, "per_finding": 2}
    assert pick_boxed(truth, {"a", "b", "c", "d"}, **options) == {"a": "Effusion", "b": "Effusion"}
    assert pick_boxed(truth, {"a", "b"}, findings=("Mass",), per_finding=2) == {"a": "Mass"}


def test_examples_hold_the_output_of_the_models(workspace: Workspace) -> None:
    examples = load_examples(workspace, per_finding=2)
    tables, cache = workspace.metadata(), workspace.cache()
    predictor = Predictor.load(best_path(workspace.models, workspace.recipes[2].name))
    for example in examples:
        assert example.models == (STANDARD, MULTIRES, REFINED)
        assert np.array_equal(example.image, cache.images[cache.image_index.index(example.image_index)])
        assert set(example.labels) == {f for f in FINDINGS if tables.images.loc[example.image_index, f]}
        assert set(example.true_boxes["finding"]) <= set(example.labels)
        # The PCM refines maps and does not change scores (Sect. 4.1).
        assert np.array_equal(example.outputs[MULTIRES].raw_scores, example.outputs[REFINED].raw_scores)
        assert not np.array_equal(example.outputs[MULTIRES].cam, example.outputs[REFINED].cam)
    images = workspace.test_dataset()
    logits = predictor.logits(images)[images.image_index.index(examples[0].image_index)]
    assert np.allclose(examples[0].outputs[REFINED].raw_scores, 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_pred_boxes_are_the_scored_boxes(workspace: Workspace, q: float) -> None:
    """The reference is the table of boxes that the evaluation scores."""
    predictors = load_predictors(workspace.recipes, workspace.models)
    for predictor in predictors.values():
        predictor.recipe = replace(predictor.recipe, cam_threshold=q)
    examples = load_examples(workspace, per_finding=2, predictors=predictors)
    targets = find_targets(workspace.metadata(), workspace.test_dataset(), findings=FINDINGS)
    raw_scores = pd.DataFrame(0.5, targets.dataset.image_index, FINDINGS)
    methods = model_methods(predictors, targets, raw_scores=dict.fromkeys(examples[0].models, raw_scores))
    count = 0
    for example, model, finding in product(examples, examples[0].models, targets.findings):
        scored = methods[model].boxes
        scored = scored[(scored["image_index"] == example.image_index) & (scored["finding"] == finding)]
        assert example.pred_boxes(model, finding) == pytest.approx(scored[XYWH].to_numpy())
        count += len(scored)
    assert count
    cache = workspace.cache()
    pixels = cache.images[cache.image_index.index(examples[0].image_index)]
    png = cv2.imencode(".png", np.asarray(pixels))[1].tobytes()
    assert example_from_file(predictors, png, name="own.png").outputs["Standard"].options.threshold == q


def test_one_per_finding_covers_all_boxed_findings(workspace: Workspace) -> None:
    examples = load_examples(workspace, per_finding=2)
    rows = one_per_finding(examples)
    occurring = {finding for example in examples for finding in example.true_boxes["finding"]}
    assert [finding for _, finding in rows] == [f for f in BOXED_FINDINGS if f in occurring]
    assert all(len(example.gt_boxes(finding)) for example, finding in rows)


def test_sample_and_augmentation_figures(workspace: Workspace) -> None:
    chosen = pick_boxed(workspace.metadata().boxes, workspace.cache(), findings=FINDINGS, per_finding=1)
    shown = [axes for axes in plot_samples(workspace).axes if axes.images]
    assert len(shown) == len(chosen)
    images = [axes.images[0].get_array() for axes in shown]
    assert all((image == TRUE_COLOUR).all(axis=-1).any() for image in images)
    training, _ = workspace.train_val_datasets(workspace.recipes[0])
    varied = [axes.images[0].get_array() for axes in plot_augmentations(training, workspace.recipes[0]).axes]
    assert len(varied) == 10
    assert not any(np.array_equal(varied[0], other) for other in varied[1:])


def test_prediction_png_of_a_saved_image(workspace: Workspace, tmp_path: Path) -> None:
    example = load_examples(workspace, per_finding=1)[0]
    path = save_image(example, tmp_path / "image.png")
    assert np.array_equal(load_image(path).pixels, example.image)
    prediction = Predictor.load(best_path(workspace.models, workspace.recipes[0].name)).predict(path)
    picture = cv2.imdecode(np.frombuffer(prediction_png(prediction, width=100), np.uint8), cv2.IMREAD_COLOR)
    assert 300 < picture.shape[1] < 350  # three panels


def test_pred_boxes_by_hand() -> None:
    # The peak covers columns 4-5 and rows 2-3 of 8 x 8. Bilinear slopes fall from 1 at the centres of the outer cells,
    # 4.5 and 5.5, to 0 one cell further out, so they cross 0.7 at 4.2 and 5.8; rows likewise at 2.2 and 3.8.
    example = peak_example()
    expected = np.array([[4.2, 2.2, 1.6, 1.6]]) / 8
    assert example.pred_boxes("MultiRes", "Mass") == pytest.approx(expected, abs=2 / 256)
    larger = peak_example(image=cv2.resize(IMAGE, (512, 512)))
    assert (larger.pred_boxes("MultiRes", "Mass") == example.pred_boxes("MultiRes", "Mass")).all()
    assert example.heatmap("Standard", "Mass").shape == IMAGE.shape
    assert example.pred_boxes("Standard", "Nodule").shape == (0, 4)
    assert example.gt_boxes("Mass").tolist() == [[0.5, 0.25, 0.25, 0.25]]
    assert example.raw_score("Standard", "Cardiomegaly") == pytest.approx(0.05)


TRUTH = pd.DataFrame(
    [(name, "Mass", 0, 0, 100, 100) for name in "abcd"] + [("a", "Nodule", 0, 0, 100, 100)],
    columns=["image_index", "finding", "x", "y", "w", "h"],
)
# a: the better of two boxes is wrong. b: correct. c: correct, higher raw score. d: no box.
BOXES = pd.DataFrame(
    [
        ("a", "Mass", 0, 0, 100, 100, 0.5),
        ("a", "Mass", 500, 500, 100, 100, 0.9),
        ("b", "Mass", 0, 0, 100, 50, 1.0),
        ("c", "Mass", 0, 0, 50, 80, 1.0),
    ],
    columns=["image_index", "finding", "x", "y", "w", "h", "score"],
)
RAW_SCORES = pd.DataFrame({"Mass": [0.9, 0.3, 0.6, 0.95], "Nodule": 0.5}, index=list("abcd"))


def test_most_confident_by_hand() -> None:
    scored = rank_by_raw_score(score_best_boxes(BOXES, TRUTH), RAW_SCORES)
    mass = scored[scored["finding"] == "Mass"].set_index("image_index")
    assert mass["iou"].to_dict() == {"a": 0, "b": 0.5, "c": 0.4, "d": 0}
    assert most_confident(scored, findings=FINDINGS, correct=True) == [("c", "Mass")]
    assert most_confident(scored, findings=FINDINGS, correct=False) == [("d", "Mass"), ("a", "Nodule")]
    assert most_confident(scored, findings=("Nodule", "Mass"), correct=False) == [("a", "Nodule"), ("d", "Mass")]
