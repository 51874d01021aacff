"""Compute Grad-CAM and Grad-CAM++ maps, which the evaluation compares with the CAMs of the model.

Both weight the last feature maps A_k with the gradient g_k of a finding's logit and keep what is positive:
ReLU(sum_k w_k A_k). Grad-CAM: w_k is the mean of g_k over the pixels. Grad-CAM++: w_k is the sum over the pixels of
alpha_k ReLU(g_k) with alpha_k = g_k^2 / (2 g_k^2 + g_k^3 sum(A_k)).

Sources: Selvaraju et al. 2017 (Grad-CAM), Chattopadhay et al. 2018 (Grad-CAM++, Eq. 19).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import InputError
from ...findings import canonical_finding
from ...models.multires import LocalizationModel


def gradcam_weights(features: Tensor, gradient: Tensor) -> Tensor:
    """Return the channel weights of Grad-CAM, (B, C, 1, 1), from features and gradient (B, C, h, w)."""
    return gradient.mean(dim=(-2, -1), keepdim=True)


def gradcam_plus_plus_weights(features: Tensor, gradient: Tensor) -> Tensor:
    """Return the channel weights of Grad-CAM++, (B, C, 1, 1), from features and gradient (B, C, h, w)."""
    alpha = 1 / (2 + gradient * features.sum(dim=(-2, -1), keepdim=True))  # g^2 cancels
    return torch.where(gradient > 0, alpha * gradient, 0).sum(dim=(-2, -1), keepdim=True)


METHODS = {"gradcam": gradcam_weights, "gradcam++": gradcam_plus_plus_weights}


def gradcam_maps(
    model: LocalizationModel, images: Tensor, *, method: str = "gradcam", findings: Sequence[str] | None = None
) -> Tensor:
    """Compute the Grad-CAM or Grad-CAM++ maps of some findings; `cam_to_heatmap` turns them into heat maps.

    Gradients go back to the last features only, so the images pass the backbone once for all findings.

    Args:
        model: in evaluation mode; its parameters need and get no gradient.
        images: (B, 3, H, W) float, normalised, on the device of the model.
        method: "gradcam" or "gradcam++".
        findings: findings of the maps, in this order; by default all of the model.

    Returns:
        (B, C, h, w) float32, not negative, on the device of the images; C is the number of findings, h and w are those
        of `ModelOutput.cam`.

    Raises:
        InputError: the method or a finding is unknown.

    Example:
        >>> gradcam_maps(model, images, method="gradcam++", findings=["Mass"]).shape
        torch.Size([8, 1, 32, 32])
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    known = model.findings
    indices = [known.index(canonical_finding(finding, known)) for finding in (known if findings is None else findings)]
    maps = []
    with torch.inference_mode(False), torch.no_grad():  # gradients are needed even if the caller is in inference mode
        features = model.forward_features(images)[0].float().requires_grad_()
        with torch.enable_grad():
            logits = model.pool_logits(features).sum(dim=0).unbind()
        for index in indices:
            (gradient,) = torch.autograd.grad(logits[index], features, retain_graph=True)
            weights = METHODS[method](features, gradient)
            maps.append((weights * features).sum(dim=1).relu())
    return torch.stack(maps, dim=1)
