import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from cxr_seam.errors import InputError
from cxr_seam.models.checkpoint import Checkpoint, best_path, load_checkpoint, save_checkpoint
from cxr_seam.models.multires import model_names, model_of
from cxr_seam.presets import FAMILIES, all_recipes, family_of, find_family, find_recipe
from cxr_seam.recipes import recipe_from_dict, recipe_to_dict
from cxr_seam.training.fit import starting_model
from cxr_seam.training.resume import flat

SIX_ROWS = {
    "resnet50",
    "multires_resnet50",
    "multires_resnet50_pcm",
    "efficientnet_b4",
    "multires_efficientnet_b4",
    "multires_efficientnet_b4_pcm",
}


def test_the_six_rows_of_the_paper_are_there():
    assert set(all_recipes()) >= SIX_ROWS


def test_numbers_of_section_5_1():
    backbone = find_recipe("multires_resnet50")
    assert backbone.weights == "imagenet" and backbone.lse_gamma == 10 and backbone.image_size == 256
    phase = backbone.backbone
    assert (phase.learning_rate, phase.betas, phase.epochs) == (3e-4, (0.9, 0.9), 35)
    assert (phase.batch_size, phase.accumulation, phase.batch_size * phase.accumulation) == (32, 3, 96)
    assert phase.trainable_from_stride == 16
    resnet_pcm = find_recipe("multires_resnet50_pcm").seam
    assert (resnet_pcm.learning_rate, resnet_pcm.epochs, resnet_pcm.betas) == (1e-6, 3, (0.9, 0.9))
    b4_pcm = find_recipe("multires_efficientnet_b4_pcm").seam
    assert (b4_pcm.learning_rate, b4_pcm.epochs) == (1e-5, 1)


def test_numbers_of_sections_4_4_5_2_and_5_3():
    recipe = find_recipe("multires_resnet50_pcm")
    assert (recipe.seam.msml_weight, recipe.seam.ecr_weight, recipe.seam.hard_fraction) == (1.5, 1.0, 0.20)
    assert recipe.seam.rotation_degrees == 30
    assert recipe.augmentation.rotation_degrees == 0  # the Siamese step turns the film, see docs/paper-and-code.md
    varied = find_recipe("multires_resnet50").augmentation
    assert (varied.crop_area, varied.crop_aspect, varied.rotation_degrees) == ((0.8, 1.0), (0.75, 1.733), 15)
    assert (recipe.data.disease_free_images, recipe.data.validation_fraction) == (5000, 0.2)
    assert recipe.box_threshold == 0.7


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_recipes_survive_json_and_name_models_that_exist(name):
    recipe = find_recipe(name)
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe
    assert recipe.model in model_names()
    assert recipe.start_from is None or recipe.start_from in all_recipes()


def test_strong_is_the_papers_resnet50_but_for_what_its_page_names():
    """Field by field, against the table at the top of docs/beyond-the-paper.md and the length of its training."""
    paper, strong = (flat(recipe_to_dict(find_recipe(name))) for name in ("multires_resnet50", "multires_strong"))
    assert {field: value for field, value in strong.items() if value != paper[field]} == {
        "name": "multires_strong",
        "backbone.epochs": 12,
        "backbone.trainable_from_stride": 2,
        "backbone.optimiser": "adamw",
        "backbone.learning_rate": 1e-3,
        "backbone.weight_decay": 0.05,
        "backbone.betas": (0.9, 0.999),
        "backbone.accumulation": 1,
        "backbone.schedule": "cosine",
        "backbone.warm_up": 0.1,
        "pooling": "pcam",
        "data.disease_free_images": None,
        "map_normalisation": "usual",
        "box_threshold": 0.8,
        "test_scales": (1.0, 1.5),
        "test_flip": True,
    }
    assert find_recipe("multires_strong_pcm").seam.learning_rate == 1e-3  # theta learns at all


def test_a_family_is_standard_multires_and_pcm():
    for name in FAMILIES:
        standard, multires, refined = find_family(name)
        assert multires.model == f"multires_{standard.model}" == refined.model
        assert refined.start_from == multires.name and refined.seam and not standard.seam


