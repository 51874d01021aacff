"""From grey uint8 films to what a network sees: one resampling for the whole batch, on its device (Sect. 5.2).

Grey bytes travel to the device, a third of the traffic of RGB and a twelfth of float32; crop, aspect, flip and rotation
are composed into a single bilinear sampling, which is both faster and sharper than four in a row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..recipes import Augmentation, SeamStage

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


CROP_ATTEMPTS = 10
"""As torchvision's RandomResizedCrop: so many draws until a crop fits, else the whole image."""


def imagenet_normalise(grey: Tensor) -> Tensor:
    """Grey films in [0, 1], (B, 1, H, W), to (B, 3, H, W) with ImageNet's mean and standard deviation (Sect. 5.2)."""
    mean, std = channels(IMAGENET_MEAN, grey.device), channels(IMAGENET_STD, grey.device)
    # The channels come last in memory, as the networks want them: written so in one pass, not turned afterwards.
    return torch.addcmul(-mean / std, grey.permute(0, 2, 3, 1), 1 / std).permute(0, 3, 1, 2)


def channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value a channel as a (3,) tensor, filled in on the device: a copy to a GPU would make the CPU wait."""
    return torch.stack([torch.full((), value, device=device) for value in values])


def pad_value(like: Tensor) -> Tensor:
    """The normalised value of a black pixel, (1, 3, 1, 1): what lies outside a film."""
    return imagenet_normalise(torch.zeros(1, 1, 1, 1, device=like.device))


def resize_area(films: Tensor, size: int) -> Tensor:
    """Grey uint8 films (B, 1, S, S) to float32 (B, 1, size, size) in [0, 1], by area averaging."""
    grey = films.float() / 255
    if grey.shape[-1] == size and grey.shape[-2] == size:
        return grey
    return F.interpolate(grey, size=(size, size), mode="area")


def eval_transform(films: Tensor, *, size: int) -> Tensor:
    """The preprocessing of validation, test and prediction: shrink and normalise, nothing random.

    Args:
        films: (B, 1, S, S) uint8 grey.
        size: side of the result in pixels.

    Returns:
        (B, 3, size, size) float32.
    """
    return imagenet_normalise(resize_area(films, size))


def sample_crops(count: int, recipe: Augmentation, *, generator: torch.Generator) -> Tensor:
    """Draw `count` crops as torchvision's RandomResizedCrop does, in units of the image's side.

    The area is uniform, the aspect (width : height) log-uniform; draws that leave the image are thrown away, up to
    10 times, so that with an area of at least 0.8 no aspect outside 0.8 to 1.25 can come out, whatever the recipe
    allows.

    Returns:
        (count, 4) float32: left, top, width, height.
    """
    shape = (count, CROP_ATTEMPTS)
    low, high = recipe.crop_area
    area = low + (high - low) * torch.rand(shape, generator=generator)
    log_low, log_high = math.log(recipe.crop_aspect[0]), math.log(recipe.crop_aspect[1])
    aspect = (log_low + (log_high - log_low) * torch.rand(shape, generator=generator)).exp()
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(dim=1, keepdim=True)
    width = torch.where(fits.any(dim=1), width.gather(1, first)[:, 0], 1.0)
    height = torch.where(fits.any(dim=1), height.gather(1, first)[:, 0], 1.0)
    place = torch.rand(count, 2, generator=generator)
    return torch.stack([place[:, 0] * (1 - width), place[:, 1] * (1 - height), width, height], dim=1)


def draw(count: int, recipe: Augmentation, *, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the variations of `count` films as Sect. 5.2 says.

    Returns:
        crops (count, 4), see `sample_crops`; flips (count,) bool; degrees (count,) float32, counter-clockwise.
    """
    crops = sample_crops(count, recipe, generator=generator)
    flips = torch.rand(count, generator=generator) < recipe.flip_probability
    degrees = (2 * torch.rand(count, generator=generator) - 1) * recipe.rotation_degrees
    return crops, flips, degrees


