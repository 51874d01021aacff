"""Several processes compute what one does: the same losses, each image read once, runs continued by another number."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.batches import ROOT

from cxr_seam.models.checkpoint import read_history

RUNS = Path(__file__).parent / "survival"
NAMES = ("multires_tiny", "multires_tiny_pcm")


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(demo_folder, demo_cache, tmp_path_factory):
    """Folders of both stages, trained with different numbers of processes: `survival/together.py`."""
    out = tmp_path_factory.mktemp("together")
    command = [sys.executable, RUNS / "together.py", demo_folder, demo_cache.folder, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def curves(folder):
    """All losses, AUCs and learning rates of both stages."""
    keys = ("train_loss", "validation_loss", "validation_auc", "learning_rate")
    records = [record for name in NAMES for record in read_history(folder, name)]
    return np.array([[np.nan if record[key] is None else record[key] for key in keys] for record in records])


def rows(folder, process):
    """Which images a process has read, batch by batch."""
    lines = (folder.parent / f"{folder.name}.rows-{process}").read_text().splitlines()
    return [Counter(json.loads(line)) for line in lines]


@pytest.mark.parametrize("name", ["two", "three", "two_then_one", "one_then_two"])
def test_processes_give_the_losses_of_one(name, runs):
    expected = curves(runs / "alone")
    assert expected.shape == (3, 4) and np.isfinite(expected[:2]).all()
    assert curves(runs / name) == pytest.approx(expected, rel=1e-9, nan_ok=True)  # 1e-5 is what is asked for


@pytest.mark.parametrize("name", ["two_then_one", "one_then_two"])
def test_run_continues_in_another_number_of_processes(name, runs):
    """Three updates of two batches of five images were made before the kill; 30 images in all."""

    def read(run):
        logs = sorted(runs.glob(f"{run}.rows-*"))
        return sum(sum(map(Counter.total, rows(runs / run, process))) for process in range(len(logs)))

    assert 0 <= read(name) - read("alone") < 30


@pytest.mark.parametrize(("name", "processes"), [("two", 2), ("three", 3)])
def test_no_image_is_read_by_two_processes(name, processes, runs):
    together = sum((batch for process in range(processes) for batch in rows(runs / name, process)), Counter())
    assert together == sum(rows(runs / "alone", 0), Counter())


def test_both_launchers_train_in_two_processes(tmp_path):
    """Run the commands for shell and notebook of docs/reliability.md on the synthetic images."""

    def program(*words):
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    program("-m", "cxr_seam", "download", "--data", "tiny", "--preset", "tiny")
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    verb = ["-m", "cxr_seam", "train", "multires_tiny", "--data", "tiny"]
    printed = program("-m", *launcher, *verb)
    assert printed.count("training images") == printed.count("the best checkpoint is") == 1
    assert "multires_tiny is trained already" in program(*verb)

    models = tmp_path / "runs" / "tiny" / "models"
    expected = read_history(models, "multires_tiny")
    shutil.rmtree(models)
    page = (ROOT / "docs" / "reliability.md").read_text()
    program("-c", re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1])
    assert [r["train_loss"] for r in read_history(models, "multires_tiny")] == [r["train_loss"] for r in expected]


def test_the_benchmark_shows_one_process_beside_two():
    options = ["--images", "32", "--size", "32", "--epochs", "1", "--precision", "float64"]
    command = [sys.executable, ROOT / "benchmarks" / "processes.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    apart = {name: values.split(", ") for name, values in re.findall(r"from one, (two.*): (.*)", done.stdout)}
    assert set(apart) == {"two", "two threads"}
    assert all(0 <= float(value) < 1e-9 for values in apart.values() for value in values)
