"""Compare candidates by the agreement of two models, without any true box.

Two models of one recipe were trained from different seeds. On the validation images of each, both find the findings of
the labels with each candidate's maps. `model_agreement.agreement` is how often their boxes meet, above chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from torch import Tensor

from benchmarks.study.model_agreement import label_table, labelled_boxes, mean_gains, mean_table
from cxr_seam.data.dataset import ChestXrayDataset, iter_batches
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.recipes import Recipe

from .boxes import forward_candidates
from .candidates import BATCH, Models

Options = dict[str, HeatmapOptions]


def forward_batches(
    models: Models, dataset: ChestXrayDataset, *, recipe: Recipe
) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
    """Yield image names and each candidate's maps (B, K, h, w), batch by batch."""
    for pixels, _, indices in iter_batches(dataset, BATCH, desc="agreement"):
        yield [dataset.image_index[index] for index in indices], forward_candidates(models, pixels, recipe=recipe)[1]


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
        labels = label_table(dataset)
        first, second = (
            labelled_boxes(forward_batches(each, dataset, recipe=recipe), read, labels=labels)
            for each, read, recipe in zip(models, options, recipes, strict=True)
        )
        gains += [{"maps": name} | mean_gains(boxes, second[name], labels=labels) for name, boxes in first.items()]
    return mean_table(gains, "maps")
