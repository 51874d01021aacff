"""A study of two rows with two seeds: its table, its comparison by replicates, and its continuation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.study.__main__ import image_folders, main, open_beyond, parse
from benchmarks.study.examples import plot_examples
from benchmarks.study.rows import PAPER
from benchmarks.study.runner import Study, compare_models, load_model, read_row, run_row, select_patients
from benchmarks.study.tables import mean_curve, write_tables
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.evaluation.evaluate import evaluate_models
from cxr_seam.evaluation.results import ALL_BOXES, BEST_BOX, FROC, MEAN_AUC, MULTIRES, REFINED, get_estimate
from cxr_seam.metrics.matching import box_overlap

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of the study, which has run."""
    output = tmp_path_factory.mktemp("study")
    options = ["--data", str(demo_folder), "--output", str(output), "--size", "64", "--epochs", "1"]
    arguments = ["beyond-the-paper", *options, "--n-bootstrap", "20", "--rows", "paper,min"]
    assert main(arguments) == 0
    return arguments


@pytest.fixture(scope="module")
def study(words: list[str]) -> Study:
    return open_beyond(parse(words))


def line(study: Study, row: str, maps: str) -> dict[str, Any]:
    lines = json.loads((study.folder / "table.json").read_text())["lines"]
    return next(entry for entry in lines if (entry["row"], entry["maps"]) == (row, maps))


def test_lines_are_the_values_of_an_evaluation(study: Study) -> None:
    for name in ("paper", "min"):
        results = []
        for seed in (0, 1):
            predictor, _, _ = load_model(study, study.rows(seed)[name])
            sets = (study.metadata, study.test_set, study.targets)
            results.append(evaluate_models({REFINED: predictor}, *sets, n_bootstrap=20, seed=0).results)
        for maps in (MULTIRES, REFINED):
            entry = line(study, name, maps)
            for metric in (MEAN_AUC, FROC, BEST_BOX, ALL_BOXES):
                values = [get_estimate(result, maps, metric)["value"] for result in results]
                assert entry[metric]["value"] == pytest.approx(np.mean(values))
            every = [r["localization"][maps]["all_boxes"]["iou>0.3"]["macro"]["accuracy"]["value"] for r in results]
            assert entry["all_boxes_iou_0.3"]["value"] == pytest.approx(np.mean(every))
    assert line(study, "random 8x8 map", "")[ALL_BOXES]["value"] > 0


def test_differences_are_paired_by_replicate(study: Study) -> None:
    ours, paper = line(study, "min", REFINED), line(study, "paper", REFINED)
    found = ours["difference"][REFINED]
    assert paper["difference"] == {} and found[MEAN_AUC]["value"] == 0  # the same model; only boxes differ
    assert found[ALL_BOXES]["value"] == pytest.approx(ours[ALL_BOXES]["value"] - paper[ALL_BOXES]["value"])
    replicates = {}
    for name in ("min", "paper"):
        files = [read_row(study.path(f"{name}.s{seed}"), study.rows(seed)[name]) for seed in (0, 1)]
        entries = [file["maps"][REFINED][ALL_BOXES]["replicates"] for file in files]
        replicates[name] = np.mean(np.array(entries, dtype=float), axis=0)
    ends = np.nanquantile(replicates["min"] - replicates["paper"], [0.025, 0.975])
    assert [found[ALL_BOXES]["low"], found[ALL_BOXES]["high"]] == pytest.approx(ends.tolist())


def test_second_call_changes_no_file_and_other_settings_are_refused(study: Study, words, capsys) -> None:
    folders = (study.run.models, study.folder / "rows")
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()} == before
    assert (study.folder / "table.md").read_text() in capsys.readouterr().out
    assert main([*words, "--epochs", "2"]) == 2 and "study.json" in capsys.readouterr().err
    assert main([*words, "--rows", "best"]) == 2 and "'best'" in capsys.readouterr().err
    assert main([*words, "--list"]) == 0
    costs = [text.split()[1:3] for text in capsys.readouterr().out.splitlines()[-4:]]
    assert costs[0][0] == costs[0][1] == costs[1][0] and costs[1][1] == "0"  # both rows use one model


def test_row_of_other_recipes_is_refused(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.folder / "rows", tmp_path / "rows")
    path = tmp_path / "rows" / "paper.s0.json"
    content = json.loads(path.read_text())
    content["recipes"][0]["classifier_stage"]["learning_rate"] = 1.0
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="paper.s0.json"):
        write_tables(Study(study.run, tmp_path, study.make_rows, 20))


