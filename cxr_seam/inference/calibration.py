"""Calibrate a trained model on the validation set: scores, thresholds, and mean CAMs.

All are computed with the test-time augmentation of the recipe, because prediction uses it and it changes logits and
CAMs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import ChestXrayDataset, iter_batches
from ..data.transforms import eval_transform
from ..models.checkpoint import ScoreCalibration
from ..models.multires import LocalizationModel
from ..models.tta import tta_forward
from ..recipes import Recipe
from .scores import fit_scores


class Calibration(NamedTuple):
    """Quantities that prediction needs beside the weights.

    Attributes:
        logits: (N, K) float32, with test-time augmentation.
        scores: Platt scaling and thresholds of each finding, see `scores.fit_scores`.
        negative_mean: mean CAM of the images without the finding, for "cam" and, if the model has a refiner, "refined":
            (K, h, w) float32 each, 0 if no image is known not to show the finding. None unless `cam_baseline` is
            "negative_mean".
        prior: where each finding usually is, by labels alone: for "cam" and "refined", (K, h, w) float32 in [0, 1] with
            a maximum of 1. With P and N, the mean CAMs of the images with and without the finding,

                prior = ReLU(P - N) / max ReLU(P - N).

            1 everywhere for a finding with fewer than `MIN_POSITIVES` images. None unless `map_prior` is "labels".
            Source: this project, docs/beyond-the-paper.md; as a prior probability in Bayes' rule.
    """

    logits: np.ndarray
    scores: dict[str, ScoreCalibration]
    negative_mean: dict[str, Tensor] | None
    prior: dict[str, Tensor] | None


MIN_POSITIVES = 10
"""Fewer images with a finding do not tell where it usually is."""


@torch.inference_mode()
def calibrate(
    model: LocalizationModel, dataset: ChestXrayDataset, *, recipe: Recipe, batch_size: int = 32
) -> Calibration:
    """Fit scores and compute mean CAMs in one pass over the validation set; unknown labels are left out.

    Args:
        model: in evaluation mode, on any device.
        dataset: validation set, with the findings of the model.
        recipe: names image size, test-time augmentation, `cam_baseline` and `map_prior`.
        batch_size: number of images at once.
    """
    device = next(model.parameters()).device
    with_mean, with_prior = recipe.cam_baseline == "negative_mean", recipe.map_prior == "labels"
    with_maps = with_mean or with_prior
    logits: list[Tensor] = []
    sums: dict[str, Tensor] = {}  # "cam" and "refined" -> (2, K, h, w): of images without and with the finding
    for images, labels, _ in iter_batches(dataset, batch_size, desc="calibrate"):
        images = eval_transform(images.to(device), size=recipe.image_size)  # (B, 3, S, S)
        output = tta_forward(model, images, scales=recipe.tta_scales, flip=recipe.tta_flip, maps=with_maps)
        logits.append(output.logits.float().cpu())
        for name in ("cam", "refined"):
            cam = getattr(output, name)  # (B, K, h, w) or None
            if cam is not None:
                sums[name] = sums.get(name, 0) + sum_maps_by_label(cam, labels)
    counts = torch.from_numpy(np.stack([(dataset.labels == value).sum(axis=0) for value in (0, 1)]))  # (2, K)
    means = {name: total.cpu() / counts.clamp_min(1)[:, :, None, None] for name, total in sums.items()}
    values = torch.cat(logits).numpy()
    return Calibration(
        logits=values,
        scores=fit_scores(dataset.labels, values, findings=dataset.findings),
        negative_mean={name: mean[0].float() for name, mean in means.items()} if with_mean else None,
        prior={name: make_prior(*mean, positives=counts[1]) for name, mean in means.items()} if with_prior else None,
    )


def sum_maps_by_label(cam: Tensor, labels: Tensor) -> Tensor:
    """Add up the CAMs (B, K, h, w) of images without and with each finding, labels (B, K): (2, K, h, w) float64."""
    groups = torch.stack([labels == 0, labels == 1]).to(cam.device).double()  # (2, B, K)
    return torch.einsum("gbk,bkhw->gkhw", groups, cam.double())


def make_prior(negative_mean: Tensor, positive_mean: Tensor, *, positives: Tensor) -> Tensor:
    """Compute `Calibration.prior` (K, h, w) from both mean CAMs (K, h, w) and the numbers of positive images (K,)."""
    excess = (positive_mean - negative_mean).relu()
    peak = excess.amax(dim=(-2, -1), keepdim=True)
    usable = (positives >= MIN_POSITIVES)[:, None, None] & (peak > 0)
    return torch.where(usable, excess / torch.where(peak > 0, peak, 1.0), 1.0).float()
