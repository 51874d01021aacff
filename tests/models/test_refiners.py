"""Every refiner against its equation and the properties that all of them share."""

import math

import numpy as np
import pytest
import torch
import torchvision

from cxr_seam.errors import InputError
from cxr_seam.models import pcm
from cxr_seam.models.backbones import LowLevelFeatures
from cxr_seam.models.build import build_model
from cxr_seam.models.cam import make_pcm_input
from cxr_seam.models.extras.residual_pcm import centre, effective_share
from cxr_seam.models.extras.seam_pcm import REDUCED, SeamPCM
from cxr_seam.models.extras.self_attention import HEADS, SelfAttention
from cxr_seam.models.pcm import PCM
from cxr_seam.models.registry import REFINERS, build_refiner

NAMES = [name for name in REFINERS if name != "none"]
CHANNELS, WIDTHS = 16, (5, 7)


def example(name, seed=0):
    """A refiner, features (2, 16, 3, 4), maps, image and low-level maps."""
    torch.manual_seed(seed)
    refiner = build_refiner(name, CHANNELS, low_level=WIDTHS)
    low_level = LowLevelFeatures(torch.randn(2, 3, 24, 32), (torch.randn(2, 5, 6, 8), torch.randn(2, 7, 3, 4)))
    return refiner, torch.randn(2, CHANNELS, 3, 4), torch.rand(2, 15, 3, 4), low_level


