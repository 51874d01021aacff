"""Passes over the films: vary, forward, backward, update. A GPU is hardly ever waited for.

A recipe's batch (32 films in the paper) stays one batch however it is computed. Several processes take a part of it
each, and a GPU whose memory is too small takes its part in pieces; class weights, random draws and the weight of each
film in the loss are the whole batch's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.dataset import Batches, ChestXrayDataset, load
from ..data.transforms import augment, eval_transform
from ..device import Pieces, select_device, step
from ..errors import InputError
from ..findings import FINDINGS
from ..metrics.classification import choose_thresholds, classification_table, mean_auc
from ..recipes import Recipe
from .distributed import leave_at_exit, synchronise
from .optim import make_optimiser, make_schedule, steps_per_batch

CHECKED_EVERY = {"cpu": 1, "cuda": 32}
"""Updates after which the losses are looked at: each look makes a GPU wait."""


class Trainer:
    """What training a recipe's phase needs, set up for the device at hand.

    Attributes:
        recipe: what is trained.
        objective: a module whose `forward(images, labels, generator=..., part=...)` returns a dictionary with "loss"
            and its terms, as accelerate prepared it.
        module: the same, bare.
        optimiser: over the objective's trainable parameters.
        schedule: of the learning rate, None where it is constant.
        films: to learn from.
        sampler: their order and this process's part of each batch.
        accelerator: device, precision, processes.
        generator: of the random draws, on the CPU.
        pieces: in how many this process computes its part of a batch; more where memory was too small.
        losses: of this epoch's batches so far, each with its terms, (batches, terms) float32.
    """

    def __init__(self, objective: nn.Module, recipe: Recipe, films: ChestXrayDataset) -> None:
        """Set up the training of `recipe`'s phase on `films`.

        Args:
            objective: on the CPU, frozen as the phase wants it.
            recipe: says batches, optimiser, schedule, augmentation, seed.
            films: to learn from.

        Raises:
            InputError: the films are smaller than the recipe's, there are too few for so many processes, the GPU
                cannot be used, or there is no such optimiser or schedule.
        """
        if films.size < recipe.image_size:
            raise InputError(
                f"{recipe.name} is for films of {recipe.image_size} pixels, but those at hand have {films.size}; "
                f"prepare them again with size {recipe.image_size}"
            )
        hardware, phase = select_device(), recipe.stage
        self.recipe, self.films = recipe, films
        self.accelerator = accelerator = Accelerator(
            mixed_precision=hardware.mixed_precision, cpu=hardware.device == "cpu"
        )
        self.pieces = Pieces(recipe.name, processes=accelerator.num_processes)
        self.sampler = Batches(
            len(films),
            phase.batch_size,
            shuffle_seed=recipe.seed,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        if accelerator.num_processes > min(phase.batch_size, len(films)):
            raise InputError(
                f"{accelerator.num_processes} processes cannot share batches of {min(phase.batch_size, len(films))} "
                "films; launch fewer"
            )
        objective.to(memory_format=torch.channels_last)  # on two CPU cores 1.4 times the images a second
        if accelerator.num_processes > 1:
            leave_at_exit()
            objective = synchronise(objective, device=accelerator.device)
        # The fused one looks for overflowing gradients on the GPU; others, under fp16, ask the CPU at each update.
        optimiser = make_optimiser(objective, recipe, fused=True if hardware.device == "cuda" else None)
        updates = phase.epochs * math.ceil(len(self.sampler) / phase.grad_accum_steps)
        self.schedule = make_schedule(optimiser, phase, steps=updates)
        self.objective, self.optimiser = accelerator.prepare(objective, optimiser)
        self.module = accelerator.unwrap_model(self.objective)
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Set order, draws and losses to the start of an epoch."""
        self.sampler.epoch, self.sampler.start = epoch, 0
        self.generator = torch.Generator().manual_seed(epoch_seed(self.recipe.seed, epoch))
        self.terms: list[str] = []
        self.losses: list[Tensor] = []
        self._checked = 0

    def go_on(self, terms: list[str], losses: Tensor | None) -> None:
        """Go on in an epoch after the batches whose `losses` (batches, terms) are known; None: at its start."""
        if losses is None:
            return
        own = losses if self.accelerator.is_main_process else torch.zeros_like(losses)
        self.terms, self.losses = terms, list(own.to(self.accelerator.device))
        self.sampler.start = self._checked = len(losses)

    def updates(self) -> Iterator[int]:
        """Learn from every film once, but for an incomplete last batch (`films.Batches`).

        Begins where `begin` or `go_on` have set it.

        Yields:
            After each update the number of batches that are done in this epoch.

        Raises:
            InputError: the loss is no longer a finite number, or the memory is too small for a single film.
        """
        grad_accum_steps, every = self.recipe.stage.grad_accum_steps, CHECKED_EVERY[self.accelerator.device.type]
        self.objective.train()
        taken: list[tuple[Tensor, list[int]]] = []
        done = self.sampler.start
        random = torch.get_rng_state()
        batches = iter(load(self.films, self.sampler))  # which draws a number, as it has done where a run goes on
        if self.sampler.start:
            torch.set_rng_state(random)
        for (pixels, _), places in zip(batches, self.sampler.whole(), strict=True):
            taken.append((pixels, places))
            done += 1
            if len(taken) == grad_accum_steps or done == len(self.sampler):
                self.update(taken)
                taken.clear()
                if done == len(self.sampler) or done % (grad_accum_steps * every) == 0:
                    self.check()
                yield done

    def update(self, batches: Sequence[tuple[Tensor, list[int]]]) -> None:
        """Learn from some batches by one update.

        Where an epoch's last batches are fewer than the recipe accumulates, their gradients are still divided by the
        full number: a weaker update, once an epoch. Where memory runs out, the update is made anew in smaller pieces;
        batch normalisation then sees those, and the running statistics have seen the films tried before once more.

        Args:
            batches: of each, this process's films (B, 1, S, S) uint8 and the places of all its films.

        Raises:
            InputError: a single film is too much, or several processes share the work: they cannot tell one another.
        """
        films = max(len(pixels) for pixels, _ in batches)
        self.losses += self.pieces.until_they_fit(
            lambda: self._gradients(batches), films=films, generator=self.generator
        )
        self.apply()

    def apply(self) -> None:
        """Update the weights by the gradients that were added up.

        Raises:
            InputError: see `memory.step`.
        """
        phase = self.recipe.stage
        if phase.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.objective.parameters(), phase.max_grad_norm)
        step(self.optimiser)
        if steps_per_batch(phase):
            self.schedule.step()

    def _gradients(self, batches: Sequence[tuple[Tensor, list[int]]]) -> list[Tensor]:
        """Add up the gradients of an update, from nothing; its batches' losses."""
        self.optimiser.zero_grad()
        losses = []
        for pixels, places in batches:
            labels = self.send(torch.from_numpy(self.films.labels[places]))
            images = self.vary(self.send(pixels), among=(len(places), self.sampler.part(len(places))))
            losses.append(self.learn(images, labels, last=len(losses) + 1 == len(batches)))
        return losses

    def send(self, tensor: Tensor) -> Tensor:
        """A copy on the device, for which the CPU does not wait."""
        return tensor.to(self.accelerator.device, non_blocking=True)

    def learn(self, images: Tensor, labels: Tensor, *, last: bool = True) -> Tensor:
        """Add a batch's gradients to those that are there.

        Args:
            images: (B, 3, S, S) normalised, this process's films.
            labels: (N, 14) of all the batch's films.
            last: whether the update follows, for which processes exchange their gradients.

        Returns:
            This process's share of the batch's loss and its terms, detached, (terms,) float32.
        """
        part, total = self.sampler.part(len(labels)), 0.0
        for piece, own in self.pieces.split(images, part, generator=self.generator):
            exchange = last and piece.stop == part.stop
            with nullcontext() if exchange else self.accelerator.no_sync(self.objective):
                result = self.objective(own, labels, generator=self.generator, part=piece)
                share = (piece.stop - piece.start) / len(labels)
                # Gradients are averaged over processes, where the shares of a batch are to be added.
                weight = share * self.accelerator.num_processes
                self.accelerator.backward(result["loss"] * weight / self.recipe.stage.grad_accum_steps)
            self.terms = [name for name in result if name != "logits"]
            total = total + torch.stack([result[name].detach().float() for name in self.terms]) * share
        return total

    def vary(self, films: Tensor, *, among: tuple[int, slice] | None = None) -> Tensor:
        """Augment and normalise grey films (B, 1, S, S) uint8 as the recipe says; `among` as in `augment.augment`."""
        recipe = self.recipe
        return augment(films, recipe.augmentation, size=recipe.image_size, generator=self.generator, among=among)

    def check(self) -> None:
        """Stop a run whose loss is no number any more: nothing that follows would be one.

        Raises:
            InputError: names epoch, batch, term and images.
        """
        if self.checked:
            return
        found = self.accelerator.reduce(torch.stack(self.losses[self._checked :]), reduction="sum")
        # The sum over processes is the main one's from here on, so that it can be saved and shared out anew.
        self.losses[self._checked :] = found if self.accelerator.is_main_process else torch.zeros_like(found)
        wrong = ~found.isfinite().cpu()
        if wrong.any():
            row = int(wrong.any(dim=1).int().argmax())
            names = [name for name, bad in zip(self.terms, wrong[row].tolist(), strict=True) if bad]
            term = next((name for name in names if name != "loss"), "loss")
            batch = self._checked + row
            self.sampler.start = batch
            images = ", ".join(self.films.image_index[place] for place in next(self.sampler.whole()))
            value = found[row, self.terms.index(term)].item()
            raise InputError(
                f"the {'loss' if term == 'loss' else f'term {term} of the loss'} of {self.recipe.name} is {value} in "
                f"epoch {self.sampler.epoch}, batch {batch}; lower the learning rate, or look at the batch's images: "
                f"{images}"
            )
        self._checked = len(self.losses)

    @property
    def checked(self) -> bool:
        """Whether all losses so far have been looked at: nothing else may be saved."""
        return self._checked == len(self.losses)

    def mean_loss(self) -> float:
        """The mean loss of this epoch's batches."""
        losses = self.accelerator.reduce(torch.stack(self.losses), reduction="sum")
        return losses[:, self.terms.index("loss")].contiguous().mean().item()


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch of every run."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


