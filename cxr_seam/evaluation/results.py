"""results.json: how it is written and read, what is read off it, how two of them compare.

docs/results.md tells every key. A *measured value* is a dictionary of "value", "low" and "high": a figure with its 95 %
interval over patients; None where it is not defined.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import InputError
from ..io import atomic_write
from ..metrics.bootstrap import difference

FORMAT = 3


STANDARD, MULTIRES, REFINED = "Standard", "MultiRes", "MultiRes + PCM"
"""The three columns of Fig. 7."""


MODEL, COMPARISON, CONTROL = "model", "comparison", "control"
"""Kinds of a method: trained here; other maps of the same network; never saw an image."""


SEEN_BOXES = "has seen boxes"
"""The note of a control that true boxes were shown to, so that it is no control of a model which saw none."""


MEAN_AUC, MEAN_AVERAGE_PRECISION = "mean_auc", "mean_average_precision"


FROC, BEST_BOX, ALL_BOXES = "froc@0.5 iou>0.1", "best_box iou>0.1", "all_boxes iobb>0.1"


METRICS = {
    MEAN_AUC: "mean AUC",
    FROC: "FROC at 0.5 (IoU>0.1)",
    BEST_BOX: "best box (IoU>0.1)",
    ALL_BOXES: "all boxes (IoBB>0.1)",
}
"""The figures that methods are compared by. FROC at 0.5 is the accuracy at half a false positive per image and finding;
the last is the paper's measure, which boxes can buy, and nothing is ranked by it."""


COSTS = {metric: f"{metric} false_positives_per_image" for metric in (BEST_BOX, ALL_BOXES)}
"""What an accuracy was bought with: false positives per image and finding. FROC at 0.5 has them in its name."""


FIGURES = {
    MEAN_AUC: METRICS[MEAN_AUC],
    MEAN_AVERAGE_PRECISION: "mean average precision",
    FROC: METRICS[FROC],
    BEST_BOX: METRICS[BEST_BOX],
    COSTS[BEST_BOX]: "its false positives",
    ALL_BOXES: METRICS[ALL_BOXES],
    COSTS[ALL_BOXES]: "their false positives",
}
"""The figures whose draws are kept, so that methods are paired in them."""


CLASSIFIED = (MEAN_AUC, MEAN_AVERAGE_PRECISION)


PAIRS = ((MULTIRES, STANDARD), (REFINED, MULTIRES))
"""Which models are compared with which: what the resolution brings, and what the PCM brings."""


NOT_MEASURED = {"value": None, "low": None, "high": None}


def save_results(results: Mapping[str, Any], path: Path | str) -> None:
    """Write `results.json`; a bootstrap's draws stand on one line each."""
    outer = {key: value for key, value in results.items() if key != "samples"}
    lines = [
        f"  {json.dumps(method)}: {{\n"
        + ",\n".join(f"   {json.dumps(m)}: {json.dumps(values, allow_nan=False)}" for m, values in draws.items())
        + "\n  }"
        for method, draws in results["samples"].items()
    ]
    text = json.dumps(outer, indent=1, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text.removesuffix("\n}") + ',\n "samples": {\n' + ",\n".join(lines) + "\n }\n}\n")


