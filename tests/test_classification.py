"""AUC against counting pairs, and what happens where it is not defined."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_seam.classification import classification_table, mean_auc
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS


def _scores(images: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (generator.random((images, 14)) < 0.4).astype(np.uint8)
    probabilities = np.round(generator.random((images, 14)) * 0.7 + 0.3 * labels, 1)  # rounded: ties
    return labels, probabilities


def test_auc_is_the_part_of_pairs_in_order_ties_counting_half():
    labels, probabilities = _scores()
    table = classification_table(labels, probabilities)
    assert list(table.index) == list(FINDINGS)
    for i, finding in enumerate(FINDINGS):
        positive, negative = (probabilities[labels[:, i] == value, i] for value in (1, 0))
        wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
        assert table.loc[finding, "auc"] == pytest.approx(wins / (len(positive) * len(negative)))
        assert table.loc[finding, "positives"] == len(positive)
        assert table.loc[finding, "negatives"] == len(negative)
    assert mean_auc(table) == pytest.approx(sum(table["auc"]) / 14)


def test_a_finding_without_positives_or_negatives_is_not_defined():
    labels, probabilities = _scores()
    labels[:, 13], labels[:, 0] = 0, 1
    table = classification_table(labels, probabilities)
    assert table["auc"].isna().tolist() == [True] + [False] * 12 + [True]
    assert table.loc["Hernia", ["positives", "negatives"]].tolist() == [0, 40]
    assert mean_auc(table) == pytest.approx(sum(table["auc"][1:13]) / 12)


def test_nothing_defined_gives_nan():
    table = classification_table(np.zeros((3, 14)), np.zeros((3, 14)))
    assert np.isnan(mean_auc(table))


def test_bad_input_is_told_in_a_sentence():
    labels, probabilities = _scores()
    with pytest.raises(InputError, match=r"\(N, 14\)"):
        classification_table(labels[:, :13], probabilities[:, :13])
    with pytest.raises(InputError, match=r"\(N, 14\)"):
        classification_table(labels[:5], probabilities)
    with pytest.raises(InputError, match="0 or 1"):
        classification_table(labels * 2, probabilities)
    probabilities[7, 4] = np.nan
    with pytest.raises(InputError, match="Mass in row 7 is nan"):
        classification_table(labels, probabilities)
