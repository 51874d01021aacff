"""The objective of each stage: a module that computes the loss of a batch from the model.

`forward(images, labels, *, class_weights, rotation, known)` returns a dictionary of scalars, means over the images:
"loss" and its terms; and "logits" (B, K) if the stage trains the classifier. `score(record)` is the quantity of an
epoch that selects the best checkpoint, the higher the better.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..models.multires import LocalizationModel
from ..recipes import ClassifierStage, Recipe
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


def make_objective(model: LocalizationModel, recipe: Recipe) -> ClassifierObjective | SeamObjective:
    """Make the objective of the stage that `recipe` trains; it freezes all other parameters of `model`."""
    if recipe.seam_stage is not None:
        return SeamObjective(model, recipe.seam_stage)
    return ClassifierObjective(model, recipe.classifier_stage)