def test_recipes_are_frozen_and_unknown_ones_are_told():
    with pytest.raises(FrozenInstanceError):
        find_recipe("resnet50").seed = 1
    assert family_of("multires_efficientnet_b4_pcm") == "efficientnet_b4"
    with pytest.raises(InputError, match="no recipe 'paper'"):
        find_recipe("paper")
    with pytest.raises(InputError, match="choose one of resnet50"):
        find_family("paper")
    with pytest.raises(InputError, match="does not know: colour"):
        recipe_from_dict(recipe_to_dict(find_recipe("resnet50")) | {"colour": "red"})


@pytest.mark.parametrize("refiner", ["pcm", "pcm_shallow", "self_attention"])
@pytest.mark.parametrize("pooling", ["lse", "lse_lba", "attention"])
def test_parts_chosen_by_name_come_back_with_their_weights(tmp_path, pooling, refiner):
    recipe = replace(find_recipe("multires_tiny"), pooling=pooling, refiner=refiner)
    torch.manual_seed(3)
    model = model_of(recipe, weights="none").eval()
    path = save_checkpoint(tmp_path / "parts.safetensors", model, about=Checkpoint(recipe))
    loaded, about = load_checkpoint(path)
    assert about.recipe == recipe
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, expected in zip(loaded(images), model(images), strict=True):
            assert torch.equal(ours, expected)


def test_recipes_from_before_parts_had_names_are_the_papers():
    for name in filter(lambda name: "strong" not in name, all_recipes()):
        told = recipe_to_dict(find_recipe(name))
        for field in ("pooling", "refiner", "joint", "map_normalisation", "test_scales", "test_flip"):
            del told[field]
        for field in ("gamma", "contrast", "brightness"):
            del told["augmentation"][field]
        for phase in ("backbone", "seam"):
            for field in ("optimiser", "weight_decay", "warm_up", "ema_decay") if told[phase] is not None else ():
                del told[phase][field]
        if told["seam"] is not None:
            del told["seam"]["equivariance"]
        if told["backbone"] is not None:
            del told["backbone"]["label_smoothing"]
        assert recipe_from_dict(told) == find_recipe(name)


def test_a_recipe_with_all_that_is_not_in_the_paper_survives_json():
    recipe = find_recipe("multires_tiny")
    phase = replace(recipe.backbone, schedule="cosine", warm_up=0.1, ema_decay=0.99, label_smoothing=0.1)
    varied = replace(recipe.augmentation, gamma=1.2, contrast=0.2, brightness=0.1)
    data = replace(recipe.data, disease_free_images=None)
    changed = replace(recipe, backbone=phase, augmentation=varied, data=data, test_scales=(0.75, 1.0, 1.5))
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(changed)))) == changed


@pytest.mark.parametrize("scales", [(), (0.1,), (1.0, 5.0), (1.0, True), [1.0], 1.0, (1.0, "2")])
def test_scales_are_some_numbers_in_their_range(scales):
    with pytest.raises(InputError, match="test_scales of a recipe must"):
        replace(find_recipe("multires_tiny"), test_scales=scales)


def test_a_second_phase_can_begin_with_another_refiner_on_the_model_of_the_first(tmp_path):
    first = find_recipe("multires_tiny")
    model = model_of(first, weights="none")
    save_checkpoint(best_path(tmp_path, first.name), model, about=Checkpoint(first))
    second = replace(find_recipe("multires_tiny_pcm"), refiner="self_attention")
    started, _ = starting_model(second, best_path(tmp_path, first.name), weights="none")
    state, before = started.state_dict(), model.state_dict()
    assert {key for key in state if key not in before} == {"pcm.query.weight", "pcm.key.weight"}
    assert all(torch.equal(state[key], before[key]) for key in state if key in before)
    for field, other in {"model": "multires_resnet18", "pooling": "pcam", "lse_gamma": 5.0}.items():
        with pytest.raises(InputError, match=f"multires_tiny_pcm has the {field} .*; give both the same"):
            starting_model(replace(second, **{field: other}), best_path(tmp_path, first.name), weights="none")
    with pytest.raises(InputError, match="no normalisation 'mean' of maps"):
        starting_model(replace(second, map_normalisation="mean"), best_path(tmp_path, first.name), weights="none")
    same, _ = starting_model(find_recipe("multires_tiny_pcm"), best_path(tmp_path, first.name), weights="none")
    assert torch.equal(same.pcm.theta.weight, model.pcm.theta.weight)
