"""Reading results.json: ranking, differences and comparison on cases made by hand."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from helpers.results import estimate, make_results, method

from cxr_seam.errors import InputError
from cxr_seam.evaluation import tables
from cxr_seam.evaluation.results import (
    ALL_BOXES,
    BEST_BOX,
    COSTS,
    FROC,
    LOOSE_BEST_BOX,
    LOOSE_FROC,
    MEAN_AUC,
    MEAN_AVERAGE_PRECISION,
    MULTIRES,
    SEEN_BOXES,
    STANDARD,
    compare,
    format_estimate,
    load_results,
    paired_differences,
    ranking,
    save_results,
)
from cxr_seam.visualize.figures import plot_froc, plot_reliability


@pytest.fixture
def results() -> dict:
    replicates = np.linspace(0, 1, 5)
    content = make_results(
        bootstrap={
            STANDARD: {
                MEAN_AUC: list(replicates),
                FROC: [None, *replicates[1:]],
                BEST_BOX: [0.0] * 5,
                ALL_BOXES: [0.5] * 5,
            },
            MULTIRES: {
                MEAN_AUC: list(replicates),
                FROC: list(replicates + 0.1),
                BEST_BOX: list(replicates),
                ALL_BOXES: [0.25] * 5,
            },
        }
    )
    content["differences"] = paired_differences(content)
    content["ranking"] = ranking(content)
    return content


def pair_of(content: dict, first: str, second: str) -> dict:
    return next(p["metrics"] for p in content["differences"] if (p["first"], p["second"]) == (first, second))


def test_ranking_by_froc_then_best_box(results):
    """The random map has an accuracy of 1 under the paper's rule and comes last; the best box decides equal FROCs."""
    assert [row["method"] for row in results["ranking"]] == [MULTIRES, STANDARD, "Random 32x32 map"]
    assert list(tables.summary(results).index) == [MULTIRES, STANDARD, "Random 32x32 map"]


def test_ranking_undefined_last(results):
    froc = results["localization"][MULTIRES]["froc"]["iou>0.3"]
    froc["at_fp_rate"]["0.5"] = froc["at_fp_rate"]["0.5"] | {"macro": estimate(None)}
    assert ranking(results)[-1]["method"] == MULTIRES


def test_ranking_ties_share_a_rank(results):
    results["localization"]["Centre box"] = method("baseline", froc=0.3, best=0.5, every=0.9, count=12)
    ranks = [(row["method"], row["rank"]) for row in ranking(results)]
    assert ranks == [(MULTIRES, 1), ("Centre box", 1), (STANDARD, 3), ("Random 32x32 map", 4)]


def test_ranking_has_false_positives(results):
    results["localization"][STANDARD]["best_box"]["iou>0.3"]["macro"]["false_positives_per_image"] = estimate(2, 1, 3)
    costs = {row["method"]: row["metrics"][COSTS[BEST_BOX]] for row in ranking(results)}
    assert costs[STANDARD] == estimate(2, 1, 3) and costs[MULTIRES] == estimate(0.5)


def test_summary_shows_false_positives(results):
    table = tables.summary(results)
    assert list(table.columns) == [
        "mean AUC",
        "FROC at 0.5 (IoU>0.3)",
        "best box (IoU>0.3)",
        "its false positives",
        "FROC at 0.5 (IoU>0.1)",
        "all boxes (IoBB>0.1)",
        "their false positives",
    ]
    assert table.loc[STANDARD].tolist() == [
        "0.750 (0.700-0.800)",
        "0.300 (0.200-0.400)",
        "0.400 (0.300-0.500)",
        "0.500",
        "0.300 (0.200-0.400)",
        "0.500 (0.400-0.600)",
        "1.000",
    ]
    assert table.loc["Random 32x32 map", "mean AUC"] == ""  # it classifies nothing


def test_paired_differences_by_hand(results):
    """MultiRes - Standard: equal replicates of the AUC; FROC replicates differ by 0.1 wherever both are defined."""
    pair = pair_of(results, MULTIRES, STANDARD)
    assert pair[MEAN_AUC] == estimate(0, 0, 0)
    assert (pair[FROC]["value"], pair[FROC]["low"], pair[FROC]["high"]) == pytest.approx((0, 0.1, 0.1))
    assert pair[ALL_BOXES]["value"] == pytest.approx(-0.1) and pair[ALL_BOXES]["high"] == -0.25
    assert tables.differences(results).iloc[0, 0] == "0.000 (0.000-0.000)"


