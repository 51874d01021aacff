"""Compute LayerCAM maps over several resolutions of the backbone.

At each of the strides 8, 16 and 32, the map is ReLU(sum_k ReLU(g_k) A_k): A_k are the feature maps of the backbone, g_k
the gradient of a finding's logit at every pixel. Fine maps show details, coarse ones are steadier. Each map is divided
by its maximum, and their mean is returned.

Source: Jiang et al. 2021 (LayerCAM, Eq. 5 and 6). The paper joins layers by their maximum; the mean is that of the
package pytorch-grad-cam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...errors import InputError
from ...findings import canonical_finding
from ...models.multires import LocalizationModel
from ..heatmaps import cam_to_heatmap

N_STAGES = 3
"""The last three stages of a backbone: strides 8, 16 and 32."""


def layercam_maps(model: LocalizationModel, images: Tensor, *, findings: Sequence[str] | None = None) -> Tensor:
    """Compute the LayerCAM maps of some findings; `cam_to_heatmap` turns them into heat maps.

    Images pass one by one, because the gradients need the features of the whole backbone in memory.

    Args:
        model: in evaluation mode; its parameters get no gradient.
        images: (B, 3, H, W) float, normalised, on the device of the model.
        findings: findings of the maps, in this order; by default all of the model.

    Returns:
        (B, C, h, w) float32 in [0, 1], on the device of the images; C is the number of findings, h = H / 8.

    Raises:
        InputError: a finding is unknown, or the backbone has its channels last, as Swin has.
    """
    if getattr(model.backbone, "channels_last", False):
        raise InputError("LayerCAM needs a backbone with channels first; choose another map, for example gradcam")
    known = model.findings
    indices = [known.index(canonical_finding(finding, known)) for finding in (known if findings is None else findings)]
    with torch.inference_mode(False), torch.enable_grad():  # even if the caller is in inference mode
        return torch.stack([_maps_of_image(model, image, indices) for image in images])


def stage_maps(model: LocalizationModel, image: Tensor, indices: Sequence[int]) -> Iterator[list[Tensor]]:
    """Yield, for each finding, its maps at the three strides before normalisation; gradients must be enabled.

    Args:
        model: see `layercam_maps`.
        image: (1, 3, H, W).
        indices: of the findings.

    Yields:
        Three maps, (1, h, w) each, not negative, finest first.
    """
    stages: list[Tensor] = []
    hook = model.backbone.register_forward_hook(lambda module, inputs, maps: stages.extend(maps[-N_STAGES:]))
    try:
        features, _ = model.forward_features(image.clone().requires_grad_())
    finally:
        hook.remove()
    logits = model.pool_logits(features)[0]
    for index in indices:
        gradients = torch.autograd.grad(logits[index], stages, retain_graph=True)
        yield [(g.relu() * a).sum(dim=1).relu().detach() for g, a in zip(gradients, stages, strict=True)]


def _maps_of_image(model: LocalizationModel, image: Tensor, indices: Sequence[int]) -> Tensor:
    """Compute the maps of one image (3, H, W): (C, h, w)."""
    joined = []
    for maps in stage_maps(model, image[None], indices):
        size = tuple(maps[0].shape[-2:])
        joined.append(torch.stack([cam_to_heatmap(each[None], size)[0, 0] for each in maps]).mean(dim=0))
    return torch.stack(joined)
