"""A case small enough for pencil and paper, to hold an installation against: no checkpoint, no data, some seconds.

Four films of two patients, one finding (a mass) with a map of 8 x 8 for each film, so a pixel of a map is an eighth of the
film. Every expected number below is worked out by hand, and the working stands beside it.

    film  patient  label  probability  true box x, y, w, h      map
    a     p        1      0.5          1/8, 1/8, 1/4, 1/2       a square of 4 pixels, and one weaker pixel
    b     p        1      0.6          7/8, 1/8, 1/8, 1/4       4 x 2 pixels at the upper edge and the right one
    c     q        0      0.6          none                     one pixel
    d     q        1      0.1          0, 0, 1/2, 1/2           nothing above zero
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from .data.transforms import rotate
from .findings import FINDINGS, XYWH
from .inference.boxes import predicted_boxes
from .inference.heatmaps import cam_to_heatmap
from .metrics.bootstrap import bootstrap_patients
from .metrics.boxes import iobb, iou, rank_by_probability
from .metrics.classification import classification_scores
from .metrics.froc import froc
from .metrics.localization import best_boxes, localization_scores, localization_table
from .metrics.pointing_game import points
from .models.cam import make_pcm_input
from .models.pcm import affinity, apply_affinity
from .models.pooling import lse_pool
from .training.losses import balanced_bce, ecr_loss, msml_loss

TOLERANCE = 1e-5
"""Float32 keeps seven digits; nothing here comes near another number by less than this."""


FILMS = ("a", "b", "c", "d")


PATIENTS = ("p", "p", "q", "q")


LABELS = (1, 1, 0, 1)


PROBABILITIES = (0.5, 0.6, 0.6, 0.1)


TRUE_BOXES = {"a": (1 / 8, 1 / 8, 1 / 4, 1 / 2), "b": (7 / 8, 1 / 8, 1 / 8, 1 / 4), "d": (0, 0, 1 / 2, 1 / 2)}


MASS = FINDINGS.index("Mass")


class Row(NamedTuple):
    """One number or list of numbers; `got` is a sentence where it could not be computed."""

    what: str
    expected: Any
    got: Any
    agree: bool


def selfcheck() -> list[Row]:
    """Compute the case and compare it with the numbers worked out by hand.

    Whatever fails to run is a row that differs, so that the others are still seen.
    """
    rows = []
    for what, expected, compute in checks():
        try:
            got = np.asarray(compute(), dtype=np.float64)
        except Exception as error:  # a broken installation may raise anything
            rows.append(Row(what, expected, f"{type(error).__name__}: {error}", False))
            continue
        agree = got.shape == np.shape(expected) and np.allclose(got, expected, rtol=0, atol=TOLERANCE)
        rows.append(Row(what, expected, got.tolist(), bool(agree)))
    return rows


def told(row: Row) -> str:
    """One line: agree or differ, what, and the numbers to four digits."""

    def short(value: Any) -> str:
        if isinstance(value, str):
            return value
        return "  ".join(f"{number:.4g}" for number in np.ravel(value))

    verdict = "agree " if row.agree else "differ"
    got = "" if row.agree else f", got {short(row.got)}"
    return f"{verdict}  {row.what}: {short(row.expected)}{got}"


def activation_maps() -> torch.Tensor:
    """(4, 1, 8, 8) float32, one map for each film."""
    cam = torch.zeros(4, 1, 8, 8)
    cam[0, 0] = 2
    cam[0, 0, 0, 0] = -4
    cam[0, 0, 1:3, 1:3] = 10
    cam[0, 0, 2, 2] = 8
    cam[0, 0, 6, 6] = 7.5
    cam[1, 0, 0:2, 4:8] = 3
    cam[2, 0, 5, 5] = 1
    cam[3, 0] = -1
    return cam


def case_boxes() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predicted boxes of the maps, with probabilities, and the true ones."""
    maps = cam_to_heatmap(activation_maps(), 8).numpy()
    predicted = pd.concat([predicted_boxes(m, film, ["Mass"]) for m, film in zip(maps, FILMS, strict=True)])
    truth = pd.DataFrame([(film, "Mass", *box) for film, box in TRUE_BOXES.items()])
    truth.columns = ["image_index", "finding", *XYWH]
    probabilities = pd.DataFrame({"Mass": PROBABILITIES}, index=list(FILMS))
    return rank_by_probability(predicted.reset_index(drop=True), probabilities), truth


