import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.batches import ROOT
from helpers.checkpoints import make_scores
from sklearn.metrics import brier_score_loss, roc_auc_score

from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.evaluation.evaluate import (
    count_training_images,
    describe_split,
    digest,
    evaluate,
    find_targets,
    load_predictors,
)
from cxr_seam.evaluation.methods import baseline_methods
from cxr_seam.evaluation.results import (
    LOCALIZATION,
    MASKS,
    MEAN_AUC,
    MEAN_AVERAGE_PRECISION,
    MULTIRES,
    REFINED,
    STANDARD,
    TITLES,
    load_results,
)
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS, OPERATING_POINTS
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import (
    Checkpoint,
    TrainingData,
    best_path,
    load_checkpoint,
    save_checkpoint,
    weights_fingerprint,
)
from cxr_seam.presets import get_preset
from cxr_seam.visualize.report import report_html
from cxr_seam.workspace import Workspace

RECIPES = get_preset("tiny")
N_BOOTSTRAP = 40
THRESHOLD = 0.4


@pytest.fixture(scope="module")
def workspace(demo_folder, demo_cache, tmp_path_factory):
    """A few synthetic images, an untrained standard model and an untrained refined one."""
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path_factory.mktemp("keep"))
    workspace.prepare_data()
    for recipe in (RECIPES[0], RECIPES[2]):
        torch.manual_seed(0)
        model = build_model(recipe.model, weights="none")
        metadata = Checkpoint(recipe, epoch=1, scores=make_scores(THRESHOLD))
        save_checkpoint(best_path(workspace.models, recipe.name), model, metadata=metadata)
    return workspace


@pytest.fixture(scope="module")
def models(workspace):
    return workspace.models


@pytest.fixture(scope="module")
def evaluation(workspace):
    return evaluate(workspace, n_bootstrap=N_BOOTSTRAP)


@pytest.fixture(scope="module")
def results(evaluation):
    return evaluation.results


def test_methods_and_their_types(results):
    assert list(results["classification"]) == [STANDARD, MULTIRES, REFINED]
    kinds = {name: scores["type"] for name, scores in results["localization"].items()}
    assert [name for name, kind in kinds.items() if kind == "model"] == [STANDARD, MULTIRES, REFINED]
    assert sum(kind == "baseline" for kind in kinds.values()) == 6
    assert [metadata["models"] for metadata in results["checkpoints"].values()] == [[STANDARD], [MULTIRES, REFINED]]


def test_checkpoint_sha256(results, models):
    for name, metadata in results["checkpoints"].items():
        assert metadata["sha256"] == hashlib.sha256(best_path(models, name).read_bytes()).hexdigest()


def test_auc_equals_scikit_learn(results, models, workspace):
    images = workspace.test_dataset()
    model, _ = load_checkpoint(best_path(models, RECIPES[0].name))
    pixels, labels = images.load(range(len(images)))
    grey = pixels.float() / 255  # the cache has the recipe's size, so nothing is shrunk
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model((grey - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)).logits
    logits = Predictor.load(best_path(models, RECIPES[0].name)).logits(images)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    for i, finding in enumerate(FINDINGS):
        row = results["classification"][STANDARD]["findings"][finding]
        assert row["positives"] == int(labels[:, i].sum())
        if 0 < row["positives"] < len(images):
            assert row["auc"]["value"] == pytest.approx(roc_auc_score(labels[:, i], logits[:, i]), abs=1e-6)
        else:
            assert row["auc"]["value"] is None and "not defined" in row["note"]


def test_pcm_keeps_classification(results):
    assert results["classification"][MULTIRES] == results["classification"][REFINED]


def test_data_counts(results, workspace):
    tables = workspace.metadata()
    truth, data = tables.boxes, results["data"]
    assert data["boxed_images"] == truth["image_index"].nunique() and data["true_boxes"] == len(truth)
    assert data["test_patients"] == len({name.split("_")[0] for name in tables.test})
    assert data["boxed_patients"] == len({name.split("_")[0] for name in truth["image_index"]})
    for scores in results["localization"].values():
        table = scores["all_boxes"]["iobb>0.1"]["findings"]
        boxed = [finding for finding in FINDINGS if finding in set(truth["finding"])]
        assert list(table) == boxed == data["boxed_findings"]
        assert [table[finding]["boxes"] for finding in boxed] == [(truth["finding"] == f).sum() for f in boxed]
    assert data["findings"] == list(FINDINGS) and data["boxes_outside_test"] == 0
    assert data["findings_without_labels"] == data["findings_not_predicted"] == []


