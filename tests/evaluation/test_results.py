"""Reading results.json: ranking, differences and comparison on cases made by hand."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import (
    ALL_BOXES,
    BEST_BOX,
    COSTS,
    FROC,
    MEAN_AUC,
    MEAN_AVERAGE_PRECISION,
    MULTIRES,
    REFINED,
    SEEN_BOXES,
    STANDARD,
    compare,
    difference_table,
    format_estimate,
    load_results,
    paired_differences,
    ranking,
    save_results,
    summary_table,
)
from cxr_seam.evaluation.tables import froc_table, localization_comparison, operating_point_table
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS
from cxr_seam.visualize.figures import plot_froc


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def method(kind: str, *, froc: float, best: float, every: float, cost: float) -> dict:
    """One method's scores; its best box costs 0.5 false positives, all its boxes cost `cost`."""

    def table(accuracy, false_positives):
        row = {
            "boxes": 10,
            "correct": round(10 * accuracy),
            "accuracy": estimate(accuracy, accuracy - 0.1, accuracy + 0.1),
            "false_positives": 7,
            "false_positives_per_image": estimate(false_positives),
            "false_positives_per_box": estimate(2 * false_positives),
        }
        return {"findings": dict.fromkeys(BOXED_FINDINGS, row), "macro": row, "micro": row}

    overlaps = ("iobb>0.1", "iobb>0.25", "iobb>0.5", "iou>0.1", "iou>0.2", "iou>0.3", "iou>0.4", "iou>0.5")
    at = {x: {"findings": {}, "macro": estimate(froc, froc - 0.1, froc + 0.1)} for x in ("0.25", "0.5", "1.0")}
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
        "auc": estimate(0.75, 0.61, 0.84),
        **dict.fromkeys(("average_precision", "sensitivity", "specificity", "f1"), estimate(0.5, 0.4, 0.6)),
    }
    undefined = dict.fromkeys(finding, estimate(None)) | {"positives": 0, "negatives": 10, "threshold": None}
    findings = {name: finding for name in FINDINGS[:-1]} | {FINDINGS[-1]: undefined}
    mean = {"auc": estimate(0.75, 0.7, 0.8), "average_precision": estimate(0.4, 0.3, 0.5), "findings_defined": 13}
    classification = {"findings": findings, "mean": mean}
    localization = {
        "Random 32x32 map": method("control", froc=0.0, best=0.0, every=1.0, cost=112.0),
        STANDARD: method("model", froc=0.3, best=0.4, every=0.5, cost=1.0),
        MULTIRES: method("model", froc=0.3, best=0.5, every=0.4, cost=2.0),
    }
    draws = np.linspace(0, 1, 5)
    content = {
        "format": 3,
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
    assert list(summary_table(results).index) == [MULTIRES, STANDARD, "Random 32x32 map"]


def test_a_method_without_a_value_is_ranked_last(results):
    results["localization"][MULTIRES]["froc"]["iou>0.1"]["at"]["0.5"]["macro"] = estimate(None)
    assert ranking(results)[-1]["method"] == MULTIRES


def test_equal_methods_share_a_rank_and_the_next_is_lower_by_their_number(results):
    results["localization"]["Centre box"] = method("control", froc=0.3, best=0.5, every=0.9, cost=3.0)
    ranks = [(row["method"], row["rank"]) for row in ranking(results)]
    assert ranks == [(MULTIRES, 1), ("Centre box", 1), (STANDARD, 3), ("Random 32x32 map", 4)]


def test_what_a_rank_costs_is_a_measured_value(results):
    results["localization"][STANDARD]["best_box"]["iou>0.1"]["macro"]["false_positives_per_image"] = estimate(2, 1, 3)
    costs = {row["method"]: row["false_positives_per_image"] for row in ranking(results)}
    assert costs[STANDARD] == estimate(2, 1, 3) and costs[MULTIRES] == estimate(0.5)


def test_no_accuracy_stands_without_its_false_positives(results):
    table = summary_table(results)
    assert list(table.columns) == [
        "mean AUC",
        "FROC at 0.5 (IoU>0.1)",
        "best box (IoU>0.1)",
        "its false positives",
        "all boxes (IoBB>0.1)",
        "their false positives",
    ]
    assert table.loc[STANDARD].tolist() == [
        "0.750 (0.700-0.800)",
        "0.300 (0.200-0.400)",
        "0.400 (0.300-0.500)",
        "0.500",
        "0.500 (0.400-0.600)",
        "1.000",
    ]
    assert table.loc["Random 32x32 map", "mean AUC"] == ""  # it classifies nothing
    quantities = localization_comparison(results).index.get_level_values(2)
    assert (quantities == "accuracy").sum() <= quantities.str.startswith("false positives").sum()


def test_differences_are_paired_by_hand(results):
    """MultiRes - Standard: equal draws of the AUC; FROC draws differ by 0.1 wherever both are defined."""
    pair = results["differences"][f"{MULTIRES} - {STANDARD}"]
    assert pair[MEAN_AUC] == estimate(0, 0, 0)
    assert (pair[FROC]["value"], pair[FROC]["low"], pair[FROC]["high"]) == pytest.approx((0, 0.1, 0.1))
    assert pair[ALL_BOXES]["value"] == pytest.approx(-0.1) and pair[ALL_BOXES]["high"] == -0.25
    assert difference_table(results).iloc[0, 0] == "0.000 (0.000-0.000)"


def test_a_difference_of_accuracies_stands_beside_that_of_their_false_positives(results):
    """All boxes: MultiRes costs 2, Standard 1; every draw of the one is 1.5 above the other's. Best boxes cost 0.5."""
    for name, draws in ((STANDARD, [1, 2, 0, 1, 1]), (MULTIRES, [2.5, 3.5, 1.5, 2.5, 2.5])):
        results["samples"][name][COSTS[ALL_BOXES]] = draws
    results["differences"] = paired_differences(results)
    table = difference_table(results)
    columns = list(table.columns)
    assert columns[columns.index("best box (IoU>0.1)") + 1] == "its false positives"
    assert columns[columns.index("all boxes (IoBB>0.1)") + 1] == "their false positives"
    row = table.loc[f"{MULTIRES} - {STANDARD}"]
    assert row["their false positives"] == "1.000 (1.500-1.500)"
    assert row["its false positives"] == "0.000"  # no draws, no interval


def test_the_mean_average_precision_is_paired_too(results):
    scores = copy.deepcopy(results["classification"][STANDARD])
    scores["mean"]["average_precision"] = estimate(0.1)
    results["classification"][STANDARD] = scores
    results["samples"][STANDARD][MEAN_AVERAGE_PRECISION] = [0.1, 0.2, 0.1, 0.1, 0.1]
    results["samples"][MULTIRES][MEAN_AVERAGE_PRECISION] = [0.3, 0.4, 0.3, 0.3, 0.3]
    value = paired_differences(results)[f"{MULTIRES} - {STANDARD}"][MEAN_AVERAGE_PRECISION]
    assert value == pytest.approx(estimate(0.3, 0.2, 0.2))


def test_the_best_model_stands_against_the_best_control_that_has_seen_no_boxes(results):
    """The control that has seen boxes is the better one, and no fair match; a control has no AUC to compare."""
    prior = method("control", froc=0.9, best=0.9, every=0.9, cost=1.0) | {"note": SEEN_BOXES}
    results["localization"] |= {
        "Mean box": prior,
        "Centre box": method("control", froc=0.1, best=0.1, every=0.3, cost=0.9),
    }
    pairs = paired_differences(results)
    assert list(pairs) == [f"{MULTIRES} - {STANDARD}", f"{MULTIRES} - Centre box"]
    pair = pairs[f"{MULTIRES} - Centre box"]
    assert {figure: value["value"] for figure, value in pair.items()} == pytest.approx(
        {FROC: 0.2, BEST_BOX: 0.4, COSTS[BEST_BOX]: 0, ALL_BOXES: 0.1, COSTS[ALL_BOXES]: 1.1}
    )
    assert difference_table(results | {"differences": pairs}).loc[f"{MULTIRES} - Centre box", "mean AUC"] == ""


def test_a_value_is_said_with_its_interval():
    assert format_estimate(estimate(0.6871, 0.61, 0.7449)) == "0.687 (0.610-0.745)"
    assert format_estimate(estimate(-0.05, -0.1, 0.02)) == "-0.050 (-0.100 to 0.020)"
    assert format_estimate(estimate(0.5, 0.25, 0.75), digits=2) == "0.50 (0.25-0.75)"
    assert (format_estimate(estimate(0.5)), format_estimate(estimate(None))) == ("0.500", "")


def test_an_interval_above_0_is_printed_above_0():
    """Whether 0 lies in it is what a reader asks of the interval of a difference."""
    assert format_estimate(estimate(0.004, 0.0012, 0.0068)) == "0.004 (0.001-0.007)"


def test_there_is_no_minus_zero():
    assert format_estimate(estimate(-0.0)) == format_estimate(estimate(-0.0004)) == "0.000"
    assert format_estimate(estimate(-1e-9, -0.0002, 0.0001)) == "0.000 (0.000-0.000)"


def test_two_results_on_the_same_films_are_paired(results):
    other = copy.deepcopy(results)
    other["samples"][STANDARD][BEST_BOX] = [0.2] * 5
    other["localization"][STANDARD]["best_box"]["iou>0.1"]["macro"]["accuracy"] = estimate(0.6)
    comparison = compare(results, other)
    assert comparison.paired == {"classification": True, "localization": True} and "Paired" in comparison.reason
    row = comparison.table.loc[(STANDARD, "best box (IoU>0.1)")]
    assert row["second - first"] == "0.200 (0.200-0.200)"
    assert row["false positives"] == "0.500, 0.500"
    assert ("Random 32x32 map", "mean AUC") not in comparison.table.index
    assert comparison.table.loc[(STANDARD, "mean average precision"), "first"] == "0.400 (0.300-0.500)"


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
    assert cells[STANDARD, "mean AUC"] == ("0.000 (0.000-0.000)" if "classification" in paired else "0.000")
    assert cells[STANDARD, "best box (IoU>0.1)"] == ("0.000 (0.000-0.000)" if "localization" in paired else "0.000")


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
    (tmp_path / "old.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="old.json has format 2"):
        load_results(tmp_path / "old.json")
    (tmp_path / "half.json").write_text('{"format": 3')
    with pytest.raises(InputError, match="half.json is damaged"):
        load_results(tmp_path / "half.json")


def test_operating_points_and_froc_as_tables(results):
    table = operating_point_table(results, STANDARD)
    assert table.loc["Mass", ["positive films", "threshold", "F1"]].tolist() == ["3", "0.250", "0.500 (0.400-0.600)"]
    assert table.loc["Hernia", "sensitivity"] == "not defined"
    assert froc_table(results).loc[MULTIRES, "at 0.5"] == "0.300 (0.200-0.400)"


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
