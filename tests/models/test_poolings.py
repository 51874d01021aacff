"""Every pooling against its equation, its limits and its properties."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cxr_seam.errors import InputError
from cxr_seam.models.extras.attention import GatedAttentionPool
from cxr_seam.models.extras.lse_lba import AdaptiveLogSumExpPool
from cxr_seam.models.extras.max_min import MaxMinPool
from cxr_seam.models.extras.pcam import ProbabilisticCamPool, pcam_weights
from cxr_seam.models.multires import build_from_recipe, build_model
from cxr_seam.models.pooling import lse_pool
from cxr_seam.models.poolings import POOLINGS, build_pooling
from cxr_seam.presets import get_recipe

CHANNELS, FINDINGS = 6, 14


def example(seed=0, size=(5, 4)):
    torch.manual_seed(seed)
    features = torch.randn(3, CHANNELS, *size).relu() + 0.1 * torch.rand(3, CHANNELS, *size)
    return features, nn.Conv2d(CHANNELS, FINDINGS, kernel_size=1)


def slow_weighted(features, score, weights):
    """w_k . (sum_i a_ki x_i) + b_k with the pooled features of every finding written out."""
    logits = np.zeros((len(features), FINDINGS))
    matrix, bias = score.weight[:, :, 0, 0].detach().double().numpy(), score.bias.detach().double().numpy()
    for b, x in enumerate(features.double().numpy()):
        for k in range(FINDINGS):
            pooled = (x * weights[b, k]).sum(axis=(1, 2))
            logits[b, k] = matrix[k] @ pooled + bias[k]
    return logits


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_of_a_constant_map_is_the_score_of_its_value(name):
    _, score = example()
    pool = build_pooling(name, CHANNELS, gamma=10.0)
    value = torch.rand(3, CHANNELS, 1, 1)
    expected = score(value).flatten(1) * (1.7 if name == "max_min" else 1.0)  # 1 + alpha
    assert torch.allclose(pool(value.expand(-1, -1, 5, 4), score), expected, atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_logits_do_not_depend_on_where_a_pixel_lies_and_gradients_reach_every_part(name):
    features, score = example()
    pool = build_pooling(name, CHANNELS, gamma=10.0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    shuffled = features.flatten(2)[:, :, order].reshape(features.shape)
    assert torch.allclose(pool(shuffled, score), pool(features, score), atol=1e-5)
    features.requires_grad_()
    logits = pool(features, score)
    assert logits.shape == (3, FINDINGS) and logits.dtype == torch.float32
    logits.square().sum().backward()
    for values in (features, *score.parameters(), *pool.parameters()):
        assert torch.isfinite(values.grad).all() and values.grad.abs().sum() > 0


def test_average_and_maximum_are_the_limits_of_lse():
    features, score = example()
    average, maximum = (build_pooling(name, CHANNELS, gamma=1.0)(features, score) for name in ("average", "max"))
    blunt = build_pooling("lse", CHANNELS, gamma=1e-3)(features, score)
    sharp = build_pooling("lse", CHANNELS, gamma=1e4)(features, score)
    assert torch.allclose(blunt, average, atol=2e-3) and torch.allclose(sharp, maximum, atol=2e-3)
    assert torch.allclose(average, score(features).mean(dim=(2, 3)), atol=1e-5)  # the mean of the CAM
    assert not torch.allclose(average, maximum, atol=0.05)


def test_lse_lba_starts_as_lse_and_stays_between_average_and_maximum():
    features, score = example()
    pool = AdaptiveLogSumExpPool(CHANNELS, 10.0)
    assert torch.allclose(pool.pool(features), lse_pool(features, gamma=10), atol=1e-5)
    for beta in (-20.0, 0.0, 4.0):
        nn.init.constant_(pool.beta, beta)
        pooled = pool.pool(features)
        assert (pooled >= features.mean(dim=(2, 3)) - 1e-5).all() and (pooled <= features.amax(dim=(2, 3)) + 1e-5).all()


def test_lse_lba_is_yaos_equation_with_a_sharpness_a_channel_that_never_falls_below_its_bound():
    pool = AdaptiveLogSumExpPool(2, 8.0)
    pool.beta.data = torch.tensor([math.log(3.0), -50.0])  # r = 4 + 3 and 4 + 0
    features = torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]])
    expected = [math.log((1 + math.exp(r)) / 2) / r for r in (7.0, 4.0)]
    assert pool.pool(features)[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert pool.sharpness.tolist() == pytest.approx([7.0, 4.0]) and (pool.sharpness >= pool.bound).all()
    with pytest.raises(InputError, match="gamma above 0"):
        AdaptiveLogSumExpPool(2, 0.0)


def test_lse_lba_learns_to_be_sharper_where_the_maximum_is_wanted():
    features, _ = example()
    pool = AdaptiveLogSumExpPool(CHANNELS, 10.0)
    (features.amax(dim=(2, 3)) - pool.pool(features)).sum().backward()
    assert (pool.beta.grad < 0).all()  # descent raises every beta


def test_pcam_weights_are_normalised_probabilities():
    features, score = example()
    weights = pcam_weights(score(features)).detach().double().numpy()
    probability = 1 / (1 + np.exp(-score(features).detach().double().numpy()))
    np.testing.assert_allclose(weights, probability / probability.sum(axis=(2, 3), keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=(2, 3)), 1, rtol=1e-5)


def test_pcam_classifies_features_pooled_for_each_finding():
    features, score = example()
    weights = pcam_weights(score(features)).detach().double().numpy()
    ours = ProbabilisticCamPool()(features, score).detach().numpy()
    np.testing.assert_allclose(ours, slow_weighted(features, score, weights), atol=1e-5)
    cam_average = score(features).mean(dim=(2, 3)).detach().numpy()
    assert (ours >= cam_average - 1e-6).all()  # likely pixels weigh more


def test_pcam_stays_finite_where_every_probability_is_rounded_to_zero():
    cam = torch.tensor([[[[-200.0, -202.0]]]])
    assert torch.sigmoid(cam).sum() == 0
    expected = torch.tensor([1.0, math.exp(-2)]) / (1 + math.exp(-2))
    assert torch.allclose(pcam_weights(cam).flatten(), expected, atol=1e-6)


def test_attention_is_ilses_gate_and_its_weights_sum_to_one():
    features, score = example()
    pool = GatedAttentionPool(CHANNELS, FINDINGS)
    value, gate, weight = (
        part.weight[:, :, 0, 0].detach().double().numpy() for part in (pool.value, pool.gate, pool.weight)
    )
    weights = np.zeros((3, FINDINGS, 5, 4))
    for b, x in enumerate(features.double().numpy()):
        for row in range(5):
            for column in range(4):
                pixel = x[:, row, column]
                hidden = np.tanh(value @ pixel) / (1 + np.exp(-(gate @ pixel)))
                weights[b, :, row, column] = np.exp(weight @ hidden)
    weights /= weights.sum(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(pool.weights(features).detach().numpy(), weights, rtol=1e-4)
    assert torch.allclose(pool.weights(features).sum(dim=(2, 3)), torch.ones(3, FINDINGS), atol=1e-5)
    np.testing.assert_allclose(
        pool(features, score).detach().numpy(), slow_weighted(features, score, weights), atol=1e-5
    )


def test_max_min_by_hand():
    cam = torch.tensor([[[[5.0, 1.0, -2.0, 4.0], [0.0, -6.0, 2.0, 3.0]]]])
    pool = MaxMinPool(share=0.25, alpha=0.5)  # the 2 largest, the 2 smallest of 8
    assert pool(cam, lambda maps: maps).item() == pytest.approx((5 + 4) / 2 + 0.5 * (-6 - 2) / 2)
    assert MaxMinPool(share=0.3, alpha=0.0)(cam, lambda maps: maps).item() == pytest.approx((5 + 4 + 3) / 3)


def test_max_min_has_maximum_and_average_of_the_cam_as_limits():
    features, score = example()
    cam = score(features)
    assert torch.allclose(MaxMinPool(share=0.01, alpha=0)(features, score), cam.amax(dim=(2, 3)))
    assert torch.allclose(MaxMinPool(share=1, alpha=0)(features, score), cam.mean(dim=(2, 3)), atol=1e-6)
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"alpha": -0.1}):
        with pytest.raises(InputError, match="share above 0"):
            MaxMinPool(**wrong)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_model_of_any_pooling_differs_from_the_papers_in_its_pooling_alone(name):
    torch.manual_seed(0)
    paper = build_model("multires_resnet18", weights="none").eval()
    recipe = replace(get_recipe("multires_resnet50"), model="multires_resnet18", pooling=name)
    torch.manual_seed(0)
    model = build_from_recipe(recipe, weights="none").eval()
    ours, theirs = model.state_dict(), paper.state_dict()
    assert {key for key in ours if not key.startswith("pool.")} == set(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output, expected = model(images), paper(images)
    assert torch.equal(output.cam, expected.cam) and torch.isfinite(output.logits).all()
    same = torch.allclose(output.logits, expected.logits, atol=1e-5)  # LSE-LBA begins as LSE
    assert same == (name in ("lse", "lse_lba"))


@pytest.mark.parametrize("name", ["lse_lba", "attention"])
def test_a_pooling_with_parameters_is_trained_and_frozen_with_the_head(name):
    model = build_model("multires_resnet18", weights="none", pooling=name)
    for head in (True, False):
        model.freeze_below(16, head=head)
        assert {p.requires_grad for p in model.pool.parameters()} == {head}
        assert model.train().pool.training == head
    model.freeze_all_but_refiner()
    assert not any(p.requires_grad for p in model.pool.parameters()) and not model.train().pool.training
    model.freeze_below(16)
    model.train()(torch.randn(2, 3, 64, 64)).logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.pool.parameters())


def test_unknown_names_are_told():
    with pytest.raises(InputError, match="no pooling 'softmax'; choose one of lse, lse_lba"):
        build_model("resnet18", weights="none", pooling="softmax")
