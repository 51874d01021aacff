"""Rotation of a batch of images or maps, and where the rotated picture has content."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FULL_COVERAGE = 0.999
"""A rotated pixel is valid when bilinear sampling took (all but rounding) its whole value from inside."""


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a few values from the CPU to a device without waiting until a GPU has done what it was given before."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


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


def rotate(maps: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image of a batch about its centre, bilinearly; what comes from outside is 0.

    Args:
        maps: (B, C, H, W) float.
        degrees: (B,) float, counter-clockwise.

    Returns:
        (B, C, H, W) float32 (float64 for float64), differentiable in `maps`.
    """
    maps = maps if maps.dtype == torch.float64 else maps.float()
    height, width = maps.shape[-2:]
    matrices = rotation_matrices(degrees, height=height, width=width).to(maps)
    with torch.autocast(maps.device.type, enabled=False):  # a grid in bfloat16 misses its pixels by up to half a pixel
        grid = F.affine_grid(matrices, list(maps.shape), align_corners=False)
        return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def rotation_valid(degrees: Tensor, *, height: int, width: int) -> Tensor:
    """Where a rotated map has content: (B, 1, H, W) bool, False on pixels that any zero fill has touched."""
    ones = torch.ones(len(degrees), 1, height, width, device=degrees.device)
    return rotate(ones, degrees) > FULL_COVERAGE
