"""Grad-CAM and Grad-CAM++, the usual ways to heat maps, beside the class activation maps of the model itself.

Sources: Selvaraju et al. 2017 (Grad-CAM), Chattopadhay et al. 2018 (Grad-CAM++). Both weight the last feature maps A_k
by what the gradient of a finding's logit Y says of them and keep what is positive: ReLU(sum_k w_k A_k). Grad-CAM takes
the mean gradient for w_k; Grad-CAM++ sums its positive values with weights alpha, high where A_k matters. The weights
come from the package grad-cam. Gradients go back to the feature maps and no further, so the images pass the backbone
once, without a graph, for all findings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..findings import FINDINGS, canonical_finding
from ..models.multires import LocalizationModel

METHODS = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus"}
"""The package's class for each method."""


UNIT = 2.0**-20
"""What the features are multiplied by, and their gradients divided by, before the package sees them.

Both formulas give the same map in any unit of the features. But the package adds 1e-6 to the denominator of alpha, a
polynomial of the gradients, and the gradients of features that are pooled over a thousand pixels make it smaller than
that. A power of two changes no digit.
"""


def gradcam_maps(
    model: LocalizationModel, images: Tensor, *, method: str = "gradcam", findings: Sequence[str] | None = None
) -> Tensor:
    """Draw the maps of findings, raw but for the ReLU: `heat_maps` turns them into heat maps like any others.

    Args:
        model: is put into evaluation mode; its parameters need and get no gradient.
        images: (B, 3, H, W) float, normalised, on the model's device.
        method: "gradcam" or "gradcam++".
        findings: whose logits to explain, in the order of the maps; None = the fourteen.

    Returns:
        (B, C, h, w) float32, not below 0, on the device of the images; C is the number of findings, h and w are those
        of `Output.cam`. A finding that no feature speaks for has a map of zeros.

    Raises:
        InputError: the method or a finding is unknown, or the package grad-cam is not installed.

    Example:
        >>> gradcam_maps(model, images, method="gradcam++", findings=["Mass"]).shape
        torch.Size([8, 1, 32, 32])
    """
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}; choose one of {', '.join(METHODS)}")
    wanted = [FINDINGS.index(canonical_finding(finding)) for finding in (FINDINGS if findings is None else findings)]
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise InputError(
            "Grad-CAM needs the package grad-cam; install it with: pip install 'grad-cam>=1.5.4,<1.5.7'"
        ) from error
    explain = getattr(pytorch_grad_cam, METHODS[method])(model, target_layers=[]).get_cam_image
    maps = []
    with torch.inference_mode(False), torch.no_grad():  # a caller's inference mode would leave nothing to derive
        features = model.forward_features(images)[0].float().requires_grad_()
        with torch.enable_grad():
            of_finding = model.pool_logits(features).sum(dim=0).unbind()
        activations = (features.detach() * UNIT).cpu().numpy()
        for i in wanted:
            (gradient,) = torch.autograd.grad(of_finding[i], features, retain_graph=True)
            maps.append(explain(None, None, None, activations, (gradient / UNIT).cpu().numpy()))
    return torch.from_numpy(np.stack(maps, axis=1)).relu().to(images.device, torch.float32)
