"""The row shown for a place is the row of the whole affinity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cxr_seam.data.transforms import to_input
from cxr_seam.errors import InputError
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.multires import build_model, model_of
from cxr_seam.presets import find_family
from cxr_seam.visualize.viewer import affinity_row, embed_film, share_of_half


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    recipe = find_family("tiny")[2]
    return Predictor(build_model(recipe.model, weights="none"), recipe)


@pytest.mark.parametrize(("across", "down"), [(0.0, 0.0), (0.3, 0.8), (1.0, 1.0)])
def test_a_row_is_that_of_the_whole_matrix(predictor: Predictor, across: float, down: float) -> None:
    film = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    row = affinity_row(embed_film(predictor, film), across=across, down=down)
    images = to_input(torch.from_numpy(film)[None, None], size=predictor.recipe.image_size)
    with torch.no_grad():
        features = predictor.model.features(images.to(predictor.device))
        whole = predictor.model.pcm.affinity(features)[0].cpu()
    height, width = row.shape
    assert (height, width) == features.shape[-2:]
    place = min(int(down * height), height - 1) * width + min(int(across * width), width - 1)
    assert np.allclose(row.ravel(), whole[place], atol=1e-6)
    assert row.sum() == pytest.approx(1, abs=1e-5) and row.min() >= 0


def test_a_model_without_pcm_is_refused() -> None:
    recipe = find_family("tiny")[0]
    predictor = Predictor(build_model(recipe.model, weights="none"), recipe)
    with pytest.raises(InputError, match="no PCM"):
        embed_film(predictor, np.zeros((64, 64), np.uint8))


def test_half_of_the_weight_lies_on_half_of_an_even_film_and_on_one_place_of_a_peaked_one() -> None:
    assert share_of_half(np.full((10, 10), 0.01)) == pytest.approx(0.5, abs=0.011)
    peaked = np.full((10, 10), 0.1 / 99)
    peaked[3, 4] = 0.9
    assert share_of_half(peaked) == 0.01
    assert share_of_half(np.zeros((2, 2))) == 0


def test_a_row_of_the_shallow_pcm_is_that_of_its_matrix_and_other_refiners_are_refused() -> None:
    recipe = replace(find_family("tiny")[2], refiner="pcm_shallow")
    predictor = Predictor(model_of(recipe, weights="none"), recipe)
    film = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    row = affinity_row(embed_film(predictor, film), across=0.3, down=0.8)
    images = to_input(torch.from_numpy(film)[None, None], size=64).to(predictor.device)
    with torch.no_grad():
        features, shallow = predictor.model.encode(images)
        whole = predictor.model.pcm.affinity(features, shallow=shallow)[0].cpu()
    assert np.allclose(row.ravel(), whole[6 * 8 + 2], atol=1e-6)
    predictor.model.give_refiner("self_attention")
    with pytest.raises(InputError, match="no PCM"):
        embed_film(predictor, film)
