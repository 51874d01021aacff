"""Calibrate a trained model on the validation set: scores, thresholds, and the mean CAM of negative images.

Both are computed with the test-time augmentation of the recipe, because prediction uses it and it changes logits and
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
    """

    logits: np.ndarray
    scores: dict[str, ScoreCalibration]
    negative_mean: dict[str, Tensor] | None


@torch.inference_mode()
def calibrate(
    model: LocalizationModel, dataset: ChestXrayDataset, *, recipe: Recipe, batch_size: int = 32
) -> Calibration:
    """Fit scores and compute mean CAMs in one pass over the validation set; unknown labels are left out.

    Args:
        model: in evaluation mode, on any device.
        dataset: validation set, with the findings of the model.
        recipe: names image size, test-time augmentation and `cam_baseline`.
        batch_size: number of images at once.
    """
    device, with_maps = next(model.parameters()).device, recipe.cam_baseline == "negative_mean"
    logits, sums = [], {}
    for images, labels, _ in iter_batches(dataset, batch_size, desc="calibrate"):
        images = eval_transform(images.to(device), size=recipe.image_size)  # (B, 3, S, S)
        output = tta_forward(model, images, scales=recipe.tta_scales, flip=recipe.tta_flip, maps=with_maps)
        logits.append(output.logits.float().cpu())
        negative = (labels == 0).to(device).double()  # (B, K)
        for name in ("cam", "refined"):
            cam = getattr(output, name)  # (B, K, h, w) or None
            if cam is not None:
                sums[name] = sums.get(name, 0) + torch.einsum("bk,bkhw->khw", negative, cam.double())
    logits = torch.cat(logits)
    counts = torch.from_numpy(dataset.labels == 0).sum(dim=0).clamp_min(1)[:, None, None].double()  # (K, 1, 1)
    negative_mean = {name: (total.cpu() / counts).float() for name, total in sums.items()} if with_maps else None
    scores = fit_scores(dataset.labels, logits.numpy(), findings=dataset.findings)
    return Calibration(logits.numpy(), scores, negative_mean)
