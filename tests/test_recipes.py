import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from cxr_seam.errors import InputError
from cxr_seam.models.build import build_from_recipe, model_names
from cxr_seam.models.checkpoint import Checkpoint, best_path, load_checkpoint, save_checkpoint
from cxr_seam.presets import PRESETS, get_preset, get_recipe, list_recipes
from cxr_seam.recipes import SeamStage, recipe_from_dict, recipe_to_dict
from cxr_seam.training.fit import init_model
from cxr_seam.training.resume import flatten

SIX_ROWS = {
    "resnet50",
    "multires_resnet50",
    "multires_resnet50_pcm",
    "efficientnet_b4",
    "multires_efficientnet_b4",
    "multires_efficientnet_b4_pcm",
}


def test_six_rows_of_the_paper():
    assert set(list_recipes()) >= SIX_ROWS


def test_numbers_of_section_5_1():
    backbone = get_recipe("multires_resnet50")
    assert backbone.weights == "imagenet" and backbone.lse_gamma == 10 and backbone.image_size == 256
    stage = backbone.classifier_stage
    assert (stage.learning_rate, stage.betas, stage.epochs) == (3e-4, (0.9, 0.9), 35)
    assert (stage.batch_size, stage.grad_accum_steps, stage.batch_size * stage.grad_accum_steps) == (32, 3, 96)
    assert stage.freeze_below_stride == 16
    resnet_pcm = get_recipe("multires_resnet50_pcm").seam_stage
    assert (resnet_pcm.learning_rate, resnet_pcm.epochs, resnet_pcm.betas) == (1e-6, 3, (0.9, 0.9))
    b4_pcm = get_recipe("multires_efficientnet_b4_pcm").seam_stage
    assert (b4_pcm.learning_rate, b4_pcm.epochs) == (1e-5, 1)


def test_numbers_of_sections_4_4_5_2_and_5_3():
    recipe = get_recipe("multires_resnet50_pcm")
    assert (recipe.seam_stage.msml_weight, recipe.seam_stage.ecr_weight, recipe.seam_stage.ohem_fraction) == (
        1.5,
        1.0,
        0.20,
    )
    assert recipe.seam_stage.rotation_degrees == 30
    assert recipe.augmentation.rotation_degrees == 0  # the Siamese step turns the image, see docs/paper-and-code.md
    varied = get_recipe("multires_resnet50").augmentation
    assert (varied.crop_area, varied.crop_aspect, varied.rotation_degrees) == ((0.8, 1.0), (0.75, 1.733), 15)
    assert (recipe.data.num_normal_images, recipe.data.validation_fraction) == (5000, 0.2)
    assert recipe.cam_threshold == 0.7


@pytest.mark.parametrize("name", sorted(list_recipes()))
def test_recipe_survives_json_and_names_a_model(name):
    recipe = get_recipe(name)
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe
    assert recipe.model in model_names()
    assert recipe.init_from is None or recipe.init_from in list_recipes()


def test_strong_differs_from_the_paper_in_these_fields():
    """Against the table at the top of docs/beyond-the-paper.md, and the number of epochs."""
    paper, strong = (flatten(recipe_to_dict(get_recipe(name))) for name in ("multires_resnet50", "multires_strong"))
    assert {field: value for field, value in strong.items() if value != paper[field]} == {
        "name": "multires_strong",
        "classifier_stage.epochs": 12,
        "classifier_stage.freeze_below_stride": 2,
        "classifier_stage.optimiser": "adamw",
        "classifier_stage.learning_rate": 1e-3,
        "classifier_stage.weight_decay": 0.05,
        "classifier_stage.betas": (0.9, 0.999),
        "classifier_stage.grad_accum_steps": 1,
        "classifier_stage.schedule": "cosine",
        "classifier_stage.warmup_fraction": 0.1,
        "pooling": "pcam",
        "data.num_normal_images": None,
        "cam_baseline": "negative_mean",
        "mirror_share": 0.5,
        "box_rule": "local_moments",
        "cam_threshold": 0.8,
        "tta_scales": (1.0, 1.5),
        "tta_flip": True,
    }
    joint = get_recipe("multires_strong_pcm").seam_stage  # as docs/beyond-the-paper.md says
    assert (joint.joint, joint.epochs, joint.learning_rate, joint.er_weight) == (True, 2, 3e-3, 1.5)


def test_preset_is_standard_multires_and_pcm():
    for name in PRESETS:
        standard, multires, refined = get_preset(name)
        assert multires.model == f"multires_{standard.model}" == refined.model
        assert refined.init_from == multires.name and refined.seam_stage and not standard.seam_stage
        ours = name not in ("resnet50", "efficientnet_b4")  # the paper's PCM reads suppressed maps
        expected = ("residual_pcm", "cam") if ours else ("pcm", "suppressed")
        assert (refined.refiner, refined.refiner_input) == expected
        assert (multires.refiner, multires.refiner_input) == ("pcm", "suppressed")  # earlier checkpoints stay valid


def test_recipes_are_frozen_and_unknown_names_are_refused():
    with pytest.raises(FrozenInstanceError):
        get_recipe("resnet50").seed = 1
    with pytest.raises(InputError, match="'paper'"):
        get_recipe("paper")
    with pytest.raises(InputError, match="'paper'"):
        get_preset("paper")


