"""What each phase minimises, as modules whose `forward` gives a loss.

`forward(images, labels, generator=..., part=...)` returns a dictionary of scalars with "loss" and the terms that it is
made of, and "logits" where the phase trains a classifier. `monitor` names the record by which the best epoch is chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.multires import LocalizationModel
from ..recipes import ClassifierStage, Recipe
from .losses import balanced_bce
from .seam import SeamObjective


class ClassificationObjective(nn.Module):
    """The loss of the first phase for a batch: balanced cross-entropy of the logits (Eq. 3-5)."""

    monitor = ("validation_auc", "max")

    def __init__(self, model: LocalizationModel, phase: ClassifierStage) -> None:
        """Freeze what the phase does not train."""
        super().__init__()
        freeze_for_classifier_stage(model, phase)
        self.model = model

    def forward(
        self, images: Tensor, labels: Tensor, *, generator: torch.Generator, part: slice = slice(None)
    ) -> dict[str, Tensor]:
        """Classify `part` of a batch; see `seam.SeamObjective.forward`. Returns "loss" and "logits" (B, 14)."""
        del generator  # nothing random here
        logits = self.model(images, maps=False).logits
        return {"loss": balanced_bce(logits, labels[part], batch=labels), "logits": logits}


def freeze_for_classifier_stage(model: LocalizationModel, phase: ClassifierStage) -> None:
    """Freeze all of a model that the first phase does not train."""
    model.freeze_below(phase.freeze_below_stride, train_head=phase.train_head, freeze_bn_stats=phase.freeze_bn_stats)


def make_objective(model: LocalizationModel, recipe: Recipe) -> nn.Module:
    """The objective of the phase that `recipe` trains."""
    if recipe.seam_stage is not None:
        return SeamObjective(model, recipe.seam_stage)
    return ClassificationObjective(model, recipe.classifier_stage)
