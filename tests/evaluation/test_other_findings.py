"""Evaluation on datasets with other findings than the model's, with unknown labels, outlines, or without true boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.checkpoints import make_scores
from sklearn.metrics import roc_auc_score

from cxr_seam.data.layouts.base import BOX_COLUMNS, MASK_COLUMNS, DatasetMetadata
from cxr_seam.errors import InputError
from cxr_seam.evaluation import tables
from cxr_seam.evaluation.evaluate import Evaluation, evaluate
from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD, compare, load_results
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, best_path, save_checkpoint
from cxr_seam.presets import get_preset
from cxr_seam.visualize.examples import load_examples, one_per_finding
from cxr_seam.visualize.figures import plot_froc, plot_roc, plot_samples
from cxr_seam.visualize.report import report_html
from cxr_seam.workspace import Workspace

RECIPES = get_preset("tiny")
MODEL_FINDINGS = ("Mass", "Air", "Opacity")
DATA_FINDINGS = ("Opacity", "Fracture", "Mass")
SQUARE = [(0.25, 0.25), (0.5, 0.25), (0.5, 0.5), (0.25, 0.5)]


def save_model(run: Workspace, recipe_number: int, findings: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    recipe = RECIPES[recipe_number]
    model = build_model(recipe.model, weights="none", findings=findings)
    metadata = Checkpoint(recipe, findings=findings, scores=make_scores(findings=findings))
    save_checkpoint(best_path(run.models, recipe.name), model, metadata=metadata)


@pytest.fixture(scope="module")
def run(demo_folder: Path, demo_cache: object, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Prepared images and two untrained models of three findings."""
    run = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path_factory.mktemp("findings"))
    run.prepare_data()
    for number in (0, 2):
        save_model(run, number, MODEL_FINDINGS)
    return run


@pytest.fixture(scope="module")
def metadata(run: Workspace) -> DatasetMetadata:
    """Patients with text as names; half of the images are for the test; a fifth of the labels is unknown.

    Two boxes of Opacity on one image, one of Mass, one of Fracture, which the model does not know, and one on an image
    that is not for the test.
    """
    names = run.cache().image_index
    test, train_val = tuple(names[::2]), tuple(names[1::2])
    generator = np.random.default_rng(1)
    labels = generator.choice([0, 1, np.nan], p=[0.4, 0.4, 0.2], size=(len(names), 3)).astype(np.float32)
    images = pd.DataFrame(labels, index=pd.Index(names, name="image_index"), columns=list(DATA_FINDINGS))
    images.insert(0, "patient_id", [f"p{name[:8]}" for name in names])
    boxes = [(test[3], "Opacity", 0.25, 0.25, 0.25, 0.25), (test[3], "Opacity", 0.5, 0.5, 0.125, 0.25)]
    boxes += [(test[1], "Mass", 0, 0, 0.5, 0.5), (test[0], "Fracture", 0, 0, 0.5, 0.5)]
    boxes.append((train_val[0], "Mass", 0, 0, 0.5, 0.5))
    masks = pd.DataFrame([(test[3], "Opacity", SQUARE)], columns=MASK_COLUMNS)
    return DatasetMetadata(
        "test", DATA_FINDINGS, images, train_val, test, pd.DataFrame(boxes, columns=BOX_COLUMNS), masks
    )


def evaluate_on(run: Workspace, metadata: DatasetMetadata, patch: pytest.MonkeyPatch) -> Evaluation:
    patch.setattr(Workspace, "metadata", lambda self: metadata)
    return evaluate(run, n_bootstrap=20)


def without_boxes(metadata: DatasetMetadata, findings: tuple[str, ...]) -> DatasetMetadata:
    """Keep the boxes of some findings only."""
    boxes = metadata.boxes[metadata.boxes["finding"].isin(findings) & metadata.boxes["image_index"].isin(metadata.test)]
    return DatasetMetadata("test", DATA_FINDINGS, metadata.images, metadata.train_val, metadata.test, boxes)


def test_shared_findings_are_evaluated(run, metadata, monkeypatch) -> None:
    with pytest.warns(UserWarning, match="outside the test list are left out: 1"):
        evaluation = evaluate_on(run, metadata, monkeypatch)
    results, data = evaluation.results, evaluation.results["data"]
    assert (data["findings"], data["boxed_findings"]) == (["Mass", "Opacity"], ["Mass", "Opacity"])
    assert (data["findings_without_labels"], data["findings_not_predicted"]) == (["Air"], ["Fracture"])
    assert (data["true_boxes"], data["boxed_images"], data["boxes_outside_test"]) == (3, 2, 1)
    assert json.loads(run.results.read_text()) and load_results(run.results) == json.loads(json.dumps(results))
    note = tables.comparability(results)
    assert "Air" in note and "Fracture" in note
    logits = evaluation.predictors[STANDARD].logits(run.test_dataset())
    for finding, column in (("Mass", 0), ("Opacity", 2)):
        labels = metadata.images.loc[list(metadata.test), finding].to_numpy()
        known = ~np.isnan(labels)
        row = results["classification"][STANDARD]["findings"][finding]
        assert row["positives"] + row["negatives"] == known.sum() < len(labels)
        assert row["auc"]["value"] == pytest.approx(roc_auc_score(labels[known], logits[known, column]))
    for scores in results["localization"].values():
        rows = scores["all_boxes"]["iou>0.3"]["findings"]
        assert {finding: row["boxes"] for finding, row in rows.items()} == {"Mass": 1, "Opacity": 2}
        assert list(scores["froc"]["iou>0.3"]["at_fp_rate"]["0.5"]["findings"]) == ["Mass", "Opacity"]
        boxes = scores["best_box"]["iou>0.3"]["micro"]
        assert boxes["correct"] + boxes["false_positives"] <= 2 * 2
    table = tables.table_1(results)
    assert list(table.index) == ["Mass", "Opacity", "Mean"]
    paper = table["D'Souza et al. 2022", "MultiRes-ResNet50"]  # prints Mass, and a mean of fourteen findings
    assert float(paper["Mass"]) > 0.5 and (paper[["Opacity", "Mean"]] == "").all()
    results["data"]["findings"] = ["Opacity"]
    assert {source for source, _ in tables.table_1(results)} == {"here; NOT COMPARABLE"}
    results["data"]["findings"] = ["Mass", "Opacity"]
    table = tables.table_2(results)
    assert list(table.columns[:2]) == ["Mass", "Opacity"] and len(table) == len(results["localization"])
    page = report_html(run, evaluation)
    assert "Opacity" in page and "Hernia" not in page


