"""Define the content of results.json as types; docs/results.md describes every key.

Results stay plain dictionaries. Reading a file validates them: a missing, unknown or wrong entry is an error.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import NotRequired, TypedDict

Number = Annotated[float, Field(allow_inf_nan=False)]


class _Entry(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]


class Estimate(_Entry):
    """A value with its 95 % interval; None means "not defined"."""

    value: Number | None
    low: Number | None
    high: Number | None


class Data(_Entry):
    """The images that were evaluated, and the number of training images."""

    description: str
    split: str
    listed_test_images: int
    test_images: int
    test_patients: int
    boxed_images: int
    boxed_patients: int
    true_boxes: int
    training_images: int | None
    training_patients: int | None
    validation_images: int | None
    validation_patients: int | None
    test_sha256: str
    boxed_sha256: str


class CheckpointSource(_Entry):
    """A checkpoint that was evaluated."""

    models: list[str]
    epoch: int
    metrics: dict[str, Any]
    sha256: str
    recipe: dict[str, Any]


class MetricDefinition(_Entry):
    """A metric by which methods are compared."""

    title: str
    kind: str
    overlap: str | None
    quantity: str
    at_fp_rate: Number | None


class FindingScores(_Entry):
    """Classification of one finding."""

    positives: int
    negatives: int
    threshold: Number | None
    auc: Estimate
    average_precision: Estimate
    sensitivity: Estimate
    specificity: Estimate
    f1: Estimate
    note: NotRequired[str]


class MeanScores(_Entry):
    """Classification, mean over the findings."""

    auc: Estimate
    average_precision: Estimate
    n_defined: int
    n_valid_replicates: int


class Classification(_Entry):
    """Classification scores of one model."""

    findings: dict[str, FindingScores]
    mean: MeanScores


class BoxScores(_Entry):
    """Localization of one finding, or a mean or sum over findings."""

    boxes: int
    correct: int
    accuracy: Estimate
    false_positives: int
    false_positives_per_image: Estimate
    false_positives_per_box: Estimate
    n_valid_replicates: int


class BoxTable(_Entry):
    """Localization scores of one overlap threshold."""

    findings: dict[str, BoxScores]
    macro: BoxScores
    micro: BoxScores


class FrocPoint(_Entry):
    """Accuracy at one false-positive rate."""

    findings: dict[str, Estimate]
    macro: Estimate
    n_valid_replicates: int


class Curve(_Entry):
    """A macro FROC curve."""

    false_positives_per_image: list[Number]
    accuracy: list[Number]


class FrocScores(_Entry):
    """A FROC curve and its values at fixed rates."""

    at_fp_rate: dict[str, FrocPoint]
    curve: Curve


class PointingScores(_Entry):
    """Hit rates of the pointing game."""

    findings: dict[str, Estimate]
    macro: Estimate


class Localization(_Entry):
    """Localization scores of one method."""

    type: str
    note: str
    all_boxes: dict[str, BoxTable]
    best_box: dict[str, BoxTable]
    filtered_boxes: dict[str, BoxTable]
    froc: dict[str, FrocScores]
    pointing_game: PointingScores | None


class Difference(_Entry):
    """Metrics of the first method minus those of the second."""

    first: str
    second: str
    metrics: dict[str, Estimate]


class Rank(_Entry):
    """One line of the ranking."""

    rank: int
    method: str
    type: str
    metrics: dict[str, Estimate]


class Results(_Entry):
    """The whole file."""

    format: int
    created: str
    n_bootstrap: int
    seed: int
    data: Data
    checkpoints: dict[str, CheckpointSource]
    versions: dict[str, str | None]
    metrics: dict[str, MetricDefinition]
    classification: dict[str, Classification]
    localization: dict[str, Localization]
    differences: list[Difference]
    ranking: list[Rank]
    bootstrap: dict[str, dict[str, list[Number | None]]]


RESULTS: TypeAdapter[Results] = TypeAdapter(Results)
"""Validates the content of results.json."""
