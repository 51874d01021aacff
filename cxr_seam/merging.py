"""Merge blocks: fine maps of the backbone are brought back into coarse ones (Sect. 4.1, Eq. 1, Fig. 2b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REDUCTION = 4
"""A merge block reduces "the channel lengths ... by a factor of 4" (Sect. 4.1)."""


class ConvNormReLU(nn.Sequential):
    """A 1x1 convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """From `inputs` to `outputs` channels."""
        super().__init__(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class MergeBlock(nn.Module):
    """Bring a finer map back into a coarser one: F_o^l = g(F_o^(l+1), F^l) (Eq. 1, Fig. 2b).

    Both inputs pass a 1x1 convolution, the coarse one is enlarged bilinearly to the size of the fine one, the two are
    concatenated and fused by a 1x1 convolution. The two backbones of the paper follow different rules of width, as the
    counts of Table 4 show:

    - "skip" (ResNet, the paper's text): both inputs are reduced by 4, the output has the width of the fine input;
    - "concatenation" (EfficientNet): only the coarse input is reduced, the output has the width of the concatenation.
    """

    def __init__(self, coarse: int, fine: int, *, width: str) -> None:
        """Make a block for `coarse` and `fine` input channels; `width` is "skip" or "concatenation"."""
        super().__init__()
        fine_reduced = fine // REDUCTION if width == "skip" else fine
        joined = coarse // REDUCTION + fine_reduced
        self.channels = fine if width == "skip" else joined
        self.reduce_coarse = ConvNormReLU(coarse, coarse // REDUCTION)
        self.reduce_fine = ConvNormReLU(fine, fine_reduced)
        self.fuse = ConvNormReLU(joined, self.channels)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Merge (B, coarse, h, w) and (B, fine, H, W) to (B, self.channels, H, W)."""
        enlarged = F.interpolate(self.reduce_coarse(coarse), size=fine.shape[-2:], mode="bilinear", align_corners=True)
        return self.fuse(torch.cat([enlarged, self.reduce_fine(fine)], dim=1))
