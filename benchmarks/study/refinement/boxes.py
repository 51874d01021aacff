"""Turn the candidates' maps into boxes with the options of a recipe, and measure them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.study.runner import Study, Values, as_value, subtract
from benchmarks.study.tables import mean_over_seeds
from cxr_seam.data.dataset import ChestXrayDataset, iter_batches
from cxr_seam.data.transforms import eval_transform
from cxr_seam.evaluation.results import FROC, LOOSE_FROC, TITLES, format_estimate
from cxr_seam.inference.calibration import make_prior, sum_maps_by_label
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.inference.heatmaps import PAPER_SIZE
from cxr_seam.inference.scores import raw_scores
from cxr_seam.metrics.bootstrap import Estimate, estimate
from cxr_seam.metrics.matching import rank_by_raw_score
from cxr_seam.models.multires import ModelOutput
from cxr_seam.models.tta import tta_forward
from cxr_seam.recipes import Recipe
from cxr_seam.visualize.figures import COLOURS, finish, new_figure, style_chart

from .candidates import (
    BATCH,
    BLUR,
    CONSTANT,
    LOWERED,
    MAP,
    MIRRORED,
    MIXED,
    OTHER,
    OTHER_MIRRORED,
    SIGNED,
    Models,
    candidate_maps,
    mirrored_candidates,
)

LOWER_Q = (0.5, 0.6, 0.7, 0.8)
METRICS = (FROC, LOOSE_FROC)
UNMIRRORED = ", mirror share 0"
"""Ends the names of readings that subtract no mirrored evidence, of recipes that subtract some."""


@torch.inference_mode()
def forward_candidates(models: Models, pixels: Tensor, *, recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute logits and candidates of images (B, 1, S, S) uint8 with the recipe's test-time augmentation."""
    names: list[str] = []

    def compute(view: Tensor, *, maps: bool) -> ModelOutput:
        logits, candidates = candidate_maps(models, view)
        names[:] = candidates
        return ModelOutput(logits, torch.cat(list(candidates.values()), dim=1), None)

    images = eval_transform(pixels, size=recipe.image_size)
    output = tta_forward(compute, images, scales=recipe.tta_scales, flip=recipe.tta_flip)
    return output.logits, dict(zip(names, output.cam.float().chunk(len(names), dim=1), strict=True))


def reading_options(models: Models, dataset: ChestXrayDataset, *, recipe: Recipe) -> dict[str, HeatmapOptions]:
    """Return how each candidate is read: as the recipe says, with its own mean maps of the validation images."""
    common = HeatmapOptions(
        baseline=recipe.cam_baseline,
        threshold=recipe.cam_threshold,
        box_rule=recipe.box_rule,
        findings=dataset.findings,
        mirror_share=recipe.mirror_share,
    )
    if recipe.cam_baseline != "negative_mean" and recipe.map_prior == "none":
        _, candidates = forward_candidates(models, dataset.load([0])[0], recipe=recipe)
        return dict.fromkeys(candidates, common)
    sums: dict[str, Tensor] = {}
    for pixels, labels, _ in iter_batches(dataset, BATCH, desc="mean maps"):
        for name, cam in forward_candidates(models, pixels, recipe=recipe)[1].items():
            sums[name] = sums.get(name, 0) + sum_maps_by_label(cam, labels)
    counts = torch.tensor([(dataset.labels == value).sum(axis=0).tolist() for value in (0, 1)])  # (2, K)
    options = {}
    for name, total in sums.items():
        negative, positive = (total / counts.clamp_min(1)[:, :, None, None]).float()
        prior = make_prior(negative, positive, positives=counts[1]) if recipe.map_prior == "labels" else None
        mean = negative if recipe.cam_baseline == "negative_mean" else None
        options[name] = common._replace(negative_mean=mean, prior=prior)
    return options


