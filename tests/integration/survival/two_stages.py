"""Train both stages on a few synthetic images, in one or several processes.

    python two_stages.py TABLES CACHE FOLDER [UPDATES]

Tests launch this script and read the history and the checkpoints that it writes. If UPDATES is given, every process
is killed after that number of updates.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from cxr_seam.data.cache import ImageCache
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.data.split import train_val_split
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import fit
from cxr_seam.training.trainer import Trainer

FIRST, SECOND = get_recipe("multires_tiny"), get_recipe("multires_tiny_pcm")


def recipes(model, schedule="plateau", *, more=False, again=False):
    """Two recipes with batches that two and three processes cannot share evenly, and a learning rate that changes.

    `more` adds AdamW and a warm-up; `again` adds test-time augmentation and the mean CAM of negative images.
    """
    stage = replace(
        FIRST.classifier_stage,
        epochs=2,
        batch_size=5,
        grad_accum_steps=2,
        schedule=schedule,
        plateau_patience=0,
        learning_rate=3e-4,
    )
    first = replace(FIRST, model=model, weights="none", classifier_stage=stage)
    seam = replace(SECOND.seam_stage, batch_size=5, grad_accum_steps=2)
    if more:
        decaying = {"optimiser": "adamw", "weight_decay": 0.1, "warmup_fraction": 0.25}
        stage, seam = replace(stage, **decaying), replace(seam, **decaying)
        first = replace(first, classifier_stage=stage)
    inference = {"cam_baseline": "negative_mean", "tta_scales": (1.0, 1.5)} if again else {}
    first = replace(first, **inference)
    return first, replace(SECOND, model=model, seam_stage=seam, **inference)


def datasets_of(tables, cache):
    """Training and validation set, from a folder with tables and the folder of a cache."""
    tables, cache = load_metadata(tables), ImageCache.open(cache)
    chosen = train_val_split(tables, validation_fraction=0.25, num_normal_images=100, seed=0)
    return [ChestXrayDataset(cache, tables, image_index=names) for names in chosen]


def in_double_precision():
    """Compute in float64, where sums in another order agree to a millionth of what float32 leaves.

    From random weights and batches of five, rounding grows a thousandfold in ten updates; in float64 it stays unseen,
    so every other difference between one process and several is seen.
    """
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double


def die_after(updates):
    """Kill this process after `updates` updates."""
    train_step, made = Trainer.train_step, []

    def counted(trainer, batches):
        train_step(trainer, batches)
        made.append(None)
        if len(made) == updates:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer.train_step = counted


def log_reading(path):
    """Log the rows of the cache that this process reads."""
    load = ImageCache.load

    def logged(cache, rows):
        with path.open("a") as file:
            file.write(json.dumps([int(row) for row in rows]) + "\n")
        return load(cache, rows)

    ImageCache.load = logged


def main(tables, cache, folder, updates=None):
    """Train both stages."""
    in_double_precision()
    log_reading(folder.parent / f"{folder.name}.rows-{os.environ.get('RANK', '0')}")
    if updates is not None:
        die_after(int(updates))
    train_set, val_set = datasets_of(tables, cache)
    for recipe in recipes("multires_timm:resnet18", more=True):
        fit(recipe, folder, train_set=train_set, val_set=val_set, save_minutes=0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
