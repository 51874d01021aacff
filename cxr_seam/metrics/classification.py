"""Evaluate the scores of findings: area under the ROC curve (AUC), average precision, sensitivity, specificity, F1.

Sources: D'Souza et al. 2022, Table 1 (AUC); average precision as in scikit-learn; Youden 1950 (thresholds). Intervals
come from a bootstrap over patients. Each replicate is a weight for each image, and AUC and average precision are
computed with these weights: the images of a finding are sorted once for all replicates.

Labels are 0, 1 or NaN where unknown. Each finding is scored on the images on which its label is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import FINDINGS, OPERATING_POINTS
from .bootstrap import PatientBootstrap, estimate, macro_mean, num_valid

MAX_VALUES = 2**22
"""Weights in memory at a time for one finding: a few arrays of 32 MiB, whatever the number of images and replicates."""


def classification_table(labels: np.ndarray, scores: np.ndarray, *, findings: Sequence[str] = FINDINGS) -> pd.DataFrame:
    """Tabulate the AUC of each finding.

    Args:
        labels: (N, K) of 0, 1 and NaN.
        scores: (N, K), finite scores that are higher for positive images.
        findings: names of the K findings.

    Returns:
        Index: the findings. Columns: `auc` (NaN without positive or without negative images), `positives`, `negatives`
        (numbers of images). A mean over 13 findings does not compare with a mean over 14.

    Raises:
        InputError: see `check_scores`.
    """
    from sklearn.metrics import roc_auc_score

    labels, scores = check_scores(labels, scores, findings=findings)
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    auc = np.full(len(findings), np.nan)
    for i in np.flatnonzero((positives > 0) & (negatives > 0)):
        known = ~np.isnan(labels[:, i])
        auc[i] = roc_auc_score(labels[known, i], scores[known, i])
    index = pd.Index(findings, name="finding")
    return pd.DataFrame({"auc": auc, "positives": positives, "negatives": negatives}, index=index)


def choose_thresholds(
    labels: np.ndarray, scores: np.ndarray, *, findings: Sequence[str] = FINDINGS
) -> dict[str, np.ndarray]:
    """Choose the thresholds of each finding on validation images, one for each operating point.

    A finding is positive if score >= threshold. "youden" has the largest sensitivity + specificity (Youden's
    index), the highest threshold of equal ones. "sensitivity_90" is the highest threshold with a sensitivity of at
    least 90 %. "specificity_90" is the lowest threshold with a specificity of at least 90 %; there is none if more than
    10 % of the negative images share the highest score. Do not choose thresholds on the images that are then
    scored.

    Args:
        labels: (N, K) of 0, 1 and NaN.
        scores: (N, K) finite.
        findings: names of the K findings.

    Returns:
        (K,) float64 for each of `OPERATING_POINTS`, scores of images; NaN where there is none, for example
        without positive or without negative images.

    Raises:
        InputError: see `check_scores`.
    """
    from sklearn.metrics import roc_curve

    labels, scores = check_scores(labels, scores, findings=findings)
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    thresholds = {point: np.full(len(findings), np.nan) for point in OPERATING_POINTS}
    for i in np.flatnonzero((positives > 0) & (negatives > 0)):
        known = ~np.isnan(labels[:, i])
        rates = roc_curve(labels[known, i], scores[known, i], drop_intermediate=False)
        fpr, tpr, candidates = (rate[1:] for rate in rates)  # the first candidate is infinite; then highest first
        # in numbers of images, so that equal rates are exactly equal
        true, false = np.rint(tpr * positives[i]), np.rint(fpr * negatives[i])
        youden = true * negatives[i] - false * positives[i]
        thresholds["youden"][i] = candidates[youden.argmax()]
        thresholds["sensitivity_90"][i] = candidates[10 * true >= 9 * positives[i]][0]
        specific = candidates[10 * false <= negatives[i]]
        thresholds["specificity_90"][i] = specific[-1] if specific.size else np.nan
    return thresholds


def classification_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    bootstrap: PatientBootstrap,
    thresholds: Mapping[str, np.ndarray] | None = None,
    findings: Sequence[str] = FINDINGS,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compute all metrics of each finding and their means, with intervals over patients.

    Args:
        labels: (N, K) of 0, 1 and NaN.
        scores: (N, K) finite.
        bootstrap: of the patients of the same N images.
        thresholds: operating point -> (K,) from `choose_thresholds` on validation images, NaN = none. Without a
            threshold sensitivity, specificity and F1 are not defined.
        findings: names of the K findings.

    Returns:
        Metrics, ready for JSON. Under "findings", for each: `positives` and `negatives` (images), estimates of `auc`
        and `average_precision`, `note` if they are not defined, and `operating_points`, for each of them `threshold`
        and estimates of `sensitivity`, `specificity` and `f1`.
        Under "mean": estimates of `auc` and `average_precision` over the `n_defined` findings that have them, and the
        `n_valid_replicates` with all of these findings.
        And the replicates (n_bootstrap,) of "mean_auc" and "mean_average_precision", NaN without one of the findings.

    Raises:
        InputError: see `check_scores`.
    """
    labels, scores = check_scores(labels, scores, findings=findings)
    once = bootstrap.once()
    positives, negatives = (once.totals(labels == value)[0].astype(int).tolist() for value in (1, 0))
    values, samples = (_rank_metrics(labels, scores, each) for each in (once, bootstrap))
    rows: dict[str, dict[str, Any]] = {}
    for i, finding in enumerate(findings):
        rows[finding] = {"positives": positives[i], "negatives": negatives[i], "operating_points": {}}
        rows[finding] |= {name: estimate(values[name][0, i], samples[name][:, i]) for name in values}
        if not (positives[i] and negatives[i]):
            rows[finding]["note"] = f"not defined: no {'negative' if positives[i] else 'positive'} image"
    for point in OPERATING_POINTS:
        chosen = np.full(len(findings), np.nan) if thresholds is None else thresholds[point]
        decided, sampled = (_decision_metrics(labels, scores, chosen, each) for each in (once, bootstrap))
        for i, finding in enumerate(findings):
            rates = {name: estimate(decided[name][0, i], sampled[name][:, i]) for name in decided}
            threshold = None if np.isnan(chosen[i]) else float(chosen[i])
            rows[finding]["operating_points"][point] = {"threshold": threshold, **rates}
    defined = ~np.isnan(values["auc"][0])
    means = {name: macro_mean(samples[name], defined=defined) for name in ("auc", "average_precision")}
    mean: dict[str, Any] = {
        name: estimate(macro_mean(values[name][0], defined=defined), replicates) for name, replicates in means.items()
    }
    mean["n_defined"] = int(defined.sum())
    mean["n_valid_replicates"] = num_valid(means["auc"])  # the same for the average precision
    return {"findings": rows, "mean": mean}, {f"mean_{name}": replicates for name, replicates in means.items()}


