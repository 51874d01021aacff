"""The pointing game: does the strongest pixel of a map lie in a true box?

It needs no threshold and no boxes of the method, so it cannot be won with many boxes.

Source: Zhang et al. 2018, "Top-down neural attention by excitation backprop", without their margin of 15 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..findings import BOXED_FINDINGS, XYWH
from .bootstrap import Estimate, PatientBootstrap, estimate
from .boxes import check_heatmaps, macro_mean

POINT_COLUMNS = ["image_index", "finding", "hit"]


def points(heatmaps: np.ndarray, image_index: str, findings: Sequence[str], *, truth: pd.DataFrame) -> pd.DataFrame:
    """Play the game on one film, once for each finding that has a true box there.

    The point is the map's maximum; it is a hit if the pixel's centre lies inside a true box of its film and finding.
    Where several pixels share the maximum, `hit` is the share of them that lies inside: what a random choice among
    them would score on average. A map that is zero everywhere points nowhere and is a miss.

    Args:
        heatmaps: (C, H, W) over the whole film, such as one image of `heat_maps`.
        image_index: name of the film.
        findings: C names, one for each map.
        truth: true boxes in [0, 1]; those of other films and findings are left out. Several boxes of
            a finding on the film are one target.

    Returns:
        `POINT_COLUMNS`; `hit` in [0, 1], no row where a finding has no true box on the film.

    Raises:
        InputError: there are not as many maps as findings.
    """
    heatmaps = check_heatmaps(heatmaps, findings, image_index)
    height, width = heatmaps.shape[1:]
    here = truth[truth["image_index"] == image_index]
    rows = []
    for finding, heatmap in zip(findings, heatmaps, strict=True):
        boxes = here.loc[here["finding"] == finding, XYWH].to_numpy(dtype=np.float64)
        if len(boxes):
            y, x = np.nonzero(heatmap == heatmap.max())
            centres = np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1)
            hit = inside(centres, boxes).any(axis=1).mean() if heatmap.max() > 0 else 0.0
            rows.append((image_index, finding, float(hit)))
    return pd.DataFrame(rows, columns=POINT_COLUMNS)


def box_points(predicted: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Play the game with the centre of the best box, for controls that have boxes and no map.

    Args:
        predicted: one box at most for an image and finding (`localization.best_boxes`).
        truth: true boxes.

    Returns:
        `POINT_COLUMNS`, a row for each image and finding with a true box; no predicted box is a miss.
    """
    centres = predicted.assign(px=predicted["x"] + predicted["w"] / 2, py=predicted["y"] + predicted["h"] / 2)
    pairs = truth.merge(centres[["image_index", "finding", "px", "py"]], on=["image_index", "finding"], how="left")
    hit = inside(pairs[["px", "py"]].to_numpy(), pairs[XYWH].to_numpy(dtype=np.float64)[:, None])[:, 0]
    pairs["hit"] = hit.astype(np.float64)
    return pairs.groupby(["image_index", "finding"], sort=False)["hit"].max().reset_index()[POINT_COLUMNS]


def inside(at: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points `at` (M, 2) lie in boxes (K, 4), or in K boxes of each point's own (M, K, 4): (M, K) bool.

    A box covers [x, x + w) and [y, y + h). A point of NaN lies in none.
    """
    offset = at[:, None] - boxes[..., :2]
    return ((offset >= 0) & (offset < boxes[..., 2:])).all(axis=-1)


def pointing_game(points: pd.DataFrame, *, images: Sequence[str], draws: PatientBootstrap) -> dict[str, object]:
    """Score the game: hits / targets, a target being a film and finding with a true box (NIH: one box each).

    Args:
        points: of all films, from `points` or `box_points`.
        images: the films that `draws` was made for, in that order; rows of other films are left out.
        draws: of their patients.

    Returns:
        {"findings": {finding: measured value}, "macro": measured value}, the mean over the findings with a target.

    Raises:
        InputError: the draws are of another number of images.
    """
    image = pd.Index(images, dtype=object).get_indexer(points["image_index"])
    finding = pd.Index(BOXED_FINDINGS, dtype=object).get_indexer(points["finding"])
    counts = np.zeros((2, len(images), len(BOXED_FINDINGS)))
    rows = (image >= 0) & (finding >= 0)
    for table, values in zip(counts, (points["hit"].to_numpy(dtype=np.float64), np.ones(len(points))), strict=True):
        np.add.at(table, (image[rows], finding[rows]), values[rows])
    value, samples = (
        np.divide(hits, targets, out=np.full(hits.shape, np.nan), where=targets > 0)
        for hits, targets in (counts.sum(axis=1), [draws.totals(table) for table in counts])
    )
    findings: dict[str, Estimate] = {
        name: estimate(value[number], samples[:, number]) for number, name in enumerate(BOXED_FINDINGS)
    }
    defined = ~np.isnan(value)
    macro = estimate(macro_mean(value, defined=defined), macro_mean(samples, defined=defined))
    return {"findings": findings, "macro": macro}
