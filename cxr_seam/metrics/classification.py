"""How well the probabilities tell findings apart: the area under the ROC curve (AUC) and what stands beside it.

Sources: D'Souza et al. 2022, Table 1 (AUC); average precision as scikit-learn defines it; Youden 1950 (thresholds).
Intervals come from a bootstrap over patients. A draw gives every film a weight, so AUC and average precision are
computed with weights: each finding's films are sorted once, for all bootstrap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import FINDINGS
from .bootstrap import PatientBootstrap, estimate, num_valid

VALUES_AT_ONCE = 2**22
"""Weights of films under way for one finding: a few arrays of 32 MiB, whatever the number of films and bootstrap."""


class Scores(NamedTuple):
    """What `classification_scores` finds.

    table: {"findings": {finding: {...}}, "mean": {...}}, ready for JSON; every metric is a `bootstrap.Measured`.
    samples: "mean_auc" and "mean_average_precision", (draws,) float64 each, NaN where a draw lacks the positives or
    negatives of a finding that is defined on all films; for `bootstrap.difference`.
    """

    table: dict[str, Any]
    samples: dict[str, np.ndarray]


def classification_table(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Tabulate the AUC of each finding.

    Args:
        labels: (N, 14) of 0 and 1, findings in NIH's order.
        probabilities: (N, 14), any finite scores that rise with the finding.

    Returns:
        Index: the 14 findings. Columns: `auc` (NaN = not defined, where a finding has no positive or no
        negative image), `positives`, `negatives` (image counts).

    Raises:
        InputError: shapes differ or are not (N, 14), a label is neither 0 nor 1, a score is not finite.
    """
    from sklearn.metrics import roc_auc_score

    labels, probabilities = checked_scores(labels, probabilities)
    positives = labels.sum(axis=0)
    negatives = len(labels) - positives
    auc = [
        roc_auc_score(labels[:, i], probabilities[:, i]) if positives[i] and negatives[i] else np.nan
        for i in range(len(FINDINGS))
    ]
    return pd.DataFrame(
        {"auc": auc, "positives": positives, "negatives": negatives}, index=pd.Index(FINDINGS, name="finding")
    )


