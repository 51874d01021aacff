"""Check on a GPU what the tests can only imitate on a CPU; used by gpu.sh.

    python benchmarks/gpu_checks.py oom [--quick]       # train with too little memory, compare the losses
    python benchmarks/gpu_checks.py resume [--quick]    # kill a training in its second epoch, continue, compare
                                                        # with two trainings that were not killed
    python benchmarks/gpu_checks.py rows FOLDER         # collect the finished rows of the studies in a folder

Each prints one line of JSON. On a CPU `oom` imitates the error.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from train_step import DEFAULT_MODELS, epoch, ours, recipe_of

from cxr_seam.models.checkpoint import read_history
from cxr_seam.recipes import Recipe
from cxr_seam.training.fit import Callback, ProgressBar, fit
from cxr_seam.training.trainer import CHECK_EVERY, Trainer

UPDATES = {"cpu": 4, "cuda": CHECK_EVERY["cuda"] + 4}
"""Updates of an epoch: the losses are checked, and a state is saved, at least once in it."""
SHARE = 0.6
"""Of the memory that the training needs, this share is left free."""


def make_recipe(quick: bool, cache: Path) -> Recipe:
    """Make a recipe of two epochs and a cache of random images for `UPDATES` updates an epoch."""
    model = DEFAULT_MODELS["cpu" if quick else measure.device()]
    size, batch = (64, 4) if quick else (256, 32)
    recipe = recipe_of(model, size=size, batch=batch)
    recipe = replace(recipe, classifier_stage=replace(recipe.classifier_stage, epochs=2))
    if not cache.exists():
        pixels = np.random.default_rng(0).integers(0, 256, (64, size, size), dtype=np.uint8)
        measure.repeated_images(cache, pixels, count=UPDATES[measure.device()] * recipe.stage.grad_accum_steps * batch)
    return recipe


def trained(recipe: Recipe, cache: Path) -> Trainer:
    """Train for an epoch; return the trainer."""
    trainer = ours(recipe, cache)
    if measure.device() == "cpu":
        imitate_oom(trainer)
    epoch(trainer)
    return trainer


def imitate_oom(trainer: Trainer) -> None:
    """Let batches of more than half the recipe's size fail as on a GPU whose memory is full, once `full` is set."""

    def refuse(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if imitate_oom.full and len(inputs[0]) > trainer.recipe.stage.batch_size / 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (imitated)")

    trainer.objective.register_forward_pre_hook(refuse)


imitate_oom.full = False


def oom(quick: bool) -> dict[str, Any]:
    """Train an epoch with all memory and one with a share of what it needs; compare the losses of the batches."""
    on_gpu = measure.device() == "cuda"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recipe = make_recipe(quick, Path(folder, "cache"))
        losses = [trained(recipe, Path(folder, "cache")).losses["loss"].cpu()]
        ballast, left = None, None
        if on_gpu:
            needed = torch.cuda.max_memory_allocated()
            gc.collect()
            torch.cuda.empty_cache()
            left = int(SHARE * needed)
            ballast = torch.empty(torch.cuda.mem_get_info()[0] - left, dtype=torch.uint8, device="cuda")
        else:
            imitate_oom.full = True
        trainer = trained(recipe, Path(folder, "cache"))
        losses.append(trainer.losses["loss"].cpu())
        del ballast
    return {
        "imitated": not on_gpu,
        "MiB left": None if left is None else left / measure.MIB,
        "micro_batches": trainer.split.micro_batches,
        "largest difference of a loss": (losses[0] - losses[1]).abs().max().item(),
        "losses": losses[0].tolist(),
        "warnings": [str(warning.message) for warning in caught if "micro-batches" in str(warning.message)],
    }


class Kill(Callback):
    """Kill this process two updates before the end of the second epoch."""

    def on_update(self, trainer: Trainer) -> None:
        """Count in batches of the epoch."""
        killed = UPDATES[measure.device()] - 2
        if trainer.epoch == 1 and trainer.batch == killed * trainer.recipe.stage.grad_accum_steps:
            os.kill(os.getpid(), signal.SIGKILL)


def child(*, cache: str, folder: str, quick: bool, kill: bool) -> None:
    """Train both epochs and save a state whenever the losses were checked; die on the way with `kill`."""
    images = measure.all_images(Path(cache))
    callbacks = [ProgressBar(), *([Kill()] if kill else [])]
    fit(
        make_recipe(quick, Path(cache)),
        folder,
        train_set=images,
        val_set=images,
        callbacks=callbacks,
        save_minutes=0,
    )


def resume(quick: bool) -> dict[str, Any]:
    """Train twice without and once with an interruption, in processes of their own.

    On a GPU two trainings of the same recipe need not agree; the two that were not killed show by how much they differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        recipe = make_recipe(quick, cache)
        runs = {}
        for name, target, kill in (
            ("whole", "whole", False),
            ("whole again", "again", False),
            ("killed", "parts", True),
            ("continued", "parts", False),
        ):
            task = {"cache": str(cache), "folder": str(Path(folder, target)), "quick": quick, "kill": kill}
            started = time.perf_counter()
            command = [sys.executable, __file__, "child", "--task", json.dumps(task)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != (-signal.SIGKILL if kill else 0):
                raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr}")
            runs[name] = {"seconds": time.perf_counter() - started, "said": done.stdout.splitlines()}
        histories = [read_history(Path(folder, target), recipe.name) for target in ("whole", "again", "parts")]
    whole, again, parts = histories
    return {
        "continued": next((line for line in runs["continued"]["said"] if "continues at" in line), None),
        "epochs": len(parts),
        "largest difference of losses and AUC": difference(whole, parts),
        "of two that were not killed": difference(whole, again),
        "histories": histories,
        "seconds": {name: run["seconds"] for name, run in runs.items()},
    }


def difference(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """Return the largest difference of two histories."""
    keys = ("train_loss", "validation_loss", "validation_auc")
    return max(abs(a[key] - b[key]) for a, b in zip(one, other, strict=True) for key in keys)


def rows(folder: Path) -> dict[str, Any]:
    """Collect the files of the finished rows of all studies in a folder: study -> name of the row -> row."""
    studies: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/rows/*.json")):
        studies.setdefault(path.parent.parent.name, {})[path.stem] = json.loads(path.read_text())
    return {"studies": studies}


def main() -> None:
    """Run one check and print its result with the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=("oom", "resume", "rows", "child"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny input, to check that it runs")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check == "child":
        child(**options.task)
        return
    result = (
        rows(options.folder)
        if options.check == "rows"
        else {"oom": oom, "resume": resume}[options.check](options.quick)
    )
    print(json.dumps({"benchmark": options.check, "machine": measure.machine()} | result))


if __name__ == "__main__":
    main()