def test_differences_show_false_positives(results):
    """All boxes: MultiRes costs 2, Standard 1; every draw of the one is 1.5 above the other's. Best boxes cost 0.5."""
    for name, replicates in ((STANDARD, [1, 2, 0, 1, 1]), (MULTIRES, [2.5, 3.5, 1.5, 2.5, 2.5])):
        results["bootstrap"][name][COSTS[ALL_BOXES]] = replicates
    results["differences"] = paired_differences(results)
    table = tables.differences(results)
    columns = list(table.columns)
    assert columns[columns.index("best box (IoU>0.3)") + 1] == "its false positives"
    assert columns[columns.index("all boxes (IoBB>0.1)") + 1] == "their false positives"
    row = table.loc[f"{MULTIRES} - {STANDARD}"]
    assert row["their false positives"] == "1.000 (1.500-1.500)"
    assert row["its false positives"] == "0.000"  # no replicates, no interval


def test_paired_difference_of_average_precision(results):
    scores = copy.deepcopy(results["classification"][STANDARD])
    scores["mean"]["average_precision"] = estimate(0.1)
    results["classification"][STANDARD] = scores
    results["bootstrap"][STANDARD][MEAN_AVERAGE_PRECISION] = [0.1, 0.2, 0.1, 0.1, 0.1]
    results["bootstrap"][MULTIRES][MEAN_AVERAGE_PRECISION] = [0.3, 0.4, 0.3, 0.3, 0.3]
    results["differences"] = paired_differences(results)
    value = pair_of(results, MULTIRES, STANDARD)[MEAN_AVERAGE_PRECISION]
    assert value == pytest.approx(estimate(0.3, 0.2, 0.2))


def test_best_model_minus_best_blind_baseline(results):
    """The baseline that has seen boxes is the better one, and no fair match; a baseline has no AUC to compare."""
    prior = method("baseline", froc=0.9, best=0.9, every=0.9, count=4) | {"note": SEEN_BOXES}
    results["localization"] |= {
        "Mean box": prior,
        "Centre box": method("baseline", froc=0.1, best=0.1, every=0.3, count=4),
    }
    results["differences"] = pairs = paired_differences(results)
    assert [(p["first"], p["second"]) for p in pairs] == [(MULTIRES, STANDARD), (MULTIRES, "Centre box")]
    pair = pair_of(results, MULTIRES, "Centre box")
    assert {figure: value["value"] for figure, value in pair.items()} == pytest.approx(
        {FROC: 0.2, BEST_BOX: 0.4, COSTS[BEST_BOX]: 0}
        | {LOOSE_FROC: 0.2, LOOSE_BEST_BOX: 0.4, COSTS[LOOSE_BEST_BOX]: 0}
        | {ALL_BOXES: 0.1, COSTS[ALL_BOXES]: 1}
    )
    assert tables.differences(results | {"differences": pairs}).loc[f"{MULTIRES} - Centre box", "mean AUC"] == ""


def test_format_estimate():
    assert format_estimate(estimate(0.6871, 0.61, 0.7449)) == "0.687 (0.610-0.745)"
    assert format_estimate(estimate(-0.05, -0.1, 0.02)) == "-0.050 (-0.100 to 0.020)"
    assert (format_estimate(estimate(0.5)), format_estimate(estimate(None))) == ("0.500", "")


def test_format_estimate_keeps_small_ends():
    """Whether 0 lies in it is what a reader asks of the interval of a difference."""
    assert format_estimate(estimate(0.004, 0.0012, 0.0068)) == "0.004 (0.001-0.007)"


def test_format_estimate_no_minus_zero():
    assert format_estimate(estimate(-0.0)) == format_estimate(estimate(-0.0004)) == "0.000"
    assert format_estimate(estimate(-1e-9, -0.0002, 0.0001)) == "0.000 (0.000-0.000)"


def test_compare_paired(results):
    other = copy.deepcopy(results)
    other["bootstrap"][STANDARD][BEST_BOX] = [0.2] * 5
    other["localization"][STANDARD]["best_box"]["iou>0.3"]["macro"]["accuracy"] = estimate(0.6)
    table, reason = compare(results, other)
    assert reason.startswith("Paired")
    row = table.loc[(STANDARD, "best box (IoU>0.3)")]
    assert row["second - first"] == "0.200 (0.200-0.200)"
    assert row["false positives"] == "0.500, 0.500"
    assert ("Random 32x32 map", "mean AUC") not in table.index
    assert table.loc[(STANDARD, "mean average precision"), "first"] == "0.400 (0.300-0.500)"