def mean_auc(table: pd.DataFrame) -> float:
    """Return the mean AUC over the findings of a `classification_table` for which it is defined.

    NaN where it is defined for none. Say the number of findings beside it when some are not defined: the mean
    over 13 findings does not compare with the mean over 14.
    """
    return float(table["auc"].mean())


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Choose each finding's threshold, on validation films: the one of the largest Youden index.

    The Youden index is sensitivity + specificity - 1, with a finding called present where probability >= threshold. Of
    equal ones the highest threshold is taken. Never call it on the films that are then scored: that flatters them.

    Args:
        labels: (N, 14) of 0 and 1.
        probabilities: (N, 14).

    Returns:
        (14,) float64, one of the finding's probabilities each; NaN where it has no positive or no negative film.

    Raises:
        InputError: as told in `classification_table`.
    """
    from sklearn.metrics import roc_curve

    labels, probabilities = checked_scores(labels, probabilities)
    thresholds = np.full(len(FINDINGS), np.nan)
    for i in range(len(FINDINGS)):
        positives = labels[:, i].sum()
        negatives = len(labels) - positives
        if positives and negatives:
            false_rate, true_rate, at = roc_curve(labels[:, i], probabilities[:, i], drop_intermediate=False)
            # in whole films, so that equal indices are equal
            youden = np.rint(true_rate * positives) * negatives - np.rint(false_rate * negatives) * positives
            thresholds[i] = at[1:][youden[1:].argmax()]  # the first threshold is infinite
    return thresholds


def classification_scores(
    labels: np.ndarray, probabilities: np.ndarray, *, bootstrap: PatientBootstrap, thresholds: np.ndarray | None = None
) -> Scores:
    """Score every finding and the mean over findings, with intervals over patients.

    Args:
        labels: (N, 14) of 0 and 1, findings in NIH's order.
        probabilities: (N, 14), any finite scores that rise with the finding.
        bootstrap: from the patients of the same N films.
        thresholds: (14,) from `choose_thresholds` on validation films, NaN = none; without them sensitivity,
            specificity and F1 are not defined.

    Returns:
        A table with, for each finding, `positives` and `negatives` (films), `threshold`, `auc`, `average_precision`,
        `sensitivity`, `specificity`, `f1`; where something is not defined also `note`, which says why. A finding
        without a positive or a negative film has no metric at all. Under "mean": `auc` and `average_precision` over
        the `n_defined` findings that have one; a draw that lacks one of them is left out of the mean's
        interval, since a mean over fewer findings does not compare; `n_valid_replicates` counts those that are not.

    Raises:
        InputError: as told in `classification_table`; the draws are of other films; thresholds are not (14,).
    """
    labels, probabilities = checked_scores(labels, probabilities)
    bootstrap.check_length(len(labels))
    thresholds = np.full(len(FINDINGS), np.nan) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if thresholds.shape != (len(FINDINGS),):
        raise InputError(f"there must be one threshold for each of {len(FINDINGS)} findings, not {thresholds.shape}")
    all_films = PatientBootstrap(np.ones((1, bootstrap.counts.shape[1]), dtype=np.uint8), bootstrap.patient_of)
    values = _metrics(labels, probabilities, thresholds, all_films)
    samples = _metrics(labels, probabilities, thresholds, bootstrap)
    findings = {}
    for i, finding in enumerate(FINDINGS):
        positives = int(labels[:, i].sum())
        negatives = len(labels) - positives
        row: dict[str, Any] = {
            "positives": positives,
            "negatives": negatives,
            "threshold": None if np.isnan(thresholds[i]) else float(thresholds[i]),
        }
        row |= {name: estimate(values[name][0, i], samples[name][:, i]) for name in values}
        if not (positives and negatives):
            row["note"] = f"not defined: no {'negative' if positives else 'positive'} image"
        elif row["threshold"] is None:
            row["note"] = "sensitivity, specificity and F1 not defined: no threshold from validation"
        findings[finding] = row
    defined = ~np.isnan(values["auc"][0])
    mean: dict[str, Any] = {}
    mean_samples = {}
    for name in ("auc", "average_precision"):
        of_draws = samples[name][:, defined].mean(axis=1) if defined.any() else np.full(len(bootstrap), np.nan)
        mean[name] = estimate(values[name][0, defined].mean() if defined.any() else None, of_draws)
        mean_samples[f"mean_{name}"] = of_draws
    mean["n_defined"] = int(defined.sum())
    mean["n_valid_replicates"] = num_valid(mean_samples["mean_auc"])  # the same for the average precision
    return Scores({"findings": findings, "mean": mean}, mean_samples)


def bootstrap_auc_ap(
    labels: np.ndarray, scores: np.ndarray, *, bootstrap: PatientBootstrap
) -> tuple[np.ndarray, np.ndarray]:
    """AUC and average precision of one finding in every draw.

    Equal scores are one step of both curves, so that half of a tied pair counts for the AUC, as in scikit-learn's
    `roc_auc_score` and `average_precision_score` with `sample_weight`. Sums of weights are exact.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,) finite.
        bootstrap: from the patients of the same N films.

    Returns:
        AUC (draws,) and average precision (draws,) float64, NaN in a draw without a positive or a negative film.
    """
    from scipy.sparse import csr_array

    order = np.argsort(-scores, kind="stable")
    positive_film = labels[order] == 1
    # Images of equal score form a group. Groups without a positive add to neither area, so their runs become one step.
    group = np.r_[0, np.cumsum(np.diff(scores[order]) != 0)]
    has_positive = np.bincount(group, weights=positive_film) > 0
    step_of_group = np.r_[0, np.cumsum(has_positive[1:] | has_positive[:-1])]
    step = step_of_group[group]
    shape = step[-1] + 1, bootstrap.counts.shape[1]
    patient = bootstrap.patient_of[order]
    films = csr_array((np.ones(len(step)), (step, patient)), shape=shape)
    positive_films = csr_array((np.ones(positive_film.sum()), (step[positive_film], patient[positive_film])), shape)
    at_once = max(1, VALUES_AT_ONCE // shape[0])
    auc, average_precision = np.empty((2, len(bootstrap)))
    for start in range(0, len(bootstrap), at_once):
        weights = bootstrap.counts[start : start + at_once].T.astype(np.float64)
        both, positive = films @ weights, positive_films @ weights  # (steps, draws of this turn)
        so_far, true_so_far = both.cumsum(axis=0), positive.cumsum(axis=0)
        positives = true_so_far[-1]
        negatives = so_far[-1] - positives
        # negatives that rank below a step, with half of those on it
        below = negatives - (so_far - true_so_far) + (both - positive) / 2
        precision = true_so_far / np.maximum(so_far, 1)
        with np.errstate(invalid="ignore"):
            auc[start : start + at_once] = (positive * below).sum(axis=0) / (positives * negatives)
            average_precision[start : start + at_once] = np.where(
                negatives > 0, (positive * precision).sum(axis=0) / positives, np.nan
            )
    return auc, average_precision


def _metrics(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, bootstrap: PatientBootstrap
) -> dict[str, np.ndarray]:
    """Every metric, (draws, 14); NaN where not defined."""
    ranked = [bootstrap_auc_ap(labels[:, i], probabilities[:, i], bootstrap=bootstrap) for i in range(len(FINDINGS))]
    auc, average_precision = np.array(ranked).transpose(1, 2, 0)
    called = probabilities >= thresholds
    called_films, positives = bootstrap.totals(called), bootstrap.totals(labels)
    negatives = bootstrap.totals(1 - labels)
    true_positives = bootstrap.totals(called & (labels == 1))
    true_negatives = negatives - (called_films - true_positives)
    defined = (positives > 0) & (negatives > 0) & ~np.isnan(thresholds)

    def part(count: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.where(defined, count, np.nan) / np.where(defined, of, 1)

    return {
        "auc": auc,
        "average_precision": average_precision,
        "sensitivity": part(true_positives, positives),
        "specificity": part(true_negatives, negatives),
        "f1": part(2 * true_positives, called_films + positives),
    }


def checked_scores(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as (N, 14) int64 of 0 and 1 and probabilities as (N, 14) float64.

    Raises:
        InputError: as told in `classification_table`.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.shape != probabilities.shape or labels.ndim != 2 or labels.shape[1] != len(FINDINGS):
        raise InputError(
            f"labels and probabilities must both have the shape (N, {len(FINDINGS)}), "
            f"not {labels.shape} and {probabilities.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise InputError("labels must be 0 or 1; found another value")
    finite = np.isfinite(probabilities)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"the probability of {FINDINGS[column]} in row {row} is {probabilities[row, column]}; "
            "a model that gives such values has diverged or its checkpoint is broken"
        )
    return labels.astype(np.int64), probabilities
