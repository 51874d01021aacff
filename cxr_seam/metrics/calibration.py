"""Score calibrated probabilities: Brier score, expected calibration error (ECE), and the bins of a reliability diagram.

The bins of a finding hold equal numbers of images, because most findings are rare: bins of equal width would put almost
all images into the first one. Intervals come from a bootstrap over patients; the bins are the same in all replicates.

Sources: Brier 1950; Naeini et al. 2015 (ECE); bins as in scikit-learn's `calibration_curve` with strategy "quantile".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bootstrap import PatientBootstrap, estimate, macro_mean

N_BINS = 10


def calibration_scores(
    labels: np.ndarray, probabilities: np.ndarray, *, bootstrap: PatientBootstrap, findings: Sequence[str]
) -> dict[str, Any]:
    """Compare calibrated probabilities with labels; unknown labels are left out.

    Args:
        labels: (N, K) of 0, 1 and NaN.
        probabilities: (N, K) in [0, 1]; a column of NaN for a finding without a calibration.
        bootstrap: of the patients of the same N images.
        findings: names of the K findings.

    Returns:
        Scores, ready for JSON. Under "findings", for each: estimates of `brier`, the mean of (probability - label)^2,
        and of `ece`, the mean over the images of |mean probability - frequency| of their bin; and the `bins` with an
        image, each with its number of `images`, the mean `probability`, and an estimate of the `frequency` of the
        finding. Nothing is defined without a calibration or without a known label. Under "mean": estimates of `brier`
        and `ece` over the `n_calibrated` findings that have them.
    """
    rows: dict[str, dict[str, Any]] = {}
    values, samples = np.full((2, len(findings)), np.nan), np.full((2, len(bootstrap), len(findings)), np.nan)
    for i, finding in enumerate(findings):
        known = ~np.isnan(labels[:, i])
        bins: list[dict[str, Any]] = []
        if known.any() and not np.isnan(probabilities[0, i]):
            part = PatientBootstrap(bootstrap.counts, bootstrap.patient_of[known])
            columns = labels[known, i], probabilities[known, i]
            sums, sums_of_replicates = _sums(*columns, part.once()), _sums(*columns, part)
            values[:, i] = [score[0] for score in _brier_and_ece(*sums)]
            samples[:, :, i] = _brier_and_ece(*sums_of_replicates)
            bins = _describe_bins(sums[0][0], sums_of_replicates[0])
        scores = {name: estimate(values[j, i], samples[j, :, i]) for j, name in enumerate(("brier", "ece"))}
        rows[finding] = {**scores, "bins": bins}
    calibrated = ~np.isnan(values[0])
    mean: dict[str, Any] = {
        name: estimate(macro_mean(values[j], defined=calibrated), macro_mean(samples[j], defined=calibrated))
        for j, name in enumerate(("brier", "ece"))
    }
    return {"findings": rows, "mean": mean | {"n_calibrated": int(calibrated.sum())}}


def bins_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the bin of each probability (N,), int64 in [0, N_BINS); equal probabilities share a bin."""
    edges = np.quantile(probabilities, np.linspace(0, 1, N_BINS + 1))
    return np.searchsorted(edges[1:-1], probabilities)


def _sums(labels: np.ndarray, probabilities: np.ndarray, bootstrap: PatientBootstrap) -> tuple[np.ndarray, np.ndarray]:
    """Sum over the images of each replicate.

    Returns:
        Images, probabilities and positive images of each bin, (n_bootstrap, 3, N_BINS); squared errors, (n_bootstrap,).
    """
    in_bin = np.eye(N_BINS)[bins_of(probabilities)]  # (N, N_BINS)
    weights = np.stack([np.ones_like(probabilities), probabilities, labels], axis=1)  # (N, 3)
    sums = bootstrap.totals(weights[:, :, None] * in_bin[:, None])
    return sums, bootstrap.totals((probabilities - labels) ** 2)


def _brier_and_ece(sums: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Brier score and ECE of each replicate, (n_bootstrap,); NaN in a replicate without images."""
    images, probabilities, positives = sums.transpose(1, 0, 2)
    total = images.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return squares / total, np.abs(probabilities - positives).sum(axis=1) / total


def _describe_bins(sums: np.ndarray, samples: np.ndarray) -> list[dict[str, Any]]:
    """List the bins that have images, from their sums (3, N_BINS) and those of the replicates."""
    with np.errstate(invalid="ignore"):
        frequencies = samples[:, 2] / samples[:, 0]  # (n_bootstrap, N_BINS)
    return [
        {
            "images": int(images),
            "probability": float(probability / images),
            "frequency": estimate(positives / images, frequencies[:, k]),
        }
        for k, (images, probability, positives) in enumerate(sums.T)
        if images
    ]
