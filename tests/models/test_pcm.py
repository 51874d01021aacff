import numpy as np
import pytest
import torch

from cxr_seam.models import pcm
from cxr_seam.models.pcm import PCM, affinity, apply_affinity


def slow_refinement(features: np.ndarray, theta: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Eq. 2, pixel by pixel, in float64."""
    channels, height, width = features.shape
    pixels = [(r, c) for r in range(height) for c in range(width)]
    embedded = {p: theta @ features[:, p[0], p[1]] for p in pixels}
    refined = np.zeros_like(cam)
    for i in pixels:
        weights = []
        for j in pixels:
            cosine = embedded[i] @ embedded[j] / np.linalg.norm(embedded[i]) / np.linalg.norm(embedded[j])
            weights.append(max(cosine, 0.0))
        for j, weight in zip(pixels, weights, strict=True):
            refined[:, i[0], i[1]] += weight * cam[:, j[0], j[1]] / sum(weights)
    return refined


def example(seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 8, 3, 4, generator=generator)
    cam = torch.rand(2, 5, 3, 4, generator=generator)
    torch.manual_seed(seed)
    return PCM(8), features, cam


def test_pcm_matches_slow_reference():
    module, features, cam = example()
    theta = module.theta.weight.detach().double().numpy()[:, :, 0, 0]
    refined = module(features, cam).detach().numpy()
    for b in range(2):
        slow = slow_refinement(features[b].double().numpy(), theta, cam[b].double().numpy())
        np.testing.assert_allclose(refined[b], slow, atol=1e-6)


def test_pcm_rows_sum_to_one_and_negatives_are_zero():
    module, features, _ = example()
    weights = affinity(module.embed(features))
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 12), atol=1e-6)
    assert (weights >= 0).all() and (weights == 0).any()


def test_pcm_keeps_constant_maps_and_range():
    module, features, cam = example()
    assert torch.allclose(module(features, torch.full_like(cam, 0.3)), torch.full_like(cam, 0.3), atol=1e-6)
    refined = module(features, cam)
    assert (refined.amax(dim=(2, 3)) <= cam.amax(dim=(2, 3)) + 1e-6).all()


def test_pcm_orthogonal_pixels_give_identity():
    embedding = torch.eye(4).reshape(1, 4, 2, 2)  # four orthogonal pixels
    assert torch.allclose(affinity(embedding)[0], torch.eye(4))


def test_pcm_ignores_invalid_pixels():
    module, features, cam = example()
    valid = torch.ones(2, 1, 3, 4, dtype=torch.bool)
    valid[:, :, 0, 0] = False
    other = cam.clone()
    other[:, :, 0, 0] = 99.0
    assert torch.equal(module(features, cam, valid=valid), module(features, other, valid=valid))
    assert torch.allclose(affinity(module.embed(features), valid=valid).sum(dim=-1), torch.ones(2, 12), atol=1e-6)


def test_pcm_gradient_reaches_only_theta():
    module, features, cam = example()
    features.requires_grad_()
    module(features, cam).square().sum().backward()
    assert features.grad is None and module.theta.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_pcm_blocks_equal_matrix_forward_and_backward(rows, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    embedding = torch.randn(2, 4, 3, 4, generator=generator, dtype=torch.float32)
    cam = torch.rand(2, 5, 3, 4, generator=generator)
    weights = torch.randn(2, 5, 3, 4, generator=generator)
    valid = torch.rand(2, 1, 3, 4, generator=generator) < 0.8
    gradients, maps = [], []
    for whole in (True, False):
        leaf = embedding.clone().requires_grad_()
        if whole:
            values = cam.flatten(2).transpose(1, 2)
            refined = torch.bmm(affinity(leaf, valid=valid), values).transpose(1, 2).reshape(cam.shape)
        else:
            monkeypatch.setattr(pcm, "BLOCK_VALUES", rows * 2 * 12)
            refined = apply_affinity(leaf, cam, valid=valid)
        (refined * weights).sum().backward()
        maps.append(refined.detach())
        gradients.append(leaf.grad)
    assert torch.allclose(maps[0], maps[1], atol=1e-5) and torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_pcm_block_size(monkeypatch):
    sizes = []
    rows_of = pcm.similarity_rows

    def watch(*inputs):
        result = rows_of(*inputs)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(pcm, "similarity_rows", watch)
    monkeypatch.setattr(pcm, "BLOCK_VALUES", 1000)
    embedding = torch.randn(2, 4, 16, 16, requires_grad=True)
    apply_affinity(embedding, torch.rand(2, 3, 16, 16)).sum().backward()
    assert max(sizes) <= 1000 and sum(sizes) == 2 * (2 * 256 * 256)  # each block once forward, once backward


def test_pcm_theta_parameter_count():
    # method of Table 4: 512 -> 256 without bias is 131,072 weights
    assert sum(p.numel() for p in PCM(512).parameters()) == 131_072
