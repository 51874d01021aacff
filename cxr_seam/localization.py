"""How well boxes find lesions: accuracy, never without the false positives that it was bought with.

A table of predicted boxes has the columns of `PREDICTED_COLUMNS`, a table of true boxes the same without
`score`; both are in pixels of the 1024 x 1024 original.

Source: D'Souza et al. 2022, section 5.3, Tables 2 and 3; Wang et al. 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .boxes import PAPER_THRESHOLD, Measure, boxes_from_heatmap, overlap
from .errors import InputError
from .findings import BOXED_FINDINGS

ORIGINAL_SIZE = 1024
"""Edge in pixels of NIH's images; all boxes of a table are in these pixels."""
XYWH = ["x", "y", "w", "h"]
PREDICTED_COLUMNS = ["image_index", "finding", *XYWH, "score"]


def predicted_boxes(
    heatmaps: np.ndarray, image_index: str, findings: Sequence[str], *, threshold: float = PAPER_THRESHOLD
) -> pd.DataFrame:
    """Make the table of boxes of one image from its heat maps.

    Args:
        heatmaps: (C, H, W), finite and not negative, such as one image of `heat_maps`.
        image_index: name of the image.
        findings: C names, one for each map.
        threshold: Q of `boxes_from_heatmap`.

    Returns:
        `PREDICTED_COLUMNS`, boxes scaled from H x W to 1024 x 1024; findings in the order given, the best box
        of each first.

    Raises:
        InputError: there are not as many maps as findings, or a map is refused by `boxes_from_heatmap`.
    """
    heatmaps = np.asarray(heatmaps)
    if heatmaps.ndim != 3 or len(heatmaps) != len(findings):
        raise InputError(
            f"{image_index}: {len(findings)} findings need heat maps of the shape ({len(findings)}, H, W), "
            f"not {heatmaps.shape}"
        )
    height, width = heatmaps.shape[1:]
    found = [boxes_from_heatmap(heatmap, threshold=threshold) for heatmap in heatmaps]
    xywh = np.concatenate([boxes.xywh for boxes in found]) if found else np.zeros((0, 4))
    scale = np.array([ORIGINAL_SIZE / width, ORIGINAL_SIZE / height] * 2)
    table = pd.DataFrame(xywh * scale, columns=XYWH)
    table.insert(0, "image_index", image_index)
    table.insert(1, "finding", np.repeat(np.asarray(findings, dtype=object), [len(b.score) for b in found]))
    table["score"] = np.concatenate([boxes.score for boxes in found]) if found else np.zeros(0)
    return table.astype({"image_index": object, "finding": object})


def best_boxes(predicted: pd.DataFrame) -> pd.DataFrame:
    """Keep the highest-scored box of each image and finding; of equal scores, the one that stands first.

    `predicted_boxes` puts the larger of two equal boxes first, so the larger one is kept.
    """
    ranked = predicted.sort_values("score", ascending=False, kind="stable")
    return ranked.drop_duplicates(["image_index", "finding"]).sort_index()


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
        InputError: `images` is empty or names an image twice, the measure is unknown, or a column is missing.
    """
    images = pd.Index(images)
    if len(images) == 0 or images.has_duplicates:
        raise InputError("images must name at least one image and each only once")
    predicted, truth = _scored(predicted, images, "predicted"), _scored(truth, images, "true")

    pairs = predicted.merge(truth, on=["image_index", "finding"], suffixes=("", "_true"))
    overlaps = overlap(pairs[XYWH].to_numpy(), pairs[[f"{c}_true" for c in XYWH]].to_numpy(), measure=measure)
    matched = pairs[overlaps > threshold]
    correct = truth["box"].isin(matched["box_true"])
    false = ~predicted["box"].isin(matched["box"])

    def per_finding(table: pd.DataFrame, rows: pd.Series | slice) -> pd.Series:
        return table.loc[rows, "finding"].value_counts().reindex(BOXED_FINDINGS, fill_value=0)

    counts = pd.DataFrame(
        {
            "boxes": per_finding(truth, slice(None)),
            "correct": per_finding(truth, correct),
            "false_positives": per_finding(predicted, false),
        }
    )
    return _with_quotients(counts, images=len(images))


def _scored(boxes: pd.DataFrame, images: pd.Index, kind: str) -> pd.DataFrame:
    """Keep the boxes that count and number them in the column `box`."""
    missing = {"image_index", "finding", *XYWH} - set(boxes.columns)
    if missing:
        raise InputError(f"the table of {kind} boxes lacks the columns {', '.join(sorted(missing))}")
    boxes = boxes.loc[
        boxes["image_index"].isin(images) & boxes["finding"].isin(BOXED_FINDINGS),
        ["image_index", "finding", *XYWH],
    ].reset_index(drop=True)
    return boxes.assign(box=np.arange(len(boxes)))


def _with_quotients(counts: pd.DataFrame, *, images: int) -> pd.DataFrame:
    """Add the quotients and the rows "macro" and "micro" to the counts per finding."""
    total = counts.sum()
    table = pd.concat([counts, total.to_frame("macro").T, total.to_frame("micro").T])
    table = table.rename_axis("finding")
    table["accuracy"] = table["correct"] / table["boxes"].where(table["boxes"] > 0)
    table["false_positives_per_image"] = table["false_positives"] / images
    table["false_positives_per_box"] = table["false_positives"] / (total["boxes"] or np.nan)
    for column in ("accuracy", "false_positives_per_image", "false_positives_per_box"):
        table.loc["macro", column] = table[column].iloc[: len(counts)].mean()
    return table[
        [
            "boxes",
            "correct",
            "accuracy",
            "false_positives",
            "false_positives_per_image",
            "false_positives_per_box",
        ]
    ]