def test_sensitivity_and_specificity_at_threshold(results, evaluation):
    """Sensitivity and specificity by hand, at the threshold that the checkpoint carries."""
    for i, finding in enumerate(FINDINGS):
        row = results["classification"][MULTIRES]["findings"][finding]
        positive = evaluation.labels[:, i] == 1
        called = evaluation.raw_scores[MULTIRES][:, i] >= THRESHOLD
        if positive.any() and not positive.all():
            decisions = row["operating_points"]["youden"]
            assert decisions["threshold"] == THRESHOLD
            assert decisions["sensitivity"]["value"] == pytest.approx(called[positive].mean())
            assert decisions["specificity"]["value"] == pytest.approx((~called)[~positive].mean())


def test_calibration_of_the_checkpoint_is_scored(results, evaluation):
    """The checkpoints have slope 0.5 and intercept -1, fitted to ten positive and thirty negative images."""
    for i, finding in enumerate(FINDINGS):
        scores = evaluation.raw_scores[MULTIRES][:, i]
        calibrated = 1 / (1 + np.exp(1) * ((1 - scores) / scores) ** 0.5)
        found = results["classification"][MULTIRES]["findings"][finding]["calibration"]
        assert found["brier"]["value"] == pytest.approx(brier_score_loss(evaluation.labels[:, i], calibrated))
        assert (found["validation_positives"], found["validation_negatives"], found["slope"]) == (10, 30, 0.5)
        assert sum(each["images"] for each in found["bins"]) == len(calibrated)
    assert results["classification"][MULTIRES]["mean"]["n_calibrated"] == 14


def test_best_box_counts(results):
    cells = results["data"]["boxed_images"] * len(BOXED_FINDINGS)
    for scores in results["localization"].values():
        best = scores["best_box"]["iou>0.1"]["micro"]
        assert best["correct"] + best["false_positives"] <= cells
        assert best["accuracy"]["value"] <= scores["all_boxes"]["iou>0.1"]["micro"]["accuracy"]["value"]


def test_boxes_have_probabilities(evaluation):
    images = evaluation.targets.dataset.image_index
    boxes = evaluation.methods[REFINED].boxes
    logits = evaluation.predictors[REFINED].logits(evaluation.targets.dataset)
    expected = pd.DataFrame(1 / (1 + np.exp(-logits)), images, FINDINGS)
    for row in boxes.head(20).itertuples():
        assert row.raw_score == pytest.approx(expected.loc[row.image_index, row.finding], abs=1e-5)


def test_mean_box_excludes_own_patient(evaluation):
    """One patient's boxes move far away: what that patient is given stays, what the other half is given moves."""
    targets = evaluation.targets
    images = targets.dataset.image_index
    patient_of = {name: int(name.split("_")[0]) for name in images}
    raw_scores = {REFINED: pd.DataFrame(0.5, images, FINDINGS)}
    before = evaluation.methods["Mean box of the other half"].boxes
    for patient in dict.fromkeys(patient_of.values()):
        own = targets.boxes["image_index"].map(patient_of) == patient
        moved = targets.boxes.assign(x=targets.boxes["x"] + 10_000 * own)
        names = {"patient_of": patient_of, "findings": targets.findings}
        baselines = baseline_methods(moved, **names, raw_scores=raw_scores)
        after = baselines["Mean box of the other half"].boxes
        mine = before["image_index"].map(patient_of) == patient
        pd.testing.assert_frame_equal(before[mine], after[mine])
        given = after.loc[~mine.to_numpy() & (after["x"] != before["x"]), "finding"]
        assert set(given) == set(targets.boxes.loc[own, "finding"])


def test_differences_match_replicates(results):
    """The interval of a difference is that of the replicates' differences, computed again here."""
    pair = next(p["metrics"] for p in results["differences"] if (p["first"], p["second"]) == (REFINED, MULTIRES))
    assert list(pair) == [metric for metric in TITLES if metric not in MASKS]
    for metric in (MEAN_AUC, MEAN_AVERAGE_PRECISION):
        assert pair[metric]["value"] == 0  # the PCM leaves the scores as they are
    for metric in pair:
        replicates = [np.array(results["bootstrap"][model][metric], dtype=float) for model in (REFINED, MULTIRES)]
        assert all(len(d) == N_BOOTSTRAP for d in replicates)
        differences = replicates[0] - replicates[1]
        if np.isnan(differences).mean() > 0.5:  # a rare finding is missing in most replicates of so few patients
            assert metric in (MEAN_AUC, MEAN_AVERAGE_PRECISION) and pair[metric]["low"] is None
            continue
        low, high = np.nanpercentile(differences, [2.5, 97.5])
        assert (pair[metric]["low"], pair[metric]["high"]) == pytest.approx((low, high), abs=1e-6)
    best = results["differences"][-1]
    assert results["localization"][best["second"]]["type"] == "baseline" and set(best["metrics"]) == set(
        LOCALIZATION
    ) - set(MASKS)


