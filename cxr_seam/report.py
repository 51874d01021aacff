"""The tables of the paper, as a notebook shows them: counts, recipes, histories, and Tables 1 to 3 from results."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from . import __version__
from .errors import InputError
from .evaluation import MULTIRES, PACKAGES, REFINED, STANDARD
from .findings import BOXED_FINDINGS, FINDINGS, NO_FINDING
from .hardware import find_hardware
from .nih import NihTables
from .recipes import Recipe, recipe_to_dict
from .store import Store
from .training import history_path, read_history

KINDS = ("all_boxes", "best_box")


def count_labels(tables: NihTables, store: Store) -> pd.DataFrame:
    """Count the images at hand by finding.

    Returns:
        Index: the 14 findings, "No Finding", "images". Columns: `train_val` and `test` (images of the official lists)
        and `boxes` (true boxes). An image with several findings counts for each of them.
    """
    at_hand = tables.images[tables.images.index.isin(store.image_index)]
    counts = {}
    for column, names in (("train_val", tables.train_val), ("test", tables.test)):
        labels = at_hand.loc[at_hand.index.isin(names), list(FINDINGS)]
        counts[column] = pd.Series({**labels.sum(), NO_FINDING: (labels.sum(axis=1) == 0).sum(), "images": len(labels)})
    boxes = tables.boxes[tables.boxes["image_index"].isin(store.image_index)]
    counts["boxes"] = boxes["finding"].value_counts()
    table = pd.DataFrame(counts, index=[*FINDINGS, NO_FINDING, "images"])
    table.loc["images", "boxes"] = boxes["image_index"].nunique()
    return table.fillna(0).astype(int)


def recipe_table(family: Sequence[Recipe]) -> pd.DataFrame:
    """Every field of some recipes, one column a recipe; "" where a recipe has no such phase."""
    # Columns of objects, or a missing phase would turn the others' whole numbers into floats.
    columns = {r.name: pd.json_normalize(recipe_to_dict(r)).astype(object).iloc[0].dropna() for r in family}
    return pd.DataFrame(columns, dtype=object).reindex(_in_order(columns)).drop("name").fillna("")


def _in_order(columns: dict[str, pd.Series]) -> list[str]:
    """The names of all rows, each once, in the order in which they first appear."""
    return list(dict.fromkeys(name for column in columns.values() for name in column.index))


def family_histories(family: Sequence[Recipe], folder: Path | str) -> dict[str, list[dict[str, Any]]]:
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


def classification_frame(results: dict[str, Any]) -> pd.DataFrame:
    """Table 1: AUC by finding and model, with the mean; NaN where it is not defined.

    The model with PCM is left out: the PCM refines maps and leaves the probabilities as they are (Sect. 4.1).
    """
    columns = {}
    for model, scores in results["classification"].items():
        aucs = {finding: row["auc"] for finding, row in scores["findings"].items()}
        columns[model] = pd.Series({**aucs, "Mean": scores["mean_auc"]}, dtype=float)
    table = pd.DataFrame(columns)
    return table.drop(columns=REFINED) if {MULTIRES, REFINED} <= set(table) else table


def localization_frame(results: dict[str, Any], *, kind: str = "all_boxes", score: str = "iobb>0.1") -> pd.DataFrame:
    """Tables 2 and 3 in one: what each method gets right, and the false positives that it costs.

    Args:
        results: of `evaluation.evaluate`.
        kind: "all_boxes" as in the paper, or "best_box", the single best box of each image and finding.
        score: such as "iobb>0.1" or "iou>0.1".

    Returns:
        Two rows a method, "accuracy" and "false positives" (mean number on an image), and a column for
        each boxed finding and for the mean over them ("macro").

    Raises:
        InputError: the results hold no such score.
    """
    rows = {}
    for method, scores in results["localization"].items():
        if kind not in KINDS or score not in scores[kind]:
            known = ", ".join(scores["all_boxes"])
            raise InputError(f"no score {kind!r}, {score!r}; choose one of {', '.join(KINDS)} and one of {known}")
        for name, column in (("accuracy", "accuracy"), ("false positives", "false_positives_per_image")):
            rows[method, name] = {key: scores[kind][score][key][column] for key in (*BOXED_FINDINGS, "macro")}
    return pd.DataFrame.from_dict(rows, orient="index").astype(float).round(3)


def installed_versions() -> pd.DataFrame:
    """The versions that a result depends on, and the device it was computed on."""
    hardware = find_hardware()
    rows = {
        "cxr_seam": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "device": "CPU" if hardware.device == "cpu" else hardware.name,
    }
    return pd.DataFrame({"version": rows})
