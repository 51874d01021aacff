"""Train the PCM with a Siamese network (SEAM, Sect. 4.4, Fig. 4).

One branch computes the CAMs of an image and then rotates them. The other rotates the image and then computes its CAMs.
The PCM learns to give the same refined CAMs in both. Each image of a batch has its own angle.

The rotated image has empty corners. Their CAMs are no evidence, so the loss ignores them in four places: the CAMs of
that branch are set to 0 there before they are divided by their maximum; the affinity of that branch has no column
for an invalid pixel; OHEM counts valid pixels only; and so does the average in the MSML loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.transforms import AffineParams, affine_warp, pad_value, valid_mask
from ..models.cam import append_background, make_pcm_input, max_normalise
from ..models.multires import LocalizationModel
from ..recipes import SeamStage
from .losses import ecr_loss, msml_loss


class SiameseOutput(NamedTuple):
    """Features (B, C, h, w) and CAMs (B, K or K + 1, h, w) of both branches, and the rotated images."""

    features: Tensor
    cam: Tensor  # raw, of the images
    refined: Tensor  # by the PCM
    features_of_warped: Tensor
    cam_of_warped: Tensor  # raw, of the rotated images
    refined_of_warped: Tensor
    valid: Tensor  # (B, 1, h, w) bool, False in the empty corners of the rotated images
    warped_images: Tensor  # (B, 3, H, W) normalised


class SeamObjective(nn.Module):
    """The loss of the SEAM stage (Eq. 7); only the refiner of `model` is trained.

    Raises:
        InputError: the model has no refiner.
    """

    def __init__(self, model: LocalizationModel, stage: SeamStage) -> None:
        super().__init__()
        model.freeze_all_but_refiner()
        self.model = model
        self.stage = stage

    @staticmethod
    def score(record: dict[str, float | None]) -> float:
        """Return the score of an epoch, the higher the better: training the refiner does not change the AUC."""
        return -record["validation_loss"]

    def forward_branch(self, images: Tensor, *, valid: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute features and CAMs of one branch.

        Args:
            images: (B, 3, H, W) normalised.
            valid: (B, 1, h, w) bool for rotated images, None for the original ones.

        Returns:
            Features; raw CAM (B, K or K + 1, h, w), see `LocalizationModel.compute_cam`; refined CAM (B, K + 1, h, w).
        """
        with torch.set_grad_enabled(self.stage.joint and torch.is_grad_enabled()):
            features, low_level = self.model.forward_features(images)  # (B, C, h, w)
            cam = self.model.compute_cam(features).float()  # (B, K or K + 1, h, w)
        cam = cam if valid is None else cam * valid
        prepared = make_pcm_input(cam, findings=len(self.model.findings))
        refined = self.model.refiner(features, prepared, valid=valid, low_level=low_level)
        return features, cam, refined if valid is None else refined * valid

    def forward_branches(self, images: Tensor, rotation: AffineParams) -> SiameseOutput:
        """Compute the CAMs of the images (B, 3, H, W) and those of the rotated images."""
        black = pad_value(images)
        features, cam, refined = self.forward_branch(images)
        valid = valid_mask(rotation, height=cam.shape[-2], width=cam.shape[-1], device=images.device)
        warped_images = affine_warp(images - black, rotation) + black
        return SiameseOutput(
            features, cam, refined, *self.forward_branch(warped_images, valid=valid), valid, warped_images
        )

    def forward(
        self, images: Tensor, labels: Tensor, *, rotation: AffineParams, known: Tensor | None = None, **_: object
    ) -> dict[str, Tensor]:
        """Compare the CAMs of the images with those of the rotated images.

        A finding whose label is unknown counts as absent where maps are masked (ECR) and does not count in MSML.

        Args:
            images: (B, 3, H, W) normalised.
            labels: (B, K), 0 or 1, NaN where unknown.
            rotation: of the B images.
            known: of the whole batch, see `losses.known_fraction`.

        Returns:
            "loss" (Eq. 7) and its terms "ecr" (Eq. 6) and "msml": scalars, means over the images.
        """
        return self.seam_losses(self.forward_branches(images, rotation), labels, rotation=rotation, known=known)

    def seam_losses(
        self, output: SiameseOutput, labels: Tensor, *, rotation: AffineParams, known: Tensor | None
    ) -> dict[str, Tensor]:
        """Compute the losses of the refiner; arguments and result as in `forward`."""
        _, cam, refined, _, cam_of_warped, refined_of_warped, valid, _ = output
        labels_map = labels.nan_to_num(0)[:, :, None, None]  # (B, K, 1, 1)
        ecr = ecr_loss(
            warped_cam=affine_warp(with_background(cam, labels_map), rotation),
            warped_refined=affine_warp(mask_by_labels(refined, labels_map), rotation),
            cam_of_warped=with_background(cam_of_warped, labels_map),
            refined_of_warped=mask_by_labels(refined_of_warped, labels_map),
            valid=valid,
            ohem_fraction=self.stage.ohem_fraction,
        )
        refined, refined_of_warped = (maps[:, : len(self.model.findings)] for maps in (refined, refined_of_warped))
        msml = 0.5 * (
            msml_loss(refined, labels, known=known) + msml_loss(refined_of_warped, labels, valid=valid, known=known)
        )
        return {"loss": self.stage.msml_weight * msml + self.stage.ecr_weight * ecr, "ecr": ecr, "msml": msml}


def with_background(cam: Tensor, labels: Tensor) -> Tensor:
    """Normalise CAMs (B, K or K + 1, h, w), mask them by the labels, append the background: (B, K + 1, h, w)."""
    return append_background(mask_by_labels(cam, labels), findings=labels.shape[1])


def mask_by_labels(cam: Tensor, labels: Tensor) -> Tensor:
    """Divide CAMs (B, K or K + 1, h, w) by their maximum, multiply them by labels (B, K, 1, 1), background: 1."""
    labels = torch.cat([labels, torch.ones_like(labels[:, :1])], dim=1)  # (B, K + 1, 1, 1)
    return max_normalise(cam) * labels[:, : cam.shape[1]]
