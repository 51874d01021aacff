"""The published numbers, held to what must be true of them: denominators, means, counts."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_seam.evaluation.published import (
    BOXES_OF_FINDING,
    CLASSIFICATION,
    LOCALIZATION,
    PAPER_ACCURACY,
    PAPER_AUC,
    PAPER_BOXED_IMAGES,
    PAPER_BOXES,
    PAPER_FALSE_POSITIVES,
    TABLE_1_COLUMNS,
    WANG_ACCURACY,
    WANG_FALSE_POSITIVES_PER_BOX,
    rows_of,
)
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS

MACRO_AND_MICRO = {
    "Standard ResNet50": (0.351, 0.386),
    "MultiRes-ResNet50": (0.382, 0.405),
    "MultiRes-ResNet50 + PCM": (0.417, 0.449),
    "Standard EfficientNetB4": (0.361, 0.411),
    "MultiRes-EfficientNetB4": (0.435, 0.468),
    "MultiRes-EfficientNetB4 + PCM": (0.350, 0.379),
}


def is_quotient(value: float, denominator: int) -> bool:
    """Whether a printed value is a whole number divided by `denominator`, rounded (or cut) to three digits."""
    near = np.arange(int(value * denominator) - 1, int(value * denominator) + 3) / denominator
    return bool((np.abs(near - value) < 0.001).any() and (np.abs(np.round(near, 3) - value) < 1e-9).any())


@pytest.mark.parametrize("model", PAPER_ACCURACY)
def test_tables_2_and_3_are_quotients_of_counts(model):
    """Table 2 is correct / boxes of the finding, Table 3 is false positives / 880."""
    for finding, value in zip(BOXED_FINDINGS, PAPER_ACCURACY[model], strict=True):
        assert is_quotient(value, BOXES_OF_FINDING[finding]), finding
    for finding, value in zip(BOXED_FINDINGS, PAPER_FALSE_POSITIVES[model], strict=True):
        assert is_quotient(value, PAPER_BOXED_IMAGES), finding


@pytest.mark.parametrize("model", PAPER_ACCURACY)
def test_macro_and_micro_of_table_2(model):
    boxes = np.array(list(BOXES_OF_FINDING.values()))
    values = np.array(PAPER_ACCURACY[model])
    micro = np.round(values * boxes).sum() / boxes.sum()
    assert (round(values.mean(), 3), round(micro, 3)) == pytest.approx(MACRO_AND_MICRO[model], abs=0.0011)
    row = next(row for row in LOCALIZATION if row.name == model and row.metric == "iobb")
    assert row.values["0.1"] == MACRO_AND_MICRO[model][0]


def test_nih_has_984_boxes_of_eight_findings():
    assert sum(BOXES_OF_FINDING.values()) == PAPER_BOXES == 984


def test_printed_means_of_table_1_are_means_but_for_the_known_slip():
    assert list(PAPER_AUC) == [*FINDINGS, "Mean"]
    cells = np.array([PAPER_AUC[finding] for finding in FINDINGS])
    for name, mean, printed in zip(TABLE_1_COLUMNS, cells.mean(axis=0), PAPER_AUC["Mean"], strict=True):
        if name.endswith("[1]"):
            assert round(mean, 3) == 0.745 and printed == 0.738
        else:
            assert abs(mean - printed) < 0.0011


@pytest.mark.parametrize(("measure", "macro"), [("iobb", 0.629), ("iou", 0.568)])
def test_wangs_findings_have_wangs_mean(measure, macro):
    assert round(float(np.mean(WANG_ACCURACY[f"{measure}>0.1"])), 3) == macro
    row = next(row for row in LOCALIZATION if row.source == "Wang et al. 2017" and row.metric == measure)
    assert row.values["0.1"] == macro
    assert len(WANG_FALSE_POSITIVES_PER_BOX[f"{measure}>0.1"]) == len(BOXED_FINDINGS)


def test_every_row_of_another_split_is_marked():
    assert {"CheXNet", "SynthEnsemble", "MobileNetV2"} == {r.name for r in CLASSIFICATION if not r.comparable}
    assert {"CLARiTy, 512 px"} == {r.name for r in LOCALIZATION if not r.comparable}
    order = [row.comparable for row in rows_of("mean AUC")]
    assert order == sorted(order, reverse=True)


def test_the_papers_mean_aucs_are_the_means_of_its_table_1():
    """Each of its four columns, computed from the cells and as printed."""
    listed = {row.name: row.values["mean"] for row in CLASSIFICATION if row.source == "D'Souza et al. 2022"}
    assert set(listed) == {
        "Standard ResNet50",
        "MultiRes-ResNet50",
        "Standard EfficientNetB4",
        "MultiRes-EfficientNetB4",
    }
    for name, value in listed.items():
        column = [PAPER_AUC[finding][TABLE_1_COLUMNS.index(name)] for finding in FINDINGS]
        assert value == PAPER_AUC["Mean"][TABLE_1_COLUMNS.index(name)]
        assert abs(value - float(np.mean(column))) < 0.0011


def test_the_densenet_study_is_marked_as_having_maps_of_its_own():
    rows = [row for row in LOCALIZATION if row.source == "DenseNet121 study"]
    maps = {"DenseNet121 at 512 px, CAM", "DenseNet121 at 512 px, Grad-CAM++", "Random map"}
    assert {(row.name, row.metric) for row in rows} == {(name, metric) for name in maps for metric in ("iobb", "iou")}
    assert all("own map construction" in row.note for row in rows)


def test_values_are_printed_with_the_decimals_of_their_source():
    printed = {(row.name, row.metric): row for row in (*CLASSIFICATION, *LOCALIZATION)}
    assert printed["Random map", "iou"].printed("0.3") == "0.10"
    assert printed["DenseNet121 at 512 px, CAM", "iou"].printed("0.1") == "0.56"
    assert printed["DenseNet121 at 512 px, Grad-CAM++", "iobb"].printed("0.25") == "0.550"
    assert printed["Ark-6 Swin-B", "mean AUC"].printed("mean") == "0.8305"
    assert printed["MobileNetV2", "mean AUC"].printed("mean") == "0.810"
    assert printed["ResNet50", "iou"].printed("0.5") == ""  # not at hand


def test_accuracy_falls_with_the_threshold():
    for row in LOCALIZATION:
        values = list(row.values.values())
        assert values == sorted(values, reverse=True) and 0 <= values[-1]
