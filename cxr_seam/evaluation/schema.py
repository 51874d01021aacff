"""Define the content of results.json as types; docs/results.md describes every key.

Results stay plain dictionaries. Reading a file validates them: a missing, unknown or wrong entry is an error.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Estimate(_Entry):
    value: float | None
    low: float | None
    high: float | None


class _Data(_Entry):
    description: str
    split: str
    listed_test_images: int
    test_images: int
    test_patients: int
    boxed_images: int
    boxed_patients: int
    true_boxes: int
    boxes_outside_test: int
    findings: list[str]
    boxed_findings: list[str]
    findings_without_labels: list[str]
    findings_not_predicted: list[str]
    training_images: int | None
    training_patients: int | None
    validation_images: int | None
    validation_patients: int | None
    test_sha256: str
    boxed_sha256: str


class _Checkpoint(_Entry):
    models: list[str]
    epoch: int
    metrics: dict[str, Any]
    sha256: str
    recipe: dict[str, Any]


class _MetricDefinition(_Entry):
    title: str
    kind: str
    overlap: str | None
    quantity: str
    at_fp_rate: float | None


class _Decisions(_Entry):
    threshold: float | None
    sensitivity: _Estimate
    specificity: _Estimate
    f1: _Estimate


class _Bin(_Entry):
    images: int
    probability: float
    frequency: _Estimate


class _Calibration(_Entry):
    validation_positives: int
    validation_negatives: int
    slope: float | None
    intercept: float | None
    brier: _Estimate
    ece: _Estimate
    bins: list[_Bin]


class _FindingScores(_Entry):
    positives: int
    negatives: int
    auc: _Estimate
    average_precision: _Estimate
    operating_points: dict[str, _Decisions]
    calibration: _Calibration
    note: str = ""


class _MeanScores(_Entry):
    auc: _Estimate
    average_precision: _Estimate
    brier: _Estimate
    ece: _Estimate
    n_calibrated: int
    n_defined: int
    n_valid_replicates: int


class _Classification(_Entry):
    findings: dict[str, _FindingScores]
    mean: _MeanScores


class _BoxScores(_Entry):
    boxes: int
    correct: int
    accuracy: _Estimate
    false_positives: int
    false_positives_per_image: _Estimate
    false_positives_per_box: _Estimate
    n_valid_replicates: int


class _BoxTable(_Entry):
    findings: dict[str, _BoxScores]
    macro: _BoxScores
    micro: _BoxScores


class _PointingGame(_Entry):
    findings: dict[str, _Estimate]
    macro: _Estimate


class _Pixels(_Entry):
    iou: _PointingGame
    dice: _PointingGame
    hit_rate: _PointingGame


class _FrocPoint(_PointingGame):
    n_valid_replicates: int


class _Curve(_Entry):
    false_positives_per_image: list[float]
    accuracy: list[float]


class _Froc(_Entry):
    at_fp_rate: dict[str, _FrocPoint]
    curve: _Curve


class _Localization(_Entry):
    type: str
    note: str
    all_boxes: dict[str, _BoxTable]
    best_box: dict[str, _BoxTable]
    filtered_boxes: dict[str, _BoxTable]
    froc: dict[str, _Froc]
    pointing_game: _PointingGame | None
    pixels: _Pixels | None


class _Difference(_Entry):
    first: str
    second: str
    metrics: dict[str, _Estimate]


class _Rank(_Entry):
    rank: int
    method: str
    type: str
    metrics: dict[str, _Estimate]


class Results(_Entry):
    """The whole file."""

    format: int
    created: str
    n_bootstrap: int
    seed: int
    data: _Data
    checkpoints: dict[str, _Checkpoint]
    versions: dict[str, str | None]
    metrics: dict[str, _MetricDefinition]
    classification: dict[str, _Classification]
    localization: dict[str, _Localization]
    differences: list[_Difference]
    ranking: list[_Rank]
    bootstrap: dict[str, dict[str, list[float | None]]]
