"""Plot the maps of several rows side by side (Fig. 7), on images that nobody selected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cxr_seam.evaluation.results import MULTIRES, REFINED
from cxr_seam.io import atomic_write
from cxr_seam.models.checkpoint import best_path
from cxr_seam.visualize.examples import Example, load_examples, one_per_finding
from cxr_seam.visualize.figures import figure_bytes, plot_heatmap_grid

from .rows import CONTOUR_ROW, JOINT_ROW, PAPER
from .runner import Study, load_model

COLUMNS = {
    PAPER: {MULTIRES: "paper", REFINED: "paper, PCM"},
    CONTOUR_ROW: {MULTIRES: "strong, contours"},
    JOINT_ROW: {REFINED: "strong_joint"},
}
"""Row -> its kinds of maps with the titles of their columns."""


def plot_examples(study: Study, *, seed: int) -> Path | None:
    """Write `examples.png`: the first image with a true box of each finding, with the maps and boxes of each row.

    An existing file stays, because the models have to be calibrated for it.

    Returns:
        The file; None if a model is not trained yet.
    """
    path = study.folder / "examples.png"
    if path.exists():
        return path
    rows = [study.rows(seed).get(name) for name in COLUMNS]
    if any(row is None or not best_path(study.run.models, row.recipes[-1].name).exists() for row in rows):
        return None
    merged: dict[str, Example] = {}
    for row, titles in zip(rows, COLUMNS.values(), strict=True):
        predictor, *_ = load_model(study, row)
        for example in load_examples(study.run, per_finding=1, predictors={row.model: predictor}):
            earlier = merged[example.image_index].outputs if example.image_index in merged else {}
            outputs = {title: example.outputs[kind] for kind, title in titles.items()}
            merged[example.image_index] = replace(example, outputs={**earlier, **outputs})
    figure = plot_heatmap_grid(one_per_finding(list(merged.values())))
    with atomic_write(path) as temporary:
        temporary.write_bytes(figure_bytes(figure, format="png", dpi=80))
    return path
