"""Compute FROC curves: accuracy against false positives per image, with boxes ranked by a score.

Source: Bunch et al. 1978 (free-response operating characteristic). Its value at fixed false positives per image is the
usual summary in lesion detection (Setio et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import PatientBootstrap, estimate, macro_mean, num_valid
from .matching import Matches, Measure

FROC_RATES = (0.25, 0.5, 1.0)
"""False positives per image and finding at which the curve is evaluated."""

SUMMARY_RATE = 0.5
"""The rate of `FROC_RATES` at which methods are ranked."""

CURVE_POINTS, SMALLEST_RATE = 100, 0.01
"""Points of a plotted curve: 0, then evenly spaced on a logarithmic axis from 0.01."""

BATCH = 125  # replicates at a time: weights of 880 images and 2,000 false positives in each are 2 MB in int64


@dataclass(frozen=True, eq=False)
class FindingCurve:
    """Boxes of one finding, grouped into levels of equal score, highest score first.

    Attributes:
        false_image: (F,) image of each false positive, sorted by level.
        level_end: (L + 2,) number of false positives before each level and after the last one (twice).
        true_image: (T,) image of each true box.
        true_level: (T,) level of the first box that finds it; L = never found.
    """

    false_image: np.ndarray
    level_end: np.ndarray
    true_image: np.ndarray
    true_level: np.ndarray

    def accuracy(self, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Compute the accuracy at given numbers of false positives.

        Args:
            targets: (D, X) numbers of false positives in each of D replicates.
            weights: (D, N) how often each replicate has each image.

        Returns:
            (D, X) float64, NaN in replicates without a true box.
        """
        ends = self._false_positives(targets.max(), weights)
        # all levels that end at or before the target are included, and a part of the next one
        level = np.stack([np.searchsorted(e[1:-1], t, side="right") for e, t in zip(ends, targets, strict=True)])
        before, after = (np.take_along_axis(ends, index, axis=1) for index in (level, level + 1))
        part = np.divide(targets - before, after - before, out=np.zeros(targets.shape), where=after > before)
        count = weights[:, self.true_image].astype(np.float64)  # (D, T)
        full, partial = self.true_level < level[..., None], self.true_level == level[..., None]  # (D, X, T)
        found = np.einsum("dxt,dt->dx", full, count) + part * np.einsum("dxt,dt->dx", partial, count)
        total = count.sum(axis=1, keepdims=True)
        return np.divide(found, total, out=np.full(found.shape, np.nan), where=total > 0)

    def _false_positives(self, most: float, weights: np.ndarray) -> np.ndarray:
        """Count the false positives of each replicate at `level_end`; levels above `most` are left out if possible."""
        for levels in (np.searchsorted(self.level_end, 2 * most + 500), len(self.level_end)):
            level_end = self.level_end[:levels]
            images = self.false_image[: level_end[-1]]
            counts = np.pad(np.cumsum(weights[:, images], axis=1, dtype=np.int64), ((0, 0), (1, 0)))[:, level_end]
            if (counts[:, -1] > most).all():
                break
        return counts


@dataclass(frozen=True, eq=False)
class Froc:
    """FROC curves of one method: N images and one curve for each finding."""

    images: int
    curves: dict[str, FindingCurve]

    def at(self, rate: float) -> dict[str, float]:
        """Return the accuracy at `rate` false positives per image of each finding and "macro"; NaN = not defined."""
        values = self.accuracies([rate], np.ones((1, self.images), dtype=np.uint8))[0, 0]
        macro = float(macro_mean(values, defined=~np.isnan(values)))
        return dict(zip([*self.curves, "macro"], [*values.tolist(), macro], strict=True))

    def macro_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return 100 false positives per image and finding, and the mean accuracy of the findings there.

        The last point is the end of the longest curve (at least 1 false positive per image).
        """
        last = max(len(curve.false_image) for curve in self.curves.values()) / self.images
        rates = np.concatenate([[0], np.geomspace(SMALLEST_RATE, max(1, last), CURVE_POINTS - 1)])
        values = self.accuracies(rates, np.ones((1, self.images), dtype=np.uint8))[0]
        return rates, macro_mean(values, defined=~np.isnan(values[0]))

    def accuracies(self, rates: Sequence[float] | np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Compute accuracies at false positives per image `rates` (X,) for weights (D, N); (D, X, K), NaN = none."""
        # Rounded, because 0.29 * 100 is a little less than 29 and would miss the 29th false positive.
        targets = np.round(weights.sum(axis=1, dtype=np.float64)[:, None] * np.asarray(rates, dtype=np.float64), 9)
        return np.stack([curve.accuracy(targets, weights) for curve in self.curves.values()], axis=-1)


