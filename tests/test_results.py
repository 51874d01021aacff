"""Reading results.json: ranking, differences and comparison on cases made by hand."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from cxr_seam.errors import InputError
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS
from cxr_seam.paper_tables import (
    accuracy_frame,
    is_official,
    localization_frame,
    mean_auc_frame,
    standing,
    table_1,
    table_4,
)
from cxr_seam.plots import plot_froc
from cxr_seam.report import froc_frame, operating_frame
from cxr_seam.results import (
    ALL_BOXES,
    BEST_BOX,
    FROC,
    MEAN_AUC,
    MULTIRES,
    REFINED,
    STANDARD,
    compare,
    difference_frame,
    headline,
    load_results,
    paired_differences,
    ranking,
    said,
    save_results,
)


def measured(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def method(kind: str, *, froc: float, best: float, every: float, cost: float) -> dict:
    """One method's scores; its best box costs 0.5 false positives, all its boxes cost `cost`."""

    def table(accuracy, false_positives):
        row = {
            "boxes": 10,
            "correct": round(10 * accuracy),
            "accuracy": measured(accuracy, accuracy - 0.1, accuracy + 0.1),
            "false_positives": 7,
            "false_positives_per_image": measured(false_positives),
            "false_positives_per_box": measured(2 * false_positives),
        }
        return {"findings": dict.fromkeys(BOXED_FINDINGS, row), "macro": row, "micro": row}

    overlaps = ("iobb>0.1", "iobb>0.25", "iobb>0.5", "iou>0.1", "iou>0.2", "iou>0.3", "iou>0.4", "iou>0.5")
    at = {x: {"findings": {}, "macro": measured(froc, froc - 0.1, froc + 0.1)} for x in ("0.25", "0.5", "1.0")}
    curve = {"false_positives_per_image": [0, 0.1, 1], "accuracy": [0, froc / 2, froc]}
    return {
        "kind": kind,
        "note": "",
        "all_boxes": {overlap: table(every, cost) for overlap in overlaps},
        "best_box": {overlap: table(best, 0.5) for overlap in overlaps},
        "gated_boxes": {overlap: table(best, 0.1) for overlap in overlaps},
        "froc": {"iou>0.1": {"at": at, "curve": curve}},
        "pointing_game": None,
    }


@pytest.fixture
def results() -> dict:
    finding = {
        "positives": 3,
        "negatives": 7,
        "threshold": 0.25,
        "auc": measured(0.75, 0.61, 0.84),
        **dict.fromkeys(("average_precision", "sensitivity", "specificity", "f1"), measured(0.5, 0.4, 0.6)),
    }
    undefined = dict.fromkeys(finding, measured(None)) | {"positives": 0, "negatives": 10, "threshold": None}
    findings = {name: finding for name in FINDINGS[:-1]} | {FINDINGS[-1]: undefined}
    classification = {"findings": findings, "mean": {"auc": measured(0.75, 0.7, 0.8), "findings_defined": 13}}
    localization = {
        "Random 32x32 map": method("control", froc=0.0, best=0.0, every=1.0, cost=112.0),
        STANDARD: method("model", froc=0.3, best=0.4, every=0.5, cost=1.0),
        MULTIRES: method("model", froc=0.3, best=0.5, every=0.4, cost=2.0),
    }
    draws = np.linspace(0, 1, 5)
    content = {
        "format": 2,
        "draws": 5,
        "seed": 0,
        "data": {
            "test_images": 10,
            "test_patients": 5,
            "boxed_images": 4,
            "true_boxes": 4,
            "test_sha256": "t",
            "boxed_sha256": "b",
        },
        "classification": {STANDARD: classification, MULTIRES: classification, REFINED: classification},
        "localization": localization,
        "samples": {
            STANDARD: {MEAN_AUC: list(draws), FROC: [None, *draws[1:]], BEST_BOX: [0.0] * 5, ALL_BOXES: [0.5] * 5},
            MULTIRES: {MEAN_AUC: list(draws), FROC: list(draws + 0.1), BEST_BOX: list(draws), ALL_BOXES: [0.25] * 5},
        },
    }
    content["differences"] = paired_differences(content)
    content["ranking"] = ranking(content)
    return content


def test_ranked_by_froc_then_best_box_and_never_by_boxes_bought(results):
    """The random map has an accuracy of 1 under the paper's rule and comes last; of equal FROCs the best box tells."""
    assert [row["method"] for row in results["ranking"]] == [MULTIRES, STANDARD, "Random 32x32 map"]
    assert list(headline(results).index) == [MULTIRES, STANDARD, "Random 32x32 map"]


