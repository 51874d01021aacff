import json
from dataclasses import FrozenInstanceError

import pytest

from cxr_seam.errors import InputError
from cxr_seam.models import model_names
from cxr_seam.recipes import (
    FAMILIES,
    all_recipes,
    family_of,
    find_family,
    find_recipe,
    recipe_from_dict,
    recipe_to_dict,
)

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
