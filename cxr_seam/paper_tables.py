"""Tables 1 to 4 with our column beside the paper's, Wang et al.'s and the best published ones.

A row compares only where split and metric are the same. Ours do where all of the official test list was evaluated;
`standing` says so in a sentence, and what does not compare is never ranked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from .errors import InputError
from .findings import BOXED_FINDINGS, FINDINGS
from .models import PAPER_PARAMETERS, build_model, count_parameters
from .published import BOXED, OFFICIAL, PAPER, rows_of
from .published_tables import (
    PAPER_ACCURACY,
    PAPER_AUC,
    PAPER_BOXED_IMAGES,
    PAPER_BOXES,
    PAPER_FALSE_POSITIVES,
    PAPER_MILLISECONDS,
    TABLE_1_COLUMNS,
    WANG_ACCURACY,
    WANG_FALSE_POSITIVES_PER_BOX,
)
from .results import MULTIRES, REFINED, key_value, said

OFFICIAL_TEST = {"test_images": 25_596, "test_patients": 2_797}
OFFICIAL_BOXES = {"boxed_images": PAPER_BOXED_IMAGES, "true_boxes": PAPER_BOXES}
KINDS = ("all_boxes", "best_box", "gated_boxes")
HERE, WANG, CITED = "here", "Wang et al. 2017", "cited by the paper"
NOT_COMPARABLE = "NOT COMPARABLE"
OTHER_SPLIT = "MobileNetV2 [25]"
ACCURACY, PER_IMAGE, PER_BOX = "accuracy", "false positives per image", "false positives per box"
NOT_MEASURED_HERE = "not measured"


def is_official(results: Mapping[str, Any], *, boxed: bool = False) -> bool:
    """Whether all of the official test list was evaluated; with `boxed`, all 880 boxed images with their 984 boxes."""
    wanted = OFFICIAL_BOXES if boxed else OFFICIAL_TEST
    return all(results["data"][key] == count for key, count in wanted.items())


def standing(results: Mapping[str, Any]) -> str:
    """Say in a sentence or two what the results compare with."""
    data = results["data"]
    said_of = []
    for boxed, here, all_of in ((False, "test_images", OFFICIAL_TEST), (True, "boxed_images", OFFICIAL_BOXES)):
        what = "boxed images" if boxed else "films of the official test list"
        if is_official(results, boxed=boxed):
            said_of.append(f"all {all_of[here]:,} {what} were evaluated: these compare with the published ones")
        else:
            said_of.append(f"{data[here]:,} films instead of the {all_of[here]:,} {what}: {NOT_COMPARABLE}, not ranked")
    return f"Classification: {said_of[0]}. Localization: {said_of[1]}."


def _here(results: Mapping[str, Any], *, boxed: bool = False) -> str:
    """What our own rows are headed with."""
    return HERE if is_official(results, boxed=boxed) else f"{HERE}; {NOT_COMPARABLE}"


def table_1(results: Mapping[str, Any]) -> pd.DataFrame:
    """Table 1: AUC by finding with its mean, ours as text with intervals, beside all columns of the paper.

    Returns:
        Index: the 14 findings and "Mean". Columns: two levels, where measured and the model. "not defined" where the
        test films hold no positive or no negative. The model with PCM is left out where MultiRes is there: the PCM
        refines maps and leaves the probabilities as they are (Sect. 4.1).
    """
    columns: dict[tuple[str, str], list[str]] = {}
    models = list(results["classification"])
    here = _here(results)
    for model in models:
        if model == REFINED and MULTIRES in models:
            continue
        scores = results["classification"][model]
        values = [*(scores["findings"][finding]["auc"] for finding in FINDINGS), scores["mean"]["auc"]]
        columns[here, model] = [said(value) or "not defined" for value in values]
    for number, name in enumerate(TABLE_1_COLUMNS):
        source = CITED if "[" in name else PAPER
        if name == OTHER_SPLIT:
            source = f"{CITED}; {NOT_COMPARABLE}"
        columns[source, name] = [f"{row[number]:.3f}" for row in PAPER_AUC.values()]
    order = sorted(columns, key=lambda key: (here, PAPER, CITED, f"{CITED}; {NOT_COMPARABLE}").index(key[0]))
    return pd.DataFrame(columns, index=list(PAPER_AUC))[order]


def localization_frame(
    results: Mapping[str, Any], *, kind: str = "all_boxes", score: str = "iobb>0.1", published: bool = True
) -> pd.DataFrame:
    """Tables 2 and 3 in one: what each method gets right, and the false positives that it costs.

    Args:
        results: of `evaluation.evaluate`.
        kind: "all_boxes" as in the paper, "best_box", the single best box of each image and finding, or
            "gated_boxes", those of findings with a probability above 0.5.
        score: such as "iobb>0.1" or "iou>0.1".
        published: add the rows of the paper and of Wang et al. where they report this very score of all boxes.

    Returns:
        Index (where measured, method, quantity): accuracy (ours with 95 % intervals), false positives per image and
        per box. Columns: the boxed findings, and the mean over them ("macro"). Text; "" where not defined or not
        printed.

    Raises:
        InputError: the results hold no such score.
    """
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    here = _here(results, boxed=True)
    for method, scores in results["localization"].items():
        if kind not in KINDS or score not in scores[kind]:
            known = ", ".join(scores["all_boxes"])
            raise InputError(f"no score {kind!r}, {score!r}; choose one of {', '.join(KINDS)} and one of {known}")
        table = scores[kind][score]
        cells = {**table["findings"], "macro": table["macro"]}
        for name, column in (
            (ACCURACY, "accuracy"),
            (PER_IMAGE, "false_positives_per_image"),
            (PER_BOX, "false_positives_per_box"),
        ):
            values = {key: cell[column] for key, cell in cells.items()}
            rows[here, method, name] = {
                key: said(value) if name == ACCURACY else _plain(value["value"]) for key, value in values.items()
            }
    if published and kind == "all_boxes":
        rows |= _published_boxes(score)
    table = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows), columns=[*BOXED_FINDINGS, "macro"])
    return table.fillna("")


def _published_boxes(score: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """The rows that the paper and Wang et al. print for a score, false positives with them."""
    rows = {}

    def add(source: str, method: str, quantity: str, values: tuple[float, ...]) -> None:
        mean = float(np.mean(values))
        rows[source, method, quantity] = dict(
            zip([*BOXED_FINDINGS, "macro"], map(_plain, (*values, mean)), strict=True)
        )

    if score == "iobb>0.1":
        for method, values in PAPER_ACCURACY.items():
            add(PAPER, method, ACCURACY, values)
            add(PAPER, method, PER_IMAGE, PAPER_FALSE_POSITIVES[method])
    if score in WANG_ACCURACY:
        add(WANG, "ResNet50", ACCURACY, WANG_ACCURACY[score])
        add(WANG, "ResNet50", PER_BOX, WANG_FALSE_POSITIVES_PER_BOX[score])
    return rows


def table_4(latencies: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Table 4: parameters counted here, inference times as ratios to the standard model of the same backbone.

    Args:
        latencies: milliseconds for an image by recipe name, as `benchmarks/inference.py` measures them.

    Returns:
        Index: the four models. Milliseconds depend on the machine, their ratio less so.
    """
    rows = {}
    for name, printed in PAPER_PARAMETERS.items():
        with torch.device("meta"):  # shapes are enough to count
            counted = count_parameters(build_model(name, weights="none"))
        standard = name.removeprefix("multires_")
        measured = latencies and name in latencies and standard in latencies
        rows[name] = {
            "parameters here": f"{counted:,}",
            "paper": f"{printed:,}",
            "time, ratio here": f"{latencies[name] / latencies[standard]:.2f}" if measured else NOT_MEASURED_HERE,
            "ratio in the paper": f"{PAPER_MILLISECONDS[name] / PAPER_MILLISECONDS[standard]:.2f}",
            "ms in the paper (P100)": f"{PAPER_MILLISECONDS[name]:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def mean_auc_frame(results: Mapping[str, Any]) -> pd.DataFrame:
    """Published mean AUCs and ours in one list, ranked where they compare.

    Returns:
        Columns `rank` ("-" where a row does not compare), `model`, `source`, `split`, `mean AUC`, `note`.
    """
    rows = [
        (
            row.comparable,
            row.values["mean"],
            row.name,
            row.source,
            row.split,
            f"{row.values['mean']:.4f}".removesuffix("0"),
            row.note,
        )
        for row in rows_of("mean AUC")
    ]
    official = is_official(results)
    split = OFFICIAL if official else f"{results['data']['test_images']:,} films"
    for model in results["classification"]:
        value = key_value(results, model, "mean_auc")
        if value["value"] is not None and not (model == REFINED and MULTIRES in results["classification"]):
            defined = results["classification"][model]["mean"]["findings_defined"]
            note = "" if defined == len(FINDINGS) else f"over {defined} findings"
            compares = official and not note
            rows.append((compares, value["value"], model, HERE, split, said(value), note))
    rows.sort(key=lambda row: (not row[0], -row[1]))
    return pd.DataFrame(
        [(str(place) if row[0] else "-", *row[2:]) for place, row in enumerate(rows, start=1)],
        columns=["rank", "model", "source", "split", "mean AUC", "note"],
    )


def accuracy_frame(results: Mapping[str, Any], measure: str) -> pd.DataFrame:
    """Published macro accuracies and ours by threshold, for "iobb" or "iou". Not ranked: most print no false positives.

    Returns:
        Columns `model`, `source`, `split`, a column a threshold, `false positives` (ours at the lowest threshold, per
        image and finding; "not printed" elsewhere), `note`.
    """
    split = BOXED if is_official(results, boxed=True) else f"{results['data']['boxed_images']:,} films"
    thresholds = list(dict.fromkeys(t for row in rows_of(measure) for t in row.values))
    rows = []
    for method, scores in results["localization"].items():
        cells = [scores["all_boxes"][f"{measure}>{t}"]["macro"] for t in thresholds]
        cost = _plain(cells[0]["false_positives_per_image"]["value"])
        values = [said(cell["accuracy"]) for cell in cells]
        rows.append((method, HERE, split, *values, cost, scores["note"]))
    for row in rows_of(measure):
        values = [f"{row.values[t]:.3f}" if t in row.values else "" for t in thresholds]
        note = row.note if row.comparable else f"{NOT_COMPARABLE}; {row.note}"
        rows.append((row.name, row.source, row.split, *values, _printed_cost(row.name, row.source, measure), note))
    columns = ["model", "source", "split", *(f">{t}" for t in thresholds), f"false positives at >{thresholds[0]}"]
    return pd.DataFrame(rows, columns=[*columns, "note"])


def _printed_cost(name: str, source: str, measure: str) -> str:
    """The false positives that a published row prints beside its accuracy, mean over the findings."""
    if source == PAPER and measure == "iobb":
        return _plain(float(np.mean(PAPER_FALSE_POSITIVES[name])))
    if source == WANG:
        return f"{np.mean(WANG_FALSE_POSITIVES_PER_BOX[f'{measure}>0.1']):.3f} per box"
    return "not printed"


def _printed(value: float) -> str:
    """Three digits, or four where the source has them."""
    return f"{value:.4f}".removesuffix("0")


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
