"""Brier score and reliability bins against scikit-learn, expected calibration error by hand, undefined values."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from cxr_seam.metrics.bootstrap import bootstrap_patients, percentile_ci
from cxr_seam.metrics.calibration import calibration_scores

FINDINGS = ("Mass", "Nodule", "Hernia")


def sample(images: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels that are rarer than the probabilities say; a tenth of them is unknown."""
    generator = np.random.default_rng(seed)
    probabilities = generator.beta(0.5, 4, size=(images, 3))
    labels = (generator.random((images, 3)) < probabilities**1.2).astype(np.float64)
    return np.where(generator.random((images, 3)) < 0.1, np.nan, labels), probabilities


def test_brier_score_and_bins_match_scikit_learn() -> None:
    labels, probabilities = sample(500)
    bootstrap = bootstrap_patients(np.arange(500) // 3, n_bootstrap=50)
    scores = calibration_scores(labels, probabilities, bootstrap=bootstrap, findings=FINDINGS)
    for i, finding in enumerate(FINDINGS):
        known = ~np.isnan(labels[:, i])
        true, given = labels[known, i], probabilities[known, i]
        found = scores["findings"][finding]
        assert found["brier"]["value"] == pytest.approx(brier_score_loss(true, given), abs=1e-12)
        frequency, mean = calibration_curve(true, given, n_bins=10, strategy="quantile")
        assert [each["frequency"]["value"] for each in found["bins"]] == pytest.approx(frequency)
        assert [each["probability"] for each in found["bins"]] == pytest.approx(mean)
        counts = [each["images"] for each in found["bins"]]
        assert sum(counts) == known.sum() and max(counts) - min(counts) <= 1
        error = np.average(np.abs(frequency - mean), weights=counts)
        assert found["ece"]["value"] == pytest.approx(error)
    values = [scores["findings"][finding]["brier"]["value"] for finding in FINDINGS]
    assert scores["mean"]["brier"]["value"] == pytest.approx(np.mean(values))


def test_intervals_repeat_the_images_of_the_sampled_patients() -> None:
    """Scikit-learn on the images of each replicate, as often as it has them."""
    labels, probabilities = sample(90, seed=1)
    bootstrap = bootstrap_patients(np.arange(90) // 3, n_bootstrap=40)
    scores = calibration_scores(labels, probabilities, bootstrap=bootstrap, findings=FINDINGS)["findings"]["Mass"]
    known = np.flatnonzero(~np.isnan(labels[:, 0]))
    replicates = []
    for weights in bootstrap.weights(0, 40):
        rows = np.repeat(known, weights[known])
        replicates.append(brier_score_loss(labels[rows, 0], probabilities[rows, 0]))
    assert [scores["brier"]["low"], scores["brier"]["high"]] == pytest.approx(percentile_ci(np.array(replicates)))
    assert scores["ece"]["low"] < scores["ece"]["value"] < scores["ece"]["high"]


def test_scores_by_hand() -> None:
    """Two groups of equal probabilities: of four images with 0.25 two are positive, of six with 0.5 three are.

    The error of the first is 1/4, that of the second 0: (4 x 1/4 + 6 x 0) / 10. Brier: (2 x 9/16 + 2 x 1/16 + 6 x 1/4)
    / 10.
    """
    labels = np.array([1, 1, 0, 0, 1, 1, 1, 0, 0, 0], dtype=np.float64)[:, None]
    probabilities = np.repeat([0.25, 0.5], [4, 6])[:, None]
    bootstrap = bootstrap_patients(range(10), n_bootstrap=20)
    scores = calibration_scores(labels, probabilities, bootstrap=bootstrap, findings=["Mass"])["findings"]["Mass"]
    assert scores["ece"]["value"] == pytest.approx(0.1) and scores["brier"]["value"] == pytest.approx(0.275)
    assert [(each["images"], each["probability"], each["frequency"]["value"]) for each in scores["bins"]] == [
        (4, 0.25, 0.5),
        (6, 0.5, 0.5),
    ]


def test_findings_without_calibration_or_labels_are_not_defined() -> None:
    labels, probabilities = sample(60)
    probabilities[:, 1], labels[:, 2] = np.nan, np.nan
    bootstrap = bootstrap_patients(range(60), n_bootstrap=20)
    scores = calibration_scores(labels, probabilities, bootstrap=bootstrap, findings=FINDINGS)
    undefined = {"value": None, "low": None, "high": None}
    for finding in ("Nodule", "Hernia"):
        assert scores["findings"][finding] == {"brier": undefined, "ece": undefined, "bins": []}
    mass = scores["findings"]["Mass"]
    assert scores["mean"] == {"brier": mass["brier"], "ece": mass["ece"], "n_calibrated": 1}
    nothing = calibration_scores(labels, probabilities * np.nan, bootstrap=bootstrap, findings=FINDINGS)
    assert nothing["mean"] == {"brier": undefined, "ece": undefined, "n_calibrated": 0}
