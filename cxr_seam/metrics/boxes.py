"""Measure the overlap of boxes (IoU, IoBB) and match predicted boxes with true ones.

Boxes are arrays of x, y, w, h: left edge, upper edge, width, height, as fractions of the image in [0, 1]. A box covers
the half-open ranges [x, x + w) and [y, y + h).

Tables of boxes have the columns `image_index`, `finding`, `x`, `y`, `w`, `h`. Predicted boxes may also have `score`, the
peak of the heat map inside the box, and `probability` of the finding on the image.

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
    """Measure the overlap of boxes whose leading axes broadcast, as NumPy broadcasts them.

    `iou`: intersection / union. `iobb`: intersection / area of the PREDICTED box (Wang et al. 2017). Where
    the divisor is zero the overlap is 0.

    Args:
        predicted: (..., 4) x, y, w, h.
        true: (..., 4) x, y, w, h in the same unit.
        measure: "iou" or "iobb".

    Returns:
        float64 in [0, 1] of the broadcast leading shape.

    Raises:
        InputError: the measure is unknown or the last axis does not hold four numbers.
    """
    if measure not in ("iobb", "iou"):
        raise InputError(f"unknown measure {measure!r}; choose 'iobb' or 'iou'")
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.shape[-1:] != (4,) or true.shape[-1:] != (4,):
        raise InputError(f"boxes must be x, y, w, h along the last axis, not {predicted.shape} and {true.shape}")
    upper_left = np.maximum(predicted[..., :2], true[..., :2])
    lower_right = np.minimum(
        predicted[..., :2] + predicted[..., 2:],
        true[..., :2] + true[..., 2:],
    )
    intersection = np.clip(lower_right - upper_left, 0, None).prod(axis=-1)
    divisor = predicted[..., 2:].prod(axis=-1)
    if measure == "iou":
        divisor = divisor + true[..., 2:].prod(axis=-1) - intersection
    return np.divide(intersection, divisor, out=np.zeros_like(intersection), where=divisor > 0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union of every box of `a` (M, 4) with every box of `b` (K, 4), as (M, K)."""
    return box_overlap(np.asarray(a)[:, None], np.asarray(b)[None], measure="iou")


def iobb(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return intersection over the area of the predicted box, for (M, 4) and (K, 4) boxes, as (M, K).

    Source: Wang et al. 2017. A small predicted box wholly inside a true one has an IoBB of 1; a predicted box
    that covers the whole image does not score high, unlike with intersection over the true box.
    """
    return box_overlap(np.asarray(predicted)[:, None], np.asarray(true)[None], measure="iobb")


PREDICTED_COLUMNS = ["image_index", "finding", *XYWH, "score"]


@dataclass(frozen=True, eq=False)
class Matches:
    """Predicted boxes (P), true boxes (T), and the overlap of each two (K) that share image and finding.

    Attributes:
        images: N, how many images the boxes were predicted on.
        predicted_image, predicted_finding: (P,) position in the images, and in `BOXED_FINDINGS`.
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
        """Return (K,) bool: the pairs that overlap by more than `threshold`.

        Raises:
            InputError: the measure is unknown.
        """
        if measure not in self.overlaps:
            raise InputError(f"unknown measure {measure!r}; choose 'iobb' or 'iou'")
        return self.overlaps[measure] > threshold

    def fp_and_tp(self, measure: Measure, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return (P,) bool, the false positives, and (T,) bool, the true boxes that are found."""
        matched = self.pairs(measure, threshold)
        false = np.ones(len(self.predicted_image), dtype=bool)
        false[self.pair_predicted[matched]] = False
        correct = np.zeros(len(self.true_image), dtype=bool)
        correct[self.pair_true[matched]] = True
        return false, correct


def match(predicted: pd.DataFrame, truth: pd.DataFrame, *, images: Sequence[str]) -> Matches:
    """Pair predicted and true boxes of the same image and finding, and measure their overlaps.

    Boxes of other images and of the six findings without true boxes are left out on both sides. Several true boxes
    for an image and finding are allowed.

    Args:
        predicted: see the module; `score` and `probability` may be missing.
        truth: see the module.
        images: the images the boxes were predicted on, each once. Also those where nothing was predicted.

    Raises:
        InputError: `images` is empty or names an image twice, a column is missing, or a score is not finite.
    """
    images = pd.Index(images, dtype=object)
    if len(images) == 0 or images.has_duplicates:
        raise InputError("images must name at least one image and each only once")
    predicted_cell, predicted_xywh, rows = _cells(predicted, images, "predicted")
    true_cell, true_xywh, _ = _cells(truth, images, "true")
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
    """Return the score (P,) that boxes of all films are ranked by: probability of the finding times `score`.

    The peak alone cannot rank: the best box of every map that is not empty has a peak of 1, since maps are divided by
    their maximum. Where a method has no probability it is taken as 1, and where a box has no score that is 1 too.

    Raises:
        InputError: a score is not finite.
    """
    score = np.ones(len(predicted))
    for column in ("score", "probability"):
        if column in predicted:
            score = score * predicted[column].to_numpy(dtype=np.float64)
    if not np.isfinite(score).all():
        row = int(np.argmin(np.isfinite(score)))
        raise InputError(f"the score of predicted box {row} is not finite; boxes cannot be ranked by it")
    return score


def check_heatmaps(heatmaps: np.ndarray, findings: Sequence[str], image_index: str) -> np.ndarray:
    """Return an image's heat maps (C, H, W) as an array.

    Raises:
        InputError: there are not as many maps as findings.
    """
    heatmaps = np.asarray(heatmaps)
    if heatmaps.ndim != 3 or len(heatmaps) != len(findings):
        raise InputError(
            f"{image_index}: {len(findings)} findings need heat maps of the shape ({len(findings)}, H, W), "
            f"not {heatmaps.shape}"
        )
    return heatmaps


def macro_mean(values: np.ndarray, *, defined: np.ndarray) -> np.ndarray:
    """Mean over the last axis, the findings, of those that are `defined` (8,) on all images.

    NaN where one of these is NaN, as in a draw that lacks all its true boxes: a mean over other findings is another
    number. NaN also where none is defined.
    """
    return values[..., defined].mean(axis=-1) if defined.any() else np.full(values.shape[:-1], np.nan)


def _cells(boxes: pd.DataFrame, images: pd.Index, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and finding of the boxes that count as one number, image * 8 + finding; their x, y, w, h; their rows."""
    missing = {"image_index", "finding", *XYWH} - set(boxes.columns)
    if missing:
        raise InputError(f"the table of {kind} boxes lacks the columns {', '.join(sorted(missing))}")
    image = images.get_indexer(boxes["image_index"])
    finding = pd.Index(BOXED_FINDINGS, dtype=object).get_indexer(boxes["finding"])
    rows = np.flatnonzero((image >= 0) & (finding >= 0))
    xywh = boxes[XYWH].to_numpy(dtype=np.float64)[rows]
    return image[rows] * len(BOXED_FINDINGS) + finding[rows], xywh, rows
