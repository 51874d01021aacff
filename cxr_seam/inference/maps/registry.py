"""Choose the map that shows where the evidence for a finding is: CAM, refined CAM, LayerCAM, Grad-CAM, or their mean.

Every map becomes heat maps and boxes in the same way (`HeatmapOptions`). The recipe's baseline and prior apply to CAMs
and refined CAMs only, because they were measured on these; the other maps are not negative, and zero means no evidence.
`mirror_share` applies to all maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ...models.multires import LocalizationModel, ModelOutput
from ...models.tta import tta_forward
from ...recipes import Recipe
from ..heatmap_options import HeatmapOptions
from .gradcam import gradcam_maps
from .layercam import layercam_maps

MAPS = {
    "cam": "CAM",
    "refined": "refined CAM",
    "layercam": "LayerCAM",
    "gradcam": "Grad-CAM",
    "mean": "mean of all maps",
}
"""Names of the maps, with their titles. "refined" needs a trained refiner, such as the PCM."""

GRADIENT_MAPS: dict[str, Callable[..., Tensor]] = {
    "layercam": layercam_maps,
    "gradcam": gradcam_maps,
    "gradcam++": partial(gradcam_maps, method="gradcam++"),
}
"""Maps that need gradients: (model, images (B, 3, H, W), findings=...) -> (B, C, h, w), not negative."""


class LocalizationMap(NamedTuple):
    """A map of some findings, and how it becomes heat maps.

    Attributes:
        cam: (B, C, h, w) float32 on the CPU.
        options: of the same C findings.
    """

    cam: Tensor
    options: HeatmapOptions

    def select(self, findings: Sequence[str]) -> LocalizationMap:
        """Return the map of some findings, in this order."""
        indices = [self.options.findings.index(finding) for finding in findings]
        return LocalizationMap(self.cam[:, indices], self.options.select(indices))


def has_trained_refiner(model: LocalizationModel, recipe: Recipe) -> bool:
    """Return whether refined CAMs mean something: the maps of an untrained refiner are random."""
    return recipe.seam_stage is not None and model.refiner is not None


def available_maps(model: LocalizationModel, recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the maps that a model has, in the order of `MAPS`."""
    return tuple(name for name in MAPS if name != "refined" or has_trained_refiner(model, recipe))


def choose_map(name: str | None, model: LocalizationModel, recipe: Recipe) -> str:
    """Return the name of a map; None chooses the refined CAM of a model that has one, else the CAM.

    Raises:
        InputError: the name is unknown, or the model has no such map.
    """
    available = available_maps(model, recipe)
    name = name or ("refined" if "refined" in available else "cam")
    if name not in available:
        reason = " (it has no trained refiner)" if name in MAPS else ""
        raise InputError(f"{recipe.name} has no map {name!r}{reason}; choose one of {', '.join(available)}")
    return name


def gradient_map(
    name: str, model: LocalizationModel, images: Tensor, *, recipe: Recipe, findings: Sequence[str]
) -> LocalizationMap:
    """Compute a map that needs gradients with the test-time augmentation of the recipe.

    Args:
        name: of `GRADIENT_MAPS`.
        model: in evaluation mode.
        images: (B, 3, H, W) normalised, on the device of the model.
        recipe: that trained the model.
        findings: findings of the map, in this order.
    """

    def compute(view: Tensor, *, maps: bool) -> ModelOutput:
        cam = GRADIENT_MAPS[name](model, view, findings=findings)
        return ModelOutput(cam.amax(dim=(-2, -1)), cam, None)  # logits are not used

    output = tta_forward(compute, images, scales=recipe.tta_scales, flip=recipe.tta_flip)
    options = HeatmapOptions(
        threshold=recipe.cam_threshold,
        box_rule=recipe.box_rule,
        findings=tuple(findings),
        mirror_share=recipe.mirror_share,
    )
    return LocalizationMap(output.cam.float().cpu(), options)


def mean_map(maps: Sequence[LocalizationMap]) -> LocalizationMap:
    """Average the heat maps of several maps at the size of the finest one; a map of zeros counts as zeros."""
    finest = max((tuple(each.cam.shape[-2:]) for each in maps), key=lambda size: size[0] * size[1])
    heatmaps = torch.stack([each.options.heatmaps(each.cam, finest) for each in maps])
    options = maps[0].options._replace(baseline="zero", negative_mean=None, prior=None, mirror_share=0.0)
    return LocalizationMap(heatmaps.mean(dim=0), options)
