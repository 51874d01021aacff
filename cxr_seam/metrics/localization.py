"""Score boxes: accuracy and false positives (section 5.3, Tables 2 and 3; Wang et al. 2017), FROC, pointing game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..findings import BOXED_FINDINGS
from .bootstrap import Estimate, PatientBootstrap, estimate, macro_mean, num_valid
from .froc import SUMMARY_RATE, froc, froc_scores
from .matching import Matches, Measure, boxed_findings, match
from .pixels import pixel_scores
from .pointing_game import pointing_game

OVERLAPS: tuple[tuple[Measure, float], ...] = (
    *(("iobb", threshold) for threshold in (0.1, 0.25, 0.5, 0.75, 0.9)),  # Table 2: 0.1; Wang et al. 2017: the others
    *(("iou", threshold) for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
)
FROC_OVERLAPS: tuple[tuple[Measure, float], ...] = (("iou", 0.3), ("iou", 0.1), ("iobb", 0.1))
RATIOS = ("accuracy", "false_positives_per_image", "false_positives_per_box")


class MetricKey(NamedTuple):
    """Identify one macro value in the scores of a method.

    Attributes:
        kind: "all_boxes", "best_box", "filtered_boxes", "froc", "pixels" or "classification".
        overlap: measure and threshold, such as "iou>0.1"; None for classification and pixels.
        quantity: such as "accuracy" or "false_positives_per_image".
        at_fp_rate: false positives per image and finding at which a FROC curve is read; None for the other kinds.
    """

    kind: str
    overlap: str | None
    quantity: str = "accuracy"
    at_fp_rate: float | None = None

    def value(self, scores: Mapping[str, Any]) -> Estimate:
        """Return the estimate from the scores of one method (`localization_scores`)."""
        if self.kind == "pixels":
            return scores["pixels"][self.quantity]["macro"]
        table = scores[self.kind][self.overlap]
        if self.at_fp_rate is not None:
            return table["at_fp_rate"][str(self.at_fp_rate)]["macro"]
        return table["macro"][self.quantity]


def best_boxes(predicted: pd.DataFrame) -> pd.DataFrame:
    """Keep the box with the highest score of each image and finding; of equal scores, the first (the larger one)."""
    ranked = predicted.sort_values("score", ascending=False, kind="stable")
    return ranked.drop_duplicates(["image_index", "finding"]).sort_index()


def localization_table(
    predicted: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    images: Sequence[str],
    findings: Sequence[str] = BOXED_FINDINGS,
    measure: Measure = "iobb",
    threshold: float = 0.1,
) -> pd.DataFrame:
    """Score predicted boxes for each finding and for all of them.

    A true box is *correct* if a predicted box of its image and finding overlaps it by more than `threshold`. A
    predicted box is a *false positive* if it overlaps no true box of its image and finding by more than `threshold`;
    all `images` count, with or without a true box. Other images and findings are left out.

    Source: section 5.3; the denominators of Tables 2 and 3 (880 images) and of Wang et al. 2017 (984 boxes).

    Args:
        predicted, truth, images, findings: see `match`.
        measure: "iobb" as in the paper, or "iou" as in the authors' program.
        threshold: T; the overlap must be larger.

    Returns:
        Index: the findings, "macro" (means over the findings) and "micro" (of the sums). Columns: `boxes` and
        `correct`, numbers of true boxes; `accuracy`, correct / boxes, NaN without boxes; `false_positives`, a number;
        `false_positives_per_image` (macro: per image AND finding); `false_positives_per_box`, divided by the number of
        true boxes of all findings, as in Wang et al. Numbers in the last two rows are sums.
    """
    matches = match(predicted, truth, images=images, findings=findings)
    return _table(_counts(matches, measure, threshold).sum(axis=0), matches.findings)


def localization_scores(
    boxes: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    images: Sequence[str],
    bootstrap: PatientBootstrap,
    findings: Sequence[str] = BOXED_FINDINGS,
    points: pd.DataFrame | None = None,
    pixels: pd.DataFrame | None = None,
) -> tuple[dict[str, Any], dict[MetricKey, np.ndarray]]:
    """Compute all localization scores of one method, with intervals over patients.

    Args:
        boxes, truth, images, findings: see `match`; `boxes` with `raw_score` if the method has one, see
            `rank_by_raw_score`.
        bootstrap: of the patients of `images`, in the same order.
        points: of the pointing game, or None.
        pixels: scores of heat maps against outlines (`pixel_rows`), or None.

    Returns:
        The scores, ready for JSON. "all_boxes" (the paper's rule), "best_box" (one for each image and finding) and
        "filtered_boxes" (raw score above 0.5, as in the authors' program; boxes without `raw_score` stay): for each
        of `OVERLAPS`, such as "iobb>0.1", the rows of `localization_table` under "findings", "macro" and "micro" with
        estimates for `RATIOS`, and "n_valid_replicates" of the accuracy. "froc": for each of `FROC_OVERLAPS`, see
        `froc_scores`. "pointing_game" and "pixels", or None.
        And the replicates (n_bootstrap,) of macro accuracies, false positives per image and pixel scores.
    """
    scores: dict[str, Any] = {"froc": {}, "pointing_game": None, "pixels": None}
    samples: dict[MetricKey, np.ndarray] = {}
    filtered = boxes[boxes["raw_score"] > 0.5] if "raw_score" in boxes else boxes
    tables = {"all_boxes": boxes, "best_box": best_boxes(boxes), "filtered_boxes": filtered}
    matches = {kind: match(table, truth, images=images, findings=findings) for kind, table in tables.items()}
    for kind in tables:
        scores[kind] = {}
        for measure, threshold in OVERLAPS:
            name = f"{measure}>{threshold}"
            scores[kind][name], replicates = _score(matches[kind], measure, threshold, bootstrap)
            samples |= {MetricKey(kind, name, quantity): values for quantity, values in replicates.items()}
    for measure, threshold in FROC_OVERLAPS:
        key = MetricKey("froc", f"{measure}>{threshold}", at_fp_rate=SUMMARY_RATE)
        curve = froc(matches["all_boxes"], measure=measure, threshold=threshold)
        scores["froc"][key.overlap], samples[key] = froc_scores(curve, bootstrap)
    if points is not None:
        scores["pointing_game"] = pointing_game(points, images=images, findings=findings, bootstrap=bootstrap)
    if pixels is not None and len(pixels):
        names = {"images": images, "findings": boxed_findings(findings, pixels)}
        scores["pixels"], replicates = pixel_scores(pixels, **names, bootstrap=bootstrap)
        samples |= {MetricKey("pixels", None, metric): values for metric, values in replicates.items()}
    return scores, samples


def _counts(matches: Matches, measure: Measure, threshold: float) -> np.ndarray:
    """Count images, true boxes, correct ones and false positives of each image: (N, 4, K + 1), by finding and all."""
    false, correct = matches.fp_and_tp(measure, threshold)
    counts = np.zeros((matches.images, 3, len(matches.findings)))
    np.add.at(counts, (matches.true_image, 0, matches.true_finding), 1)
    np.add.at(counts, (matches.true_image, 1, matches.true_finding), correct)
    np.add.at(counts, (matches.predicted_image[false], 2, matches.predicted_finding[false]), 1)
    counts = np.concatenate([counts, counts.sum(axis=2, keepdims=True)], axis=2)
    return np.insert(counts, 0, 1, axis=1)


def _ratios(totals: np.ndarray, has_boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Compute `RATIOS` (..., K + 2) of findings, macro and micro from sums (..., 4, K + 1) of counts; NaN = none."""
    images, boxes, correct, false = np.moveaxis(totals, -2, 0)
    ratios = {}
    for name, part, whole in zip(RATIOS, (correct, false, false), (boxes, images, boxes[..., -1:]), strict=True):
        values = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
        defined = has_boxes if name == "accuracy" else np.ones_like(has_boxes)
        ratios[name] = np.insert(values, -1, macro_mean(values[..., :-1], defined=defined), axis=-1)
    return ratios


def _table(totals: np.ndarray, findings: Sequence[str]) -> pd.DataFrame:
    """Return `localization_table` from the sums (4, K + 1) of counts."""
    _, boxes, correct, false = np.insert(totals, -1, totals[:, -1], axis=1).astype(np.int64)
    ratios = _ratios(totals, totals[1, :-1] > 0)
    columns = {"boxes": boxes, "correct": correct, "accuracy": ratios.pop("accuracy"), "false_positives": false}
    return pd.DataFrame(columns | ratios, index=pd.Index([*findings, "macro", "micro"], name="finding"))


def _score(
    matches: Matches, measure: Measure, threshold: float, bootstrap: PatientBootstrap
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return `localization_table` as nested dictionaries with estimates, and replicates of its macro row."""
    counts = _counts(matches, measure, threshold)
    table = _table(counts.sum(axis=0), matches.findings)
    samples = _ratios(bootstrap.totals(counts), counts[:, 1, :-1].any(axis=0))
    rows = {}
    for i, (name, row) in enumerate(table.to_dict(orient="index").items()):
        rows[name] = {k: estimate(v, samples[k][:, i]) if k in samples else int(v) for k, v in row.items()}
        rows[name]["n_valid_replicates"] = num_valid(samples["accuracy"][:, i])
    macro, micro = rows.pop("macro"), rows.pop("micro")
    return {"findings": rows, "macro": macro, "micro": micro}, {k: samples[k][:, -2] for k in RATIOS[:2]}
