"""The residual PCM: an affinity of centred embeddings, mixed half and half with the unrefined map.

Features are outputs of a ReLU, so all embeddings of an image are similar, and the paper's affinity is almost uniform: a
refined map is nearly constant. Here the mean embedding of the image is subtracted before the cosine, so that pixels are
compared by how they differ from the rest of the image. Half of the map stays as it is:

    t_i = theta(x_i) - mean over j of theta(x_j),  A_ij = ReLU( cosine(t_i, t_j) ) / C_i,  y = (M + A M) / 2.

Properties: weights are not negative; those of a pixel sum to 1, so a constant map stays constant, and
f(a M + b) = a f(M) + b. Source: this project, docs/pcm.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backbones import LowLevelFeatures
from ..pcm import PCM, apply_affinity


class ResidualPCM(PCM):
    """`PCM` with a centred embedding, whose output is the mean of the map and the refined map."""

    def embed(
        self, features: Tensor, low_level: LowLevelFeatures | None = None, *, valid: Tensor | None = None
    ) -> Tensor:
        """Compute theta(x) minus its mean over the valid pixels (B, 1, H, W), by default all; else as `PCM.embed`."""
        return centre(super().embed(features, low_level), valid=valid)

    def forward(
        self, features: Tensor, cam: Tensor, *, valid: Tensor | None = None, low_level: LowLevelFeatures | None = None
    ) -> Tensor:
        """Refine `cam`; arguments and result as in `pcm.PCM.forward`.

        A pixel whose centred embedding is 0, as in an image of equal features, has no affinity: half of its value is
        left.
        """
        with torch.autocast(features.device.type, enabled=False):
            own = cam.detach().float() if valid is None else cam.detach().float() * valid
            return (own + apply_affinity(self.embed(features, low_level, valid=valid), cam, valid=valid)) / 2


def centre(embedding: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Subtract the mean embedding of each image.

    Args:
        embedding: (B, D, H, W) float32.
        valid: (B, 1, H, W) bool, the pixels to average, at least one of each image; by default all.

    Returns:
        (B, D, H, W); the mean over the valid pixels is 0.
    """
    if valid is None:
        return embedding - embedding.mean(dim=(-2, -1), keepdim=True)
    count = valid.sum(dim=(-2, -1), keepdim=True).clamp_min(1)  # (B, 1, 1, 1)
    return embedding - (embedding * valid).sum(dim=(-2, -1), keepdim=True) / count


def effective_share(affinity: Tensor) -> Tensor:
    """Compute the share of the image that each pixel uses: its effective number of pixels, divided by N.

    The effective number of weights a_j that sum to 1 is 1 / sum(a_j^2): N for equal weights, 1 for a single one.

    Args:
        affinity: (..., N), rows that sum to 1, as of `pcm.affinity`.

    Returns:
        (...,) from 1 / N to 1.
    """
    return 1 / (affinity.square().sum(dim=-1) * affinity.shape[-1])
