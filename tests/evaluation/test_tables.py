"""Tables 1 to 4: what is marked, what is ranked, and what stands beside every accuracy."""

from __future__ import annotations

import re

import pytest

from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.evaluation.tables import (
    accuracy_table,
    comparability_note,
    is_official,
    localization_comparison,
    mean_auc_table,
    table_1,
    table_4,
)
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS

PAPER, WANG = "D'Souza et al. 2022", "Wang et al. 2017"
RANDOM = "Random 32x32 map"
# Film by film, four of them; ten true boxes of each finding.
IMAGES, BOXES = 4, 80


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def rows(accuracy: float, count: int) -> dict:
    """The same for each finding: so many false positives of it on the four films."""

    def row(false_positives: int, findings: int) -> dict:
        return {
            "accuracy": estimate(accuracy, accuracy - 0.1, accuracy + 0.1),
            "false_positives": false_positives,
            "false_positives_per_image": estimate(false_positives / IMAGES / findings),
            "false_positives_per_box": estimate(false_positives / BOXES / findings),
        }

    return {
        "findings": {finding: row(count, 1) for finding in BOXED_FINDINGS},
        "macro": row(8 * count, 8),
        "micro": row(8 * count, 1),
    }


def scores(accuracy: float, count: int, note: str = "") -> dict:
    """A higher threshold is passed by fewer boxes: one more false positive at each of them."""
    overlaps = [f"iobb>{t}" for t in (0.1, 0.25, 0.5)] + [f"iou>{t}" for t in (0.1, 0.2, 0.3, 0.4, 0.5)]
    tables = {overlap: rows(accuracy, count + place) for place, overlap in enumerate(overlaps)}
    gated = {overlap: rows(accuracy / 2, 1) for overlap in overlaps}
    return {"note": note, "all_boxes": tables, "best_box": tables, "gated_boxes": gated}


@pytest.fixture
def results() -> dict:
    finding = {"auc": estimate(0.75, 0.61, 0.84)}
    findings = {name: finding for name in FINDINGS[:-1]} | {FINDINGS[-1]: {"auc": estimate(None)}}
    models = {
        model: {"findings": findings, "mean": {"auc": estimate(0.75, 0.7, 0.8), "findings_defined": 13}}
        for model in (STANDARD, MULTIRES, REFINED)
    }
    return {
        "data": {"test_images": 10, "test_patients": 5, "boxed_images": IMAGES, "true_boxes": BOXES},
        "classification": models,
        "localization": {STANDARD: scores(0.5, 4), RANDOM: scores(0.9, 448, "never saw a film")},
    }


def make_official(results: dict) -> None:
    results["data"] |= {"test_images": 25_596, "test_patients": 2_797, "boxed_images": 880, "true_boxes": 984}
    for model in results["classification"].values():
        model["mean"]["findings_defined"] = 14


def test_what_does_not_compare_is_marked_by_name_and_never_ranked(results):
    table = mean_auc_table(results).set_index("model")
    for name in ("CheXNet", "SynthEnsemble", "MobileNetV2", STANDARD, MULTIRES):
        assert table.loc[name, "note"].startswith("NOT COMPARABLE") and table.loc[name, "rank"] == "-", name
    for name in ("CRAL DenseNet121", "MultiRes-ResNet50", "EVA-X-B"):
        assert "NOT COMPARABLE" not in table.loc[name, "note"] and table.loc[name, "rank"].isdigit(), name
    assert comparability_note(results).count("NOT COMPARABLE") == 2
    for measure in ("iobb", "iou"):
        table = accuracy_table(results, measure).set_index("model")
        assert all(table.loc[name, "note"].startswith("NOT COMPARABLE") for name in (STANDARD, RANDOM))
        assert "NOT COMPARABLE" not in table.loc["DenseNet121 at 512 px, CAM", "note"]
        assert "rank" not in table
    assert table.loc["CLARiTy, 512 px", "note"].startswith("NOT COMPARABLE")
    assert table.loc[RANDOM, "note"].endswith("never saw a film")


