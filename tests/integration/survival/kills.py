"""Kill training again and again, let it continue, and compare with a run that was never killed.

    python tests/integration/survival/kills.py [--kills 30] [--seed 0]

Both stages are trained on a few synthetic images by a network that samples random numbers in training (drop connect):
once undisturbed, and then in processes that are killed (SIGKILL) at a random moment, or half-way through writing a
file. Each is started again until the run is complete, and runs are repeated until there were enough kills. A run with a
state must continue from it. Every tensor of the last and best checkpoints, their scores and the histories must have
the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from two_stages import datasets_of, recipes

from cxr_seam.data.cache import prepare
from cxr_seam.synthetic.dataset import write_demo_data
from cxr_seam.training.fit import fit
from cxr_seam.training.storage import RunFolder

MODEL = "multires_efficientnet_lite0"
KINDS = {
    "cosine": {"schedule": "cosine", "more": True, "again": True},
    "plateau": {"schedule": "plateau"},
    "one_cycle": {"schedule": "one_cycle"},
}
"""Arguments of `two_stages.recipes`, by name."""


def run(data: Path, folder: Path, kind: str) -> None:
    """Train a kind's recipes or go on, saving a state after every update.

    Raises:
        AssertionError: a run with a state was trained from the beginning; it would end with the same bits, too.
    """
    datasets = datasets_of(data, data / "store")
    for recipe in recipes(MODEL, **KINDS[kind]):
        left, printed = RunFolder(folder, recipe.name).states(), io.StringIO()
        with contextlib.redirect_stdout(printed):
            fit(recipe, folder, train_set=datasets[0], val_set=datasets[1], save_minutes=0)
        went_on = any(words in printed.getvalue() for words in ("continues at", "is trained already"))
        assert went_on or not left, f"{recipe.name} was trained from the beginning"


def in_child(work: Callable[[], object]) -> int:
    """Start `work` in a process of its own and return its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        torch.set_num_threads(1)
        with warnings.catch_warnings(), open(os.devnull, "w") as sys.stderr:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message=".*is damaged")  # renamed or not there, never a half
            work()
        status = 0
    finally:
        os._exit(status)


def killed_in_writing(work: Callable[[], object], *, file: int) -> Callable[[], object]:
    """`work`, killed half-way through the file with this number."""

    def doomed() -> None:
        write, written = Path.write_bytes, []

        def half(path: Path, content: bytes) -> int:
            written.append(path)
            if len(written) == file:
                write(path, content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return write(path, content)

        Path.write_bytes = half
        work()

    return doomed


def wait(child: int) -> bool:
    """Whether the process ended well; False where it was killed.

    Raises:
        SystemExit: it failed by itself.
    """
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("a run failed by itself: a killed run must not fail")
    return True


def bits(folder: Path) -> dict[str, str]:
    """A digest of each file that a complete run leaves; the time that epochs took does not count."""
    found = {}
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256()
        if path.suffix == ".jsonl":
            for line in path.read_text().splitlines():
                digest.update(repr({k: v for k, v in json.loads(line).items() if k != "seconds"}).encode())
        else:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["cxr_seam"])
                header["metrics"].pop("seconds")
                digest.update(repr(header).encode())
                for key in sorted(file.keys()):
                    digest.update(key.encode() + file.get_tensor(key).numpy().tobytes())
        found[path.name] = digest.hexdigest()
    return found


def main() -> int:
    """Kill and compare; status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    data = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        write_demo_data(data, patients=16, seed=3, progress=False)
        prepare(data / "images", data / "store", size=64, progress=False)
        expected, seconds = {}, {}
        kills = {"at a random moment": 0, "in writing a file": 0}
        runs = differing = 0
        while sum(kills.values()) < options.kills:
            kind, folder = list(KINDS)[runs % len(KINDS)], data / f"killed-{runs}"
            if kind not in expected:
                started = time.monotonic()
                if not wait(in_child(partial(run, data, data / kind, kind))):
                    raise SystemExit("the undisturbed run was killed")
                seconds[kind] = time.monotonic() - started
                expected[kind] = bits(data / kind)
            complete = False
            while not complete:
                work = partial(run, data, folder, kind)
                if sum(kills.values()) >= options.kills:
                    complete = wait(in_child(work))
                elif sum(kills.values()) % 2:
                    complete = wait(in_child(killed_in_writing(work, file=chance.randint(1, 9))))
                    kills["in writing a file"] += not complete
                else:
                    child = in_child(work)
                    time.sleep(chance.uniform(0.1, 0.6) * seconds[kind])
                    os.kill(child, signal.SIGKILL)
                    complete = wait(child)
                    kills["at a random moment"] += not complete
            runs += 1
            differing += bits(folder) != expected[kind]
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    counts = ", ".join(f"{count} {where}" for where, count in kills.items())
    print(
        f"{sum(kills.values())} kills ({counts}), {runs} runs of both stages: "
        f"{runs - differing} ended with the same bits"
    )
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
