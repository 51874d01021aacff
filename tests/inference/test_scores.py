"""Calibration against direct maximisation, Bayes' rule by hand, and the properties that a calibrated score has."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr_seam.errors import InputError
from cxr_seam.inference.scores import Calibrator, fit_platt, fit_scores, prior_shift, raw_scores
from cxr_seam.models.checkpoint import ScoreCalibration

FINDINGS = ("Mass", "Nodule", "Hernia", "Edema", "Fibrosis")


def sample(images: int, *, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels that follow a logistic model of the logits."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(1, 2, images)
    return (generator.random(images) < raw_scores(slope * logits + intercept)).astype(np.float64), logits


@pytest.mark.parametrize(("images", "intercept"), [(300, -3.0), (300, 0.0), (5000, -4.0)])
def test_platt_scaling_maximises_the_penalised_likelihood(images: int, intercept: float) -> None:
    """A general optimiser on the standardised logits, with half of the squared slope as the penalty."""
    labels, logits = sample(images, slope=0.7, intercept=intercept)
    x = (logits - logits.mean()) / logits.std()

    def loss(parameters: np.ndarray) -> float:
        z = parameters[0] * x + parameters[1]
        return float(np.logaddexp(0, np.where(labels == 1, -z, z)).sum() + parameters[0] ** 2 / 2)

    best = minimize(loss, [0, 0], method="BFGS", options={"gtol": 1e-9}).x
    slope, offset = fit_platt(labels, logits)
    assert slope == pytest.approx(best[0] / logits.std(), rel=1e-5)
    assert offset == pytest.approx(best[1] - best[0] / logits.std() * logits.mean(), rel=1e-5)


def test_platt_scaling_without_penalty_is_almost_the_same_with_many_images() -> None:
    labels, logits = sample(20_000, slope=0.7, intercept=-2)
    free = LogisticRegression(C=1e9, tol=1e-9).fit(logits[:, None], labels)
    assert fit_platt(labels, logits) == pytest.approx((free.coef_[0, 0], free.intercept_[0]), rel=2e-3)
    assert fit_platt(labels, logits) == pytest.approx((0.7, -2), abs=0.1)  # the model that made the labels


@pytest.mark.parametrize("positives", [10, 20, 150])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_mean_calibrated_probability_is_the_prevalence(positives: int, scale: float) -> None:
    generator = np.random.default_rng(positives)
    labels = (np.arange(300) < positives).astype(np.float64)
    logits = scale * (generator.normal(size=300) + labels)
    score = fit_scores(labels[:, None], logits[:, None], findings=["Mass"])["Mass"]
    calibrated = Calibrator(("Mass",), {"Mass": score}).probabilities(logits[:, None])
    assert calibrated.mean() == pytest.approx(positives / 300, rel=1e-6)
    assert roc_auc_score(labels, calibrated[:, 0]) == roc_auc_score(labels, logits)


def test_separated_images_have_a_finite_calibration() -> None:
    labels = np.repeat([0.0, 1.0], 20)
    slope, intercept = fit_platt(labels, np.repeat([-1.0, 1.0], 20))
    low, high = raw_scores(np.array([-slope + intercept, slope + intercept]))
    assert 0 < low < 0.2 and 0.8 < high < 1 and low + high == pytest.approx(1)


def test_findings_without_a_calibration_say_why() -> None:
    """Nine positives; none; no order; equal logits; and unknown labels, which count for nothing."""
    generator = np.random.default_rng(0)
    labels = np.zeros((60, 5))
    labels[:9, 0] = labels[:20, 2] = labels[:20, 3] = labels[:20, 4] = 1
    labels[30:, 4] = np.nan
    logits = generator.normal(size=(60, 5)) + labels
    logits[:, 2] = np.linspace(-1, 1, 60)  # the positives are the lowest
    logits[:, 3] = 0.25
    logits[30:, 4] = 1e6
    scores = fit_scores(labels, logits, findings=FINDINGS)
    missing = Calibrator(FINDINGS, scores).missing
    assert list(missing) == ["Mass", "Nodule", "Hernia", "Edema"]
    assert "9 positive" in missing["Mass"] and "0 positive" in missing["Nodule"]
    assert (scores["Fibrosis"].positives, scores["Fibrosis"].negatives) == (20, 10)
    alone = fit_scores(labels[:30, 4:], logits[:30, 4:], findings=["Fibrosis"])
    assert scores["Fibrosis"] == alone["Fibrosis"]
    calibrated = Calibrator(FINDINGS, scores).probabilities(logits)
    assert np.isnan(calibrated).all(axis=0).tolist() == [True] * 4 + [False]
    thresholds = Calibrator(FINDINGS, scores).thresholds("sensitivity_90")
    assert np.isnan(thresholds).tolist() == [False, True, False, False, False]


def test_bayes_rule_by_hand() -> None:
    """Odds of 1/4 at a prevalence of 1/5 (odds 1/4); at 1/101 (odds 1/100) they are 1/100: the probability is 1/101."""
    assert prior_shift(0.2, 1 / 101) == pytest.approx(math.log(4 / 100))
    score = ScoreCalibration(20, 80, slope=1.0, intercept=0.0)
    logits = np.array([[math.log(1 / 4)], [math.log(3)]])
    same = Calibrator(("Mass",), {"Mass": score}, prevalence={"Mass": 0.2})
    rare = Calibrator(("Mass",), {"Mass": score}, prevalence={" Mass": 1 / 101})
    assert same.probabilities(logits)[:, 0] == pytest.approx([0.2, 0.75])
    assert rare.probabilities(logits)[:, 0] == pytest.approx([1 / 101, float(Fraction(12, 100) / Fraction(112, 100))])
    assert np.array_equal(rare.thresholds(), same.thresholds(), equal_nan=True)


def test_bayes_rule_corrects_a_sample_of_another_prevalence() -> None:
    """Fit with 30 % positives, use where 3 % are positive: the mean of the corrected probabilities is 3 %."""
    generator = np.random.default_rng(0)

    def images(negatives: int, positives: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat([0.0, 1.0], [negatives, positives])
        return labels, generator.normal(labels, 1)

    labels, logits = images(14_000, 6_000)
    scores = fit_scores(labels[:, None], logits[:, None], findings=["Mass"])
    _, elsewhere = images(97_000, 3_000)
    plain = Calibrator(("Mass",), scores).probabilities(elsewhere[:, None])
    corrected = Calibrator(("Mass",), scores, prevalence={"Mass": 0.03}).probabilities(elsewhere[:, None])
    assert plain.mean() > 0.2 and corrected.mean() == pytest.approx(0.03, rel=0.05)


@given(
    st.lists(st.floats(-1e38, 1e38), min_size=2, max_size=20),
    st.floats(1e-6, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(1e-9, 1 - 1e-9),
)
def test_calibration_is_monotone_and_finite(logits, slope, intercept, prevalence) -> None:
    score = ScoreCalibration(10, 90, slope=slope, intercept=intercept)
    calibrator = Calibrator(("Mass",), {"Mass": score}, prevalence={"Mass": prevalence})
    with np.errstate(all="raise", under="ignore"):
        calibrated = calibrator.probabilities(np.sort(np.float32(logits))[:, None])[:, 0]
    assert ((calibrated >= 0) & (calibrated <= 1)).all() and (np.diff(calibrated) >= 0).all()


@pytest.mark.parametrize("value", [0, 1, -0.1, 2, math.nan, math.inf])
def test_impossible_prevalences_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="Mass"):
        Calibrator(("Mass",), {"Mass": ScoreCalibration(1, 1, slope=1.0, intercept=0.0)}, prevalence={"Mass": value})


def test_other_wrong_choices_are_refused() -> None:
    with pytest.raises(InputError, match="best"):
        Calibrator(("Mass",), {}, operating_point="best")
    with pytest.raises(InputError, match="Cough"):
        Calibrator(("Mass",), {}, prevalence={"Cough": 0.5})
    with pytest.raises(InputError, match="Mass has no calibrated probability"):
        Calibrator(("Mass",), {"Mass": ScoreCalibration(3, 50)}, prevalence={"Mass": 0.5})
