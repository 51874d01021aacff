"""Measure the overlap of boxes (IoU, IoBB) and match predicted boxes with true ones.

Boxes are arrays of x, y, w, h: left edge, upper edge, width, height, as fractions of the image in [0, 1]. A box covers
the half-open ranges [x, x + w) and [y, y + h).

Tables of boxes have the columns `image_index`, `finding`, `x`, `y`, `w`, `h`. Predicted boxes may also have `score`,
the peak of the heat map inside the box, and `probability` of the finding on the image.

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


def box_overlap(predicted: np.ndarray, true: np.ndarray, *, measure: Measure) -> np.ndarray:
    """Compute the overlap of boxes with broadcast leading axes.

    "iou": intersection / union. "iobb": intersection / area of the PREDICTED box (Wang et al. 2017). If the divisor is
    zero, the overlap is 0.

    Args:
        predicted: (..., 4) x, y, w, h.
        true: (..., 4) x, y, w, h in the same unit.
        measure: "iou" or "iobb".

    Returns:
        float64 in [0, 1] of the broadcast leading shape.
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
    """Compute the intersection over the area of the predicted box, (M, K), for boxes (M, 4) and (K, 4).

    Source: Wang et al. 2017. A small predicted box inside a true box has an IoBB of 1; a predicted box of the size of
    the image has a low IoBB.
    """
    return box_overlap(np.asarray(predicted)[:, None], np.asarray(true)[None], measure="iobb")


PREDICTED_COLUMNS = ["image_index", "finding", *XYWH, "score"]


