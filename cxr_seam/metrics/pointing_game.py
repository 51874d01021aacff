"""Score the pointing game: whether the maximum of a heat map lies in a true box.

It needs neither a threshold nor predicted boxes, so many boxes do not improve the score.

Source: Zhang et al. 2018, "Top-down neural attention by excitation backprop", without their margin of 15 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..findings import BOXED_FINDINGS, XYWH
from .bootstrap import Estimate, PatientBootstrap, estimate, macro_mean

POINT_COLUMNS = ["image_index", "finding", "hit"]


def points(heatmaps: np.ndarray, image_index: str, findings: Sequence[str], *, truth: pd.DataFrame) -> pd.DataFrame:
    """Play the pointing game on one image, once for each finding that has a true box there.

    A maximum is a hit if the centre of its pixel lies in a true box. If several pixels have the maximum, `hit` is the
    fraction of them that lies in a box. A heat map of zeros is a miss.

    Args:
        heatmaps: (C, H, W), one image of `cam_to_heatmap`.
        image_index: name of the image.
        findings: C names, one for each map.
        truth: true boxes; other images and findings are left out. Several boxes of a finding are one target.

    Returns:
        `POINT_COLUMNS`; `hit` in [0, 1].
    """
    height, width = heatmaps.shape[1:]
    truth = truth[truth["image_index"] == image_index]
    rows = []
    for finding, heatmap in zip(findings, heatmaps, strict=True):
        boxes = truth.loc[truth["finding"] == finding, XYWH].to_numpy(dtype=np.float64)
        if len(boxes):
            y, x = np.nonzero(heatmap == heatmap.max())
            centres = np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1)
            hit = in_box(centres[:, None], boxes).any(axis=1).mean() if heatmap.max() > 0 else 0.0
            rows.append((image_index, finding, float(hit)))
    return pd.DataFrame(rows, columns=POINT_COLUMNS)


def box_points(predicted: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Play the pointing game with the centre of the best box, for baselines without a heat map.

    Args:
        predicted: at most one box for each image and finding (`best_boxes`).
        truth: true boxes.

    Returns:
        `POINT_COLUMNS`, one row for each image and finding with a true box; without a predicted box it is a miss.
    """
    centres = predicted.assign(px=predicted["x"] + predicted["w"] / 2, py=predicted["y"] + predicted["h"] / 2)
    pairs = truth.merge(centres[["image_index", "finding", "px", "py"]], on=["image_index", "finding"], how="left")
    pairs["hit"] = in_box(pairs[["px", "py"]].to_numpy(), pairs[XYWH].to_numpy()).astype(np.float64)
    return pairs.groupby(["image_index", "finding"], sort=False)["hit"].max().reset_index()[POINT_COLUMNS]


def in_box(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return whether points (..., 2) lie in boxes (..., 4), with broadcast leading axes; a point with NaN does not.

    A box covers [x, x + w) and [y, y + h).
    """
    offset = points - boxes[..., :2]
    return ((offset >= 0) & (offset < boxes[..., 2:])).all(axis=-1)


def pointing_game(
    points: pd.DataFrame,
    *,
    images: Sequence[str],
    bootstrap: PatientBootstrap,
    findings: Sequence[str] = BOXED_FINDINGS,
) -> dict[str, Estimate | dict[str, Estimate]]:
    """Score the pointing game: hits / targets. A target is an image and finding with a true box.

    Args:
        points: of all images, from `points` or `box_points`; other images and findings are left out.
        images: the images of the bootstrap, in the same order.
        bootstrap: of their patients.
        findings: the findings that are scored.

    Returns:
        {"findings": {finding: estimate}, "macro": estimate}; macro is the mean over the findings with a target.
    """
    return mean_by_finding(points, "hit", images=images, findings=findings, bootstrap=bootstrap)[0]


def mean_by_finding(
    rows: pd.DataFrame,
    column: str,
    *,
    images: Sequence[str],
    findings: Sequence[str],
    bootstrap: PatientBootstrap,
) -> tuple[dict[str, Estimate | dict[str, Estimate]], np.ndarray]:
    """Average the scores of images and findings, by finding and over the findings.

    Args:
        rows: at most one row for each image and finding, with a score under `column`; others are left out.
        column: name of the score.
        images: the images of the bootstrap, in the same order.
        findings: the findings that are scored.
        bootstrap: of the patients of the images.

    Returns:
        {"findings": {finding: estimate}, "macro": estimate}, and the replicates (n_bootstrap,) of the macro mean, which
        is over the findings with a row.
    """
    image = pd.Index(images, dtype=object).get_indexer(rows["image_index"])
    finding = pd.Index(findings, dtype=object).get_indexer(rows["finding"])
    kept = (image >= 0) & (finding >= 0)
    sums, counts = np.zeros((2, len(images), len(findings)))
    np.add.at(sums, (image[kept], finding[kept]), rows[column].to_numpy(dtype=np.float64)[kept])
    np.add.at(counts, (image[kept], finding[kept]), 1)
    with np.errstate(invalid="ignore"):
        value = sums.sum(axis=0) / counts.sum(axis=0)
        samples = bootstrap.totals(sums) / bootstrap.totals(counts)
    defined = ~np.isnan(value)
    macro = macro_mean(samples, defined=defined)
    by_finding = {name: estimate(value[i], samples[:, i]) for i, name in enumerate(findings)}
    return {"findings": by_finding, "macro": estimate(macro_mean(value, defined=defined), macro)}, macro