def test_only_the_whole_official_list_is_ranked_with_the_published(results):
    make_official(results)
    assert is_official(results) and is_official(results, boxed=True) and "NOT" not in comparability_note(results)
    table = mean_auc_table(results)
    ours = table[table["source"] == "here"].iloc[0]
    # 0.750 is below Yao et al.'s 0.761 and above Wang et al.'s 0.745.
    assert table["model"].tolist()[int(ours["rank"]) - 2] == "Multi-resolution ResNet50"
    assert set(table.loc[table["rank"] == "-", "model"]) == {"CheXNet", "SynthEnsemble", "MobileNetV2"}
    located = accuracy_table(results, "iou").set_index("model")["note"]
    assert located[STANDARD] == "" and located[RANDOM] == "never saw a film"
    assert located["CLARiTy, 512 px"].startswith("NOT COMPARABLE")


def test_a_mean_over_thirteen_findings_is_not_ranked_with_means_over_fourteen(results):
    make_official(results)
    results["classification"][STANDARD]["mean"]["findings_defined"] = 13
    row = mean_auc_table(results).set_index("model").loc[STANDARD]
    assert (row["rank"], row["note"]) == ("-", "NOT COMPARABLE; over 13 findings")


def test_equal_values_share_a_rank(results):
    """0.817 is the ninth of the published; two of ours print the same, so what follows, 0.816, is the twelfth."""
    make_official(results)
    for model, value in ((STANDARD, 0.8168), (MULTIRES, 0.81743)):
        results["classification"][model] = results["classification"][model] | {
            "mean": {"auc": estimate(value), "findings_defined": 14}
        }
    rank = mean_auc_table(results).set_index("model")["rank"]
    assert rank[STANDARD] == rank[MULTIRES] == rank["ResNet50, ImageNet weights, all layers tuned, 224 px"] == "9"
    assert (rank["DenseNet121"], rank["CRAL DenseNet121"]) == ("8", "12")


def test_no_accuracy_is_printed_without_its_false_positives(results):
    """Each threshold's own: 448, 449, 450 of a finding on four films are 112, 112.25, 112.5 per film."""
    table = accuracy_table(results, "iobb").set_index("model")
    assert table.loc[RANDOM, [">0.1", ">0.25", ">0.5"]].tolist() == [
        "0.900 (0.800-1.000) at 112.000",
        "0.900 (0.800-1.000) at 112.250",
        "0.900 (0.800-1.000) at 112.500",
    ]
    # Table 3: (0.467 + 0.106 + 0.686 + 1.103 + 0.292 + 0.278 + 0.228 + 0.302) / 8 = 0.433
    paper = table.loc["MultiRes-ResNet50 + PCM"]
    assert (paper[">0.1"], paper[">0.25"]) == ("0.417 at 0.433", "")
    # Wang et al.: (.8323 + .3506 + .7998 + .5589 + .6423 + .6047 + .9055 + .4776) / 8 = 0.646
    assert table.loc["ResNet50", ">0.1"] == "0.629 at 0.646" and "per box" in table.loc["ResNet50", "false positives"]
    for measure in ("iobb", "iou"):
        table = accuracy_table(results, measure).set_index("model")
        cells = table.filter(like=">").stack()
        unprinted = cells[~cells.str.contains(" at ") & (cells != "")]
        known = [name for name, _ in unprinted.index if table.loc[name, "false positives"] != "not printed"]
        assert set(known) <= {"ResNet50"}  # Wang et al.'s at higher thresholds, as the column says


def test_accuracies_keep_the_decimals_of_their_sources(results):
    table = accuracy_table(results, "iou").set_index("model")
    assert table.loc["DenseNet121 at 512 px, CAM", ">0.1"] == "0.56"
    assert table.loc["CLARiTy, 512 px", [">0.1", ">0.5"]].tolist() == ["0.81", "0.32"]
    assert mean_auc_table(results).set_index("model").loc["Foundation X", "mean AUC"] == "0.8335"