def checks() -> list[tuple[str, Any, Callable[[], Any]]]:
    """What, the number by hand, and how it is computed here."""
    return [*_maps(), *_boxes(), *_rankings(), *_training()]


def _maps() -> list[tuple[str, Any, Callable[[], Any]]]:
    def heat_map_of_a() -> Any:
        return cam_to_heatmap(activation_maps(), 8)[0, 0, [0, 2, 4, 6, 1], [0, 2, 4, 6, 1]]

    return [
        # -4 is cut to 0; the others are divided by the maximum, 10.
        ("heat map of film a at five pixels", [0, 0.8, 0.2, 0.75, 1], heat_map_of_a),
        ("heat map of film d, nothing above zero", 0, lambda: cam_to_heatmap(activation_maps(), 8)[3].sum()),
        # Pixel centres 0.5 and 1.5 of the old grid lie at 1 and 3 of the new; the new centres are 0.5, 1.5, 2.5, 3.5:
        # a quarter of the way from 0 to 2, then three quarters; beyond the outer centres the edge goes on.
        (
            "heat map of (0, 2) on four pixels",
            [0, 0.25, 0.75, 1],
            lambda: cam_to_heatmap(torch.tensor([[[[0.0, 2.0]]]]), (1, 4))[0, 0, 0],
        ),
    ]


def _boxes() -> list[tuple[str, Any, Callable[[], Any]]]:
    def table(measure: Any, threshold: float, *columns: str, best: bool = False) -> Any:
        predicted, truth = case_boxes()
        predicted = best_boxes(predicted) if best else predicted
        scores = localization_table(predicted, truth, images=FILMS, measure=measure, threshold=threshold)
        return scores.loc["Mass", list(columns)]

    def overlap_of(film: str, measure: Any) -> Any:
        predicted = case_boxes()[0]
        return measure(predicted.loc[predicted["image_index"] == film, XYWH], [TRUE_BOXES[film]])[:, 0]

    def accuracy_interval() -> Any:
        draws = bootstrap_patients(PATIENTS, n_bootstrap=200)
        scores, _ = localization_scores(*case_boxes(), images=FILMS, bootstrap=draws)
        accuracy = scores["all_boxes"]["iobb>0.1"]["findings"]["Mass"]["accuracy"]
        return [accuracy["value"], accuracy["low"], accuracy["high"]]

    counts = ("boxes", "correct", "false_positives")
    return [
        # 0.7 of the maximum keeps the square (10, 10, 10, 8) and the pixel of 7.5. Stronger box first.
        (
            "boxes of film a",
            [[1 / 8, 1 / 8, 1 / 4, 1 / 4], [3 / 4, 3 / 4, 1 / 8, 1 / 8]],
            lambda: case_boxes()[0].loc[lambda t: t["image_index"] == "a", XYWH],
        ),
        # Columns 4 to 7, rows 0 and 1: to the edges of the film.
        ("box of film b, at the border", [1 / 2, 0, 1 / 2, 1 / 4], lambda: case_boxes()[0].loc[2, XYWH]),
        ("boxes of all films", 4, lambda: len(case_boxes()[0])),  # two of a, one each of b and c, none of d
        # a: the first box is the upper half of the true one, the second is elsewhere.
        ("IoBB in film a", [1, 0], lambda: overlap_of("a", iobb)),
        ("IoU in film a", [0.5, 0], lambda: overlap_of("a", iou)),
        # b: in pixels of the map they share 1 of 4 x 2 = 8; the union is 8 + 2 - 1 = 9.
        ("IoBB in film b", [1 / 8], lambda: overlap_of("b", iobb)),
        ("IoU in film b", [1 / 9], lambda: overlap_of("b", iou)),
        # a and b are found, d is not; a's second box and c's are false.
        ("IoBB > 0.1: boxes, found, false", [3, 2, 2], lambda: table("iobb", 0.1, *counts)),
        # b's box no longer counts and becomes false.
        ("IoBB > 0.25: boxes, found, false", [3, 1, 3], lambda: table("iobb", 0.25, *counts)),
        ("IoU > 0.2: boxes, found, false", [3, 1, 3], lambda: table("iou", 0.2, *counts)),
        # An IoU of 0.5 is not above 0.5.
        ("IoU > 0.5: boxes, found, false", [3, 0, 4], lambda: table("iou", 0.5, *counts)),
        ("best box, IoU > 0.1: boxes, found, false", [3, 2, 1], lambda: table("iou", 0.1, *counts, best=True)),
        ("accuracy at IoBB > 0.1", [2 / 3], lambda: table("iobb", 0.1, "accuracy")),
        # Two false ones on four films, of three true boxes.
        (
            "its false positives per image and per box",
            [1 / 2, 2 / 3],
            lambda: table("iobb", 0.1, "false_positives_per_image", "false_positives_per_box"),
        ),
        # A draw has patient p twice (a and b twice: 4 of 4), q twice (d twice: 0 of 2) or both (2 of 3). Each of the
        # extremes is a quarter of the draws, more than the 2.5 % that are cut off.
        ("accuracy and its interval over patients", [2 / 3, 0, 1], accuracy_interval),
    ]


