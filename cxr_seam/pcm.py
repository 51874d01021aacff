"""The pixel correlation module (Sect. 4.2, Eq. 2): each pixel of a CAM becomes a mean over pixels that look alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_ROW_SUM = 1e-5


def affinity(embedding: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Cosine similarity of every pixel with every other, negatives cut, each row normalised to sum 1.

    A_ij = ReLU( q_i . q_j ) / C_i, q the embedding at unit length, C_i the sum of the row (Eq. 2).

    Args:
        embedding: (B, D, H, W) float, theta(x).
        valid: (B, 1, H, W) bool or None; pixels that are False have no content and nothing draws on them.

    Returns:
        (B, HW, HW) float32, rows: the pixel refined; columns: the pixels drawn on. Rows sum to 1 wherever a pixel
        resembles any valid pixel, else to 0.
    """
    query = F.normalize(embedding.float().flatten(start_dim=2), dim=1)  # (B, D, N)
    similarity = torch.bmm(query.transpose(1, 2), query).relu()  # (B, N, N)
    if valid is not None:
        similarity = similarity * valid.flatten(start_dim=2)  # (B, 1, N) over the columns
    return similarity / similarity.sum(dim=-1, keepdim=True).clamp_min(SMALLEST_ROW_SUM)


class PixelCorrelation(nn.Module):
    """Refine maps with the affinity of a learned embedding theta, a 1x1 convolution without bias (Eq. 2).

    theta maps C channels to C/2: 512 -> 256 for MultiRes-ResNet50, 131,072 weights, which Table 4 counts.
    """

    def __init__(self, channels: int) -> None:
        """Make theta for feature maps with `channels` channels."""
        super().__init__()
        self.theta = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)

    def affinity(self, features: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Return the (B, HW, HW) affinity of (B, C, H, W) features, which are detached first."""
        return affinity(self.theta(features.detach()), valid=valid)

    def forward(self, features: Tensor, cam: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Refine `cam` by the affinity of `features`.

        Args:
            features: (B, C, H, W); detached here, so that gradients reach theta alone.
            cam: (B, K, H, W) prepared maps (`cams.prepare_for_refinement`).
            valid: (B, 1, H, W) bool or None, see `affinity`.

        Returns:
            (B, K, H, W) float32; a convex mean of each map, so its range does not grow.
        """
        weights = self.affinity(features, valid=valid)  # (B, N, N)
        refined = torch.bmm(cam.float().flatten(start_dim=2), weights.transpose(1, 2))  # (B, K, N)
        return refined.reshape(cam.shape)
