"""How well boxes find lesions: accuracy, never without the false positives that it was bought with.

The tables of predicted and of true boxes are those of `matching`.

Source: D'Souza et al. 2022, section 5.3, Tables 2 and 3; Wang et al. 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import BOXED_FINDINGS
from ..recipes import CORRECT_IOU
from .bootstrap import Estimate, PatientBootstrap, estimate, num_valid
from .boxes import Matches, Measure, iou, macro_mean, match
from .froc import Froc, froc_from_matches
from .pointing_game import pointing_game

IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)  # Table 2 uses 0.1; Wang et al. 2017 the others


IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


FROC_AT = (0.25, 0.5, 1.0)
"""False positives per image and finding at which the FROC curve is read."""


FROC_MATCHES: tuple[tuple[Measure, float], ...] = (("iou", 0.1), ("iou", 0.3), ("iobb", 0.1))


SUMMARY_RATE = 0.5
"""The rate of `FROC_AT` at which methods are ranked."""


GATE = 0.5


_QUOTIENTS = ("accuracy", "false_positives_per_image", "false_positives_per_box")


class MetricKey(NamedTuple):
    """Identify one macro value in the scores of a method.

    Attributes:
        kind: "all_boxes", "best_box", "filtered_boxes" or "froc".
        overlap: measure and threshold, such as "iou>0.1".
        quantity: "accuracy" or "false_positives_per_image".
        at_fp_rate: false positives per image and finding at which a FROC curve is read; None for the other kinds.
    """

    kind: str
    overlap: str
    quantity: str = "accuracy"
    at_fp_rate: float | None = None

    def value(self, scores: Mapping[str, Any]) -> Estimate:
        """Return the estimate from the scores of one method (`localization_scores`)."""
        table = scores[self.kind][self.overlap]
        if self.at_fp_rate is not None:
            return table["at_fp_rate"][str(self.at_fp_rate)]["macro"]
        return table["macro"][self.quantity]


_DRAWS_AT_ONCE = 125  # weights of 880 images and 2,000 false positives in each: 2 MB in int64


def best_boxes(predicted: pd.DataFrame) -> pd.DataFrame:
    """Keep the highest-scored box of each image and finding; of equal scores, the one that stands first.

    `predicted_boxes` puts the larger of two equal boxes first, so the larger one is kept.
    """
    ranked = predicted.sort_values("score", ascending=False, kind="stable")
    return ranked.drop_duplicates(["image_index", "finding"]).sort_index()


def best_iou(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the largest IoU of the best box, the first of `predicted` (K, 4), with `true` (M, 4); 0 without boxes."""
    return float(iou(predicted[:1], true).max(initial=0.0))


def is_correct(predicted: np.ndarray, true: np.ndarray) -> bool:
    """Return whether the best box, the first of `predicted` (K, 4), has an IoU above `CORRECT_IOU` with a true box."""
    return best_iou(predicted, true) > CORRECT_IOU


