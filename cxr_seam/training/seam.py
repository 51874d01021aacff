"""The Siamese step of the second phase: the PCM learns to give the same answer whichever way the film lies (Sect. 4.4).

One branch transforms the image and then draws its maps, the other draws the maps and then transforms them (Fig. 4).
The transform is a rotation by another angle for every image of the batch.

Where the transformed film has no content, the black around it is no evidence of anything. It is kept out of the loss
in four places: the maps of the transformed branch, raw and refined, are cut to the valid region before they are
normalised by their maximum; nothing draws on an empty pixel in that branch's affinity; both norms of Eq. 6 and the
share that OHEM keeps count valid pixels only; and so does the average of the MSML loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.transforms import draw_rotation, motion_valid, move, pad_value, send_motion
from ..findings import FINDINGS
from ..models.cam import append_background, make_pcm_input, max_normalise
from ..models.multires import LocalizationModel
from ..recipes import SeamStage
from .losses import ecr_loss, msml_loss


class SeamObjective(nn.Module):
    """The loss of the second phase for a batch (Eq. 7)."""

    monitor = ("validation_loss", "min")
    """Which record chooses the best epoch; the AUC does not change when theta alone is trained."""

    def __init__(self, model: LocalizationModel, phase: SeamStage) -> None:
        """Freeze all of `model` but its refiner.

        Raises:
            InputError: the model has no PCM.
        """
        super().__init__()
        model.freeze_all_but_refiner()
        self.model = model
        self.phase = phase

    def branch(self, images: Tensor, *, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Raw maps (B, 14 or 15, h, w), see `LocalizationModel.compute_cam`, and refined ones (B, 15, h, w) of one branch.

        Args:
            images: (B, 3, H, W) normalised.
            valid: (B, 1, h, w) bool or None for the branch whose images are whole.
        """
        with torch.no_grad():
            features, low_level = self.model.forward_features(images)
            cam = self.model.compute_cam(features).float()
        if valid is None:
            return cam, self.model.refiner(features, make_pcm_input(cam), low_level=low_level)
        cam = cam * valid
        return cam, self.model.refiner(features, make_pcm_input(cam), valid=valid, low_level=low_level) * valid

    def forward(
        self, images: Tensor, labels: Tensor, *, generator: torch.Generator, part: slice = slice(None)
    ) -> dict[str, Tensor]:
        """Draw a motion for each image and compare the branches.

        Args:
            images: (B, 3, H, W) normalised, of `part` of a batch.
            labels: (N, 14) of the whole batch.
            generator: on the CPU; draws for the whole batch.
            part: which of the batch's films the images are.

        Returns:
            "loss" (Eq. 7) and its parts "ecr" (Eq. 6) and "msml", scalars: means over the images of `part`.
        """
        motion = draw_rotation(len(labels), self.phase, generator=generator)
        motion = send_motion(motion, images.device, part=part)
        labels = labels[part]
        outside = pad_value(images)
        moved = move(images - outside, motion) + outside  # what comes from outside the film is black

        cam, refined = self.branch(images, valid=None)
        valid = motion_valid(motion, height=cam.shape[-2], width=cam.shape[-1])
        cam_transformed, refined_transformed = self.branch(moved, valid=valid)

        present = labels[:, :, None, None]
        ecr = ecr_loss(
            cam_moved=move(with_background(cam, present), motion),
            refined_moved=move(present_maps(refined, present), motion),
            cam_transformed=with_background(cam_transformed, present),
            refined_transformed=present_maps(refined_transformed, present),
            valid=valid,
            ohem_fraction=self.phase.ohem_fraction,
        )
        everywhere = torch.ones_like(valid)
        msml = 0.5 * (
            msml_loss(refined[:, : len(FINDINGS)], labels, valid=everywhere)
            + msml_loss(refined_transformed[:, : len(FINDINGS)], labels, valid=valid)
        )
        return {"loss": self.phase.msml_weight * msml + self.phase.ecr_weight * ecr, "ecr": ecr, "msml": msml}


def with_background(cam: Tensor, present: Tensor) -> Tensor:
    """Normalised maps (B, 15, h, w) of the findings that the image's labels name, and the background."""
    return append_background(present_maps(cam, present))


def present_maps(cam: Tensor, present: Tensor) -> Tensor:
    """Maps (B, 14 or 15, h, w), normalised and multiplied by the image's labels, background label 1."""
    labels = torch.cat([present, torch.ones_like(present[:, :1])], dim=1)
    return max_normalise(cam) * labels[:, : cam.shape[1]]
