"""The benchmarks run on tiny input and say what they promise; how fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("input_pipeline", "prepare", "train_step", "pcm", "inference", "bootstrap", "explorer")
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
    "explorer": set(),  # held to milliseconds, not to another program
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
