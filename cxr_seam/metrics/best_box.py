"""Say whether the best box of an image and finding is correct, for figures, the viewer and the report."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..recipes import CORRECT_IOU
from .localization import best_boxes
from .matching import iou, match


def best_iou(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the largest IoU of the best box, the first of `predicted` (K, 4), with `true` (M, 4); 0 without boxes."""
    return float(iou(predicted[:1], true).max(initial=0.0))


def is_correct(predicted: np.ndarray, true: np.ndarray) -> bool:
    """Return whether the best box, the first of `predicted` (K, 4), has an IoU above `CORRECT_IOU` with a true box."""
    return best_iou(predicted, true) > CORRECT_IOU


def score_best_boxes(boxes: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Score the best box of each image and finding that has a true box.

    Returns:
        Columns `image_index`, `finding`, `iou` (the largest IoU of the best box with a true box; 0 without a box) and
        `correct`, whether it is above `CORRECT_IOU`; sorted by image and finding.
    """
    key = ["image_index", "finding"]
    names = {"images": truth["image_index"].unique(), "findings": truth["finding"].unique()}
    matches = match(best_boxes(boxes), truth, **names)
    overlap = np.zeros(len(truth))
    np.maximum.at(overlap, matches.pair_true, matches.overlaps["iou"])
    table = truth[key].assign(iou=overlap).groupby(key)["iou"].max().reset_index()
    return table.assign(correct=table["iou"] > CORRECT_IOU)
