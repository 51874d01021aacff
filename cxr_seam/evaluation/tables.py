"""Tables 1 to 4 with our column beside the paper's, Wang et al.'s and the best published ones.

A row compares only where split and metric are the same. Ours do where all of the official test list was evaluated;
`comparability_note` says so in a sentence, and what does not compare is never ranked.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import __version__
from ..device import select_device
from ..errors import InputError
from ..findings import BOXED_FINDINGS, FINDINGS
from ..models.checkpoint import history_path, read_history
from ..models.multires import PAPER_PARAMETERS, build_model, count_parameters
from ..recipes import Recipe, recipe_to_dict
from .evaluate import PACKAGES
from .published import (
    BOXED,
    BOXES_OF_FINDING,
    OFFICIAL,
    PAPER,
    PAPER_ACCURACY,
    PAPER_AUC,
    PAPER_BOXED_IMAGES,
    PAPER_BOXES,
    PAPER_FALSE_POSITIVES,
    PAPER_MILLISECONDS,
    TABLE_1_COLUMNS,
    WANG_ACCURACY,
    WANG_FALSE_POSITIVES_PER_BOX,
    Published,
    rows_of,
)
from .results import MULTIRES, REFINED, STANDARD, format_estimate, get_estimate

OFFICIAL_TEST = {"test_images": 25_596, "test_patients": 2_797}


OFFICIAL_BOXES = {"boxed_images": PAPER_BOXED_IMAGES, "true_boxes": PAPER_BOXES}


KINDS = ("all_boxes", "best_box", "gated_boxes")


HERE, WANG, CITED = "here", "Wang et al. 2017", "cited by the paper"


NOT_COMPARABLE = "NOT COMPARABLE"


OTHER_SPLIT = "MobileNetV2 [25]"


ACCURACY, COUNT = "accuracy", "false positives"


PER_IMAGE, PER_BOX = "false positives per image", "false positives per box"


OWN_COST, WANGS_COST, NO_COST = "per image and finding", "per box; at hand for >0.1 only", "not printed"


def is_official(results: Mapping[str, Any], *, boxed: bool = False) -> bool:
    """Whether all of the official test list was evaluated; with `boxed`, all 880 boxed images with their 984 boxes."""
    wanted = OFFICIAL_BOXES if boxed else OFFICIAL_TEST
    return all(results["data"][key] == count for key, count in wanted.items())


def comparability_note(results: Mapping[str, Any]) -> str:
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
    return _joined(HERE, "" if is_official(results, boxed=boxed) else NOT_COMPARABLE)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


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
        columns[here, model] = [format_estimate(value) or "not defined" for value in values]
    for number, name in enumerate(TABLE_1_COLUMNS):
        source = CITED if "[" in name else PAPER
        if name == OTHER_SPLIT:
            source = f"{CITED}; {NOT_COMPARABLE}"
        columns[source, name] = [f"{row[number]:.3f}" for row in PAPER_AUC.values()]
    order = sorted(columns, key=lambda key: (here, PAPER, CITED, f"{CITED}; {NOT_COMPARABLE}").index(key[0]))
    return pd.DataFrame(columns, index=list(PAPER_AUC))[order]


def localization_comparison(
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
        Index (where measured, method, quantity): accuracy (ours with 95 % intervals), the count of false positives,
        and these per image and per box. Columns: the boxed findings, the mean over them ("macro") and all boxes alike
        ("micro"; of false positives the sum). Text; "" where not defined or not printed. Counts and micro values of
        the published follow from their cells and the boxes of each finding.

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
        cells = {**table["findings"], "macro": table["macro"], "micro": table["micro"]}
        rows[here, method, ACCURACY] = {key: format_estimate(cell["accuracy"]) for key, cell in cells.items()}
        counted = {key: f"{cell['false_positives']:,}" for key, cell in cells.items()}
        rows[here, method, COUNT] = counted | {"macro": ""}
        for name, column in ((PER_IMAGE, "false_positives_per_image"), (PER_BOX, "false_positives_per_box")):
            rows[here, method, name] = {key: _plain(cell[column]["value"]) for key, cell in cells.items()}
    if published and kind == "all_boxes":
        rows |= _published_boxes(score)
    columns = [*BOXED_FINDINGS, "macro", "micro"]
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows), columns=columns).fillna("")


def _published_boxes(score: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """The rows that the paper and Wang et al. print for a score, false positives with them."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    boxes = np.array(list(BOXES_OF_FINDING.values()))

    def add(source: str, method: str, accuracy: Sequence[float], quotient: str, cost: Sequence[float]) -> None:
        parts = PAPER_BOXED_IMAGES if quotient == PER_IMAGE else PAPER_BOXES
        counts = [round(value * parts) for value in cost]  # both sources print count / parts
        micro = float(np.dot(accuracy, boxes) / boxes.sum())
        rows[source, method, ACCURACY] = _cells([*map(_plain, (*accuracy, float(np.mean(accuracy)), micro))])
        rows[source, method, COUNT] = _cells([*(f"{count:,}" for count in counts), "", f"{sum(counts):,}"])
        rows[source, method, quotient] = _cells([*map(_plain, (*cost, float(np.mean(cost)), float(np.sum(cost))))])

    if score == "iobb>0.1":
        for method, values in PAPER_ACCURACY.items():
            add(PAPER, method, values, PER_IMAGE, PAPER_FALSE_POSITIVES[method])
    if score in WANG_ACCURACY:
        add(WANG, "ResNet50", WANG_ACCURACY[score], PER_BOX, WANG_FALSE_POSITIVES_PER_BOX[score])
    return rows


