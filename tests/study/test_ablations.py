"""What the paper leaves open: that each choice is what it is called, and that its figures are those of its model."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from ablations import ablate, ablation_table
from variants import QUESTIONS, Models, changed_fields, choices, is_trained

from cxr_seam.__main__ import main
from cxr_seam.errors import InputError
from cxr_seam.evaluation.evaluate import evaluate
from cxr_seam.evaluation.results import ALL_BOXES, BEST_BOX, FROC, MEAN_AUC, MULTIRES, REFINED
from cxr_seam.findings import BOXED_FINDINGS
from cxr_seam.inference.boxes import predicted_boxes
from cxr_seam.inference.heatmaps import PAPER_SIZE, cam_to_heatmap
from cxr_seam.metrics.localization import localization_table
from cxr_seam.models.checkpoint import (
    Checkpoint,
    best_path,
    history_path,
    load_checkpoint,
    read_header,
    save_checkpoint,
)
from cxr_seam.models.multires import build_model
from cxr_seam.presets import get_preset
from cxr_seam.workspace import Workspace

_, MULTI, PCM = get_preset("tiny")
DRAWS = 30


def save_pair(folder, *, seed: int = 0) -> None:
    """A MultiRes model that is not trained, and the same with another theta."""
    torch.manual_seed(seed)
    model = build_model(MULTI.model, weights="none")
    save_checkpoint(best_path(folder, MULTI.name), model, metadata=Checkpoint(MULTI, epoch=1))
    torch.nn.init.normal_(model.refiner.theta.weight)
    save_checkpoint(best_path(folder, PCM.name), model, metadata=Checkpoint(PCM, epoch=1))


@pytest.fixture(scope="module")
def workspace(demo_folder, demo_store, tmp_path_factory):
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path_factory.mktemp("keep"))
    workspace.prepare_data()
    save_pair(workspace.models)
    return workspace


@pytest.fixture(scope="module")
def results(workspace):
    return ablate(workspace, questions=["theta", "q", "head"], draws=DRAWS)


def rows(results, question, maps=REFINED):
    return {row["choice"]: row for row in results["rows"] if (row["question"], row["maps"]) == (question, maps)}


def test_a_choice_changes_what_it_names_and_nothing_else():
    """The demo's own recipes train theta at 1e-3 in 1 epoch without grad_accum_steps; the paper at 1e-6 in 3 with 3."""
    _, multires, pcm = get_preset("demo")
    changed = {q: {c.name: changed_fields(c, multires, pcm) for c in choices(q, multires, pcm)} for q in QUESTIONS}
    printed = {"seam_stage.epochs": 3, "seam_stage.learning_rate": 1e-6, "seam_stage.grad_accum_steps": 3}
    assert list(changed["theta"].values()) == [{"seam_stage": None}, printed, {}]
    assert list(changed["ohem"].values()) == [{}, {"seam_stage.ohem_fraction": 1.0}]
    assert list(changed["background"].values()) == [{}, {"background": "output"}]
    assert list(changed["head"].values()) == [{}, {"classifier_stage.train_head": False}]
    assert list(changed["gamma"].values()) == [{"lse_gamma": 5.0}, {}, {"lse_gamma": 20.0}]
    values = [{"cam_threshold": q} for q in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert list(changed["q"].values()) == [*values[:2], {}, *values[3:]]


@pytest.mark.parametrize(("family", "rate", "epochs"), [("resnet50", 1e-6, 3), ("efficientnet_b4", 1e-5, 1)])
def test_of_the_papers_own_recipes_the_printed_theta_is_their_own(family, rate, epochs):
    """Sect. 5.1: 1E-06 for 3 epochs with ResNet50, 1E-05 and 1 epoch with EfficientNetB4."""
    _, multires, pcm = get_preset(family)
    _, printed, faster = choices("theta", multires, pcm)
    assert printed.own and printed.second is pcm
    assert (printed.second.seam_stage.learning_rate, printed.second.seam_stage.epochs) == (rate, epochs)
    assert not faster.own and changed_fields(faster, multires, pcm) == {"seam_stage.learning_rate": 1e-3}


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_model_that_is_trained_has_a_name_of_its_own(question):
    _, multires, pcm = get_preset("demo")
    recipes = {r.name: r for c in choices(question, multires, pcm) for r in (c.first, c.second) if r is not None}
    for choice in choices(question, multires, pcm):
        for recipe in (choice.first, choice.second):
            if recipe is not None:
                assert replace(recipe, cam_threshold=0) == replace(recipes[recipe.name], cam_threshold=0)


def test_a_recipe_that_chooses_otherwise_stands_first_in_its_own_row():
    first, *others = choices("gamma", replace(MULTI, lse_gamma=7.0), replace(PCM, lse_gamma=7.0))
    assert first.own and not any(choice.own for choice in others)
    for phase in ("first", "second"):  # the second pools as the first did
        assert [getattr(choice, phase).lse_gamma for choice in others] == [5, 10, 20]


def test_where_a_pooling_has_no_gamma_there_is_nothing_to_try():
    (only,) = choices("gamma", replace(MULTI, pooling="pcam"), replace(PCM, pooling="pcam"))
    assert only.own and only.name == "as in the recipe"


def test_each_question_has_one_choice_that_is_the_recipes_own(results):
    for question in ("theta", "q", "head"):
        own = [row for row in rows(results, question).values() if row["own"]]
        assert len(own) == 1 and own[0]["difference"] is None and own[0]["changed"] == {}


def test_untrained_theta_is_the_multires_models_own(workspace):
    models = Models(workspace)
    untrained = models.predictor(choices("theta", MULTI, PCM)[0]).model.state_dict()
    checkpoint = load_checkpoint(best_path(workspace.models, MULTI.name))[0].state_dict()
    assert all(torch.equal(untrained[key].cpu(), value) for key, value in checkpoint.items())


def test_an_untrained_refiner_is_the_one_that_training_would_begin_with(workspace):
    models = Models(workspace)
    models.pcm = replace(PCM, refiner="self_attention")
    untrained = choices("theta", MULTI, models.pcm)[0]
    before = torch.get_rng_state()
    first, second = (models.predictor(untrained).model.state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert "refiner.query.weight" in first and all(torch.equal(second[key], value) for key, value in first.items())


def test_as_printed_is_trained_with_the_printed_numbers_and_moves_theta_hardly(results, workspace):
    """Adam moves a weight by little more than its rate in a step: a few of 1e-6 here, and none of any other weight."""
    folder = workspace.output_dir / "ablations"
    path = best_path(folder, f"{PCM.name}_theta_as_printed")
    phase = read_header(path).recipe.seam_stage
    assert (phase.learning_rate, phase.epochs, phase.grad_accum_steps) == (1e-6, 3, 3)
    records = [json.loads(line) for line in history_path(folder, f"{PCM.name}_theta_as_printed").open()]
    assert [record["learning_rate"] for record in records] == [1e-6] * 3
    after, before = (load_checkpoint(p)[0].state_dict() for p in (path, best_path(workspace.models, MULTI.name)))
    moved = {key: (after[key] - value).abs().max().item() for key, value in before.items()}
    assert 0 < moved.pop("refiner.theta.weight") < 1e-5
    assert set(moved.values()) == {0}


def test_theta_and_q_leave_the_auc_bit_for_bit(results):
    for question in ("theta", "q"):
        found = rows(results, question).values()
        assert len({row[MEAN_AUC]["value"] for row in found}) == 1
        for row in found:
            assert row["own"] or set(row["difference"][MEAN_AUC].values()) <= {0.0, None}  # few patients, few draws


def test_each_q_is_scored_on_boxes_of_its_own(results, workspace):
    """Against boxes made here in one batch by another way."""
    models = Models(workspace)
    films, truth = workspace.boxed_dataset(), workspace.metadata().boxes
    output = models.predictor(choices("q", MULTI, PCM)[0]).forward(films.__getitems__(range(len(films)))[0])
    maps = cam_to_heatmap(output.refined[:, : len(BOXED_FINDINGS)], PAPER_SIZE).numpy()
    for q in (0.5, 0.9):
        boxes = pd.concat(
            predicted_boxes(film, name, BOXED_FINDINGS, threshold=q)
            for name, film in zip(films.image_index, maps, strict=True)
        )
        table = localization_table(boxes, truth, images=films.image_index, measure="iobb", threshold=0.1)
        row = rows(results, "q")[f"{q:g}"]
        assert row[ALL_BOXES]["value"] == pytest.approx(table.loc["macro", "accuracy"])
        cost = table.loc["macro", "false_positives_per_image"]
        assert row["false_positives"][ALL_BOXES] == pytest.approx(cost)


def test_the_own_row_is_what_the_evaluation_finds(results, workspace):
    """The same models, films and draws by another way."""
    expected = evaluate(workspace, n_bootstrap=DRAWS).results
    for maps in (MULTIRES, REFINED):
        row = rows(results, "head", maps)["trained"]
        scores = expected["localization"][maps]
        assert row["own"] and row[MEAN_AUC] == expected["classification"][maps]["mean"]["auc"]
        assert row[FROC] == scores["froc"]["iou>0.1"]["at_fp_rate"]["0.5"]["macro"]
        assert row[BEST_BOX] == scores["best_box"]["iou>0.1"]["macro"]["accuracy"]
        assert row[ALL_BOXES] == scores["all_boxes"]["iobb>0.1"]["macro"]["accuracy"]
        cost = scores["all_boxes"]["iobb>0.1"]["macro"]["false_positives_per_image"]["value"]
        assert row["false_positives"][ALL_BOXES] == cost
    assert rows(results, "q")["0.7"][FROC] == rows(results, "head")["trained"][FROC]


def test_a_difference_is_the_choice_minus_the_own(results):
    for row in results["rows"]:
        own = next(r for r in rows(results, row["question"], row["maps"]).values() if r["own"])
        for metric in (FROC, MEAN_AUC) if not row["own"] else ():
            pair = row["difference"][metric]
            assert pair["value"] == pytest.approx(row[metric]["value"] - own[metric]["value"])


def test_a_second_phase_stands_on_its_own_first_phase(results, workspace):
    """Only theta differs between the two."""
    folder = workspace.output_dir / "ablations"
    first, second = (
        load_checkpoint(best_path(folder, f"{MULTI.name}_head_frozen{end}"))[0].state_dict() for end in ("", "_pcm")
    )
    assert {key for key, value in first.items() if not torch.equal(value, second[key])} == {"refiner.theta.weight"}


def test_a_second_call_trains_nothing_and_says_the_same(results, workspace):
    files = sorted((workspace.output_dir / "ablations").iterdir())
    before = [(path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    again = ablate(workspace, questions=["head"], draws=DRAWS)
    assert sorted((workspace.output_dir / "ablations").iterdir()) == files
    assert [(path.stat().st_mtime_ns, path.stat().st_size) for path in files] == before
    assert again["rows"] == [row for row in results["rows"] if row["question"] == "head"]
    assert is_trained(
        choices("theta", MULTI, PCM)[1].second, workspace.output_dir / "ablations"
    )  # asked before each training


def test_the_files_hold_what_is_returned(workspace, capsys):
    """Of the verb too, which prints a line for each row."""
    words = ["ablate", "--questions", "q", "--n-bootstrap", str(DRAWS), "--preset", "tiny"]
    assert main([*words, "--data", workspace.data, "--output", str(workspace.output_dir)]) == 0
    written = json.loads((workspace.output_dir / "ablations.json").read_text())
    table = pd.read_csv(workspace.output_dir / "ablations.csv")
    assert [row["choice"] for row in written["rows"]] == ["0.5", "0.6", "0.7", "0.8", "0.9"]
    assert table[f"{MEAN_AUC}.value"].tolist() == [row[MEAN_AUC]["value"] for row in written["rows"]]
    assert ablation_table(written).to_string() in capsys.readouterr().out
    assert [choice for _, choice, _ in ablation_table(written).index if choice.endswith("*")] == ["0.7 *"]


def test_training_counts_as_done_only_to_its_end_by_this_recipe_and_on_this_backbone(tmp_path):
    save_pair(tmp_path)
    history = history_path(tmp_path, PCM.name)
    record = json.dumps({"epoch": 0}) + "\n"
    history.write_text(record)
    assert is_trained(PCM, tmp_path)
    assert not is_trained(replace(PCM, seed=1), tmp_path)
    history.write_text("")  # cut off in its only epoch
    assert not is_trained(PCM, tmp_path)
    history.write_text(record)
    other = build_model(MULTI.model, weights="none")
    save_checkpoint(best_path(tmp_path, MULTI.name), other, metadata=Checkpoint(MULTI, epoch=1))
    assert not is_trained(PCM, tmp_path)


def test_without_boxes_questions_about_boxes_get_a_sentence(workspace, tmp_path, monkeypatch):
    tables, cache = workspace.metadata(), workspace.cache()
    monkeypatch.setattr(Workspace, "tables", lambda self: replace(tables, boxes=tables.boxes.iloc[:0]))
    monkeypatch.setattr(Workspace, "store", lambda self: cache)
    elsewhere = replace(workspace, output_dir=tmp_path)
    save_pair(elsewhere.models)
    results = ablate(elsewhere, questions=["theta", "q"], draws=DRAWS)
    assert results["rows"] == [] and set(results["notes"]) == {"theta", "q"}
    assert "no film of these data carries a true box" in results["notes"]["q"]
    assert not (tmp_path / "ablations").exists()  # nothing was trained for nothing


def test_what_is_missing_or_unknown_is_told(workspace, tmp_path):
    with pytest.raises(InputError, match="there is no .*multires_tiny.best.*notebooks 02 and 03"):
        ablate(replace(workspace, output_dir=tmp_path))
    with pytest.raises(InputError, match="no question 'momentum'; choose of theta, ohem"):
        ablate(workspace, questions=["momentum"])
    save_pair(tmp_path / "models")
    save_checkpoint(
        best_path(tmp_path / "models", MULTI.name), build_model(MULTI.model, weights="none"), metadata=Checkpoint(MULTI)
    )
    with pytest.raises(InputError, match="goes on from an earlier model .*run notebook 03 again"):
        ablate(replace(workspace, output_dir=tmp_path))
