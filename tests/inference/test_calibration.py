"""What is held against a prediction comes from the looks that prediction takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.batches import two_sets

from cxr_seam.findings import FINDINGS
from cxr_seam.inference.calibration import look, needs_calibration
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.classification import choose_thresholds
from cxr_seam.models.checkpoint import best_path, last_path, load_checkpoint
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import train

RECIPE = replace(get_recipe("multires_tiny"), tta_scales=(1.0, 1.5), tta_flip=True)
pytestmark = pytest.mark.filterwarnings("ignore:no film that")


@pytest.fixture(scope="module")
def films(demo_folder, demo_store):
    return two_sets(demo_folder, demo_store, training=16, validation=40)


@pytest.fixture(scope="module")
def folder(films, tmp_path_factory):
    path = tmp_path_factory.mktemp("looks")
    train(RECIPE, path, train_set=films[0], val_set=films[1])
    return path


def test_thresholds_are_those_of_what_prediction_says_of_the_validation_films(folder, films):
    for path in (best_path(folder, RECIPE.name), last_path(folder, RECIPE.name)):
        model, metadata = load_checkpoint(path)
        kept = np.array(
            [np.nan if metadata.thresholds[name] is None else metadata.thresholds[name] for name in FINDINGS]
        )
        expected = choose_thresholds(films[1].labels, Predictor.load(path).probabilities(films[1]))
        np.testing.assert_allclose(kept, expected, atol=1e-6)
        once = Predictor(model, get_recipe("multires_tiny")).probabilities(films[1])
        assert np.nanmax(np.abs(choose_thresholds(films[1].labels, once) - expected)) > 1e-3  # one look says otherwise


def test_all_films_are_looked_at_in_order_as_in_prediction(folder, films):
    predictor = Predictor.load(best_path(folder, RECIPE.name))
    labels, outputs = zip(*look(predictor.model, films[1], recipe=RECIPE, maps=False, what="test"), strict=True)
    assert np.array_equal(torch.cat(labels).numpy(), films[1].labels)
    logits = torch.cat([output.logits for output in outputs]).numpy()
    np.testing.assert_allclose(logits, predictor.logits(films[1]), atol=1e-5)


def test_a_second_phase_with_looks_of_its_own_has_thresholds_of_its_own(folder, films):
    second = replace(get_recipe("multires_tiny_pcm"), tta_scales=(1.5,))
    train(second, folder, train_set=films[0], val_set=films[1])
    path = best_path(folder, second.name)
    kept = load_checkpoint(path)[1].thresholds
    expected = choose_thresholds(films[1].labels, Predictor.load(path).probabilities(films[1]))
    np.testing.assert_allclose([np.nan if kept[f] is None else kept[f] for f in FINDINGS], expected, atol=1e-6)


def test_to_look_draws_no_random_number(folder, films):
    """A run that was killed looks at other epochs than one that was not, and must end with the same bits."""
    model = Predictor.load(best_path(folder, RECIPE.name)).model
    before = torch.get_rng_state()
    list(look(model, films[1], recipe=RECIPE, maps=False, what="test"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, False),
        ({"tta_scales": (1.5,)}, True),
        ({"tta_scales": (1.0, 1.5)}, True),
        ({"tta_flip": True}, True),
        ({"cam_baseline": "negative_mean"}, True),
        ({"cam_baseline": "min"}, False),
    ],
)
def test_one_look_is_enough_where_prediction_looks_once_and_compares_with_nothing(changes, again):
    assert needs_calibration(replace(get_recipe("multires_tiny"), **changes)) is again