def test_a_method_without_a_value_is_ranked_last(results):
    results["localization"][MULTIRES]["froc"]["iou>0.1"]["at"]["0.5"]["macro"] = measured(None)
    assert ranking(results)[-1]["method"] == MULTIRES


def test_no_accuracy_stands_without_its_false_positives(results):
    table = headline(results)
    assert list(table.columns) == [
        "mean AUC",
        "FROC at 0.5 (IoU>0.1)",
        "best box (IoU>0.1)",
        "its false positives",
        "all boxes (IoBB>0.1)",
        "their false positives",
    ]
    assert table.loc[STANDARD].tolist() == [
        "0.750 (0.70-0.80)",
        "0.300 (0.20-0.40)",
        "0.400 (0.30-0.50)",
        "0.500",
        "0.500 (0.40-0.60)",
        "1.000",
    ]
    assert table.loc["Random 32x32 map", "mean AUC"] == ""  # it classifies nothing
    quantities = localization_frame(results).index.get_level_values(2)
    assert (quantities == "accuracy").sum() <= quantities.str.startswith("false positives").sum()


def test_differences_are_paired_by_hand(results):
    """MultiRes - Standard: equal draws of the AUC; FROC draws differ by 0.1 wherever both are defined."""
    pair = results["differences"][f"{MULTIRES} - {STANDARD}"]
    assert pair[MEAN_AUC] == measured(0, 0, 0)
    assert (pair[FROC]["value"], pair[FROC]["low"], pair[FROC]["high"]) == pytest.approx((0, 0.1, 0.1))
    assert pair[ALL_BOXES]["value"] == pytest.approx(-0.1) and pair[ALL_BOXES]["high"] == -0.25
    assert difference_frame(results).iloc[0, 0] == "0.000 (0.00-0.00)"


def test_a_value_is_said_with_its_interval():
    assert said(measured(0.6871, 0.61, 0.745)) == "0.687 (0.61-0.74)"
    assert said(measured(-0.05, -0.1, 0.02)) == "-0.050 (-0.10 to 0.02)"
    assert (said(measured(0.5)), said(measured(None))) == ("0.500", "")


def test_two_results_on_the_same_films_are_paired(results):
    other = copy.deepcopy(results)
    other["samples"][STANDARD][BEST_BOX] = [0.2] * 5
    other["localization"][STANDARD]["best_box"]["iou>0.1"]["macro"]["accuracy"] = measured(0.6)
    comparison = compare(results, other)
    assert comparison.paired == {"classification": True, "localization": True} and "Paired" in comparison.reason
    row = comparison.table.loc[(STANDARD, "best box (IoU>0.1)")]
    assert row["second - first"] == "0.200 (0.20-0.20)"
    assert row["false positives"] == "0.500, 0.500"
    assert ("Random 32x32 map", "mean AUC") not in comparison.table.index


@pytest.mark.parametrize(
    ("change", "says", "paired"),
    [
        ({"seed": 1}, "draws of the bootstrap differ", []),
        ({"data": {"test_sha256": "other", "boxed_sha256": "b"}}, "the test films differ", ["localization"]),
        ({"data": {"test_sha256": "t", "boxed_sha256": "x"}}, "the boxed films or their boxes", ["classification"]),
    ],
)
def test_results_on_other_films_have_no_interval_of_the_difference(results, change, says, paired):
    comparison = compare(results, results | change)
    assert says in comparison.reason
    assert [kind for kind, same in comparison.paired.items() if same] == paired
    cells = comparison.table["second - first"]
    assert cells[STANDARD, "mean AUC"] == ("0.000 (0.00-0.00)" if "classification" in paired else "0.000")
    assert cells[STANDARD, "best box (IoU>0.1)"] == ("0.000 (0.00-0.00)" if "localization" in paired else "0.000")


def test_nothing_in_common_is_told(results):
    with pytest.raises(InputError, match="no method in common"):
        compare(results, results | {"localization": {}, "classification": {}})