def test_table_1_leaves_the_repeated_column_out_and_says_what_is_not_defined(results):
    table = table_1(results)
    here = [key for key in table.columns if key[0].startswith("here")]
    assert [model for _, model in here] == [STANDARD, MULTIRES]
    assert table.loc["Hernia", here[0]] == "not defined" and table.loc["Mean", here[0]] == "0.750 (0.700-0.800)"
    assert table[PAPER, "MultiRes-ResNet50"]["Mass"] == "0.809"
    assert "NOT COMPARABLE" in next(source for source, name in table.columns if name.startswith("MobileNetV2"))


def test_tables_2_and_3_show_the_published_with_the_quotient_they_print(results):
    table = localization_comparison(results)
    refined = table.loc[(PAPER, "MultiRes-ResNet50 + PCM", "accuracy")]
    assert (refined["macro"], refined["micro"]) == ("0.417", "0.449")
    assert (WANG, "ResNet50", "false positives per box") in table.index
    assert (WANG, "ResNet50", "false positives per image") not in table.index  # theirs are per box
    best = localization_comparison(results, kind="best_box", score="iou>0.1")
    assert not best.index.get_level_values(0).str.contains("Wang").any()
    with pytest.raises(InputError, match=r"iobb>0\.1"):
        localization_comparison(results, score="dice")
    with pytest.raises(InputError, match="best_box"):
        localization_comparison(results, kind="worst_box")


def test_false_positives_are_counted_and_divided(results):
    """Four of each of eight findings, on four films with 80 true boxes; the published counts give their quotients."""
    table = localization_comparison(results)
    (here,) = {source for source, *_ in table.index if source.startswith("here")}
    ours = table.xs((here, STANDARD), level=(0, 1))
    assert ours.loc["false positives", ["Mass", "macro", "micro"]].tolist() == ["4", "", "32"]
    assert ours.loc["false positives per image", ["Mass", "macro", "micro"]].tolist() == ["1.000", "1.000", "8.000"]
    assert ours.loc["false positives per box", ["Mass", "macro", "micro"]].tolist() == ["0.050", "0.050", "0.400"]
    paper = table.loc[(PAPER, "MultiRes-ResNet50 + PCM", "false positives")]
    assert round(int(paper["Atelectasis"]) / 880, 3) == 0.467 and round(int(paper["Infiltration"]) / 880, 3) == 1.103
    wang = table.loc[(WANG, "ResNet50", "false positives")]
    assert round(int(wang["Atelectasis"]) / 984, 4) == 0.8323 and round(int(wang["Nodule"]) / 984, 4) == 0.6047
    counts = [int(wang[finding]) for finding in BOXED_FINDINGS]
    assert int(wang["micro"].replace(",", "")) == sum(counts)


def test_gated_boxes_are_a_table_of_their_own(results):
    table = localization_comparison(results, kind="gated_boxes")
    assert table.xs("false positives", level=2)["micro"].tolist() == ["8", "8"]  # one of each finding
    assert table.xs("accuracy", level=2)["macro"].tolist() == ["0.250 (0.150-0.350)", "0.450 (0.350-0.550)"]
    assert all(source.startswith("here") for source, *_ in table.index)  # nobody prints theirs


def test_table_4_counts_parameters_and_promises_no_time_that_was_not_measured():
    table = table_4()
    assert (table["parameters here"] == table["paper"]).all()
    # 16.93 / 15.51 and 23.46 / 20.29
    ratio = table["ratio of times in the paper"]
    assert (ratio["multires_resnet50"], ratio["multires_efficientnet_b4"]) == ("1.09", "1.16")
    assert not any(re.search("not measured", cell) for cell in table.to_numpy().ravel())
