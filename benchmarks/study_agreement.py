"""What two seeds' models say of each other's boxes: what may choose between rules without any true box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from agreement import FEWEST_FILMS, agreement, all_findings
from covering import Judge, covering_drops, mean_drop

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.evaluation.methods import maps_by_model
from cxr_seam.evaluation.results import REFINED
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.boxes import predicted_boxes
from cxr_seam.inference.heatmaps import PAPER_SIZE
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.bootstrap import bootstrap_for_json, bootstrap_patients, estimate
from cxr_seam.metrics.localization import best_boxes

COUNTED = ("agree", "by_chance", "gain")


def boxes_of(key: str, predictor: Predictor, films: ChestXrayDataset) -> dict[str, pd.DataFrame]:
    """A reader's best boxes of the findings that the films' labels name, for each kind of its maps.

    Args:
        key: what `maps_by_model` calls the predictor.
        predictor: the reader.
        films: to look at.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    done = 0
    for names, output in predictor.forward_dataset(films, desc="agree"):
        for kind, maps in maps_by_model(key, output).items():
            options = predictor.heatmap_options(refined=kind == REFINED)
            for place, name in enumerate(names):
                shown = np.flatnonzero(films.labels[done + place]).tolist()
                if not shown:
                    continue
                film = options.heatmaps(maps[None, place], PAPER_SIZE, findings=shown)[0].numpy()
                named = [FINDINGS[k] for k in shown]
                boxes = predicted_boxes(film, name, named, threshold=predictor.recipe.cam_threshold)
                tables.setdefault(kind, []).append(boxes)
        done += len(names)
    return {kind: best_boxes(pd.concat(parts, ignore_index=True)) for kind, parts in tables.items()}


def agreement_of(
    key: str,
    readers: Sequence[Predictor],
    films: Sequence[ChestXrayDataset],
    *,
    patients: Sequence[Sequence[object]],
    draws: int,
    fewest: int = FEWEST_FILMS,
) -> dict[str, dict[str, Any]]:
    """How far two readers agree, and how much confidence each loses where the other's boxes are covered.

    Args:
        key: as of `boxes_of`.
        readers: two.
        films: the validation films of each; either reader may have learnt from some of the other's.
        patients: of these films.
        draws: of the bootstrap over patients.
        fewest: see `agreement.agreement`.

    Returns:
        Kind of maps -> "agree", "by_chance" and "gain" of `agreement.agreement`, the means over both sets of films, and
        "covered", the mean of `covering.covering_drops` over both readers and sets, with its interval and "samples";
        None where films show too little.
    """
    counted: dict[str, list[pd.Series]] = {}
    drops: dict[str, list[np.ndarray]] = {}
    for seen in films:
        labels = all_findings(seen.labels, seen.image_index)
        boxes = [boxes_of(key, reader, seen) for reader in readers]
        for kind in boxes[0]:
            table = agreement(*(own[kind] for own in boxes), labels=labels, fewest=fewest)
            counted.setdefault(kind, []).append(table.loc["mean", list(COUNTED)])
            judged = zip(boxes, reversed(readers), strict=True)
            lost = [covering_drops(own[kind], judge_of(other), seen, fewest=fewest) for own, other in judged]
            drops.setdefault(kind, []).append(np.mean(lost, axis=0))
    drawn = bootstrap_patients([patient for of in patients for patient in of], n_bootstrap=draws)
    found: dict[str, dict[str, Any]] = {}
    for kind, parts in counted.items():
        means = pd.DataFrame(parts).mean()
        value, samples = mean_drop(np.concatenate(drops[kind]), drawn)
        found[kind] = {name: None if np.isnan(means[name]) else float(means[name]) for name in COUNTED}
        found[kind] |= {"covered": estimate(value, samples), "samples": bootstrap_for_json(samples)}
    return found


def judge_of(predictor: Predictor) -> Judge:
    """A reader's logits, each film looked at once: a judge is the same whatever the way to look that it judges."""
    once = replace(predictor.recipe, tta_scales=(1.0,), tta_flip=False, cam_baseline="zero")
    judge = Predictor(predictor.model, once)
    return lambda films: judge.forward(films, maps=False).logits
