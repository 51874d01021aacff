"""Measure how often two models agree on the place of a finding, above chance, without any true box.

Two models of one recipe were trained from different seeds. On images with a finding in the labels, each predicts its
best box. The gain of finding k is

    gain_k = mean over f of [IoU(a_f, b_f) > t]  -  mean over f != g of [IoU(a_f, b_g) > t],

where a_f and b_f are the boxes of the two models on image f. Boxes that are the same on all images, too small to meet
or too large to miss have no gain, so the gain can choose Q or the baseline of CAMs by labels alone. It cannot show
that both models look at the same wrong place.

Source: this project; agreement above chance as in Cohen 1960, without his divisor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.errors import InputError
from cxr_seam.evaluation.methods import maps_by_model, models_of
from cxr_seam.evaluation.results import REFINED
from cxr_seam.findings import XYWH
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.inference.heatmaps import PAPER_SIZE
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.localization import best_boxes
from cxr_seam.metrics.matching import box_overlap

THRESHOLD = 0.1
"""Two boxes agree if their IoU is larger."""
THRESHOLDS = (0.1, 0.3)
"""IoU of the tables that compare several maps or boxes."""
MIN_IMAGES = 10
"""A finding with fewer images is left out of means."""


def agreement(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    labels: pd.DataFrame,
    threshold: float = THRESHOLD,
    min_images: int = MIN_IMAGES,
) -> pd.DataFrame:
    """Compare the best boxes of two models.

    Args:
        first: best box of each image and finding (`localization.best_boxes`); images without a box are allowed.
        second: the boxes of the other model.
        labels: index image_index, columns findings, 0 or 1: the findings of each image.
        threshold: boxes with a larger IoU agree.
        min_images: findings with fewer images are left out of the mean.

    Returns:
        Index: the findings that occur in `labels`, and "mean". Columns: images, agree, by_chance, gain; by_chance and
        gain are NaN for a finding with one image.

    Raises:
        InputError: no image has a finding, or a model has two boxes for one image and finding.
    """
    rows = {}
    for finding in labels.columns:
        images = list(labels.index[labels[finding] == 1])
        if not images:
            continue
        one, other = (_boxes_of(boxes, finding, images) for boxes in (first, second))
        meets = box_overlap(one[:, None], other[None], measure="iou") > threshold  # (N, N)
        count, same = len(images), meets.diagonal()
        chance = (meets.sum() - same.sum()) / (count * (count - 1)) if count > 1 else np.nan
        rows[finding] = {"images": count, "agree": same.mean(), "by_chance": chance, "gain": same.mean() - chance}
    if not rows:
        raise InputError("no image has a finding, so two models cannot be compared; give images with labels")
    table = pd.DataFrame(rows).T.rename_axis("finding")
    enough = table[table["images"] >= min_images]
    table.loc["mean"] = enough.mean() if len(enough) else np.nan
    return table


def _boxes_of(boxes: pd.DataFrame, finding: str, images: Sequence[str]) -> np.ndarray:
    """Return the boxes (N, 4) of a finding on images; an empty box, which overlaps nothing, where there is none."""
    chosen = boxes[boxes["finding"] == finding].set_index("image_index")[XYWH]
    if chosen.index.has_duplicates:
        name = chosen.index[chosen.index.duplicated()][0]
        raise InputError(
            f"{name} has two boxes of {finding}; give the best one of each image (localization.best_boxes)"
        )
    return chosen.reindex(images).fillna(0).to_numpy(dtype=np.float64)


def label_table(dataset: ChestXrayDataset) -> pd.DataFrame:
    """Return the labels of a dataset as `agreement` takes them."""
    return pd.DataFrame(dataset.labels, index=dataset.image_index, columns=list(dataset.findings))


def labelled_heatmaps(
    names: Sequence[str], cams: Tensor, options: HeatmapOptions, *, labels: pd.DataFrame
) -> Iterator[tuple[str, tuple[str, ...], np.ndarray]]:
    """Yield name, findings in the labels and their heat maps (n, H, W) of each image with a finding.

    Args:
        names: of the images of a batch.
        cams: (B, K, h, w).
        options: how CAMs become heat maps.
        labels: as from `label_table`.
    """
    for name, cam in zip(names, cams, strict=True):
        present = np.flatnonzero(labels.loc[name] == 1).tolist()
        if present:
            chosen = options.select(present)
            yield name, chosen.findings, chosen.heatmaps(cam[None, present], PAPER_SIZE)[0].numpy()


def labelled_boxes(
    batches: Iterable[tuple[Sequence[str], Mapping[str, Tensor]]],
    options: Mapping[str, HeatmapOptions],
    *,
    labels: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """Return the best box of each finding in the labels, for each kind of maps in `options`.

    Args:
        batches: image names, and CAMs (B, K, h, w) by kind.
        options: kind of maps -> how its CAMs become heat maps and boxes.
        labels: as from `label_table`.
    """
    tables: dict[str, list[pd.DataFrame]] = {kind: [] for kind in options}
    for names, cams in batches:
        for kind, option in options.items():
            for name, findings, heatmaps in labelled_heatmaps(names, cams[kind], option, labels=labels):
                tables[kind].append(option.boxes(heatmaps, name, findings=findings))
    return {kind: best_boxes(pd.concat(parts, ignore_index=True)) for kind, parts in tables.items()}


def predict_labelled_boxes(model: str, predictor: Predictor, dataset: ChestXrayDataset) -> dict[str, pd.DataFrame]:
    """Predict the best box of each finding in the labels, for each kind of maps ("MultiRes", "MultiRes + PCM").

    Args:
        model: name of the model, see `evaluation.methods.maps_by_model`.
        predictor: the model.
        dataset: images with labels.
    """
    batches = (
        (names, maps_by_model(model, output)) for names, output in predictor.forward_dataset(dataset, desc="agreement")
    )
    options = {kind: predictor.heatmap_options(refined=kind == REFINED) for kind in models_of(model)}
    return labelled_boxes(batches, options, labels=label_table(dataset))


def mean_gains(first: pd.DataFrame, second: pd.DataFrame, *, labels: pd.DataFrame) -> dict[str, float]:
    """Return the mean gain of `agreement` at each IoU of `THRESHOLDS`, by the title of its column."""
    return {
        f"gain at IoU > {t:g}": agreement(first, second, labels=labels, threshold=t).loc["mean", "gain"]
        for t in THRESHOLDS
    }


def mean_table(rows: Sequence[Mapping[str, object]], keys: str | list[str]) -> pd.DataFrame:
    """Average rows with the same keys, the results of several datasets; NaN if a dataset has too few images."""
    grouped = pd.DataFrame(rows).groupby(keys, sort=False)
    return grouped.agg(lambda values: values.mean(skipna=False)).round(4)