def _rankings() -> list[tuple[str, Any, Callable[[], Any]]]:
    def froc_at(*rates: float) -> Any:
        curve = froc(*case_boxes(), images=FILMS, measure="iou", threshold=0.1)
        return [curve.at(rate)["Mass"] for rate in rates]

    def pointing() -> Any:
        maps, truth = cam_to_heatmap(activation_maps(), 8).numpy(), case_boxes()[1]
        played = [points(m, film, ["Mass"], truth=truth) for m, film in zip(maps, FILMS, strict=True)]
        return pd.concat(played)["hit"]

    def classified(*metrics: str) -> Any:
        labels, probabilities = np.zeros((2, len(FILMS), len(FINDINGS)))
        labels[:, MASS], probabilities[:, MASS] = LABELS, PROBABILITIES
        draws = bootstrap_patients(PATIENTS, n_bootstrap=2)
        at_half = np.full(len(FINDINGS), 0.5)
        scores = classification_scores(labels, probabilities, bootstrap=draws, thresholds=at_half)
        return [scores.table["findings"]["Mass"][metric]["value"] for metric in metrics]

    return [
        # Probability times peak: b 0.6 (found) and c 0.6 (false) tie, then a 0.5 (found), a's second 0.375 (false).
        # Points: (0, 0), straight to (1/4, 1/3), up to (1/4, 2/3), to (2/4, 2/3). Halfway along the first line: 1/6.
        ("FROC, IoU > 0.1, at 1/8, 1/4 and 1 false per image", [1 / 6, 2 / 3, 2 / 3], lambda: froc_at(1 / 8, 1 / 4, 1)),
        # a: its three pixels of 10 lie in the box. b: of eight equal pixels the last of the lower row does (its centre
        # is 15/16, 3/16). d: nothing points.
        ("pointing game of a, b, d", [1, 1 / 8, 0], pointing),
        # Of the pairs (a, c), (b, c), (d, c) one is tied and none is right: 0.5 / 3.
        ("AUC", [1 / 6], lambda: classified("auc")),
        # From 0.6: 1 of 2 right, a third found. From 0.5: 2 of 3, two thirds. From 0.1: 3 of 4, all.
        # (1/2 + 2/3 + 3/4) / 3.
        ("average precision", [23 / 36], lambda: classified("average_precision")),
        # At 0.5: a, b (right) and c (wrong) are called; 2 of 3 found, 0 of 1 cleared, 2 * 2 / (2 * 2 + 1 + 1).
        (
            "sensitivity, specificity, F1 at 0.5",
            [2 / 3, 0, 2 / 3],
            lambda: classified("sensitivity", "specificity", "f1"),
        ),
    ]


