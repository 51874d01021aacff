"""Attention pooling: a small network weights the pixels for each finding.

Source: Ilse, Tomczak and Welling 2018, "Attention-based deep multiple instance learning", gated attention (their
Eq. 8 and 9), with separate weights for every finding k. An image is a bag, a pixel i with feature x_i an instance:

    a_ki = exp( u_k . (tanh(V x_i) * sigmoid(U x_i)) ) / sum_j ...,  logit_k = w_k . (sum_i a_ki x_i) + b_k.

The weights sum to 1, so the logit is the mean of the CAM with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

HIDDEN = 128
"""Width of V and U, as in Ilse et al."""


class GatedAttentionPool(nn.Module):
    """Pool with gated attention, one set of weights per finding."""

    def __init__(self, channels: int, findings: int) -> None:
        super().__init__()
        self.value = nn.Conv2d(channels, HIDDEN, kernel_size=1, bias=False)
        self.gate = nn.Conv2d(channels, HIDDEN, kernel_size=1, bias=False)
        self.weight = nn.Conv2d(HIDDEN, findings, kernel_size=1, bias=False)

    def weights(self, features: Tensor) -> Tensor:
        """Compute the weights a (B, K, H, W) of (B, C, H, W) features: float32, positive, sum 1 over space."""
        scores = self.weight(self.value(features).tanh() * self.gate(features).sigmoid())
        return scores.float().flatten(start_dim=2).softmax(dim=-1).reshape(scores.shape)

    def forward(self, features: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute logits (B, K) float32 of (B, C, H, W) features; `score` maps them to (B, K, H, W)."""
        return (self.weights(features) * score(features).float()).sum(dim=(-2, -1))