def test_outlines_are_scored(run, metadata, monkeypatch) -> None:
    """The heat map of the one outlined image, binarised and compared with the square of 64 x 64 pixels by hand."""
    with pytest.warns(UserWarning, match="outside"):
        evaluation = evaluate_on(run, metadata, monkeypatch)
    results = evaluation.results
    (example,) = load_examples(run, image_index=[metadata.test[3]], predictors=evaluation.predictors)
    square = np.zeros((256, 256), dtype=bool)
    square[64:128, 64:128] = True
    for model in (STANDARD, MULTIRES, REFINED):
        heatmap = example.heatmap(model, "Opacity", size=256)
        predicted = (heatmap >= 0.7 * heatmap.max()) & (heatmap > 0)
        iou = (predicted & square).sum() / (predicted | square).sum()
        pixels = results["localization"][model]["pixels"]
        assert pixels["iou"]["findings"] == {"Opacity": pixels["iou"]["macro"]}
        assert pixels["iou"]["macro"]["value"] == pytest.approx(iou)
        assert len(results["bootstrap"][model]["mask_iou"]) == 20
    assert results["localization"]["Random 8x8 map"]["pixels"] is None
    assert "mask_iou" in results["differences"][0]["metrics"] and "mask IoU" in tables.summary(results).columns
    assert set(tables.masks(results).index.get_level_values(1)) == {"iou", "dice", "hit rate"}


@pytest.mark.parametrize("findings", [(), ("Fracture",)], ids=["no boxes", "boxes of an unknown finding"])
def test_without_true_boxes_only_classification_is_scored(run, metadata, monkeypatch, findings) -> None:
    evaluation = evaluate_on(run, without_boxes(metadata, findings), monkeypatch)
    results = evaluation.results
    assert results["localization"] == {} and results["ranking"] == [] and results["data"]["boxed_findings"] == []
    assert load_results(run.results)["data"]["true_boxes"] == 0
    assert tables.NO_BOXES in tables.comparability(results)
    assert list(tables.summary(results).columns) == ["mean AUC"]
    pairs = [(pair["first"], pair["second"]) for pair in results["differences"]]
    assert pairs == [(MULTIRES, STANDARD), (REFINED, MULTIRES)]
    page = report_html(run, evaluation)
    assert tables.NO_BOXES in page and "Fig. 7" in page
    for table in (tables.differences, tables.table_1, tables.mean_auc, tables.table_2, tables.table_3, tables.froc):
        assert isinstance(table(results), pd.DataFrame)
    tables.accuracy_by_threshold(results, "iou")
    assert plot_roc(evaluation).axes and "no true boxes" in plot_froc(results).texts[0].get_text()
    table, reason = compare(results, results)
    assert reason.startswith("Paired") and (STANDARD, "mean AUC") in table.index
    assert tables.splits(run).loc["test, with boxes", "images"] == len(findings)


def test_examples_without_true_boxes_show_labelled_images(run, metadata, monkeypatch) -> None:
    empty = without_boxes(metadata, ())
    monkeypatch.setattr(Workspace, "metadata", lambda self: empty)
    rows = one_per_finding(load_examples(run, per_finding=1))
    assert [finding for _, finding in rows] == ["Mass", "Opacity"]
    for example, finding in rows:
        assert example.image_index in metadata.test and finding in example.labels and not len(example.true_boxes)
        assert example.patient_id.startswith("p")
    assert len([axes for axes in plot_samples(run).axes if axes.images]) == 3


def test_examples_are_no_training_images(run, metadata, monkeypatch) -> None:
    monkeypatch.setattr(Workspace, "metadata", lambda self: metadata)
    rows = one_per_finding(load_examples(run, per_finding=1))
    assert [(example.image_index, finding) for example, finding in rows] == [
        (metadata.test[1], "Mass"),
        (metadata.test[3], "Opacity"),
    ]


def test_models_and_data_without_a_common_finding_are_refused(run, metadata, monkeypatch) -> None:
    images = metadata.images.rename(columns={"Mass": "Oedema", "Opacity": "Nodule"})
    other = DatasetMetadata("test", ("Nodule", "Fracture", "Oedema"), images, metadata.train_val, metadata.test)
    with pytest.raises(InputError, match="Mass, Air, Opacity, but the dataset has labels of Nodule, Fracture, Oedema"):
        evaluate_on(run, other, monkeypatch)


def test_models_of_different_findings_are_refused(run, metadata, monkeypatch, tmp_path) -> None:
    mixed = Workspace.open(data=run.data, preset="tiny", output_dir=tmp_path)
    mixed.prepare_data()
    save_model(mixed, 0, MODEL_FINDINGS)
    save_model(mixed, 2, MODEL_FINDINGS[::-1])
    with pytest.raises(InputError, match="predict different findings"):
        evaluate_on(mixed, metadata, monkeypatch)