def test_results_survive_the_disk_and_hold_no_nan(results, tmp_path):
    save_results(results, tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    with pytest.raises(ValueError, match="Out of range"):
        save_results(results | {"seed": float("nan")}, tmp_path / "nan.json")


def test_missing_old_and_damaged_results_are_told(tmp_path):
    with pytest.raises(InputError, match="run notebook 04"):
        load_results(tmp_path / "none.json")
    (tmp_path / "old.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="old.json has format 1"):
        load_results(tmp_path / "old.json")
    (tmp_path / "half.json").write_text('{"format": 2')
    with pytest.raises(InputError, match="half.json is damaged"):
        load_results(tmp_path / "half.json")


def test_only_the_whole_official_list_is_ranked_with_the_published(results):
    table = mean_auc_frame(results)
    assert (table.loc[table["source"] == "here", "rank"] == "-").all()
    assert (table.loc[table["model"].isin(["CheXNet", "SynthEnsemble", "MobileNetV2"]), "rank"] == "-").all()
    assert standing(results).count("NOT COMPARABLE") == 2
    results["data"] |= {"test_images": 25_596, "test_patients": 2_797, "boxed_images": 880, "true_boxes": 984}
    assert is_official(results) and is_official(results, boxed=True) and "NOT" not in standing(results)
    table = mean_auc_frame(results)
    assert (table.loc[table["source"] == "here", "rank"] == "-").all()  # 13 findings do not compare with 14
    for scores in results["classification"].values():
        scores["mean"]["findings_defined"] = 14
    table = mean_auc_frame(results)
    ours = table[table["source"] == "here"].iloc[0]
    # 0.750 is below Yao et al.'s 0.761 and above Wang et al.'s 0.745.
    assert table["model"].tolist()[int(ours["rank"]) - 2] == "Multi-resolution ResNet50"
    assert set(table.loc[table["rank"] == "-", "model"]) == {"CheXNet", "SynthEnsemble", "MobileNetV2"}


def test_table_1_leaves_the_repeated_column_out_and_says_what_is_not_defined(results):
    table = table_1(results)
    here = [key for key in table.columns if key[0].startswith("here")]
    assert [model for _, model in here] == [STANDARD, MULTIRES]
    assert table.loc["Hernia", here[0]] == "not defined" and table.loc["Mean", here[0]] == "0.750 (0.70-0.80)"
    assert table["D'Souza et al. 2022", "MultiRes-ResNet50"]["Mass"] == "0.809"
    assert "NOT COMPARABLE" in next(source for source, name in table.columns if name.startswith("MobileNetV2"))


def test_tables_2_and_3_show_the_published_with_the_quotient_they_print(results):
    table = localization_frame(results)
    assert table.loc[("D'Souza et al. 2022", "MultiRes-ResNet50 + PCM", "accuracy"), "macro"] == "0.417"
    assert ("Wang et al. 2017", "ResNet50", "false positives per box") in table.index
    assert ("Wang et al. 2017", "ResNet50", "false positives per image") not in table.index  # theirs are per box
    assert (
        not localization_frame(results, kind="best_box", score="iou>0.1")
        .index.get_level_values(0)
        .str.contains("Wang")
        .any()
    )
    with pytest.raises(InputError, match=r"iobb>0\.1"):
        localization_frame(results, score="dice")
    with pytest.raises(InputError, match="best_box"):
        localization_frame(results, kind="worst_box")


def test_macro_accuracies_name_what_is_not_printed_and_not_comparable(results):
    table = accuracy_frame(results, "iou").set_index("model")
    assert table.loc["PCAN", "false positives at >0.1"] == "not printed"
    assert "NOT COMPARABLE" in table.loc["CLARiTy, 512 px", "note"]
    assert table.loc["Random 32x32 map", "false positives at >0.1"] == "112.000"


def test_table_4_counts_parameters_and_gives_times_as_ratios():
    table = table_4({"resnet50": 10.0, "multires_resnet50": 12.5})
    assert (table["parameters here"] == table["paper"]).all()
    assert table.loc["multires_resnet50", ["time, ratio here", "ratio in the paper"]].tolist() == ["1.25", "1.09"]
    assert table.loc["multires_efficientnet_b4", "time, ratio here"] == "not measured"


def test_operating_points_and_froc_as_tables(results):
    table = operating_frame(results, STANDARD)
    assert table.loc["Mass", ["positive films", "threshold", "F1"]].tolist() == ["3", "0.250", "0.500 (0.40-0.60)"]
    assert table.loc["Hernia", "sensitivity"] == "not defined"
    assert froc_frame(results).loc[MULTIRES, "at 0.5"] == "0.300 (0.20-0.40)"


def test_froc_figure_lists_methods_best_first_and_cuts_no_model_off(results):
    figure = plot_froc(results)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names[-1].startswith("Random 32x32 map: 0.000") and {n.split(":")[0] for n in names[:2]} == {
        STANDARD,
        MULTIRES,
    }
    styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines[:3]}
    assert len(styles) == 3  # three methods, told apart
    with pytest.raises(InputError, match=r"iou>0\.1"):
        plot_froc(results, score="iou>0.9")
