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
from cxr_seam.evaluation.evaluate import family_predictors
from cxr_seam.evaluation.methods import model_methods
from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS, XYWH
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.checkpoint import Checkpoint, best_path, save_checkpoint
from cxr_seam.models.multires import build_model
from cxr_seam.visualize.examples import (
    build_cases,
    case_of_file,
    choose_boxed,
    figure_rows,
    prediction_png,
    write_film,
)
from cxr_seam.visualize.figures import augmentation_sheet, contact_sheet
from cxr_seam.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Prepared films, a standard and a refined model, neither of them trained."""
    workspace = Workspace.open(data=str(demo_folder), recipes="tiny", keep=tmp_path_factory.mktemp("gallery"))
    workspace.fetch()
    standard, _, refined = workspace.family
    for recipe in (standard, refined):
        about = Checkpoint(recipe, epoch=1, metrics={})
        save_checkpoint(
            best_path(workspace.models, recipe.name), build_model(recipe.model, weights="none"), about=about
        )
    return workspace


def test_films_are_chosen_by_the_table_and_each_only_once() -> None:
    rows = [("a", "Mass"), ("a", "Effusion"), ("b", "Effusion"), ("c", "Effusion"), ("d", "Effusion"), ("x", "Mass")]
    truth = pd.DataFrame(rows, columns=["image_index", "finding"])
    # Effusion comes before Mass among the findings; x is not at hand; a is already taken when Mass's turn comes.
    assert choose_boxed(truth, {"a", "b", "c", "d"}, per_finding=2) == {"a": "Effusion", "b": "Effusion"}


def test_cases_hold_what_the_models_say(workspace: Workspace) -> None:
    cases = build_cases(workspace, per_finding=2)
    tables, store = workspace.tables(), workspace.store()
    predictor = Predictor.load(best_path(workspace.models, workspace.family[2].name))
    for case in cases:
        assert case.models == (STANDARD, MULTIRES, REFINED)
        assert np.array_equal(case.film, store.images[store.image_index.index(case.image_index)])
        assert set(case.labels) == {f for f in FINDINGS if tables.images.loc[case.image_index, f]}
        assert set(case.true_boxes["finding"]) <= set(case.labels)
        # The PCM refines maps and leaves probabilities alone (Sect. 4.1).
        assert np.array_equal(case.probabilities[MULTIRES], case.probabilities[REFINED])
    logits = predictor.logits(workspace.boxed_films())[workspace.boxed_films().image_index.index(cases[0].image_index)]
    assert np.allclose(cases[0].probabilities[REFINED], 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_boxes_drawn_are_the_boxes_scored_at_the_recipes_own_q(workspace: Workspace, q: float) -> None:
    """The reference is the table of boxes that the evaluation scores."""
    predictors = family_predictors(workspace.family, workspace.models)
    for predictor in predictors.values():
        predictor.recipe = replace(predictor.recipe, box_threshold=q)
    cases = build_cases(workspace, per_finding=2, predictors=predictors)
    films, truth = workspace.boxed_films(), workspace.tables().boxes
    probabilities = pd.DataFrame(0.5, films.image_index, FINDINGS)
    methods = model_methods(predictors, films, truth, dict.fromkeys(cases[0].models, probabilities))
    drawn = 0
    for case, model, finding in product(cases, cases[0].models, BOXED_FINDINGS):
        scored = methods[model].boxes
        scored = scored[(scored["image_index"] == case.image_index) & (scored["finding"] == finding)]
        assert case.predicted(model, finding) == pytest.approx(scored[XYWH].to_numpy())
        drawn += len(scored)
    assert drawn
    store = workspace.store()
    pixels = store.images[store.image_index.index(cases[0].image_index)]
    png = cv2.imencode(".png", np.asarray(pixels))[1].tobytes()
    assert case_of_file(predictors, png, name="own.png").box_thresholds == dict.fromkeys(cases[0].models, q)


def test_a_figure_has_one_row_for_each_finding_with_a_box(workspace: Workspace) -> None:
    cases = build_cases(workspace, per_finding=2)
    rows = figure_rows(cases)
    occurring = {finding for case in cases for finding in case.true_boxes["finding"]}
    assert [finding for _, finding in rows] == [f for f in BOXED_FINDINGS if f in occurring]
    assert all(len(case.true(finding)) for case, finding in rows)


def test_sheets_have_a_panel_for_each_film(workspace: Workspace) -> None:
    chosen = choose_boxed(workspace.tables().boxes, workspace.store(), per_finding=1)
    drawn = [axes for axes in contact_sheet(workspace).axes if axes.images]
    assert len(drawn) == len(chosen)
    assert all(len(axes.patches) == 1 for axes in drawn)  # at most one box per film and finding
    training, _ = workspace.training_films(workspace.family[0])
    varied = [axes.images[0].get_array() for axes in augmentation_sheet(training, workspace.family[0]).axes]
    assert len(varied) == 10
    assert not any(np.array_equal(varied[0], other) for other in varied[1:])


def test_a_film_written_and_predicted_gives_a_picture(workspace: Workspace, tmp_path: Path) -> None:
    case = build_cases(workspace, per_finding=1)[0]
    path = write_film(case, tmp_path / "film.png")
    assert np.array_equal(read_radiograph(path), case.film)
    prediction = Predictor.load(best_path(workspace.models, workspace.family[0].name)).predict(path)
    one, three = (
        cv2.imdecode(np.frombuffer(prediction_png(prediction, findings=n), np.uint8), cv2.IMREAD_COLOR) for n in (1, 3)
    )
    assert one.shape[0] == three.shape[0] and 2.5 * one.shape[1] < three.shape[1]
