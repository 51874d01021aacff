"""What stands beside the results: counts of the data, recipes, histories, versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from . import __version__
from .errors import InputError
from .evaluation import PACKAGES
from .findings import FINDINGS, NO_FINDING
from .hardware import find_hardware
from .nih import NihTables
from .recipes import Recipe, recipe_to_dict
from .results import MULTIRES, REFINED, STANDARD, said
from .store import Store
from .training import history_path, read_history

NOT_INSTALLED = "not installed"
POINTING = (
    "The pointing game asks whether the maximum of the map lies in a true box; of the controls, random maps among "
    "them, it asks where the centre of the best box lies."
)
"""To stand beside `froc_frame`."""


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


def installed_versions() -> pd.DataFrame:
    """The versions that a result depends on, and the device it was computed on."""
    hardware = find_hardware()
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


def draws_note(results: Mapping[str, Any]) -> str:
    """Say on how many draws the intervals of means over findings rest, "" where it is all that were made."""
    made = results["draws"]
    counts = {
        "classification": [scores["mean"]["draws_defined"] for scores in results["classification"].values()],
        "localization": [
            s["all_boxes"]["iobb>0.1"]["macro"]["draws_defined"] for s in results["localization"].values()
        ],
    }
    fewer = [f"{min(used):,} for {what}" for what, used in counts.items() if used and min(used) < made]
    if not fewer:
        return ""
    return (
        f"Of {made:,} draws of patients, those that lack a finding define no mean over the findings. Intervals of such "
        f"means rest on the others: {', '.join(fewer)}; none is given where these are less than half."
    )


def operating_frame(results: Mapping[str, Any], model: str) -> pd.DataFrame:
    """What a model's probabilities are worth by finding, with 95 % intervals as text.

    Columns: positive films; average precision; and at the threshold that was chosen on the validation films
    sensitivity, specificity and F1. "not defined" where there is no positive or no negative film, or no threshold.
    """
    rows = {}
    for finding, row in results["classification"][model]["findings"].items():
        threshold = "not defined" if row["threshold"] is None else f"{row['threshold']:.3f}"
        rows[finding] = {"positive films": f"{row['positives']:,}", "threshold": threshold}
        for key in ("average_precision", "sensitivity", "specificity", "f1"):
            rows[finding][key.replace("_", " ").replace("f1", "F1")] = said(row[key]) or "not defined"
    return pd.DataFrame.from_dict(rows, orient="index")


def froc_frame(results: Mapping[str, Any], *, score: str = "iou>0.1") -> pd.DataFrame:
    """Accuracy at 0.25, 0.5 and 1 false positive per image and finding, macro, and the pointing game.

    Best method first. The pointing game has no false positives: one point for each film and finding with a true box.
    For controls, random maps among them, that point is not a map's maximum but the centre of the best box.
    """
    rows = {}
    for row in results["ranking"]:
        scores = results["localization"][row["method"]]
        cells = {f"at {x}": said(at["macro"]) for x, at in scores["froc"][score]["at"].items()}
        game = scores["pointing_game"]
        rows[row["method"]] = {"kind": row["kind"], **cells, "pointing game": said(game["macro"]) if game else ""}
    return pd.DataFrame.from_dict(rows, orient="index")


def checkpoint_frame(results: Mapping[str, Any]) -> pd.DataFrame:
    """Where the models come from, a row a checkpoint."""
    rows = {}
    for name, about in results["checkpoints"].items():
        metrics = {key: f"{value:.3f}" for key, value in about["metrics"].items() if isinstance(value, float)}
        model = {"models": ", ".join(about["models"]), "backbone": about["recipe"]["model"], "epoch": about["epoch"]}
        rows[name] = {**model, **metrics, "SHA-256": about["sha256"]}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").astype(str)