@pytest.mark.parametrize(
    ("change", "says", "paired"),
    [
        ({"seed": 1}, "bootstraps differ", []),
        ({"data": {"test_sha256": "other"}}, "the test images differ", ["localization"]),
        ({"data": {"findings": ["Mass"]}}, "the findings differ", ["localization"]),
        ({"data": {"boxed_sha256": "x"}}, "the boxed images", ["classification"]),
    ],
)
def test_compare_unpaired_has_no_interval(results, change, says, paired):
    if "data" in change:
        change = {"data": results["data"] | change["data"]}
    table, reason = compare(results, results | change)
    assert reason.startswith("Not paired") and says in reason
    cells = table["second - first"]
    assert cells[STANDARD, "mean AUC"] == ("0.000 (0.000-0.000)" if "classification" in paired else "0.000")
    assert cells[STANDARD, "best box (IoU>0.3)"] == ("0.000 (0.000-0.000)" if "localization" in paired else "0.000")


def test_compare_nothing_in_common(results):
    with pytest.raises(InputError, match="no method in common"):
        compare(results, results | {"localization": {}, "classification": {}})


def test_save_load_round_trip(results, tmp_path):
    save_results(results, tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    with pytest.raises(ValueError, match="Out of range"):
        save_results(results | {"seed": float("nan")}, tmp_path / "nan.json")


def test_load_refuses_missing_old_and_cut_files(tmp_path):
    with pytest.raises(InputError, match="none.json"):
        load_results(tmp_path / "none.json")
    (tmp_path / "old.json").write_text('{"format": 3}')
    with pytest.raises(InputError, match="old.json has format 3"):
        load_results(tmp_path / "old.json")
    (tmp_path / "half.json").write_text('{"format": 4')
    with pytest.raises(InputError, match="half.json"):
        load_results(tmp_path / "half.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_bootstrap", "many"),
        ("localization", {"X": {}}),
        ("classification", None),
        ("ranking", {}),
        ("bootstrap", {STANDARD: {FROC: ["a"]}}),
        ("colour", "red"),
    ],
)
def test_load_refuses_damaged_entry(results, tmp_path, key, value):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results | {key: value}))
    with pytest.raises(InputError, match=rf"results.json .*{key}"):
        load_results(path)


def test_operating_points_and_froc_tables(results):
    table = tables.operating_points(results, STANDARD)
    columns = ["positive images", "threshold of the raw score", "F1"]
    assert table.loc["Mass", columns].tolist() == ["3", "0.250", "0.500 (0.400-0.600)"]
    assert table.loc["Hernia", "sensitivity"] == "not defined"
    with pytest.raises(InputError, match="best"):
        tables.operating_points(results, STANDARD, point="best")
    assert tables.froc(results).loc[MULTIRES, "at 0.5"] == "0.300 (0.200-0.400)"


def test_calibration_table(results):
    """Mean probability (6 x 0.125 + 4 x 0.5) / 10; a constant of 0.3 has the Brier score 0.3 x 0.7."""
    table = tables.calibration(results)
    assert table.loc["Mass"].tolist() == [
        "12 of 48", "0.250", "0.300", "0.275", "0.110 (0.070-0.160)", "0.210", "0.175 (0.100-0.300)",
    ]  # fmt: skip
    assert table.loc["Hernia", ["positive validation images", "mean probability", "Brier score"]].tolist() == [
        "3 of 48", "not calibrated", "",
    ]  # fmt: skip


def test_reliability_figure_shows_bins_and_names_findings_without_calibration(results):
    figure = plot_reliability(results, STANDARD)
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == 13 and "not calibrated: Hernia" in figure.get_suptitle()
    *intervals, points, diagonal = (line.get_xydata().tolist() for line in shown[4].lines)
    assert points == [[0.125, 0.0], [0.5, 0.75]] and diagonal[0] == [0, 0] and diagonal[1][0] == diagonal[1][1]
    assert intervals == [[[0.125, 0.0], [0.125, 0.25]], [[0.5, 0.5], [0.5, 1.0]]]
    assert "Mass" in shown[4].get_title() and "0.175" in shown[4].get_title()
    for row in results["classification"][STANDARD]["findings"].values():
        row["calibration"]["bins"] = []
    assert not [axes for axes in plot_reliability(results, STANDARD).axes if axes.axison]


def test_froc_figure_legend_best_first(results):
    figure = plot_froc(results)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names[-1].startswith("Random 32x32 map: 0.000") and {n.split(":")[0] for n in names[:2]} == {
        STANDARD,
        MULTIRES,
    }
    styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines[:3]}
    assert len(styles) == 3  # three distinct methods
    with pytest.raises(InputError, match=r"iou>0\.1"):
        plot_froc(results, score="iou>0.9")
