"""report.html: everything of an evaluation on one page that stands alone and can be mailed.

Pictures are in the page, the style too; there is no script. It reads on a dark and on a light ground, and prints.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import InputError
from ..evaluation.evaluate import Evaluation
from ..evaluation.published import SLIPS
from ..evaluation.results import MODEL, difference_table, summary_table
from ..evaluation.tables import (
    NOT_INSTALLED,
    POINTING,
    accuracy_table,
    bootstrap_note,
    checkpoint_table,
    comparability_note,
    froc_table,
    load_histories,
    localization_comparison,
    mean_auc_table,
    operating_point_table,
    recipe_table,
    table_1,
    table_4,
)
from ..findings import FINDINGS
from ..io import atomic_write
from ..workspace import DEMO_PATIENTS, Workspace
from .examples import RULE, count_text, make_examples, most_confident, one_per_finding, pick_boxed, score_best_boxes
from .figures import plot_froc, plot_heatmap_grid, plot_loss_curves, roc_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


HOW_TO_READ = (
    "Figures in brackets are 95 % intervals of a bootstrap over patients. Accuracy is the share of true boxes that are "
    "found, mean over the boxed findings. IoU divides the intersection by the union of both boxes, IoBB by the area of "
    "the predicted box and so forgives a box that is too small. A box that meets no true box is a false positive, "
    "counted per film and finding. Boxes buy accuracy: with every box kept a random map finds most true boxes. So "
    "methods are ranked by the accuracy at half a false positive per film and finding (FROC), boxes ranked by "
    "probability times peak, then by the single best box."
)


LIMITS = (
    "The labels were mined from radiology reports by a program and are wrong in places.",
    "Boxes exist for eight findings, drawn by one group of radiologists, one box a finding and film at most.",
    "Intervals tell of the choice of patients, not of the choice of the training's random numbers: train several times "
    "to know that.",
    "Probabilities rank films; they are not calibrated. A heat map is divided by its own maximum: it tells where the "
    "evidence lies, not how strong it is.",
    "On films of other hospitals the models may be wrong without any sign of it.",
)


INTERVAL = re.compile(r" (\([-\d.]+(?:-| to )[-\d.]+\))")


STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1a1a1a; --line: #ccc; --soft: #f3f4f6; --mark: #8a4b00; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181c; --ink: #e8e8e8; --line: #444; --soft: #22252b; --mark: #ffc27a; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 80rem;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; }
p, li { max-width: 48rem; } .mark { color: var(--mark); font-weight: 600; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); } tbody th { text-align: left; vertical-align: top; }
.list td:nth-child(-n+4), .list td:last-child, .list th { text-align: left; }
.list td:last-child { white-space: normal; min-width: 8rem; }
.tight th, .tight td { padding: .2rem .4rem; } .tight td, .tight thead th { white-space: normal; }
.tight tbody th { white-space: normal; max-width: 9rem; } small { font-size: 11px; white-space: nowrap; }
figure { margin: 1rem 0; } img { max-width: 100%; background: #fff; border-radius: 4px; }
figcaption { font-size: 13px; max-width: 48rem; } code { overflow-wrap: anywhere; }
@media print { :root { --ground: #fff; --ink: #000; --line: #bbb; --soft: #eee; --mark: #000; }
  body { max-width: none; margin: 0; font-size: 11px; } .wide { overflow: visible; } small { font-size: 6px; }
  table { font-size: 7.5px; } th, td { padding: .1rem .25rem; } tr, figure { break-inside: avoid; }
  img { max-height: 24cm; } }
"""


