"""Compare candidates by the agreement of two models, without any true box.

Two models of one recipe were trained from different seeds. On the validation images of each, both find the findings of
the labels with each candidate's maps. `model_agreement.agreement` is how often their boxes meet, above chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmarks.study.model_agreement import agreement, label_table, labelled_heatmaps
from cxr_seam.data.dataset import ChestXrayDataset, iter_batches
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.metrics.localization import best_boxes
from cxr_seam.recipes import Recipe

from .boxes import forward_candidates
from .candidates import BATCH, Models

THRESHOLDS = (0.1, 0.3)
Options = dict[str, HeatmapOptions]


def labelled_boxes(
    models: Models, dataset: ChestXrayDataset, options: Options, *, recipe: Recipe
) -> dict[str, pd.DataFrame]:
    """Predict the best box of each finding in the labels, for each candidate in `options`."""
    labels = label_table(dataset)
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in options}
    for pixels, _, indices in iter_batches(dataset, BATCH, desc="agreement"):
        images = [dataset.image_index[index] for index in indices]
        _, candidates = forward_candidates(models, pixels, recipe=recipe)
        for name, option in options.items():
            for image, findings, heatmaps in labelled_heatmaps(images, candidates[name], option, labels=labels):
                tables[name].append(option.boxes(heatmaps, image, findings=findings))
    return {name: best_boxes(pd.concat(parts, ignore_index=True)) for name, parts in tables.items()}


def compare(
    models: Sequence[Models],
    datasets: Sequence[ChestXrayDataset],
    options: Sequence[Options],
    *,
    recipes: Sequence[Recipe],
) -> pd.DataFrame:
    """Tabulate the gain in agreement of each candidate, mean over the datasets.

    Args:
        models: two, each with its refiners.
        datasets: validation images of each model that show a finding.
        options: of each model, how its candidates are read.
        recipes: of each model.

    Returns:
        Index: candidates. Columns: "gain at IoU > 0.1" and "gain at IoU > 0.3".
    """
    gains = []
    for dataset in datasets:
        first, second = (
            labelled_boxes(each, dataset, read, recipe=recipe)
            for each, read, recipe in zip(models, options, recipes, strict=True)
        )
        labels = label_table(dataset)
        rows = {
            name: {
                f"gain at IoU > {t:g}": agreement(boxes, second[name], labels=labels, threshold=t).loc["mean", "gain"]
                for t in THRESHOLDS
            }
            for name, boxes in first.items()
        }
        gains.append(pd.DataFrame(rows).T)
    return (sum(gains) / len(gains)).rename_axis("maps").round(4)
