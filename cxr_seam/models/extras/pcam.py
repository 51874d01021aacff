"""Probabilistic CAM pooling: each finding's CAM weights the pixels that its features are pooled from.

Source: Ye et al. 2020, "Weakly supervised lesion localization with probabilistic-CAM pooling". For finding k with
classifier w_k, b_k and the feature x_i of pixel i:

    p_ki = sigmoid(w_k . x_i + b_k),  a_ki = p_ki / sum_j p_kj,  logit_k = w_k . (sum_i a_ki x_i) + b_k.

The weights sum to 1 and the classifier is linear, so the logit is the mean of the CAM with the same weights. The
pooling has no parameters.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


def pcam_weights(cam: Tensor) -> Tensor:
    """Compute the weights a of raw maps (B, K, H, W): float32, not negative, sum 1 over space.

    p / sum p is the softmax of log p, which stays finite if every p is rounded to 0.
    """
    return F.logsigmoid(cam.float()).flatten(start_dim=2).softmax(dim=-1).reshape(cam.shape)


class ProbabilisticCamPool(nn.Module):
    """Pool with PCAM weights; for a constant map it is the average."""

    def forward(self, features: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute logits (B, K) float32 of (B, C, H, W) features; `score` maps them to (B, K, H, W)."""
        cam = score(features).float()
        return (pcam_weights(cam) * cam).sum(dim=(-2, -1))
