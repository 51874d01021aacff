"""The benchmarks run on tiny input and say what they promise; how fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_seam.data.cache import ImageCache
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import (
    ALL_BOXES,
    FROC,
    MEAN_AUC,
    MULTIRES,
    REFINED,
    SUMMARY,
    get_estimate,
    load_results,
)
from cxr_seam.inference.boxes import boxes_from_heatmap
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.boxes import box_overlap
from cxr_seam.recipes import Recipe
from cxr_seam.training.resume import flat

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ("input_pipeline", "prepare", "train_step", "pcm", "inference", "bootstrap", "viewer")
ON_FILMS = ("input_pipeline", "prepare")
RATIOS = {
    "input_pipeline": {"ours / paper", "ours, host side / paper"},
    "prepare": {"ours, .tar.gz / bare, in memory", "ours, .tar.gz / bare, files", "ours, files / bare, files"},
    "train_step": {
        "images/s, loop / step",
        "time, step / plain step",
        "memory, step / plain step",
        "memory, loop / plain step",
    },
    "pcm": {"time, ours / plain", "memory, ours / plain"},
    "inference": {"time, multires_small / small"},
    "bootstrap": {"time, ours / loop over rows", "time, ours / loop with weights"},
    "viewer": set(),  # held to milliseconds, not to another program
}


def start(script: str, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def printed_by(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return printed


@pytest.fixture(scope="module")
def found(demo_folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON of every benchmark; they run side by side, since nothing is timed here."""
    data = {script: ("--data", str(demo_folder)) if script in ON_FILMS else () for script in SCRIPTS}
    running = {script: start(script, "--quick", "--json", *data[script]) for script in SCRIPTS}
    return {script: json.loads(printed_by(process)) for script, process in running.items()}


