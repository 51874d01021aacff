"""The paper's losses: balanced cross-entropy (Eq. 3-5), equivariant cross regularization (Eq. 6), PCM loss (Eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.cam import suppress_non_max


def balanced_bce(logits: Tensor, labels: Tensor, *, batch: Tensor | None = None) -> Tensor:
    """Multi-label cross-entropy with the class weights of this very batch (Eq. 3-5).

    l = beta_P * y * -log s(x) + beta_N * (1 - y) * -log(1 - s(x)), beta_P = (P + N) / P and beta_N = (P + N) / N with P
    and N the positives and negatives of the class in the batch. A class without positives (negatives) contributes
    its other term alone; nothing is divided by zero. The paper prints a sum over classes; this is the mean over batch
    and classes, as the authors' program has it, so that the loss does not grow with the batch.

    Args:
        logits: (B, C) float.
        labels: (B, C) 0 or 1.
        batch: (N, C) labels of the whole batch, where `logits` are of a part of it only: positives and negatives are
            counted there, so that the mean over all parts, each by its share of the films, is the whole batch's loss.

    Returns:
        A scalar, finite for finite logits.
    """
    logits, labels = logits.float(), labels.float()
    batch = labels if batch is None else batch.float()
    positives = batch.sum(dim=0)
    negatives = len(batch) - positives
    positive_weight = len(batch) / positives.clamp_min(1)
    negative_weight = len(batch) / negatives.clamp_min(1)
    # -log sigmoid(x) = softplus(-x): exact where the sigmoid itself would round to 0 or 1.
    loss = positive_weight * labels * F.softplus(-logits) + negative_weight * (1 - labels) * F.softplus(logits)
    return loss.mean()


def ohem_mean(loss: Tensor, *, fraction: float, valid: Tensor) -> Tensor:
    """Mean over images of the mean of each image's hardest pixel losses (OHEM, Sect. 4.4).

    Args:
        loss: (B, C, H, W), at least 0.
        fraction: share of the valid C*H*W values of an image that is kept, 0.2 in the paper; at least one is.
        valid: (B, 1, H, W) bool; pixels that are False neither count nor take part in the share.

    Returns:
        A scalar.
    """
    hardest = (loss * valid).flatten(start_dim=1).sort(dim=1, descending=True).values  # invalid ones are 0, last
    kept = (fraction * loss.shape[1] * valid.flatten(start_dim=1).sum(dim=1)).long().clamp_min(1)  # (B,)
    taken = torch.arange(hardest.shape[1], device=loss.device) < kept[:, None]
    return ((hardest * taken).sum(dim=1) / kept).mean()


def ecr_loss(
    *,
    cam_moved: Tensor,
    refined_moved: Tensor,
    cam_transformed: Tensor,
    refined_transformed: Tensor,
    valid: Tensor,
    ohem_fraction: float,
) -> Tensor:
    """Eq. 6 with its two norms added: |A(y^o) - cam^t| + |A(cam^o) - y^t|, hardest pixels only.

    The minus that the paper prints between the norms would reward disagreement in one branch; SEAM (Wang et al. 2020)
    adds them. The unrefined maps are targets: detached, and kept only where a channel is the pixel's maximum.
    All maps: (B, 15, H, W) in [0, 1], normalised and multiplied by the image's labels (background label 1).

    Args:
        cam_moved: A(cam^o), unrefined map of the original image, transformed.
        refined_moved: A(y^o), the refined one.
        cam_transformed: cam^t, unrefined map of the transformed image.
        refined_transformed: y^t, the refined one.
        valid: (B, 1, H, W) bool, where the transformed image has content.
        ohem_fraction: see `ohem_mean`.

    Returns:
        A scalar, 0 exactly when the refined maps equal the targets on the kept pixels.
    """
    first = (suppress_non_max(cam_transformed.detach()) - refined_moved).abs()
    second = (suppress_non_max(cam_moved.detach()) - refined_transformed).abs()
    return ohem_mean(first, fraction=ohem_fraction, valid=valid) + ohem_mean(
        second, fraction=ohem_fraction, valid=valid
    )


def msml_loss(refined: Tensor, labels: Tensor, *, valid: Tensor) -> Tensor:
    """Multi-label soft margin loss of the refined maps' global average (MSML, Sect. 4.4).

    Args:
        refined: (B, 14, H, W) refined maps of the findings.
        labels: (B, 14) 0 or 1.
        valid: (B, 1, H, W) bool; the average is over valid pixels.

    Returns:
        A scalar.
    """
    pixels = valid.sum(dim=(-2, -1)).clamp_min(1)  # (B, 1)
    pooled = (refined * valid).sum(dim=(-2, -1)) / pixels
    return F.multilabel_soft_margin_loss(pooled, labels.float())