def load_results(path: Path | str) -> dict[str, Any]:
    """Read `results.json`.

    Raises:
        InputError: it is missing, unreadable, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no {path}; run notebook 04 (or python -m cxr_seam evaluate) first")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); evaluate again") from error
    found = results.get("format") if isinstance(results, dict) else None
    if found != FORMAT:
        raise InputError(f"{path} has format {found}, this version reads {FORMAT}; evaluate again")
    return results


def get_estimate(results: Mapping[str, Any], method: str, figure: str) -> dict[str, float | None]:
    """The measured value of one of `FIGURES`; `NOT_MEASURED` where the method has none (a control has no AUC)."""
    if figure in CLASSIFIED:
        scores = results["classification"].get(method)
        return scores["mean"][figure.removeprefix("mean_")] if scores else NOT_MEASURED
    scores = results["localization"].get(method)
    return NOT_MEASURED if scores is None else get_score(scores, figure)


def get_score(scores: Mapping[str, Any], figure: str) -> dict[str, float | None]:
    """The measured value of a figure of localization, from the scores of one method (`localization_scores`)."""
    kind, measure, *column = figure.split(" ")
    if figure == FROC:
        return scores["froc"][measure]["at"]["0.5"]["macro"]
    return scores[kind][measure]["macro"][column[0] if column else "accuracy"]


def false_positives(results: Mapping[str, Any], method: str, metric: str) -> float | None:
    """What the accuracy of the best box or of all boxes was bought with: the value of its `COSTS`."""
    return get_estimate(results, method, COSTS[metric])["value"]


def paired_differences(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Differences with their paired intervals: of each of `PAIRS` that was evaluated, in each of `FIGURES`.

    And of the best model and the best control that has not seen boxes, by the rule of the `ranking`, in the figures of
    localization. Both are picked by the films that they are compared on; the interval does not tell of the picking.
    """
    pairs = {pair: tuple(FIGURES) for pair in PAIRS if all(name in results["localization"] for name in pair)}
    best: dict[str, str] = {}
    for row in ranking(results):
        if results["localization"][row["method"]]["note"] != SEEN_BOXES:
            best.setdefault(row["kind"], row["method"])
    if MODEL in best and CONTROL in best:
        pairs[best[MODEL], best[CONTROL]] = tuple(figure for figure in FIGURES if figure not in CLASSIFIED)
    return {
        f"{first} - {second}": {
            figure: _difference((results, first), (results, second), figure, paired=True) for figure in figures
        }
        for (first, second), figures in pairs.items()
    }


def _difference(
    first: tuple[Mapping[str, Any], str], second: tuple[Mapping[str, Any], str], figure: str, *, paired: bool
) -> dict[str, float | None]:
    """First minus second as a measured value; without an interval where the draws are not paired."""
    values = [get_estimate(*side, figure)["value"] for side in (first, second)]
    draws = [results["samples"].get(method, {}).get(figure) for results, method in (first, second)]
    if paired and None not in draws:
        return difference(*draws, *values)
    return NOT_MEASURED | {"value": None if None in values else values[0] - values[1]}


