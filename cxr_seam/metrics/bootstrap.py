"""How sure a number is: a bootstrap over patients, the same draws for all models (Efron & Tibshirani 1993, ch. 13).

The films of one patient resemble each other, so patients are drawn, not films: as many as there are, with replacement,
each bringing all their films. A patient drawn twice counts twice, hence a draw is a weight for each film, and a
statistic is computed with these weights. Two models on the same films meet the same draws; the interval of their
difference is taken draw by draw and so leaves out what is hard or easy for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import InputError

DRAWS = 1000


COVERAGE = 0.95
"""Intervals run from the 2.5th to the 97.5th percentile of the draws."""


MOST_LEFT_OUT = 0.5
"""A statistic that is not defined in more than this share of the draws has no interval."""


DIGITS = 5
"""Of a draw that is written down."""


Estimate = dict[str, float | None]
"""{"value", "low", "high"}: an estimate and its 95 % interval; None = not defined."""


@dataclass(frozen=True, eq=False)
class PatientBootstrap:
    """Bootstrap samples of patients.

    Attributes:
        counts: (draws, patients) unsigned integers, how often each draw has each patient; every row sums to the number
            of patients.
        patient_of: (N,) int64, the patient of each image: a column of `counts`.
    """

    counts: np.ndarray
    patient_of: np.ndarray

    def __len__(self) -> int:
        """Number of draws."""
        return len(self.counts)

    def weights(self, start: int, stop: int) -> np.ndarray:
        """How often the draws from `start` to before `stop` have each image: (stop - start, N), unsigned integers."""
        return self.counts[start:stop, self.patient_of]

    def totals(self, values: np.ndarray) -> np.ndarray:
        """Sum values over the images of each draw.

        Args:
            values: (N,) or (N, K) finite numbers, one or K for each image.

        Returns:
            (draws,) or (draws, K) float64; exact for integers.

        Raises:
            InputError: there is not one row for each image.
        """
        values = np.asarray(values, dtype=np.float64)
        self.check_rows(len(values))
        of_patient = np.zeros((self.counts.shape[1], *values.shape[1:]))
        np.add.at(of_patient, self.patient_of, values)
        return self.counts.astype(np.float64) @ of_patient

    def check_rows(self, images: int) -> None:
        """Make sure that the draws were made for this many images.

        Raises:
            InputError: they were not.
        """
        if images != len(self.patient_of):
            raise InputError(
                f"there are values for {images} images but the draws are of {len(self.patient_of)}; "
                "draw patients from the patient_id of the same images"
            )


def bootstrap_patients(
    patient_id: Sequence[object] | np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> PatientBootstrap:
    """Draw patients with replacement, as many as there are, `draws` times.

    The same set of patients, `draws` and `seed` give each patient the same counts, whatever the order or number of
    images: so models are paired, and so are reports on the same patients.

    Args:
        patient_id: (N,) the patient of each image, numbers or strings (they are compared as strings).
        draws: how many samples.
        seed: of the random generator.

    Raises:
        InputError: there is no image, a patient_id is missing, or `draws` is below 1.

    Example:
        >>> bootstrap_patients([7, 7, 9], draws=2).weights(0, 2).shape
        (2, 3)
    """
    if pd.isna(np.asarray(patient_id, dtype=object)).any():
        raise InputError(
            "an image has no patient_id, so the interval cannot be drawn over patients; complete the table"
        )
    if not len(patient_id) or draws < 1:
        raise InputError(f"cannot draw {draws} times from {len(patient_id)} images; both must be at least 1")
    names, patient_of = np.unique([str(name) for name in patient_id], return_inverse=True)
    patients = len(names)
    drawn = np.random.default_rng(seed).integers(patients, size=(draws, patients))
    counts = np.stack([np.bincount(row, minlength=patients) for row in drawn])
    return PatientBootstrap(counts.astype(np.min_scalar_type(counts.max())), patient_of.astype(np.int64))


def percentile_ci(samples: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the low and high end of the 95 % percentile interval along `axis`, which runs over the draws.

    NaN samples are draws in which the statistic is not defined; they are left out. Where they are more than half,
    both ends are NaN.
    """
    samples = np.moveaxis(np.asarray(samples, dtype=np.float64), axis, 0)
    enough = np.isnan(samples).mean(axis=0) <= MOST_LEFT_OUT
    # zeros keep numpy from warning about columns of NaN; they are not shown
    ends = np.nanquantile(np.where(enough, samples, 0), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    low, high = np.where(enough, ends, np.nan)
    return low, high


def estimate(value: float | None, samples: np.ndarray) -> Estimate:
    """Put an estimate and its interval together.

    Args:
        value: the statistic on all images; None or NaN = not defined.
        samples: (draws,) the statistic of each draw; NaN = not defined in that draw, left out.

    Returns:
        {"value", "low", "high"}; all None if the value is not defined, low and high None if more than half of the
        samples are NaN.
    """
    if value is None or np.isnan(value):
        return {"value": None, "low": None, "high": None}
    low, high = (None if np.isnan(end) else float(end) for end in percentile_ci(samples))
    return {"value": float(value), "low": low, "high": high}


def num_valid(samples: np.ndarray) -> int:
    """How many of the draws (draws,) define the statistic: those that the interval of `measured` rests on."""
    return int(np.count_nonzero(~np.isnan(samples)))


def difference(a_samples: np.ndarray, b_samples: np.ndarray, a_value: float | None, b_value: float | None) -> Estimate:
    """Return a - b with its interval from the same draws; a pair of which one is not defined is left out.

    Args:
        a_samples: (draws,) of one model, from draws of the same patients, number and seed as
        b_samples: (draws,) of the other.
        a_value: the one's estimate on all images; None = not defined.
        b_value: the other's.

    Raises:
        InputError: the numbers of draws differ, so the two cannot be paired.
    """
    a_samples, b_samples = (np.asarray(samples, dtype=np.float64) for samples in (a_samples, b_samples))
    if a_samples.shape != b_samples.shape:
        raise InputError(
            f"{len(a_samples)} and {len(b_samples)} draws cannot be paired; evaluate both with the same number of draws"
        )
    value = None if a_value is None or b_value is None else a_value - b_value
    return estimate(value, a_samples - b_samples)


def bootstrap_for_json(draws: np.ndarray) -> list[float | None]:
    """Draws of a statistic (draws,), rounded; None where one is not defined, since JSON has no NaN."""
    return [None if np.isnan(value) else round(float(value), DIGITS) for value in draws]
