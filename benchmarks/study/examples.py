"""Plot the maps of several rows side by side (Fig. 7), on images that nobody selected."""

from __future__ import annotations

from pathlib import Path

from cxr_seam.evaluation.results import REFINED
from cxr_seam.io import atomic_write
from cxr_seam.models.checkpoint import best_path
from cxr_seam.visualize.examples import load_examples, one_per_finding
from cxr_seam.visualize.figures import figure_bytes, plot_heatmap_grid

from .rows import CONTOUR_ROW, PAPER, STRONG
from .runner import Study, load_model

COLUMNS = {REFINED: PAPER, "strong, contours, no prior": CONTOUR_ROW, STRONG: STRONG}
"""Title of a column -> row. The paper's row has two columns: its maps before and after the PCM."""


def plot_examples(study: Study, *, seed: int) -> Path | None:
    """Write `examples.png`: the first image with a true box of each finding, with the maps and boxes of each row.

    An existing file stays, because the models have to be calibrated for it.

    Returns:
        The file; None if a model is not trained yet.
    """
    path = study.folder / "examples.png"
    if path.exists():
        return path
    rows = {title: study.rows(seed).get(name) for title, name in COLUMNS.items()}
    if any(row is None or not best_path(study.run.models, row.recipes[-1].name).exists() for row in rows.values()):
        return None
    predictors = {title: load_model(study, row)[0] for title, row in rows.items()}
    examples = load_examples(study.run, per_finding=1, predictors=predictors)
    figure = plot_heatmap_grid(one_per_finding(examples))
    with atomic_write(path) as temporary:
        temporary.write_bytes(figure_bytes(figure, format="png", dpi=80))
    return path
