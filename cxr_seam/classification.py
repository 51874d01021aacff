"""How well the probabilities tell findings apart: the area under the ROC curve, per finding and as a mean.

Source: D'Souza et al. 2022, Table 1.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .errors import InputError
from .findings import FINDINGS


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
