"""AUC against counting pairs, metrics and replicates against scikit-learn, and undefined values."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.metrics import classification
from cxr_seam.metrics.bootstrap import bootstrap_patients
from cxr_seam.metrics.classification import (
    bootstrap_auc_ap,
    choose_thresholds,
    classification_scores,
    classification_table,
)


def _scores(images: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (generator.random((images, 14)) < 0.4).astype(np.uint8)
    raw_scores = np.round(generator.random((images, 14)) * 0.7 + 0.3 * labels, 1)  # rounded: ties
    return labels, raw_scores


def test_auc_matches_pair_counting():
    labels, raw_scores = _scores()
    table = classification_table(labels, raw_scores)
    assert list(table.index) == list(FINDINGS)
    for i, finding in enumerate(FINDINGS):
        positive, negative = (raw_scores[labels[:, i] == value, i] for value in (1, 0))
        wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
        assert table.loc[finding, "auc"] == pytest.approx(wins / (len(positive) * len(negative)))
        assert table.loc[finding, "positives"] == len(positive)
        assert table.loc[finding, "negatives"] == len(negative)


def test_auc_without_positives_or_negatives_is_nan():
    labels, raw_scores = _scores()
    labels[:, 13], labels[:, 0] = 0, 1
    table = classification_table(labels, raw_scores)
    assert table["auc"].isna().tolist() == [True] + [False] * 12 + [True]
    assert table.loc["Hernia", ["positives", "negatives"]].tolist() == [0, 40]


@pytest.mark.parametrize("decimals", [1, 2, 9], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_bootstrap_auc_ap_matches_sklearn(decimals: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    monkeypatch.setattr(classification, "MAX_VALUES", 1000)  # several turns, the last one shorter
    generator = np.random.default_rng(4)
    labels = (generator.random(300) < share).astype(np.int64)
    scores = np.round(generator.normal(size=300) + labels, decimals)
    bootstrap = bootstrap_patients(generator.integers(90, size=300), n_bootstrap=53)
    auc, average_precision = bootstrap_auc_ap(labels, scores, bootstrap=bootstrap)
    compared = 0
    for draw, weights in enumerate(bootstrap.weights(0, 53)):
        if len(np.unique(labels[weights > 0])) == 2:
            given = {"y_true": labels, "y_score": scores, "sample_weight": weights}
            assert auc[draw] == pytest.approx(roc_auc_score(**given), abs=1e-12)
            assert average_precision[draw] == pytest.approx(average_precision_score(**given), abs=1e-12)
            compared += 1
        else:
            assert np.isnan([auc[draw], average_precision[draw]]).all()
    assert compared > 40


def test_metrics_match_repeated_images() -> None:
    """Weights are a way of counting: scikit-learn on the repeated rows, without weights, gives the same metrics."""
    from sklearn.metrics import f1_score, recall_score, roc_auc_score

    labels, raw_scores = _scores(60, seed=5)
    bootstrap = bootstrap_patients(np.arange(60) // 2, n_bootstrap=30)
    thresholds = np.full(14, 0.4)
    samples = classification._rank_metrics(labels, raw_scores, bootstrap)
    samples |= classification._decision_metrics(labels, raw_scores, thresholds, bootstrap)
    for draw, weights in enumerate(bootstrap.weights(0, 30)):
        rows = np.repeat(np.arange(60), weights)
        true, given = labels[rows], raw_scores[rows]
        called = given >= 0.4
        for i in (0, 9):
            expected = {
                "auc": roc_auc_score(true[:, i], given[:, i]),
                "sensitivity": recall_score(true[:, i], called[:, i]),
                "specificity": recall_score(true[:, i], called[:, i], pos_label=0),
                "f1": f1_score(true[:, i], called[:, i]),
            }
            assert {name: samples[name][draw, i] for name in expected} == pytest.approx(expected)


def _four_images() -> tuple[np.ndarray, np.ndarray]:
    """Images of four patients; Cardiomegaly is nowhere, Effusion everywhere, the others are alike."""
    labels = np.tile([[1], [0], [1], [0]], 14)
    labels[:, 1], labels[:, 2] = 0, 1
    return labels, np.tile([[0.9], [0.6], [0.6], [0.2]], 14)


def test_scores_match_hand_computed_values() -> None:
    """Pairs: 0.9 beats both, 0.6 ties one and beats one: 3.5 of 4. Steps at 0.9 and 0.6: 1/2 x 1 + 1/2 x 2/3."""
    labels, raw_scores = _four_images()
    middle, low = np.full(14, 0.5), np.full(14, 0.1)
    middle[3] = np.nan
    thresholds = {"youden": middle, "sensitivity_90": low, "specificity_90": middle}
    table, samples = classification_scores(
        labels, raw_scores, bootstrap=bootstrap_patients("abcd", n_bootstrap=60), thresholds=thresholds
    )
    row = table["findings"]["Atelectasis"]
    assert [row[name]["value"] for name in ("auc", "average_precision")] == pytest.approx([3.5 / 4, 5 / 6])
    for point, expected in (("youden", [0.5, 1, 1 / 2, 4 / 5]), ("sensitivity_90", [0.1, 1, 0, 2 / 3])):
        decisions = row["operating_points"][point]
        values = [decisions["threshold"], *(decisions[name]["value"] for name in ("sensitivity", "specificity", "f1"))]
        assert values == pytest.approx(expected)
    assert (row["positives"], row["negatives"]) == (2, 2) and "note" not in row
    assert table["findings"]["Infiltration"]["operating_points"]["youden"]["threshold"] is None
    assert row["auc"]["low"] < 3.5 / 4 < row["auc"]["high"] == 1
    assert table["mean"]["n_defined"] == 12
    assert table["mean"]["auc"]["value"] == pytest.approx(3.5 / 4)
    assert samples["mean_auc"].shape == samples["mean_average_precision"].shape == (60,)


def test_undefined_scores_have_a_note() -> None:
    labels, raw_scores = _four_images()
    undefined = {"value": None, "low": None, "high": None}
    bootstrap = bootstrap_patients("abcd", n_bootstrap=60)
    table, _ = classification_scores(labels, raw_scores, bootstrap=bootstrap)
    assert list(table["findings"]) == list(FINDINGS)
    for finding, missing in (("Cardiomegaly", "positive"), ("Effusion", "negative")):
        row = table["findings"][finding]
        assert row["note"] == f"not defined: no {missing} image"
        assert row["auc"] == row["average_precision"] == undefined
        for decisions in row["operating_points"].values():
            assert decisions["sensitivity"] == decisions["specificity"] == decisions["f1"] == undefined
    row = table["findings"]["Mass"]
    decisions = row["operating_points"]["youden"]
    assert row["auc"]["value"] and decisions["sensitivity"] == undefined and decisions["threshold"] is None
    nothing, samples = classification_scores(labels * 0, raw_scores, bootstrap=bootstrap)
    assert nothing["mean"] == {
        "auc": undefined,
        "average_precision": undefined,
        "n_defined": 0,
        "n_valid_replicates": 0,
    }
    assert np.isnan(samples["mean_auc"]).all()


def test_mean_leaves_out_replicates_without_a_finding() -> None:
    labels, raw_scores = _scores(80, seed=6)
    labels[:, 13] = 0
    labels[3:5, 13] = 1
    bootstrap = bootstrap_patients(np.arange(80) // 2, n_bootstrap=300)
    without = (bootstrap.weights(0, 300)[:, 3:5].sum(axis=1) == 0).nonzero()[0]
    table, samples = classification_scores(labels, raw_scores, bootstrap=bootstrap)
    assert len(without) > 0
    assert table["mean"]["n_valid_replicates"] == 300 - len(without)
    assert np.isnan(samples["mean_auc"]).nonzero()[0].tolist() == without.tolist()


def test_thresholds_maximise_youden_index() -> None:
    labels, raw_scores = _scores(50, seed=7)
    labels[:, 13] = 0
    thresholds = choose_thresholds(labels, raw_scores)["youden"]
    assert np.isnan(thresholds[13])
    for i in range(13):
        true = labels[:, i] == 1
        youden = {}
        for threshold in np.unique(raw_scores[:, i]):
            called = raw_scores[:, i] >= threshold
            youden[threshold] = called[true].mean() + (~called[~true]).mean() - 1
        best = max(youden.values())
        assert thresholds[i] == max(threshold for threshold, value in youden.items() if value >= best - 1e-12)


def test_thresholds_of_90_per_cent_by_hand() -> None:
    """Positives 0.1, ..., 1.0: nine of ten from 0.2. Negatives 0.05, ..., 1.0: eighteen of twenty below 0.95."""
    scores = np.r_[np.arange(1, 11) / 10, np.arange(1, 21) / 20, 0.99]
    labels = np.r_[np.ones(10), np.zeros(20), np.nan]
    found = choose_thresholds(labels[:, None], scores[:, None], findings=["Mass"])
    assert (found["sensitivity_90"], found["specificity_90"]) == (pytest.approx([0.2]), pytest.approx([0.95]))
    tied = choose_thresholds(np.array([[1], [0], [0]]), np.ones((3, 1)), findings=["Mass"])
    assert tied["sensitivity_90"] == [1] and np.isnan(tied["specificity_90"])  # no score is above the negatives


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_of_90_per_cent_are_the_best_ones(seed: int) -> None:
    """Search all scores: the highest threshold that is sensitive enough, the lowest that is specific enough."""
    labels, raw_scores = _scores(50, seed=seed)
    thresholds = choose_thresholds(labels, raw_scores)
    for i in range(14):
        positive, negative = (raw_scores[labels[:, i] == value, i] for value in (1, 0))
        candidates = np.unique(raw_scores[:, i])
        sensitive = [t for t in candidates if 10 * (positive >= t).sum() >= 9 * len(positive)]
        specific = [t for t in candidates if 10 * (negative < t).sum() >= 9 * len(negative)]
        assert thresholds["sensitivity_90"][i] == max(sensitive)
        assert thresholds["specificity_90"][i] == min(specific)


def test_scores_refuse_bad_input():
    labels, raw_scores = _scores()
    with pytest.raises(InputError, match=r"\(N, 14\)"):
        classification_table(labels[:, :13], raw_scores[:, :13])
    with pytest.raises(InputError, match=r"\(N, 14\)"):
        classification_table(labels[:5], raw_scores)
    raw_scores[7, 4] = np.nan
    with pytest.raises(InputError, match="Mass in row 7 is nan"):
        classification_table(labels, raw_scores)
    labels, raw_scores = _scores()
    with pytest.raises(InputError, match="40 images, but the bootstrap has 3"):
        classification_scores(labels, raw_scores, bootstrap=bootstrap_patients("abc", n_bootstrap=2))


def test_unknown_labels_are_left_out_of_every_score() -> None:
    """Scores of three findings with unknown labels against scikit-learn on the images with a known label."""
    from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

    generator, findings = np.random.default_rng(9), ("Fracture", "Mass", "Opacity")
    labels = generator.choice([0, 1, np.nan], p=[0.4, 0.3, 0.3], size=(60, 3)).astype(np.float32)
    labels[:, 2] = np.nan
    raw_scores = np.round(generator.random((60, 3)), 2)
    bootstrap = bootstrap_patients(np.arange(60) // 2, n_bootstrap=20)
    thresholds = choose_thresholds(labels, raw_scores, findings=findings)
    arguments = {"bootstrap": bootstrap, "thresholds": thresholds, "findings": findings}
    scores, samples = classification_scores(labels, raw_scores, **arguments)
    replicates = []
    for i, finding in enumerate(findings[:2]):
        known = ~np.isnan(labels[:, i])
        true, score = labels[known, i].astype(int), raw_scores[known, i]
        row = scores["findings"][finding]
        assert (row["positives"], row["negatives"]) == (true.sum(), (1 - true).sum())
        decisions = row["operating_points"]["youden"]
        called = score >= decisions["threshold"]
        expected = [roc_auc_score(true, score), average_precision_score(true, score), recall_score(true, called)]
        expected += [recall_score(true, called, pos_label=0), f1_score(true, called)]
        names = ("auc", "average_precision", "sensitivity", "specificity", "f1")
        assert [(row | decisions)[name]["value"] for name in names] == pytest.approx(expected)
        youden = {t: (score >= t)[true == 1].mean() - (score >= t)[true == 0].mean() for t in np.unique(score)}
        assert youden[decisions["threshold"]] == pytest.approx(max(youden.values()))
        weights = bootstrap.weights(0, 20)[:, known]
        replicates.append([roc_auc_score(true, score, sample_weight=w) for w in weights])
    assert samples["mean_auc"] == pytest.approx(np.mean(replicates, axis=0))
    assert scores["mean"]["n_defined"] == 2
    assert np.isnan(thresholds["youden"][2]) and "not defined" in scores["findings"]["Opacity"]["note"]
    table = classification_table(labels, raw_scores, findings=findings)
    aucs = [scores["findings"][finding]["auc"]["value"] for finding in findings[:2]]
    assert table["auc"].tolist()[:2] == pytest.approx(aucs)
    assert table.loc["Opacity", ["positives", "negatives"]].tolist() == [0, 0]
    with pytest.raises(InputError, match=r"Mass in row 4 is -1\.0"):
        classification_table(np.where(np.arange(60)[:, None] == 4, [0, -1, 0], 0), raw_scores, findings=findings)
