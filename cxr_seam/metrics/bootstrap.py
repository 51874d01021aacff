"""Bootstrap over patients: 95 % intervals of scores and of paired differences (Efron & Tibshirani 1993, ch. 13).

Images of one patient are similar, so patients are sampled with replacement, not images: each replicate has as many
patients as the data, with all their images. A patient that is sampled twice counts twice, so a replicate is a weight
for each image, and scores are computed with these weights. Two models on the same images use the same replicates; the
interval of their difference is computed replicate by replicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

N_BOOTSTRAP = 1000

COVERAGE = 0.95
"""Intervals run from the 2.5th to the 97.5th percentile of the replicates."""

MIN_VALID = 0.5
"""A score that is defined in a smaller fraction of the replicates has no interval."""

DIGITS = 5
"""Decimals of the replicates in results.json."""

Estimate = dict[str, float | None]
"""{"value", "low", "high"}: a score and its 95 % interval; None = not defined."""


@dataclass(frozen=True, eq=False)
class PatientBootstrap:
    """Bootstrap replicates of patients; `len()` is their number.

    Attributes:
        counts: (n_bootstrap, patients) unsigned integers, how often each replicate has each patient.
        patient_of: (N,) int64, the patient of each image: a column of `counts`.
    """

    counts: np.ndarray
    patient_of: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def once(self) -> PatientBootstrap:
        """Return one replicate that has each patient once: the data itself."""
        return PatientBootstrap(np.ones((1, self.counts.shape[1]), dtype=np.uint8), self.patient_of)

    def weights(self, start: int, stop: int) -> np.ndarray:
        """Return how often the replicates `start` to `stop - 1` have each image, (stop - start, N) unsigned."""
        return self.counts[start:stop, self.patient_of]

    def totals(self, values: np.ndarray) -> np.ndarray:
        """Sum values (N, ...) over the images of each replicate: (n_bootstrap, ...) float64; exact for integers."""
        if len(values) != len(self.patient_of):
            raise InputError(f"there are {len(values)} images, but the bootstrap has {len(self.patient_of)}")
        of_patient = np.zeros((self.counts.shape[1], *values.shape[1:]))
        np.add.at(of_patient, self.patient_of, values)
        return np.tensordot(self.counts.astype(np.float64), of_patient, axes=1)


def bootstrap_patients(
    patient_id: Sequence[object] | np.ndarray, *, n_bootstrap: int = N_BOOTSTRAP, seed: int = 0
) -> PatientBootstrap:
    """Sample patients with replacement.

    The same set of patients, `n_bootstrap` and `seed` give the same counts, whatever the order and number of images. So
    models are paired, and so are evaluations on the same patients.

    Args:
        patient_id: (N,) the patient of each image, numbers or strings (compared as strings), none missing.
        n_bootstrap: number of replicates.
        seed: of the random generator.

    Raises:
        InputError: there is no image, or `n_bootstrap` is below 1.

    Example:
        >>> bootstrap_patients([7, 7, 9], n_bootstrap=2).weights(0, 2).shape
        (2, 3)
    """
    if not len(patient_id) or n_bootstrap < 1:
        raise InputError(
            f"n_bootstrap is {n_bootstrap} and there are {len(patient_id)} images; both must be at least 1"
        )
    names, patient_of = np.unique([str(name) for name in patient_id], return_inverse=True)
    patients = len(names)
    sampled = np.random.default_rng(seed).integers(patients, size=(n_bootstrap, patients))
    counts = np.stack([np.bincount(row, minlength=patients) for row in sampled])
    return PatientBootstrap(counts.astype(np.min_scalar_type(counts.max())), patient_of.astype(np.int64))


def percentile_ci(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the low and high end of the 95 % percentile interval of replicates (n_bootstrap, ...).

    NaN = the score is not defined in this replicate, which is left out. If more than half are NaN, both ends are NaN.
    """
    enough = np.isnan(samples).mean(axis=0) <= 1 - MIN_VALID
    # zeros avoid numpy's warning about columns of NaN; they are replaced below
    ends = np.nanquantile(np.where(enough, samples, 0), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    low, high = np.where(enough, ends, np.nan)
    return low, high


def estimate(value: float | None, samples: np.ndarray) -> Estimate:
    """Combine a score, None or NaN = not defined, and the interval of its replicates (n_bootstrap,), NaN = not defined.

    All three are None if the score is not defined; low and high also if more than half of the replicates are not.
    """
    if value is None or np.isnan(value):
        return {"value": None, "low": None, "high": None}
    low, high = (None if np.isnan(end) else float(end) for end in percentile_ci(samples))
    return {"value": float(value), "low": low, "high": high}


def num_valid(samples: np.ndarray) -> int:
    """Count the replicates (n_bootstrap,) in which a score is defined."""
    return int(np.count_nonzero(~np.isnan(samples)))


def difference(
    first: tuple[float | None, np.ndarray | None], second: tuple[float | None, np.ndarray | None]
) -> Estimate:
    """Return first - second with its paired interval.

    Args:
        first: the score on all images, None = not defined, and its replicates (n_bootstrap,), None = no interval.
        second: the same of the other score, with the same patients, n_bootstrap and seed.
    """
    (a, a_samples), (b, b_samples) = first, second
    value = None if a is None or b is None else a - b
    if a_samples is None or b_samples is None:
        return {"value": value, "low": None, "high": None}
    return estimate(value, np.asarray(a_samples, dtype=np.float64) - np.asarray(b_samples, dtype=np.float64))


def macro_mean(values: np.ndarray, *, defined: np.ndarray) -> np.ndarray:
    """Average the last axis over the findings that are `defined` (bool) on all images.

    NaN if one of them is NaN, for example in a replicate without true boxes of this finding, because a mean over fewer
    findings does not compare. NaN also if no finding is defined.
    """
    return values[..., defined].mean(axis=-1) if defined.any() else np.full(values.shape[:-1], np.nan)


def bootstrap_for_json(samples: np.ndarray) -> list[float | None]:
    """Return replicates (n_bootstrap,) as rounded numbers for JSON; None = not defined."""
    return [None if np.isnan(value) else round(float(value), DIGITS) for value in samples]