@pytest.mark.parametrize("name", NAMES)
def test_refiner_keeps_constant_maps_and_range(name):
    refiner, features, cam, low_level = example(name)
    constant = torch.full_like(cam, 0.3)
    assert torch.allclose(refiner(features, constant, low_level=low_level), constant, atol=1e-6)
    refined = refiner(features, cam, low_level=low_level)
    assert refined.shape == cam.shape and refined.dtype == torch.float32
    assert (refined.amax(dim=(2, 3)) <= cam.amax(dim=(2, 3)) + 1e-6).all()
    assert (refined.amin(dim=(2, 3)) >= cam.amin(dim=(2, 3)) - 1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_refiner_equals_affinity_times_maps(name):
    refiner, features, cam, low_level = example(name)
    valid = torch.rand(2, 1, 3, 4) < 0.7
    one_hot = torch.eye(12).reshape(1, 12, 3, 4).expand(2, -1, -1, -1)  # a map for each pixel, 1 at this pixel
    for where in (None, valid):
        weights = refiner(features, one_hot, valid=where, low_level=low_level).flatten(2).transpose(1, 2)
        sums = weights.sum(dim=-1)  # an empty pixel may resemble no other; a valid one resembles itself
        assert (sums[valid.flatten(1)] - 1).abs().max() < 1e-5 and (weights >= 0).all()
        assert where is not None or torch.allclose(sums, torch.ones(2, 12), atol=1e-5)
        expected = torch.bmm(weights, cam.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(cam.shape)
        assert torch.allclose(refiner(features, cam, valid=where, low_level=low_level), expected, atol=1e-5)
    assert (weights.masked_select(~valid.flatten(2)) == 0).all()  # invalid pixels have no weight


@pytest.mark.parametrize("name", NAMES)
def test_refiner_gradients_stay_inside(name):
    refiner, features, cam, low_level = example(name)
    seen = (features, cam, low_level.images, *low_level.maps)
    for values in seen:
        values.requires_grad_()
    refiner(features, cam, low_level=low_level).square().sum().backward()
    assert all(values.grad is None for values in seen)
    assert all(p.grad.abs().sum() > 0 and torch.isfinite(p.grad).all() for p in refiner.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_refiner_blocks_equal_whole(name, monkeypatch):
    maps, gradients = [], []
    for values in (2**22, 150):
        monkeypatch.setattr(pcm, "BLOCK_VALUES", values)
        refiner, features, cam, low_level = example(name)
        refined = refiner(features, cam, low_level=low_level)
        refined.square().sum().backward()
        maps.append(refined.detach())
        gradients.append([p.grad for p in refiner.parameters()])
    assert torch.allclose(*maps, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_refiner_ignores_autocast(name):
    refiner, features, cam, low_level = example(name)
    plain = refiner(features, cam, low_level=low_level)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(refiner(features, cam, low_level=low_level), plain)


def test_residual_pcm_matches_slow_reference():
    refiner, features, cam, _ = example("residual_pcm")
    theta = refiner.theta.weight[:, :, 0, 0].detach().double().numpy()
    embedded = theta @ features.double().numpy().reshape(2, CHANNELS, 12)
    maps = cam.double().numpy().reshape(2, 15, 12)
    valid = np.ones((2, 12), dtype=bool)
    valid[0, [0, 5]] = valid[1, 7] = False
    for where in (None, torch.from_numpy(valid).reshape(2, 1, 3, 4)):
        used = np.ones_like(valid) if where is None else valid
        expected = np.zeros_like(maps)
        for b in range(2):
            pixels = [j for j in range(12) if used[b, j]]
            centred = embedded[b] - np.mean([embedded[b, :, j] for j in pixels], axis=0)[:, None]
            length = np.sqrt((centred**2).sum(axis=0))
            for i in range(12):
                cosines = {j: centred[:, i] @ centred[:, j] / length[i] / length[j] for j in pixels}
                weights = {j: max(cosine, 0) for j, cosine in cosines.items()}
                refined = sum(weight * maps[b, :, j] for j, weight in weights.items()) / sum(weights.values())
                expected[b, :, i] = (maps[b, :, i] * used[b, i] + refined) / 2
        refined = refiner(features, cam, valid=where).detach().numpy().reshape(expected.shape)
        np.testing.assert_allclose(refined, expected, atol=1e-5)


def test_residual_pcm_follows_an_affine_change_of_the_map():
    """f(a M + b) = a f(M) + b: a raw CAM keeps its scale and its zero."""
    refiner, features, cam, _ = example("residual_pcm")
    assert torch.allclose(refiner(features, 3 * cam - 5), 3 * refiner(features, cam) - 5, atol=1e-5)


def test_residual_pcm_of_equal_pixels_leaves_half():
    """Their centred embedding is 0, up to rounding: exactly 0 for features of 0."""
    refiner, _, cam, _ = example("residual_pcm")
    assert torch.equal(refiner(torch.zeros(2, CHANNELS, 3, 4), cam), cam / 2)


def test_centre_makes_positive_embeddings_dissimilar():
    """Cosines of positive vectors are positive; two groups of centred ones are opposite."""
    group = (torch.arange(12) % 2).reshape(1, 1, 3, 4).float()
    embedding = torch.cat([10 + group, 10 - group], dim=1)
    assert torch.allclose(pcm.affinity(embedding), torch.full((1, 12, 12), 1 / 12), atol=1e-3)
    same = group.flatten()[:, None] == group.flatten()
    assert torch.allclose(pcm.affinity(centre(embedding))[0], same / 6.0, atol=1e-5)
    valid = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    valid[..., 0] = False
    assert (centre(embedding, valid=valid) * valid).sum(dim=(2, 3)).abs().max() < 1e-4


def test_effective_share_of_uniform_and_single_weights():
    rows = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.75, 0.25, 0, 0]])
    assert torch.allclose(effective_share(rows), torch.tensor([1, 0.5, 0.25, 1 / (4 * 0.625)]))


def test_self_attention_matches_slow_reference():
    refiner, features, cam, _ = example("self_attention")
    query, key = (part.weight[:, :, 0, 0].detach().double().numpy() for part in (refiner.query, refiner.key))
    width = len(query) // HEADS
    x, maps = features.double().numpy().reshape(2, CHANNELS, 12), cam.double().numpy().reshape(2, 15, 12)
    expected = np.zeros_like(maps)
    for b in range(2):
        for i in range(12):
            for h in range(HEADS):
                own = slice(h * width, (h + 1) * width)
                logits = [(query[own] @ x[b, :, i]) @ (key[own] @ x[b, :, j]) / math.sqrt(width) for j in range(12)]
                weights = np.exp(logits) / np.exp(logits).sum()
                expected[b, :, i] += maps[b] @ weights / HEADS
    np.testing.assert_allclose(refiner(features, cam).detach().numpy().reshape(expected.shape), expected, atol=1e-5)


def test_self_attention_block_size(monkeypatch):
    sizes = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, dim: (sizes.append(self.numel()), softmax(self, dim))[1])
    monkeypatch.setattr(pcm, "BLOCK_VALUES", 5000)
    SelfAttention(8)(torch.randn(2, 8, 16, 16), torch.rand(2, 3, 16, 16))
    assert max(sizes) <= 5000 and sum(sizes) == HEADS * 2 * 256 * 256


def test_self_attention_of_equal_pixels_is_uniform():
    refiner, features, cam, _ = example("self_attention")
    same = features[:, :, :1, :1].expand_as(features)
    average = cam.mean(dim=(2, 3), keepdim=True).expand_as(cam)
    assert torch.allclose(refiner(same, cam), average, atol=1e-6)