def sampling_matrices(crops: Tensor, flips: Tensor, degrees: Tensor, *, height: int, width: int) -> Tensor:
    """Where a varied film takes its pixels from.

    Args:
        crops: (B, 4) left, top, width, height in units of the side.
        flips: (B,) bool, mirrored left to right.
        degrees: (B,) counter-clockwise rotation after the flip.
        height: of the films in pixels.
        width: likewise.

    Returns:
        (2, B, 2, 3), for `affine_grid`: from a pixel to its place in the crop, and to its place in the film.
    """
    turn = rotation_matrices(degrees, height=height, width=width)  # to [-1, 1] inside the crop
    mirror = torch.where(flips, -1.0, 1.0)
    left, top, crop_width, crop_height = crops.unbind(dim=1)
    scale = torch.stack([mirror * crop_width, crop_height], dim=1)
    shift = torch.stack([2 * left + crop_width - 1, 2 * top + crop_height - 1], dim=1)
    whole = scale[:, :, None] * turn  # the crop's coordinates to the film's
    whole[:, :, 2] += shift
    return torch.stack([turn, whole])


def warp(grey: Tensor, *, crops: Tensor, flips: Tensor, degrees: Tensor) -> Tensor:
    """Crop, enlarge to the old size, flip and rotate in one bilinear sampling.

    Equal to the four operations one after the other but for the outermost pixel of the crop, which is interpolated
    with the film beyond it. What the rotation brings in from outside the crop is black, also where the film had
    content there.

    Args:
        grey: (B, 1, S, S) float, on any device; the parameters, as `draw` gives them, lie on the CPU.
        crops: see `sampling_matrices`.
        flips: likewise.
        degrees: likewise.

    Returns:
        (B, 1, S, S) float.
    """
    height, width = grey.shape[-2:]
    matrices = sampling_matrices(crops, flips, degrees, height=height, width=width)
    turn, whole = send(matrices, grey.device).to(grey.dtype)
    grid = F.affine_grid(whole, list(grey.shape), align_corners=False)
    sampled = F.grid_sample(grey, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled * inside(turn, height=height, width=width)


def inside(matrices: Tensor, *, height: int, width: int) -> Tensor:
    """Where linear maps (B, 2, 3), as `affine_grid` takes them, stay in [-1, 1]: (B, 1, height, width) bool.

    A linear map is a sum of what depends on the column and what on the row, so no grid need be made.
    """
    x, y = ((2 * torch.arange(n, device=matrices.device) + 1) / n - 1 for n in (width, height))
    column, row = matrices[:, :, :1] * x, matrices[:, :, 1:2] * y + matrices[:, :, 2:]  # (B, 2, W), (B, 2, H)
    return ((row[:, :, :, None] + column[:, :, None, :]).abs() <= 1).all(dim=1, keepdim=True)


def augment(
    films: Tensor,
    recipe: Augmentation,
    *,
    size: int,
    generator: torch.Generator,
    among: tuple[int, slice] | None = None,
) -> Tensor:
    """Vary a batch of films as Sect. 5.2 says and normalise it.

    Args:
        films: (B, 1, S, S) uint8 grey, on the device that shall do the work.
        recipe: ranges of crop, flip and rotation.
        size: side of the result in pixels.
        generator: on the CPU; the parameters are drawn there, so that they do not depend on the device.
        among: where the films are a part of a batch only, the batch's count and which of it they are. The whole
            batch's parameters are drawn then, so that a film's do not depend on how the batch is split.

    Returns:
        (B, 3, size, size) float32.
    """
    count, part = among or (len(films), slice(None))
    crops, flips, degrees = (drawn[part] for drawn in draw(count, recipe, generator=generator))
    grey = resize_area(films, size)
    return imagenet_normalise(warp(grey, crops=crops, flips=flips, degrees=degrees))


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


def draw_rotation(count: int, phase: SeamStage, *, generator: torch.Generator) -> Motion:
    """Turn by an angle a uniform in [-phase.rotation_degrees, phase.rotation_degrees], the paper's.

    x' = R x about the centre, R = [[cos a, sin a], [-sin a, cos a]] with y down: counter-clockwise as the eye sees it.
    """
    degrees = (2 * torch.rand(count, generator=generator) - 1) * phase.rotation_degrees
    return no_motion(count)._replace(degrees=degrees)
