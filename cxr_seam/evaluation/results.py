"""Write and read results.json, look up its values, rank methods and compare two evaluations.

docs/results.md describes every key. An *estimate* is a dictionary of "value", "low" and "high": a value with its 95 %
interval from a bootstrap over patients; None where it is not defined.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from ..errors import InputError
from ..io import atomic_write, open_file, user_path
from ..metrics.bootstrap import Estimate, difference
from ..metrics.froc import SUMMARY_RATE
from ..metrics.localization import MetricKey
from .schema import Results

FORMAT = 6

STANDARD, MULTIRES, REFINED = "Standard", "MultiRes", "MultiRes + PCM"
"""The three models, in the order of the columns of Fig. 7."""

MODEL, COMPARISON, BASELINE = "model", "comparison", "baseline"
"""Types of a method: a trained model; other maps of the same network (Grad-CAM); a baseline that uses no image."""

SEEN_BOXES = "has seen boxes"
"""Note of the baseline that uses true boxes; weakly supervised models are not compared with it."""

MEAN_AUC, MEAN_AVERAGE_PRECISION, FROC = "mean_auc", "mean_average_precision", "froc"

BEST_BOX, ALL_BOXES = "best_box_accuracy", "all_boxes_accuracy"

LOOSE_FROC, LOOSE_BEST_BOX = "froc_iou_0.1", "best_box_iou_0.1_accuracy"

COSTS = {
    BEST_BOX: "best_box_false_positives",
    LOOSE_BEST_BOX: "best_box_iou_0.1_false_positives",
    ALL_BOXES: "all_boxes_false_positives",
}
"""The false positives per image and finding that belong to an accuracy. FROC is read at a fixed rate of them."""

MASKS = {"mask_iou": "iou", "mask_dice": "dice", "mask_hit_rate": "hit_rate"}
"""Metrics of heat maps against outlines, with their key under `localization.METHOD.pixels`."""

TITLES = {
    MEAN_AUC: "mean AUC",
    MEAN_AVERAGE_PRECISION: "mean average precision",
    FROC: "FROC at 0.5 (IoU>0.3)",
    BEST_BOX: "best box (IoU>0.3)",
    COSTS[BEST_BOX]: "its false positives",
    LOOSE_FROC: "FROC at 0.5 (IoU>0.1)",
    LOOSE_BEST_BOX: "best box (IoU>0.1)",
    COSTS[LOOSE_BEST_BOX]: "its false positives (IoU>0.1)",
    ALL_BOXES: "all boxes (IoBB>0.1)",
    COSTS[ALL_BOXES]: "their false positives",
    **{name: f"mask {quantity.replace('_', ' ').replace('iou', 'IoU')}" for name, quantity in MASKS.items()},
}
"""Metrics by which methods are compared, with their titles. Bootstrap replicates of these are saved."""

CLASSIFICATION = {
    MEAN_AUC: MetricKey("classification", None, "auc"),
    MEAN_AVERAGE_PRECISION: MetricKey("classification", None, "average_precision"),
}
"""Metrics of classification, means over the findings."""

LOCALIZATION = {
    FROC: MetricKey("froc", "iou>0.3", at_fp_rate=SUMMARY_RATE),
    BEST_BOX: MetricKey("best_box", "iou>0.3"),
    COSTS[BEST_BOX]: MetricKey("best_box", "iou>0.3", "false_positives_per_image"),
    LOOSE_FROC: MetricKey("froc", "iou>0.1", at_fp_rate=SUMMARY_RATE),
    LOOSE_BEST_BOX: MetricKey("best_box", "iou>0.1"),
    COSTS[LOOSE_BEST_BOX]: MetricKey("best_box", "iou>0.1", "false_positives_per_image"),
    ALL_BOXES: MetricKey("all_boxes", "iobb>0.1"),
    COSTS[ALL_BOXES]: MetricKey("all_boxes", "iobb>0.1", "false_positives_per_image"),
    **{name: MetricKey("pixels", None, quantity) for name, quantity in MASKS.items()},
}
"""Metrics of localization, macro over the findings with boxes, with their place in the scores of a method."""

SUMMARY = (MEAN_AUC, FROC, BEST_BOX, LOOSE_FROC, ALL_BOXES, *MASKS)
"""The metrics of a summary, if they are measured.

