"""Whether boxes lie where the evidence is: cover the place, and another model should lose confidence.

Two models of one recipe, trained from different seeds: one draws its best boxes on films whose labels name a finding,
the other judges. A square around a box's centre shows what films usually show there instead (their mean film m); s_k is
the judge's logit of finding k, and sigma_k its standard deviation over all films:

    drop_k(f) = [ s_k(f) - s_k(f with m in the square) ] / sigma_k.

The square has one size, so that a rule for boxes gains nothing by drawing them large. Its mean chooses between rules by
labels alone; it cannot tell whether both models look at the same wrong thing. Source: occlusion as in Zeiler and Fergus
2014, Sect. 4.2, and the deletion of Petsiuk et al. 2018, with another model as the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from agreement import FEWEST_FILMS
from torch import Tensor

from cxr_seam.data.dataset import ChestXrayDataset, iter_batches
from cxr_seam.findings import FINDINGS
from cxr_seam.metrics.bootstrap import PatientBootstrap

EDGE = 0.25
"""Of the square, as a share of the film's: it hides a sixteenth of the film. Set once, no box had a say in it."""


BATCH_SIZE = 32


Judge = Callable[[Tensor], Tensor]
"""Logits (B, 14) of grey uint8 films (B, 1, S, S)."""


def covering_drops(
    boxes: pd.DataFrame, judge: Judge, films: ChestXrayDataset, *, edge: float = EDGE, fewest: int = FEWEST_FILMS
) -> np.ndarray:
    """How much confidence the judge loses in each finding that a film's labels name.

    Args:
        boxes: a model's best box of each film and finding (`localization.best_boxes`); where there is none nothing is
            covered, and the drop is 0.
        judge: another model.
        films: with labels.
        edge: of the square, a share of the film's.
        fewest: a finding that fewer of the films show is left out, as in `agreement.agreement`.

    Returns:
        (N, 14) float64, in standard deviations of the judge's logits; NaN where the labels do not name the finding,
        where too few films show it, or where the judge says the same of all films.
    """
    centres = boxes[["x", "y"]].to_numpy() + boxes[["w", "h"]].to_numpy() / 2
    placed = dict(zip(zip(boxes["image_index"], boxes["finding"], strict=True), centres, strict=True))
    mean = mean_film(films)
    enough = films.labels.sum(axis=0) >= fewest
    logits, covered = [], np.full(films.labels.shape, np.nan)
    for pixels, labels, indices in iter_batches(films, BATCH_SIZE, desc="cover"):
        logits.append(judge(pixels).double().numpy())
        shown = (labels * torch.from_numpy(enough)).nonzero().tolist()
        copies = pixels[[row for row, _ in shown]].clone()
        for copy, (row, k) in zip(copies, shown, strict=True):
            place = placed.get((films.image_index[indices[row]], FINDINGS[k]))
            if place is not None:
                inside = square(place, edge=edge, side=copy.shape[-1])
                copy[inside] = mean[inside]
        for start in range(0, len(shown), BATCH_SIZE):
            part = shown[start : start + BATCH_SIZE]
            said = judge(copies[start : start + BATCH_SIZE]).double().numpy()
            for (row, k), value in zip(part, said, strict=True):
                covered[indices[row], k] = value[k]
    seen = np.concatenate(logits)
    spread = seen.std(axis=0)
    return (seen - covered) / np.where(spread > 0, spread, np.nan)


def mean_film(films: ChestXrayDataset) -> Tensor:
    """What films usually show, (1, S, S) uint8."""
    total = sum(pixels.double().sum(dim=0) for pixels, _, _ in iter_batches(films, BATCH_SIZE))
    return (total / len(films)).round().to(torch.uint8)


def square(centre: Sequence[float], *, edge: float, side: int) -> tuple[slice, slice, slice]:
    """The pixels of a square around a centre (x, y), given as shares of a film of `side` pixels; cut at its borders."""
    ends = [(round((at - edge / 2) * side), round((at + edge / 2) * side)) for at in centre]
    columns, rows = (slice(max(0, start), max(0, stop)) for start, stop in ends)
    return slice(None), rows, columns


def mean_drop(drops: np.ndarray, draws: PatientBootstrap) -> tuple[float, np.ndarray]:
    """The mean over findings of the mean drop over films, and that of each draw of patients.

    Args:
        drops: (N, 14), see `covering_drops`; those of several sets of films may be put together.
        draws: over the same films.

    Returns:
        The value and (draws,) float64, over the findings that have a drop; NaN where none has, or in a draw that lacks
        one.
    """
    known = ~np.isnan(drops)
    told = known.any(axis=0)
    if not told.any():
        return float("nan"), np.full(len(draws), np.nan)
    values, known = np.nan_to_num(drops[:, told]), known[:, told]
    with np.errstate(invalid="ignore"):
        samples = (draws.totals(values) / draws.totals(known)).mean(axis=1)
    return float((values.sum(axis=0) / known.sum(axis=0)).mean()), samples
