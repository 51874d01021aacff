"""Calibrate a trained model on the validation set: thresholds, and the mean CAM of negative images.

Both are computed with the test-time augmentation of the recipe, because prediction uses it and it changes logits and
CAMs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import ChestXrayDataset, iter_batches
from ..data.transforms import eval_transform
from ..findings import FINDINGS
from ..metrics.classification import choose_thresholds
from ..models.multires import LocalizationModel
from ..models.tta import tta_forward
from ..recipes import Recipe


class Calibration(NamedTuple):
    """Quantities that prediction needs beside the weights.

    Attributes:
        logits: (N, 14) float32, with test-time augmentation.
        thresholds: for each finding the probability from which it counts as present (Youden's index), None if it is
            undefined.
        negative_mean: mean CAM of the images without the finding, for "cam" and, if the model has a refiner, "refined":
            (14, h, w) float32 each, 0 if all images show the finding. None unless `cam_baseline` is "negative_mean".
    """

    logits: np.ndarray
    thresholds: dict[str, float | None]
    negative_mean: dict[str, Tensor] | None


@torch.inference_mode()
def calibrate(
    model: LocalizationModel, dataset: ChestXrayDataset, *, recipe: Recipe, batch_size: int = 32
) -> Calibration:
    """Choose thresholds and compute mean CAMs in one pass over the validation set.

    Args:
        model: in evaluation mode, on any device.
        dataset: validation set.
        recipe: names image size, test-time augmentation and `cam_baseline`.
        batch_size: number of images at once.
    """
    device, with_maps = next(model.parameters()).device, recipe.cam_baseline == "negative_mean"
    logits, sums = [], {}
    for images, labels, _ in iter_batches(dataset, batch_size, desc="calibrate"):
        images = eval_transform(images.to(device), size=recipe.image_size)  # (B, 3, S, S)
        output = tta_forward(model, images, scales=recipe.tta_scales, flip=recipe.tta_flip, maps=with_maps)
        logits.append(output.logits.float().cpu())
        negative = 1 - labels.to(device).double()  # (B, 14)
        for name in ("cam", "refined"):
            cam = getattr(output, name)  # (B, 14, h, w) or None
            if cam is not None:
                sums[name] = sums.get(name, 0) + torch.einsum("bk,bkhw->khw", negative, cam.double())
    logits = torch.cat(logits)
    counts = torch.from_numpy(1 - dataset.labels).sum(dim=0).clamp_min(1)[:, None, None].double()  # (14, 1, 1)
    negative_mean = {name: (total.cpu() / counts).float() for name, total in sums.items()} if with_maps else None
    chosen = choose_thresholds(dataset.labels, logits.double().sigmoid().numpy())
    thresholds = {f: None if math.isnan(value) else float(value) for f, value in zip(FINDINGS, chosen, strict=True)}
    return Calibration(logits.numpy(), thresholds, negative_mean)
