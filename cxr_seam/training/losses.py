"""The paper's losses: balanced cross-entropy (Eq. 3-5), ECR with OHEM (Eq. 6), MSML (Eq. 7, Sect. 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.cam import suppress_non_max


def class_weights(labels: Tensor) -> Tensor:
    """Compute the class weights of a batch (Eq. 4, 5): beta_P = (P + N) / P and beta_N = (P + N) / N.

    P and N are the numbers of images of the batch in which a class is present and absent; images with an unknown label
    of the class count for neither. A class without positives (negatives) gets a finite weight for a term that is zero
    anyway.

    Args:
        labels: (B, C), 0 or 1, NaN where unknown.

    Returns:
        (2, C) float: beta_P, beta_N.
    """
    labels = labels.float()
    positives, known = labels.nan_to_num(0).sum(dim=0), (~labels.isnan()).sum(dim=0)  # (C,), (C,)
    counts = torch.stack([positives, known - positives])  # (2, C)
    return known / counts.clamp_min(1)


def known_fraction(labels: Tensor) -> Tensor:
    """Compute the fraction of the labels (B, C) that are known: a scalar above 0, also if none is.

    A mean over the known labels of a batch is the mean over all, with 0 for the others, divided by this fraction. So
    the means of parts of a batch add up to that of the batch, although the parts have different numbers of labels.
    """
    return (~labels.isnan()).sum().clamp_min(1) / labels.numel()


def balanced_bce(
    logits: Tensor, labels: Tensor, *, weights: Tensor | None = None, known: Tensor | None = None
) -> Tensor:
    """Compute the multi-label cross-entropy with class weights (Eq. 3): mean over images and classes.

    l = beta_P * y * -log s(x) + beta_N * (1 - y) * -log(1 - s(x)). The paper prints a sum over classes; the authors'
    program computes this mean. Unknown labels do not count.

    Args:
        logits: (B, C) float.
        labels: (B, C), 0 or 1, NaN where unknown.
        weights: (2, C), see `class_weights`; by default those of these labels.
        known: see `known_fraction`; by default that of these labels.

    Returns:
        A scalar, finite for finite logits.
    """
    logits, labels = logits.float(), labels.float()
    positive, negative = class_weights(labels) if weights is None else weights  # (C,), (C,)
    known = known_fraction(labels) if known is None else known
    is_known, labels = ~labels.isnan(), labels.nan_to_num(0)
    # -log s(x) = softplus(-x): exact where the sigmoid itself would round to 0 or 1.
    loss = positive * labels * F.softplus(-logits) + negative * (1 - labels) * F.softplus(logits)  # (B, C)
    return (loss * is_known).mean() / known


def ohem_mean(loss: Tensor, *, fraction: float, valid: Tensor) -> Tensor:
    """Average the hardest pixel losses of each image, then average over images (OHEM, Sect. 4.4).

    Args:
        loss: (B, C, H, W), at least 0.
        fraction: fraction of the valid C*H*W values of an image that are averaged, 0.2 in the paper; at least one.
        valid: (B, 1, H, W) bool; other pixels are ignored.

    Returns:
        A scalar.
    """
    hardest = (loss * valid).flatten(start_dim=1).sort(dim=1, descending=True).values  # (B, C*H*W); invalid: 0, last
    count = (fraction * loss.shape[1] * valid.flatten(start_dim=1).sum(dim=1)).long().clamp_min(1)  # (B,)
    selected = torch.arange(hardest.shape[1], device=loss.device) < count[:, None]  # (B, C*H*W)
    return ((hardest * selected).sum(dim=1) / count).mean()


def ecr_loss(
    *,
    warped_cam: Tensor,
    warped_refined: Tensor,
    cam_of_warped: Tensor,
    refined_of_warped: Tensor,
    valid: Tensor,
    ohem_fraction: float,
) -> Tensor:
    """Compare the two branches (ECR, Eq. 6): |A(y^o) - cam^t| + |A(cam^o) - y^t|, hardest pixels only.

    The paper prints a minus between the two norms. It would reward disagreement; SEAM (Wang et al. 2020) and the
    authors' program add them. The unrefined CAMs are targets: they are detached, and at each pixel only the largest
    channel is kept. All maps are (B, K + 1, H, W) in [0, 1], normalised and multiplied by the image's labels (label of
    the background: 1).

    Args:
        warped_cam: A(cam^o), the CAM of the original image, warped.
        warped_refined: A(y^o), its refined CAM, warped.
        cam_of_warped: cam^t, the CAM of the warped image.
        refined_of_warped: y^t, its refined CAM.
        valid: (B, 1, H, W) bool, see `valid_mask`.
        ohem_fraction: see `ohem_mean`.

    Returns:
        A scalar; 0 if the refined CAMs equal the targets on the selected pixels.
    """
    first = (suppress_non_max(cam_of_warped.detach()) - warped_refined).abs()  # (B, K + 1, H, W)
    second = (suppress_non_max(warped_cam.detach()) - refined_of_warped).abs()  # (B, K + 1, H, W)
    return sum(ohem_mean(loss, fraction=ohem_fraction, valid=valid) for loss in (first, second))


def msml_loss(refined: Tensor, labels: Tensor, *, valid: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Compute the multi-label soft margin loss of globally averaged refined CAMs (MSML, Sect. 4.4).

    Args:
        refined: (B, K, H, W) refined CAMs of the findings.
        labels: (B, K), 0 or 1; NaN where unknown, which does not count.
        valid: (B, 1, H, W) bool, the pixels to average; by default all.
        known: see `known_fraction`; by default that of these labels.

    Returns:
        A scalar.
    """
    valid = torch.ones_like(refined[:, :1]) if valid is None else valid
    pixels = valid.sum(dim=(-2, -1)).clamp_min(1)  # (B, 1)
    pooled = (refined * valid).sum(dim=(-2, -1)) / pixels  # (B, K)
    is_known = (~labels.isnan()).float()
    known = known_fraction(labels) if known is None else known
    return F.multilabel_soft_margin_loss(pooled, labels.float().nan_to_num(0), weight=is_known) / known