@dataclass(frozen=True, eq=False)
class Matches:
    """Predicted boxes (P), true boxes (T), and the pairs (K) with the same image and finding.

    Attributes:
        images: N, the number of images.
        predicted_image, predicted_finding: (P,) indices of the image and of the finding in `BOXED_FINDINGS`.
        score: (P,) float64 ranking score, see `ranking_score`.
        true_image, true_finding: (T,) the same of the true boxes.
        pair_predicted, pair_true: (K,) which predicted and which true box.
        overlaps: (K,) float64 for each measure.
    """

    images: int
    predicted_image: np.ndarray
    predicted_finding: np.ndarray
    score: np.ndarray
    true_image: np.ndarray
    true_finding: np.ndarray
    pair_predicted: np.ndarray
    pair_true: np.ndarray
    overlaps: dict[Measure, np.ndarray]

    def pairs(self, measure: Measure, threshold: float) -> np.ndarray:
        """Return which pairs overlap by more than `threshold`, (K,) bool."""
        return self.overlaps[measure] > threshold

    def fp_and_tp(self, measure: Measure, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the false positives (P,) bool and the correct (found) true boxes (T,) bool."""
        matched = self.pairs(measure, threshold)
        false = np.ones(len(self.predicted_image), dtype=bool)
        false[self.pair_predicted[matched]] = False
        correct = np.zeros(len(self.true_image), dtype=bool)
        correct[self.pair_true[matched]] = True
        return false, correct


def match(predicted: pd.DataFrame, truth: pd.DataFrame, *, images: Sequence[str]) -> Matches:
    """Pair predicted and true boxes of the same image and finding, and compute their overlaps.

    Boxes of other images and of the six findings without true boxes are left out. An image and finding may have several
    true boxes.

    Args:
        predicted: table of boxes, see the module; `score` and `probability` may be missing.
        truth: table of boxes.
        images: the images that boxes were predicted on, each once, also those without a predicted box.

    Raises:
        InputError: `images` is empty or names an image twice, or a score is not finite.
    """
    images = pd.Index(images, dtype=object)
    if len(images) == 0 or images.has_duplicates:
        raise InputError("images must name at least one image and each only once")
    predicted_cell, predicted_xywh, rows = _cells(predicted, images)
    true_cell, true_xywh, _ = _cells(truth, images)
    pairs = pd.DataFrame({"cell": predicted_cell, "predicted": np.arange(len(predicted_cell))}).merge(
        pd.DataFrame({"cell": true_cell, "true": np.arange(len(true_cell))}), on="cell"
    )
    first, second = pairs["predicted"].to_numpy(), pairs["true"].to_numpy()
    predicted_image, predicted_finding = np.divmod(predicted_cell, len(BOXED_FINDINGS))
    true_image, true_finding = np.divmod(true_cell, len(BOXED_FINDINGS))
    return Matches(
        images=len(images),
        predicted_image=predicted_image,
        predicted_finding=predicted_finding,
        score=ranking_score(predicted)[rows],
        true_image=true_image,
        true_finding=true_finding,
        pair_predicted=first,
        pair_true=second,
        overlaps={m: box_overlap(predicted_xywh[first], true_xywh[second], measure=m) for m in ("iobb", "iou")},
    )


def ranking_score(predicted: pd.DataFrame) -> np.ndarray:
    """Return the ranking score (P,) of boxes: `probability` of the finding times `score`; missing columns count as 1.

    The score alone cannot rank boxes of different images, because the best box of every heat map has a score of 1.

    Raises:
        InputError: a score is not finite.
    """
    score = np.ones(len(predicted))
    for column in ("score", "probability"):
        if column in predicted:
            score = score * predicted[column].to_numpy(dtype=np.float64)
    if not np.isfinite(score).all():
        row = int(np.argmin(np.isfinite(score)))
        raise InputError(f"the score of predicted box {row} is not finite, so boxes cannot be ranked")
    return score


def rank_by_probability(boxes: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
    """Add the column `probability`, the probability of the finding on the image, which ranks and filters the boxes.

    This also works for boxes of a baseline: centre boxes ranked by the probabilities of a model measure how much its
    classifier alone localizes.

    Args:
        boxes: predicted boxes.
        probabilities: index: image_index; columns: findings; values in [0, 1].

    Raises:
        InputError: an image or finding has no probability, or one is not in [0, 1].
    """
    row = probabilities.index.get_indexer(boxes["image_index"])
    column = probabilities.columns.get_indexer(boxes["finding"])
    if (missing := (row < 0) | (column < 0)).any():
        image, finding = boxes[["image_index", "finding"]].to_numpy()[int(np.argmax(missing))]
        raise InputError(f"there is no probability of {finding} on {image}; classify the images of the boxes")
    values = probabilities.to_numpy(dtype=np.float64)[row, column]
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("the probability of a box is not in [0, 1]; give probabilities, not logits")
    return boxes.assign(probability=values)


def filter_by_probability(predicted: pd.DataFrame) -> pd.DataFrame:
    """Keep the boxes of findings with a probability above 0.5, as the authors' program (not the paper) does.

    Without the column `probability` all boxes are kept.
    """
    return predicted[predicted["probability"] > 0.5] if "probability" in predicted else predicted


def macro_mean(values: np.ndarray, *, defined: np.ndarray) -> np.ndarray:
    """Average the last axis over the findings that are `defined` (8,) on all images.

    NaN if one of them is NaN, for example in a replicate without true boxes of this finding, because a mean over fewer
    findings does not compare. NaN also if no finding is defined.
    """
    return values[..., defined].mean(axis=-1) if defined.any() else np.full(values.shape[:-1], np.nan)


def _cells(boxes: pd.DataFrame, images: pd.Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image * 8 + finding of the boxes that count, their x, y, w, h, and their rows."""
    image = images.get_indexer(boxes["image_index"])
    finding = pd.Index(BOXED_FINDINGS, dtype=object).get_indexer(boxes["finding"])
    rows = np.flatnonzero((image >= 0) & (finding >= 0))
    xywh = boxes[XYWH].to_numpy(dtype=np.float64)[rows]
    return image[rows] * len(BOXED_FINDINGS) + finding[rows], xywh, rows