def test_describe_split(results, nih_root, tmp_path):
    official = load_metadata(nih_root).test
    assert len(official) == 25_596
    assert describe_split("nih", official, official[::-1]) == "all of the official test list"
    assert describe_split(str(nih_root), official, official[:438]) == "part of the official test list"
    assert describe_split(str(tmp_path), official[1:], official[1:]) == "all of the test list of own images"
    assert (
        describe_split("demo", ["00000001_000.png"], ["00000001_000.png"])
        == "all of the test list of the synthetic images"
    )
    assert results["data"]["split"] == "all of the test list of own images"  # the fixture reads a folder


def test_training_image_counts(results, workspace):
    """Every listed image but those without a finding that are not drawn; the demo is small enough to draw all."""
    tables, data = workspace.metadata(), results["data"]
    assert data["training_images"] + data["validation_images"] == len(tables.train_val)
    people = {name.split("_")[0] for name in tables.train_val}
    assert data["training_patients"] + data["validation_patients"] == len(people)
    assert min(data["validation_patients"], data["training_patients"]) > 0


@pytest.mark.parametrize("same", [True, False])
def test_training_images_of_a_model_from_elsewhere_are_not_counted(workspace, tmp_path, same):
    recipe, other = RECIPES[0], "1497 images, 0123456789abcdef"
    train_set, val_set = workspace.train_val_datasets(recipe)
    data = TrainingData(64, train_set.fingerprint if same else other, val_set.fingerprint, "")
    elsewhere = replace(workspace, output_dir=tmp_path)
    path = best_path(elsewhere.models, recipe.name)
    metadata = Checkpoint(recipe, data=data)
    save_checkpoint(path, build_model(recipe.model, weights="none"), metadata=metadata)
    elsewhere.prepare_data()
    counts = count_training_images(elsewhere, {STANDARD: Predictor.load(path)}, elsewhere.metadata())
    assert counts["training_images"] == (len(train_set) if same else None)


def test_evaluate_saves_results(results, workspace):
    assert load_results(workspace.results) == json.loads(json.dumps(results))


def test_evaluate_repeats_with_seed(results, workspace):
    again = evaluate(workspace, n_bootstrap=N_BOOTSTRAP).results
    assert json.dumps(results | {"created": ""}) == json.dumps(again | {"created": ""})


def test_digest_ignores_order():
    rows = [("a", 1, [0.0, 1.0]), ("b", 2, [0.0, 0.0])]
    assert digest(rows) == digest(rows[::-1])
    assert digest(rows) != digest([("a", 1, [0.0, 1.0]), ("b", 3, [0.0, 0.0])])


def documented() -> dict[str, str]:
    """Keys of docs/results.md and what kind of value they hold."""
    rows = re.findall(r"^\| `(.+?)` \| (\w+) \|", (ROOT / "docs" / "results.md").read_text(), re.MULTILINE)
    return dict(rows)


def kind_of(value) -> str:
    if isinstance(value, dict):
        return "estimate" if set(value) == {"value", "low", "high"} else "object"
    return {bool: "bool", int: "integer", float: "number", str: "text", list: "list", type(None): "null"}[type(value)]


def keys_of(value, path: str = "") -> Iterator[tuple[str, str]]:
    """Every key of results with the kind of its value; names that vary are replaced by the page's capitals."""
    opaque = ("versions", "checkpoints.RECIPE.metrics", "checkpoints.RECIPE.recipe", "localization.METHOD.pixels")
    fixed = {"localization": "METHOD", "bootstrap": "METHOD", "checkpoints": "RECIPE", "classification": "MODEL"}
    names = {"all_boxes": "BOXES", "best_box": "BOXES", "filtered_boxes": "BOXES"} | dict.fromkeys(TITLES, "METRIC")
    names |= dict.fromkeys(FINDINGS, "FINDING") | dict.fromkeys(("0.25", "0.5", "1.0"), "RATE")
    names |= dict.fromkeys(OPERATING_POINTS, "POINT")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        yield from (found for row in value for found in keys_of(row, f"{path}[]"))
    elif not isinstance(value, dict) or kind_of(value) == "estimate" or path in opaque:
        yield path, kind_of(value)
    else:
        if path == "localization.METHOD":
            del names["froc"]  # all FROC scores here, not the metric
        for key, inner in value.items():
            name = fixed.get(path) or ("OVERLAP" if re.fullmatch(r"(iobb|iou)>0\.\d+", key) else names.get(key, key))
            inner_path = f"{path}.{name}" if path else name
            yield from keys_of(inner, re.sub(r"(OVERLAP)\.(findings\.FINDING|macro|micro)$", r"\1.ROW", inner_path))


