"""Score the probabilities of findings: area under the ROC curve (AUC), average precision, sensitivity, specificity, F1.

Sources: D'Souza et al. 2022, Table 1 (AUC); average precision as in scikit-learn; Youden 1950 (thresholds). Intervals
come from a bootstrap over patients. Each replicate is a weight for each image, and AUC and average precision are
computed with these weights: the images of a finding are sorted once for all replicates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import FINDINGS
from .bootstrap import PatientBootstrap, estimate, macro_mean, num_valid

MAX_VALUES = 2**22
"""Weights in memory at a time for one finding: a few arrays of 32 MiB, whatever the number of images and replicates."""


def classification_table(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Tabulate the AUC of each finding.

    Args:
        labels: (N, 14) of 0 and 1, findings in NIH's order.
        probabilities: (N, 14), finite scores that are higher for positive images.

    Returns:
        Index: the 14 findings. Columns: `auc` (NaN without positive or without negative images), `positives`,
        `negatives` (numbers of images). A mean over 13 findings does not compare with a mean over 14.

    Raises:
        InputError: see `check_scores`.
    """
    from sklearn.metrics import roc_auc_score

    labels, probabilities = check_scores(labels, probabilities)
    positives = labels.sum(axis=0)
    negatives = len(labels) - positives
    auc = [
        roc_auc_score(labels[:, i], probabilities[:, i]) if positives[i] and negatives[i] else np.nan
        for i in range(len(FINDINGS))
    ]
    index = pd.Index(FINDINGS, name="finding")
    return pd.DataFrame({"auc": auc, "positives": positives, "negatives": negatives}, index=index)


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Choose the threshold of each finding that maximises the Youden index on validation images.

    The Youden index is sensitivity + specificity - 1, where a finding is positive if probability >= threshold. Of equal
    thresholds the highest is chosen. Do not choose thresholds on the images that are then scored.

    Args:
        labels: (N, 14) of 0 and 1.
        probabilities: (N, 14) finite.

    Returns:
        (14,) float64, probabilities of images; NaN without positive or without negative images.

    Raises:
        InputError: see `check_scores`.
    """
    from sklearn.metrics import roc_curve

    labels, probabilities = check_scores(labels, probabilities)
    thresholds = np.full(len(FINDINGS), np.nan)
    for i in range(len(FINDINGS)):
        positives = labels[:, i].sum()
        negatives = len(labels) - positives
        if positives and negatives:
            fpr, tpr, candidates = roc_curve(labels[:, i], probabilities[:, i], drop_intermediate=False)
            # in numbers of images, so that equal indices are exactly equal
            youden = np.rint(tpr * positives) * negatives - np.rint(fpr * negatives) * positives
            thresholds[i] = candidates[1:][youden[1:].argmax()]  # the first candidate is infinite
    return thresholds


def classification_scores(
    labels: np.ndarray, probabilities: np.ndarray, *, bootstrap: PatientBootstrap, thresholds: np.ndarray | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compute all scores of each finding and their means, with intervals over patients.

    Args:
        labels: (N, 14) of 0 and 1.
        probabilities: (N, 14) finite.
        bootstrap: of the patients of the same N images.
        thresholds: (14,) from `choose_thresholds` on validation images, NaN = none. Without a threshold sensitivity,
            specificity and F1 are not defined.

    Returns:
        The scores, ready for JSON. Under "findings", for each: `positives` and `negatives` (images), `threshold`,
        estimates of `auc`, `average_precision`, `sensitivity`, `specificity`, `f1`, and `note` if one is not defined.
        Under "mean": estimates of `auc` and `average_precision` over the `n_defined` findings that have them, and the
        `n_valid_replicates` with all of these findings.
        And the replicates (n_bootstrap,) of "mean_auc" and "mean_average_precision", NaN without one of the findings.

    Raises:
        InputError: see `check_scores`.
    """
    labels, probabilities = check_scores(labels, probabilities)
    thresholds = np.full(len(FINDINGS), np.nan) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    all_images = PatientBootstrap(np.ones((1, bootstrap.counts.shape[1]), dtype=np.uint8), bootstrap.patient_of)
    values = _metrics(labels, probabilities, thresholds, all_images)
    samples = _metrics(labels, probabilities, thresholds, bootstrap)
    positives = labels.sum(axis=0)
    findings = {}
    for i, finding in enumerate(FINDINGS):
        row: dict[str, Any] = {
            "positives": int(positives[i]),
            "negatives": int(len(labels) - positives[i]),
            "threshold": None if np.isnan(thresholds[i]) else float(thresholds[i]),
        }
        row |= {name: estimate(values[name][0, i], samples[name][:, i]) for name in values}
        if not (row["positives"] and row["negatives"]):
            row["note"] = f"not defined: no {'negative' if row['positives'] else 'positive'} image"
        elif row["threshold"] is None:
            row["note"] = "sensitivity, specificity and F1 not defined: no threshold from validation"
        findings[finding] = row
    defined = ~np.isnan(values["auc"][0])
    means = {name: macro_mean(samples[name], defined=defined) for name in ("auc", "average_precision")}
    mean: dict[str, Any] = {
        name: estimate(macro_mean(values[name][0], defined=defined), replicates) for name, replicates in means.items()
    }
    mean["n_defined"] = int(defined.sum())
    mean["n_valid_replicates"] = num_valid(means["auc"])  # the same for the average precision
    return {"findings": findings, "mean": mean}, {f"mean_{name}": replicates for name, replicates in means.items()}


