"""Shared by the benchmarks: time candidates in turn, measure memory in fresh processes, print tables or JSON (Linux
only).

Candidates run A B A B ... in one process, so that other work of the machine affects all of them, and are compared pair
by pair. Peak memory on the CPU is VmHWM in /proc/self/status, in a fresh process for each candidate; ru_maxrss of
getrusage is inherited from the parent process, so it starts too high. On a GPU it is PyTorch's count.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_seam.data.cache import IMAGES_FILE, CacheIndex, ImageCache
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.device import select_device
from cxr_seam.findings import FINDINGS

Row = dict[str, Any]
MIB = 2**20
PAGE = 4096


def parser(description: str, *, rounds: int) -> argparse.ArgumentParser:
    """Make a parser with the options of all benchmarks."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options.add_argument(
        "--quick", action="store_true", help="tiny input, to check that the benchmark runs; ignore its numbers"
    )
    options.add_argument("--rounds", type=int, default=rounds, help="number of timings of each candidate (%(default)s)")
    options.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)  # the task of a fresh process
    return options


def device() -> str:
    """Return "cuda" if there is a usable GPU, else "cpu"."""
    return select_device().device


def machine() -> Row:
    """Describe the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if device() == "cuda" else None,
    }


def use_two_cores() -> None:
    """Use two cores, as on Colab's free machines."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    torch.set_num_threads(min(torch.get_num_threads(), len(os.sched_getaffinity(0))))


def finish_work() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turn(candidates: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each candidate in each round, after one warm-up call."""
    for work in candidates.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, work in candidates.items():
            finish_work()
            started = time.perf_counter()
            work()
            finish_work()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: Sequence[float]) -> Row:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(what: str, over: Sequence[float], under: Sequence[float], *, goal: str = "") -> Row:
    """Compute the ratio of two candidates, pair by pair."""
    pairs = [a / b for a, b in zip(over, under, strict=True)]
    return {"ratio": what, **spread(pairs), "goal": goal}


def in_fresh_process(memory: Callable[..., Row], *, quick: bool, **task: Any) -> Row:
    """Call the function `memory(**task)` of a script in a fresh process (--child); `quick` or on a GPU in this one.

    PyTorch counts the memory of a GPU itself, so earlier work in the process does not change it.
    """
    if quick or device() == "cuda":
        return memory(**task)
    script = Path(inspect.getfile(memory))
    result = subprocess.run([sys.executable, script, "--child", json.dumps(task)], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{script.name}, measuring {task}, ended with {result.returncode}:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def resident() -> Row:
    """Return bytes of this process: RssAnon (own), RssFile (mapped files), VmRSS (both), VmHWM (peak)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile", "VmRSS", "VmHWM")}


def peak_bytes(work: Callable[[], object]) -> int:
    """Measure the peak memory of `work` above the memory before it.

    On a GPU this is the memory that PyTorch allocates, on the CPU the resident memory of the process. At least one
    page, because `work` may reuse memory that was freed before.
    """
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        finish_work()
        return max(PAGE, torch.cuda.max_memory_allocated() - before)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to VmRSS
    before = resident()["VmRSS"]
    work()
    return max(PAGE, resident()["VmHWM"] - before)


def repeated_images(folder: Path, pixels: np.ndarray, *, count: int) -> ChestXrayDataset:
    """Make a cache of `count` images that repeat `pixels` (n, S, S) uint8, with random labels."""
    folder.mkdir(parents=True)
    index = CacheIndex(size=pixels.shape[-1])
    with (folder / IMAGES_FILE).open("wb") as file:
        for i in range(count):
            data = pixels[i % len(pixels)]
            file.write(data.tobytes())
            index.add(f"{i:08d}_000.png", data, source="benchmark")
    index.save(folder)
    return all_images(folder)


def all_images(folder: Path) -> ChestXrayDataset:
    """Open a cache, with random labels (a tenth positive)."""
    cache = ImageCache.open(folder)
    labels = (np.random.default_rng(0).random((len(cache), len(FINDINGS))) < 0.1).astype(np.float32)
    metadata = SimpleNamespace(findings=FINDINGS, labels=lambda names: labels)
    return ChestXrayDataset(cache, metadata, image_index=cache.image_index)


@dataclass
class Report:
    """The results of a benchmark.

    Attributes:
        benchmark: its name.
        settings: such as sizes and counts.
        tables: rows by title.
        not_measured: sentences about what is not included.
    """

    benchmark: str
    settings: Row
    tables: dict[str, list[Row]]
    not_measured: list[str]
    machine: Row = field(default_factory=machine)

    def show(self, *, as_json: bool) -> None:
        """Print tables, or one JSON object."""
        if as_json:
            print(json.dumps(vars(self)))
            return
        print(f"{self.benchmark} on " + ", ".join(f"{key} {value}" for key, value in self.machine.items()))
        print(", ".join(f"{key} {value}" for key, value in self.settings.items()))
        for title, rows in self.tables.items():
            print(f"\n{title}")
            frame = pd.DataFrame(rows)
            frame = frame.astype(object).where(frame.notna(), "-")
            print(frame.to_string(index=False, float_format="{:,.4g}".format))
        print()
        for sentence in self.not_measured:
            print(f"Not measured: {sentence}")
