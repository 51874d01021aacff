"""Poolings and refiners chosen by name go through both stages of a tiny training and back from disk."""

import warnings
from dataclasses import replace

import pytest
import torch
from accelerate.utils import set_seed

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.data.split import train_val_split
from cxr_seam.evaluation.evaluate import load_predictors
from cxr_seam.evaluation.results import REFINED
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.checkpoint import best_path, load_checkpoint
from cxr_seam.presets import SMALL_PCM, get_recipe, improve
from cxr_seam.recipes import add_seam_stage
from cxr_seam.training.fit import fit, init_checkpoint, init_model


@pytest.mark.parametrize(
    ("pooling", "refiner"),
    [
        ("attention", "seam_pcm"),
        ("lse_lba", "self_attention"),
    ],
)
def test_each_stage_trains_its_own_modules(pooling, refiner, demo_folder, demo_cache, tmp_path):
    tables = load_metadata(demo_folder)
    chosen = train_val_split(tables, validation_fraction=0.25, num_normal_images=100, seed=0)
    training, validation = (ChestXrayDataset(demo_cache, tables, image_index=names) for names in chosen)
    first = replace(get_recipe("multires_tiny"), pooling=pooling)
    second = replace(get_recipe("multires_tiny_pcm"), pooling=pooling, refiner=refiner)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no training image")
        for recipe in (first, second):
            fit(recipe, tmp_path, train_set=training, val_set=validation)
    recipes = (get_recipe("tiny"), first, second)
    assert set(load_predictors(recipes, tmp_path)) == {REFINED}  # the classifier stage has no refiner
    starts = []
    for recipe in (first, second):
        set_seed(recipe.seed)
        starts.append(init_model(recipe, init_checkpoint(recipe, tmp_path), weights="none").state_dict())
    ends = [load_checkpoint(best_path(tmp_path, recipe.name))[0].state_dict() for recipe in (first, second)]
    for part, (start, end) in zip(("pool.", "refiner."), zip(starts, ends, strict=True), strict=True):
        learned = {key for key in end if key.startswith(part)}
        assert learned and not any(torch.equal(start[key], end[key]) for key in learned)
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0] if not key.startswith("refiner."))
    assert all(torch.equal(starts[0][key], ends[0][key]) for key in ends[0] if key.startswith("refiner."))


@pytest.mark.filterwarnings("ignore:no training image")
def test_improved_recipe_trains_its_backbone_and_calibrates(demo_folder, demo_cache, tmp_path):
    tables = load_metadata(demo_folder)
    training, validation = (
        ChestXrayDataset(demo_cache, tables, image_index=demo_cache.image_index[k::2]) for k in (0, 1)
    )
    first = improve(get_recipe("multires_tiny"))
    second = add_seam_stage(first, SMALL_PCM)
    for recipe in (first, second):
        fit(recipe, tmp_path, train_set=training, val_set=validation)
    set_seed(first.seed)
    start = init_model(first, None, weights="imagenet").state_dict()
    end = load_checkpoint(best_path(tmp_path, first.name))[0].state_dict()
    first_convolution = next(iter(start))
    assert start[first_convolution].ndim == 4 and not torch.equal(start[first_convolution], end[first_convolution])
    predictor = Predictor.load(best_path(tmp_path, second.name))
    assert set(predictor.negative_mean) == {"cam", "refined"}
    pixels = validation.load([0])[0]
    once = replace(first, cam_baseline="zero", map_prior="none", tta_flip=False)
    single = [replace(once, tta_scales=(scale,)) for scale in (1.0, 1.5)]
    logits = [
        Predictor(predictor.model, how).forward(seen).logits for how in single for seen in (pixels, pixels.flip(-1))
    ]
    torch.testing.assert_close(predictor.forward(pixels).logits, sum(logits) / 4)