def froc(matches: Matches, *, measure: Measure = "iou", threshold: float = 0.1) -> Froc:
    """Compute the FROC curve of each finding.

    Boxes are ranked by `Matches.score`, the raw score of the finding times the peak of the heat map in the box. A
    threshold on the score falls: boxes with at least this score are included. A true box is found by the first box that
    overlaps it by more than `threshold`; a box that overlaps no true box of its image and finding by more is a false
    positive; further boxes on a true box that is already found are neither. A point of the curve is (false positives /
    images, found / true boxes); the first point is (0, 0).

    Boxes of equal score have no order, so the curve is a straight line between the point before them and the point
    after them. At a rate with several accuracies the largest one counts; beyond its end a curve keeps its last
    accuracy.

    Args:
        matches: predicted and true boxes, see `match`.
        measure: "iou" or "iobb".
        threshold: the overlap must be larger.
    """
    false, _ = matches.fp_and_tp(measure, threshold)
    matched = matches.overlaps[measure] > threshold
    first = np.full(len(matches.true_image), -np.inf)  # score of the first box that finds each true box
    np.maximum.at(first, matches.pair_true[matched], matches.score[matches.pair_predicted[matched]])
    curves = {}
    for number, finding in enumerate(matches.findings):
        rows = np.flatnonzero(false & (matches.predicted_finding == number))
        true = matches.true_finding == number
        negated, first_negated = -matches.score[rows], -first[true]
        levels = np.unique(np.concatenate([negated, first_negated[np.isfinite(first_negated)]]))
        false_level = np.searchsorted(levels, negated)
        ends = np.cumsum(np.bincount(false_level, minlength=len(levels)))
        curves[finding] = FindingCurve(
            false_image=matches.predicted_image[rows[np.argsort(false_level, kind="stable")]],
            level_end=np.concatenate([[0], ends, [len(rows)]]).astype(np.int64),
            true_image=matches.true_image[true],
            true_level=np.searchsorted(levels, first_negated),  # inf: after the last level
        )
    return Froc(matches.images, curves)


def froc_scores(curve: Froc, bootstrap: PatientBootstrap) -> tuple[dict[str, Any], np.ndarray]:
    """Return the estimates at `FROC_RATES`, the points of the macro curve, and the replicates of the summary value."""
    batches = [
        curve.accuracies(FROC_RATES, bootstrap.weights(start, start + BATCH))
        for start in range(0, len(bootstrap), BATCH)
    ]
    at_fp_rate, samples = {}, {}
    for rate, replicates in zip(FROC_RATES, np.moveaxis(np.concatenate(batches), 1, 0), strict=True):
        *findings, (_, macro) = curve.at(rate).items()
        samples[rate] = macro_mean(replicates, defined=~np.isnan([value for _, value in findings]))
        at_fp_rate[str(rate)] = {
            "findings": {name: estimate(value, replicates[:, i]) for i, (name, value) in enumerate(findings)},
            "macro": estimate(macro, samples[rate]),
            "n_valid_replicates": num_valid(samples[rate]),
        }
    rates, accuracy = curve.macro_curve()
    defined = ~np.isnan(accuracy)  # all or none
    points = {"false_positives_per_image": rates[defined].tolist(), "accuracy": accuracy[defined].tolist()}
    return {"at_fp_rate": at_fp_rate, "curve": points}, samples[SUMMARY_RATE]
