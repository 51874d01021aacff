"""The benchmarks run on tiny input and report what they promise; no test checks a speed."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.batches import ROOT

pytestmark = pytest.mark.slow

SCRIPTS = ("input_pipeline", "prepare", "train_step", "pcm", "inference", "bootstrap", "viewer")
NEEDS_DATA = ("input_pipeline", "prepare")


def start(script: str, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def output_of(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def reports(demo_folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON of every benchmark; they run at the same time, because no time is checked."""
    data = {script: ("--data", str(demo_folder)) if script in NEEDS_DATA else () for script in SCRIPTS}
    processes = {script: start(script, "--quick", "--json", *data[script]) for script in SCRIPTS}
    return {script: json.loads(output_of(process)) for script, process in processes.items()}


def rows(report: dict[str, Any], column: str) -> list[dict[str, Any]]:
    """The rows of all tables that have a column."""
    return [row for table in report["tables"].values() for row in table if column in row]


@pytest.mark.parametrize("script", SCRIPTS)
def test_report(reports: dict[str, dict[str, Any]], script: str) -> None:
    report = reports[script]
    assert report["benchmark"] == script and report["not_measured"]
    assert {"cpu", "cores", "threads", "torch", "gpu"} <= report["machine"].keys()
    ratios = rows(report, "ratio")
    assert ratios or script == "viewer"  # its goal is a time, not a ratio
    for row in ratios:
        assert 0 < row["min"] <= row["median"] <= row["max"] and "goal" in row


@pytest.mark.parametrize(
    ("script", "count"), {"prepare": 2, "train_step": 3, "pcm": 2, "inference": 2, "bootstrap": 1}.items()
)
def test_peak_memory_is_reported(reports: dict[str, dict[str, Any]], script: str, count: int) -> None:
    peaks = rows(reports[script], "peak MiB")
    assert len(peaks) == count and all(row["peak MiB"] > 0 for row in peaks)


def test_pcm_blocks_equal_whole_affinity(reports: dict[str, dict[str, Any]]) -> None:
    ours = rows(reports["pcm"], "maps differ by")[0]
    assert ours["maps differ by"] < 1e-5 and ours["gradients differ by"] < 1e-5


def test_bootstrap_equals_scikit_learn(reports: dict[str, dict[str, Any]]) -> None:
    column = "scores differ from ours by"
    differences = [row[column] for row in rows(reports["bootstrap"], column)]
    assert len(differences) == 2 and max(differences) < 1e-12


def test_gflops_of_efficientnet_lite0(reports: dict[str, dict[str, Any]]) -> None:
    """It has 407 million multiply-adds at 224 pixels, 1.28 million of them in its classifier."""
    small = next(row for row in rows(reports["inference"], "GFLOPs an image") if row["model"] == "small")
    assert small["GFLOPs an image"] == pytest.approx(2 * (0.407 - 0.00128) * (64 / 224) ** 2, rel=0.08)


def test_affinity_is_in_the_memory_of_a_fresh_process() -> None:
    """The plain module holds at least 1,024 x 1,024 float32 values for each of 4 images: 16 MiB."""
    task = {"candidate": "plain", "pixels": 1024, "batch": 4}
    assert json.loads(output_of(start("pcm", "--child", json.dumps(task))))["bytes"] > 16 * 2**20


@pytest.fixture(scope="module")
def gpu_files(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What gpu_prepare.py packs of the synthetic images."""
    folder = tmp_path_factory.mktemp("gpu_files")
    assert "images" in output_of(start("gpu_prepare", "--data", str(demo_folder), "--out", str(folder), "--no-wheels"))
    return folder


def test_packed_images_are_those_of_the_folder(gpu_files: Path, demo_folder: Path) -> None:
    with zipfile.ZipFile(gpu_files / "images.zip") as archive:
        for name in archive.namelist():
            assert archive.read(name) == (demo_folder / name).read_bytes()
        packed = {Path(name).name for name in archive.namelist()}
    assert {path.name for path in (demo_folder / "images").iterdir()} < packed
    assert {"BBox_List_2017.csv", "test_list.txt", "train_val_list.txt"} <= packed


def test_gpu_script_at_toy_size_reports_all_parts(gpu_files: Path, tmp_path: Path) -> None:
    """Killed and continued, a training on the CPU has the same losses; a full memory halves the batch."""
    environment = os.environ | {"FILES": str(gpu_files), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out"), "--smoke"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert done.returncode == 0, done.stderr + log
    read = {part: (tmp_path / "out" / f"{part}.json").read_bytes() for part in "abcdef"}
    read["g"] = gzip.decompress((tmp_path / "out" / "g.json.gz").read_bytes())
    parts = {part: [json.loads(line) for line in content.splitlines()] for part, content in read.items()}
    assert all("machine" in report for reports in parts.values() for report in reports), log
    assert [report["settings"]["stage"] for report in parts["a"]] == ["classifier", "SEAM"]
    epoch = parts["a"][0]["tables"]["A whole epoch"][0]
    assert epoch["projected hours"] == pytest.approx(epoch["seconds"] / epoch["images"] * 32_800 * 35 / 3600)
    assert parts["b"][0]["benchmark"] == "pcm" and parts["c"][0]["benchmark"] == "inference"
    assert parts["d"][0]["micro_batches"] == 2 and len(parts["d"][0]["warnings"]) == 1
    assert "epoch 1" in parts["e"][0]["continued"] and parts["e"][0]["epochs"] == 2
    assert parts["e"][0]["largest difference of losses and AUC"] == parts["e"][0]["of two that were not killed"] == 0
    assert parts["f"][0]["benchmark"] == "train_step"
    row = parts["g"][0]["studies"]["efficientnet_lite0:64:0"]["paper.s0"]
    auc = row["maps"]["MultiRes"]["mean_auc"]["value"]
    assert 0 <= auc <= 1
    table = pd.read_csv(io.StringIO(output_of(start("gpu_table", str(tmp_path / "out" / "g.json.gz")))), dtype=str)
    assert table.loc[table["maps"] == "MultiRes", "mean AUC"].item().startswith(f"{auc:.3f}")


def test_report_prints_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from measure import Report

    table = [{"candidate": "ours", "images/s": 1234.5678}, {"candidate": "other", "images/s": None}]
    Report("name", {"size": 64}, {"Speed": table}, ["the rest"]).show(as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert f"torch {torch.__version__}" in " ".join(lines[0])
    assert lines[4:7] == [["candidate", "images/s"], ["ours", "1,235"], ["other", "-"]]
