"""FROC: the accuracy that a number of false positives buys, boxes ranked by a score.

Source: Bunch et al. 1978 (the free-response operating characteristic); its value at fixed false positives per image
is the usual summary in lesion detection (Setio et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import BOXED_FINDINGS
from .boxes import Matches, Measure, macro_mean, match

CURVE_POINTS = 100


SMALLEST_RATE = 0.01
"""False positives per image from which a drawn curve's points are spaced evenly on a logarithmic axis."""


_FIRST_LEVELS = 512  # of false positives looked at; doubled until every draw has enough of them


@dataclass(frozen=True, eq=False)
class Ranking:
    """One finding's boxes in the order in which a falling threshold on the score lets them in.

    False positives of equal score come in together: a level. Only levels move the curve to the right.

    Attributes:
        false_image: (F,) image of each false positive, highest score first.
        level_end: (L,) how many of them have come in by the end of each level.
        true_image: (T,) image of each true box.
        levels_before: (T,) how many levels have a higher score than the first box that finds it; L + 1 = never found.
        tied: (T,) bool, that box has the very score of the next level.
    """

    false_image: np.ndarray
    level_end: np.ndarray
    true_image: np.ndarray
    levels_before: np.ndarray
    tied: np.ndarray

    def accuracy(self, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Accuracy at given false positives, where images count several times or not at all.

        Args:
            targets: (D, X) how many false positives are allowed, in each of D draws.
            weights: (D, N) how often each draw has each image.

        Returns:
            (D, X) float64, NaN in draws without a true box.
        """
        false = self._false_positives(targets.max(axis=1), weights)  # (D, L')
        level = np.stack([np.searchsorted(f, t, side="right") for f, t in zip(false, targets, strict=True)])  # (D, X)
        ends = np.pad(false, ((0, 0), (1, 1)), mode="edge" if false.shape[1] else "constant")
        ends[:, 0] = 0
        before, after = (np.take_along_axis(ends, at, axis=1) for at in (level, level + 1))
        step = after - before  # 0 after the last level, where nothing is tied any more
        part = np.divide(targets - before, step, out=np.zeros(targets.shape), where=step > 0)

        count = weights[:, self.true_image].astype(np.float64)  # (D, T)
        here = self.levels_before == level[..., None]  # (D, X, T)
        full = (self.levels_before < level[..., None]) | (here & ~self.tied)
        found = np.einsum("dxt,dt->dx", full, count) + part * np.einsum("dxt,dt->dx", here & self.tied, count)
        total = count.sum(axis=1, keepdims=True)
        return np.divide(found, total, out=np.full(found.shape, np.nan), where=total > 0)

    def _false_positives(self, enough: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """How many false positives (D, L') each draw has by the end of each level, for as many levels as matter."""
        levels = 0
        while True:
            levels = min(max(2 * levels, _FIRST_LEVELS), len(self.level_end))
            ends = self.level_end[:levels]
            images = self.false_image[: ends[-1] if levels else 0]
            false = np.cumsum(weights[:, images], axis=1, dtype=np.int64)[:, ends - 1]
            if levels == len(self.level_end) or (false[:, -1] > enough).all():
                return false


@dataclass(frozen=True, eq=False)
class Froc:
    """The FROC curves of one method at one measure and threshold, a ranking for each of the eight findings."""

    images: int
    rankings: dict[str, Ranking]

    def at(self, x: float) -> dict[str, float]:
        """Accuracy at `x` false positives per image: of each finding, and their mean as "macro"; NaN = not defined."""
        values = self.accuracies([x], self._once())[0, 0]
        macro = float(macro_mean(values, defined=~np.isnan(values)))
        return dict(zip([*self.rankings, "macro"], [*values.tolist(), macro], strict=True))

    def curve(self, finding: str) -> tuple[np.ndarray, np.ndarray]:
        """One finding's curve at the points of `macro_curve`: false positives per image, accuracy."""
        x = self._rates()
        return x, self.accuracies(x, self._once())[0, :, list(self.rankings).index(finding)]

    def macro_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return false positives per image and finding, and the mean of the findings' accuracies there.

        At most 100 points: 0, then evenly spaced on a logarithmic axis from 0.01 to where the last finding's curve
        ends (1 at least).
        """
        x = self._rates()
        values = self.accuracies(x, self._once())[0]
        return x, macro_mean(values, defined=~np.isnan(values[0]))

    def accuracies(self, x: Sequence[float] | np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Accuracy at false positives per image `x` (X,) in draws of images, weights (D, N): (D, X, 8), NaN = none.

        Raises:
            InputError: an x is negative.
        """
        x = np.asarray(x, dtype=np.float64)
        if not (x >= 0).all():
            raise InputError(f"false positives per image cannot be {x.min()}; choose 0 or more")
        # Rounded, since 0.29 * 100 is a little less than 29 and would miss what the 29th false positive brings.
        targets = np.round(weights.sum(axis=1, dtype=np.float64)[:, None] * x, 9)
        return np.stack([ranking.accuracy(targets, weights) for ranking in self.rankings.values()], axis=-1)

    def _once(self) -> np.ndarray:
        return np.ones((1, self.images), dtype=np.uint8)

    def _rates(self) -> np.ndarray:
        last = max(len(ranking.false_image) for ranking in self.rankings.values()) / self.images
        return np.concatenate([[0], np.geomspace(SMALLEST_RATE, max(1, last), CURVE_POINTS - 1)])


def froc(
    predicted: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    images: Sequence[str],
    measure: Measure = "iou",
    threshold: float = 0.1,
) -> Froc:
    """Rank the boxes of each finding over all images and follow accuracy against false positives per image.

    The ranking score is `probability` * `score`: the probability of the finding on the film times the peak of the
    normalised heat map inside the contour (`matching.ranking_score`). A threshold on it falls from above: boxes with
    at least that score are in. A true box is found from the first box on that overlaps it by more than `threshold`;
    a box that overlaps no true box of its image and finding by more is a false positive; further boxes on a true box
    that is already found are neither. An operating point is (false positives / images, found / true boxes); the
    first is (0, 0).

    Boxes of equal score have no order, so the curve goes straight from the operating point before them to the one
    after them. At x false positives per image the accuracy is the largest that the curve has there; where a curve ends
    before x it keeps its last accuracy.

    Args:
        predicted, truth, images: see `matching.match`.
        measure: "iou" or "iobb".
        threshold: T; the overlap must be larger.

    Raises:
        InputError: see `matching.match`; or the measure is unknown.
    """
    return froc_from_matches(match(predicted, truth, images=images), measure=measure, threshold=threshold)


def froc_from_matches(matches: Matches, *, measure: Measure, threshold: float) -> Froc:
    """`froc` of boxes that are matched already."""
    false, _ = matches.fp_and_tp(measure, threshold)
    matched = matches.pairs(measure, threshold)
    first = np.full(len(matches.true_image), -np.inf)  # score of the first box that finds each true box
    np.maximum.at(first, matches.pair_true[matched], matches.score[matches.pair_predicted[matched]])
    rankings = {}
    for number, finding in enumerate(BOXED_FINDINGS):
        rows = np.flatnonzero(false & (matches.predicted_finding == number))
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        level, start = np.unique(-matches.score[rows], return_index=True)  # scores with the sign turned, so rising
        end = np.append(start[1:], len(rows)) if len(rows) else start
        true = matches.true_finding == number
        before = np.searchsorted(level, -first[true], side="left")
        tied = np.append(level, np.nan)[before] == -first[true]
        never = np.isneginf(first[true])
        rankings[finding] = Ranking(
            false_image=matches.predicted_image[rows],
            level_end=end,
            true_image=matches.true_image[true],
            levels_before=np.where(never, len(level) + 1, before),
            tied=tied & ~never,
        )
    return Froc(matches.images, rankings)