More boxes raise the accuracy of all boxes (the paper's), so it never ranks methods.
"""

PAIRS = ((MULTIRES, STANDARD), (REFINED, MULTIRES))
"""Models whose differences are reported: the effect of the resolution, and the effect of the PCM."""

NOT_MEASURED: Estimate = {"value": None, "low": None, "high": None}


def metric_definitions(*, boxes: bool = True, masks: bool = False) -> dict[str, dict[str, Any]]:
    """Describe the metrics of `TITLES` that are measured, as results.json does under `metrics`.

    Args:
        boxes: whether the evaluated images have true boxes.
        masks: whether they have outlines.
    """
    keys = CLASSIFICATION | LOCALIZATION
    measured = [name for name in TITLES if name in CLASSIFICATION or (masks if name in MASKS else boxes)]
    return {name: {"title": TITLES[name], **keys[name]._asdict()} for name in measured}


def summary_metrics(results: Mapping[str, Any]) -> list[str]:
    """List the measured metrics of `SUMMARY`, with the false positives of an accuracy after it."""
    return [name for metric in SUMMARY for name in (metric, COSTS.get(metric)) if name in results["metrics"]]


def save_results(results: Mapping[str, Any], path: Path | str) -> None:
    """Write results.json, with the replicates of each metric on one line."""
    outer = {key: value for key, value in results.items() if key != "bootstrap"}
    lines = [
        f"  {json.dumps(method)}: {{\n"
        + ",\n".join(
            f"   {json.dumps(name)}: {json.dumps(values, allow_nan=False)}" for name, values in metrics.items()
        )
        + "\n  }"
        for method, metrics in results["bootstrap"].items()
    ]
    text = json.dumps(outer, indent=1, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text.removesuffix("\n}") + ',\n "bootstrap": {\n' + ",\n".join(lines) + "\n }\n}\n")


def load_results(path: Path | str) -> dict[str, Any]:
    """Read and validate results.json.

    Raises:
        InputError: it is missing, damaged, or of another format.
    """
    path = user_path(path, what="path of the results")
    try:
        with open_file(path) as file:
            results = json.load(file)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot read {path} ({reason}); run notebook 04 (or python -m cxr_seam evaluate) first"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); evaluate again") from error
    file_format = results.get("format") if isinstance(results, dict) else None
    if file_format != FORMAT:
        raise InputError(f"{path} has format {file_format}, this version reads {FORMAT}; evaluate again")
    try:
        Results.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{path} is damaged ({key}: {first['msg']}); evaluate again") from error
    return results


def get_estimate(results: Mapping[str, Any], method: str, metric: str) -> Estimate:
    """Return one metric of `TITLES`; `NOT_MEASURED` where the method has none (a baseline has no AUC)."""
    if metric in CLASSIFICATION:
        scores = results["classification"].get(method)
        return scores["mean"][CLASSIFICATION[metric].quantity] if scores else NOT_MEASURED
    scores = results["localization"].get(method)
    if not scores or (metric in MASKS and not scores["pixels"]):
        return NOT_MEASURED
    return LOCALIZATION[metric].value(scores)


def paired_differences(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compute differences with paired intervals: all measured metrics of each of `PAIRS` that was evaluated.

    The last pair is the best model and the best baseline that has not seen boxes, in the metrics of localization. The
    ranking of the same test images selected them; the interval does not include this selection bias.
    """
    measured, evaluated = results["metrics"], results["localization"] or results["classification"]
    pairs = {pair: list(measured) for pair in PAIRS if all(name in evaluated for name in pair)}
    fair = [row for row in ranking(results) if results["localization"][row["method"]]["note"] != SEEN_BOXES]
    best = {row["type"]: row["method"] for row in reversed(fair)}
    if MODEL in best and BASELINE in best:
        pairs[best[MODEL], best[BASELINE]] = [name for name in LOCALIZATION if name in measured and name not in MASKS]
    return [
        {
            "first": first,
            "second": second,
            "metrics": {name: _difference((results, first), (results, second), name, paired=True) for name in metrics},
        }
        for (first, second), metrics in pairs.items()
    ]


def _difference(
    first: tuple[Mapping[str, Any], str], second: tuple[Mapping[str, Any], str], metric: str, *, paired: bool
) -> Estimate:
    """Subtract the metric of the second results and method from that of the first; no interval unless paired."""

    def scores(results: Mapping[str, Any], method: str) -> tuple[float | None, list[float | None] | None]:
        replicates = results["bootstrap"].get(method, {}).get(metric)
        return get_estimate(results, method, metric)["value"], replicates if paired else None

    return difference(scores(*first), scores(*second))


def ranking(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rank all methods by FROC at 0.5 false positives (IoU > 0.3), then by the best box; never by all boxes.

    Methods without a value come last. Equal methods share a rank and keep the order of their evaluation.
    """

    def sort_key(method: str) -> tuple[float, ...]:
        values = (get_estimate(results, method, metric)["value"] for metric in (FROC, BEST_BOX))
        return tuple(math.inf if value is None else -value for value in values)

    keys = sorted(sort_key(method) for method in results["localization"])
    return [
        {
            "rank": 1 + keys.index(sort_key(method)),
            "method": method,
            "type": results["localization"][method]["type"],
            "metrics": {name: get_estimate(results, method, name) for name in (FROC, BEST_BOX, COSTS[BEST_BOX])},
        }
        for method in sorted(results["localization"], key=sort_key)
    ]


def format_estimate(estimate: Mapping[str, float | None]) -> str:
    """Format an estimate as text: "0.687 (0.610-0.745)"; "" where it is not defined."""
    value, low, high = (format_value(estimate[key]) for key in ("value", "low", "high"))
    return f"{value} ({low}{' to ' if '-' in low + high else '-'}{high})" if value and low else value


def format_value(value: float | None) -> str:
    """Format a number with three decimals, never "-0.000"; "" where it is not defined."""
    return "" if value is None else f"{round(float(value), 3) + 0.0:.3f}"


def format_metric(results: Mapping[str, Any], method: str, metric: str) -> str:
    """Format one metric of `TITLES`: false positives as a number, the others with their interval."""
    estimate = get_estimate(results, method, metric)
    return format_value(estimate["value"]) if metric in COSTS.values() else format_estimate(estimate)


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """Compare two results by method and metric.

    Results of the same images with the same bootstrap are paired: the difference of each replicate gives a 95 %
    interval of the difference. Otherwise there is no interval.

    Returns:
        A table of text with the index (method, metric) of all that both have and the columns `first`, `second`,
        `second - first` and `false positives`. And a sentence that says whether the results are paired, and why not.

    Raises:
        InputError: they have no method in common.
    """
    inputs = {
        "test_sha256": "the test images",
        "findings": "the findings",
        "boxed_sha256": "the boxed images or their boxes",
    }
    changed = {key for key in inputs if first["data"][key] != second["data"][key]}
    same_bootstrap = all(first[key] == second[key] for key in ("n_bootstrap", "seed"))
    rows = {}
    for method in first["classification"] | first["localization"]:
        for metric in (*SUMMARY, MEAN_AVERAGE_PRECISION):
            needed = {"test_sha256", "findings"} if metric in CLASSIFICATION else {"boxed_sha256"}
            paired = same_bootstrap and not needed & changed
            if row := _compare_metric(first, second, method, metric, paired=paired):
                rows[method, TITLES[metric]] = row
    if not rows:
        raise InputError("the two results have no method in common; compare results of the same kind of models")
    if not same_bootstrap:
        reason = "Not paired: the bootstraps differ (n_bootstrap or seed); differences have no interval."
    elif changed:
        differ = " and ".join(text for key, text in inputs.items() if key in changed)
        reason = f"Not paired: {differ} differ; differences that depend on them have no interval."
    else:
        reason = "Paired: same images, same true boxes, same bootstrap; intervals are those of the differences."
    return pd.DataFrame.from_dict(rows, orient="index").fillna(""), reason


def _compare_metric(
    first: Mapping[str, Any], second: Mapping[str, Any], method: str, metric: str, *, paired: bool
) -> dict[str, str]:
    """Return one row of a comparison; nothing where one of the two has no value."""
    estimates = [get_estimate(results, method, metric) for results in (first, second)]
    if None in [estimate["value"] for estimate in estimates]:
        return {}
    change = _difference((second, method), (first, method), metric, paired=paired)
    texts = map(format_estimate, (*estimates, change))
    row = dict(zip(("first", "second", "second - first"), texts, strict=True))
    if metric in COSTS:
        row["false positives"] = ", ".join(format_metric(r, method, COSTS[metric]) for r in (first, second))
    return row
