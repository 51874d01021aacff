"""Every backbone against the network that it is cut from and against what is published of it."""

import re

import pytest
import torch
from torch import nn
from torchvision import models

from cxr_seam.errors import InputError
from cxr_seam.models.backbones import BACKBONES, STRIDES, PadToMultiple, build_backbone
from cxr_seam.models.multires import build_model, count_parameters

PUBLISHED = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
    "efficientnet_b0": models.EfficientNet_B0_Weights.IMAGENET1K_V1,
    "efficientnet_b1": models.EfficientNet_B1_Weights.IMAGENET1K_V1,
    "efficientnet_b2": models.EfficientNet_B2_Weights.IMAGENET1K_V1,
    "efficientnet_b3": models.EfficientNet_B3_Weights.IMAGENET1K_V1,
    "efficientnet_b4": models.EfficientNet_B4_Weights.IMAGENET1K_V1,
    "densenet121": models.DenseNet121_Weights.IMAGENET1K_V1,
    "mobilenet_v2": models.MobileNet_V2_Weights.IMAGENET1K_V1,
    "convnext_tiny": models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1,
}
"""What torchvision publishes of each network, among it its number of parameters."""
WIDTHS = {
    "resnet50": (64, 256, 512, 1024, 2048),
    "efficientnet_b4": (24, 32, 56, 160, 1792),
    "densenet121": (64, 256, 512, 1024, 1024),
    "mobilenet_v2": (16, 24, 32, 96, 1280),
    "convnext_tiny": (12, 96, 192, 384, 768),
}
"""As the tables of their papers say; ConvNeXt has no map at stride 2, 12 is the image's own pixels."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones_without_the_classifier(name):
    backbone = build_backbone(name, weights="none")
    classifier = backbone.channels[-1] * 1000 + 1000
    assert count_parameters(backbone) == PUBLISHED[name].meta["num_params"] - classifier


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_are_the_published_ones(name):
    assert build_backbone(name, weights="none").channels == WIDTHS[name]


@pytest.mark.parametrize("size", [(64, 96), (65, 99), (33, 50)])
@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_gives_five_maps_at_the_promised_strides_and_widths(name, size):
    backbone = build_backbone(name, weights="none").eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, *size))
    assert [tuple(m.shape) for m in maps] == [
        (1, channels, *(-(-side // stride) for side in size))
        for channels, stride in zip(backbone.channels, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_compute_what_the_whole_network_computes(name):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    entry = BACKBONES[name]
    torch.manual_seed(0)
    net = entry.build().eval()
    with torch.no_grad():
        ours = entry.cut(net)(images)[-1]
        if name.startswith("resnet"):
            theirs = nn.Sequential(*list(net.children())[:-2])(images)
        elif name.startswith("efficientnet"):
            theirs = net.extract_features(images)
        elif name == "densenet121":
            theirs = net.features(images).relu()
        elif name == "convnext_tiny":
            theirs = net.classifier[0](net.features(images))
        else:
            theirs = net.features(images)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_multires_model_trains_all_of_it(name):
    model = build_model(f"multires_{name}", weights="none")
    model.freeze_below(2)
    model.train()
    model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), maps=False).logits.sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None and not key.startswith("refiner.")]
    assert not without
    model.freeze_below(16)
    assert not any(stage.training for stage in model.train().backbone.stages[:3])


def test_padding_repeats_the_last_row_and_column_and_leaves_whole_maps_alone():
    maps = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert PadToMultiple(2)(maps).tolist() == [[[[0, 1, 2, 2], [3, 4, 5, 5]]]]
    assert PadToMultiple(3)(maps).tolist() == [[[[0, 1, 2], [3, 4, 5], [3, 4, 5]]]]
    assert PadToMultiple(1)(maps) is maps


def test_imagenet_weights_load_from_a_file_without_their_classifier(tmp_path):
    entry = BACKBONES["resnet18"]
    torch.manual_seed(5)
    net = entry.build()
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18", weights=str(tmp_path / "resnet18.pth"))
    assert torch.equal(backbone.stages[4][1].conv2.weight, net.layer4[1].conv2.weight)
    old = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}  # before PyTorch 0.4.1
    torch.save(old, tmp_path / "old.pth")
    backbone = build_backbone("resnet18", weights=str(tmp_path / "old.pth"))
    assert torch.equal(backbone.stages[0][1].running_var, net.bn1.running_var)


def test_densenet_weights_load_under_the_older_names_of_torchvisions_file(tmp_path):
    torch.manual_seed(0)
    net = BACKBONES["densenet121"].build()
    old = {
        re.sub(r"(norm|conv)([12])\.", r"\1.\2.", k) if "denselayer" in k else k: v for k, v in net.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    for name, state in (("old", old), ("new", net.state_dict())):
        torch.save(state, tmp_path / f"{name}.pth")
        backbone = build_backbone("densenet121", weights=str(tmp_path / f"{name}.pth"))
        loaded = backbone.stages[4][2].denselayer16.conv2.weight
        assert torch.equal(loaded, net.features.denseblock4.denselayer16.conv2.weight)


def test_convnext_loads_the_norm_before_its_classifier(tmp_path):
    net = BACKBONES["convnext_tiny"].build()
    nn.init.uniform_(net.classifier[0].weight)
    torch.save(net.state_dict(), tmp_path / "convnext.pth")
    backbone = build_backbone("convnext_tiny", weights=str(tmp_path / "convnext.pth"))
    assert torch.equal(backbone.stages[4][-1].weight, net.classifier[0].weight)


def test_wrong_or_unreadable_weights_are_refused(tmp_path, monkeypatch):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match="other.pth"):
        build_backbone("resnet18", weights=str(tmp_path / "other.pth"))
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(InputError, match="list.pth holds a list, not weights by name"):
        build_backbone("resnet18", weights=str(tmp_path / "list.pth"))
    with pytest.raises(InputError, match="text.pth is not a file of plain weights"):
        build_backbone("resnet18", weights=str(tmp_path / "text.pth"))
    with pytest.raises(InputError, match="no weights file"):
        build_backbone("resnet18", weights=str(tmp_path / "missing.pth"))

    def no_network(*args, **kwargs):
        raise OSError("unreachable")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    with pytest.raises(InputError, match=r"https://.*resnet50.*\.pth.*--weights PATH"):
        build_model("resnet50")


def test_lite0_brings_real_imagenet_weights():
    backbone = build_backbone("efficientnet_lite0")
    # A trained first convolution is far from its random start in one respect: its filters differ in size.
    norms = backbone.stages[0][0].weight.flatten(1).norm(dim=1)
    assert norms.std() / norms.mean() > 0.3