VALIDATION_SEED = 1
"""Validation draws its rotations from here, the same ones every epoch, so that losses compare between epochs."""


@torch.inference_mode()
def validate(trainer: Trainer, films: ChestXrayDataset) -> tuple[dict[str, float | None], np.ndarray | None]:
    """Measure a loop's objective on `films`, without augmentation; several processes take a part of each batch.

    Returns:
        "validation_loss" and "validation_auc", the means, the latter None where no classifier is trained; and the
        logits (N, 14) float32, None there too. The same in all processes.
    """
    objective, accelerator = trainer.module.eval(), trainer.accelerator
    batches = Batches(
        len(films),
        trainer.recipe.stage.batch_size,
        process=trainer.sampler.process,
        processes=trainer.sampler.processes,
    )
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    total = torch.zeros((), device=accelerator.device)
    logits = torch.zeros(films.labels.shape, device=accelerator.device)
    classified = False
    for (pixels, _), places in zip(load(films, batches), batches.whole(), strict=True):
        part, labels = batches.part(len(places)), torch.from_numpy(films.labels[places])
        measure = partial(
            measure_batch, trainer, objective, pixels=pixels, labels=labels, part=part, generator=generator
        )
        share, found = trainer.pieces.until_they_fit(measure, films=len(pixels), generator=generator)
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
    trainer: Trainer, objective: nn.Module, *, pixels: Tensor, labels: Tensor, part: slice, generator: torch.Generator
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
    images, labels = eval_transform(trainer.send(pixels), size=trainer.recipe.image_size), trainer.send(labels)
    share, logits = torch.zeros((), device=images.device), []
    for piece, own in trainer.pieces.split(images, part, generator=generator):
        if len(own):  # a last batch of fewer films than processes
            result = objective(own, labels, generator=generator, part=piece)
            share += result["loss"] * len(own)
            if "logits" in result:
                logits.append(result["logits"].float())
    return share, logits


def select_thresholds(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    """The probability from which on each finding is called present (`choose_thresholds`), None where not defined."""
    chosen = choose_thresholds(labels, torch.from_numpy(logits).double().sigmoid().numpy())
    return {name: None if math.isnan(value) else float(value) for name, value in zip(FINDINGS, chosen, strict=True)}
