"""Give scores a meaning: calibrated probabilities and decisions, from the validation images.

The raw score of a finding is the sigmoid of its logit, in [0, 1]. It ranks images and is no probability, because the
training weights positive and negative images alike. The calibrated probability is sigmoid(slope * logit + intercept),
Platt scaling. It has the same order, so it ranks images in the same way.

Platt scaling is preferred to isotonic regression: validation images have few positives of most findings. Two parameters
can be fitted to a few dozen positives. Isotonic regression fits a step for almost every positive image, and its steps
give different scores the same probability.

A calibrated probability holds for images like the validation images. If only the prevalence of the finding differs,
Bayes' rule corrects it: the odds are multiplied by the ratio of the prior odds.

Sources: Platt 1999; Saerens et al. 2002, Eq. 2.4 (prevalence).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from ..findings import FINDINGS, OPERATING_POINTS, canonical_finding
from ..metrics.classification import check_scores, choose_thresholds
from ..models.checkpoint import ScoreCalibration

MIN_IMAGES = 10
"""A finding with fewer positive or fewer negative validation images has no calibrated probability."""


def fit_scores(
    labels: np.ndarray, logits: np.ndarray, *, findings: Sequence[str] = FINDINGS
) -> dict[str, ScoreCalibration]:
    """Fit calibration and thresholds of each finding on validation images; unknown labels are left out.

    Args:
        labels: (N, K) of 0, 1 and NaN.
        logits: (N, K) finite.
        findings: names of the K findings.

    Raises:
        InputError: see `metrics.classification.check_scores`.
    """
    labels, logits = check_scores(labels, logits, findings=findings)
    thresholds = choose_thresholds(labels, raw_scores(logits), findings=findings)
    scores = {}
    for i, finding in enumerate(findings):
        known = ~np.isnan(labels[:, i])
        slope, intercept = fit_platt(labels[known, i], logits[known, i])
        scores[finding] = ScoreCalibration(
            positives=int((labels[:, i] == 1).sum()),
            negatives=int((labels[:, i] == 0).sum()),
            slope=slope,
            intercept=intercept,
            thresholds={
                point: None if np.isnan(values[i]) else float(values[i]) for point, values in thresholds.items()
            },
        )
    return scores


def fit_platt(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """Fit Platt scaling of one finding: a logistic regression of the labels on the logits.

    scikit-learn's default penalty applies to the slope of the standardised logits. It keeps the slope finite if a
    threshold separates all positive from all negative images. The intercept has no penalty, so the mean calibrated
    probability of these images is the prevalence.

    Args:
        labels: (N,) of 0 and 1.
        logits: (N,) finite.

    Returns:
        Slope and intercept. None and None with fewer than `MIN_IMAGES` positive or negative images, or if higher logits
        are not more often positive.
    """
    from sklearn.linear_model import LogisticRegression

    positives = int((labels == 1).sum())
    spread = logits.std() if len(logits) else 0.0
    if min(positives, len(labels) - positives) < MIN_IMAGES or spread == 0:
        return None, None
    standardised = (logits - logits.mean()) / spread
    fitted = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(standardised[:, None], labels)
    slope = float(fitted.coef_[0, 0]) / spread
    return (float(slope), float(fitted.intercept_[0] - slope * logits.mean())) if slope > 0 else (None, None)


def raw_scores(logits: np.ndarray) -> np.ndarray:
    """Return the sigmoid of logits of any shape, float64 in [0, 1]; large logits do not overflow."""
    from scipy.special import expit

    return expit(np.asarray(logits, dtype=np.float64))


def prior_shift(fitted: float, given: float) -> float:
    """Return the change of the logit of a probability if the prevalence is `given` and not the `fitted` one.

    Bayes' rule: odds' = odds * (given / (1 - given)) / (fitted / (1 - fitted)). Both are above 0 and below 1.
    """
    return math.log(given) - math.log1p(-given) - (math.log(fitted) - math.log1p(-fitted))


@dataclass(frozen=True)
class Calibrator:
    """Turn the logits of a model into calibrated probabilities and decisions.

    Attributes:
        findings: names of the K findings, in the order of the logits.
        scores: finding -> values from the checkpoint; a finding may be missing.
        operating_point: one of `OPERATING_POINTS`.
        prevalence: finding -> fraction of images with the finding where the model is used, above 0 and below 1. By
            default it is that of the validation images.

    Raises:
        InputError: the operating point or a finding is unknown, a prevalence is out of range, or it is given for a
            finding without a calibration.
    """

    findings: tuple[str, ...]
    scores: Mapping[str, ScoreCalibration]
    operating_point: str = "youden"
    prevalence: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_operating_point(self.operating_point)
        given = {canonical_finding(name, self.findings): value for name, value in self.prevalence.items()}
        for finding, value in given.items():
            if not 0 < value < 1:
                raise InputError(f"the prevalence of {finding} is {value}; it must be above 0 and below 1")
            if reason := self.missing.get(finding):
                raise InputError(f"{finding} has no calibrated probability ({reason}); give no prevalence for it")
        object.__setattr__(self, "prevalence", given)

    @property
    def missing(self) -> dict[str, str]:
        """Findings without a calibrated probability, each with the reason."""
        return {
            finding: reason_without_calibration(self.scores.get(finding))
            for finding in self.findings
            if finding not in self.scores or self.scores[finding].slope is None
        }

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Return slope and intercept, (K,) float64 each, NaN without a calibration; the prevalence is included."""
        slopes, intercepts = np.full((2, len(self.findings)), np.nan)
        for i, finding in enumerate(self.findings):
            score = self.scores.get(finding)
            if score is not None and score.slope is not None:
                slopes[i], intercepts[i] = score.slope, score.intercept
                if finding in self.prevalence:
                    intercepts[i] += prior_shift(prevalence_of(score), self.prevalence[finding])
        return slopes, intercepts

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities of logits (..., K), float64; NaN without a calibration."""
        slopes, intercepts = self.coefficients()
        return raw_scores(slopes * np.asarray(logits, dtype=np.float64) + intercepts)

    def thresholds(self, operating_point: str | None = None) -> np.ndarray:
        """Return the thresholds of the raw scores, (K,) float64, NaN = none; by default at the chosen point."""
        point = check_operating_point(operating_point or self.operating_point)
        values = [self.scores[f].thresholds.get(point) if f in self.scores else None for f in self.findings]
        return np.array([np.nan if value is None else value for value in values])


def check_operating_point(name: str) -> str:
    """Return the name of an operating point.

    Raises:
        InputError: it is unknown.
    """
    if name not in OPERATING_POINTS:
        raise InputError(f"unknown operating point {name!r}; choose one of {', '.join(OPERATING_POINTS)}")
    return name


def prevalence_of(score: ScoreCalibration) -> float:
    """Return the fraction of the validation images with the finding; there must be such images."""
    return score.positives / (score.positives + score.negatives)


def reason_without_calibration(score: ScoreCalibration | None) -> str:
    """Say why a finding has no calibrated probability."""
    if score is None:
        return "not measured on validation images"
    for kind, count in (("positive", score.positives), ("negative", score.negatives)):
        if count < MIN_IMAGES:
            return f"{count} {kind} validation images, at least {MIN_IMAGES} are needed"
    return "its scores do not rise with the labels of the validation images"
