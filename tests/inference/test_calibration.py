"""Thresholds and mean CAMs come from the test-time augmentation that prediction uses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.batches import two_sets

from cxr_seam.findings import FINDINGS
from cxr_seam.inference.calibration import calibrate
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.classification import choose_thresholds
from cxr_seam.models.checkpoint import best_path, load_checkpoint
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import fit

RECIPE = replace(get_recipe("multires_tiny"), tta_scales=(1.0, 1.5), tta_flip=True)
pytestmark = pytest.mark.filterwarnings("ignore:no training image")


@pytest.fixture(scope="module")
def datasets(demo_folder, demo_cache):
    return two_sets(demo_folder, demo_cache, training=16, validation=40)


@pytest.fixture(scope="module")
def folder(datasets, tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    fit(RECIPE, path, train_set=datasets[0], val_set=datasets[1])
    return path


def as_array(scores):
    values = [scores[name].thresholds["youden"] for name in FINDINGS]
    return np.array([np.nan if value is None else value for value in values])


def test_thresholds_are_those_of_prediction(folder, datasets):
    path = best_path(folder, RECIPE.name)
    model, metadata = load_checkpoint(path)
    expected = choose_thresholds(datasets[1].labels, Predictor.load(path).raw_scores(datasets[1]))["youden"]
    np.testing.assert_allclose(as_array(metadata.scores), expected, atol=1e-6)
    one_view = Predictor(model, get_recipe("multires_tiny")).raw_scores(datasets[1])
    assert np.nanmax(np.abs(choose_thresholds(datasets[1].labels, one_view)["youden"] - expected)) > 1e-3


def test_logits_are_those_of_prediction_for_any_batch_size(folder, datasets):
    predictor = Predictor.load(best_path(folder, RECIPE.name))
    for batch_size in (32, 7):
        logits = calibrate(predictor.model, datasets[1], recipe=RECIPE, batch_size=batch_size).logits
        np.testing.assert_allclose(logits, predictor.logits(datasets[1]), atol=1e-5)


def test_seam_stage_with_its_own_augmentation_has_its_own_thresholds(folder, datasets):
    recipe = replace(get_recipe("multires_tiny_pcm"), tta_scales=(1.5,))
    fit(recipe, folder, train_set=datasets[0], val_set=datasets[1])
    path = best_path(folder, recipe.name)
    expected = choose_thresholds(datasets[1].labels, Predictor.load(path).raw_scores(datasets[1]))["youden"]
    np.testing.assert_allclose(as_array(load_checkpoint(path)[1].scores), expected, atol=1e-6)


def test_calibration_samples_no_random_number(folder, datasets):
    model = Predictor.load(best_path(folder, RECIPE.name)).model
    before = torch.get_rng_state()
    calibrate(model, datasets[1], recipe=RECIPE)
    assert torch.equal(torch.get_rng_state(), before)
