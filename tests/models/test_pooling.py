"""Every pooling against its equation, its limits and its properties."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cxr_seam.errors import InputError
from cxr_seam.models.build import build_from_recipe, build_model
from cxr_seam.models.extras.attention import GatedAttentionPool
from cxr_seam.models.extras.lse_lba import AdaptiveLogSumExpPool
from cxr_seam.models.extras.max_min import MaxMinPool
from cxr_seam.models.extras.pcam import ProbabilisticCamPool, pcam_weights
from cxr_seam.models.pooling import lse_pool
from cxr_seam.models.registry import POOLINGS, build_pooling
from cxr_seam.presets import get_recipe

CHANNELS, FINDINGS = 6, 14


def test_lse_by_hand():
    # 1/10 * log( (e^0 + e^10) / 2 ) for a map of two pixels, 0 and 1
    expected = math.log((1 + math.exp(10)) / 2) / 10
    assert lse_pool(torch.tensor([[[[0.0, 1.0]]]]), gamma=10).item() == pytest.approx(expected, rel=1e-6)


def test_lse_lies_between_average_and_maximum():
    features = torch.randn(3, 5, 7, 6, generator=torch.Generator().manual_seed(0))
    average, maximum = features.mean(dim=(2, 3)), features.amax(dim=(2, 3))
    pooled = lse_pool(features, gamma=10)
    assert (average < pooled).all() and (pooled < maximum).all()
    assert torch.allclose(lse_pool(features.double(), gamma=1e-3), average, atol=2e-3)
    assert torch.allclose(lse_pool(features, gamma=1e4), maximum, atol=1e-3)


def test_lse_of_constant_map():
    assert torch.allclose(lse_pool(torch.full((1, 2, 4, 4), 3.5), gamma=10), torch.full((1, 2), 3.5))


def test_lse_does_not_overflow():
    features = torch.tensor([[[[200.0, 0.0]]]])
    assert torch.exp(10 * features).isinf().any()
    assert lse_pool(features, gamma=10).item() == pytest.approx(200 - math.log(2) / 10, rel=1e-6)
    assert lse_pool(features.half(), gamma=10).dtype == torch.float32


@pytest.mark.parametrize("name", ["lse", "lse_lba"])
def test_lse_gamma_must_be_positive(name):
    with pytest.raises(InputError, match="gamma above 0"):
        build_model("timm:test_resnet", weights="none", pooling=name, gamma=0)


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
def test_pooling_of_constant_map_is_its_score(name):
    _, score = example()
    pool = build_pooling(name, CHANNELS, findings=FINDINGS, gamma=10.0)
    value = torch.rand(3, CHANNELS, 1, 1)
    expected = score(value).flatten(1) * (1.7 if name == "max_min" else 1.0)  # 1 + alpha
    assert torch.allclose(pool(value.expand(-1, -1, 5, 4), score), expected, atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_ignores_pixel_order_and_gradients_reach_everything(name):
    features, score = example()
    pool = build_pooling(name, CHANNELS, findings=FINDINGS, gamma=10.0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    shuffled = features.flatten(2)[:, :, order].reshape(features.shape)
    assert torch.allclose(pool(shuffled, score), pool(features, score), atol=1e-5)
    features.requires_grad_()
    logits = pool(features, score)
    assert logits.shape == (3, FINDINGS) and logits.dtype == torch.float32
    logits.square().sum().backward()
    for values in (features, *score.parameters(), *pool.parameters()):
        assert torch.isfinite(values.grad).all() and values.grad.abs().sum() > 0


def test_lse_lba_starts_as_lse():
    features, score = example()
    pool = AdaptiveLogSumExpPool(CHANNELS, 10.0)
    assert torch.allclose(pool.pool(features), lse_pool(features, gamma=10), atol=1e-5)
    for beta in (-20.0, 0.0, 4.0):
        nn.init.constant_(pool.beta, beta)
        pooled = pool.pool(features)
        assert (pooled >= features.mean(dim=(2, 3)) - 1e-5).all() and (pooled <= features.amax(dim=(2, 3)) + 1e-5).all()


def test_lse_lba_matches_equation_and_bound():
    pool = AdaptiveLogSumExpPool(2, 8.0)
    pool.beta.data = torch.tensor([math.log(3.0), -50.0])  # r = 4 + 3 and 4 + 0
    features = torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]])
    expected = [math.log((1 + math.exp(r)) / 2) / r for r in (7.0, 4.0)]
    assert pool.pool(features)[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert pool.sharpness.tolist() == pytest.approx([7.0, 4.0]) and (pool.sharpness >= pool.bound).all()


def test_lse_lba_learns_sharpness():
    features, _ = example()
    pool = AdaptiveLogSumExpPool(CHANNELS, 10.0)
    (features.amax(dim=(2, 3)) - pool.pool(features)).sum().backward()
    assert (pool.beta.grad < 0).all()  # descent raises every beta


def test_pcam_weights_match_equation():
    features, score = example()
    weights = pcam_weights(score(features)).detach().double().numpy()
    probability = 1 / (1 + np.exp(-score(features).detach().double().numpy()))
    np.testing.assert_allclose(weights, probability / probability.sum(axis=(2, 3), keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=(2, 3)), 1, rtol=1e-5)


def test_pcam_matches_slow_reference():
    features, score = example()
    weights = pcam_weights(score(features)).detach().double().numpy()
    ours = ProbabilisticCamPool()(features, score).detach().numpy()
    np.testing.assert_allclose(ours, slow_weighted(features, score, weights), atol=1e-5)
    cam_average = score(features).mean(dim=(2, 3)).detach().numpy()
    assert (ours >= cam_average - 1e-6).all()  # likely pixels weigh more


def test_pcam_stays_finite():
    cam = torch.tensor([[[[-200.0, -202.0]]]])
    assert torch.sigmoid(cam).sum() == 0
    expected = torch.tensor([1.0, math.exp(-2)]) / (1 + math.exp(-2))
    assert torch.allclose(pcam_weights(cam).flatten(), expected, atol=1e-6)


def test_attention_matches_slow_reference():
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


def max_min(monkeypatch, features, score, *, fraction, alpha):
    monkeypatch.setattr("cxr_seam.models.extras.max_min.FRACTION", fraction)
    monkeypatch.setattr("cxr_seam.models.extras.max_min.ALPHA", alpha)
    return MaxMinPool()(features, score)


def test_max_min_by_hand(monkeypatch):
    cam = torch.tensor([[[[5.0, 1.0, -2.0, 4.0], [0.0, -6.0, 2.0, 3.0]]]])
    pooled = max_min(monkeypatch, cam, lambda maps: maps, fraction=0.25, alpha=0.5)  # 2 largest and 2 smallest of 8
    assert pooled.item() == pytest.approx((5 + 4) / 2 + 0.5 * (-6 - 2) / 2)
    pooled = max_min(monkeypatch, cam, lambda maps: maps, fraction=0.3, alpha=0.0)
    assert pooled.item() == pytest.approx((5 + 4 + 3) / 3)


def test_max_min_limits(monkeypatch):
    features, score = example()
    cam = score(features)
    largest = max_min(monkeypatch, features, score, fraction=0.01, alpha=0.0)
    assert torch.allclose(largest, cam.amax(dim=(2, 3)))
    average = max_min(monkeypatch, features, score, fraction=1.0, alpha=0.0)
    assert torch.allclose(average, cam.mean(dim=(2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_changes_nothing_else_of_a_model(name):
    torch.manual_seed(0)
    paper = build_model("multires_timm:resnet18", weights="none").eval()
    recipe = replace(get_recipe("multires_resnet50"), model="multires_timm:resnet18", pooling=name)
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
def test_pooling_parameters_freeze_with_the_head(name):
    model = build_model("multires_timm:resnet18", weights="none", pooling=name)
    for head in (True, False):
        model.freeze_below(16, train_head=head)
        assert {p.requires_grad for p in model.pool.parameters()} == {head}
        assert model.train().pool.training == head
    model.freeze_all_but_refiner()
    assert not any(p.requires_grad for p in model.pool.parameters()) and not model.train().pool.training
    model.freeze_below(16)
    model.train()(torch.randn(2, 3, 64, 64)).logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.pool.parameters())


def test_unknown_pooling_is_refused():
    with pytest.raises(InputError, match="softmax"):
        build_model("timm:resnet18", weights="none", pooling="softmax")
