"""What an epoch is judged by: loss and mean AUC on the validation films, and the thresholds chosen there.

An epoch is judged by one look at each film, which is quick; a model that is kept looks as prediction does (`usual`).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

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
    objective, accelerator = loop.judged.eval(), loop.accelerator
    batches = Batches(
        len(films), loop.recipe.phase.batch_size, process=loop.sampler.process, processes=loop.sampler.processes
    )
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    total = torch.zeros((), device=accelerator.device)
    logits = torch.zeros(films.labels.shape, device=accelerator.device)
    classified = False
    for (pixels, _), places in zip(load(films, batches), batches.whole(), strict=True):
        part, labels = batches.part(len(places)), torch.from_numpy(films.labels[places])
        measure = partial(measure_batch, loop, objective, pixels=pixels, labels=labels, part=part, generator=generator)
        share, found = loop.pieces.until_they_fit(measure, films=len(pixels), generator=generator)
        total += share
        if len(found):
            classified, logits[places[part]] = True, torch.cat(found)
    loss = float(accelerator.reduce(total, reduction="sum")) / len(films)
    logits = accelerator.reduce(logits, reduction="sum")  # each process has filled in its own
    if not classified or not math.isfinite(loss):
        return {"validation_loss": loss, "validation_auc": None}, None
    found = logits.cpu().numpy()
    auc = mean_auc(classification_table(films.labels, found))
    auc = None if math.isnan(auc) else auc  # JSON has no NaN
    return {"validation_loss": loss, "validation_auc": auc}, found


def measure_batch(
    loop: Loop, objective: nn.Module, *, pixels: Tensor, labels: Tensor, part: slice, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """This process's share of a batch's loss, summed over films, and the logits of its pieces, if there are any.

    Args:
        loop: on whose device.
        objective: to measure.
        pixels: (B, 1, S, S) uint8 of this process's films.
        labels: (N, 14) of the whole batch.
        part: which of the batch this process's films are.
        generator: for the whole batch.
    """
    images, labels = to_input(loop.send(pixels), size=loop.recipe.image_size), loop.send(labels)
    share, logits = torch.zeros((), device=images.device), []
    for piece, own in loop.pieces.split(images, part, generator=generator):
        if len(own):  # a last batch of fewer films than processes
            result = objective(own, labels, generator=generator, part=piece)
            share += result["loss"] * len(own)
            if "logits" in result:
                logits.append(result["logits"].float())
    return share, logits


def named_thresholds(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    """The probability from which on each finding is called present (`choose_thresholds`), None where not defined."""
    chosen = choose_thresholds(labels, torch.from_numpy(logits).double().sigmoid().numpy())
    return {name: None if math.isnan(value) else float(value) for name, value in zip(FINDINGS, chosen, strict=True)}
