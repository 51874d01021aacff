"""The objective of each stage: a module that computes the loss of a batch from the model.

`forward(images, labels, *, class_weights, rotation, known)` returns a dictionary of scalars, means over the images:
"loss" and its terms; and "logits" (B, K) if the stage trains the classifier. `score(record)` is the quantity of an
epoch that selects the best checkpoint, the higher the better.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..data.transforms import AffineParams
from ..models.multires import LocalizationModel
from ..recipes import ClassifierStage, Recipe, SeamStage
from .extras.equivariance import er_loss
from .losses import balanced_bce
from .seam import SeamObjective


class ClassifierObjective(nn.Module):
    """The loss of the classifier stage: balanced cross-entropy of the logits (Eq. 3-5)."""

    def __init__(self, model: LocalizationModel, stage: ClassifierStage) -> None:
        super().__init__()
        model.freeze_below(
            stage.freeze_below_stride, train_head=stage.train_head, freeze_bn_stats=stage.freeze_bn_stats
        )
        self.model = model

    @staticmethod
    def score(record: dict[str, float | None]) -> float:
        """Return the score of an epoch: the mean AUC on the validation set, minus infinity if it is undefined."""
        auc = record["validation_auc"]
        return -math.inf if auc is None else auc

    def forward(
        self, images: Tensor, labels: Tensor, *, class_weights: Tensor, known: Tensor | None = None, **_: object
    ) -> dict[str, Tensor]:
        """Classify (B, 3, H, W) images; `class_weights` (2, K) and `known` are those of the whole batch."""
        logits = self.model(images, maps=False).logits  # (B, K)
        return {"loss": balanced_bce(logits, labels, weights=class_weights, known=known), "logits": logits}


class JointObjective(SeamObjective):
    """The loss of a SEAM stage that trains the classifier as well, as Wang et al. 2020 do (SEAM).

    Both branches classify, and ER compares their unrefined CAMs:

        loss = (BCE^o + BCE^t) / 2 + w_ER ER + the refiner's loss (Eq. 7).

    The refiner detaches its input, so its loss does not reach the classifier.

    Raises:
        InputError: the model has no refiner.
    """

    def __init__(self, model: LocalizationModel, stage: SeamStage) -> None:
        super().__init__(model, stage)
        model.requires_grad_(True)

    score = staticmethod(ClassifierObjective.score)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        class_weights: Tensor,
        rotation: AffineParams,
        known: Tensor | None = None,
        **_: object,
    ) -> dict[str, Tensor]:
        """Classify the images and the rotated images, and compare their CAMs.

        Args:
            images, labels, rotation, known: as in `SeamObjective.forward`.
            class_weights: (2, K), those of the whole batch.

        Returns:
            As `SeamObjective.forward`, with the terms "bce" and "er", and "logits" (B, K) of the images.
        """
        output = self.forward_branches(images, rotation)
        terms = self.seam_losses(output, labels, rotation=rotation, known=known)
        logits, logits_of_warped = (self.model.pool_logits(x) for x in (output.features, output.features_of_warped))
        bce = 0.5 * sum(
            balanced_bce(each, labels, weights=class_weights, known=known) for each in (logits, logits_of_warped)
        )
        er = er_loss(output.cam, output.cam_of_warped, labels, rotation=rotation, valid=output.valid)
        loss = terms["loss"] + bce + self.stage.er_weight * er
        return terms | {"loss": loss, "bce": bce, "er": er, "logits": logits}


def make_objective(model: LocalizationModel, recipe: Recipe) -> ClassifierObjective | SeamObjective:
    """Make the objective of the stage that `recipe` trains; parameters that it does not train are frozen."""
    if recipe.seam_stage is not None:
        return (JointObjective if recipe.seam_stage.joint else SeamObjective)(model, recipe.seam_stage)
    return ClassifierObjective(model, recipe.classifier_stage)
