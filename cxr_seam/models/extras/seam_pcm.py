"""The PCM of its source, which sees shallow features and the image too: edges that the deep features have lost.

Source: Wang et al. 2020 (SEAM). Two shallower maps, each reduced by a 1x1 convolution and a ReLU, and the
image, all at the size of the maps, are concatenated; a 1x1 convolution embeds them; the affinity is that of the PCM:

    theta(x) = f9( [image; ReLU(f_1 x_1); ReLU(f_2 x_2); x] ),  A_ij = ReLU( cosine(theta_i, theta_j) ) / C_i.

D'Souza et al. take the last features x alone; they are kept here, and theta halves the width as theirs does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError
from ..pcm import PCM, LowLevelFeatures

REDUCED = (64, 128)
"""Widths of the two shallower maps after their convolution, as in SEAM."""


class SeamPCM(PCM):
    """`PCM` with an embedding of the image, of two shallower maps and of the features."""

    def __init__(self, channels: int, shallow_channels: Sequence[int]) -> None:
        """Make the convolutions for features with `channels` and two shallower maps with `shallow_channels`."""
        super().__init__(channels + 3 + sum(REDUCED))
        self.reduce = nn.ModuleList(
            nn.Conv2d(own, reduced, kernel_size=1, bias=False)
            for own, reduced in zip(shallow_channels, REDUCED, strict=True)
        )

    def embed(self, features: Tensor, low_level: LowLevelFeatures | None = None) -> Tensor:
        """Return theta, (B, D, H, W) float32; what it is made of is detached, so that gradients stay in here.

        A finer map is brought to H x W by the mean over each cell: bilinear sampling would see 4 pixels of its 64.

        Raises:
            InputError: the image and the shallower maps are not given.
        """
        if low_level is None:
            raise InputError("a refiner on shallow features needs them and the image; give shallow=Shallow(...)")
        size = features.shape[-2:]
        image, *maps = (
            F.interpolate(seen.detach().float(), size=size, mode="area") for seen in (low_level.images, *low_level.maps)
        )
        reduced = [reduce(seen).relu() for reduce, seen in zip(self.reduce, maps, strict=True)]
        return self.theta(torch.cat([image, *reduced, features.detach().float()], dim=1))
