"""What each phase minimises, as modules whose `forward` gives a loss.

`forward(images, labels, generator=..., part=...)` returns a dictionary of scalars with "loss" and the terms that it is
made of, and "logits" where the phase trains a classifier. `monitor` names the record by which the best epoch is chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .losses import balanced_bce
from .models import LocalizationModel
from .recipes import BackbonePhase, Recipe
from .seam import SeamObjective


class ClassificationObjective(nn.Module):
    """The loss of the first phase for a batch: balanced cross-entropy of the logits (Eq. 3-5)."""

    monitor = ("validation_auc", "max")

    def __init__(self, model: LocalizationModel, phase: BackbonePhase) -> None:
        """Freeze what the phase does not train."""
        super().__init__()
        model.train_only_from_stride(
            phase.trainable_from_stride, head=phase.head_trainable, frozen_statistics=phase.frozen_statistics
        )
        self.model = model

    def forward(
        self, images: Tensor, labels: Tensor, *, generator: torch.Generator, part: slice = slice(None)
    ) -> dict[str, Tensor]:
        """Classify `part` of a batch; see `seam.SeamObjective.forward`. Returns "loss" and "logits" (B, 14)."""
        del generator  # nothing random here
        logits = self.model(images, maps=False).logits
        return {"loss": balanced_bce(logits, labels[part], batch=labels), "logits": logits}


def make_objective(model: LocalizationModel, recipe: Recipe) -> nn.Module:
    """The objective of the phase that `recipe` trains."""
    if recipe.seam is not None:
        return SeamObjective(model, recipe.seam)
    return ClassificationObjective(model, recipe.backbone)