def ranking(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All methods, best first: by FROC at 0.5 false positives, then by the best box; never by accuracy alone.

    Methods without a value come last. Equal ones share a rank, the next one's is lower by their number, and they keep
    the order in which they were evaluated.
    """

    def merit(method: str) -> tuple[float, float]:
        values = (get_estimate(results, method, metric)["value"] for metric in (FROC, BEST_BOX))
        return tuple(math.inf if value is None else -value for value in values)

    merits = sorted(merit(method) for method in results["localization"])
    return [
        {
            "rank": 1 + merits.index(merit(method)),
            "method": method,
            "kind": results["localization"][method]["kind"],
            FROC: get_estimate(results, method, FROC),
            BEST_BOX: get_estimate(results, method, BEST_BOX),
            "false_positives_per_image": get_estimate(results, method, COSTS[BEST_BOX]),
        }
        for method in sorted(results["localization"], key=merit)
    ]


def format_estimate(value: Mapping[str, float | None], *, digits: int = 3) -> str:
    """A measured value in words, its ends as exact as itself: "0.687 (0.610-0.745)"; "" where it is not defined."""
    if value["value"] is None:
        return ""
    # adding 0.0 to a rounded number keeps "-0.000" from being printed
    text, low, high = (
        "" if number is None else f"{round(number, digits) + 0.0:.{digits}f}"
        for number in (value["value"], value["low"], value["high"])
    )
    return f"{text} ({low}{' to ' if '-' in low + high else '-'}{high})" if low else text


def summary_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """The few numbers one looks at first, a row for each method in the order of the ranking.

    Columns, as text with 95 % intervals: mean AUC; FROC, the accuracy at half a false positive per image and finding;
    accuracy of the single best box at IoU > 0.1; and of all boxes at the paper's IoBB > 0.1. Accuracies are macro
    over the boxed findings that occur; each stands with its false positives per image and finding.
    """
    rows = {}
    for row in results["ranking"]:
        method = row["method"]
        rows[method] = {
            METRICS[metric]: format_estimate(get_estimate(results, method, metric)) for metric in (MEAN_AUC, FROC)
        }
        for metric, cost in ((BEST_BOX, "its false positives"), (ALL_BOXES, "their false positives")):
            rows[method][METRICS[metric]] = format_estimate(get_estimate(results, method, metric))
            rows[method][cost] = f"{false_positives(results, method, metric):.3f}"
    return pd.DataFrame.from_dict(rows, orient="index")


def difference_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """The paired differences as text, a row a pair; beside each accuracy's stands that of its false positives.

    More false positives are worse: an accuracy that rises with them may have been bought.
    """
    rows = {
        pair: {FIGURES[figure]: format_estimate(value) for figure, value in differences.items()}
        for pair, differences in results["differences"].items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(FIGURES.values())).fillna("")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two evaluations side by side.

    Attributes:
        table: index (method, metric) that both hold; columns `first`, `second`, `second - first`, as text. The
            difference has its interval where it is paired.
        paired: whether films, true boxes and draws agree, by metric: "classification" and "localization".
        reason: in a sentence, whether they are paired and why not.
    """

    table: pd.DataFrame
    paired: dict[str, bool]
    reason: str


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    """Compare two results by method and metric.

    Where both were measured on the same films with the same draws of patients, draw by draw, the difference has a
    paired 95 % interval; elsewhere it has none, since the two intervals alone do not tell it.

    Raises:
        InputError: they have no method in common, or one lacks or garbles an entry.
    """
    _refuse_damaged(first, "first")
    _refuse_damaged(second, "second")
    same_draws = all(first[key] == second[key] for key in ("draws", "seed"))
    paired = {
        kind: same_draws and first["data"][digest] == second["data"][digest]
        for kind, digest in (("classification", "test_sha256"), ("localization", "boxed_sha256"))
    }
    rows = {}
    for method in first["localization"]:
        for metric in (*METRICS, MEAN_AVERAGE_PRECISION):
            sides = [get_estimate(results, method, metric) for results in (first, second)]
            if None in [side["value"] for side in sides]:
                continue
            kind = "classification" if metric in CLASSIFIED else "localization"
            gained = _difference((second, method), (first, method), metric, paired=paired[kind])
            row = {
                "first": format_estimate(sides[0]),
                "second": format_estimate(sides[1]),
                "second - first": format_estimate(gained),
            }
            if metric in COSTS:
                costs = [false_positives(results, method, metric) for results in (first, second)]
                row["false positives"] = f"{costs[0]:.3f}, {costs[1]:.3f}"
            rows[method, FIGURES[metric]] = row
    if not rows:
        raise InputError("the two results have no method in common; compare results of the same kind of models")
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    return Comparison(table, paired, _reason(paired, same_draws=same_draws))


def _refuse_damaged(results: Mapping[str, Any], which: str) -> None:
    """Read off once all that is compared."""
    try:
        for key in ("draws", "seed"):
            int(results[key])
        for key in ("test_sha256", "boxed_sha256"):
            str(results["data"][key])
        for method in results["localization"]:
            for figure in FIGURES:
                format_estimate(get_estimate(results, method, figure))
            for draws in results["samples"].get(method, {}).values():
                pd.array(draws, dtype="Float64")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the {which} results are damaged ({type(error).__name__} {error}); evaluate again or name another file"
        ) from error


def _reason(paired: Mapping[str, bool], *, same_draws: bool) -> str:
    """Whether the differences are paired, in a sentence."""
    if all(paired.values()):
        return "Paired: same films, same true boxes, same draws of patients; intervals are those of the difference."
    if not same_draws:
        return "Not paired: the draws of the bootstrap differ; differences stand without an interval."
    films = {"classification": "the test films", "localization": "the boxed films or their boxes"}
    wrong = " and ".join(films[kind] for kind, same in paired.items() if not same)
    return f"Not paired: {wrong} differ; differences of what was measured on them stand without an interval."
