"""Transform batches of images on their device: resize, normalise, crop, flip and rotate (Sect. 5.2).

Grey bytes travel to the GPU: a third of the traffic of RGB and a twelfth of float32. Crop, aspect, flip and rotation
are one affine transform and one bilinear sampling. This is faster and blurs less than four samplings in a row. The SEAM
step rotates images and CAMs with the same functions. All random numbers are sampled on the CPU, so that they do not
depend on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..recipes import Augmentation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CROP_ATTEMPTS = 10
"""As in torchvision's RandomResizedCrop: number of sampled crops, before the whole image is taken."""


@dataclass(frozen=True)
class AffineParams:
    """One affine transform for each of B images: crop, then flip, then rotate. `params[2:4]` are those of two images.

    All fields are float32 tensors on the CPU.

    Attributes:
        angle: (B,) rotation in degrees, counter-clockwise.
        scale: (B, 2) width and height of the crop, as fractions of the image.
        translation: (B, 2) x and y of the crop's centre, from -1 (left, top) to 1; 0 is the image's centre.
        flip: (B,) -1 for images that are mirrored left to right, else 1.
    """

    angle: Tensor
    scale: Tensor
    translation: Tensor
    flip: Tensor

    def __len__(self) -> int:
        return len(self.angle)

    def __getitem__(self, index: slice) -> AffineParams:
        return AffineParams(self.angle[index], self.scale[index], self.translation[index], self.flip[index])


def rotation_params(angle: Tensor) -> AffineParams:
    """Return the parameters that rotate each image by `angle` (B,) degrees and do nothing else."""
    ones = torch.ones(len(angle), 2)
    return AffineParams(angle, scale=ones, translation=torch.zeros_like(ones), flip=ones[:, 0])


def sample_rotation(batch_size: int, degrees: float, *, generator: torch.Generator) -> AffineParams:
    """Sample a rotation for each image, uniform in [-degrees, degrees]."""
    return rotation_params((2 * torch.rand(batch_size, generator=generator) - 1) * degrees)


def sample_augmentation(batch_size: int, augmentation: Augmentation, *, generator: torch.Generator) -> AffineParams:
    """Sample crop, flip and rotation for each image (Sect. 5.2).

    Crops are sampled as by torchvision's RandomResizedCrop: the area is uniform, the aspect (width : height) is
    log-uniform, and crops that leave the image are rejected. With an area of at least 0.8 the aspect is therefore
    between 0.8 and 1.25, even if the recipe allows more.
    """
    shape = (batch_size, CROP_ATTEMPTS)
    low, high = augmentation.crop_area
    area = low + (high - low) * torch.rand(shape, generator=generator)
    log_low, log_high = map(math.log, augmentation.crop_aspect)
    aspect = (log_low + (log_high - log_low) * torch.rand(shape, generator=generator)).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=-1)  # (B, attempts, 2)
    fits = (sides <= 1).all(dim=-1)  # (B, attempts)
    first = fits.int().argmax(dim=1)  # (B,)
    scale = torch.where(fits.any(dim=1)[:, None], sides[torch.arange(batch_size), first], 1.0)  # (B, 2)
    translation = (2 * torch.rand(batch_size, 2, generator=generator) - 1) * (1 - scale)
    flip = torch.where(torch.rand(batch_size, generator=generator) < augmentation.flip_probability, -1.0, 1.0)
    angle = (2 * torch.rand(batch_size, generator=generator) - 1) * augmentation.rotation_degrees
    return AffineParams(angle, scale, translation, flip)


def rotation_matrix(angle: Tensor, *, height: int, width: int) -> Tensor:
    """Return the matrices (B, 2, 3) for `affine_grid` that rotate images counter-clockwise by `angle` (B,) degrees.

    Coordinates are in [-1, 1]. The matrix includes the aspect ratio, so that rotation does not shear.
    """
    angle = torch.deg2rad(angle)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    row_x = torch.stack([cosine, -sine * (height / width), zero], dim=-1)  # (B, 3)
    row_y = torch.stack([sine * (width / height), cosine, zero], dim=-1)  # (B, 3)
    return torch.stack([row_x, row_y], dim=-2)  # (B, 2, 3)


def affine_matrix(params: AffineParams, *, height: int, width: int) -> Tensor:
    """Return the matrices (B, 2, 3) for `affine_grid`: from a pixel of the result to its source in the image."""
    matrix = rotation_matrix(params.angle, height=height, width=width)  # to a position in the crop
    scale = params.scale * torch.stack([params.flip, torch.ones_like(params.flip)], dim=1)  # (B, 2)
    matrix = scale[:, :, None] * matrix  # (B, 2, 3): to a position in the image
    matrix[:, :, 2] += params.translation
    return matrix


