"""Training as it runs, against its own limit and against a plain step.

    python benchmarks/train_step.py [--json] [--quick] [--rounds N] [--model NAME] [--size S] [--epoch IMAGES]

- loop: the pieces of `training.train`: batches from a store, augmentation, the first phase's objective, Adam,
  gradients accumulated over three batches, mixed precision on a GPU.
- step: the same step fed one batch that is already augmented on the device: the limit.
- plain step: the same model with every stage trainable, so that the graph is whole, in float32 as PyTorch's defaults
  compute it, in the contiguous layout; fed one resident batch too.

With --epoch a whole epoch of so many made-up films is run as well (the paper's training set has about 32,000).
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import measure
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from cxr_seam.augment import augment
from cxr_seam.films import loader
from cxr_seam.hardware import find_hardware
from cxr_seam.models import build_model
from cxr_seam.recipes import Recipe
from cxr_seam.training import ClassificationObjective

DEFAULT_MODELS = {"cpu": "multires_efficientnet_lite0", "cuda": "multires_resnet50"}
EVERY_STAGE = 2
"""The finest stride: nothing is frozen."""

Step = Callable[[Tensor, Tensor], Tensor]


def recipe_of(model: str, *, size: int, batch: int) -> Recipe:
    """The paper's first phase with random weights."""
    recipe = Recipe("benchmark", model, image_size=size, weights="none")
    return replace(recipe, backbone=replace(recipe.backbone, batch_size=batch))


def objective_of(recipe: Recipe, *, from_stride: int) -> ClassificationObjective:
    """The objective of the first phase in training mode, on the CPU still."""
    torch.manual_seed(recipe.seed)
    objective = ClassificationObjective(build_model(recipe.model, weights="none"), trainable_from_stride=from_stride)
    return objective.train()


def adam_of(objective: ClassificationObjective, recipe: Recipe) -> torch.optim.Adam:
    """The recipe's optimiser."""
    trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trainable, lr=recipe.phase.learning_rate, betas=recipe.phase.betas)


class Ours:
    """What `training.train` sets up and does with every batch."""

    def __init__(self, recipe: Recipe, store: Path) -> None:
        self.recipe = recipe
        hardware = find_hardware()
        objective = objective_of(recipe, from_stride=recipe.phase.trainable_from_stride)
        objective.to(memory_format=torch.channels_last)
        self.accelerator = Accelerator(
            mixed_precision=hardware.mixed_precision,
            gradient_accumulation_steps=recipe.phase.accumulation,
            cpu=hardware.device == "cpu",
        )
        batches = loader(measure.all_films(store), recipe.phase.batch_size, shuffle_seed=recipe.seed)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.objective, self.optimiser, self.batches = self.accelerator.prepare(
            objective, adam_of(objective, recipe), batches
        )

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Learn from one batch."""
        with self.accelerator.accumulate(self.objective):
            loss = self.objective(images, labels, generator=self.generator)["loss"]
            self.accelerator.backward(loss)
            self.optimiser.step()
            self.optimiser.zero_grad()
        return loss.detach()

    def vary(self, films: Tensor) -> Tensor:
        """Augment one batch."""
        return augment(films, self.recipe.augmentation, size=self.recipe.image_size, generator=self.generator)

    def epoch(self) -> None:
        """Learn from every film once."""
        losses = [self.step(self.vary(films), labels) for films, labels in self.batches]
        check(losses)

    def resident(self) -> tuple[Tensor, Tensor]:
        """One augmented batch and its labels on the device.

        All batches are gone through: accelerate would take a pass that was left in the middle for one that ends, and
        update with every batch from then on.
        """
        for films, labels in self.batches:
            batch = films, labels
        return self.vary(batch[0]), batch[1]


class Plain:
    """A step without what makes ours lighter."""

    def __init__(self, recipe: Recipe) -> None:
        self.accumulation, self.done = recipe.phase.accumulation, 0
        self.objective = objective_of(recipe, from_stride=EVERY_STAGE).to(measure.device())
        self.optimiser = adam_of(self.objective, recipe)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Learn from one batch."""
        loss = self.objective(images, labels, generator=None)["loss"]
        (loss / self.accumulation).backward()
        self.done += 1
        if self.done % self.accumulation == 0:
            self.optimiser.step()
            self.optimiser.zero_grad()
        return loss.detach()


def again(step: Step, images: Tensor, labels: Tensor, *, count: int) -> None:
    """The same batch `count` times."""
    check([step(images, labels) for _ in range(count)])


