"""What is done to class activation maps before they are compared or refined (Sect. 4.1 and 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..findings import FINDINGS

SMALLEST_MAXIMUM = 1e-5
"""A map whose maximum is below this is treated as empty instead of being blown up to 1."""


def max_normalise(cam: Tensor) -> Tensor:
    """ReLU, then division by the maximum over space, for each image and channel.

    Args:
        cam: (B, C, H, W), any float.

    Returns:
        (B, C, H, W) in [0, 1]; a map without a positive value stays zero.
    """
    cam = cam.relu()
    return cam / cam.amax(dim=(-2, -1), keepdim=True).clamp_min(SMALLEST_MAXIMUM)


def append_background(cam: Tensor) -> Tensor:
    """Append the background channel, 1 - max over the findings, to normalised maps that have none.

    Args:
        cam: (B, 14, H, W) in [0, 1], or (B, 15, H, W) where the model draws a background itself, which then stays.
            (The authors' program does, with an output that is never trained; see docs/paper-and-code.md.)

    Returns:
        (B, 15, H, W) in [0, 1], background last.
    """
    if cam.shape[1] > len(FINDINGS):
        return cam
    return torch.cat([cam, 1 - cam.amax(dim=1, keepdim=True)], dim=1)


def suppress_non_max(cam: Tensor) -> Tensor:
    """Set every channel that is not the pixel's maximum to zero; channels that tie are all kept.

    This is "non-maximum activations in the CAMs are suppressed to zero" (Sect. 4.1) and the one-hot of SEAM's
    targets. It returns a new tensor: done in place on a detached tensor it would change the live one as well.

    Args:
        cam: (B, C, H, W).

    Returns:
        (B, C, H, W), the same values where kept.
    """
    return torch.where(cam == cam.amax(dim=1, keepdim=True), cam, torch.zeros_like(cam))


def make_pcm_input(cam: Tensor) -> Tensor:
    """Turn raw maps of the findings into what the PCM refines: normalised, maxima only, with background.

    The background is taken before the suppression. The input is detached: no gradient passes the PCM's input.

    Args:
        cam: (B, 14, H, W) raw class activation maps, or (B, 15, H, W) with a background of the model's own.

    Returns:
        (B, 15, H, W) in [0, 1], background last.
    """
    cam = append_background(max_normalise(cam.detach()))
    return torch.cat([suppress_non_max(cam[:, :-1]), cam[:, -1:]], dim=1)