def bootstrap_auc_ap(
    labels: np.ndarray, scores: np.ndarray, *, bootstrap: PatientBootstrap
) -> tuple[np.ndarray, np.ndarray]:
    """Compute AUC and average precision of one finding in every replicate.

    Equal scores are one step of both curves, so a tied pair counts half for the AUC, as in scikit-learn's
    `roc_auc_score` and `average_precision_score` with `sample_weight`. Sums of weights are exact.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,) finite.
        bootstrap: of the patients of the same N images.

    Returns:
        AUC and average precision, (n_bootstrap,) float64; NaN in a replicate without positive or negative images.
    """
    from scipy.sparse import csr_array

    order = np.argsort(-scores, kind="stable")
    is_positive = labels[order] == 1
    # Images of equal score form a group. Groups without positives add to neither area, so runs of them become one step.
    group = np.r_[0, np.cumsum(np.diff(scores[order]) != 0)]
    has_positive = np.bincount(group, weights=is_positive) > 0
    step_of_group = np.r_[0, np.cumsum(has_positive[1:] | has_positive[:-1])]
    step = step_of_group[group]
    shape = step[-1] + 1, bootstrap.counts.shape[1]
    patient = bootstrap.patient_of[order]
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


def _metrics(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, bootstrap: PatientBootstrap
) -> dict[str, np.ndarray]:
    """Compute every metric, (n_bootstrap, 14); NaN = not defined."""
    predicted = probabilities >= thresholds
    predicted_positives, positives = bootstrap.totals(predicted), bootstrap.totals(labels)
    negatives = bootstrap.totals(1 - labels)
    ranked = [bootstrap_auc_ap(labels[:, i], probabilities[:, i], bootstrap=bootstrap) for i in range(len(FINDINGS))]
    auc, average_precision = np.array(ranked).transpose(1, 2, 0)
    true_positives = bootstrap.totals(predicted & (labels == 1))
    true_negatives = negatives - (predicted_positives - true_positives)
    defined = (positives > 0) & (negatives > 0) & ~np.isnan(thresholds)

    def ratio(count: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.where(defined, count, np.nan) / np.where(defined, total, 1)

    return {
        "auc": auc,
        "average_precision": average_precision,
        "sensitivity": ratio(true_positives, positives),
        "specificity": ratio(true_negatives, negatives),
        "f1": ratio(2 * true_positives, predicted_positives + positives),
    }


def check_scores(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N, 14) as int64 and probabilities (N, 14) as float64.

    Raises:
        InputError: the shapes are not (N, 14), or a probability is not finite.
    """
    labels, probabilities = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    if not labels.shape == probabilities.shape == (len(labels), len(FINDINGS)):
        raise InputError(f"labels {labels.shape} and probabilities {probabilities.shape} must be (N, {len(FINDINGS)})")
    finite = np.isfinite(probabilities)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"the probability of {FINDINGS[column]} in row {row} is {probabilities[row, column]}; "
            "the model has diverged or its checkpoint is broken"
        )
    return labels, probabilities