def test_untrained_refiner_is_that_of_the_classifier_stage(study: Study) -> None:
    row = study.rows(0)["paper"]
    untrained = replace(row, recipes=row.recipes[:1], untrained_refiner=True)
    trained, other = (load_model(study, r)[0].model.state_dict() for r in (row, untrained))
    moved = {key for key, value in trained.items() if not torch.equal(value, other[key])}
    assert untrained.model == REFINED and moved == {"refiner.theta.weight"}


def test_agreement_counted_image_by_image(study: Study, demo_folder: Path) -> None:
    """With larger datasets than the few validation images of this study."""
    predictors = [load_model(study, study.rows(seed)["paper"])[0] for seed in (0, 1)]
    cache, metadata = study.run.cache(), load_metadata(demo_folder)
    datasets = [ChestXrayDataset(cache, metadata, image_index=cache.image_index[i::2]) for i in range(2)]
    found = compare_models(REFINED, predictors, datasets, study=study, min_images=3)
    gains = []
    for dataset in datasets:
        tables = [best_of_all(predictor, dataset) for predictor in predictors]
        of_findings = []
        for k in np.flatnonzero(dataset.labels.sum(axis=0) >= 3):
            present = np.flatnonzero(dataset.labels[:, k])
            meets = box_overlap(tables[0][present, None, k], tables[1][None, present, k], measure="iou") > 0.1
            of_findings.append(meets.diagonal().mean() - meets[~np.eye(len(present), dtype=bool)].mean())
        gains.append(np.mean(of_findings))
    assert found[REFINED]["gain"] == pytest.approx(np.mean(gains)) and found[MULTIRES] != found[REFINED]


def best_of_all(predictor, dataset: ChestXrayDataset) -> np.ndarray:
    """The first box of each image and finding, (N, 14, 4); zeros where there is none."""
    from cxr_seam.inference.boxes import boxes_from_heatmap
    from cxr_seam.inference.heatmaps import cam_to_heatmap

    maps = cam_to_heatmap(predictor.forward(dataset.load(range(len(dataset)))[0]).refined, 256).numpy()
    found = np.zeros((*maps.shape[:2], 4))
    for i, k in np.ndindex(*maps.shape[:2]):
        boxes = boxes_from_heatmap(maps[i, k]).xywh
        found[i, k] = boxes[0] if len(boxes) else 0
    return found


def test_shrunk_images_with_boxes_are_refused(demo_folder: Path, tmp_path: Path) -> None:
    """A shrunk copy is allowed only if a larger copy is used instead."""
    boxed = load_metadata(demo_folder).boxes["image_index"].iloc[0]
    shutil.copytree(demo_folder, tmp_path, ignore=shutil.ignore_patterns("images"), dirs_exist_ok=True)
    for folder in ("images_256", "images_128"):
        (tmp_path / folder).mkdir()
        shutil.copy(demo_folder / "images" / boxed, tmp_path / folder)
    assert [path.name for path in image_folders(tmp_path, 64)] == ["images_256", "images_128"]
    assert [path.name for path in image_folders(tmp_path, 256)] == ["images_256"]
    (tmp_path / "images_256" / boxed).unlink()
    with pytest.raises(InputError, match=boxed):
        image_folders(tmp_path, 64)


def test_mean_curve() -> None:
    curves = [{"false_positives_per_image": [0, 0.1, 1], "accuracy": [0, a, 2 * a]} for a in (0.2, 0.4)]
    assert mean_curve(curves, np.array([0.01, 5.0])) == pytest.approx([0.03, 0.6])


def test_share_of_the_patients_has_all_their_images(study: Study) -> None:
    train_set, _ = study.run.train_val_datasets(study.rows(0)[PAPER].recipes[0])
    half = select_patients(study, train_set, share=0.5, seed=0)
    patient = study.metadata.images["patient_id"]
    everyone, chosen = (set(patient[list(dataset.image_index)]) for dataset in (train_set, half))
    assert len(chosen) == round(len(everyone) / 2)
    assert half.image_index == [name for name in train_set.image_index if patient[name] in chosen]


def test_examples_need_all_models_and_show_one_image_of_each_finding(study: Study) -> None:
    assert plot_examples(study, seed=0) is None
    run_row(study, study.rows(0)["strong_joint"], seed=0)
    with Image.open(plot_examples(study, seed=0)) as picture:
        columns, rows = 4, len(set(study.targets.boxes["finding"]))  # the paper's row has two columns
        assert picture.height / picture.width == pytest.approx(rows / columns, rel=0.2)
