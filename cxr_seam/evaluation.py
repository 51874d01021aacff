"""The numbers of Tables 1 to 3 for the three models of a family, beside controls that never saw an image.

`results.json` holds them all. Each accuracy stands with its false positives: boxes buy accuracy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .checkpoints import load_checkpoint, read_header
from .classification import classification_table, mean_auc
from .controls import centre_boxes, random_map_boxes
from .errors import InputError
from .files import whole_file
from .films import Films
from .localization import best_boxes, localization_table
from .predict import Predictor, boxes_of_batch
from .recipes import Recipe
from .training import best_path

FORMAT = 1
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)  # Table 2 uses 0.1; Wang et al. 2017 the others
IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
HALF_FILM = 0.5
PACKAGES = ("torch", "torchvision", "numpy", "pandas", "opencv-python", "scikit-learn")
STANDARD, MULTIRES, REFINED = "Standard", "MultiRes", "MultiRes + PCM"
"""The three columns of Fig. 7."""


def family_predictors(family: Sequence[Recipe], folder: Path | str) -> dict[str, Predictor]:
    """Load the best standard and the best refined model of a family.

    The MultiRes model before the PCM is the same trained network, read before its PCM (Table 4), so two checkpoints
    serve three models; where the second phase has not been trained yet, the first phase's checkpoint stands in.

    Raises:
        InputError: no model of the family has been trained in `folder`, or the first phase was trained anew and the
            second was not.
    """
    standard, multires, refined = family
    found = {}
    if best_path(Path(folder), standard.name).exists():
        found[STANDARD] = Predictor.load(best_path(Path(folder), standard.name))
    for key, recipe in ((REFINED, refined), (MULTIRES, multires)):
        path = best_path(Path(folder), recipe.name)
        if path.exists():
            found[key] = Predictor.load(path)
            break
    both = [best_path(Path(folder), recipe.name) for recipe in (multires, refined)]
    if all(path.exists() for path in both) and not same_but_theta(*both):
        raise InputError(f"{both[1]} goes on from an earlier model than {both[0]}; run notebook 03 again")
    if not found:
        raise InputError(f"no trained model in {folder}; run notebooks 02 and 03 (or python -m cxr_seam train) first")
    return found


def same_but_theta(first: Path, second: Path) -> bool:
    """Whether two checkpoints hold the same weights but for theta: the second phase leaves all others as they were."""
    states = [load_checkpoint(path)[0].state_dict() for path in (first, second)]
    return all(key.startswith("pcm.") or torch.equal(value, states[1][key]) for key, value in states[0].items())


def maps_by_model(key: str, output: Any) -> dict[str, Any]:
    """The maps of one output under the names of the models they belong to."""
    if key == REFINED:
        return {MULTIRES: output.cam, REFINED: output.refined}
    return {key: output.cam}


def classify_all(predictors: dict[str, Predictor], films: Films) -> dict[str, np.ndarray]:
    """Probabilities (N, 14) of each model; the PCM does not touch the logits, so two models may share them."""
    scores = {}
    for key, predictor in predictors.items():
        probabilities = 1 / (1 + np.exp(-predictor.logits(films, what=f"classify, {key}").astype(np.float64)))
        scores.update({MULTIRES: probabilities, REFINED: probabilities} if key == REFINED else {key: probabilities})
    return scores


def locate_all(predictors: dict[str, Predictor], films: Films) -> dict[str, pd.DataFrame]:
    """All boxes of each model on `films`, made with the recipe's threshold."""
    boxes: dict[str, list[pd.DataFrame]] = {}
    for key, predictor in predictors.items():
        threshold = predictor.recipe.box_threshold
        for names, output in predictor.batches(films, maps=True, what=f"locate, {key}"):
            for model, cam in maps_by_model(key, output).items():
                boxes.setdefault(model, []).append(boxes_of_batch(names, cam, threshold=threshold))
    return {model: pd.concat(tables, ignore_index=True) for model, tables in boxes.items()}