def score_best_boxes(boxes: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Score the best box of each image and finding that has a true box.

    Returns:
        Columns `image_index`, `finding`, `iou` (the largest IoU of the best box with a true box; 0 without a box) and
        `correct`, whether it is above `CORRECT_IOU`; sorted by image and finding.
    """
    key = ["image_index", "finding"]
    matches = match(best_boxes(boxes), truth, images=truth["image_index"].unique())
    overlap = np.zeros(len(truth))
    np.maximum.at(overlap, matches.pair_true, matches.overlaps["iou"])
    table = truth[key].assign(iou=overlap).groupby(key)["iou"].max().reset_index()
    return table.assign(correct=table["iou"] > CORRECT_IOU)


def rank_by_probability(boxes: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
    """Give each box the probability of its finding on its film, which gates it and ranks it among all films.

    Any boxes will do, those of a control too: centre boxes ranked by a model's probabilities tell what its classifier
    localises alone, and a model's own boxes what its maps add.

    Args:
        boxes: predicted boxes.
        probabilities: index: image_index; columns: findings; values in [0, 1].

    Returns:
        A copy of `boxes` with the column `probability`.

    Raises:
        InputError: an image or finding has no probability, or one is not in [0, 1].
    """
    row = probabilities.index.get_indexer(boxes["image_index"])
    column = probabilities.columns.get_indexer(boxes["finding"])
    if (missing := (row < 0) | (column < 0)).any():
        image, finding = boxes[["image_index", "finding"]].to_numpy()[int(np.argmax(missing))]
        raise InputError(f"there is no probability of {finding} on {image}; classify the images the boxes are of")
    values = probabilities.to_numpy(dtype=np.float64)[row, column]
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("a probability of a box is not in [0, 1]; give probabilities, not logits")
    return boxes.assign(probability=values)


def filter_by_probability(predicted: pd.DataFrame, *, probability: float = GATE) -> pd.DataFrame:
    """Keep the boxes of findings whose probability is above `probability`, as the authors' program does.

    The paper does not tell of it. Boxes without the column `probability` count as 1 and are all kept.
    """
    return predicted[predicted["probability"] > probability] if "probability" in predicted else predicted


def localization_table(
    predicted: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    images: Sequence[str],
    measure: Measure = "iobb",
    threshold: float = 0.1,
) -> pd.DataFrame:
    """Score predicted boxes against true ones, per finding and over all eight.

    A true box is *correct* when some predicted box of its image and finding overlaps it by more than
    `threshold`. A predicted box is a *false positive* when it overlaps no true box of its image and finding
    by more than `threshold`; every image of `images` counts, with or without a true box of that finding. Boxes
    of other images and of the six findings without true boxes are left out on both sides.

    Source: section 5.3; the denominators of Tables 2 and 3 (880 images) and of Wang et al. 2017 (984 boxes).

    Args:
        predicted: see the module; `score` is not read.
        truth: see the module; several boxes for an image and finding are allowed.
        images: the images the boxes were predicted on, each once. Also those where nothing was predicted.
        measure: "iobb" as in the paper, or "iou" as in the authors' program.
        threshold: T; the overlap must be larger.

    Returns:
        Index: the eight findings, "macro", "micro". Columns:
        `boxes`, `correct`: counts of true boxes (totals in the last two rows);
        `accuracy`: correct / boxes, NaN without boxes; macro: mean over the findings with boxes; micro: total
        correct / total boxes;
        `false_positives`: count (total in the last two rows);
        `false_positives_per_image`: divided by the number of images; macro: mean over the findings, that is
        per image AND finding; micro: the total per image;
        `false_positives_per_box`: divided by the number of true boxes of all findings together, as Wang et
        al. do; macro and micro as before.

    Raises:
        InputError: see `matching.match`; or the measure is unknown.
    """
    matches = match(predicted, truth, images=images)
    return _table(_counts(matches, measure, threshold).sum(axis=0), images=matches.images)


def localization_scores(
    boxes: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    images: Sequence[str],
    draws: PatientBootstrap,
    points: pd.DataFrame | None = None,
) -> tuple[dict[str, Any], dict[MetricKey, np.ndarray]]:
    """Every localization score of one method, with intervals over patients.

    Args:
        boxes: all its predicted boxes, with `probability` where it has one (`rank_by_probability`).
        truth: true boxes.
        images: the images the boxes were predicted on, in the order that `draws` was made for.
        draws: of the patients of these images.
        points: of the pointing game, for methods that point (`pointing.points`).

    Returns:
        The scores: "all_boxes" (the paper's rule), "best_box" (one for each image and finding) and "filtered_boxes"
        (probability above 0.5), each with "iobb>0.1" ... "iou>0.7", each with "findings", "macro" and "micro", the
        rows of `localization_table` with its quotients as measured values and "n_valid_replicates", the draws that the
        accuracy's interval rests on; "froc" with "iou>0.1", "iou>0.3" and "iobb>0.1", each with "at_fp_rate" (accuracy at 0.25,
        0.5 and 1 false positives per image and finding; "n_valid_replicates" of the macro value) and "curve" (macro);
        "pointing_game", None without `points`.

        And by `MetricKey` the bootstrap replicates (n_bootstrap,) of each macro accuracy (of FROC at 0.5) and of the
        macro false positives per image, for differences between methods.

    Raises:
        InputError: see `matching.match`; or the draws are of another number of images.
    """
    draws.check_rows(len(images))
    scores: dict[str, Any] = {}
    samples: dict[MetricKey, np.ndarray] = {}
    for kind, table in (
        ("all_boxes", boxes),
        ("best_box", best_boxes(boxes)),
        ("filtered_boxes", filter_by_probability(boxes)),
    ):
        matches = match(table, truth, images=images)
        scores[kind] = {}
        for measure, thresholds in (("iobb", IOBB_THRESHOLDS), ("iou", IOU_THRESHOLDS)):
            for threshold in thresholds:
                name = f"{measure}>{threshold}"
                scores[kind][name], drawn = _measured_table(matches, measure, threshold, draws)
                samples |= {MetricKey(kind, name, quantity): values for quantity, values in drawn.items()}
        if kind == "all_boxes":
            curves = {f"{m}>{t}": froc_from_matches(matches, measure=m, threshold=t) for m, t in FROC_MATCHES}
    scores["froc"] = {}
    for name, curve in curves.items():
        key = MetricKey("froc", name, at_fp_rate=SUMMARY_RATE)
        scores["froc"][name], samples[key] = _measured_froc(curve, draws)
    scores["pointing_game"] = None if points is None else pointing_game(points, images=images, draws=draws)
    return scores, samples


def _counts(matches: Matches, measure: Measure, threshold: float) -> np.ndarray:
    """True boxes, correct ones and false positives of each image: (N, 3, 8)."""
    false, correct = matches.fp_and_tp(measure, threshold)
    counts = np.zeros((matches.images, 3, len(BOXED_FINDINGS)))
    np.add.at(counts, (matches.true_image, 0, matches.true_finding), 1)
    np.add.at(counts, (matches.true_image, 1, matches.true_finding), correct)
    np.add.at(counts, (matches.predicted_image[false], 2, matches.predicted_finding[false]), 1)
    return counts


def _quotients(totals: np.ndarray, images: np.ndarray | int, boxed: np.ndarray) -> dict[str, np.ndarray]:
    """`_QUOTIENTS` (..., 10), findings, macro, micro, of totals (..., 3, 8) over `images` (...); NaN = not defined.

    `boxed` (8,) names the findings that have true boxes on all images together.
    """
    boxes, correct, false = np.moveaxis(totals, -2, 0)
    all_boxes = boxes.sum(axis=-1, keepdims=True)
    images = np.broadcast_to(np.asarray(images, dtype=np.float64)[..., None], all_boxes.shape)
    found = {}
    for name, part, whole in zip(_QUOTIENTS, (correct, false, false), (boxes, images, all_boxes), strict=True):
        micro_whole = whole.sum(axis=-1, keepdims=True)  # of `boxes` all of them; of the others the one there is
        parts = np.concatenate([part, part.sum(axis=-1, keepdims=True)], axis=-1)
        wholes = np.concatenate([np.broadcast_to(whole, part.shape), micro_whole], axis=-1)
        values = np.divide(parts, wholes, out=np.full(parts.shape, np.nan), where=wholes > 0)
        defined = boxed if name == "accuracy" else np.ones_like(boxed)
        found[name] = np.insert(values, -1, macro_mean(values[..., :-1], defined=defined), axis=-1)
    return found


def _table(totals: np.ndarray, *, images: int) -> pd.DataFrame:
    """`localization_table` of totals (3, 8)."""
    quotients = _quotients(totals, images, totals[0] > 0)
    counts = np.concatenate([totals, *[totals.sum(axis=1, keepdims=True)] * 2], axis=1).astype(np.int64)
    index = pd.Index([*BOXED_FINDINGS, "macro", "micro"], name="finding")
    columns = dict(zip(("boxes", "correct", "false_positives"), counts, strict=True)) | quotients
    table = pd.DataFrame(columns, index=index)
    return table[["boxes", "correct", "accuracy", "false_positives", *_QUOTIENTS[1:]]]


def _measured_table(
    matches: Matches, measure: Measure, threshold: float, draws: PatientBootstrap
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`localization_table` as nested dictionaries of measured values, and draws of its macro row.

    The replicates are those of the accuracy and of the false positives per image.
    """
    counts = _counts(matches, measure, threshold)
    totals = draws.totals(counts.reshape(len(counts), -1)).reshape(len(draws), *counts.shape[1:])
    everywhere = counts.sum(axis=0)
    samples = _quotients(totals, draws.totals(np.ones(len(counts))), everywhere[0] > 0)
    table = _table(everywhere, images=len(counts))
    rows = {
        name: {
            column: estimate(value, samples[column][:, number]) if column in samples else int(value)
            for column, value in row.items()
        }
        | {"n_valid_replicates": num_valid(samples["accuracy"][:, number])}
        for number, (name, row) in enumerate(table.to_dict(orient="index").items())
    }
    macro, micro = rows.pop("macro"), rows.pop("micro")
    drawn = {quantity: samples[quantity][:, -2] for quantity in _QUOTIENTS[:2]}
    return {"findings": rows, "macro": macro, "micro": micro}, drawn


def _measured_froc(curve: Froc, draws: PatientBootstrap) -> tuple[dict[str, Any], np.ndarray]:
    """The values of a FROC curve with their intervals, and the draws of the macro value at 0.5."""
    parts = [
        curve.accuracies(FROC_AT, draws.weights(start, start + _DRAWS_AT_ONCE))
        for start in range(0, len(draws), _DRAWS_AT_ONCE)
    ]
    at, samples = {}, {}
    for x, drawn in zip(FROC_AT, np.moveaxis(np.concatenate(parts), 1, 0), strict=True):  # drawn: (draws, 8)
        *findings, (_, macro) = curve.at(x).items()
        samples[x] = macro_mean(drawn, defined=~np.isnan([value for _, value in findings]))
        at[str(x)] = {
            "findings": {name: estimate(value, drawn[:, i]) for i, (name, value) in enumerate(findings)},
            "macro": estimate(macro, samples[x]),
            "n_valid_replicates": num_valid(samples[x]),
        }
    rate, accuracy = curve.macro_curve()
    defined = ~np.isnan(accuracy)  # all or none
    line = {"false_positives_per_image": rate[defined].tolist(), "accuracy": accuracy[defined].tolist()}
    return {"at_fp_rate": at, "curve": line}, samples[SUMMARY_RATE]
