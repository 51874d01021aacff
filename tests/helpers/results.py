"""A complete results.json made by hand."""

from __future__ import annotations

from typing import Any

from cxr_seam.evaluation.results import FORMAT, MULTIRES, REFINED, STANDARD, metric_definitions
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS, OPERATING_POINTS

OVERLAPS = ("iobb>0.1", "iobb>0.25", "iobb>0.5", "iou>0.1", "iou>0.2", "iou>0.3", "iou>0.4", "iou>0.5")
IMAGES, BOXES = 4, 80


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def box_table(accuracy: float, count: int) -> dict[str, Any]:
    """The same for each of the eight findings: an accuracy, and `count` false positives on the four images."""

    def row(false_positives: int, findings: int) -> dict[str, Any]:
        return {
            "boxes": BOXES // findings,
            "correct": round(accuracy * BOXES / findings),
            "accuracy": estimate(accuracy, accuracy - 0.1, accuracy + 0.1),
            "false_positives": false_positives,
            "false_positives_per_image": estimate(false_positives / IMAGES / findings),
            "false_positives_per_box": estimate(false_positives / BOXES / findings),
            "n_valid_replicates": 5,
        }

    findings = {finding: row(count, 1) for finding in BOXED_FINDINGS}
    return {"findings": findings, "macro": row(8 * count, 8), "micro": row(8 * count, 1)}


def method(
    type: str, *, froc: float = 0.3, best: float = 0.5, every: float = 0.5, count: int = 4, note: str = ""
) -> dict[str, Any]:
    """Scores of one method; all its boxes have `count` false positives, and one more at each further overlap."""
    point = {"findings": {}, "macro": estimate(froc, froc - 0.1, froc + 0.1), "n_valid_replicates": 5}
    curve = {"false_positives_per_image": [0, 0.1, 1], "accuracy": [0, froc / 2, froc]}
    return {
        "type": type,
        "note": note,
        "all_boxes": {overlap: box_table(every, count + i) for i, overlap in enumerate(OVERLAPS)},
        "best_box": {overlap: box_table(best, 2) for overlap in OVERLAPS},
        "filtered_boxes": {overlap: box_table(every / 2, 1) for overlap in OVERLAPS},
        "froc": {
            overlap: {"at_fp_rate": dict.fromkeys(("0.25", "0.5", "1.0"), point), "curve": curve}
            for overlap in ("iou>0.3", "iou>0.1", "iobb>0.1")
        },
        "pointing_game": None,
        "pixels": None,
    }


def classification() -> dict[str, Any]:
    """Three of ten images are positive for each finding but the last, which has none and no calibration."""

    def decisions(number: float | None, score: dict[str, Any]) -> dict[str, Any]:
        each = {"threshold": number} | dict.fromkeys(("sensitivity", "specificity", "f1"), score)
        return dict.fromkeys(OPERATING_POINTS, each)

    half, none = estimate(0.5, 0.4, 0.6), estimate(None)
    fit = {"validation_positives": 12, "validation_negatives": 36, "slope": 1.5, "intercept": -2.0}
    bins = [
        {"images": 6, "probability": 0.125, "frequency": estimate(0.0, 0.0, 0.25)},
        {"images": 4, "probability": 0.5, "frequency": estimate(0.75, 0.5, 1.0)},
    ]
    row = {
        "positives": 3,
        "negatives": 7,
        "auc": estimate(0.75, 0.61, 0.84),
        "average_precision": half,
        "operating_points": decisions(0.25, half),
        "calibration": fit | {"brier": estimate(0.11, 0.07, 0.16), "ece": estimate(0.175, 0.1, 0.3), "bins": bins},
    }
    unfitted = {"validation_positives": 3, "validation_negatives": 45, "slope": None, "intercept": None}
    undefined = {
        "positives": 0,
        "negatives": 10,
        "auc": none,
        "average_precision": none,
        "operating_points": decisions(None, none),
        "calibration": unfitted | {"brier": none, "ece": none, "bins": []},
    }
    mean = {"auc": estimate(0.75, 0.7, 0.8), "average_precision": estimate(0.4, 0.3, 0.5)}
    mean |= {"brier": estimate(0.11, 0.07, 0.16), "ece": estimate(0.175, 0.1, 0.3), "n_calibrated": 13}
    return {
        "findings": {name: row for name in FINDINGS[:-1]} | {FINDINGS[-1]: undefined},
        "mean": mean | {"n_defined": 13, "n_valid_replicates": 5},
    }


def make_results(**changed: Any) -> dict[str, Any]:
    """Three models and a random map that finds everything with many false positives; `changed` replaces entries."""
    data = {
        "description": "/home/somebody/patients",
        "split": "part of the official test list",
        "listed_test_images": 20,
        "test_images": 10,
        "test_patients": 5,
        "boxed_images": IMAGES,
        "boxed_patients": 3,
        "true_boxes": BOXES,
        "boxes_outside_test": 0,
        "findings": list(FINDINGS),
        "boxed_findings": list(BOXED_FINDINGS),
        "findings_without_labels": [],
        "findings_not_predicted": [],
        **dict.fromkeys(("training_images", "training_patients", "validation_images", "validation_patients")),
        "test_sha256": "t",
        "boxed_sha256": "b",
    }
    return {
        "format": FORMAT,
        "created": "2026-01-01T00:00:00+00:00",
        "n_bootstrap": 5,
        "seed": 0,
        "data": data,
        "checkpoints": {},
        "versions": {"torch": "2.0"},
        "metrics": metric_definitions(),
        "classification": {model: classification() for model in (STANDARD, MULTIRES, REFINED)},
        "localization": {
            "Random 32x32 map": method("baseline", froc=0.0, best=0.0, every=0.9, count=448, note="never saw an image"),
            STANDARD: method("model", best=0.4),
            MULTIRES: method("model", every=0.4, count=8),
        },
        "differences": [],
        "ranking": [],
        "bootstrap": {},
    } | changed
