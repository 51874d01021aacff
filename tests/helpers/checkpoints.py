"""Checkpoints of models that were never trained."""

from __future__ import annotations

from pathlib import Path

import torch

from cxr_seam.findings import FINDINGS
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, save_checkpoint
from cxr_seam.recipes import Recipe


def save_untrained(path: Path, recipe: Recipe) -> Path:
    """Save a model with random weights, and thresholds for all findings but one (Hernia)."""
    torch.manual_seed(0)
    thresholds = dict.fromkeys(FINDINGS, 0.5) | {"Hernia": None}
    metadata = Checkpoint(recipe, epoch=1, thresholds=thresholds)
    return save_checkpoint(path, build_model(recipe.model, weights="none"), metadata=metadata)
