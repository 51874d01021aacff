"""The PCM of Wang et al. 2020 (SEAM), which also sees the image and low-level features with sharper edges.

Two finer maps, each reduced by a 1x1 convolution and a ReLU, the image and the features x are resized to the size of
the features and concatenated. A 1x1 convolution embeds them; the affinity is computed as in the paper's PCM:

    theta(x) = f9( [image; ReLU(f_1 x_1); ReLU(f_2 x_2); x] ),  A_ij = ReLU( cosine(theta_i, theta_j) ) / C_i.

SEAM's theta does not see x; D'Souza et al. use x alone. theta halves the width as theirs does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError
from ..backbones import LowLevelFeatures
from ..pcm import PCM

REDUCED = (64, 128)
"""Widths of the two finer maps after their convolution, as in SEAM."""


class SeamPCM(PCM):
    """`PCM` with an embedding of the image, two finer maps and the features.

    Args:
        channels: number of channels of the features.
        low_level: numbers of channels of the maps at strides 4 and 8.

    Raises:
        InputError: the backbone has no map at one of these strides.
    """

    def __init__(self, channels: int, low_level: Sequence[int]) -> None:
        super().__init__(channels + 3 + sum(REDUCED))
        if len(low_level) != len(REDUCED):
            raise InputError("the refiner seam_pcm needs a backbone with features at strides 4 and 8; take another one")
        self.reduce = nn.ModuleList(
            nn.Conv2d(width, reduced, kernel_size=1, bias=False)
            for width, reduced in zip(low_level, REDUCED, strict=True)
        )

    def embed(self, features: Tensor, low_level: LowLevelFeatures) -> Tensor:
        """Compute theta, (B, D, H, W) float32; the inputs are detached, so gradients stay in this module.

        A finer map is resized to H x W by the mean over each cell: bilinear sampling would see 4 pixels of 64.
        """
        size = features.shape[-2:]
        image, *maps = (
            F.interpolate(finer.detach().float(), size=size, mode="area")
            for finer in (low_level.images, *low_level.maps)
        )
        reduced = [reduce(finer).relu() for reduce, finer in zip(self.reduce, maps, strict=True)]
        return self.theta(torch.cat([image, *reduced, features.detach().float()], dim=1))
