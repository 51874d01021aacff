"""The ER loss (equivariant regularization): the CAM of a rotated image has to be the rotated CAM.

With the maps of the findings divided by their maximum and multiplied by the labels,

    ER = mean over images of the sum over findings of the mean over pixels | A(cam^o) - cam^t |.

A map with a small maximum has a large gradient; half precision was not tried.

Source: Wang et al. 2020, Eq. 5. They average over all classes; a sum does not depend on the number of findings.
"""

from __future__ import annotations

from torch import Tensor

from ...data.transforms import AffineParams, affine_warp
from ..seam import mask_by_labels


def er_loss(cam: Tensor, cam_of_warped: Tensor, labels: Tensor, *, rotation: AffineParams, valid: Tensor) -> Tensor:
    """Compare the CAMs of images with those of the rotated images (ER).

    Args:
        cam: (B, K or K + 1, h, w), raw; a background is ignored.
        cam_of_warped: in the same form, 0 where `valid` is False.
        labels: (B, K), 0 or 1, NaN where unknown, which counts as absent.
        rotation: of the B images.
        valid: (B, 1, h, w) bool, False in the empty corners.

    Returns:
        A scalar, the mean over the images; 0 if the CAMs turn with the images.
    """
    present = labels.nan_to_num(0)[:, :, None, None]  # (B, K, 1, 1)
    maps, maps_of_warped = (mask_by_labels(each[:, : labels.shape[1]], present) for each in (cam, cam_of_warped))
    difference = (affine_warp(maps, rotation) - maps_of_warped).abs() * valid  # (B, K, h, w)
    return (difference.sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3))).mean()
