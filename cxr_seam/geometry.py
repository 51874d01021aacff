"""How a batch of images or maps is moved, and where the moved picture has content.

A motion turns, zooms, shifts and mirrors; each image of a batch has its own. Whatever moves, `sample` moves it and
`covered` says what is valid afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FULL_COVERAGE = 0.999
"""A moved pixel is valid when bilinear sampling took (all but rounding) its whole value from inside."""


class Motion(NamedTuple):
    """How each picture of a batch moves: mirror, zoom and turn about the centre, then shift. All (B,) float32.

    degrees: counter-clockwise, as the eye sees it.
    zoom: above 0; below 1 the picture shrinks and black comes in around it.
    right, down: in shares of width and height.
    mirror: -1 where left and right are exchanged, 1 where not.
    """

    degrees: Tensor
    zoom: Tensor
    right: Tensor
    down: Tensor
    mirror: Tensor


def no_motion(count: int) -> Motion:
    """The motion that leaves `count` pictures as they are."""
    zeros, ones = torch.zeros(count), torch.ones(count)
    return Motion(degrees=zeros, zoom=ones, right=zeros, down=zeros, mirror=ones)


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a few values from the CPU to a device without waiting until a GPU has done what it was given before."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def send_motion(motion: Motion, device: torch.device, *, part: slice = slice(None)) -> Motion:
    """Copy the motion of `part` of a batch from the CPU to a device at once, see `send`."""
    return Motion(*send(torch.stack(motion)[:, part], device))


def rotation_matrices(degrees: Tensor, *, height: int, width: int) -> Tensor:
    """Sampling matrices (B, 2, 3) that turn a picture counter-clockwise by `degrees`, as the eye sees it.

    They act on `torch.nn.functional.affine_grid`'s coordinates in [-1, 1]; the aspect ratio is taken into account, so
    that a rotation of a non-square map does not shear it.
    """
    angle = torch.deg2rad(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    first = torch.stack([cosine, -sine * (height / width), zero], dim=-1)
    second = torch.stack([sine * (width / height), cosine, zero], dim=-1)
    return torch.stack([first, second], dim=-2)


def motion_matrices(motion: Motion, *, height: int, width: int) -> Tensor:
    """Sampling matrices (B, 2, 3) of a motion, as `rotation_matrices`: from a moved pixel to where it came from."""
    turn = rotation_matrices(motion.degrees, height=height, width=width)[:, :, :2]
    scale = torch.stack([motion.mirror, torch.ones_like(motion.mirror)], dim=-1) / motion.zoom[:, None]
    linear = scale[:, :, None] * turn
    shift = 2 * torch.stack([motion.right, motion.down], dim=-1)  # [-1, 1] is two units wide
    return torch.cat([linear, -(linear * shift[:, None]).sum(dim=-1, keepdim=True)], dim=-1)


def sample(maps: Tensor, matrices: Tensor) -> Tensor:
    """Sample (B, C, H, W) maps bilinearly where (B, 2, 3) matrices say; what comes from outside is 0.

    Returns:
        (B, C, H, W) float32 (float64 for float64), differentiable in `maps`.
    """
    maps = maps if maps.dtype == torch.float64 else maps.float()
    with torch.autocast(maps.device.type, enabled=False):  # a grid in bfloat16 misses its pixels by up to half a pixel
        grid = F.affine_grid(matrices.to(maps), list(maps.shape), align_corners=False)
        return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def covered(matrices: Tensor, *, height: int, width: int) -> Tensor:
    """Where a sampled map has content: (B, 1, H, W) bool, False on pixels that any zero fill has touched."""
    ones = torch.ones(len(matrices), 1, height, width, device=matrices.device)
    return sample(ones, matrices) > FULL_COVERAGE


def move(maps: Tensor, motion: Motion) -> Tensor:
    """Move each image of a batch (B, C, H, W), see `sample`."""
    return sample(maps, motion_matrices(motion, height=maps.shape[-2], width=maps.shape[-1]))


def motion_valid(motion: Motion, *, height: int, width: int) -> Tensor:
    """Where a moved map has content, see `covered`."""
    return covered(motion_matrices(motion, height=height, width=width), height=height, width=width)


def rotate(maps: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image of a batch about its centre, see `sample`.

    Args:
        maps: (B, C, H, W) float.
        degrees: (B,) float, counter-clockwise.
    """
    return sample(maps, rotation_matrices(degrees, height=maps.shape[-2], width=maps.shape[-1]))


def rotation_valid(degrees: Tensor, *, height: int, width: int) -> Tensor:
    """Where a rotated map has content, see `covered`."""
    return covered(rotation_matrices(degrees, height=height, width=width), height=height, width=width)