VALID = {"lse_gamma": 5, "image_size": 64, "seed": 3, "tta_scales": (0.5, 2), "weights": "none", "init_from": "a.b-c+d"}
INVALID = {
    "name": ["a/b", "../a", "", "a\n", ".a", 1],
    "model": [1, None, ["resnet50"]],
    "image_size": [31, 8193, 256.0, "256", True, None],
    "lse_gamma": [0, -1.0, float("nan"), float("inf"), True, "10", 10**400],
    "cam_threshold": [-0.1, 1.1],
    "tta_scales": [(), (0.1,), (1.0, 5.0), (1.0, True), [1.0], 1.0, (1.0, "2")],
    "tta_flip": [1, "yes"],
    "pooling": ["softmax", "multires.LogSumExpPool"],
    "refiner": ["crf"],
    "refiner_input": ["refined"],
    "background": ["sky"],
    "cam_baseline": ["mean"],
    "seed": [-1, 0.5],
    "classifier_stage": [None, {"epochs": 1}, SeamStage()],
    "augmentation": [None],
}


@pytest.mark.parametrize("field", VALID)
def test_valid_fields_are_accepted(field):
    recipe = replace(get_recipe("multires_tiny"), **{field: VALID[field]})
    assert getattr(recipe, field) == VALID[field]
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in INVALID.items() for value in values])
def test_invalid_fields_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=field):
        replace(get_recipe("multires_tiny"), **{field: value})


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("augmentation", "crop_area", [1.0, 0.8]),
        ("augmentation", "crop_area", [0.8, 1.2]),
        ("augmentation", "crop_aspect", [2.0, 1.0]),
        ("data", "validation_fraction", 1.0),
        ("classifier_stage", "epochs", 0),
        ("classifier_stage", "betas", [0.9, 0.9, 0.9]),
        ("classifier_stage", "betas", [0.9, 1.0]),
        ("classifier_stage", "optimiser", "sgd"),
        ("classifier_stage", "freeze_below_stride", 3),
        ("classifier_stage", "ema_decay", 0.99),  # a field of an earlier version
    ],
)
def test_invalid_nested_fields_are_refused_by_name(section, field, value):
    values = recipe_to_dict(get_recipe("resnet50"))
    values[section] |= {field: value}
    with pytest.raises(InputError, match=f"{section}.{field}"):
        recipe_from_dict(values)


def test_missing_and_unknown_fields_are_refused_by_name():
    values = recipe_to_dict(get_recipe("resnet50"))
    with pytest.raises(InputError, match="colour"):
        recipe_from_dict(values | {"colour": "red"})
    del values["model"]
    with pytest.raises(InputError, match="model"):
        recipe_from_dict(values)
    with pytest.raises(InputError, match="Recipe"):
        recipe_from_dict([])


def test_colon_is_allowed_in_model_not_in_name():
    """Model names such as timm:resnet18 have a colon, which a file name may not have; recipe names may not either."""
    assert replace(get_recipe("small"), model="multires_timm:resnet18").model == "multires_timm:resnet18"
    with pytest.raises(InputError, match="name"):
        replace(get_recipe("small"), name="timm:resnet18")


@pytest.mark.parametrize("refiner", ["pcm", "residual_pcm", "seam_pcm", "self_attention"])
@pytest.mark.parametrize("pooling", ["lse", "lse_lba", "attention"])
def test_pooling_and_refiner_survive_a_checkpoint(tmp_path, pooling, refiner):
    recipe = replace(get_recipe("multires_tiny"), pooling=pooling, refiner=refiner, refiner_input="cam")
    torch.manual_seed(3)
    model = build_from_recipe(recipe, weights="none").eval()
    path = save_checkpoint(tmp_path / "parts.safetensors", model, metadata=Checkpoint(recipe))
    loaded, metadata = load_checkpoint(path)
    assert metadata.recipe == recipe
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, expected in zip(loaded(images), model(images), strict=True):
            assert torch.equal(ours, expected)


def test_seam_stage_can_begin_with_another_refiner(tmp_path):
    first = get_recipe("multires_tiny")
    model = build_from_recipe(first, weights="none")
    save_checkpoint(best_path(tmp_path, first.name), model, metadata=Checkpoint(first))
    second = replace(get_recipe("multires_tiny_pcm"), refiner="self_attention")
    started = init_model(second, best_path(tmp_path, first.name), weights="none")
    state, before = started.state_dict(), model.state_dict()
    assert {key for key in state if key not in before} == {"refiner.query.weight", "refiner.key.weight"}
    assert all(torch.equal(state[key], before[key]) for key in state if key in before)
    for field, other in {"model": "multires_timm:test_resnet", "pooling": "pcam", "lse_gamma": 5.0}.items():
        with pytest.raises(InputError, match=f"multires_tiny_pcm.*{field}"):
            init_model(replace(second, **{field: other}), best_path(tmp_path, first.name), weights="none")
    same = init_model(replace(second, refiner="pcm"), best_path(tmp_path, first.name), weights="none")
    assert torch.equal(same.refiner.theta.weight, model.refiner.theta.weight)
