"""How networks are cut into five stages, at strides 2, 4, 8, 16 and 32, of which every map is returned (Sect. 4.1).

What lies behind the last map, pooling and classifier, is left out. Sides that a stride does not divide are rounded up,
as all cuts here do; networks that would round down are given their last row and column twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

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


class PadTo(nn.Module):
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
        nn.Sequential(PadTo(2), part["transition1"], part["denseblock2"]),
        nn.Sequential(PadTo(2), part["transition2"], part["denseblock3"]),
        nn.Sequential(PadTo(2), part["transition3"], part["denseblock4"], part["norm5"], nn.ReLU()),
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
        nn.Sequential(PadTo(2), nn.PixelUnshuffle(2)),
        nn.Sequential(nn.PixelShuffle(2), PadTo(4), *parts[0:2]),
        nn.Sequential(PadTo(2), *parts[2:4]),
        nn.Sequential(PadTo(2), *parts[4:6]),
        nn.Sequential(PadTo(2), *parts[6:8], net.classifier[0]),
    ]
    widths = [parts[0][0].out_channels, *(parts[i][1].out_channels for i in (2, 4, 6))]
    return Backbone(stages, [3 * 2 * 2, *widths])
