"""Optimisers and schedules by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from cxr_seam.errors import InputError
from cxr_seam.presets import get_recipe, list_recipes
from cxr_seam.training.optim import make_optimiser, make_schedule

RECIPE = get_recipe("multires_tiny")


def with_stage(**changes):
    return replace(RECIPE, classifier_stage=replace(RECIPE.classifier_stage, **changes))


def rates(stage, steps):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=stage.learning_rate)
    schedule = make_schedule(optimiser, stage, steps=steps)
    found = []
    for _ in range(steps + 1):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_cosine_rises_in_equal_steps_and_falls_along_half_a_cosine():
    stage = with_stage(schedule="cosine", warmup_fraction=0.25, learning_rate=8.0).classifier_stage
    falling = [4 * (1 + math.cos(math.pi * place / 9)) for place in range(10)]  # 8 at its start, 0 after nine updates
    assert rates(stage, 12) == pytest.approx([8 / 3, 16 / 3, 8, *falling])


def test_cosine_without_warm_up_begins_at_the_full_rate():
    found = rates(with_stage(schedule="cosine", learning_rate=2.0).classifier_stage, 4)
    assert found == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0])


def test_weights_decay_and_biases_and_norms_do_not():
    """With a gradient of almost zero, AdamW multiplies a weight by 1 - rate * decay (Loshchilov and Hutter 2019)."""
    module = nn.Sequential(nn.Conv2d(2, 3, kernel_size=1), nn.BatchNorm2d(3))
    module.layer_scale = nn.Parameter(torch.ones(3, 1, 1))  # as a block of ConvNeXt has one
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    recipe = with_stage(optimiser="adamw", weight_decay=0.5, learning_rate=0.1)
    optimiser = make_optimiser(module, recipe, fused=None)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, value in module.named_parameters():
        assert torch.allclose(value, before[name] * (0.95 if name == "0.weight" else 1.0))


@pytest.mark.parametrize("name", sorted(name for name in list_recipes() if "strong" not in name))
def test_the_papers_recipes_have_plain_adam(name):
    recipe = get_recipe(name)
    module = nn.Sequential(nn.Conv2d(2, 3, kernel_size=1), nn.BatchNorm2d(3))
    optimiser = make_optimiser(module, recipe, fused=None)
    (group,) = optimiser.param_groups
    assert type(optimiser) is torch.optim.Adam and group["weight_decay"] == 0
    assert (group["lr"], group["betas"]) == (recipe.stage.learning_rate, recipe.stage.betas)
    assert all(one is other for one, other in zip(group["params"], module.parameters(), strict=True))


def test_weight_decay_of_adam_is_refused():
    with pytest.raises(InputError, match="weight_decay of multires_tiny"):
        make_optimiser(nn.Linear(2, 2), with_stage(weight_decay=0.1))


def test_plateau_lowers_the_rate_after_the_seventh_epoch_without_a_rise():
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=3e-4)
    schedule = make_schedule(optimiser, get_recipe("resnet50").classifier_stage, steps=1)
    rates = []
    for auc in [0.7, *[0.6] * 7]:
        schedule.step(auc)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates[:7] == [3e-4] * 7 and rates[7] == pytest.approx(3e-5)
