"""The rows of the studies: each changes what it names and nothing else, and no row trains longer than the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.study.rows import BASE, QUESTIONS, SINGLE, Row, ablation_rows, beyond_rows, count_passes
from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import REFINED
from cxr_seam.recipes import Recipe


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries: {"a": {"b": 1}} becomes {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def changes(row: Row, other: Row) -> dict[str, Any]:
    """The fields of the recipes in which two rows differ, with the values of the first."""
    ours, theirs = (flat({str(i): recipe for i, recipe in enumerate(r.identity["recipes"])}) for r in (row, other))
    ours, theirs = (fields | flat(r.identity["at_test"], "test.") for fields, r in ((ours, row), (theirs, other)))
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    return {
        key.removeprefix("0.").removeprefix("1."): ours.get(key)
        for key in differing
        if not key.endswith(("name", "init_from"))
    }


def test_ablation_rows_change_only_their_question() -> None:
    """The demo trains theta at 1e-3 for 1 epoch without accumulation, the paper at 1e-6 for 3 epochs with 3 batches."""
    rows = ablation_rows("demo")
    found = {name: changes(row, rows[BASE]) for name, row in rows.items() if name != "theta_untrained"}
    printed = {"seam_stage.epochs": 3, "seam_stage.learning_rate": 1e-6, "seam_stage.grad_accum_steps": 3}
    assert found == {
        BASE: {},
        "theta_as_printed": printed,
        "ohem_off": {"seam_stage.ohem_fraction": 1.0},
        "background_output": {"background": "output"},
        "head_frozen": {"classifier_stage.train_head": False},
        "gamma_5": {"lse_gamma": 5.0},
        "gamma_20": {"lse_gamma": 20.0},
        **{f"q_{q}": {"test.cam_threshold": q} for q in (0.5, 0.6, 0.8, 0.9)},
    }
    untrained = rows["theta_untrained"]
    assert untrained.recipes == rows[BASE].recipes[:1] and untrained.model == REFINED


@pytest.mark.parametrize(("preset", "rate", "epochs"), [("resnet50", 1e-6, 3), ("efficientnet_b4", 1e-5, 1)])
def test_base_of_the_papers_presets_has_the_printed_theta(preset: str, rate: float, epochs: int) -> None:
    """Sect. 5.1: 1E-06 for 3 epochs with ResNet50, 1E-05 and 1 epoch with EfficientNetB4."""
    rows = ablation_rows(preset, questions=["theta"])
    assert list(rows) == [BASE, "theta_untrained", "theta_1e-3"]
    stage = rows[BASE].recipes[1].seam_stage
    assert (stage.learning_rate, stage.epochs) == (rate, epochs)
    assert changes(rows["theta_1e-3"], rows[BASE]) == {"seam_stage.learning_rate": 1e-3}


def test_gamma_has_no_rows_for_a_pooling_without_gamma() -> None:
    assert list(ablation_rows("strong", questions=["gamma"])) == [BASE]


def test_unknown_question_is_refused() -> None:
    with pytest.raises(InputError, match="'momentum'"):
        ablation_rows("demo", questions=["momentum"])


def count(recipe: Recipe) -> int:
    return 7_106 if recipe.data.num_normal_images else 8_219


def beyond(seed: int = 0, backbone: str = "efficientnet_lite0") -> dict[str, Row]:
    return beyond_rows(backbone=backbone, size=128, epochs=9, seed=seed, count=count)


@pytest.mark.parametrize(
    "rows", [ablation_rows("demo", seed=1, questions=QUESTIONS), beyond(seed=1)], ids=["ablations", "beyond"]
)
def test_each_recipe_has_its_own_name_and_the_seed(rows: dict[str, Row]) -> None:
    recipes = {recipe.name: recipe for row in rows.values() for recipe in row.recipes}
    assert all(recipes[recipe.name] == recipe for row in rows.values() for recipe in row.recipes)
    seeds = {row.name: [recipe.seed for recipe in row.recipes] for row in rows.values()}
    pairs = [seeds.pop(name) for name, row in rows.items() if row.average]
    assert {seed for found in seeds.values() for seed in found} == {1} and all(pair == [2, 3] for pair in pairs)
    assert all(recipe.init_from is None or recipe.init_from in recipes for recipe in recipes.values())
    assert len({str(row.identity) for row in rows.values()}) == len(rows)
    assert all(row.against in rows for row in rows.values())


def test_no_row_draws_more_images_than_the_paper() -> None:
    """But for means of two models, which draw twice as many, and joint training, which adds two epochs.

    A share of the patients draws that share.
    """
    rows = beyond()
    shares = {word: sum(count_passes(rows[f"strong_{word}"], count).values()) for word in ("eighth", "quarter", "half")}
    whole = sum(count_passes(rows["strong"], count).values())
    assert shares == {"eighth": round(whole / 8), "quarter": round(whole / 4), "half": round(whole / 2)}
    assert sum(count_passes(rows["two_models"], count).values()) == 2 * whole
    for row in rows.values():
        if row.average or row.patient_share < 1:
            continue
        if row.name.startswith("strong_joint"):
            assert sum(count_passes(row, count).values()) == whole + 2 * count(rows["strong"].recipes[0])
            continue
        budget = (9 + len(row.recipes) - 1) * 7_106
        assert budget - count(row.recipes[0]) < sum(count_passes(row, count).values()) <= budget


@pytest.mark.parametrize(
    ("name", "fields"),
    {
        "all_images": {"data.num_normal_images", "classifier_stage.epochs"},
        "rate": {"classifier_stage.learning_rate"},
        "whole_backbone": {"classifier_stage.freeze_below_stride"},
        "negative_mean": {"test.cam_baseline"},
        "without_flip": {"test.tta_flip"},
        SINGLE: {"test.tta_flip", "test.tta_scales"},
        "with_prior": {"test.map_prior"},
        "without_moments": {"test.box_rule"},
        "without_mirror": {"test.mirror_share"},
        "without_window": {"test.box_rule"},
        "with_papers_boxes": {
            "test.cam_threshold",
            "test.cam_baseline",
            "test.mirror_share",
            "test.box_rule",
        },
        "paper_annealed": {
            "classifier_stage.grad_accum_steps",
            "classifier_stage.schedule",
            "classifier_stage.warmup_fraction",
        },
        "without_all_images": {"data.num_normal_images", "classifier_stage.epochs"},
        "without_pcam": {"pooling"},
        "without_pcam_on_sample": {"pooling"},
        "with_wide_crops": {"augmentation.crop_area"},
        "without_whole_backbone": {"classifier_stage.freeze_below_stride"},
    }.items(),
)
def test_beyond_rows_change_only_what_they_name(name: str, fields: set[str]) -> None:
    rows = beyond()
    first_stage = {key for key in changes(rows[name], rows[rows[name].against]) if "seam_stage" not in key}
    if rows[name].against == "paper" and len(rows[name].recipes) == 1:  # the paper's second recipe has no counterpart
        ours, theirs = (Row("", "", rows[n].recipes[:1], "", rows[n].at_test) for n in (name, "paper"))
        first_stage = set(changes(ours, theirs))
    assert first_stage == fields
