"""The attention map of a point is a row of the affinity matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.examples import peak_example

from cxr_seam.data.transforms import eval_transform
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import build_from_recipe, build_model
from cxr_seam.models.pcm import affinity
from cxr_seam.presets import get_preset
from cxr_seam.visualize.viewer import attention_map, half_mass_area, pcm_embedding


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    recipe = get_preset("tiny")[2]
    return Predictor(build_model(recipe.model, weights="none"), recipe)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.3, 0.8), (1.0, 1.0)])
def test_attention_map_matches_affinity_matrix(predictor: Predictor, x: float, y: float) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    row = attention_map(pcm_embedding(predictor, peak_example(image=image)), x=x, y=y)
    images = eval_transform(torch.from_numpy(image)[None, None], size=predictor.recipe.image_size)
    with torch.no_grad():
        features = predictor.model.forward_features(images.to(predictor.device))[0]
        whole = affinity(predictor.model.refiner.embed(features))[0].cpu()
    height, width = row.shape
    assert (height, width) == features.shape[-2:]
    row_index = min(int(y * height), height - 1) * width + min(int(x * width), width - 1)
    assert np.allclose(row.ravel(), whole[row_index], atol=1e-6)
    assert row.sum() == pytest.approx(1, abs=1e-5) and row.min() >= 0


def test_half_mass_area_of_uniform_and_peaked_weights() -> None:
    assert half_mass_area(np.full((10, 10), 0.01)) == pytest.approx(0.5, abs=0.011)
    peaked = np.full((10, 10), 0.1 / 99)
    peaked[3, 4] = 0.9
    assert half_mass_area(peaked) == 0.01
    assert half_mass_area(np.zeros((2, 2))) == 0


def test_seam_pcm_row_matches_matrix() -> None:
    recipe = replace(get_preset("tiny")[2], refiner="seam_pcm")
    predictor = Predictor(build_from_recipe(recipe, weights="none"), recipe)
    image = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    row = attention_map(pcm_embedding(predictor, peak_example(image=image)), x=0.3, y=0.8)
    images = eval_transform(torch.from_numpy(image)[None, None], size=64).to(predictor.device)
    with torch.no_grad():
        features, low_level = predictor.model.forward_features(images)
        whole = affinity(predictor.model.refiner.embed(features, low_level))[0].cpu()
    assert np.allclose(row.ravel(), whole[6 * 8 + 2], atol=1e-6)