def test_results_page_names_every_key(results):
    found: dict[str, set[str]] = {}
    for key, kind in keys_of(results):
        found.setdefault(key, set()).add(kind)
    page = documented()
    assert set(found) == set(page)
    wrong = {key: kinds for key, kinds in found.items() if not kinds <= {page[key], "null"}}
    assert not wrong


def test_evaluate_one_model(workspace, tmp_path):
    alone = Workspace.open(data=workspace.data, preset="tiny", output_dir=tmp_path)
    alone.prepare_data()
    best_path(alone.models, RECIPES[0].name).parent.mkdir(parents=True)
    best_path(alone.models, RECIPES[0].name).write_bytes(best_path(workspace.models, RECIPES[0].name).read_bytes())
    found = evaluate(alone, n_bootstrap=5)
    kinds = [scores["type"] for scores in found.results["localization"].values()]
    assert kinds.count("model") == 1 and "comparison" not in kinds
    (pair,) = found.results["differences"]
    assert pair["first"] == STANDARD
    assert f"Centre box, ranked by {STANDARD}" in found.results["localization"]
    assert REFINED not in report_html(alone, found)  # nothing is promised that was not measured


def test_load_predictors_none(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        load_predictors(RECIPES, tmp_path)


def test_load_predictors_without_seam_stage(tmp_path):
    recipe = RECIPES[1]
    model = build_model(recipe.model, weights="none")
    save_checkpoint(best_path(tmp_path, recipe.name), model, metadata=Checkpoint(recipe))
    assert list(load_predictors(RECIPES, tmp_path)) == [MULTIRES]


def test_load_predictors_refuses_old_pcm(tmp_path):
    def save(recipe, data=None):
        model = build_model(recipe.model, weights="none")
        return save_checkpoint(best_path(tmp_path, recipe.name), model, metadata=Checkpoint(recipe, data=data))

    first = weights_fingerprint(save(RECIPES[1]))
    save(RECIPES[2], TrainingData(64, "", "", "", init_fingerprint=first))
    assert list(load_predictors(RECIPES, tmp_path)) == [REFINED]
    save(RECIPES[1])  # other random weights
    with pytest.raises(InputError, match="run notebook 03"):
        load_predictors(RECIPES, tmp_path)


def test_predict_file_equals_batch(models, workspace, demo_folder):
    predictor = Predictor.load(best_path(models, RECIPES[2].name))
    images = find_targets(workspace.metadata(), workspace.test_dataset(), findings=FINDINGS).dataset
    prediction = predictor.predict(demo_folder / "images" / images.image_index[0])
    batch = predictor.logits(images)
    expected = 1 / (1 + np.exp(-batch[0]))
    np.testing.assert_allclose(list(prediction.raw_scores.values()), expected, atol=1e-4)
    heat_map = prediction.heat_map("Mass")
    assert heat_map.shape == (1024, 1024) and heat_map.min() >= 0
    corners = prediction.boxes[["x", "y"]].to_numpy() + prediction.boxes[["w", "h"]].to_numpy()
    assert (corners <= 1024).all() and corners.max() > 64  # pixels of the file, not of the model's input
    assert set(prediction.boxes["finding"]) <= set(FINDINGS)


def test_predict_boxes_scale_with_file(models, demo_folder, tmp_path):
    import cv2

    predictor = Predictor.load(best_path(models, RECIPES[2].name))
    path = next(iter(sorted((demo_folder / "images").iterdir())))
    original = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "half.png"), cv2.resize(original, (512, 512), interpolation=cv2.INTER_AREA))
    whole, half = predictor.predict(path).boxes, predictor.predict(tmp_path / "half.png").boxes
    best = [boxes.groupby("finding")["x"].first() for boxes in (whole, half)]
    near = (best[0] / 2 - best[1]).dropna().abs() <= 16
    assert near.mean() > 0.8  # bytes were rounded once more, so a contour may come out otherwise here and there


def test_predict_plain_types(models, demo_folder):
    predictor = Predictor.load(best_path(models, RECIPES[0].name))
    prediction = predictor.predict(next((demo_folder / "images").iterdir()))
    assert all(isinstance(value, float) for value in prediction.raw_scores.values())
    assert isinstance(prediction.boxes, pd.DataFrame)
