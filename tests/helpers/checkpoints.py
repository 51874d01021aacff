"""Checkpoints of models that were never trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cxr_seam.findings import FINDINGS
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, ScoreCalibration, save_checkpoint
from cxr_seam.recipes import Recipe


def make_scores(threshold: float = 0.5, *, findings: Sequence[str] = FINDINGS) -> dict[str, ScoreCalibration]:
    """Make the same calibration for all findings: a quarter of 40 images is positive; thresholds 0.1 apart."""
    thresholds = {"youden": threshold, "sensitivity_90": threshold - 0.1, "specificity_90": threshold + 0.1}
    return dict.fromkeys(findings, ScoreCalibration(10, 30, slope=0.5, intercept=-1.0, thresholds=thresholds))


def save_untrained(path: Path, recipe: Recipe) -> Path:
    """Save a model with random weights, and scores for all findings but one (Hernia)."""
    torch.manual_seed(0)
    metadata = Checkpoint(recipe, epoch=1, scores=make_scores() | {"Hernia": ScoreCalibration(0, 40)})
    return save_checkpoint(path, build_model(recipe.model, weights="none"), metadata=metadata)