def rows(report: dict[str, Any], column: str) -> list[dict[str, Any]]:
    """The rows of all tables that have a column."""
    return [row for table in report["tables"].values() for row in table if column in row]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_report_names_the_machine_and_what_it_leaves_out(found: dict[str, dict[str, Any]], script: str) -> None:
    report = found[script]
    assert report["benchmark"] == script
    assert {"cpu", "cores", "threads", "torch", "gpu"} <= report["machine"].keys()
    assert report["settings"]["rounds"] == 2
    assert report["not_measured"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_report_compares_pair_by_pair(found: dict[str, dict[str, Any]], script: str) -> None:
    ratios = rows(found[script], "ratio")
    # torchxrayvision is compared only where somebody has installed it
    assert RATIOS[script] == {row["ratio"] for row in ratios} - {"ours / torchxrayvision"}
    for row in ratios:
        assert 0 < row["min"] <= row["median"] <= row["max"]
        assert "goal" in row


def test_memory_is_told_where_the_issue_of_size_arises(found: dict[str, dict[str, Any]]) -> None:
    held = rows(found["input_pipeline"], "own memory MiB (RssAnon)")
    assert held[1]["images"] == 20 * held[0]["images"]
    assert all("mapped file MiB (RssFile)" in row for row in held)
    for script, count in (("prepare", 2), ("train_step", 3), ("pcm", 2), ("inference", 2), ("bootstrap", 1)):
        peaks = rows(found[script], "peak MiB")
        assert len(peaks) == count and all(row["peak MiB"] > 0 for row in peaks)


def test_blocks_of_rows_give_what_the_whole_affinity_gives(found: dict[str, dict[str, Any]]) -> None:
    (ours,) = rows(found["pcm"], "maps differ by")[:1]
    assert ours["maps differ by"] < 1e-5 and ours["gradients differ by"] < 1e-5


def test_both_loops_of_scikit_learn_give_the_scores_of_ours(found: dict[str, dict[str, Any]]) -> None:
    differences = [row["scores differ from ours by"] for row in rows(found["bootstrap"], "scores differ from ours by")]
    assert len(differences) == 2 and max(differences) < 1e-12


def test_operations_are_those_of_a_network_counted_by_hand(found: dict[str, dict[str, Any]]) -> None:
    """EfficientNet-Lite0 has 407 million multiply-adds at 224 pixels, its classifier's 1.28 million included."""
    small = next(row for row in rows(found["inference"], "GFLOPs an image") if row["model"] == "small")
    expected = 2 * (0.407 - 0.00128) * (64 / 224) ** 2
    assert small["GFLOPs an image"] == pytest.approx(expected, rel=0.08)


def test_the_affinity_is_in_the_memory_of_a_fresh_process() -> None:
    """The plain module must hold, at the least, 1,024 x 1,024 float32 values for each of 4 images: 16 MiB."""
    task = {"candidate": "plain", "pixels": 1024, "batch": 4}
    assert json.loads(printed_by(start("pcm", "--child", json.dumps(task))))["bytes"] > 16 * 2**20


def test_without_json_tables_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from measure import Report

    table = [{"candidate": "ours", "images/s": 1234.5678}, {"candidate": "other", "images/s": None}]
    Report("name", {"size": 64}, {"Speed": table}, ["the rest"]).show(as_json=False)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("name on ") and f"torch {torch.__version__}" in printed[0]
    assert [line.split() for line in printed[3:7]] == [
        ["Speed"],
        ["candidate", "images/s"],
        ["ours", "1,235"],
        ["other", "-"],
    ]
    assert printed[-1] == "Not measured: the rest"


STUDY = ("--seeds", "0,1", "--size", "64", "--epochs", "1", "--n-bootstrap", "20")


@pytest.fixture(scope="module")
def study(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of two rows, which share a model."""
    out = tmp_path_factory.mktemp("study")
    printed_by(start("study", "--data", str(demo_folder), "--out", str(out), "--rows", "paper,min_max", *STUDY))
    return out


def line_of(study: Path, row: str, maps: str) -> dict[str, Any]:
    lines = json.loads((study / "table.json").read_text())["lines"]
    return next(line for line in lines if (line["row"], line["maps"]) == (row, maps))


def test_the_studys_lines_are_what_its_evaluations_found(study: Path) -> None:
    for row in ("paper", "min"):
        runs = [load_results(study / "rows" / f"{row}.s{seed}" / "results.json") for seed in (0, 1)]
        for maps in (MULTIRES, REFINED):
            line = line_of(study, row, maps)
            for metric in SUMMARY:
                values = [get_estimate(results, maps, metric)["value"] for results in runs]
                assert line[metric]["value"] == pytest.approx(np.mean(values))
            accuracies = [r["localization"][maps]["best_box"]["iou>0.3"]["macro"]["accuracy"]["value"] for r in runs]
            assert line["best box (IoU>0.3)"][0] == pytest.approx(np.mean(accuracies))
            assert line["best_box iou>0.3"]["value"] == pytest.approx(np.mean(accuracies), abs=1e-6)
            for seed, results in enumerate(runs):  # evaluated with the same draws of patients
                own = json.loads((study / "rows" / f"{row}.s{seed}" / "row.json").read_text())["best_box iou>0.3"][maps]
                whole = results["localization"][maps]["best_box"]["iou>0.3"]["macro"]["accuracy"]
                assert {key: own[key] for key in whole} == whole
            images = [results["data"]["training_images"] for results in runs]
            assert line["seeds"] == [0, 1] and line["passes"] == 2 * np.mean(images)
    for control, metric in (("random 8x8 map", ALL_BOXES), ("centre box, half of image", FROC)):
        assert line_of(study, control, "")[metric]["value"] > 0


def test_a_row_is_compared_with_the_papers_draw_by_draw(study: Path) -> None:
    ours, papers = line_of(study, "min", REFINED), line_of(study, "paper", REFINED)
    assert papers["difference"] == {}
    for maps in (MULTIRES, REFINED):
        of_maps, difference = line_of(study, "paper", maps), ours["difference"][maps]
        assert difference[ALL_BOXES]["value"] == pytest.approx(ours[ALL_BOXES]["value"] - of_maps[ALL_BOXES]["value"])
    own = ours["difference"][REFINED]
    assert own[MEAN_AUC]["value"] == 0 == own["auc_without_shrunk"]["value"]  # the same model: boxes alone differ
    draws = {}
    for row in ("min", "paper"):
        runs = [load_results(study / "rows" / f"{row}.s{seed}" / "results.json") for seed in (0, 1)]
        draws[row] = np.mean([np.array(run["bootstrap"][REFINED][ALL_BOXES], dtype=float) for run in runs], axis=0)
    ends = np.nanquantile(draws["min"] - draws["paper"], [0.025, 0.975])
    assert [own[ALL_BOXES]["low"], own[ALL_BOXES]["high"]] == pytest.approx(ends.tolist())


@pytest.fixture
def part_of_study(study: Path, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of what one seed has measured, and all rows as the study knows them, for a seed."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from study_folder import Study

    for part in ("rows/paper.s0", "rows/min_max.s0"):
        shutil.copytree(study / part, tmp_path / part)
    shutil.copy(study / "controls.json", tmp_path)
    return tmp_path, Study(demo_folder, study, "efficientnet_lite0", 64, 1, 20).rows


def test_a_row_is_held_against_the_row_that_it_changes(part_of_study: Any) -> None:
    import study_table

    out, rows = part_of_study

    def changed(seed: int) -> dict[str, Any]:
        against = {"paper": "min", "min": "strong"}
        return {name: replace(rows(seed)[name], against=other) for name, other in against.items()}

    study_table.write(out, settings={}, rows=changed)
    paper, min_max = (line_of(out, row, REFINED) for row in ("paper", "min"))
    assert min_max["difference"] == {}  # there is no row `strong` here
    more = paper["difference"][REFINED][ALL_BOXES]["value"]
    assert more == pytest.approx(paper[ALL_BOXES]["value"] - min_max[ALL_BOXES]["value"])


def test_refined_maps_are_held_against_raw_ones_where_a_row_has_no_others(part_of_study: Any) -> None:
    import study_table

    out, rows = part_of_study
    path = out / "rows" / "paper.s0" / "results.json"
    raw = json.loads(path.read_text())
    for part in ("localization", "bootstrap"):
        del raw[part][REFINED]
    path.write_text(json.dumps(raw))
    study_table.write(out, settings={}, rows=rows)
    ours, papers = line_of(out, "min", REFINED), line_of(out, "paper", MULTIRES)
    more = f"{ours[FROC]['value'] - papers[FROC]['value']:.3f}"
    row = next(
        line for line in (out / "table.md").read_text().splitlines() if line.startswith(f"| min_max | {REFINED}")
    )
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[-5] == f"paper, {MULTIRES}" and cells[-3].split()[0] == more


def test_what_labels_say_stands_in_the_table(part_of_study: Any) -> None:
    import study_table
    from study_rows import told_of

    out, rows = part_of_study
    covered = {"value": 0.456, "low": 0.4, "high": 0.5}
    said = {"rows": [told_of(rows(0)["paper"])], "maps": {REFINED: {"gain": 0.123, "covered": covered}}}
    (out / "rows" / "paper.agreement.json").write_text(json.dumps(said))
    study_table.write(out, settings={}, rows=rows)
    assert line_of(out, "paper", REFINED)["agreement"] == 0.123
    assert line_of(out, "paper", MULTIRES)["agreement"] is None
    row = next(line for line in (out / "table.md").read_text().splitlines() if line.startswith(f"| paper | {REFINED}"))
    assert "| 0.123 | 0.456 (0.400-0.500) |" in row


@pytest.mark.parametrize("file", ["paper.s0/row.json", "paper.agreement.json"])
def test_a_table_shows_no_row_of_other_recipes(part_of_study: Any, file: str) -> None:
    """A row may have been given other recipes since it was measured."""
    import study_table
    from study_rows import told_of

    out, rows = part_of_study
    before = told_of(rows(0)["paper"])
    before["recipes"][0]["classifier_stage"]["learning_rate"] = 1.0
    path = out / "rows" / file
    metadata = json.loads(path.read_text()) | before if path.exists() else {"rows": [before], "maps": {}}
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="was measured with other recipes of that name; delete it or rename the row"):
        study_table.write(out, settings={}, rows=rows)


def forget(path: Path, key: str) -> None:
    """Take a key out of a JSON file, as an earlier version would have written it."""
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("key", ["recipes", "centre_ranked"])
def test_what_an_earlier_version_measured_is_named(part_of_study: Any, key: str) -> None:
    import study_table

    out, rows = part_of_study
    forget(out / "rows" / "paper.s0" / "row.json", key)
    with pytest.raises(InputError, match=f"paper.s0 lacks {key}: it was measured by an earlier version of the study"):
        study_table.write(out, settings={}, rows=rows)


def test_an_agreement_of_an_earlier_version_is_named(part_of_study: Any) -> None:
    import study_table

    out, rows = part_of_study
    (out / "rows" / "paper.agreement.json").write_text(json.dumps({REFINED: {"gain": 0.1}}))
    with pytest.raises(InputError, match="paper.agreement.json lacks rows: it was measured by an earlier version"):
        study_table.write(out, settings={}, rows=rows)


def test_a_row_measured_before_tight_boxes_had_intervals_stands_without(part_of_study: Any) -> None:
    import study_table

    out, rows = part_of_study
    forget(out / "rows" / "paper.s0" / "row.json", "best_box iou>0.3")
    study_table.write(out, settings={}, rows=rows)
    assert line_of(out, "paper", REFINED)["best_box iou>0.3"]["value"] is None
    ours = line_of(out, "min", REFINED)
    assert ours["best_box iou>0.3"]["value"] is not None and "best_box iou>0.3" not in ours["difference"][REFINED]


def test_an_agreement_of_other_seeds_is_not_shown_and_is_named_where_it_would_be_measured(
    part_of_study: Any, study: Path, demo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import study_table
    from study import main
    from study_rows import told_of

    out, rows = part_of_study
    shutil.copy(study / "study.json", out)
    shutil.copytree(study / "data", out / "data")
    path = out / "rows" / "paper.agreement.json"
    of = {"rows": [told_of(rows(seed)["paper"]) for seed in (0, 2)], "maps": {REFINED: {"gain": 0.123}}}
    path.write_text(json.dumps(of))
    study_table.write(out, settings={}, rows=rows)
    assert line_of(out, "paper", REFINED)["agreement"] is None  # the line is of seed 0 alone
    shutil.copytree(study / "rows" / "paper.s1", out / "rows" / "paper.s1")
    words = ["--data", str(demo_folder), "--out", str(out), *STUDY, "--rows", "paper"]
    assert main(words) == 1
    assert "paper.agreement.json is of the seeds 0 and 2; delete it, or name these first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classifier_stage", "rate", "epochs"), [("resnet50", 1e-6, 3), ("efficientnet_lite0", 1e-5, 1)]
)
def test_the_papers_row_has_its_second_phase(
    backbone: str, rate: float, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sect. 5.1: 1E-06 for 3 epochs with ResNet50, 1E-05 and 1 epoch with EfficientNetB4."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from study_rows import study_rows

    rows = study_rows(backbone=backbone, size=256, epochs=9, seed=0, images=lambda recipe: 7_106)
    seam = rows["paper"].recipes[-1].seam_stage
    assert (seam.learning_rate, seam.epochs) == (rate, epochs)


def test_no_box_is_scored_on_films_that_an_unknown_filter_has_shrunk(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film with a true box may lie in the folder of small copies only where a larger copy is taken in its place."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from study_folder import Study

    names = sorted(path.name for path in (demo_folder / "images").iterdir())
    boxed = sorted(set(names) & set(load_metadata(demo_folder).boxes["image_index"]))[0]
    data = tmp_path / "data"
    shutil.copytree(demo_folder, data, ignore=shutil.ignore_patterns("images"))
    for folder in ("images_256", "images_128"):
        (data / folder).mkdir()
        shutil.copy(demo_folder / "images" / boxed, data / folder)
    options = ("efficientnet_lite0", 64, 1, 20)
    Study(data, tmp_path / "larger", *options).prepare_data()
    cache = ImageCache.open(tmp_path / "larger" / "data" / "cache_64")
    assert [tuple(source) for source in cache.sources] == [("images_256", 1)] and list(cache.image_index) == [boxed]
    (data / "images_256" / boxed).unlink()
    with pytest.raises(InputError, match=rf"images_128 has films with true boxes \({boxed}\)"):
        Study(data, tmp_path / "shrunk", *options).prepare_data()
    shutil.copy(demo_folder / "images" / next(name for name in names if name != boxed), data / "images_256")
    Study(
        data, tmp_path / "unused", "efficientnet_lite0", 256, 1, 20
    ).prepare_data()  # which takes nothing from images_128


def test_the_centred_box_is_ranked_by_the_rows_probabilities(study: Path) -> None:
    """Rows of one model have one ranking; however boxes are ranked, all of them together meet no more."""
    line = line_of(study, "min", REFINED)
    assert line["centre_ranked"] == line_of(study, "paper", REFINED)["centre_ranked"]  # the same probabilities
    centre = line_of(study, "centre box, half of image", "")
    assert centre["best_box iou>0.1"]["value"] >= line["centre_ranked"]["value"] > 0  # all boxes at any price


def test_the_figures_curve_is_the_mean_of_the_seeds(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from study_figure import RATES, mean_curve

    ends = {"false_positives_per_image": [0, 0.1, 1], "accuracy": [0, 0.2, 0.4]}
    curves = [{"curve": ends}, {"curve": {**ends, "accuracy": [0, 0.4, 0.8]}}]
    line = mean_curve(curves, {})["curve"]
    at = dict(zip(line["false_positives_per_image"], line["accuracy"], strict=True))
    assert at[RATES[0]] == pytest.approx(0.03)  # a tenth of the way to 0.2 and 0.4
    assert at[RATES[-1]] == pytest.approx(0.6)  # where both have ended
    with Image.open(study / "froc.png") as picture:
        assert picture.size > (1000, 500)


def test_the_agreement_told_is_that_of_the_two_seeds_models(
    study: Path, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted anew from the checkpoints, on films enough; those that a tiny study validates on are too few."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from study_agreement import agreement_of

    predictors = [Predictor.load(study / "models" / f"paper_pcm.s{seed}.best.safetensors") for seed in (0, 1)]
    tables, cache, gains = load_metadata(demo_folder), ImageCache.open(study / "data" / "cache_64"), []
    names = cache.image_index
    seen = [ChestXrayDataset(cache, tables, image_index=part) for part in (names[::2], names[1::2])]
    for films in seen:
        pixels = films.__getitems__(range(len(films)))[0]
        maps = [cam_to_heatmap(reader.forward(pixels).refined, 256).numpy() for reader in predictors]
        of_findings = []
        for k in range(14):
            shown = np.flatnonzero(films.labels[:, k])
            if len(shown) >= 3:
                one, other = (np.stack([best_box(of[film, k]) for film in shown]) for of in maps)
                meets = box_overlap(one[:, None], other[None], measure="iou") > 0.1
                others = meets[~np.eye(len(shown), dtype=bool)]
                of_findings.append(meets.diagonal().mean() - others.mean())
        gains.append(np.mean(of_findings))
    patients = [tables.images["patient_id"][films.image_index] for films in seen]
    found = agreement_of(REFINED, predictors, seen, patients=patients, draws=20, fewest=3)
    assert found[REFINED]["gain"] == pytest.approx(np.mean(gains)) and found[MULTIRES] != found[REFINED]
    lost = []
    for films in seen:
        both = np.mean([lost_where_covered(*pair, films) for pair in (predictors, predictors[::-1])], axis=0)
        lost.append(np.where((~np.isnan(both)).sum(axis=0) >= 3, both, np.nan))  # of each set, as above
    lost = np.concatenate(lost)
    shown = (~np.isnan(lost)).any(axis=0)
    assert found[REFINED]["covered"]["value"] == pytest.approx(np.nanmean(lost[:, shown], axis=0).mean(), abs=1e-5)


def lost_where_covered(reader: Predictor, judge: Predictor, films: ChestXrayDataset) -> np.ndarray:
    """Film by film: a square of 16 of 64 pixels around the reader's best box shows the mean film."""
    pixels = films.__getitems__(range(len(films)))[0]
    mean = pixels.double().mean(dim=0).round().to(torch.uint8)
    maps, logits = cam_to_heatmap(reader.forward(pixels).refined, 256).numpy(), judge.forward(pixels).logits.numpy()
    lost = np.full(logits.shape, np.nan)
    for film, k in np.argwhere(films.labels == 1):
        x, y, w, h = best_box(maps[film, k]) * 64
        left, top = round(x + w / 2 - 8), round(y + h / 2 - 8)
        covered, inside = pixels[film].clone(), np.s_[:, max(top, 0) : top + 16, max(left, 0) : left + 16]
        if w:
            covered[inside] = mean[inside]
        lost[film, k] = (logits[film, k] - float(judge.forward(covered[None]).logits[0, k])) / logits[:, k].std()
    return lost


def best_box(heatmap: np.ndarray) -> np.ndarray:
    boxes = boxes_from_heatmap(heatmap).xywh
    return boxes[0] if len(boxes) else np.zeros(4)


def test_a_second_call_does_nothing_anew_and_other_settings_are_refused(
    study: Path, demo_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from study import main

    kept = [path for folder in ("models", "rows") for path in (study / folder).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in kept}
    words = ["--data", str(demo_folder), "--out", str(study), *STUDY]
    assert main([*words, "--rows", "paper,min_max"]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert (study / "table.md").read_text() in capsys.readouterr().out
    assert main([*words, "--epochs", "2", "--rows", "paper"]) == 1
    assert "holds a study of" in capsys.readouterr().err
    assert main([*words, "--rows", "best"]) == 1
    assert "there is no row 'best'; choose of paper, " in capsys.readouterr().err
    assert main([*words, "--list", "--rows", "paper,q_0.5,rate"]) == 0
    costs = [line.split()[1:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert costs[0][0] == costs[0][1] == costs[1][0] and costs[1][1] == "0"  # one model
    assert 2 * int(costs[2][0]) == int(costs[0][0])  # one epoch of the classifier stage, in place of one of each


def test_no_row_of_the_study_has_more_image_passes_than_the_papers_and_each_has_names_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from study_rows import passes, study_rows

    def images(recipe: Recipe) -> int:
        return 7_106 if recipe.data.num_normal_images else 8_219

    found = study_rows(backbone="efficientnet_lite0", size=128, epochs=9, seed=1, images=images)
    recipes = {recipe.name: recipe for row in found.values() for recipe in row.recipes}
    assert all(recipes[recipe.name] == recipe for row in found.values() for recipe in row.recipes)
    assert len({(row.recipes, str(row.at_test)) for row in found.values()}) == len(found)
    for row in found.values():
        budget = (9 + len(row.recipes) - 1) * 7_106
        assert budget - images(row.recipes[0]) < sum(passes(row, images).values()) <= budget
        assert row.recipes[0].seed == 1


CHANGED = {
    "all_images": {"data.num_normal_images", "classifier_stage.epochs"},
    "rate": {"classifier_stage.learning_rate"},
    "whole_backbone": {"classifier_stage.freeze_below_stride"},
    "pcam": {"pooling"},
    "negative_mean": {"at_test.cam_baseline"},
    "tta_flip": {"at_test.tta_flip"},
    "without_negative_mean": {"at_test.cam_baseline"},
    "without_scales": {"at_test.tta_scales"},
    "without_flip": {"at_test.tta_flip"},
    "looked_once": {"at_test.tta_flip", "at_test.tta_scales"},
    "with_q_0.7": {"at_test.cam_threshold"},
    "with_papers_boxes": {"at_test.cam_threshold", "at_test.cam_baseline"},
    "without_all_images": {"data.num_normal_images", "classifier_stage.epochs"},
    "without_pcam": {"pooling"},
    "without_pcam_on_draw": {"pooling"},
    "with_attention": {"pooling"},
    "with_wide_crops": {"augmentation.crop_area"},
    "without_whole_backbone": {"classifier_stage.freeze_below_stride"},
    "without_rate": {
        f"backbone.{name}"
        for name in (
            "grad_accum_steps",
            "learning_rate",
            "betas",
            "optimiser",
            "weight_decay",
            "schedule",
            "warmup_fraction",
        )
    },
}


def test_a_row_differs_from_the_one_it_is_held_against_in_what_it_says_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from study_rows import study_rows, told_of

    def images(recipe: Recipe) -> int:
        return 7_106 if recipe.data.num_normal_images else 8_219

    rows = study_rows(backbone="efficientnet_lite0", size=128, epochs=9, seed=0, images=images)
    assert all(row.against in rows for row in rows.values())
    for name, fields in CHANGED.items():
        ours, theirs = (told_of(rows[row]) for row in (name, rows[name].against))
        ours, theirs = (flat({**t["recipes"][0], "at_test": t["at_test"]}) for t in (ours, theirs))
        differing = {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)} - {"name"}
        assert {path.split(".")[0] if path.startswith("seam_stage") else path for path in differing} == fields, name