@dataclass
class Page:
    """A page that is written from top to bottom; all text is escaped."""

    title: str
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str, *, level: int = 2) -> None:
        """Begin a part."""
        self.parts.append(f"<h{level}>{escape(text)}</h{level}>")

    def text(self, text: str, *, mark: bool = False) -> None:
        """Add a paragraph; `mark` makes it stand out."""
        self.parts.append(f"<p{' class=mark' if mark else ''}>{escape(text)}</p>")

    def points(self, texts: Iterable[str]) -> None:
        """Add a list."""
        self.parts.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>")

    def table(self, table: pd.DataFrame, *, index: bool = True, tight: bool = False) -> None:
        """Add a table of text; `tight` lets an interval stand below its value where there are many columns."""
        kind = "tight" if tight else "plain" if index else "list"
        with pd.option_context("display.max_colwidth", None):
            html = table.to_html(border=0, index=index, na_rep="", classes=kind)
        if tight:
            html = INTERVAL.sub(r"<br><small>\1</small>", html)
        self.parts.append(f'<div class="wide">{html}</div>')

    def figure(self, figure: Figure, caption: str, *, film: bool = False) -> None:
        """Add a figure: films as JPEG, charts as PNG."""
        data = io.BytesIO()
        kind = "jpeg" if film else "png"
        extra: dict[str, Any] = {"pil_kwargs": {"quality": 85}} if film else {}
        figure.savefig(data, format=kind, dpi=110 if film else 130, facecolor=figure.get_facecolor(), **extra)
        source = base64.b64encode(data.getvalue()).decode("ascii")
        words = escape(caption)
        self.parts.append(
            f'<figure><img alt="{escape(caption, quote=True)}" src="data:image/{kind};base64,{source}">'
            f"<figcaption>{words}</figcaption></figure>"
        )

    def html(self) -> str:
        """The whole page."""
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        head += f"<title>{escape(self.title)}</title><style>{STYLE}</style>"
        body = "\n".join(self.parts)
        return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def write_report(workspace: Workspace, evaluation: Evaluation) -> Path:
    """Write report.html beside results.json and return its path.

    Raises:
        InputError: the films have gone since, or the file cannot be written.
    """
    path = workspace.results.with_name("report.html")
    with atomic_write(path) as temporary:
        temporary.write_text(report_page(workspace, evaluation).html(), encoding="utf-8")
    return path


def report_page(workspace: Workspace, evaluation: Evaluation) -> Page:
    """Put the page together from an evaluation, the histories and some films."""
    results = evaluation.results
    page = Page(f"cxr-seam: {results['data']['description']}")
    page.heading(page.title, level=1)
    page.text("Research software, not a medical device. Do not decide about a patient by it.", mark=True)
    page.text(comparability_note(results))
    if workspace.data in DEMO_PATIENTS:
        page.text("The films are drawn by the program; these numbers say nothing about patients.", mark=True)
    page.heading("Headline")
    page.text(HOW_TO_READ)
    page.table(summary_table(results), tight=True)
    if note := bootstrap_note(results):
        page.text(note)
    page.text(
        "Differences with paired intervals; where an interval holds 0, it may be chance. The best model and the best "
        "control were picked by these very films, which the interval does not tell of."
    )
    page.table(difference_table(results), tight=True)
    _classification(page, evaluation)
    _localization(page, evaluation)
    page.heading("Table 4: parameters and time")
    page.text(
        "Milliseconds depend on the machine; the ratio to the standard model of the same backbone less so. What was "
        "measured elsewhere than in the paper, and how to measure it, stands in docs/performance.md."
    )
    page.table(table_4())
    _training(page, workspace)
    _films(page, workspace, evaluation)
    _origin(page, workspace, results)
    return page


def _classification(page: Page, evaluation: Evaluation) -> None:
    results = evaluation.results
    page.heading("Classification")
    page.text("Table 1: area under the ROC curve. The PCM leaves probabilities as they are, so it has no column.")
    page.table(table_1(results), tight=True)
    model = evaluation.final_model
    page.figure(roc_figure(evaluation), f"Fig. 6: ROC curves of {model}, with 95 % intervals of the area.")
    page.text(f"{model}, at thresholds that were chosen on the validation films and stored with the checkpoint:")
    page.table(operating_point_table(results, model))
    page.text(
        "Mean AUC beside what others report. Only rows of the official test list compare and have a rank; equal ones "
        "share it."
    )
    page.table(mean_auc_table(results), index=False)


