"""Models that are derived from trained ones to be measured: the mean of several, and Grad-CAM in place of the CAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cxr_seam.inference.calibration import Calibration
from cxr_seam.inference.maps.gradcam import gradcam_maps
from cxr_seam.models.multires import LocalizationModel, ModelOutput
from cxr_seam.recipes import Recipe


class MeanModel(nn.Module):
    """Average the logits and the CAMs of several models."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.findings = models[0].findings

    def forward(self, images: Tensor, *, maps: bool = True) -> ModelOutput:
        """Return mean logits (B, K) and mean CAMs (B, K, h, w), None without `maps`, of images (B, 3, H, W)."""
        outputs = [model(images, maps=maps) for model in self.models]
        cam = torch.stack([output.cam for output in outputs]).mean(dim=0) if maps else None
        return ModelOutput(torch.stack([output.logits for output in outputs]).mean(dim=0), cam, None)


class GradCamModel(nn.Module):
    """Return Grad-CAM maps in place of CAMs, so that both are averaged over the same views and get the same baseline
    and prior."""

    def __init__(self, model: LocalizationModel) -> None:
        super().__init__()
        self.model = model
        self.findings = model.findings

    def forward(self, images: Tensor, *, maps: bool = True) -> ModelOutput:
        """Return logits (B, K) and Grad-CAM maps (B, K, h, w), None without `maps`, of images (B, 3, H, W)."""
        cam = gradcam_maps(self.model, images) if maps else None
        return ModelOutput(self.model(images, maps=False).logits, cam, None)


def with_all_means(recipe: Recipe) -> Recipe:
    """Change a recipe so that its calibration has all mean CAMs."""
    return replace(recipe, cam_baseline="negative_mean", map_prior="labels")


def mean_calibration(found: Sequence[Calibration]) -> Calibration:
    """Average the mean CAMs and priors of several models; scores and logits are those of the last one."""

    def mean(maps: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([one[name] for one in maps]).mean(dim=0) for name in maps[0]}

    negative_mean, prior = mean([one.negative_mean for one in found]), mean([one.prior for one in found])
    return found[-1]._replace(negative_mean=negative_mean, prior=prior)
