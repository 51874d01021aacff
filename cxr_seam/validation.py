"""What an epoch is judged by: loss and mean AUC on the validation films, and the thresholds chosen there."""

from __future__ import annotations

import math

import numpy as np
import torch

from .augment import to_input
from .classification import choose_thresholds, classification_table, mean_auc
from .films import Batches, Films, load
from .findings import FINDINGS
from .loop import Loop

VALIDATION_SEED = 1
"""Validation draws its rotations from here, the same ones every epoch, so that losses compare between epochs."""


@torch.inference_mode()
def validate(loop: Loop, films: Films) -> tuple[dict[str, float | None], np.ndarray | None]:
    """Measure a loop's objective on `films`, without augmentation; several processes take a part of each batch.

    Returns:
        "validation_loss" and "validation_auc", the means, the latter None where no classifier is trained; and the
        logits (N, 14) float32, None there too. The same in all processes.
    """
    objective, accelerator, size = loop.judged.eval(), loop.accelerator, loop.recipe.image_size
    batches = Batches(
        len(films), loop.recipe.phase.batch_size, process=loop.sampler.process, processes=loop.sampler.processes
    )
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    total = torch.zeros((), device=accelerator.device)
    logits = torch.zeros(films.labels.shape, device=accelerator.device)
    classified = False
    for (pixels, _), places in zip(load(films, batches), batches.whole(), strict=True):
        labels = loop.send(torch.from_numpy(films.labels[places]))
        images = to_input(loop.send(pixels), size=size)
        for piece, own in loop.split(images, batches.part(len(places)), generator=generator):
            if len(own):  # a last batch of fewer films than processes
                result = objective(own, labels, generator=generator, part=piece)
                total += result["loss"] * len(own)
                if classified := "logits" in result:
                    logits[places[piece]] = result["logits"].float()
    loss = float(accelerator.reduce(total, reduction="sum")) / len(films)
    logits = accelerator.reduce(logits, reduction="sum")  # each process has filled in its own
    if not classified or not math.isfinite(loss):
        return {"validation_loss": loss, "validation_auc": None}, None
    found = logits.cpu().numpy()
    auc = mean_auc(classification_table(films.labels, found))
    auc = None if math.isnan(auc) else auc  # JSON has no NaN
    return {"validation_loss": loss, "validation_auc": auc}, found


def named_thresholds(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    """The probability from which on each finding is called present (`choose_thresholds`), None where not defined."""
    chosen = choose_thresholds(labels, torch.from_numpy(logits).double().sigmoid().numpy())
    return {name: None if math.isnan(value) else float(value) for name, value in zip(FINDINGS, chosen, strict=True)}