def control_boxes(images: Sequence[str], *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Boxes of the controls: random maps of both grids, and a centred box of two sizes."""
    return {
        "Random 8x8 map": random_map_boxes(images, grid=8, seed=seed),
        "Random 32x32 map": random_map_boxes(images, grid=32, seed=seed),
        "Centre box, third of film": centre_boxes(images),
        "Centre box, half of film": centre_boxes(images, extent=HALF_FILM),
    }


def score_boxes(boxes: pd.DataFrame, truth: pd.DataFrame, *, images: Sequence[str]) -> dict[str, Any]:
    """Every localization table of one model: all its boxes, and the single best box of each image and finding."""
    scored = {}
    for kind, table in (("all_boxes", boxes), ("best_box", best_boxes(boxes))):
        scored[kind] = {
            f"{measure}>{threshold}": frame_to_dict(
                localization_table(table, truth, images=images, measure=measure, threshold=threshold)
            )
            for measure, thresholds in (("iobb", IOBB_THRESHOLDS), ("iou", IOU_THRESHOLDS))
            for threshold in thresholds
        }
    return scored


def evaluate(
    family: Sequence[Recipe],
    folder: Path | str,
    *,
    test_films: Films,
    boxed_films: Films,
    truth: pd.DataFrame,
    data: str,
    probabilities: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Evaluate the trained models of a family.

    Args:
        family: standard, MultiRes and MultiRes + PCM recipes.
        folder: where their checkpoints lie.
        test_films: images that the AUCs are measured on.
        boxed_films: images that carry true boxes.
        truth: true boxes (`NihTables.boxes`).
        data: what the data are, in words; it is written down.
        probabilities: of `test_films`, where `classify_all` has already computed them.

    Returns:
        The content of `results.json`: "data", "checkpoints", "classification" (per model "mean_auc" and "findings"),
        "localization" (per model and control, see `score_boxes`), "versions". Undefined values are None.

    Raises:
        InputError: no model of the family has been trained in `folder`.
    """
    predictors = family_predictors(family, folder)
    classification = {}
    for model, scores in (probabilities or classify_all(predictors, test_films)).items():
        table = classification_table(test_films.labels, scores)
        classification[model] = {
            "mean_auc": finite_or_none(mean_auc(table)),
            "findings_defined": int(table["auc"].notna().sum()),
            "findings": frame_to_dict(table),
        }
    images = boxed_films.image_index
    truth = truth[truth["image_index"].isin(images)]
    boxes = locate_all(predictors, boxed_films) | control_boxes(images)
    headers = {p.recipe.name: read_header(best_path(Path(folder), p.recipe.name)) for p in predictors.values()}
    return {
        "format": FORMAT,
        "data": {
            "description": data,
            "test_images": len(test_films),
            "boxed_images": len(images),
            "true_boxes": len(truth),
        },
        "checkpoints": {name: {"epoch": h.epoch, "metrics": h.metrics} for name, h in headers.items()},
        "classification": classification,
        "localization": {model: score_boxes(table, truth, images=images) for model, table in boxes.items()},
        "versions": {package: version(package) for package in PACKAGES},
    }


def headline(results: dict[str, Any]) -> pd.DataFrame:
    """The few numbers one looks at first, a row for each model and control.

    Columns: mean AUC; accuracy (macro over the boxed findings that occur) of the single best box at IoU > 0.1; and of
    all boxes at the paper's IoBB > 0.1; each accuracy with its false positives per image and finding.
    """
    rows = {}
    for model, scores in results["localization"].items():
        best, every = scores["best_box"]["iou>0.1"]["macro"], scores["all_boxes"]["iobb>0.1"]["macro"]
        rows[model] = {
            "mean AUC": results["classification"].get(model, {}).get("mean_auc"),
            "best box IoU>0.1": best["accuracy"],
            "its false positives": best["false_positives_per_image"],
            "all boxes IoBB>0.1": every["accuracy"],
            "their false positives": every["false_positives_per_image"],
        }
    return pd.DataFrame(rows).T.astype(float).round(3)


def save_results(results: dict[str, Any], path: Path | str) -> None:
    """Write `results.json`."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


def load_results(path: Path | str) -> dict[str, Any]:
    """Read `results.json`.

    Raises:
        InputError: it is missing, or of another format.
    """
    if not Path(path).exists():
        raise InputError(f"there is no {path}; run notebook 04 (or python -m cxr_seam evaluate) first")
    results = json.loads(Path(path).read_text())
    if results.get("format") != FORMAT:
        raise InputError(f"{path} has format {results.get('format')}, this version reads {FORMAT}; evaluate again")
    return results


def frame_to_dict(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A table as nested dictionaries of plain numbers, row by row."""
    return {
        str(name): {column: finite_or_none(value) for column, value in row.items()}
        for name, row in table.to_dict(orient="index").items()
    }


def finite_or_none(value: Any) -> Any:
    """Plain numbers for JSON, which has no NaN: None where a value is not defined."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
