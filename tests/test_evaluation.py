import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxr_seam.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cxr_seam.errors import InputError
from cxr_seam.evaluation import (
    MULTIRES,
    REFINED,
    STANDARD,
    evaluate,
    family_predictors,
    finite_or_none,
    headline,
    load_results,
    save_results,
    score_boxes,
)
from cxr_seam.films import Films
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS
from cxr_seam.models import build_model
from cxr_seam.nih import load_tables
from cxr_seam.predict import Predictor
from cxr_seam.recipes import find_family
from cxr_seam.training import best_path

FAMILY = find_family("tiny")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A standard and a refined model, neither of them trained."""
    folder = tmp_path_factory.mktemp("models")
    for recipe in (FAMILY[0], FAMILY[2]):
        torch.manual_seed(0)
        model = build_model(recipe.model, weights="none")
        save_checkpoint(best_path(folder, recipe.name), model, about=Checkpoint(recipe, epoch=1))
    return folder


@pytest.fixture(scope="module")
def parts(demo_folder, demo_store):
    tables = load_tables(demo_folder)
    boxed = list(dict.fromkeys(tables.boxes["image_index"]))
    return {
        "test_films": Films(demo_store, tables, image_index=tables.test),
        "boxed_films": Films(demo_store, tables, image_index=boxed),
        "truth": tables.boxes,
    }


@pytest.fixture(scope="module")
def results(models, parts):
    return evaluate(FAMILY, models, **parts, data="a few phantoms")


def test_three_models_come_from_two_checkpoints_beside_four_controls(results):
    assert list(results["classification"]) == [STANDARD, MULTIRES, REFINED]
    assert list(results["localization"])[:3] == [STANDARD, MULTIRES, REFINED]
    assert sum("Random" in name or "Centre" in name for name in results["localization"]) == 4


def test_auc_is_scikit_learns_on_probabilities_of_the_loaded_model(results, models, parts):
    films = parts["test_films"]
    model, _ = load_checkpoint(best_path(models, FAMILY[0].name))
    pixels, labels = films.__getitems__(range(len(films)))
    grey = pixels.float() / 255  # the store has the recipe's size, so nothing is shrunk
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model((grey - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)).logits
    logits = Predictor.load(best_path(models, FAMILY[0].name)).logits(films)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    for i, finding in enumerate(FINDINGS):
        row = results["classification"][STANDARD]["findings"][finding]
        assert row["positives"] == int(labels[:, i].sum())
        if 0 < row["positives"] < len(films):
            assert row["auc"] == pytest.approx(roc_auc_score(labels[:, i], logits[:, i]), abs=1e-6)
        else:
            assert row["auc"] is None  # not defined, said so


def test_the_pcm_does_not_touch_the_classification(results):
    assert results["classification"][MULTIRES] == results["classification"][REFINED]
    assert results["localization"][MULTIRES] != results["localization"][REFINED]


def test_counts_are_those_of_the_data(results, parts):
    truth = parts["truth"]
    assert results["data"]["boxed_images"] == truth["image_index"].nunique()
    assert results["data"]["true_boxes"] == len(truth)
    for scores in results["localization"].values():
        table = scores["all_boxes"]["iobb>0.1"]
        assert [table[f]["boxes"] for f in BOXED_FINDINGS] == [(truth["finding"] == f).sum() for f in BOXED_FINDINGS]


def test_one_best_box_per_image_and_finding_at_most(results, parts):
    cells = len(parts["boxed_films"]) * len(BOXED_FINDINGS)
    for scores in results["localization"].values():
        best = scores["best_box"]["iou>0.1"]["micro"]
        assert best["correct"] + best["false_positives"] <= cells
        assert best["accuracy"] <= scores["all_boxes"]["iou>0.1"]["micro"]["accuracy"]


def test_a_perfect_localiser_is_right_everywhere_without_false_positives(parts):
    truth = parts["truth"]
    scores = score_boxes(truth.assign(score=1.0), truth, images=parts["boxed_films"].image_index)
    for kind in scores.values():
        for table in kind.values():
            assert table["micro"]["accuracy"] == 1 and table["micro"]["false_positives"] == 0


def test_headline_never_shows_an_accuracy_without_its_false_positives(results):
    table = headline(results)
    assert list(table.columns) == [
        "mean AUC",
        "best box IoU>0.1",
        "its false positives",
        "all boxes IoBB>0.1",
        "their false positives",
    ]
    assert table.iloc[:, 1:].notna().all(axis=None) and table["mean AUC"].notna().sum() == 3


def test_results_survive_the_disk_and_hold_no_nan(results, tmp_path):
    save_results(results, tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert finite_or_none(np.float64(math.nan)) is None and finite_or_none(np.int64(3)) == 3


def test_missing_and_old_results_are_told(tmp_path):
    with pytest.raises(InputError, match="run notebook 04"):
        load_results(tmp_path / "none.json")
    (tmp_path / "old.json").write_text('{"format": 0}')
    with pytest.raises(InputError, match="old.json has format 0"):
        load_results(tmp_path / "old.json")


def test_nothing_trained_is_told(tmp_path):
    with pytest.raises(InputError, match="no trained model in .*run notebooks 02 and 03"):
        family_predictors(FAMILY, tmp_path)


def test_first_phase_stands_in_where_the_second_is_not_trained(tmp_path):
    recipe = FAMILY[1]
    model = build_model(recipe.model, weights="none")
    save_checkpoint(best_path(tmp_path, recipe.name), model, about=Checkpoint(recipe))
    assert list(family_predictors(FAMILY, tmp_path)) == [MULTIRES]


def test_a_pcm_that_goes_on_from_an_earlier_backbone_is_refused(tmp_path):
    for seed, recipe in enumerate(FAMILY[1:]):
        torch.manual_seed(seed)
        model = build_model(recipe.model, weights="none")
        save_checkpoint(best_path(tmp_path, recipe.name), model, about=Checkpoint(recipe))
    with pytest.raises(InputError, match="earlier model than .*run notebook 03 again"):
        family_predictors(FAMILY, tmp_path)


def test_prediction_of_a_file_is_that_of_the_batch_and_boxes_are_in_its_own_pixels(models, parts, demo_folder):
    predictor = Predictor.load(best_path(models, FAMILY[2].name))
    films = parts["boxed_films"]
    prediction = predictor.predict(demo_folder / "images" / films.image_index[0])
    batch = predictor.logits(films)
    expected = 1 / (1 + np.exp(-batch[0]))
    np.testing.assert_allclose(list(prediction.probabilities.values()), expected, atol=1e-4)
    assert prediction.heat_maps.shape == (14, 256, 256) and 0 <= prediction.heat_maps.min()
    corners = prediction.boxes[["x", "y"]].to_numpy() + prediction.boxes[["w", "h"]].to_numpy()
    assert (corners <= 1024).all() and corners.max() > 64  # pixels of the file, not of the model's input
    assert set(prediction.boxes["finding"]) <= set(FINDINGS)


def test_boxes_of_a_smaller_file_shrink_with_it(models, demo_folder, tmp_path):
    import cv2

    predictor = Predictor.load(best_path(models, FAMILY[2].name))
    path = next(iter(sorted((demo_folder / "images").iterdir())))
    original = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "half.png"), cv2.resize(original, (512, 512), interpolation=cv2.INTER_AREA))
    whole, half = predictor.predict(path).boxes, predictor.predict(tmp_path / "half.png").boxes
    best = [boxes.groupby("finding")["x"].first() for boxes in (whole, half)]
    near = (best[0] / 2 - best[1]).dropna().abs() <= 16
    assert near.mean() > 0.8  # bytes were rounded once more, so a contour may come out otherwise here and there


def test_probabilities_and_boxes_are_plain_types(models, demo_folder):
    predictor = Predictor.load(best_path(models, FAMILY[0].name))
    prediction = predictor.predict(next((demo_folder / "images").iterdir()))
    assert all(isinstance(value, float) for value in prediction.probabilities.values())
    assert isinstance(prediction.boxes, pd.DataFrame)