def check(losses: list[Tensor]) -> None:
    """Read the losses once, as training does after an epoch."""
    if not math.isfinite(torch.stack(losses).mean().item()):
        raise SystemExit("the loss is no longer a finite number")


def memory(*, candidate: str, model: str, size: int, batch: int, store: str) -> dict[str, int]:
    """Peak memory of one update: model, optimiser, gradients and graph; run in a process of its own."""
    recipe = recipe_of(model, size=size, batch=batch)

    def work() -> None:
        if candidate == "plain step":
            images = torch.randn(batch, 3, size, size, device=measure.device())
            labels = torch.zeros(batch, 14, device=measure.device())
            again(Plain(recipe).step, images, labels, count=recipe.phase.accumulation)
        else:
            ours = Ours(recipe, Path(store))
            if candidate == "loop":
                ours.epoch()
            else:
                again(ours.step, *ours.resident(), count=recipe.phase.accumulation)

    return {"bytes": measure.peak_bytes(work)}


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument(
        "--model", default=None, help="by default multires_efficientnet_lite0, on a GPU multires_resnet50"
    )
    parser.add_argument("--size", type=int, default=256, help="side of the films in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="films a batch (%(default)s, the paper's)")
    parser.add_argument("--epoch", type=int, default=0, metavar="IMAGES", help="also time an epoch of so many films")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(memory(**options.child)))
        return
    device = measure.device()
    model = options.model or DEFAULT_MODELS["cpu" if options.quick else device]
    size, batch, rounds = (64, 4, 2) if options.quick else (options.size, options.batch, options.rounds)
    recipe = recipe_of(model, size=size, batch=batch)
    steps = recipe.phase.accumulation * (20 if device == "cuda" and not options.quick else 2)
    images = steps * batch
    not_measured = ["the second phase; validation and checkpoints after an epoch; ImageNet weights (they cost no time)"]
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(0).integers(0, 256, (64, size, size), dtype=np.uint8)
        store = Path(folder, "store")
        measure.repeated_films(store, pixels, count=images)
        ours, plain = Ours(recipe, store), Plain(recipe)
        resident = ours.resident()
        contiguous = resident[0].contiguous(), resident[1]
        seconds = measure.in_turn(
            {
                "loop": ours.epoch,
                "step": lambda: again(ours.step, *resident, count=steps),
                "plain step": lambda: again(plain.step, *contiguous, count=steps),
            },
            rounds=rounds,
        )
        rates = {name: [images / value for value in values] for name, values in seconds.items()}
        peaks = {
            name: measure.in_fresh_process(
                memory, quick=options.quick, candidate=name, model=model, size=size, batch=batch, store=str(store)
            )["bytes"]
            for name in seconds
        }
        tables = {
            "Training": [
                {
                    "candidate": name,
                    "images/s": measure.spread(rates[name])["median"],
                    "min": min(rates[name]),
                    "max": max(rates[name]),
                    "peak MiB": peaks[name] / measure.MIB,
                }
                for name in seconds
            ],
            "Ratios, pair by pair": [
                measure.compare(
                    "images/s, loop / step",
                    rates["loop"],
                    rates["step"],
                    goal="at least 0.90" if device == "cuda" else "at least 0.95",
                ),
                measure.compare("time, step / plain step", seconds["step"], seconds["plain step"]),
                measure.compare("memory, step / plain step", [peaks["step"]], [peaks["plain step"]]),
                measure.compare("memory, loop / plain step", [peaks["loop"]], [peaks["plain step"]]),
            ],
        }
        if options.epoch:
            measure.repeated_films(Path(folder, "epoch"), pixels, count=options.epoch)
            whole = Ours(recipe, Path(folder, "epoch"))
            started = time.perf_counter()
            whole.epoch()
            measure.finish_work()
            tables["A whole epoch"] = [{"images": options.epoch, "seconds": time.perf_counter() - started}]
        else:
            not_measured.append("the wall time of a whole epoch (--epoch 32000)")
    measure.Report(
        "train_step",
        {
            "device": device,
            "model": model,
            "size": size,
            "batch": batch,
            "accumulation": recipe.phase.accumulation,
            "precision": find_hardware().mixed_precision,
            "batches a round": steps,
            "rounds": rounds,
        },
        tables,
        not_measured,
    ).show(as_json=options.json)


if __name__ == "__main__":
    main()
