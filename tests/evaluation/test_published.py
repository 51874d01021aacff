"""Check denominators, means and counts of the published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_seam.evaluation.published import (
    BOXES_OF_FINDING,
    PAPER,
    PAPER_BOXED_IMAGES,
    PAPER_BOXES,
    WANG,
    literature,
    printed_cells,
)
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS


def rows(table: str, metric: str, source: str, overlap: str = "iobb>0.1") -> dict[str, list[float]]:
    """The printed values of each model of a source, in the order of the findings with boxes."""
    cells = printed_cells(table, metric=metric, overlap=overlap)[list(BOXED_FINDINGS)].astype(float)
    return {name: values.tolist() for (of, name), values in cells.iterrows() if of == source}


PAPER_ACCURACY = rows("table_2", "accuracy", PAPER)
PAPER_FALSE_POSITIVES = rows("table_3", "false_positives_per_image", PAPER)
PAPER_AUC = printed_cells("table_1", metric="auc").astype(float)
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
    row = next(row for row in literature("iobb") if row.name == model)
    assert float(row.values["iobb>0.1"]) == MACRO_AND_MICRO[model][0]


def test_box_counts():
    assert sum(BOXES_OF_FINDING.values()) == PAPER_BOXES == 984


def test_table_1_means():
    assert list(PAPER_AUC.columns) == [*FINDINGS, "mean"] and len(PAPER_AUC) == 7
    for (_, name), cells in PAPER_AUC.iterrows():
        mean = cells[list(FINDINGS)].mean()
        if name.endswith("[1]"):
            assert round(mean, 3) == 0.745 and cells["mean"] == 0.738
        else:
            assert abs(mean - cells["mean"]) < 0.0011


@pytest.mark.parametrize(("measure", "macro"), [("iobb", 0.629), ("iou", 0.568)])
def test_wang_macro(measure, macro):
    (accuracy,) = rows("table_2", "accuracy", WANG, f"{measure}>0.1").values()
    assert round(float(np.mean(accuracy)), 3) == macro
    row = next(row for row in literature(measure) if row.source == WANG)
    assert float(row.values[f"{measure}>0.1"]) == macro
    (false_positives,) = rows("table_3", "false_positives_per_box", WANG, f"{measure}>0.1").values()
    assert len(false_positives) == len(BOXED_FINDINGS)


def test_other_splits_are_marked():
    assert {"CheXNet", "SynthEnsemble", "MobileNetV2"} == {r.name for r in literature("auc") if not r.comparable}
    assert {"CLARiTy, 512 px"} == {r.name for r in literature("iou") if not r.comparable}
    assert all(row.comparable for row in literature("iobb"))
    order = [row.comparable for row in literature("auc")]
    assert order == sorted(order, reverse=True)


def test_paper_mean_auc():
    """The mean AUCs of the paper's four models are the printed means of Table 1."""
    listed = {row.name: float(row.values[""]) for row in literature("auc") if row.source == PAPER}
    assert listed == PAPER_AUC.loc[PAPER, "mean"].to_dict() and len(listed) == 4


def test_densenet_study_note():
    found = {
        measure: [r for r in literature(measure) if r.source == "DenseNet121 study"] for measure in ("iobb", "iou")
    }
    maps = {"DenseNet121 at 512 px, CAM", "DenseNet121 at 512 px, Grad-CAM++", "Random map"}
    for models in found.values():
        assert {row.name for row in models} == maps
        assert all("own map construction" in row.note for row in models)


def test_printed_decimals():
    printed = {(row.name, m): row.values for m in ("auc", "iobb", "iou") for row in literature(m)}
    assert printed["Random map", "iou"]["iou>0.3"] == "0.10"
    assert printed["DenseNet121 at 512 px, CAM", "iou"]["iou>0.1"] == "0.56"
    assert printed["DenseNet121 at 512 px, Grad-CAM++", "iobb"]["iobb>0.25"] == "0.550"
    assert printed["Ark-6 Swin-B", "auc"][""] == "0.8305"
    assert printed["MobileNetV2", "auc"][""] == "0.810"
    assert "iou>0.5" not in printed["ResNet50", "iou"]


def test_accuracy_falls_with_threshold():
    for row in (*literature("iobb"), *literature("iou")):
        values = [float(value) for value in row.values.values()]
        assert values == sorted(values, reverse=True) and 0 <= values[-1]
