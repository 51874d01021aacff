"""Format results (the content of results.json) as tables of text, ready for a notebook or a report.

Data: `splits`, `labels`.
Overview: `summary`, `differences`, `comparability`, `bootstrap_note`.
Classification: `table_1`, `mean_auc`, `operating_points`, `calibration`.
Localization: `table_2`, `table_3`, `froc`, `masks`, `accuracy_by_threshold`.
Models and training: `table_4`, `recipe_table`, `training_table`, `load_histories`, `checkpoints`, `versions`.
One image: `scores`.

Tables 1 to 4 show our values beside those of the paper, Wang et al. and others. Values compare only where the test
split and the metric are the same; ours do if the whole official test list was evaluated. Others are marked and never
ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.split import label_counts
from ..device import installed_versions
from ..errors import InputError, count_of
from ..findings import BOXED_FINDINGS, FINDINGS, OPERATING_POINTS
from ..inference.predictor import Prediction
from ..inference.scores import check_operating_point
from ..models.build import PAPER_PARAMETERS, build_model, count_parameters
from ..models.checkpoint import history_path, read_history
from ..recipes import Recipe, recipe_to_dict
from ..workspace import Workspace
from .published import (
    BOXED,
    BOXES_OF_FINDING,
    OFFICIAL,
    PAPER,
    PAPER_BOXED_IMAGES,
    PAPER_BOXES,
    WANG,
    literature,
    paper_milliseconds,
    printed_cells,
    printed_values,
)
from .results import (
    MULTIRES,
    REFINED,
    STANDARD,
    TITLES,
    format_estimate,
    format_metric,
    format_value,
    summary_metrics,
)

OFFICIAL_TEST = {"test_images": 25_596, "test_patients": 2_797}
OFFICIAL_BOXES = {"boxed_images": PAPER_BOXED_IMAGES, "true_boxes": PAPER_BOXES}

HERE, CITED, NOT_COMPARABLE = "here", "cited by the paper", "NOT COMPARABLE"

PER_IMAGE, PER_BOX = "false_positives_per_image", "false_positives_per_box"

NO_BOXES = "Localization: not measured, because the test images have no true boxes of the evaluated findings."

NOT_EVALUATED = {
    "findings_without_labels": "The dataset has no labels of these findings of the models: {}.",
    "findings_not_predicted": "The models do not predict these findings of the dataset: {}.",
    "boxes_outside_test": "True boxes of images outside the test list were left out: {}.",
}
"""Keys of `data` in the results, with the sentence of `comparability`."""


def splits(run: Workspace) -> pd.DataFrame:
    """Count images and patients of each split of a run with prepared images."""
    metadata = run.metadata()
    patients, boxed = metadata.images["patient_id"], set(metadata.boxes["image_index"])
    train_set, val_set = run.train_val_datasets(run.recipes[0])
    test = run.test_dataset().image_index
    images = {"training": train_set.image_index, "validation": val_set.image_index, "test": test}
    images["test, with boxes"] = [name for name in test if name in boxed]
    counts = [(len(names), patients[names].nunique()) for names in images.values()]
    return pd.DataFrame(counts, index=list(images), columns=["images", "patients"])


def labels(run: Workspace) -> pd.DataFrame:
    """Count the prepared images by finding: training and validation, test, and true boxes."""
    return label_counts(run.metadata(), run.cache())


def summary(results: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate the main metrics, a row a method, best first.

    Columns, as text with 95 % intervals: mean AUC; FROC, the accuracy at half a false positive per image and finding,
    and the accuracy of the single best box, both at IoU > 0.3; FROC at IoU > 0.1; the accuracy of all boxes at the
    paper's IoBB > 0.1; scores against outlines, if there are any. The two other accuracies have their false positives
    per image and finding. All are macro over the boxed findings. Without true boxes: the mean AUC of each model.
    """
    metrics = summary_metrics(results)
    methods = [row["method"] for row in results["ranking"]] or _classifiers(results)
    rows = {m: {TITLES[metric]: format_metric(results, m, metric) for metric in metrics} for m in methods}
    return pd.DataFrame.from_dict(rows, orient="index")