def _training() -> list[tuple[str, Any, Callable[[], Any]]]:
    # Pixels 1 and 4 look alike, so do 2 and 3 (their lengths do not matter), and the pairs are at right angles.
    looks = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[0.0, 2.0], [1.0, 0.0]]]])
    everywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool)

    def regularization() -> Any:
        def pixel(first: float, second: float) -> torch.Tensor:
            return torch.tensor([first, second]).reshape(1, 2, 1, 1)

        return ecr_loss(
            cam_moved=pixel(0.2, 0.6),
            refined_moved=pixel(0.5, 0.1),
            cam_transformed=pixel(0.8, 0.5),
            refined_transformed=pixel(0.1, 0.2),
            valid=everywhere,
            ohem_fraction=0.5,
        )

    def soft_margin() -> Any:
        refined = torch.tensor([[[[0.0, 2 * log(3)]], [[0.0, 0.0]]]])
        return msml_loss(refined, torch.tensor([[1, 0]]), valid=torch.ones(1, 1, 1, 2, dtype=torch.bool))

    return [
        (
            "LSE pooling of a constant map of 3 (Eq. 1)",
            [[3]],
            lambda: lse_pool(torch.full((1, 1, 5, 7), 3.0), gamma=10),
        ),
        # log((e^0 + e^log 3) / 2) = log 2
        ("LSE pooling of (0, log 3), gamma 1", [[log(2)]], lambda: lse_pool(torch.tensor([[[[0, log(3)]]]]), gamma=1)),
        # Maps (4, 2) and (2, 0) become (1, 0.5) and (1, 0); background 1 - max = (0, 0.5); at the first pixel both are
        # the maximum and stay.
        (
            "maps as the PCM takes them",
            [[1, 0.5], [1, 0], [0, 0.5]],
            lambda: make_pcm_input(torch.tensor([[[[4.0, 2.0]], [[2.0, 0.0]]]]))[0, :, 0],
        ),
        ("affinity of pixel 1 (Eq. 2)", [0.5, 0, 0, 0.5], lambda: affinity(looks)[0, 0]),
        # Each pixel becomes the mean of the two that look alike.
        (
            "refined map of (8, 2; 4, 0)",
            [[4, 3], [3, 4]],
            lambda: apply_affinity(looks, torch.tensor([[[[8.0, 2.0], [4.0, 0.0]]]]))[0, 0],
        ),
        # Logits 0 cost log 2 each. Class 1 has one positive and one negative: weights 2 and 2; class 2 has two
        # negatives: weight 1. (2 + 2 + 1 + 1) / 4.
        (
            "balanced cross-entropy of a batch of 2 (Eq. 3-5)",
            1.5 * log(2),
            lambda: balanced_bce(torch.zeros(2, 2), torch.tensor([[1, 0], [0, 0]])),
        ),
        # Targets (0.8, 0) and (0, 0.6): differences 0.3, 0.1 and 0.1, 0.4; the harder half of each, added.
        ("ECR of one pixel (Eq. 6)", 0.7, regularization),
        # Averages log 3 and 0: -log(3/4) for the label 1, log 2 for the label 0; their mean.
        ("soft margin of the pooled maps (MSML)", (log(4 / 3) + log(2)) / 2, soft_margin),
        # Counter-clockwise: the right column becomes the upper row.
        (
            "(1, 2; 3, 4) rotated by 90 degrees",
            [[2, 4], [1, 3]],
            lambda: rotate(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([90.0]))[0, 0],
        ),
    ]
