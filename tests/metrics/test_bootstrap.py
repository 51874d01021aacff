"""Bootstrap of patients: whole patients, the same for all models, and intervals that a formula gives as well."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_seam.errors import InputError
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP, bootstrap_patients, difference, estimate, percentile_ci

PATIENTS = [3, 1, 1, 12, 3, 1]


def test_replicates_sample_whole_patients() -> None:
    bootstrap = bootstrap_patients(PATIENTS)
    assert len(bootstrap) == N_BOOTSTRAP == 1000 and bootstrap.counts.shape == (1000, 3)
    assert bootstrap.counts.dtype.kind == "u" and (bootstrap.counts.sum(axis=1) == 3).all()
    weights = bootstrap.weights(0, 1000)
    assert (weights[:, 1] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 5]).all()
    assert (weights[:, 0] == weights[:, 4]).all()
    assert (weights[:, 0].astype(int) + weights[:, 1] + weights[:, 3] == 3).all()
    # all 27 ordered samples have the same probability: one patient three times in 1 of 27
    assert (bootstrap.counts == 3).any(axis=1).mean() == pytest.approx(3 / 27, abs=0.03)


def test_replicates_depend_on_patients_and_seed_only() -> None:
    bootstrap = bootstrap_patients(PATIENTS, n_bootstrap=50)
    turned = bootstrap_patients(PATIENTS[::-1], n_bootstrap=50)
    assert (bootstrap.weights(0, 50)[:, ::-1] == turned.weights(0, 50)).all()
    as_text = bootstrap_patients(np.array(["12", "3", "1"]), n_bootstrap=50)
    assert (as_text.weights(0, 50) == bootstrap.weights(0, 50)[:, [3, 0, 1]]).all()
    assert (bootstrap_patients(PATIENTS, n_bootstrap=50, seed=1).counts != bootstrap.counts).any()


def test_totals_match_repeated_images() -> None:
    bootstrap = bootstrap_patients(PATIENTS, n_bootstrap=40)
    values = np.arange(12.0).reshape(6, 2)
    slow = [values[np.repeat(np.arange(6), weights)].sum(axis=0) for weights in bootstrap.weights(0, 40)]
    assert (bootstrap.totals(values) == slow).all()
    assert (bootstrap.totals(values[:, 1]) == np.array(slow)[:, 1]).all()


def test_interval_of_mean_matches_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5, 2, size=400)
    bootstrap = bootstrap_patients(range(400), n_bootstrap=4000)
    found = estimate(values.mean(), bootstrap.totals(values) / 400)
    half_width = 1.96 * values.std() / 20
    assert found["value"] == values.mean()
    assert found["low"] == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert found["high"] == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_more_images_of_a_patient_do_not_narrow_interval() -> None:
    """Ten copies of each image give the interval of one; a bootstrap over images would shrink it by sqrt(10)."""
    values = np.random.default_rng(2).random(50)
    once = bootstrap_patients(range(50)).totals(values) / 50
    copied = bootstrap_patients(np.repeat(range(50), 10)).totals(np.repeat(values, 10)) / 500
    assert percentile_ci(copied) == pytest.approx(percentile_ci(once))


def test_undefined_replicates_are_left_out_up_to_half() -> None:
    samples = np.r_[np.linspace(0, 1, 101), np.full(101, np.nan)]
    assert estimate(0.4, samples) == pytest.approx({"value": 0.4, "low": 0.025, "high": 0.975})
    assert estimate(0.4, np.r_[samples, np.nan]) == {"value": 0.4, "low": None, "high": None}
    for undefined in (None, np.nan):
        assert estimate(undefined, samples) == {"value": None, "low": None, "high": None}
    low, high = percentile_ci(np.stack([samples, np.full(202, np.nan)], axis=1))
    assert low[0] == pytest.approx(0.025) and high[0] == pytest.approx(0.975)
    assert np.isnan([low[1], high[1]]).all()


def test_difference_is_paired() -> None:
    """A model that is better by 0.1 in every draw is surely better, though both intervals are wide and overlap."""
    b = np.random.default_rng(3).random(200)
    assert difference((0.6, b + 0.1), (0.5, b)) == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})
    assert difference((None, b), (0.5, b)) == {"value": None, "low": None, "high": None}
    assert difference((0.75, b), (0.5, None)) == {"value": 0.25, "low": None, "high": None}
    half = np.where(np.arange(200) < 100, np.nan, 0.3)
    other = np.where(np.arange(200) < 100, 0.1, np.nan)
    assert difference((0.3, half), (0.1, other))["low"] is None


def test_bootstrap_refuses_bad_input() -> None:
    with pytest.raises(InputError, match="0 images"):
        bootstrap_patients([])
    with pytest.raises(InputError, match="n_bootstrap is 0"):
        bootstrap_patients([1], n_bootstrap=0)
    with pytest.raises(InputError, match="2 images, but the bootstrap has 6"):
        bootstrap_patients(PATIENTS, n_bootstrap=2).totals(np.ones(2))
