"""Tables of labels, recipes, histories and versions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxr_seam.data.nih import label_counts, load_metadata
from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.evaluation.tables import bootstrap_note, installed_versions, load_histories, recipe_table
from cxr_seam.findings import FINDINGS
from cxr_seam.presets import get_preset


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
