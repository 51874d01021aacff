"""How far two models agree on where a finding is, above chance: what may choose a rule for boxes where no box is known.

Two models of one recipe, trained from different seeds, are two readers. On films whose labels name a finding each draws
its best box of it. They agree on a film where these overlap; by chance a box of one overlaps the other's on another
film with the same finding:

    gain_k = mean over f of [IoU(a_f, b_f) > t]  -  mean over f != g of [IoU(a_f, b_g) > t].

A box that is the same on all films gains nothing, however often both draw it, and neither does one that is too small
to be met or too large to be missed. So the gain can choose the share Q of a map's peak that a box surrounds, or what a
map is measured from, by labels alone. It cannot tell whether both readers are wrong in the same way.

Source: this project; agreement above chance as in Cohen 1960, without his divisor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS, XYWH
from cxr_seam.metrics.boxes import box_overlap

THRESHOLD = 0.1
"""The overlap (IoU) from above which two boxes agree: the one that the FROC curve's boxes must have with true ones."""


FEWEST_FILMS = 10
"""Fewer films with a finding say too little of it."""


def agreement(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    labels: pd.DataFrame,
    threshold: float = THRESHOLD,
    fewest: int = FEWEST_FILMS,
) -> pd.DataFrame:
    """Hold two readers' best boxes against each other.

    Args:
        first: best box of each film and finding, as of `localization.best_boxes`; there may be none.
        second: those of the other reader.
        labels: which findings are looked at on which film, 0 or 1; index image_index, columns findings.
        threshold: least overlap, exclusive.
        fewest: a finding that fewer films show is left out of the mean.

    Returns:
        Index finding, those of `labels` that a film shows, and a row "mean" over those that enough films show;
        columns films, agree, by_chance, gain. NaN where a single film shows a finding, which leaves no other to meet.

    Raises:
        InputError: no film shows a finding, or a reader has two boxes for one.
    """
    rows = {}
    for finding in labels.columns:
        films = list(labels.index[labels[finding] == 1])
        if not films:
            continue
        one, other = (_of(boxes, finding, films) for boxes in (first, second))
        meets = box_overlap(one[:, None], other[None], measure="iou") > threshold
        count, same = len(films), meets.diagonal()
        chance = (meets.sum() - same.sum()) / (count * (count - 1)) if count > 1 else np.nan
        rows[finding] = {"films": count, "agree": same.mean(), "by_chance": chance, "gain": same.mean() - chance}
    if not rows:
        raise InputError("no film shows a finding on which two models could agree; give films with labels")
    table = pd.DataFrame(rows).T.rename_axis("finding")
    enough = table[table["films"] >= fewest]
    table.loc["mean"] = enough.mean() if len(enough) else np.nan
    return table


def _of(boxes: pd.DataFrame, finding: str, films: Sequence[str]) -> np.ndarray:
    """The boxes (N, 4) of a finding on some films; one without extent, which overlaps nothing, where there is none."""
    own = boxes[boxes["finding"] == finding].set_index("image_index")[XYWH]
    if own.index.has_duplicates:
        name = own.index[own.index.duplicated()][0]
        raise InputError(f"{name} has two boxes of {finding}; give the best one of each film (localization.best_boxes)")
    return own.reindex(films).fillna(0).to_numpy(dtype=np.float64)


def all_findings(labels: np.ndarray, image_index: Sequence[str]) -> pd.DataFrame:
    """Labels (N, 14) of films as `agreement` takes them."""
    return pd.DataFrame(labels, index=list(image_index), columns=list(FINDINGS))