def _localization(page: Page, evaluation: Evaluation) -> None:
    results = evaluation.results
    page.heading("Localization")
    page.figure(plot_froc(results), "FROC: accuracy against false positives per film and finding, IoU > 0.1.")
    page.table(froc_table(results))
    page.text(POINTING)
    page.text(
        "Tables 2 and 3, the paper's rule: all boxes, IoBB > 0.1. Wang et al. divide false positives by the boxes; "
        "counts compare. Macro is the mean over the findings; micro counts all boxes alike and sums false positives."
    )
    page.table(localization_comparison(results), tight=True)
    page.text(
        "The same with the gate of the authors' program, which the paper does not tell of: only boxes of findings with "
        "a probability above 0.5. Controls without a probability keep all their boxes."
    )
    page.table(localization_comparison(results, kind="gated_boxes"), tight=True)
    page.text("The stricter reading: the single best box of each film and finding, IoU > 0.1.")
    page.table(localization_comparison(results, kind="best_box", score="iou>0.1"), tight=True)
    for measure, name in (("iobb", "IoBB"), ("iou", "IoU")):
        page.text(
            f"Macro accuracy of all boxes by threshold of the {name}, each at the false positives that it costs. Not "
            "ranked: most print no false positives."
        )
        page.table(accuracy_table(results, measure), index=False)
    page.text("Known slips of the printed tables:")
    page.points(SLIPS)


def _training(page: Page, workspace: Workspace) -> None:
    try:
        histories = load_histories(workspace.recipes, workspace.models)
    except InputError:  # a checkpoint may come without its history
        return
    page.heading("Training")
    page.figure(
        plot_loss_curves(histories), "Fig. 5: loss curves. Epochs of the PCM are dashed: theirs is another loss."
    )


def _films(page: Page, workspace: Workspace, evaluation: Evaluation) -> None:
    cache, tables = workspace.cache(), workspace.tables()
    models = [row["method"] for row in evaluation.results["ranking"] if row["kind"] == MODEL]
    method = evaluation.methods[models[0]]
    probabilities = pd.DataFrame(evaluation.probabilities[models[0]], workspace.test_dataset().image_index, FINDINGS)
    judged = score_best_boxes(method.boxes, evaluation.truth, probabilities)
    first = pick_boxed(evaluation.truth, cache, per_finding=1)
    chosen = {hit: most_confident(judged, hit=hit) for hit in (True, False)}
    names = dict.fromkeys([*first, *(name for pairs in chosen.values() for name, _ in pairs)])
    made = make_examples(evaluation.predictors, list(names), cache=cache, tables=tables)
    examples = {example.image_index: example for example in made}
    page.heading("ChestXrayDataset")
    page.text("Predicted boxes are solid and red, true ones dashed and green; the number is the probability.")
    rows = one_per_finding([examples[name] for name in first])
    page.figure(plot_heatmap_grid(rows), "Fig. 7: the first film of each finding in the box table.", film=True)
    page.heading(f"Hits and misses of {models[0]}", level=3)
    page.text(RULE)
    counted = count_text(judged, evaluation.results["localization"][models[0]]["best_box"])
    page.text(f"{counted} The model is the best-ranked one; the others stand beside it.")
    for hit, caption in ((True, "The surest hits."), (False, "The surest misses.")):
        if rows := [(examples[name], finding) for name, finding in chosen[hit]]:
            page.figure(plot_heatmap_grid(rows), caption, film=True)


def _origin(page: Page, workspace: Workspace, results: Mapping[str, Any]) -> None:
    page.heading("Where the numbers come from")
    metadata = {**results["data"], "created": results["created"], "draws of patients": results["draws"]}
    metadata["seed of the draws"] = results["seed"]
    page.table(pd.DataFrame({"value": {key.replace("_", " "): str(value) for key, value in metadata.items()}}))
    page.table(checkpoint_table(results))
    page.table(recipe_table(workspace.recipes).astype(str))
    page.table(pd.DataFrame({"version": results["versions"]}).fillna(NOT_INSTALLED))
    page.points(results["notes"])
    page.heading("Limits")
    page.points(LIMITS)
    page.text(
        "The method: G. D'Souza, N. V. S. Reddy, K. N. Manjunath, Localization of lung abnormalities on chest X-rays "
        "using self-supervised equivariant attention, Biomed. Eng. Lett. 13 (2023). ChestX-ray14: NIH Clinical Center; "
        "X. Wang et al., ChestX-ray8, CVPR 2017."
    )
