"""Standard and MultiRes classifiers that localise findings (Sect. 4.1, Fig. 2), the latter with the PCM (Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..findings import FINDINGS, check_findings
from .backbones import LowLevelFeatures
from .cam import make_pcm_input
from .registry import build_pooling, build_refiner

MIN_SIDE = 32
REDUCTION = 4
"""A merge block reduces "the channel lengths ... by a factor of 4" (Sect. 4.1)."""
NARROW = 64
"""Backbones with fewer channels at stride 8 merge as EfficientNet-B4 (56 channels), others as ResNet50 (512)."""


class ConvNormReLU(nn.Sequential):
    """1x1 convolution without bias, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU())


class MergeBlock(nn.Module):
    """Merge a coarse feature map with a finer one: F_o^l = g(F_o^(l+1), F^l) (Eq. 1, Fig. 2b).

    Both inputs pass a 1x1 convolution. The coarse one is enlarged bilinearly to the size of the fine one. A third 1x1
    convolution fuses the two. The counts of Table 4 show a different rule of width for each backbone:

    - width "skip" (ResNet50, the paper's text): both inputs are reduced by 4; the output is as wide as the fine input;
    - width "concatenation" (EfficientNet-B4): only the coarse input is reduced; the output is as wide as the
      concatenation.
    """

    def __init__(self, coarse: int, fine: int, *, width: str) -> None:
        super().__init__()
        fine_reduced = fine // REDUCTION if width == "skip" else fine
        concatenated = coarse // REDUCTION + fine_reduced
        self.channels = fine if width == "skip" else concatenated
        self.reduce_coarse = ConvNormReLU(coarse, coarse // REDUCTION)
        self.reduce_fine = ConvNormReLU(fine, fine_reduced)
        self.fuse = ConvNormReLU(concatenated, self.channels)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Merge (B, coarse, h, w) and (B, fine, H, W) to (B, self.channels, H, W)."""
        coarse = self.reduce_coarse(coarse)  # (B, coarse / 4, h, w)
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=True)  # (..., H, W)
        return self.fuse(torch.cat([coarse, self.reduce_fine(fine)], dim=1))


class ModelOutput(NamedTuple):
    """Output of a model for a batch.

    logits: (B, K) before the sigmoid, K findings. cam: (B, K, h, w) raw class activation maps, h = H / 8 for MultiRes
    models and H / 32 for standard ones. refined: (B, K, h, w) from the refiner, in [0, 1] if it reads suppressed maps,
    in the range of cam if it reads these; None for a model without one.
    """

    logits: Tensor
    cam: Tensor | None
    refined: Tensor | None


class LocalizationModel(nn.Module):
    """Backbone, merge blocks, pooling, one classifier for the pooled vector and for every pixel, and a refiner.

    The logits are the classifier on the pooled features. The CAM is the same classifier, bias included, on the features
    themselves (Sect. 4.1). A MultiRes model has merge blocks, a refiner and one more output, "no finding": the counts
    of Table 4 contain this output, but no loss trains it, and logits and cam leave it out. Arguments as in
    `build.build_model`.

    Attributes:
        findings: names of the K findings, in the order of logits and maps.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        multires: bool,
        gamma: float,
        background: str,
        pooling: str,
        refiner: str,
        refiner_input: str,
        findings: Sequence[str] = FINDINGS,
    ) -> None:
        super().__init__()
        self.findings = check_findings(findings)
        self.backbone = backbone
        self.background = background
        self.refiner_input = refiner_input
        self.freeze_bn_stats = True
        stride_8, stride_16, channels = backbone.channels[-3:]
        width = "concatenation" if stride_8 < NARROW else "skip"
        merges = []  # two; they stop at stride 8: a 256-pixel image gives 32 x 32 maps (the counts of Table 4 imply it)
        for fine in (stride_16, stride_8) if multires else ():
            merges.append(MergeBlock(channels, fine, width=width))
            channels = merges[-1].channels
        self.merges = nn.ModuleList(merges)
        self.classifier = nn.Conv2d(channels, len(self.findings) + (1 if multires else 0), kernel_size=1)
        self.set_refiner(refiner)
        # last: other weights do not depend on the pooling
        self.pool = build_pooling(pooling, channels, findings=len(self.findings), gamma=gamma)

    def set_refiner(self, name: str) -> None:
        """Replace the refiner by a new one, a name in `registry.REFINERS`; a standard model has none."""
        self.refiner = None
        if self.merges:
            low_level = [c for c, s in zip(self.backbone.channels, self.backbone.strides, strict=True) if s in (4, 8)]
            self.refiner = build_refiner(name, self.classifier.in_channels, low_level=low_level)

    def forward(self, images: Tensor, *, maps: bool = True) -> ModelOutput:
        """Classify images (B, 3, H, W), normalised by `imagenet_normalise`; without `maps` compute only the logits."""
        features, low_level = self.forward_features(images)  # (B, C, h, w)
        logits = self.pool_logits(features)  # (B, K)
        if not maps:
            return ModelOutput(logits, None, None)
        cam, n = self.compute_cam(features), len(self.findings)  # (B, K or K + 1, h, w)
        refined = None
        if self.refiner is not None:
            maps = cam if self.refiner_input == "cam" else make_pcm_input(cam, findings=n)
            refined = self.refiner(features, maps, low_level=low_level)[:, :n]
        return ModelOutput(logits, cam[:, :n], refined)

    def forward_features(self, images: Tensor) -> tuple[Tensor, LowLevelFeatures]:
        """Compute features (B, C, h, w) of images (B, 3, H, W), at stride 8 with merge blocks, else 32; and finer maps.

        Raises:
            InputError: the images are smaller than 32 pixels or do not have three channels.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < MIN_SIDE:
            raise InputError(
                f"a batch of images must have the shape (B, 3, H, W) with H and W of at least {MIN_SIDE} pixels, "
                f"not {tuple(images.shape)}; enlarge the images"
            )
        maps = self.backbone(images)  # finest first
        features = maps[-1]  # stride 32
        for merge, fine in zip(self.merges, maps[-2::-1], strict=False):  # strides 16 and 8
            features = merge(features, fine)
        low_level = tuple(m for m, stride in zip(maps, self.backbone.strides, strict=True) if stride in (4, 8))
        return features, LowLevelFeatures(images, low_level)

    def pool_logits(self, features: Tensor) -> Tensor:
        """Compute logits (B, K) of features (B, C, h, w)."""
        return self.pool(features, self.class_scores)

    def class_scores(self, features: Tensor) -> Tensor:
        """Apply the classifier to each pixel: (B, C, h, w) -> (B, K, h, w)."""
        return self.classifier(features)[:, : len(self.findings)]

    def compute_cam(self, features: Tensor) -> Tensor:
        """Compute raw CAMs of features: (B, K, h, w), or (B, K + 1, h, w) with the background "output" as the last."""
        return self.classifier(features) if self.background == "output" else self.class_scores(features)

    def freeze_below(self, stride: int, *, train_head: bool = True, freeze_bn_stats: bool = True) -> None:
        """Freeze the refiner and the backbone's stages finer than `stride`, for the classifier stage.

        Without `train_head` merge blocks, classifier and pooling are frozen as well. With `freeze_bn_stats` BatchNorm
        of frozen modules keeps its statistics, else it follows the batches.
        """
        self.freeze_bn_stats = freeze_bn_stats
        for stage_stride, stage in zip(self.backbone.strides, self.backbone.stages, strict=True):
            stage.requires_grad_(stage_stride >= stride)
        for module in (*self.merges, self.classifier, self.pool):
            module.requires_grad_(train_head)
        if self.refiner is not None:
            self.refiner.requires_grad_(False)

    def freeze_all_but_refiner(self) -> None:
        """Freeze everything but the refiner, for the SEAM stage (Sect. 4.4); InputError if there is none."""
        if self.refiner is None:
            raise InputError(
                "this model has no refiner to train; take a MultiRes model with a refiner other than 'none'"
            )
        self.freeze_bn_stats = True
        self.requires_grad_(False)
        self.refiner.requires_grad_(True)

    def train(self, mode: bool = True) -> LocalizationModel:
        """Switch to training mode; frozen modules stay in evaluation mode, see also `freeze_below`."""
        super().train(mode)
        parts = [*self.backbone.stages, *self.merges, self.classifier, self.pool]
        for part in parts if self.refiner is None else [*parts, self.refiner]:
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
                for module in part.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.train(mode and not self.freeze_bn_stats)
        return self
