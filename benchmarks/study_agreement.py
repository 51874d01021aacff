"""How far a row's models of two seeds agree on where findings are: what may choose between rules without any box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr_seam.agreement import FEWEST_FILMS, agreement, all_findings
from cxr_seam.films import Films
from cxr_seam.findings import FINDINGS
from cxr_seam.heatmaps import PAPER_SIZE, heat_maps
from cxr_seam.localization import best_boxes, predicted_boxes
from cxr_seam.methods import maps_by_model
from cxr_seam.predict import Predictor


def boxes_of(key: str, predictor: Predictor, films: Films) -> dict[str, pd.DataFrame]:
    """A reader's best boxes of the findings that the films' labels name, for each kind of its maps.

    Args:
        key: what `maps_by_model` calls the predictor.
        predictor: the reader.
        films: to look at.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    done = 0
    for names, output in predictor.batches(films, maps=True, what="agree"):
        for kind, maps in maps_by_model(key, output).items():
            for place, name in enumerate(names):
                shown = np.flatnonzero(films.labels[done + place])
                film = heat_maps(maps[None, place, shown], PAPER_SIZE)[0].numpy() if len(shown) else np.zeros((0, 1, 1))
                named = [FINDINGS[k] for k in shown]
                boxes = predicted_boxes(film, name, named, threshold=predictor.recipe.box_threshold)
                tables.setdefault(kind, []).append(boxes)
        done += len(names)
    return {kind: best_boxes(pd.concat(parts, ignore_index=True)) for kind, parts in tables.items()}


def agreement_of(
    key: str, readers: Sequence[Predictor], films: Sequence[Films], *, fewest: int = FEWEST_FILMS
) -> dict[str, dict[str, float | None]]:
    """How far two readers agree, for each kind of maps.

    Args:
        key: as of `boxes_of`.
        readers: two.
        films: the validation films of each; either reader may have learnt from some of the other's.
        fewest: see `agreement.agreement`.

    Returns:
        Kind of maps -> "agree", "by_chance" and "gain" of `agreement.agreement`, the means over both sets of films;
        None where these show too little.
    """
    found: dict[str, list[pd.Series]] = {}
    for seen in films:
        labels = all_findings(seen.labels, seen.image_index)
        one, other = (boxes_of(key, reader, seen) for reader in readers)
        for kind in one:
            table = agreement(one[kind], other[kind], labels=labels, fewest=fewest)
            found.setdefault(kind, []).append(table.loc["mean", ["agree", "by_chance", "gain"]])
    means = {kind: pd.DataFrame(parts).mean() for kind, parts in found.items()}
    return {kind: {key: None if np.isnan(v) else float(v) for key, v in mean.items()} for kind, mean in means.items()}
