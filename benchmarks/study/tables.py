"""Write the tables and the figure of a study: `table.json`, `table.csv`, `table.md` and `froc.png`.

A line holds one row with one kind of maps: means over its seeds with 95 % intervals over patients, and differences from
the row `against` with the same seeds and bootstrap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import (
    ALL_BOXES,
    BEST_BOX,
    COSTS,
    FROC,
    LOOSE_BEST_BOX,
    LOOSE_FROC,
    MEAN_AUC,
    NOT_MEASURED,
    TITLES,
    format_estimate,
)
from cxr_seam.io import atomic_write
from cxr_seam.metrics.bootstrap import difference, estimate

from .rows import Row
from .runner import (
    CENTRE_FROC,
    COMPARED,
    COST,
    IOBB_BEST,
    IOU_ALL,
    LARGE_AUC,
    OVER_CENTRE,
    Study,
    agreement_path,
    read_row,
    write_json,
)

METRICS = {
    MEAN_AUC: TITLES[MEAN_AUC],
    LARGE_AUC: "mean AUC, without shrunk images",
    FROC: TITLES[FROC],
    LOOSE_FROC: TITLES[LOOSE_FROC],
    CENTRE_FROC: "FROC at 0.5 of the centred half of the image, ranked by the row's raw scores",
    BEST_BOX: TITLES[BEST_BOX],
    LOOSE_BEST_BOX: TITLES[LOOSE_BEST_BOX],
    IOBB_BEST: "best box (IoBB>0.1)",
    ALL_BOXES: TITLES[ALL_BOXES],
    IOU_ALL: "all boxes (IoU>0.3)",
    **{metric + OVER_CENTRE: f"{TITLES[metric]}, minus the centred half" for metric in COMPARED},
}
"""Metrics with their titles."""
FALSE_POSITIVES = COSTS | {name: name + COST for name in (IOBB_BEST, IOU_ALL)}
"""False positives per image and finding of the accuracies; FROC is read at a fixed rate."""
DIFFERENCES = (MEAN_AUC, FROC, BEST_BOX, LOOSE_FROC, LOOSE_BEST_BOX)
"""Metrics with a difference in the Markdown table; the other files have all."""
MEANS = ("validation_auc", "passes", "seconds")
Runs = dict[int, dict[str, Any]]
"""Seed -> content of a row's file."""


def write_tables(study: Study) -> None:
    """Write the tables from all rows that are measured.

    Raises:
        InputError: a row was measured with other recipes, or two rows on other images.
    """
    rows = study.rows(0)
    measured = {name: runs for name in rows if (runs := read_runs(study, name))}
    lines = []
    for name, runs in measured.items():
        others = {} if rows[name].against == name else measured.get(rows[name].against, {})
        for kind in first(runs)["maps"]:
            line = make_line(rows[name], runs, others, kind) | read_agreement(study, name, runs, kind)
            if not is_duplicate(line):
                lines.append(line)
    lines += baseline_lines(study)
    missing = [name for name in rows if name not in measured]
    write_json(study.folder / "table.json", {"lines": lines, "not_measured": missing})
    with atomic_write(study.folder / "table.csv") as temporary:
        pd.json_normalize(lines).to_csv(temporary, index=False)
    with atomic_write(study.folder / "table.md") as temporary:
        temporary.write_text(markdown(lines, missing))


def read_runs(study: Study, name: str) -> Runs:
    """Read the files of a row, by seed."""
    runs = {}
    for path in (study.folder / "rows").glob(f"{name}.s*.json"):
        seed = path.name.removeprefix(f"{name}.s").removesuffix(".json")
        if seed.isdecimal():
            runs[int(seed)] = read_row(path, study.rows(int(seed))[name])
    return dict(sorted(runs.items()))


