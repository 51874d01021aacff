"""The classifiers that localise: standard and MultiRes (Sect. 4.1, Fig. 2), the latter with the PCM (Fig. 3).

Pooling and refiner are parts that a recipe names (`poolings`, `refiners`); the paper's are LSE and the PCM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..findings import FINDINGS
from ..recipes import Recipe, check_cam_baseline
from .backbones import BACKBONES, STRIDES, Backbone, build_backbone
from .cam import make_pcm_input
from .pcm import LowLevelFeatures
from .poolings import build_pooling
from .refiners import build_refiner

SMALLEST_SIDE = 32


MULTIRES = "multires_"


BACKGROUNDS = ("one_minus_max", "output")


MERGES = 2
"""The coarse-to-fine merging stops at stride 8: a 256-pixel image gives 32x32 maps (Table 4's counts imply it)."""


PAPER_PARAMETERS = {
    "resnet50": 23_536_718,
    "multires_resnet50": 26_273_615,
    "efficientnet_b4": 17_573_718,
    "multires_efficientnet_b4": 18_913_543,
}
"""Table 4, "Number of parameters"."""


class ModelOutput(NamedTuple):
    """What a model says of a batch.

    logits: (B, 14) before the sigmoid. cam: (B, 14, h, w) raw class activation maps, h = H / 8 for MultiRes models and
    H / 32 for standard ones. refined: (B, 14, h, w) in [0, 1] from the refiner, None for a model without one.
    """

    logits: Tensor
    cam: Tensor | None
    refined: Tensor | None


class LocalizationModel(nn.Module):
    """Backbone, merge blocks, a pooling and one classifier that serves the pooled vector and every pixel.

    The paper's logits are the classifier on the LSE-pooled features; the CAM is the same classifier, bias included, on
    the features themselves (Sect. 4.1). A MultiRes model has a fifteenth output, "no finding", which the counts of
    Table 4 show but which nothing trains; it is left out of logits and cam.
    """

    def __init__(
        self, backbone: Backbone, *, merge_width: str | None, gamma: float, background: str, pooling: str, refiner: str
    ) -> None:
        """Build on `backbone`; without `merge_width` the standard model, with it MultiRes and a refiner."""
        super().__init__()
        self.backbone = backbone
        self.background = background
        self.freeze_bn_stats = True
        channels = backbone.channels[-1]
        merges = []
        if merge_width is not None:
            for fine in backbone.channels[-2 : -2 - MERGES : -1]:
                merges.append(MergeBlock(channels, fine, width=merge_width))
                channels = merges[-1].channels
        self.merges = nn.ModuleList(merges)
        self.classifier = nn.Conv2d(channels, len(FINDINGS) + (1 if merges else 0), kernel_size=1)
        self.set_refiner(refiner)
        self.pool = build_pooling(pooling, channels, gamma=gamma)  # last, so that all else is drawn as without it

    def set_refiner(self, name: str) -> None:
        """Make a fresh refiner, a key of `refiners.REFINERS`, in place of the model's; a standard model has none."""
        self.refiner = None
        if self.merges:  # a standard model draws no numbers for what it would throw away
            self.refiner = build_refiner(name, self.classifier.in_channels, low_level=self.backbone.channels[1:3])

    def features(self, images: Tensor) -> Tensor:
        """Return the last feature map of (B, 3, H, W) images: stride 8 with merge blocks, 32 without; see `encode`."""
        return self.encode(images)[0]

    def encode(self, images: Tensor) -> tuple[Tensor, LowLevelFeatures]:
        """Return the last feature map and what the network saw before it, for the refiner.

        Raises:
            InputError: the images are smaller than 32 pixels or have no three channels.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < SMALLEST_SIDE:
            raise InputError(
                f"a batch of images must have the shape (B, 3, H, W) with H and W of at least {SMALLEST_SIDE} pixels, "
                f"not {tuple(images.shape)}; enlarge the images"
            )
        maps = self.backbone(images)
        merged = maps[-1]
        for merge, fine in zip(self.merges, maps[-2::-1], strict=False):
            merged = merge(merged, fine)
        return merged, LowLevelFeatures(images, (maps[1], maps[2]))

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, 14) of (B, C, h, w) features."""
        return self.pool(features, self.score)

    def score(self, features: Tensor) -> Tensor:
        """The findings' scores (B, 14, h, w) of (B, C, h, w) features, pixel by pixel."""
        return self.classifier(features)[:, : len(FINDINGS)]

    def activate(self, features: Tensor) -> Tensor:
        """Raw class activation maps of (B, C, h, w) features.

        Returns:
            (B, 14, h, w); of a model with the background "output" (B, 15, h, w), its fifteenth output last.
        """
        cam = self.classifier(features)
        return cam if self.background == "output" else cam[:, : len(FINDINGS)]

    def forward(self, images: Tensor, *, maps: bool = True) -> ModelOutput:
        """Classify a batch and, unless `maps` is False, draw its maps.

        Args:
            images: (B, 3, H, W) float, normalised as `augment.normalise` does; any size from 32 pixels.
        """
        features, low_level = self.encode(images)
        logits = self.classify(features)
        if not maps:
            return ModelOutput(logits, None, None)
        cam = self.activate(features)
        refined = None
        if self.refiner is not None:
            refined = self.refiner(features, make_pcm_input(cam), low_level=low_level)[:, : len(FINDINGS)]
        return ModelOutput(logits, cam[:, : len(FINDINGS)], refined)

    def parts(self) -> Iterator[nn.Module]:
        """The parts that are frozen or trained as one: the backbone's stages, merges, classifier, pooling, PCM."""
        yield from self.backbone.stages
        yield from self.merges
        yield self.classifier
        yield self.pool
        if self.refiner is not None:
            yield self.refiner

    def freeze_below(self, stride: int, *, head: bool = True, freeze_bn_stats: bool = True) -> None:
        """Freeze the backbone's stages finer than `stride`, and the PCM, which the first phase does not use.

        The fifteenth output shares the classifier's tensors; its gradient is zero, so that it stays as it was drawn, or
        shrinks where weights decay.

        Args:
            stride: 2, 4, 8, 16 or 32; 2 freezes nothing.
            head: whether merge blocks, classifier and pooling are trained.
            freeze_bn_stats: whether BatchNorm of what is frozen keeps its statistics, or follows the batches.
        """
        self.freeze_bn_stats = freeze_bn_stats
        for own_stride, stage in zip(STRIDES, self.backbone.stages, strict=True):
            stage.requires_grad_(own_stride >= stride)
        for part in (*self.merges, self.classifier, self.pool):
            part.requires_grad_(head)
        if self.refiner is not None:
            self.refiner.requires_grad_(False)

    def freeze_all_but_refiner(self) -> None:
        """Freeze everything but the refiner, in the paper the PCM's theta (Sect. 4.4).

        Raises:
            InputError: the model has none.
        """
        if self.refiner is None:
            raise InputError("this model has no PCM to train; take a MultiRes model whose refiner is not 'none'")
        self.freeze_bn_stats = True
        self.requires_grad_(False)
        self.refiner.requires_grad_(True)

    def train(self, mode: bool = True) -> LocalizationModel:
        """Switch to training; parts without a trainable parameter stay in evaluation mode.

        So the batch normalisation of frozen stages keeps ImageNet's (or the first phase's) statistics: they are as
        frozen as the weights they belong to, unless `freeze_below` was told otherwise.
        """
        super().train(mode)
        for part in self.parts():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
                for module in part.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.train(mode and not self.freeze_bn_stats)
        return self


def model_names() -> list[str]:
    """Every name that `build_model` knows."""
    return [prefix + name for name in BACKBONES for prefix in ("", MULTIRES)]


def build_model(
    name: str,
    *,
    weights: str = "imagenet",
    gamma: float = 10.0,
    background: str = "one_minus_max",
    pooling: str = "lse",
    refiner: str = "pcm",
) -> LocalizationModel:
    """Make a model by name.

    Args:
        name: a backbone, a key of `backbones.BACKBONES` such as "resnet50", for the standard model, with "multires_"
            before it for the MultiRes model, which has a refiner.
        weights: "imagenet", "none" or a path, see `backbones.build_backbone`.
        gamma: sharpness of the LSE pooling.
        background: the PCM's fifteenth map, "one_minus_max" of the findings' or the model's untrained fifteenth
            "output".
        pooling: a key of `poolings.POOLINGS`.
        refiner: a key of `refiners.REFINERS`; a standard model has none.

    Raises:
        InputError: the name, the background, the pooling or the refiner is unknown, or the weights cannot be had.

    Example:
        >>> model = build_model("multires_resnet50", weights="none").eval()
        >>> model(torch.zeros(1, 3, 256, 256)).cam.shape
        torch.Size([1, 14, 32, 32])
    """
    if name not in model_names():
        raise InputError(f"there is no model {name!r}; choose one of {', '.join(model_names())}")
    if background not in BACKGROUNDS:
        raise InputError(f"there is no background {background!r}; choose one of {', '.join(BACKGROUNDS)}")
    backbone_name = name.removeprefix(MULTIRES)
    merge_width = BACKBONES[backbone_name].merge_width if name.startswith(MULTIRES) else None
    backbone = build_backbone(backbone_name, weights=weights)
    return LocalizationModel(
        backbone, merge_width=merge_width, gamma=gamma, background=background, pooling=pooling, refiner=refiner
    )


def build_from_recipe(recipe: Recipe, *, weights: str | None = None) -> LocalizationModel:
    """Make the untrained model that a recipe describes, with `weights` in place of the recipe's where they are given.

    Raises:
        InputError: see `build_model`; or the recipe's maps are measured from something that there is not.
    """
    check_cam_baseline(recipe.cam_baseline)  # else a model would be trained that no film can be shown to
    return build_model(
        recipe.model,
        weights=recipe.weights if weights is None else weights,
        gamma=recipe.lse_gamma,
        background=recipe.background,
        pooling=recipe.pooling,
        refiner=recipe.refiner,
    )


def count_parameters(model: nn.Module) -> int:
    """Number of weights and biases; buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


REDUCTION = 4
"""A merge block reduces "the channel lengths ... by a factor of 4" (Sect. 4.1)."""


class ConvNormReLU(nn.Sequential):
    """A 1x1 convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """From `inputs` to `outputs` channels."""
        super().__init__(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class MergeBlock(nn.Module):
    """Bring a finer map back into a coarser one: F_o^l = g(F_o^(l+1), F^l) (Eq. 1, Fig. 2b).

    Both inputs pass a 1x1 convolution, the coarse one is enlarged bilinearly to the size of the fine one, the two are
    concatenated and fused by a 1x1 convolution. The two backbones of the paper follow different rules of width, as the
    counts of Table 4 show:

    - "skip" (ResNet, the paper's text): both inputs are reduced by 4, the output has the width of the fine input;
    - "concatenation" (EfficientNet): only the coarse input is reduced, the output has the width of the concatenation.
    """

    def __init__(self, coarse: int, fine: int, *, width: str) -> None:
        """Make a block for `coarse` and `fine` input channels; `width` is "skip" or "concatenation"."""
        super().__init__()
        fine_reduced = fine // REDUCTION if width == "skip" else fine
        joined = coarse // REDUCTION + fine_reduced
        self.channels = fine if width == "skip" else joined
        self.reduce_coarse = ConvNormReLU(coarse, coarse // REDUCTION)
        self.reduce_fine = ConvNormReLU(fine, fine_reduced)
        self.fuse = ConvNormReLU(joined, self.channels)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Merge (B, coarse, h, w) and (B, fine, H, W) to (B, self.channels, H, W)."""
        enlarged = F.interpolate(self.reduce_coarse(coarse), size=fine.shape[-2:], mode="bilinear", align_corners=True)
        return self.fuse(torch.cat([enlarged, self.reduce_fine(fine)], dim=1))
