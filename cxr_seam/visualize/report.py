"""Write report.html: all results of an evaluation on one page that needs no other file.

The template report.html.j2 has the text and names the tables; this module plots the figures. Figures and style are
embedded, there is no script, and the page is readable in light and dark mode and in print.
"""

from __future__ import annotations

import base64
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..errors import InputError
from ..evaluation import tables
from ..evaluation.evaluate import Evaluation
from ..evaluation.published import ERRATA
from ..evaluation.results import MODEL, format_estimate
from ..findings import FINDINGS, OPERATING_POINTS
from ..io import atomic_write
from ..metrics.best_box import score_best_boxes
from ..metrics.matching import rank_by_raw_score
from ..recipes import CORRECT_IOU
from ..workspace import DEMO_PATIENTS, Workspace
from .examples import example_pairs, load_examples, most_confident, one_per_finding, pick_boxed
from .figures import figure_bytes, plot_froc, plot_heatmap_grid, plot_loss_curves, plot_reliability, plot_roc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERVAL = re.compile(r" (\([-\d.]+(?:-| to )[-\d.]+\))")


def write_report(run: Workspace, evaluation: Evaluation) -> Path:
    """Write report.html beside results.json and return its path.

    Raises:
        InputError: the images no longer exist, or the file cannot be written.
    """
    path = run.results.with_name("report.html")
    with atomic_write(path) as temporary:
        temporary.write_text(report_html(run, evaluation), encoding="utf-8")
    return path


def report_html(run: Workspace, evaluation: Evaluation) -> str:
    """Render the report of an evaluation as HTML."""
    results = evaluation.results
    figures, best = _example_figures(run, evaluation)
    figures |= {"roc": plot_roc(evaluation), "froc": plot_froc(results), "loss_curves": _loss_curves(run)}
    figures["reliability"] = plot_reliability(results, evaluation.final_model)
    data = {**results["data"], "created": results["created"]}
    data |= {"bootstrap replicates": results["n_bootstrap"], "bootstrap seed": results["seed"]}
    return render_page(
        results=results,
        synthetic=run.data in DEMO_PATIENTS,
        published_errors=ERRATA if set(evaluation.findings) & set(FINDINGS) else (),
        final_model=evaluation.final_model,
        operating_points=OPERATING_POINTS,
        tables=tables,
        data=pd.DataFrame({"value": {key.replace("_", " "): as_text(value) for key, value in data.items()}}),
        recipes=tables.recipe_table(run.recipes).astype(str),
        figures=figures,
        best=best,
    )


def render_page(**values: Any) -> str:
    """Render the template; all values are escaped, and a missing value is an error."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"table": table_html, "image": image_html}
    template = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(**values)


def table_html(table: pd.DataFrame, kind: str = "plain") -> Markup:
    """Format a table as HTML with escaped cells.

    `kind` is "plain"; "list" without the index; "tight" for many columns, with intervals below their values.
    """
    with pd.option_context("display.max_colwidth", None):
        html = table.to_html(border=0, index=kind != "list", na_rep="", classes=kind)
    if kind == "tight":
        html = INTERVAL.sub(r"<br><small>\1</small>", html)
    return Markup(f'<div class="wide">{html}</div>')


def image_html(figure: Figure, caption: str) -> Markup:
    """Embed a figure: JPEG for images (dark background), PNG for charts."""
    options: dict[str, Any] = {"format": "png", "dpi": 130}
    if figure.get_facecolor()[0] < 0.5:
        options = {"format": "jpeg", "dpi": 110, "pil_kwargs": {"quality": 85}}
    data = base64.b64encode(figure_bytes(figure, **options)).decode("ascii")
    source = f"data:image/{options['format']};base64,{data}"
    return Markup('<img alt="{}" src="{}">').format(caption, source)


def as_text(value: object) -> str:
    """Format an entry of the results; names of a list are separated by commas."""
    return ", ".join(value) if isinstance(value, list) else str(value)


def _loss_curves(run: Workspace) -> Figure | None:
    """Plot the loss curves; None if the checkpoints have no histories."""
    try:
        return plot_loss_curves(tables.load_histories(run.recipes, run.models))
    except InputError:
        return None


def _example_figures(run: Workspace, evaluation: Evaluation) -> tuple[dict[str, Figure | None], dict[str, Any] | None]:
    """Plot the examples: Fig. 7, and the most confident correct and wrong predictions of the best model.

    Returns:
        The figures "examples", "correct" and "wrong" (None without an image), and counts of the best model; None
        without true boxes.
    """
    figures: dict[str, Figure | None] = dict.fromkeys(("examples", "correct", "wrong"))
    scored = _score_best_model(run, evaluation)
    findings = evaluation.findings
    pairs = example_pairs(run.metadata(), findings=findings)
    first = pick_boxed(pairs, run.cache(), findings=findings, per_finding=1)
    chosen = {}
    if scored is not None:
        for name in ("correct", "wrong"):
            chosen[name] = most_confident(scored, findings=findings, correct=name == "correct")
    names = list(dict.fromkeys([*first, *(image for rows in chosen.values() for image, _ in rows)]))
    if not names:
        return figures, None
    made = load_examples(run, image_index=names, predictors=evaluation.predictors)
    examples = {example.image_index: example for example in made}
    figures["examples"] = plot_heatmap_grid(one_per_finding([examples[name] for name in first]))
    for name, rows in chosen.items():
        if rows:
            figures[name] = plot_heatmap_grid([(examples[image_index], finding) for image_index, finding in rows])
    return figures, None if scored is None else _count_best_boxes(evaluation, scored)


def _best_model(evaluation: Evaluation) -> str:
    return next(row["method"] for row in evaluation.results["ranking"] if row["type"] == MODEL)


def _score_best_model(run: Workspace, evaluation: Evaluation) -> pd.DataFrame | None:
    """Score the best boxes of the model with the highest rank; None without true boxes."""
    if evaluation.targets is None:
        return None
    model = _best_model(evaluation)
    images = run.test_dataset().image_index
    raw_scores = pd.DataFrame(evaluation.raw_scores[model], images, evaluation.findings)
    return rank_by_raw_score(score_best_boxes(evaluation.methods[model].boxes, evaluation.targets.boxes), raw_scores)


def _count_best_boxes(evaluation: Evaluation, scored: pd.DataFrame) -> dict[str, Any]:
    """Count correct and wrong best boxes of the best model."""
    model = _best_model(evaluation)
    scores = evaluation.results["localization"][model]["best_box"][f"iou>{CORRECT_IOU}"]
    return {
        "model": model,
        "correct": int(scored["correct"].sum()),
        "total": len(scored),
        "false_positives": scores["micro"]["false_positives"],
        "false_positive_rate": format_estimate(scores["macro"]["false_positives_per_image"]),
    }