def bootstrap_auc_ap(
    labels: np.ndarray, scores: np.ndarray, *, bootstrap: PatientBootstrap
) -> tuple[np.ndarray, np.ndarray]:
    """Compute AUC and average precision of one finding in every replicate.

    Equal scores are one step of both curves, so a tied pair counts half for the AUC, as in scikit-learn's
    `roc_auc_score` and `average_precision_score` with `sample_weight`. Sums of weights are exact.

    Args:
        labels: (N,) of 0, 1 and NaN.
        scores: (N,) finite.
        bootstrap: of the patients of the same N images.

    Returns:
        AUC and average precision, (n_bootstrap,) float64; NaN in a replicate without positive or negative images.
    """
    from scipy.sparse import csr_array

    known = ~np.isnan(labels)
    if not known.any():
        return np.full(len(bootstrap), np.nan), np.full(len(bootstrap), np.nan)
    labels, scores, patient_of = labels[known], scores[known], bootstrap.patient_of[known]
    order = np.argsort(-scores, kind="stable")
    is_positive = labels[order] == 1
    # Images of equal score form a group. Groups without positives add to neither area, so runs of them become one step.
    group = np.r_[0, np.cumsum(np.diff(scores[order]) != 0)]
    has_positive = np.bincount(group, weights=is_positive) > 0
    step_of_group = np.r_[0, np.cumsum(has_positive[1:] | has_positive[:-1])]
    step = step_of_group[group]
    shape = step[-1] + 1, bootstrap.counts.shape[1]
    patient = patient_of[order]
    images = csr_array((np.ones(len(step)), (step, patient)), shape=shape)
    positive_images = csr_array((np.ones(is_positive.sum()), (step[is_positive], patient[is_positive])), shape)
    batch = max(1, MAX_VALUES // shape[0])
    auc, average_precision = np.empty((2, len(bootstrap)))
    for start in range(0, len(bootstrap), batch):
        weights = bootstrap.counts[start : start + batch].T.astype(np.float64)
        both, positive = images @ weights, positive_images @ weights  # (steps, replicates)
        both_so_far, positive_so_far = both.cumsum(axis=0), positive.cumsum(axis=0)
        positives = positive_so_far[-1]
        negatives = both_so_far[-1] - positives
        # negatives with a lower score, and half of those with an equal score
        below = negatives - (both_so_far - positive_so_far) + (both - positive) / 2
        precision = positive_so_far / np.maximum(both_so_far, 1)
        with np.errstate(invalid="ignore"):
            auc[start : start + batch] = (positive * below).sum(axis=0) / (positives * negatives)
            average_precision[start : start + batch] = np.where(
                negatives > 0, (positive * precision).sum(axis=0) / positives, np.nan
            )
    return auc, average_precision


def _rank_metrics(labels: np.ndarray, scores: np.ndarray, bootstrap: PatientBootstrap) -> dict[str, np.ndarray]:
    """Compute AUC and average precision, (n_bootstrap, K); NaN = not defined."""
    columns = zip(labels.T, scores.T, strict=True)
    ranked = [bootstrap_auc_ap(*column, bootstrap=bootstrap) for column in columns]
    return dict(zip(("auc", "average_precision"), np.array(ranked).transpose(1, 2, 0), strict=True))


def _decision_metrics(
    labels: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, bootstrap: PatientBootstrap
) -> dict[str, np.ndarray]:
    """Compute sensitivity, specificity and F1 at thresholds (K,), (n_bootstrap, K); NaN = not defined."""
    positive, negative, predicted = labels == 1, labels == 0, scores >= thresholds
    positives, negatives = bootstrap.totals(positive), bootstrap.totals(negative)
    true_positives, true_negatives = bootstrap.totals(predicted & positive), bootstrap.totals(~predicted & negative)
    predicted_positives = true_positives + negatives - true_negatives
    defined = (positives > 0) & (negatives > 0) & ~np.isnan(thresholds)

    def ratio(count: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.where(defined, count, np.nan) / np.where(defined, total, 1)

    return {
        "sensitivity": ratio(true_positives, positives),
        "specificity": ratio(true_negatives, negatives),
        "f1": ratio(2 * true_positives, predicted_positives + positives),
    }


def check_scores(labels: np.ndarray, scores: np.ndarray, *, findings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores of K `findings` as (N, K) float64.

    Raises:
        InputError: the shapes are not (N, K), a label is neither 0, 1 nor NaN, or a score is not finite.
    """
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not labels.shape == scores.shape == (len(labels), len(findings)):
        raise InputError(f"labels {labels.shape} and scores {scores.shape} must be (N, {len(findings)})")
    if (wrong := ~(np.isnan(labels) | np.isin(labels, (0, 1)))).any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"the label of {findings[column]} in row {row} is {labels[row, column]}; it must be 0, 1 or NaN"
        )
    finite = np.isfinite(scores)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"the score of {findings[column]} in row {row} is {scores[row, column]}; "
            "the model has diverged or its checkpoint is broken"
        )
    return labels, scores
