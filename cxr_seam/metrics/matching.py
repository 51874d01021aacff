"""Measure the overlap of boxes (IoU, IoBB) and match predicted boxes with true ones.

Boxes are arrays of x, y, w, h: left edge, upper edge, width, height, as fractions of the image in [0, 1]. A box covers
the half-open ranges [x, x + w) and [y, y + h).

Tables of boxes have the columns `image_index`, `finding`, `x`, `y`, `w`, `h`. Predicted boxes may also have `score`,
the peak of the heat map inside the box, and `raw_score` of the finding on the image.

Source: D'Souza et al. 2022, section 5.3; Wang et al. 2017 (IoBB).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import BOXED_FINDINGS, XYWH

Measure = Literal["iobb", "iou"]
PREDICTED_COLUMNS = ["image_index", "finding", *XYWH, "score"]


def box_overlap(predicted: np.ndarray, true: np.ndarray, *, measure: Measure) -> np.ndarray:
    """Compute the overlap of boxes (..., 4) with broadcast leading axes, float64 in [0, 1].

    "iou": intersection / union. "iobb": intersection / area of the PREDICTED box (Wang et al. 2017). A small predicted
    box inside a true box has an IoBB of 1; a predicted box of the size of the image has a low one. If the divisor is
    zero, the overlap is 0.
    """
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    upper_left = np.maximum(predicted[..., :2], true[..., :2])
    lower_right = np.minimum(predicted[..., :2] + predicted[..., 2:], true[..., :2] + true[..., 2:])
    intersection = np.clip(lower_right - upper_left, 0, None).prod(axis=-1)
    divisor = predicted[..., 2:].prod(axis=-1)
    if measure == "iou":
        divisor = divisor + true[..., 2:].prod(axis=-1) - intersection
    return np.divide(intersection, divisor, out=np.zeros_like(intersection), where=divisor > 0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of boxes `a` (M, 4) and `b` (K, 4), (M, K)."""
    return box_overlap(np.asarray(a)[:, None], np.asarray(b)[None], measure="iou")


def iobb(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Compute the intersection over the area of the predicted box, (M, K), for boxes (M, 4) and (K, 4)."""
    return box_overlap(np.asarray(predicted)[:, None], np.asarray(true)[None], measure="iobb")


@dataclass(frozen=True, eq=False)
class Matches:
    """Predicted boxes (P), true boxes (T), and the pairs (K) with the same image and finding.

    Attributes:
        findings: names of the findings.
        images: number of images.
        predicted_image, predicted_finding: (P,) indices of the image and of the finding.
        score: (P,) float64, `raw_score` of the finding times `score`; a missing column counts as 1. The score alone
            cannot rank boxes of different images, because the best box of every heat map has a score of 1.
        true_image, true_finding: (T,) the same of the true boxes.
        pair_predicted, pair_true: (K,) which predicted and which true box.
        overlaps: (K,) float64 for each measure.
    """

    findings: tuple[str, ...]
    images: int
    predicted_image: np.ndarray
    predicted_finding: np.ndarray
    score: np.ndarray
    true_image: np.ndarray
    true_finding: np.ndarray
    pair_predicted: np.ndarray
    pair_true: np.ndarray
    overlaps: dict[Measure, np.ndarray]

    def fp_and_tp(self, measure: Measure, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the false positives (P,) and the correct true boxes (T,), bool, at an overlap above `threshold`."""
        matched = self.overlaps[measure] > threshold
        false = np.ones(len(self.predicted_image), dtype=bool)
        false[self.pair_predicted[matched]] = False
        correct = np.zeros(len(self.true_image), dtype=bool)
        correct[self.pair_true[matched]] = True
        return false, correct


def boxed_findings(findings: Sequence[str], truth: pd.DataFrame) -> tuple[str, ...]:
    """Return the findings that have a true box, in the order of `findings`: those that can be scored."""
    boxed = set(truth["finding"])
    return tuple(finding for finding in findings if finding in boxed)


def match(
    predicted: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    images: Sequence[str],
    findings: Sequence[str] = BOXED_FINDINGS,
) -> Matches:
    """Pair predicted and true boxes of the same image and finding, and compute their overlaps.

    Boxes of other images and findings are left out. An image and finding may have several true boxes.

    Args:
        predicted: table of boxes, see the module; `score` and `raw_score` may be missing.
        truth: table of boxes.
        images: the images that boxes were predicted on, each once, also those without a predicted box.
        findings: the findings that are scored, see `boxed_findings`.

    Raises:
        InputError: `images` is empty or names an image twice, or a score is not finite.
    """
    images = pd.Index(images, dtype=object)
    if len(images) == 0 or images.has_duplicates:
        raise InputError("images must name at least one image and each only once")
    predicted, true = (_index_boxes(boxes, images, findings) for boxes in (predicted, truth))
    score = np.ones(len(predicted))
    for column in predicted.columns.intersection(["score", "raw_score"]):
        score = score * predicted[column].to_numpy(dtype=np.float64)
    if not np.isfinite(score).all():
        raise InputError("the score of a predicted box is not finite, so boxes cannot be ranked")
    cell = ["image", "number"]
    pairs = predicted[cell].reset_index().merge(true[cell].reset_index(), on=cell)
    first, second = pairs["index_x"].to_numpy(), pairs["index_y"].to_numpy()
    predicted_xywh, true_xywh = (boxes[XYWH].to_numpy(dtype=np.float64) for boxes in (predicted, true))
    return Matches(
        findings=tuple(findings),
        images=len(images),
        predicted_image=predicted["image"].to_numpy(),
        predicted_finding=predicted["number"].to_numpy(),
        score=score,
        true_image=true["image"].to_numpy(),
        true_finding=true["number"].to_numpy(),
        pair_predicted=first,
        pair_true=second,
        overlaps={m: box_overlap(predicted_xywh[first], true_xywh[second], measure=m) for m in ("iobb", "iou")},
    )


def _index_boxes(boxes: pd.DataFrame, images: pd.Index, findings: Sequence[str]) -> pd.DataFrame:
    """Return the boxes that count, numbered from 0, with the indices of their `image` and finding (`number`)."""
    image = images.get_indexer(boxes["image_index"])
    number = pd.Index(findings, dtype=object).get_indexer(boxes["finding"])
    return boxes.assign(image=image, number=number)[(image >= 0) & (number >= 0)].reset_index(drop=True)


def rank_by_raw_score(boxes: pd.DataFrame, raw_scores: pd.DataFrame) -> pd.DataFrame:
    """Add the column `raw_score` of the finding on the image, which ranks and filters the boxes.

    This also works for boxes of a baseline: centre boxes ranked by the raw scores of a model measure how much its
    classifier alone localizes.

    Args:
        boxes: predicted boxes.
        raw_scores: index: image_index; columns: findings; values in [0, 1].

    Raises:
        InputError: an image or finding has no raw score.
    """
    row = raw_scores.index.get_indexer(boxes["image_index"])
    column = raw_scores.columns.get_indexer(boxes["finding"])
    if (missing := (row < 0) | (column < 0)).any():
        image, finding = boxes.loc[missing, ["image_index", "finding"]].iloc[0]
        raise InputError(f"there is no raw score of {finding} on {image}; classify the images of the boxes")
    return boxes.assign(raw_score=raw_scores.to_numpy(dtype=np.float64)[row, column])