def differences(results: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate the paired differences, a row a pair of methods.

    More false positives are worse: read the difference of an accuracy together with that of its false positives.
    """
    rows = {
        f"{pair['first']} - {pair['second']}": {
            TITLES[metric]: format_estimate(value) for metric, value in pair["metrics"].items()
        }
        for pair in results["differences"]
    }
    columns = [TITLES[metric] for metric in results["metrics"]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).fillna("")


def is_official(results: Mapping[str, Any], *, boxed: bool = False) -> bool:
    """Whether the whole official test list was evaluated; with `boxed`, all 880 boxed images and their 984 boxes."""
    counts = OFFICIAL_BOXES if boxed else OFFICIAL_TEST
    return all(results["data"][key] == count for key, count in counts.items())


def comparability(results: Mapping[str, Any]) -> str:
    """Say whether the results compare with published values, and which findings or boxes were not evaluated."""
    notes = []
    for task, boxed, key, images in (
        ("Classification", False, "test_images", "images of NIH's official test list"),
        ("Localization", True, "boxed_images", "images that NIH drew boxes on"),
    ):
        count, total = results["data"][key], (OFFICIAL_BOXES if boxed else OFFICIAL_TEST)[key]
        if not count:
            notes.append(NO_BOXES)
        elif is_official(results, boxed=boxed):
            notes.append(f"{task}: all {total:,} {images} were evaluated: comparable with published values.")
        else:
            is_part = OFFICIAL in results["data"]["split"]
            why = f"instead of the {total:,} {images}" if is_part else "of another test list than NIH's official one"
            notes.append(f"{task}: {count_of(count, 'image')} {why}: {NOT_COMPARABLE}, not ranked.")
    for key, sentence in NOT_EVALUATED.items():
        if value := results["data"][key]:
            notes.append(sentence.format(", ".join(value) if isinstance(value, list) else f"{value:,}"))
    return " ".join(notes)


def bootstrap_note(results: Mapping[str, Any]) -> str:
    """Say how many bootstrap replicates the intervals of means use; "" if they use all."""
    total = results["n_bootstrap"]
    counts = {
        "classification": [scores["mean"] for scores in results["classification"].values()],
        "localization": [scores["all_boxes"]["iobb>0.1"]["macro"] for scores in results["localization"].values()],
    }
    least = {kind: min((row["n_valid_replicates"] for row in rows), default=total) for kind, rows in counts.items()}
    fewer = [f"{count:,} for {kind}" for kind, count in least.items() if count < total]
    if not fewer:
        return ""
    return (
        f"Of {total:,} bootstrap replicates, those without a patient of some finding define no mean over the findings. "
        f"Intervals of means use the others: {', '.join(fewer)}; there is no interval where these are less than half."
    )


def table_1(results: Mapping[str, Any]) -> pd.DataFrame:
    """Return Table 1: AUC by finding and mean AUC, ours with intervals, beside all columns of the paper.

    Returns:
        Index: the evaluated findings and "Mean". Columns: two levels, source and model. "not defined" where no test
        image is positive, or none negative. Printed columns are left out if none of NIH's findings was evaluated, and
        their means unless all were.
    """
    findings = results["data"]["findings"]
    columns: dict[tuple[str, str], Sequence[str]] = {}
    for model in _classifiers(results):
        scores = results["classification"][model]
        values = [*(scores["findings"][finding]["auc"] for finding in findings), scores["mean"]["auc"]]
        columns[_here(results), model] = [format_estimate(value) or "not defined" for value in values]
    printed = printed_cells("table_1", metric="auc").reindex(columns=[*findings, "mean"], fill_value="")
    if set(findings) != set(FINDINGS):  # a mean of others does not compare
        printed["mean"] = ""
    printed = printed[(printed != "").any(axis=1)]
    not_comparable = [model.name for model in literature("auc") if not model.comparable]
    for (source, name), cells in printed.iterrows():
        marked = name.split(" [")[0] in not_comparable
        columns[source if source == PAPER else _joined(CITED, NOT_COMPARABLE if marked else ""), name] = cells.tolist()
    order = {_here(results): 0, PAPER: 1, CITED: 2}
    return pd.DataFrame(columns, index=[*findings, "Mean"])[sorted(columns, key=lambda key: order.get(key[0], 3))]


def mean_auc(results: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate published mean AUCs and ours, comparable ones ranked; equal printed values share a rank.

    Published rows are left out if none of NIH's findings was evaluated.

    Returns:
        Index: model. Columns `rank` ("-" where not comparable), `source`, `split`, `mean AUC`, `note`, which begins
        with NOT COMPARABLE where a row does not compare.
    """
    published = literature("auc") if set(results["data"]["findings"]) & set(FINDINGS) else []
    rows = [
        (row.comparable, float(row.values[""]), row.name, row.source, row.split, row.values[""], row.note)
        for row in published
    ]
    official = is_official(results)
    split = OFFICIAL if official else count_of(results["data"]["test_images"], "image")
    for model in _classifiers(results):
        mean = results["classification"][model]["mean"]
        if mean["auc"]["value"] is not None:
            note = "" if mean["n_defined"] == len(FINDINGS) else f"over {mean['n_defined']} findings"
            printed = round(mean["auc"]["value"], 3)  # the digits by which it is ranked
            rows.append((official and not note, printed, model, HERE, split, format_estimate(mean["auc"]), note))
    table = pd.DataFrame(rows, columns=["comparable", "value", "model", "source", "split", "mean AUC", "note"])
    table = table.sort_values(["comparable", "value"], ascending=False).set_index("model")
    ranks = table["value"].where(table["comparable"]).rank(method="min", ascending=False)
    table.insert(0, "rank", ranks.map("{:.0f}".format, na_action="ignore").astype(object).fillna("-"))
    table["note"] = table["note"].where(table["comparable"], [_joined(NOT_COMPARABLE, note) for note in table["note"]])
    return table.drop(columns=["comparable", "value"])


def operating_points(results: Mapping[str, Any], model: str | None = None, *, point: str = "youden") -> pd.DataFrame:
    """Tabulate the decisions of a model (None = the last one) at the thresholds of the validation images.

    Args:
        results: content of results.json.
        model: name of a model.
        point: one of `findings.OPERATING_POINTS`.

    Returns:
        Index: finding. Columns: positive images, threshold of the raw score, sensitivity, specificity, F1; with 95 %
        intervals. "not defined" without a positive image, a negative image, or a threshold.

    Raises:
        InputError: the operating point is unknown.
    """
    check_operating_point(point)
    rows = {}
    for finding, row in _finding_scores(results, model).items():
        decisions = row["operating_points"][point]
        rows[finding] = {"positive images": f"{row['positives']:,}"}
        rows[finding]["threshold of the raw score"] = format_value(decisions["threshold"]) or "not defined"
        for key in ("sensitivity", "specificity", "f1"):
            rows[finding][key.replace("f1", "F1")] = format_estimate(decisions[key]) or "not defined"
    return pd.DataFrame.from_dict(rows, orient="index")


def calibration(results: Mapping[str, Any], model: str | None = None) -> pd.DataFrame:
    """Tabulate the calibrated probabilities of a model (None = the last one) on the test images.

    Returns:
        Index: finding. Columns: the positive and all validation images that the calibration was fitted to, and their
        prevalence; the prevalence of the test images and the mean calibrated probability, which is the same if the
        calibration holds; the Brier score, and that of giving the prevalence of the test images to each image, which
        knows nothing else; and the expected calibration error. Scores have 95 % intervals.
    """
    rows = {}
    for finding, row in _finding_scores(results, model).items():
        fit, positives = row["calibration"], row["positives"]
        fitted, total = fit["validation_positives"] + fit["validation_negatives"], positives + row["negatives"]
        sums = [each["images"] * each["probability"] for each in fit["bins"]]
        prevalence = positives / total if total else None
        rows[finding] = {
            "positive validation images": f"{fit['validation_positives']:,} of {fitted:,}",
            "their prevalence": format_value(fit["validation_positives"] / fitted if fitted else None),
            "test prevalence": format_value(prevalence),
            "mean probability": format_value(sum(sums) / total) if sums else "not calibrated",
            "Brier score": format_estimate(fit["brier"]),
            "Brier score of the test prevalence": format_value(
                None if prevalence is None else prevalence * (1 - prevalence)
            ),
            "calibration error (ECE)": format_estimate(fit["ece"]),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _finding_scores(results: Mapping[str, Any], model: str | None) -> dict[str, dict[str, Any]]:
    """Return the classification of each finding by a model; None = the last one."""
    return results["classification"][model or list(results["classification"])[-1]]["findings"]


def table_2(results: Mapping[str, Any], *, boxes: str = "all_boxes", overlap: str = "iobb>0.1") -> pd.DataFrame:
    """Return Table 2: the accuracy (share of true boxes that are detected) by finding, with its false positives.

    Args:
        results: content of results.json.
        boxes: "all_boxes" as in the paper, with its rows and those of Wang et al. if they report this overlap;
            "best_box" (the single best box of each image and finding) or "filtered_boxes" (of findings with a
            raw score above 0.5).
        overlap: such as "iobb>0.1" or "iou>0.3".

    Returns:
        Index: source and method. Columns: the boxed findings, their mean ("macro"), all boxes together ("micro"), and
        the macro false positives per image, "" where not printed. Printed rows are left out if other findings than
        NIH's have boxes.

    Raises:
        InputError: the results have no such boxes or overlap.
    """
    cost = "false positives per image"
    rows = {}
    for key, scores in _box_scores(results, boxes, overlap).items():
        rows[key] = {name: format_estimate(row["accuracy"]) for name, row in scores.items()}
        rows[key][cost] = format_value(scores["macro"][PER_IMAGE]["value"])
    printed = printed_values("table_2", metric="accuracy", overlap=overlap)
    micro = (printed * pd.Series(BOXES_OF_FINDING)).sum(axis=1) / PAPER_BOXES
    costs = printed_values("table_3", metric=PER_IMAGE, overlap=overlap).mean(axis=1)
    printed = printed.assign(macro=printed.mean(axis=1), micro=micro, **{cost: costs})
    return _with_printed(results, rows, [printed.map(format_value, na_action="ignore")] if boxes == "all_boxes" else [])


def table_3(
    results: Mapping[str, Any], *, boxes: str = "all_boxes", overlap: str = "iobb>0.1", counts: bool = False
) -> pd.DataFrame:
    """Return Table 3: the false positives by finding, divided by the number of images as in the paper.

    Args:
        results: content of results.json.
        boxes: see `table_2`, as is `overlap`.
        counts: show numbers, with those of Wang et al., who divide by the number of true boxes. Published counts follow
            from the printed quotients.

    Returns:
        Index: source and method. Columns: the boxed findings, their mean ("macro", "" of counts) and their sum
        ("micro").

    Raises:
        InputError: the results have no such boxes or overlap.
    """
    rows = {}
    for key, scores in _box_scores(results, boxes, overlap).items():
        if counts:
            rows[key] = {name: f"{row['false_positives']:,}" for name, row in scores.items()} | {"macro": ""}
        else:
            rows[key] = {name: format_value(row[PER_IMAGE]["value"]) for name, row in scores.items()}
    if boxes != "all_boxes":
        return _with_printed(results, rows, [])
    per_image, per_box = (printed_values("table_3", metric=m, overlap=overlap) for m in (PER_IMAGE, PER_BOX))
    if counts:
        numbers = [(per_image * PAPER_BOXED_IMAGES).round(), (per_box * PAPER_BOXES).round()]
        return _with_printed(
            results, rows, [table.assign(micro=table.sum(axis=1)).map("{:,.0f}".format) for table in numbers]
        )
    per_image = per_image.assign(macro=per_image.mean(axis=1), micro=per_image.sum(axis=1))
    return _with_printed(results, rows, [per_image.map(format_value)])


def _box_scores(results: Mapping[str, Any], boxes: str, overlap: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the scores by finding, "macro" and "micro" of each source and method."""
    kinds, tables = ("all_boxes", "best_box", "filtered_boxes"), {}
    for method, scores in results["localization"].items():
        if boxes not in kinds or overlap not in scores[boxes]:
            overlaps = ", ".join(scores["all_boxes"])
            raise InputError(f"there are no scores of {boxes!r}, {overlap!r}; use {', '.join(kinds)}; {overlaps}")
        table = scores[boxes][overlap]
        rows = {**table["findings"], "macro": table["macro"], "micro": table["micro"]}
        tables[_here(results, boxed=True), method] = rows
    return tables


def _with_printed(
    results: Mapping[str, Any], rows: Mapping[tuple[str, str], Mapping[str, str]], printed: list[pd.DataFrame]
) -> pd.DataFrame:
    """Join our rows with tables of printed values, which are left out if others than NIH's findings have boxes."""
    boxed = results["data"]["boxed_findings"]
    ours = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["source", "method"]))
    absent = [finding for finding in BOXED_FINDINGS if boxed and finding not in boxed]
    tables = [table.drop(columns=absent) for table in printed if set(boxed) <= set(BOXED_FINDINGS)]
    return pd.concat([ours, *tables]).fillna("").rename_axis(["source", "method"])


def froc(results: Mapping[str, Any], *, overlap: str = "iou>0.3") -> pd.DataFrame:
    """Tabulate the macro accuracy at 0.25, 0.5 and 1 false positive per image and finding, and the pointing game.

    Best method first. The pointing game has no false positives: each image and finding with a true box has one point,
    the maximum of the map; for baselines it is the centre of the best box.
    """
    rows = {}
    for row in results["ranking"]:
        scores = results["localization"][row["method"]]
        points = scores["froc"][overlap]["at_fp_rate"]
        game = scores["pointing_game"]
        rows[row["method"]] = {
            "type": row["type"],
            **{f"at {rate}": format_estimate(point["macro"]) for rate, point in points.items()},
            "pointing game": format_estimate(game["macro"]) if game else "",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def masks(results: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate the scores of heat maps against outlines by finding, and their mean ("macro"); models only.

    Returns:
        Index: method and metric. Empty without outlines.
    """
    rows = {}
    for method, scores in results["localization"].items():
        for metric, table in (scores["pixels"] or {}).items():
            estimates = {**table["findings"], "macro": table["macro"]}
            rows[method, metric.replace("_", " ")] = {name: format_estimate(value) for name, value in estimates.items()}
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["method", "metric"]))


def accuracy_by_threshold(results: Mapping[str, Any], measure: str) -> pd.DataFrame:
    """Tabulate published macro accuracies and ours by threshold of the measure "iobb" or "iou", not ranked.

    Published rows are left out if none of NIH's findings has true boxes.

    Returns:
        Index: model. Columns `source`, `split`; one column a threshold, such as "0.420 at 0.930", an accuracy at its
        false positives; `false positives`, their denominator, or "not printed"; `note`, which begins with NOT
        COMPARABLE where a row does not compare.
    """
    official = is_official(results, boxed=True)
    split = BOXED if official else count_of(results["data"]["boxed_images"], "image")
    published = literature(measure)
    overlaps = list(dict.fromkeys(overlap for row in published for overlap in row.values))
    rows = []
    for method, scores in results["localization"].items():
        tables = [scores["all_boxes"][overlap]["macro"] for overlap in overlaps]
        cells = [f"{format_estimate(t['accuracy'])} at {format_value(t[PER_IMAGE]['value'])}" for t in tables]
        note = _joined("" if official else NOT_COMPARABLE, scores["note"])
        rows.append((method, HERE, split, *cells, "per image and finding", note))
    costs = {
        (*key, overlap): f" at {format_value(cost)}"
        for overlap in overlaps
        for metric in (PER_IMAGE, PER_BOX)
        for key, cost in printed_values("table_3", metric=metric, overlap=overlap).mean(axis=1).items()
    }
    for row in published if set(results["data"]["boxed_findings"]) & set(BOXED_FINDINGS) else []:
        cells = [row.values.get(o, "") + costs.get((row.source, row.name, o), "") for o in overlaps]
        unit = {PAPER: "per image and finding", WANG: "per box; known for >0.1 only"}.get(row.source, "not printed")
        note = _joined("" if row.comparable else NOT_COMPARABLE, row.note)
        rows.append((row.name, row.source, row.split, *cells, unit, note))
    thresholds = [overlap.removeprefix(measure) for overlap in overlaps]
    columns = ["model", "source", "split", *thresholds, "false positives", "note"]
    return pd.DataFrame(rows, columns=columns).set_index("model")


def table_4() -> pd.DataFrame:
    """Return Table 4 of the four models: parameters counted here, and the paper's inference times with their ratios."""
    rows = {}
    milliseconds = paper_milliseconds()
    for name, printed in PAPER_PARAMETERS.items():
        with torch.device("meta"):  # shapes are enough to count
            counted = count_parameters(build_model(name, weights="none"))
        ratio = milliseconds[name] / milliseconds[name.removeprefix("multires_")]
        rows[name] = {
            "parameters here": f"{counted:,}",
            "paper": f"{printed:,}",
            "ratio of times in the paper": f"{ratio:.2f}",
            "ms in the paper (P100)": f"{milliseconds[name]:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def recipe_table(recipes: Sequence[Recipe]) -> pd.DataFrame:
    """Tabulate every field of some recipes, one column a recipe; "" where a recipe has no such stage."""
    # columns of objects, otherwise a missing stage would turn integers into floats
    columns = {r.name: pd.json_normalize(recipe_to_dict(r)).astype(object).iloc[0].dropna() for r in recipes}
    fields = dict.fromkeys(name for column in columns.values() for name in column.index)
    return pd.DataFrame(columns, dtype=object).reindex(list(fields)).drop("name").fillna("")


def training_table(history: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Tabulate a training history, a row an epoch."""
    return pd.DataFrame(history).set_index("epoch")


def load_histories(recipes: Sequence[Recipe], folder: Path | str) -> dict[str, list[dict[str, Any]]]:
    """Load the histories of the models of a preset, or of its first two, for `figures.plot_loss_curves`.

    The epochs of the PCM follow those of its backbone, as in Fig. 5; models that are not trained yet are left out.

    Raises:
        InputError: no model has been trained in `folder`.
    """
    standard, multires, *refined = recipes
    trained = {r.name: read_history(folder, r.name) for r in recipes if history_path(Path(folder), r.name).exists()}
    if not trained:
        raise InputError(f"no model has been trained in {folder}; run notebook 02 first")
    histories = {STANDARD: trained.get(standard.name), MULTIRES: trained.get(multires.name)}
    if histories[MULTIRES] and refined and refined[0].name in trained:
        histories[REFINED] = histories.pop(MULTIRES) + trained[refined[0].name]
    return {model: history for model, history in histories.items() if history}


def checkpoints(results: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate the sources of the models, a row a checkpoint."""
    rows = {}
    for name, source in results["checkpoints"].items():
        metrics = {key: format_value(value) for key, value in source["metrics"].items() if isinstance(value, float)}
        rows[name] = {
            "models": ", ".join(source["models"]),
            "backbone": source["recipe"]["model"],
            "epoch": source["epoch"],
            **metrics,
            "SHA-256": source["sha256"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").astype(str)


def scores(prediction: Prediction) -> pd.DataFrame:
    """Tabulate scores and decisions of one image, the finding with the highest raw score first.

    Returns:
        Index: finding. Columns: the raw score; the calibrated probability, NaN without one; for each operating point
        whether the finding is present, None without a threshold.
    """
    columns = {"raw score": prediction.raw_scores, "calibrated probability": prediction.probabilities}
    decisions = {f"present at {title}": prediction.decisions_at(p) for p, title in OPERATING_POINTS.items()}
    table = pd.DataFrame(columns, dtype=np.float64).join(pd.DataFrame(decisions, dtype=object))
    return table.sort_values("raw score", ascending=False).round(3)


def versions(results: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Tabulate the package versions of this installation, or of results."""
    versions = installed_versions() if results is None else results["versions"]
    return pd.DataFrame({"version": versions}).fillna("not installed")


def _classifiers(results: Mapping[str, Any]) -> list[str]:
    """List the models, without MultiRes + PCM beside MultiRes: the PCM does not change scores."""
    return [m for m in results["classification"] if m != REFINED or MULTIRES not in results["classification"]]


def _here(results: Mapping[str, Any], *, boxed: bool = False) -> str:
    """Return the source of our own rows."""
    return _joined(HERE, "" if is_official(results, boxed=boxed) else NOT_COMPARABLE)


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)