def _cells(texts: Sequence[str]) -> dict[str, str]:
    return dict(zip([*BOXED_FINDINGS, "macro", "micro"], texts, strict=True))


def table_4() -> pd.DataFrame:
    """Table 4: parameters counted here, and the paper's inference times, also as ratios to its standard models.

    Times measured here, and how to measure them, stand in docs/performance.md.

    Returns:
        Index: the four models. Milliseconds depend on the machine, their ratio less so.
    """
    rows = {}
    for name, printed in PAPER_PARAMETERS.items():
        with torch.device("meta"):  # shapes are enough to count
            counted = count_parameters(build_model(name, weights="none"))
        standard = name.removeprefix("multires_")
        rows[name] = {
            "parameters here": f"{counted:,}",
            "paper": f"{printed:,}",
            "ratio of times in the paper": f"{PAPER_MILLISECONDS[name] / PAPER_MILLISECONDS[standard]:.2f}",
            "ms in the paper (P100)": f"{PAPER_MILLISECONDS[name]:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def mean_auc_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """Published mean AUCs and ours in one list, ranked where they compare; equal printed values share a rank.

    Returns:
        Columns `rank` ("-" where a row does not compare), `model`, `source`, `split`, `mean AUC`, `note`, which begins
        with NOT COMPARABLE where a row does not compare.
    """
    rows = [
        (row.comparable, row.values["mean"], row.name, row.source, row.split, row.printed("mean"), row.note)
        for row in rows_of("mean AUC")
    ]
    official = is_official(results)
    split = OFFICIAL if official else f"{results['data']['test_images']:,} films"
    for model in results["classification"]:
        value = get_estimate(results, model, "mean_auc")
        if value["value"] is not None and not (model == REFINED and MULTIRES in results["classification"]):
            defined = results["classification"][model]["mean"]["findings_defined"]
            note = "" if defined == len(FINDINGS) else f"over {defined} findings"
            # ranked by what is printed, or digits that nobody sees would decide
            rows.append(
                (official and not note, round(value["value"], 3), model, HERE, split, format_estimate(value), note)
            )
    rows.sort(key=lambda row: (not row[0], -row[1]))
    values = [value for compares, value, *_ in rows if compares]
    return pd.DataFrame(
        [
            (str(values.index(value) + 1), *texts, note) if compares else ("-", *texts, _joined(NOT_COMPARABLE, note))
            for compares, value, *texts, note in rows
        ],
        columns=["rank", "model", "source", "split", "mean AUC", "note"],
    )


def accuracy_table(results: Mapping[str, Any], measure: str) -> pd.DataFrame:
    """Published macro accuracies and ours by threshold, for "iobb" or "iou". Not ranked: most print no false positives.

    Returns:
        Columns `model`, `source`, `split`, a column a threshold with cells such as "0.420 at 0.930", an accuracy at the
        false positives that it costs; `false positives`, what these are divided by, or "not printed"; `note`, which
        begins with NOT COMPARABLE where a row does not compare.
    """
    official = is_official(results, boxed=True)
    split = BOXED if official else f"{results['data']['boxed_images']:,} films"
    thresholds = list(dict.fromkeys(t for row in rows_of(measure) for t in row.values))
    rows = []
    for method, scores in results["localization"].items():
        cells = [scores["all_boxes"][f"{measure}>{t}"]["macro"] for t in thresholds]
        values = [
            _at(format_estimate(cell["accuracy"]), _plain(cell["false_positives_per_image"]["value"])) for cell in cells
        ]
        note = _joined("" if official else NOT_COMPARABLE, scores["note"])
        rows.append((method, HERE, split, *values, OWN_COST, note))
    for row in rows_of(measure):
        costs, what = _published_cost(row)
        values = [_at(row.printed(t), costs.get(t, "")) for t in thresholds]
        note = _joined("" if row.comparable else NOT_COMPARABLE, row.note)
        rows.append((row.name, row.source, row.split, *values, what, note))
    return pd.DataFrame(
        rows, columns=["model", "source", "split", *(f">{t}" for t in thresholds), "false positives", "note"]
    )


def _at(accuracy: str, cost: str) -> str:
    return f"{accuracy} at {cost}" if accuracy and cost else accuracy


def _published_cost(row: Published) -> tuple[dict[str, str], str]:
    """The false positives that a row prints beside its accuracy by threshold, mean over findings, and their unit."""
    if row.source == PAPER:
        return {"0.1": _plain(float(np.mean(PAPER_FALSE_POSITIVES[row.name])))}, OWN_COST
    if row.source == WANG:
        return {"0.1": _plain(float(np.mean(WANG_FALSE_POSITIVES_PER_BOX[f"{row.metric}>0.1"])))}, WANGS_COST
    return {}, NO_COST


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


NOT_INSTALLED = "not installed"


POINTING = (
    "The pointing game asks whether the maximum of the map lies in a true box; of the controls, random maps among "
    "them, it asks where the centre of the best box lies."
)
"""To stand beside `froc_table`."""


def recipe_table(family: Sequence[Recipe]) -> pd.DataFrame:
    """Every field of some recipes, one column a recipe; "" where a recipe has no such phase."""
    # Columns of objects, or a missing phase would turn the others' whole numbers into floats.
    columns = {r.name: pd.json_normalize(recipe_to_dict(r)).astype(object).iloc[0].dropna() for r in family}
    return pd.DataFrame(columns, dtype=object).reindex(_in_order(columns)).drop("name").fillna("")


def _in_order(columns: dict[str, pd.Series]) -> list[str]:
    """The names of all rows, each once, in the order in which they first appear."""
    return list(dict.fromkeys(name for column in columns.values() for name in column.index))


def load_histories(family: Sequence[Recipe], folder: Path | str) -> dict[str, list[dict[str, Any]]]:
    """The histories of a family's models, or of its first two, as `plots.plot_loss_curves` takes them.

    The PCM's epochs follow those of its backbone, as in Fig. 5; models not yet trained are left out.

    Raises:
        InputError: none has been trained in `folder`.
    """
    standard, multires, *refined = family
    trained = {r.name: read_history(folder, r.name) for r in family if history_path(Path(folder), r.name).exists()}
    if not trained:
        raise InputError(f"no model has been trained in {folder}; run the cells above (or notebook 02) first")
    histories = {STANDARD: trained.get(standard.name), MULTIRES: trained.get(multires.name)}
    if histories[MULTIRES] and refined and refined[0].name in trained:
        histories[REFINED] = histories.pop(MULTIRES) + trained[refined[0].name]
    return {model: history for model, history in histories.items() if history}


def installed_versions() -> pd.DataFrame:
    """The versions that a result depends on, and the device it was computed on."""
    hardware = select_device()
    rows = {
        "cxr_seam": __version__,
        "python": platform.python_version(),
        **{name: _installed(name) for name in PACKAGES},
        "device": "CPU" if hardware.device == "cpu" else hardware.name,
    }
    return pd.DataFrame({"version": rows})


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def bootstrap_note(results: Mapping[str, Any]) -> str:
    """Say on how many draws the intervals of means over findings rest, "" where it is all that were made."""
    made = results["draws"]
    counts = {
        "classification": [scores["mean"]["num_valid"] for scores in results["classification"].values()],
        "localization": [s["all_boxes"]["iobb>0.1"]["macro"]["num_valid"] for s in results["localization"].values()],
    }
    fewer = [f"{min(used):,} for {what}" for what, used in counts.items() if used and min(used) < made]
    if not fewer:
        return ""
    return (
        f"Of {made:,} draws of patients, those that lack a finding define no mean over the findings. Intervals of such "
        f"means rest on the others: {', '.join(fewer)}; none is given where these are less than half."
    )


def operating_point_table(results: Mapping[str, Any], model: str) -> pd.DataFrame:
    """What a model's probabilities are worth by finding, with 95 % intervals as text.

    Columns: positive films; average precision; and at the threshold that was chosen on the validation films
    sensitivity, specificity and F1. "not defined" where there is no positive or no negative film, or no threshold.
    """
    rows = {}
    for finding, row in results["classification"][model]["findings"].items():
        threshold = "not defined" if row["threshold"] is None else f"{row['threshold']:.3f}"
        rows[finding] = {"positive films": f"{row['positives']:,}", "threshold": threshold}
        for key in ("average_precision", "sensitivity", "specificity", "f1"):
            rows[finding][key.replace("_", " ").replace("f1", "F1")] = format_estimate(row[key]) or "not defined"
    return pd.DataFrame.from_dict(rows, orient="index")


def froc_table(results: Mapping[str, Any], *, score: str = "iou>0.1") -> pd.DataFrame:
    """Accuracy at 0.25, 0.5 and 1 false positive per image and finding, macro, and the pointing game.

    Best method first. The pointing game has no false positives: one point for each film and finding with a true box.
    For controls, random maps among them, that point is not a map's maximum but the centre of the best box.
    """
    rows = {}
    for row in results["ranking"]:
        scores = results["localization"][row["method"]]
        cells = {f"at {x}": format_estimate(at["macro"]) for x, at in scores["froc"][score]["at"].items()}
        game = scores["pointing_game"]
        rows[row["method"]] = {
            "kind": row["kind"],
            **cells,
            "pointing game": format_estimate(game["macro"]) if game else "",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def checkpoint_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """Where the models come from, a row a checkpoint."""
    rows = {}
    for name, metadata in results["checkpoints"].items():
        metrics = {key: f"{value:.3f}" for key, value in metadata["metrics"].items() if isinstance(value, float)}
        model = {
            "models": ", ".join(metadata["models"]),
            "backbone": metadata["recipe"]["model"],
            "epoch": metadata["epoch"],
        }
        rows[name] = {**model, **metrics, "SHA-256": metadata["sha256"]}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").astype(str)