def test_seam_pcm_embedding_by_hand():
    refiner, features, _, low_level = example("seam_pcm")
    row, column = 1, 2
    image = low_level.images[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].mean(dim=(1, 2))
    first = low_level.maps[0][0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(1, 2))
    second = low_level.maps[1][0, :, row, column]
    reduced = [
        (convolution.weight[:, :, 0, 0] @ seen).relu()
        for convolution, seen in zip(refiner.reduce, (first, second), strict=True)
    ]
    assert [len(r) for r in reduced] == list(REDUCED)
    joined = torch.cat([image, *reduced, features[0, :, row, column]])
    expected = refiner.theta.weight[:, :, 0, 0] @ joined
    assert torch.allclose(refiner.embed(features, low_level)[0, :, row, column], expected, atol=1e-5)


def test_seam_pcm_uses_the_image():
    refiner, features, cam, low_level = example("seam_pcm")
    flat = torch.ones_like(features)
    images = torch.zeros_like(low_level.images)
    maps = tuple(torch.zeros_like(seen) for seen in low_level.maps)
    even = pcm.affinity(refiner.embed(flat, LowLevelFeatures(images, maps)))
    images[:, :, :, 16:] = 50.0  # a bright right half
    halves = pcm.affinity(refiner.embed(flat, LowLevelFeatures(images, maps))).reshape(2, 3, 4, 3, 4)
    assert torch.allclose(even, torch.full_like(even, 1 / 12), atol=1e-5)
    assert (halves[:, :, 2:, :, 2:] > halves[:, :, 2:, :, :2].amax()).all()
    assert torch.allclose(PCM(CHANNELS)(flat, cam), cam.mean(dim=(2, 3), keepdim=True), atol=1e-5)


@pytest.mark.parametrize("name", REFINERS)
def test_refiner_changes_nothing_else_of_a_model(name):
    models = []
    for refiner in ("pcm", name):
        torch.manual_seed(0)
        models.append(build_model("multires_timm:test_resnet", weights="none", refiner=refiner).eval())
    theirs, ours = (m.state_dict() for m in models)
    assert {k for k in ours if not k.startswith("refiner.")} == {k for k in theirs if not k.startswith("refiner.")}
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if not k.startswith("refiner."))
    images = torch.randn(2, 3, 65, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, output = (m(images) for m in models)
        assert torch.equal(output.logits, expected.logits) and torch.equal(output.cam, expected.cam)
        if name == "none":
            assert output.refined is None
            with pytest.raises(InputError, match="refiner"):
                models[1].freeze_all_but_refiner()
        else:
            features, low_level = models[1].forward_features(images)
            refined = models[1].refiner(features, make_pcm_input(output.cam, findings=14), low_level=low_level)
            assert torch.equal(output.refined, refined[:, :14]) and output.refined.shape == output.cam.shape


def test_set_refiner_and_train_it_alone():
    model = build_model("multires_timm:test_resnet", weights="none")
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("refiner.")}
    model.set_refiner("seam_pcm")
    model.freeze_all_but_refiner()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "refiner.theta.weight",
        "refiner.reduce.0.weight",
        "refiner.reduce.1.weight",
    }
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if k in before)
    standard = build_model("resnet50", weights="none", refiner="self_attention")
    assert standard.refiner is None


def test_seam_pcm_parameter_counts():
    refiner = SeamPCM(512, (256, 512))
    counts = [p.numel() for p in refiner.parameters()]
    assert sorted(counts) == sorted([256 * 64, 512 * 128, (512 + 3 + 192) * ((512 + 3 + 192) // 2)])


def test_unknown_refiner_is_refused():
    with pytest.raises(InputError, match="strides 4 and 8"):
        build_refiner("seam_pcm", CHANNELS, low_level=WIDTHS[:1])
    with pytest.raises(InputError, match="crf"):
        build_model("multires_timm:test_resnet", weights="none", refiner="crf")


def test_standard_model_uses_no_random_numbers_for_a_refiner():
    states = []
    for name in REFINERS:
        torch.manual_seed(0)
        build_model("resnet50", weights="none", refiner=name)
        states.append(torch.get_rng_state())
    torch.manual_seed(0)
    resnet = torchvision.models.resnet50()  # with its ImageNet classifier
    del resnet
    torch.nn.Conv2d(2048, 14, kernel_size=1)
    states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)
