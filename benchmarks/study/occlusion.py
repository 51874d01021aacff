"""Measure whether boxes contain the evidence: occlude their centres and see whether another model loses confidence.

Two models of one recipe were trained from different seeds. One predicts best boxes on images with a finding in the
labels; the other judges. A square around the centre of a box is replaced by the mean image m. With the logit s_k of
the judge for finding k, and its standard deviation sigma_k over all images,

    drop_k(f) = [ s_k(f) - s_k(f with m in the square) ] / sigma_k.

The square has a fixed size, so large boxes have no advantage. The mean drop can choose a rule for boxes by labels
alone; it cannot show that both models look at the same wrong place.

Sources: occlusion as in Zeiler and Fergus 2014, Sect. 4.2; deletion as in Petsiuk et al. 2018, judged by another model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr_seam.data.dataset import ChestXrayDataset, iter_batches
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.bootstrap import PatientBootstrap, macro_mean

from .model_agreement import MIN_IMAGES

EDGE = 0.25
"""Edge of the square as a fraction of the image: it hides a sixteenth. It was chosen once, without any box."""
BATCH_SIZE = 32
Judge = Callable[[Tensor], Tensor]
"""Return logits (B, 14) of uint8 images (B, 1, S, S)."""


def make_judge(predictor: Predictor) -> Judge:
    """Make a judge without test-time augmentation, so that it is the same for all rows of one model."""
    recipe = replace(predictor.recipe, tta_scales=(1.0,), tta_flip=False, cam_baseline="zero", map_prior="none")
    single = Predictor(predictor.model, recipe)
    return lambda images: single.forward(images, maps=False).logits


def occlusion_drops(
    boxes: pd.DataFrame, judge: Judge, dataset: ChestXrayDataset, *, min_images: int = MIN_IMAGES
) -> np.ndarray:
    """Compute the drop of confidence for each image and finding in the labels.

    Args:
        boxes: best box of each image and finding (`localization.best_boxes`), in [0, 1]; without a box the drop is 0.
        judge: the other model.
        dataset: images with labels.
        min_images: findings with fewer images are left out.

    Returns:
        (N, 14) float64 in standard deviations of the judge's logits. NaN where the labels do not name the finding,
        where it has too few images, or where the judge gives all images the same logit.
    """
    centres = boxes[["x", "y"]].to_numpy() + boxes[["w", "h"]].to_numpy() / 2
    centre_of = dict(zip(zip(boxes["image_index"], boxes["finding"], strict=True), centres, strict=True))
    fill = mean_image(dataset)
    enough = torch.from_numpy(dataset.labels.sum(axis=0) >= min_images)
    logits = np.zeros(dataset.labels.shape)
    occluded = np.full(dataset.labels.shape, np.nan)
    for images, labels, indices in iter_batches(dataset, BATCH_SIZE, desc="occlude"):
        logits[indices] = judge(images).double().numpy()
        present = (labels * enough).nonzero().tolist()
        for start in range(0, len(present), BATCH_SIZE):
            chunk = present[start : start + BATCH_SIZE]
            copies = images[[i for i, _ in chunk]].clone()
            for copy, (i, k) in zip(copies, chunk, strict=True):
                centre = centre_of.get((dataset.image_index[indices[i]], dataset.findings[k]))
                if centre is not None:
                    inside = square(centre, side=copy.shape[-1])
                    copy[inside] = fill[inside]
            for row, (i, k) in zip(judge(copies).double().numpy(), chunk, strict=True):
                occluded[indices[i], k] = row[k]
    deviation = logits.std(axis=0)
    return (logits - occluded) / np.where(deviation > 0, deviation, np.nan)


def mean_image(dataset: ChestXrayDataset) -> Tensor:
    """Average all images: (1, S, S) uint8."""
    total = sum(images.double().sum(dim=0) for images, _, _ in iter_batches(dataset, BATCH_SIZE))
    return (total / len(dataset)).round().to(torch.uint8)


def square(centre: Sequence[float], *, side: int) -> tuple[slice, slice, slice]:
    """Return the pixels of the square around a centre (x, y) in [0, 1], cut at the borders of the image."""
    ends = [(round((at - EDGE / 2) * side), round((at + EDGE / 2) * side)) for at in centre]
    columns, rows = (slice(max(0, start), max(0, stop)) for start, stop in ends)
    return slice(None), rows, columns


def mean_drop(drops: np.ndarray, bootstrap: PatientBootstrap) -> tuple[float, np.ndarray]:
    """Average drops over images, then over findings.

    Args:
        drops: (N, 14), see `occlusion_drops`; several datasets may be concatenated.
        bootstrap: over the patients of these images.

    Returns:
        The mean and its replicates (n_bootstrap,) float64, over the findings with a drop; NaN if there is none, or in a
        replicate without an image of one of them.
    """
    known = ~np.isnan(drops)
    values, findings = np.nan_to_num(drops), known.any(axis=0)
    with np.errstate(invalid="ignore"):
        means = values.sum(axis=0) / known.sum(axis=0)
        replicates = bootstrap.totals(values) / bootstrap.totals(known)
    return float(macro_mean(means, defined=findings)), macro_mean(replicates, defined=findings)