def first(runs: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    return next(iter(runs.values()))


def read_agreement(study: Study, name: str, runs: Runs, kind: str) -> dict[str, Any]:
    """Read the agreement of the row's first two seeds, if it is measured."""
    seeds = list(runs)
    path = agreement_path(study, name, seeds) if len(seeds) > 1 else None
    if path is None or not path.exists():
        return {"agreement": None, "confidence_lost": NOT_MEASURED}
    maps = read_row(path, study.rows(seeds[0])[name])["maps"].get(kind, {})
    return {"agreement": maps.get("gain"), "confidence_lost": maps.get("confidence_lost", NOT_MEASURED)}


def make_line(row: Row, runs: Runs, others: Runs, kind: str) -> dict[str, Any]:
    """Make the line of a row and a kind of maps.

    Args:
        row: the row.
        runs: its files.
        others: the files of the row `against`.
        kind: "MultiRes" or "MultiRes + PCM".

    Raises:
        InputError: both rows were measured on different images.
    """
    line: dict[str, Any] = {"row": row.name, "change": row.change, "maps": kind, "seeds": list(runs)}
    line |= {"against": row.against} | {key: float(np.mean([run[key] for run in runs.values()])) for key in MEANS}
    line |= {metric: estimate(*mean_over_seeds(runs, kind, metric)) for metric in first(runs)["maps"][kind]}
    line["difference"] = {}
    shared = [seed for seed in runs if seed in others]
    if any(runs[seed]["data"] != others[seed]["data"] for seed in shared):
        raise InputError(f"the rows {row.name} and {row.against} were measured on different images; delete one of them")
    if shared:
        own, base = ({seed: files[seed] for seed in shared} for files in (runs, others))
        for other_kind, metrics in first(base)["maps"].items():
            line["difference"][other_kind] = {
                metric: difference(mean_over_seeds(own, kind, metric), mean_over_seeds(base, other_kind, metric))
                for metric in first(own)["maps"][kind]
                if metric in metrics
            }
    return line


def mean_over_seeds(runs: Runs, kind: str, metric: str) -> tuple[float | None, np.ndarray]:
    """Average the value and each replicate of a metric over seeds."""
    entries = [run["maps"][kind][metric] for run in runs.values()]
    values = [entry["value"] for entry in entries]
    replicates = np.mean([np.array(entry["replicates"], dtype=np.float64) for entry in entries], axis=0)
    return (None if None in values else float(np.mean(values))), replicates


def is_duplicate(line: Mapping[str, Any]) -> bool:
    """Whether a line has the same values as the same maps of the row `against`."""
    same = line["difference"].get(line["maps"], {})
    return bool(same) and all(not any(value.values()) for value in same.values())


def baseline_lines(study: Study) -> list[dict[str, Any]]:
    """Make the lines of the baselines."""
    baselines = json.loads((study.folder / "baselines.json").read_text())
    return [
        {"row": name, "change": "a baseline without any image", "maps": "", "seeds": [], "difference": {}}
        | {
            metric: estimate(v["value"], np.array(v["replicates"], dtype=float))
            for metric, v in entry["values"].items()
        }
        for name, entry in baselines.items()
    ]


def compared_maps(line: Mapping[str, Any]) -> str:
    """Return the maps of the row `against` with which a line is compared: the same kind if the row has it."""
    kinds = line["difference"]
    return line["maps"] if line["maps"] in kinds else next(iter(kinds), "")


def markdown(lines: list[dict[str, Any]], missing: list[str]) -> str:
    """Format the lines as a table."""
    shown = [metric for metric in METRICS if any(line.get(metric, NOT_MEASURED)["value"] is not None for line in lines)]
    head = ["row", "maps", "seeds", "passes", "validation AUC", "agreement", "confidence lost"]
    head += [METRICS[metric] for metric in shown]
    head += ["against", *(f"difference in {METRICS[metric]}" for metric in DIFFERENCES)]
    cells = [head, ["---"] * len(head)]
    for line in lines:
        kind = compared_maps(line)
        differences = line["difference"].get(kind, {})
        cells.append(
            [
                line["row"],
                line["maps"],
                ", ".join(map(str, line["seeds"])),
                *(format(line[key], form) if line.get(key) is not None else "" for key, form in NUMBERS.items()),
                format_estimate(line.get("confidence_lost", NOT_MEASURED)),
                *(with_false_positives(line, metric) for metric in shown),
                f"{line['against']}, {kind}" if kind else "",
                *(format_estimate(differences.get(metric, NOT_MEASURED)) for metric in DIFFERENCES),
            ]
        )
    text = [
        "Means over seeds with 95 % intervals over patients; accuracies are macro over findings, at their false "
        "positives per image and finding. Differences are from the row under `against`, with the same seeds and "
        "patients. Rows with other training data validate on other images, so their validation AUC cannot be compared.",
        "",
        *("| " + " | ".join(row) + " |" for row in cells),
        "",
    ]
    if missing:
        text += [f"Not measured: {', '.join(missing)}.", ""]
    text += [f"- **{name}**: {change}" for name, change in {line["row"]: line["change"] for line in lines}.items()]
    return "\n".join(text) + "\n"


NUMBERS = {"passes": ",.0f", "validation_auc": ".3f", "agreement": ".3f"}


def with_false_positives(line: Mapping[str, Any], metric: str) -> str:
    """Format a metric, an accuracy with its false positives."""
    text = format_estimate(line.get(metric, NOT_MEASURED))
    cost = line.get(FALSE_POSITIVES.get(metric, ""), NOT_MEASURED)["value"]
    return text if cost is None or not text else f"{text} at {cost:.2f}"


def plot_froc(study: Study, names: tuple[str, ...]) -> None:
    """Write `froc.png`: mean FROC curves of some rows and of the centred box with their ranking, and of baselines."""
    from matplotlib.figure import Figure

    rates = np.geomspace(0.01, 10, 100)
    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlabel="false positives per image and finding", ylabel="accuracy (IoU > 0.3)")
    for name in names:
        runs = read_runs(study, name)
        for kind in first(runs)["froc_curves"] if runs else ():
            curves = [run["froc_curves"][kind] for run in runs.values()]
            ranked = kind == CENTRE_FROC
            label = f"centre box, half of image, ranked by {name}" if ranked else f"{name}: {kind}"
            axes.plot(rates, mean_curve(curves, rates), label=label, linestyle="--" if ranked else "-")
    for name, entry in json.loads((study.folder / "baselines.json").read_text()).items():
        axes.plot(rates, mean_curve([entry["froc_curve"]], rates), linestyle=":", label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    with atomic_write(study.folder / "froc.png") as temporary:
        figure.savefig(temporary, format="png")


def mean_curve(curves: list[dict[str, list[float]]], rates: np.ndarray) -> np.ndarray:
    """Average FROC curves at some rates of false positives; a curve keeps its last accuracy beyond its end."""
    heights = [np.interp(rates, curve["false_positives_per_image"], curve["accuracy"]) for curve in curves]
    return np.mean(heights, axis=0)
