import pytest
import torch
from torch import nn

from cxr_seam.data.transforms import imagenet_normalise
from cxr_seam.errors import InputError
from cxr_seam.models.build import build_model, count_parameters, model_names
from cxr_seam.models.multires import MergeBlock
from cxr_seam.models.pooling import lse_pool

TABLE_4 = {
    "resnet50": 23_536_718,
    "multires_resnet50": 26_273_615,
    "efficientnet_b4": 17_573_718,
    "multires_efficientnet_b4": 18_913_543,
}


@pytest.mark.parametrize("name", TABLE_4)
def test_parameter_counts_of_table_4(name):
    assert count_parameters(build_model(name, weights="none")) == TABLE_4[name]


def test_merge_block_parameter_counts():
    # ResNet: 2048->512 1,049,600 + 1024->256 262,656 + fuse 768->1024 788,480
    assert count_parameters(MergeBlock(2048, 1024, width="skip")) == 1_049_600 + 262_656 + 788_480
    # EfficientNet-B4: 1792->448 803,712 + 160->160 25,920 + fuse 608->608 370,880
    assert count_parameters(MergeBlock(1792, 160, width="concatenation")) == 803_712 + 25_920 + 370_880


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_model("multires_timm:resnet18", weights="none").eval()


@pytest.mark.parametrize("size", [(64, 64), (65, 33), (100, 228), (32, 32)])
def test_any_image_size_from_32(small, size):
    with torch.no_grad():
        output = small(torch.randn(2, 3, *size))
    height, width = (-(-side // 8) for side in size)
    assert output.logits.shape == (2, 14)
    assert output.cam.shape == output.refined.shape == (2, 14, height, width)
    assert torch.isfinite(output.logits).all() and (output.refined >= 0).all() and (output.refined <= 1).all()


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_other_shapes_are_refused(small, shape):
    with pytest.raises(InputError, match="at least 32"):
        small(torch.zeros(shape))


def test_standard_model_has_coarse_cam_and_no_refiner():
    output = build_model("timm:resnet18", weights="none").eval()(torch.zeros(1, 3, 256, 256))
    assert output.cam.shape == (1, 14, 8, 8) and output.refined is None


def test_cam_is_classifier_on_unpooled_features(small):
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = small.forward_features(images)[0]
        output = small(images)
        weight, bias = small.classifier.weight[:14, :, 0, 0], small.classifier.bias[:14]
        at_pixel = weight @ features[0, :, 3, 5] + bias
        assert torch.allclose(output.cam[0, :, 3, 5], at_pixel, atol=1e-5)
        pooled = weight @ lse_pool(features, gamma=10)[0] + bias
        assert torch.allclose(output.logits[0], pooled, atol=1e-5)
        assert not torch.allclose(output.logits, lse_pool(output.cam, gamma=10), atol=1e-4)


def test_merge_block_aligns_corners():
    block = MergeBlock(4, 4, width="skip").eval()
    for part in (block.reduce_coarse, block.reduce_fine, block.fuse):
        part[1] = nn.Identity()
    nn.init.ones_(block.reduce_coarse[0].weight)
    nn.init.zeros_(block.reduce_fine[0].weight)
    nn.init.ones_(block.fuse[0].weight)
    coarse = torch.zeros(1, 4, 2, 2)
    coarse[0, 0, 0, 1] = coarse[0, 0, 1, 1] = 3.0
    merged = block(coarse, torch.zeros(1, 4, 4, 4))
    # with aligned corners 2 -> 4 pixels samples 0, 1/3, 2/3, 1 of the way
    assert torch.allclose(merged[0, 0, 0].detach(), torch.tensor([0.0, 1.0, 2.0, 3.0]), atol=1e-6)


def test_freeze_below_keeps_fine_stages_and_refiner():
    model = build_model("multires_efficientnet_lite0", weights="none")
    model.freeze_below(16)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(4, 3, 64, 64)).logits.square().sum().backward()
    optimiser.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not any(
        k.startswith(("backbone.stages.0", "backbone.stages.1", "backbone.stages.2", "refiner")) for k in changed
    )
    for module in ["backbone.stages.3", "backbone.stages.4", "merges.0", "merges.1", "classifier"]:
        assert any(k.startswith(module) for k in changed)


def test_background_output_is_the_fifteenth_map():
    torch.manual_seed(0)
    model = build_model("multires_timm:resnet18", weights="none", background="output").eval()
    features = model.forward_features(torch.randn(2, 3, 64, 64))[0]
    assert model.compute_cam(features).shape == (2, 15, 8, 8)
    with torch.no_grad():
        first = model(torch.randn(2, 3, 64, 64))
        assert first.logits.shape == (2, 14) and first.cam.shape[1] == first.refined.shape[1] == 14
        model.classifier.bias[14] += 5  # a background everywhere; Eq. 2 refines each channel by itself
        images = torch.randn(2, 3, 64, 64)
        with_it = model(images)
        model.background = "one_minus_max"
        without = model(images)
    assert torch.equal(with_it.cam, without.cam) and torch.equal(with_it.refined, without.refined)
    with pytest.raises(InputError, match="sky"):
        build_model("multires_timm:resnet18", weights="none", background="sky")


def test_refiner_reads_suppressed_or_raw_maps():
    models = []
    for refiner_input in ("suppressed", "cam"):
        torch.manual_seed(0)
        options = {"refiner_input": refiner_input, "findings": ("a", "b")}
        models.append(build_model("multires_timm:resnet18", weights="none", **options).eval())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, low_level = models[0].forward_features(images)
        cam = models[0].compute_cam(features)
        positive = cam.relu()
        normalised = positive / positive.amax(dim=(2, 3), keepdim=True).clamp_min(1e-5)
        largest = torch.where(normalised == normalised.amax(dim=1, keepdim=True), normalised, torch.tensor(0.0))
        assert cam.min() < 0 < cam.max() and not torch.equal(largest, normalised)
        for model, read in zip(models, (largest, cam), strict=True):
            expected = models[0].refiner(features, read, low_level=low_level)
            assert torch.allclose(model(images).refined, expected, atol=1e-6)
            assert torch.equal(model(images).cam, cam)
    with pytest.raises(InputError, match="sky"):
        build_model("multires_timm:resnet18", weights="none", refiner_input="sky")


def test_unknown_model_is_refused():
    with pytest.raises(InputError, match="resnet51"):
        build_model("resnet51")
    assert set(TABLE_4) <= set(model_names())


def test_black_pixels_normalised():
    expected = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert torch.allclose(imagenet_normalise(torch.zeros(1, 1, 1, 1)).flatten(), expected)
