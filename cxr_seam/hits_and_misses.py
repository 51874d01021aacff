"""Which films show best where a method is right and where it is wrong, chosen by a rule and not by eye."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from .boxes import overlap
from .findings import BOXED_FINDINGS
from .localization import best_boxes, with_probability
from .matching import XYWH
from .results import said

HIT = 0.1
RULE = (
    "Of all films with a true box of a finding, the one with the highest probability of the finding whose best box is "
    "right (IoU > 0.1: the surest hit), and the one with the highest probability whose best box is wrong or missing "
    "(the surest miss). Of equal ones, the first by name."
)


def judge(boxes: pd.DataFrame, truth: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
    """Judge the best box of each film and finding that has a true box.

    Args:
        boxes: of one method, as of `predicted_boxes`.
        truth: true boxes.
        probabilities: index `image_index`, a column a finding.

    Returns:
        Columns `image_index`, `finding`, `probability`, `iou` (of the best box with the true box that it meets best;
        0 without a box), `hit`; surest first.
    """
    key = ["image_index", "finding"]
    pairs = truth.merge(best_boxes(boxes)[[*key, *XYWH]], on=key, how="left", suffixes=("_true", ""))
    found = pairs["x"].notna()
    pairs["iou"] = 0.0
    predicted, true = (pairs.loc[found, [f"{c}{end}" for c in XYWH]].to_numpy(dtype=float) for end in ("", "_true"))
    pairs.loc[found, "iou"] = overlap(predicted, true, measure="iou")
    judged = with_probability(pairs.groupby(key, sort=True)["iou"].max().reset_index(), probabilities)
    judged["hit"] = judged["iou"] > HIT
    return judged.sort_values("probability", ascending=False, kind="stable", ignore_index=True)


def surest(judged: pd.DataFrame, *, hit: bool) -> list[tuple[str, str]]:
    """The surest hit, or miss, of each boxed finding that has one: (image_index, finding) in NIH's order."""
    first = judged[judged["hit"] == hit].drop_duplicates("finding").set_index("finding")["image_index"]
    return [(first[finding], finding) for finding in BOXED_FINDINGS if finding in first.index]


def tally(judged: pd.DataFrame, best_box: Mapping[str, Any]) -> str:
    """Say how many are hits, and how many false positives the best boxes cost on all films.

    Args:
        judged: of `judge`.
        best_box: "localization.METHOD.best_box" of results.json, of the same method.
    """
    scores = best_box[f"iou>{HIT}"]
    count, cost = scores["micro"]["false_positives"], said(scores["macro"]["false_positives_per_image"])
    return (
        f"{judged['hit'].sum():,} of {len(judged):,} films and findings with a true box are hits, at {count:,} false "
        f"positives, {cost} per film and finding."
    )
