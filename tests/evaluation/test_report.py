"""What stands beside the results, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxr_seam.data.nih import label_counts, load_metadata
from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.evaluation.tables import bootstrap_note, installed_versions, load_histories, recipe_table
from cxr_seam.findings import FINDINGS
from cxr_seam.metrics.localization import best_boxes, localization_table
from cxr_seam.presets import get_preset
from cxr_seam.visualize.examples import count_text, most_confident, score_best_boxes
from cxr_seam.visualize.report import Page


def test_labels_are_counted_as_in_the_csv(demo_folder: Path, demo_store) -> None:
    entries = pd.read_csv(demo_folder / "Data_Entry_2017_v2020.csv", dtype=str)
    test = set((demo_folder / "test_list.txt").read_text().split("\n"))
    in_test = entries[entries["Image Index"].isin(test)]["Finding Labels"].str.split("|")
    table = label_counts(load_metadata(demo_folder), demo_store)
    for finding in (*FINDINGS, "No Finding"):
        assert table.loc[finding, "test"] == sum(finding in labels for labels in in_test)
    assert table.loc["images"].tolist()[:2] == [len(entries) - len(in_test), len(in_test)]
    assert table.loc[FINDINGS[0] : FINDINGS[-1], "boxes"].sum() == len(load_metadata(demo_folder).boxes)


def test_the_recipe_table_shows_the_printed_numbers() -> None:
    """Sect. 5.1: 35 epochs at 3E-04; the PCM at 1E-06 for 3 epochs."""
    table = recipe_table(get_preset("resnet50"))
    assert table.loc[["classifier_stage.epochs", "classifier_stage.learning_rate"], "resnet50"].tolist() == [35, 3e-4]
    assert table.loc[["seam_stage.epochs", "seam_stage.learning_rate"], "multires_resnet50_pcm"].tolist() == [3, 1e-6]
    assert table.loc["classifier_stage.epochs", "multires_resnet50_pcm"] == ""


def test_histories_join_both_phases(tmp_path: Path) -> None:
    family = get_preset("tiny")
    with pytest.raises(InputError, match="notebook 02"):
        load_histories(family, tmp_path)
    for number, recipe in enumerate(family):
        (tmp_path / f"{recipe.name}.history.jsonl").write_text(f'{{"epoch": {number}}}\n')
    assert load_histories(family, tmp_path) == {STANDARD: [{"epoch": 0}], REFINED: [{"epoch": 1}, {"epoch": 2}]}
    assert load_histories(family[:2], tmp_path) == {STANDARD: [{"epoch": 0}], MULTIRES: [{"epoch": 1}]}


def test_versions_name_what_results_depend_on() -> None:
    assert {"torch", "numpy", "python", "device"} <= set(installed_versions().index)


def test_a_package_that_is_not_installed_is_told(monkeypatch) -> None:
    monkeypatch.setattr("cxr_seam.evaluation.tables.PACKAGES", ("numpy", "no-such-package-anywhere"))
    table = installed_versions()["version"]
    assert table["no-such-package-anywhere"] == "not installed" and table["numpy"][0].isdigit()


def test_intervals_that_rest_on_fewer_draws_are_told() -> None:
    def results(classified: int, located: int) -> dict:
        row = {"macro": {"num_valid": located}}
        return {
            "draws": 1000,
            "classification": {"A": {"mean": {"num_valid": 1000}}, "B": {"mean": {"num_valid": classified}}},
            "localization": {"A": {"all_boxes": {"iobb>0.1": row}}},
        }

    assert bootstrap_note(results(1000, 1000)) == ""
    note = bootstrap_note(results(1000, 874))
    assert "1,000 draws" in note and "874 for localization" in note and "classification" not in note
    assert "612 for classification, 874 for localization" in bootstrap_note(results(612, 874))


TRUTH = pd.DataFrame(
    [(name, "Mass", 0, 0, 100, 100) for name in "abcd"] + [("a", "Nodule", 0, 0, 100, 100)],
    columns=["image_index", "finding", "x", "y", "w", "h"],
)
# a: the stronger of two boxes misses. b: hits. c: hits, surer. d: no box at all.
BOXES = pd.DataFrame(
    [
        ("a", "Mass", 0, 0, 100, 100, 0.5),
        ("a", "Mass", 500, 500, 100, 100, 0.9),
        ("b", "Mass", 0, 0, 100, 50, 1.0),
        ("c", "Mass", 0, 0, 50, 50, 1.0),
    ],
    columns=["image_index", "finding", "x", "y", "w", "h", "score"],
)
PROBABILITIES = pd.DataFrame({"Mass": [0.9, 0.3, 0.6, 0.95], "Nodule": 0.5}, index=list("abcd"))


def test_the_surest_hit_and_miss_by_hand() -> None:
    judged = score_best_boxes(BOXES, TRUTH, PROBABILITIES)
    mass = judged[judged["finding"] == "Mass"].set_index("image_index")
    assert mass["iou"].to_dict() == {"a": 0, "b": 0.5, "c": 0.25, "d": 0}
    assert list(mass.index) == ["d", "a", "c", "b"]  # surest first
    assert most_confident(judged, hit=True) == [("c", "Mass")]
    assert most_confident(judged, hit=False) == [("d", "Mass"), ("a", "Nodule")]


def test_hits_are_not_told_without_their_false_positives() -> None:
    """Of five films and findings two are hits; the three others have boxes on one, "a": one false positive."""
    judged = score_best_boxes(BOXES, TRUTH, PROBABILITIES)
    table = localization_table(best_boxes(BOXES), TRUTH, images=list("abcd"), measure="iou", threshold=0.1)
    per_film = {"value": table.loc["macro", "false_positives_per_image"], "low": None, "high": None}
    scores = {"micro": {"false_positives": table.loc["micro", "false_positives"]}}
    scores["macro"] = {"false_positives_per_image": per_film}
    # one false positive on 4 films and 8 findings: 0.031
    assert count_text(judged, {"iou>0.1": scores}) == (
        "2 of 5 films and findings with a true box are hits, at 1 false positives, 0.031 per film and finding."
    )


def test_a_page_escapes_what_it_is_given() -> None:
    page = Page("<b>data</b>")
    page.heading(page.title)
    page.text("a & b")
    page.table(pd.DataFrame({"<i>": ["<script>"]}))
    html = page.html()
    assert "<script>" not in html and "<b>" not in html and "<i>" not in html
    assert "&lt;script&gt;" in html and "a &amp; b" in html


def test_an_interval_stands_below_its_value_where_there_are_many_columns() -> None:
    page = Page("")
    page.table(pd.DataFrame({"AUC": ["0.750 (0.700-0.800)", "-0.050 (-0.100 to 0.020)"]}), tight=True)
    assert "0.750<br><small>(0.700-0.800)</small>" in page.html()
    assert "-0.050<br><small>(-0.100 to 0.020)</small>" in page.html()
