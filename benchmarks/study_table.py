"""The study's table: a line for each row and kind of maps, means over seeds, beside the controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from study_rows import Row, require_keys, require_known

from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import (
    ALL_BOXES,
    BEST_BOX,
    COSTS,
    FROC,
    MEAN_AUC,
    NOT_MEASURED,
    TITLES,
    format_estimate,
    get_estimate,
    load_results,
)
from cxr_seam.io import atomic_write
from cxr_seam.metrics.bootstrap import Estimate, difference, estimate
from cxr_seam.metrics.localization import MetricKey

AUC_WITHOUT_SHRUNK, CENTRE_RANKED = "auc_without_shrunk", "centre_ranked"
TIGHT_BOX = "tight_box"
TIGHT_KEY = MetricKey("best_box", "iou>0.3")
"""Added last: rows that were measured before have no draws of it."""
FIGURES = {
    MEAN_AUC: TITLES[MEAN_AUC],
    AUC_WITHOUT_SHRUNK: "mean AUC, 256-pixel images",
    FROC: TITLES[FROC],
    CENTRE_RANKED: f"{TITLES[FROC]} of the centred half of the film, ranked by the row's probabilities",
    BEST_BOX: TITLES[BEST_BOX],
    COSTS[BEST_BOX]: "its false positives",
    TIGHT_BOX: "best box (IoU>0.3), with its interval",
    ALL_BOXES: TITLES[ALL_BOXES],
    COSTS[ALL_BOXES]: "their false positives",
}
COMPARED = (MEAN_AUC, FROC, BEST_BOX)
"""The figures whose differences the page shows; the other files have all."""
WITH_COSTS = {
    "all boxes (IoU>0.3)": ("all_boxes", "iou>0.3"),
    "best box (IoBB>0.1)": ("best_box", "iobb>0.1"),
    "best box (IoU>0.3)": ("best_box", "iou>0.3"),
}
"""Accuracies told with their false positives, without intervals."""
PAIR = ("accuracy", "false_positives_per_image")
TOLD_OF_ROWS = ("validation_auc", "passes", "seconds")
TOLD = {"passes": ",.0f", "validation_auc": ".3f", "agreement": ".3f"}
"""Beside the figures, with their formats. The validation films may choose between rows; test films may not."""
COVERED = "confidence lost where its boxes are covered"
Figure = tuple[float | None, np.ndarray]
"""A value and its draws."""


def write(out: Path, *, settings: Mapping[str, Any], rows: Callable[[int], Mapping[str, Row]]) -> None:
    """Write `table.json`, `table.csv` and `table.md` from the rows that are measured.

    Args:
        out: folder of the study.
        settings: told beside the lines.
        rows: all rows by name, for a seed, in the order of the lines; those without a measurement are named below the
            table.

    Raises:
        InputError: a measurement is of another row of that name, or of other films than the one it is held against.
    """
    lines, known = [], rows(0)
    runs_by_row = {name: runs for name in known if (runs := runs_of(out, name))}
    for name, runs in runs_by_row.items():
        for seed, (metadata, _) in runs.items():
            require_known(metadata, rows, path=out / "rows" / f"{name}.s{seed}")
        against = known[name].against
        path = out / "rows" / f"{name}.agreement.json"
        seeds, agreements = read_agreement(path, rows) if path.exists() else ([], {})
        if not set(seeds) <= set(runs):  # of models that are not in this line
            agreements = {}
        others = {} if name == against else runs_by_row.get(against, {})
        for maps in first_of(runs)["localization"]:
            line = line_of(runs, others, maps, agreement=agreements.get(maps, {}))
            lines.append({**line, "against": against})
    lines += control_lines(out)
    absent = [name for name in known if name not in runs_by_row]
    content = {"settings": dict(settings), "lines": lines, "not_measured": absent}
    with atomic_write(out / "table.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    with atomic_write(out / "table.csv") as temporary:
        pd.json_normalize(lines).to_csv(temporary, index=False)
    with atomic_write(out / "table.md") as temporary:
        temporary.write_text(page(lines, settings, absent))


def read_agreement(path: Path, rows: Callable[[int], Mapping[str, Row]]) -> tuple[list[int], dict[str, dict[str, Any]]]:
    """The seeds of a row's two models, and what `study_agreement.agreement_of` found of them.

    Raises:
        InputError: it is of another row of that name, or of an earlier version of the study.
    """
    content = json.loads(path.read_text())
    require_keys(content, ("rows", "maps"), path=path)
    for before in content["rows"]:
        require_known(before, rows, path=path)
    return [before["recipes"][0]["seed"] for before in content["rows"]], content["maps"]


def runs_of(out: Path, name: str) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
    """By seed, a row's `row.json` and `results.json`.

    Raises:
        InputError: one is of an earlier version of the study.
    """
    found = {}
    for path in (out / "rows").glob(f"{name}.s*/results.json"):
        metadata = json.loads((path.parent / "row.json").read_text())
        require_keys(metadata, ("seed", *TOLD_OF_ROWS, AUC_WITHOUT_SHRUNK, CENTRE_RANKED), path=path.parent)
        found[metadata["seed"]] = metadata, load_results(path)
    return dict(sorted(found.items()))


def first_of(runs: Mapping[int, tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """The results of the first seed."""
    return next(iter(runs.values()))[1]


def line_of(
    runs: Mapping[int, Any], others: Mapping[int, Any], maps: str, *, agreement: Mapping[str, Any]
) -> dict[str, Any]:
    """One line: a row's figures with one kind of maps, and what they are more than those of the row that it changes.

    Raises:
        InputError: that row was measured on other films.
    """
    metadata = next(iter(runs.values()))[0]
    line = {"row": metadata["row"], "change": metadata["change"], "maps": maps, "seeds": list(runs)}
    line |= dict.fromkeys(FIGURES, NOT_MEASURED)
    line |= {figure: estimate(*mean_over(runs, maps, figure)) for figure in figures_of(runs)}
    line |= costs_of([results["localization"][maps] for _, results in runs.values()])
    for key in TOLD_OF_ROWS:
        line[key] = float(np.mean([metadata[key] for metadata, _ in runs.values()]))
    line |= {"agreement": agreement.get("gain"), "covered": agreement.get("covered", NOT_MEASURED)}
    shared = [seed for seed in runs if seed in others]
    line["difference"] = {}
    for seed in shared:
        (own, ours), (other, theirs) = runs[seed], others[seed]
        if any(ours["data"][key] != theirs["data"][key] for key in ("test_sha256", "boxed_sha256")):
            raise InputError(
                f"the rows {own['row']} and {other['row']} were measured on other films; delete one of them"
            )
    if shared:
        own, other = ({seed: of[seed] for seed in shared} for of in (runs, others))
        known = [figure for figure in figures_of(own) if figure in figures_of(other)]
        for kind in first_of(other)["localization"]:
            line["difference"][kind] = {
                figure: minus(mean_over(own, maps, figure), mean_over(other, kind, figure)) for figure in known
            }
    return line


def costs_of(scores: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The pairs of `WITH_COSTS`, means over seeds."""
    return {
        name: [float(np.mean([of[kind][measure]["macro"][key]["value"] for of in scores])) for key in PAIR]
        for name, (kind, measure) in WITH_COSTS.items()
    }


