"""What each phase minimises, as modules whose `forward` gives a loss.

`forward(images, labels, generator=..., part=...)` returns a dictionary of scalars with "loss" and the terms that it is
made of, and "logits" where the phase trains a classifier. `monitor` names the record by which the best epoch is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..models.multires import LocalizationModel
from ..recipes import ClassifierStage, Recipe, SeamStage
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
        self.smoothing = phase.label_smoothing

    def forward(
        self, images: Tensor, labels: Tensor, *, generator: torch.Generator, part: slice = slice(None)
    ) -> dict[str, Tensor]:
        """Classify `part` of a batch; see `seam.SeamObjective.forward`. Returns "loss" and "logits" (B, 14)."""
        del generator  # nothing random here
        loss, logits = classify(self.model, images, labels, part=part, smoothing=self.smoothing)
        return {"loss": loss, "logits": logits}


class JointObjective(SeamObjective):
    """Both losses at once: features and classifier learn under Eq. 3-5 while the refiner learns under Eq. 7.

    The two share no parameter, since a refiner detaches the features and maps that it is given. It is given them as in
    the second phase, from a network that is not training: without drop connect, and so that the moved films with their
    black corners leave no trace in the statistics of batch normalisation.
    """

    monitor = ClassificationObjective.monitor

    def __init__(self, model: LocalizationModel, *, backbone: ClassifierStage, seam: SeamStage) -> None:
        """Freeze what neither phase trains.

        Raises:
            InputError: see `seam.SeamObjective`.
        """
        super().__init__(model, seam)
        freeze_for_classifier_stage(model, backbone)
        model.refiner.requires_grad_(True)
        self.smoothing = backbone.label_smoothing

    def forward(
        self, images: Tensor, labels: Tensor, *, generator: torch.Generator, part: slice = slice(None)
    ) -> dict[str, Tensor]:
        """Classify `part` of a batch and compare the branches; see `seam.SeamObjective.forward`.

        Returns:
            "loss", its parts "classification", "ecr" and "msml", and "logits" (B, 14).
        """
        classification, logits = classify(self.model, images, labels, part=part, smoothing=self.smoothing)
        with eval_mode(self.model):
            refinement = super().forward(images, labels, generator=generator, part=part)
        loss = classification + refinement["loss"]
        return {**refinement, "loss": loss, "classification": classification, "logits": logits}


def classify(
    model: LocalizationModel, images: Tensor, labels: Tensor, *, part: slice, smoothing: float
) -> tuple[Tensor, Tensor]:
    """The balanced cross-entropy of `part` of a batch, a scalar, and its logits (B, 14)."""
    logits = model(images, maps=False).logits
    return balanced_bce(logits, labels[part], batch=labels, smoothing=smoothing), logits


def freeze_for_classifier_stage(model: LocalizationModel, phase: ClassifierStage) -> None:
    """Freeze all of a model that the first phase does not train."""
    model.freeze_below(phase.freeze_below_stride, head=phase.train_head, freeze_bn_stats=phase.freeze_bn_stats)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation and back."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


def make_objective(model: LocalizationModel, recipe: Recipe) -> nn.Module:
    """The objective of the phase that `recipe` trains."""
    if recipe.joint:
        return JointObjective(model, backbone=recipe.classifier_stage, seam=recipe.seam_stage)
    if recipe.seam_stage is not None:
        return SeamObjective(model, recipe.seam_stage)
    return ClassificationObjective(model, recipe.classifier_stage)