def readings(options: dict[str, HeatmapOptions], recipe: Recipe) -> dict[str, tuple[str, HeatmapOptions]]:
    """Return what is measured: name -> name of the candidate's maps, and how they are read.

    Beside each candidate as the recipe reads it: contours of the map at other values of Q, and without the mirrored
    evidence the map, the residual PCM, its controls, and the contours.
    """
    read = {name: (name, option) for name, option in options.items()}
    for q in LOWER_Q:
        if (q, "contour") != (recipe.cam_threshold, recipe.box_rule):
            read[f"map, contours at Q {q:g}"] = MAP, options[MAP]._replace(threshold=q, box_rule="contour")
    if recipe.mirror_share:
        chosen = [MAP, MIXED, CONSTANT, OTHER, BLUR, *(name for name in read if name not in options)]
        for name in chosen:
            maps_name, option = read[name]
            read[name + UNMIRRORED] = maps_name, option._replace(mirror_share=0.0)
    plain = options[MAP]._replace(mirror_share=0.0)
    return read | {name: (name, plain) for name in (MIRRORED, OTHER_MIRRORED, LOWERED)}


def collect_boxes(models: Models, study: Study, *, options: dict[str, HeatmapOptions], recipe: Recipe) -> dict:
    """Return the boxes of each reading of each candidate, see `readings`."""
    read = readings(options, recipe)
    negative = options[MAP].negative_mean
    baseline = 0.0 if negative is None else negative  # recipes with "min" are not compared
    dataset, findings = study.targets.dataset, study.targets.findings
    channels = [dataset.findings.index(finding) for finding in findings]
    boxes: dict[str, list[pd.DataFrame]] = {name: [] for name in read}
    logits = []
    for pixels, _, indices in iter_batches(dataset, BATCH, desc="boxes"):
        found, candidates = forward_candidates(models, pixels, recipe=recipe)
        logits.append(found)
        candidates |= mirrored_candidates(candidates[MAP], baseline)
        for name, (maps_name, option) in read.items():
            maps = option.select(channels).heatmaps(candidates[maps_name][:, channels], PAPER_SIZE).numpy()
            for index, heatmaps in zip(indices, maps, strict=True):
                boxes[name].append(option.boxes(heatmaps, dataset.image_index[index], findings=findings))
    scored = pd.DataFrame(raw_scores(torch.cat(logits).numpy()), dataset.image_index, dataset.findings)
    return {name: rank_by_raw_score(pd.concat(rows, ignore_index=True), scored) for name, rows in boxes.items()}


def as_estimate(value: dict) -> Estimate:
    """Return value and interval of a measured value."""
    return estimate(value["value"], np.array(value["replicates"], dtype=np.float64))


def average(measured: Sequence[dict[str, Values]]) -> dict[str, Values]:
    """Average the metrics of several models, replicate by replicate over the same patients, for what all have."""
    runs = {index: {"maps": each} for index, each in enumerate(measured)}
    return {
        name: {metric: as_value(*mean_over_seeds(runs, name, metric)) for metric in METRICS}
        for name in measured[0]
        if all(name in each for each in measured)
    }


def tabulate(measured: dict[str, Values]) -> pd.DataFrame:
    """Tabulate each candidate's FROC, minus that of the map, and that of two refiners minus it, paired."""
    return pd.DataFrame(
        {
            name: {
                column: format_estimate(as_estimate(value))
                for metric in METRICS
                for column, value in (
                    (TITLES[metric], values[metric]),
                    (f"minus the map {TITLES[metric][-9:]}", subtract(values[metric], measured[MAP][metric])),
                    (f"residual PCM minus it {TITLES[metric][-9:]}", subtract(measured[MIXED][metric], values[metric])),
                    (f"signed minus it {TITLES[metric][-9:]}", subtract(measured[SIGNED][metric], values[metric])),
                )
            }
            for name, values in measured.items()
        }
    ).T


def plot_boxes(measured: dict[str, Values], path: Path) -> None:
    """Plot the FROC of each candidate with its interval; the dotted line is the map as it is."""
    figure = new_figure(8.6, 0.27 * len(measured) + 0.9)
    panels = figure.subplots(1, 2, sharey=True)
    names = list(measured)[::-1]
    for axes, metric in zip(panels, METRICS, strict=True):
        for row, name in enumerate(names):
            found = as_estimate(measured[name][metric])
            colour = {MAP: "0.1", MIXED: COLOURS[0]}.get(name, "0.5")
            axes.plot([found["low"], found["high"]], [row, row], color=colour, linewidth=1.4)
            axes.plot(found["value"], row, "o", color=colour, markersize=5)
        axes.axvline(measured[MAP][metric]["value"], color="0.1", linewidth=0.9, linestyle=":")
        axes.set(xlabel=TITLES[metric], yticks=range(len(names)), yticklabels=names)
        style_chart(axes)
    finish(figure, path)