def figures_of(runs: Mapping[int, Any]) -> list[str]:
    """Those of `FIGURES` that every run has measured."""
    tight = all(TIGHT_BOX in metadata for metadata, _ in runs.values())
    return [figure for figure in FIGURES if tight or figure != TIGHT_BOX]


def mean_over(runs: Mapping[int, Any], maps: str, figure: str) -> Figure:
    """A figure's mean over seeds, of the value and draw by draw."""
    if figure in (AUC_WITHOUT_SHRUNK, CENTRE_RANKED):
        sides = [(metadata[figure]["value"], metadata[figure]["samples"]) for metadata, _ in runs.values()]
    elif figure == TIGHT_BOX:
        sides = [(metadata[figure][maps]["value"], metadata[figure][maps]["samples"]) for metadata, _ in runs.values()]
    else:
        sides = [(get_estimate(r, maps, figure)["value"], r["bootstrap"][maps][figure]) for _, r in runs.values()]
    values = [value for value, _ in sides]
    value = None if None in values else float(np.mean(values))
    return value, np.mean([np.array(samples, dtype=np.float64) for _, samples in sides], axis=0)


def minus(ours: Figure, theirs: Figure) -> Estimate:
    """The paired difference of two means."""
    return difference(ours[1], theirs[1], ours[0], theirs[0])


def control_lines(out: Path) -> list[dict[str, Any]]:
    """A line for each control."""
    content = json.loads((out / "controls.json").read_text())
    return [
        {"row": name, "change": scores["note"], "maps": "", "seeds": [], "difference": {}}
        | {figure: NOT_MEASURED for figure in (MEAN_AUC, AUC_WITHOUT_SHRUNK, CENTRE_RANKED, TIGHT_BOX, "covered")}
        | {figure: get_estimate(content, name, figure) for figure in FIGURES if figure in content["bootstrap"][name]}
        | costs_of([scores])
        for name, scores in content["localization"].items()
    ]


def held_against(line: Mapping[str, Any]) -> tuple[str, Mapping[str, Estimate]]:
    """The kind of maps that a line is held against, and by how much it has more: the same kind if there is one.

    A row with a refiner may change one without: its refined maps, too, are held against that one's.
    """
    kinds = line["difference"]
    kind = line["maps"] if line["maps"] in kinds else next(iter(kinds), "")
    return kind, kinds.get(kind, {})


def page(lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], absent: Sequence[str]) -> str:
    """The table to read, as Markdown."""
    head = ["row", "maps", "seeds", "passes", "validation AUC", "agreement", COVERED, *FIGURES.values(), *WITH_COSTS]
    head += ["changes", *(f"{TITLES[figure]}, more" for figure in COMPARED)]
    told = [head, ["---"] * len(head)]
    for line in lines:
        kind, more = held_against(line)
        told.append(
            [
                line["row"],
                line["maps"],
                ", ".join(map(str, line["seeds"])),
                *(f"{line[key]:{form}}" if line.get(key) is not None else "" for key, form in TOLD.items()),
                format_estimate(line["covered"]),
                *(format_estimate(line[figure]) for figure in FIGURES),
                *("{:.3f} at {:.2f}".format(*line[name]) for name in WITH_COSTS),
                f"{line['against']}, {kind}" if kind else "",
                *(format_estimate(more.get(figure, NOT_MEASURED)) for figure in COMPARED),
            ]
        )
    chosen = ", ".join(f"{key} {value}" for key, value in settings.items())
    text = [
        f"{chosen}. Means over seeds, with 95 % intervals over patients. 'More' is than the row and the maps named "
        "under 'changes', with the same seeds. Rows with other data validate on other films, so that their validation "
        "AUC does not compare.",
        "",
    ]
    text += ["| " + " | ".join(cells) + " |" for cells in told]
    if absent:
        text += ["", f"Not measured: {', '.join(absent)}."]
    changes = {line["row"]: line["change"] for line in lines}
    text += ["", *(f"- **{name}**: {change}" for name, change in changes.items())]
    return "\n".join(text) + "\n"
