"""Prepare class activation maps for the PCM and the SEAM losses (Sect. 4.1 and 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5
"""A map with a maximum below this stays near zero; it is not scaled to 1."""


def max_normalise(cam: Tensor) -> Tensor:
    """Apply ReLU and divide by the maximum over space, for each image and channel.

    Args:
        cam: (B, C, H, W), any float.

    Returns:
        (B, C, H, W) in [0, 1]; a map without a positive value stays zero.
    """
    cam = cam.relu()
    return cam / cam.amax(dim=(-2, -1), keepdim=True).clamp_min(EPSILON)


def append_background(cam: Tensor, *, findings: int) -> Tensor:
    """Append the background channel, 1 - max over the findings, to normalised maps.

    Args:
        cam: (B, K, H, W) in [0, 1], or (B, K + 1, H, W) from a model with the background "output"; these are returned
            as they are. (The authors' program does this, with an output that is never trained; see
            docs/paper-and-code.md.)
        findings: K, number of findings.

    Returns:
        (B, K + 1, H, W) in [0, 1], background last.
    """
    if cam.shape[1] > findings:
        return cam
    return torch.cat([cam, 1 - cam.amax(dim=1, keepdim=True)], dim=1)


def suppress_non_max(cam: Tensor) -> Tensor:
    """Set every channel that is not the maximum of its pixel to zero; channels with equal values all stay.

    This is "non-maximum activations in the CAMs are suppressed to zero" (Sect. 4.1), and the one-hot of SEAM's targets.
    It returns a new tensor: an in-place operation on a detached tensor would change the original as well.

    Args:
        cam: (B, C, H, W).

    Returns:
        (B, C, H, W).
    """
    return torch.where(cam == cam.amax(dim=1, keepdim=True), cam, torch.zeros_like(cam))


def make_pcm_input(cam: Tensor, *, findings: int) -> Tensor:
    """Prepare raw maps for the PCM: normalise, append the background, then suppress non-maximum findings.

    The input is detached, so no gradient passes through the PCM's input.

    Args:
        cam: (B, K, H, W) raw class activation maps, or (B, K + 1, H, W) with the model's own background.
        findings: K, number of findings.

    Returns:
        (B, K + 1, H, W) in [0, 1], background last.
    """
    cam = append_background(max_normalise(cam.detach()), findings=findings)
    return torch.cat([suppress_non_max(cam[:, :-1]), cam[:, -1:]], dim=1)
