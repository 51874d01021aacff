"""Which films are shown, and that what is shown of them is what the models say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr_seam.data.image_io import read_radiograph
from cxr_seam.evaluation.evaluate import load_predictors
from cxr_seam.evaluation.methods import model_methods
from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS, XYWH
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.checkpoint import Checkpoint, best_path, save_checkpoint
from cxr_seam.models.multires import build_model
from cxr_seam.visualize.examples import (
    example_from_file,
    load_examples,
    one_per_finding,
    pick_boxed,
    prediction_png,
    save_image,
)
from cxr_seam.visualize.figures import plot_augmentations, plot_samples
from cxr_seam.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Prepared films, a standard and a refined model, neither of them trained."""
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path_factory.mktemp("gallery"))
    workspace.prepare_data()
    standard, _, refined = workspace.recipes
    for recipe in (standard, refined):
        metadata = Checkpoint(recipe, epoch=1, metrics={})
        save_checkpoint(
            best_path(workspace.models, recipe.name), build_model(recipe.model, weights="none"), metadata=metadata
        )
    return workspace


def test_films_are_chosen_by_the_table_and_each_only_once() -> None:
    rows = [("a", "Mass"), ("a", "Effusion"), ("b", "Effusion"), ("c", "Effusion"), ("d", "Effusion"), ("x", "Mass")]
    truth = pd.DataFrame(rows, columns=["image_index", "finding"])
    # Effusion comes before Mass among the findings; x is not at hand; a is already taken when Mass's turn comes.
    assert pick_boxed(truth, {"a", "b", "c", "d"}, per_finding=2) == {"a": "Effusion", "b": "Effusion"}


def test_cases_hold_what_the_models_say(workspace: Workspace) -> None:
    examples = load_examples(workspace, per_finding=2)
    tables, cache = workspace.tables(), workspace.cache()
    predictor = Predictor.load(best_path(workspace.models, workspace.recipes[2].name))
    for example in examples:
        assert example.models == (STANDARD, MULTIRES, REFINED)
        assert np.array_equal(example.film, cache.images[cache.image_index.index(example.image_index)])
        assert set(example.labels) == {f for f in FINDINGS if tables.images.loc[example.image_index, f]}
        assert set(example.true_boxes["finding"]) <= set(example.labels)
        # The PCM refines maps and leaves probabilities alone (Sect. 4.1).
        assert np.array_equal(example.probabilities[MULTIRES], example.probabilities[REFINED])
    logits = predictor.logits(workspace.boxed_dataset())[
        workspace.boxed_dataset().image_index.index(examples[0].image_index)
    ]
    assert np.allclose(examples[0].probabilities[REFINED], 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_boxes_drawn_are_the_boxes_scored_at_the_recipes_own_q(workspace: Workspace, q: float) -> None:
    """The reference is the table of boxes that the evaluation scores."""
    predictors = load_predictors(workspace.recipes, workspace.models)
    for predictor in predictors.values():
        predictor.recipe = replace(predictor.recipe, cam_threshold=q)
    examples = load_examples(workspace, per_finding=2, predictors=predictors)
    films, truth = workspace.boxed_dataset(), workspace.tables().boxes
    probabilities = pd.DataFrame(0.5, films.image_index, FINDINGS)
    methods = model_methods(predictors, films, truth, dict.fromkeys(examples[0].models, probabilities))
    drawn = 0
    for example, model, finding in product(examples, examples[0].models, BOXED_FINDINGS):
        scored = methods[model].boxes
        scored = scored[(scored["image_index"] == example.image_index) & (scored["finding"] == finding)]
        assert example.predicted(model, finding) == pytest.approx(scored[XYWH].to_numpy())
        drawn += len(scored)
    assert drawn
    cache = workspace.cache()
    pixels = cache.images[cache.image_index.index(examples[0].image_index)]
    png = cv2.imencode(".png", np.asarray(pixels))[1].tobytes()
    assert example_from_file(predictors, png, name="own.png").cam_thresholds == dict.fromkeys(examples[0].models, q)


def test_a_figure_has_one_row_for_each_finding_with_a_box(workspace: Workspace) -> None:
    examples = load_examples(workspace, per_finding=2)
    rows = one_per_finding(examples)
    occurring = {finding for example in examples for finding in example.true_boxes["finding"]}
    assert [finding for _, finding in rows] == [f for f in BOXED_FINDINGS if f in occurring]
    assert all(len(example.true(finding)) for example, finding in rows)


def test_sheets_have_a_panel_for_each_film(workspace: Workspace) -> None:
    chosen = pick_boxed(workspace.tables().boxes, workspace.cache(), per_finding=1)
    drawn = [axes for axes in plot_samples(workspace).axes if axes.images]
    assert len(drawn) == len(chosen)
    assert all(len(axes.patches) == 1 for axes in drawn)  # at most one box per film and finding
    training, _ = workspace.train_val_datasets(workspace.recipes[0])
    varied = [axes.images[0].get_array() for axes in plot_augmentations(training, workspace.recipes[0]).axes]
    assert len(varied) == 10
    assert not any(np.array_equal(varied[0], other) for other in varied[1:])


def test_a_film_written_and_predicted_gives_a_picture(workspace: Workspace, tmp_path: Path) -> None:
    example = load_examples(workspace, per_finding=1)[0]
    path = save_image(example, tmp_path / "film.png")
    assert np.array_equal(read_radiograph(path), example.film)
    prediction = Predictor.load(best_path(workspace.models, workspace.recipes[0].name)).predict(path)
    one, three = (
        cv2.imdecode(np.frombuffer(prediction_png(prediction, findings=n), np.uint8), cv2.IMREAD_COLOR) for n in (1, 3)
    )
    assert one.shape[0] == three.shape[0] and 2.5 * one.shape[1] < three.shape[1]