def affine_warp(images: Tensor, params: AffineParams) -> Tensor:
    """Crop each image, resize the crop to the image's size, flip and rotate it, in one bilinear sampling.

    Equal to the four operations in a row, except at the outermost pixels of the crop: they are interpolated with the
    image around the crop. Pixels of the result whose source lies outside the crop are 0.

    Args:
        images: (B, C, H, W) float, images or maps on any device.
        params: of the B images.

    Returns:
        (B, C, H, W) float32 (float64 for float64 input), differentiable in `images`.
    """
    height, width = images.shape[-2:]
    images = images if images.dtype == torch.float64 else images.float()
    rotation = rotation_matrix(params.angle, height=height, width=width)
    matrices = torch.stack([affine_matrix(params, height=height, width=width), rotation])  # (2, B, 2, 3)
    to_source, to_crop = to_device(matrices, images.device).to(images.dtype)
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 grids are wrong by up to half a pixel
        grid = F.affine_grid(to_source, list(images.shape), align_corners=False)  # (B, H, W, 2)
        warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    x, y = crop_coordinates(to_crop, height=height, width=width)
    return warped * ((x <= 1) & (y <= 1))


TOLERANCE = 1e-3
"""Of `valid_mask` in pixels, for rounding: after a rotation by 0 degrees all pixels are valid."""


def valid_mask(params: AffineParams, *, height: int, width: int, device: torch.device) -> Tensor:
    """Mark the pixels of a rotated map whose four neighbours in the source all lie in the map (SEAM, Sect. 4.4).

    Args:
        params: a rotation of each map, see `sample_rotation`.
        height: H of the maps.
        width: W of the maps.
        device: of the result.

    Returns:
        (B, 1, H, W) bool.
    """
    rotation = to_device(rotation_matrix(params.angle, height=height, width=width), device)
    x, y = crop_coordinates(rotation, height=height, width=width)
    margin = 0.5 - TOLERANCE  # half a pixel from the edge lies the centre of the outermost pixel
    return (x <= 1 - 2 * margin / width) & (y <= 1 - 2 * margin / height)


def crop_coordinates(rotation: Tensor, *, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return |x| and |y| of each pixel's source, (B, 1, H, W) each; inside the crop they are at most 1.

    A linear map is the sum of a term of the column and a term of the row, so that no grid is needed.
    """
    x, y = ((2 * torch.arange(n, device=rotation.device) + 1) / n - 1 for n in (width, height))  # (W,), (H,)
    column, row = rotation[:, :, :1] * x, rotation[:, :, 1:2] * y  # (B, 2, W), (B, 2, H)
    source = (row[:, :, :, None] + column[:, :, None, :]).abs()  # (B, 2, H, W)
    return source[:, :1], source[:, 1:]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a small CPU tensor to a device; a GPU copies from pinned memory, so that the CPU does not wait for it."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def imagenet_normalise(grey: Tensor) -> Tensor:
    """Normalise grey images (B, 1, H, W) in [0, 1] with ImageNet's mean and standard deviation, to (B, 3, H, W)."""
    mean, std = (
        # Filled in on the device: a copy to a GPU would make the CPU wait.
        torch.stack([torch.full((), value, device=grey.device) for value in values])  # (3,)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    # Channels last in memory, as the networks want them: written in one pass.
    return torch.addcmul(-mean / std, grey.permute(0, 2, 3, 1), 1 / std).permute(0, 3, 1, 2)


def pad_value(like: Tensor) -> Tensor:
    """Return the normalised value of a black pixel, (1, 3, 1, 1), on the device of `like`."""
    return imagenet_normalise(torch.zeros(1, 1, 1, 1, device=like.device))


def resize_area(images: Tensor, size: int) -> Tensor:
    """Resize grey uint8 images (B, 1, S, S) by area averaging to float32 (B, 1, size, size) in [0, 1]."""
    grey = images.float() / 255
    return grey if grey.shape[-2:] == (size, size) else F.interpolate(grey, size=(size, size), mode="area")


def eval_transform(images: Tensor, *, size: int) -> Tensor:
    """Resize and normalise grey uint8 images (B, 1, S, S) to float32 (B, 3, size, size); nothing is random."""
    return imagenet_normalise(resize_area(images, size))


def train_transform(images: Tensor, params: AffineParams, *, size: int) -> Tensor:
    """Resize, augment and normalise grey uint8 images (B, 1, S, S) to float32 (B, 3, size, size)."""
    return imagenet_normalise(affine_warp(resize_area(images, size), params))
