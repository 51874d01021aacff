"""Compare the training loop with its limit and with a plain step.

    python benchmarks/train_step.py [--json] [--quick] [--rounds N] [--model NAME] [--size S] [--batch B]
                                    [--epoch IMAGES] [--peak-only] [--seam] [--fp16]

- loop: an epoch of `fit` (`Trainer.train_epoch`): batches from a cache, augmentation, classifier objective,
  Adam, gradients accumulated over three batches, mixed precision on a GPU.
- step: the same step fed one batch that is already augmented on the device: the limit.
- plain step: the same model with every stage trainable, so that the graph is whole, in float32 as PyTorch's defaults
  compute it, in the contiguous layout; fed one resident batch too.

With --epoch a whole epoch of so many made-up images is run as well (the paper's training set has 32,800), and the time
of all epochs is projected. With --peak-only nothing is timed, for models that would take long. With --seam the step is
that of the SEAM stage; it has no plain step. --fp16 computes as on a T4, which has no bfloat16: float16 with a gradient
scaler. Operations are counted as in inference.py.
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
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cxr_seam.data.transforms import AffineParams, train_transform
from cxr_seam.device import select_device
from cxr_seam.models.build import build_model
from cxr_seam.recipes import Recipe, SeamStage
from cxr_seam.training.batch_split import optimiser_step
from cxr_seam.training.losses import class_weights
from cxr_seam.training.objectives import ClassifierObjective, make_objective
from cxr_seam.training.seam import SeamObjective
from cxr_seam.training.trainer import Trainer

DEFAULT_MODELS = {"cpu": "multires_efficientnet_lite0", "cuda": "multires_resnet50"}
EVERY_STAGE = 2
"""Smallest stride: nothing is frozen."""

PAPER_IMAGES = 32_800
"""Training images of the paper, 80 % of about 41,000."""

Step = Callable[..., Tensor]
Objective = ClassifierObjective | SeamObjective


def recipe_of(model: str, *, size: int, batch: int, seam: bool = False) -> Recipe:
    """Make the paper's classifier stage, or its SEAM stage, with random weights."""
    recipe = Recipe("benchmark", model, image_size=size, weights="none")
    stage = replace(SeamStage() if seam else recipe.classifier_stage, batch_size=batch)
    return replace(recipe, **{"seam_stage" if seam else "classifier_stage": stage})


def objective_of(recipe: Recipe) -> Objective:
    """Make the objective of the recipe's stage in training mode, on the CPU."""
    torch.manual_seed(recipe.seed)
    return make_objective(build_model(recipe.model, weights="none"), recipe).train()


def adam_of(objective: Objective, recipe: Recipe) -> torch.optim.Adam:
    """Make the optimiser of the recipe."""
    trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trainable, lr=recipe.stage.learning_rate, betas=recipe.stage.betas)


def ours(recipe: Recipe, cache: Path) -> Trainer:
    """The trainer that `fit` runs, over the images of a cache."""
    return Trainer(objective_of(recipe), recipe, measure.all_images(cache))


def epoch(trainer: Trainer) -> None:
    """An epoch as `fit` runs it."""
    trainer.start_epoch(0)
    for _ in trainer.train_epoch():
        pass


def resident_batch(trainer: Trainer) -> tuple[Tensor, Tensor, AffineParams | None]:
    """Return one augmented batch and its labels on the device, and the rotation of the SEAM step."""
    indices = next(trainer.sampler.batches())
    params = trainer.sample_params(trainer.train_set, indices, trainer.generator)
    images, labels = (values.to(trainer.accelerator.device) for values in trainer.train_set.load(indices))
    return train_transform(images, params.augmentation, size=trainer.recipe.image_size), labels, params.rotation


class Resident:
    """The trainer's own step, always on the same batch."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.done = trainer, 0

    def step(self, images: Tensor, labels: Tensor, rotation: AffineParams | None) -> Tensor:
        """Learn from one batch."""
        trainer, stage = self.trainer, self.trainer.recipe.stage
        loss = trainer.objective(images, labels, class_weights=class_weights(labels), rotation=rotation)["loss"]
        trainer.accelerator.backward(loss / stage.grad_accum_steps)
        self.done += 1
        if self.done % stage.grad_accum_steps == 0:
            if stage.max_grad_norm is not None:
                trainer.accelerator.clip_grad_norm_(trainer.objective.parameters(), stage.max_grad_norm)
            optimiser_step(trainer.optimiser)
            trainer.optimiser.zero_grad()
        return loss.detach()


class Plain:
    """A step without frozen stages, mixed precision and memory format."""

    def __init__(self, recipe: Recipe) -> None:
        self.grad_accum_steps, self.done = recipe.stage.grad_accum_steps, 0
        whole = replace(recipe, classifier_stage=replace(recipe.classifier_stage, freeze_below_stride=EVERY_STAGE))
        self.objective = objective_of(whole).to(measure.device())
        self.optimiser = adam_of(self.objective, recipe)

    def step(self, images: Tensor, labels: Tensor, _: AffineParams | None) -> Tensor:
        """Learn from one batch."""
        loss = self.objective(images, labels, class_weights=class_weights(labels))["loss"]
        (loss / self.grad_accum_steps).backward()
        self.done += 1
        if self.done % self.grad_accum_steps == 0:
            self.optimiser.step()
            self.optimiser.zero_grad()
        return loss.detach()


def again(step: Step, *batch: Tensor | AffineParams | None, count: int) -> None:
    """The same batch `count` times."""
    check([step(*batch) for _ in range(count)])


def check(losses: list[Tensor]) -> None:
    """Read the losses once, as after an epoch."""
    if not math.isfinite(torch.stack(losses).mean().item()):
        raise SystemExit("the loss is no longer a finite number")


@torch.no_grad()
def gflops(objective: ClassifierObjective, *, size: int) -> float:
    """Count the operations of forward and backward for one image, in 10^9.

    The forward pass is counted. The backward pass needs twice as many in trained layers (gradients of weights and of
    inputs) and none in frozen layers.
    """
    images, labels = torch.randn(1, 3, size, size, device=measure.device()), torch.zeros(1, 14, device=measure.device())
    objective.eval()
    with FlopCounterMode(display=False) as counter:
        objective(images, labels, class_weights=class_weights(labels))
    objective.train()
    counts = counter.get_flop_counts()
    trained = [
        f"{type(objective).__name__}.{name}"
        for name, module in objective.named_modules()
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    ]
    return (counter.get_total_flops() + 2 * sum(sum(counts[name].values()) for name in trained if name in counts)) / 1e9


def memory(*, candidate: str, model: str, size: int, batch: int, seam: bool, cache: str) -> dict[str, int]:
    """Measure the peak memory of one update with model and optimiser; on the CPU in a fresh process."""
    recipe = recipe_of(model, size=size, batch=batch, seam=seam)

    def work() -> None:
        if candidate == "plain step":
            images = torch.randn(batch, 3, size, size, device=measure.device())
            labels = torch.zeros(batch, 14, device=measure.device())
            again(Plain(recipe).step, images, labels, None, count=recipe.stage.grad_accum_steps)
        else:
            trainer = ours(recipe, Path(cache))
            if candidate == "loop":
                epoch(trainer)
            else:
                again(Resident(trainer).step, *resident_batch(trainer), count=recipe.stage.grad_accum_steps)

    return {"bytes": measure.peak_bytes(work)}


def ratios(
    seconds: dict[str, list[float]], peaks: dict[str, float], *, device: str, timed: bool
) -> list[dict[str, object]]:
    """Compare the candidates pair by pair; each has the same images in a round."""
    goal = "at least 0.90" if device == "cuda" else "at least 0.95"
    rows = [measure.compare("images/s, loop / step", seconds["step"], seconds["loop"], goal=goal)] if timed else []
    if "plain step" not in seconds:
        return rows
    if timed:
        rows.append(measure.compare("time, step / plain step", seconds["step"], seconds["plain step"]))
    for name in ("step", "loop"):
        rows.append(measure.compare(f"memory, {name} / plain step", [peaks[name]], [peaks["plain step"]]))
    return rows


def main() -> None:
    """Measure and print the report."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument(
        "--model", default=None, help="by default multires_efficientnet_lite0, on a GPU multires_resnet50"
    )
    parser.add_argument("--size", type=int, default=256, help="image size in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="batch size (%(default)s, the paper's)")
    parser.add_argument(
        "--epoch", type=int, default=0, metavar="IMAGES", help="also time an epoch with this number of images"
    )
    parser.add_argument("--peak-only", action="store_true", help="measure memory and operations, no time")
    parser.add_argument("--seam", action="store_true", help="the SEAM stage instead of the classifier stage")
    parser.add_argument("--fp16", action="store_true", help="float16 with a gradient scaler on a GPU, as on a T4")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(memory(**options.child)))
        return
    if options.fp16:
        torch.cuda.is_bf16_supported = lambda **_: False  # what select_device asks
    device = measure.device()
    model = options.model or DEFAULT_MODELS["cpu" if options.quick else device]
    size, batch, rounds = (64, 4, 2) if options.quick else (options.size, options.batch, options.rounds)
    recipe = recipe_of(model, size=size, batch=batch, seam=options.seam)
    steps = recipe.stage.grad_accum_steps * (20 if device == "cuda" and not options.quick else 2)
    images = steps * batch
    not_measured = ["validation and checkpoints after an epoch; ImageNet weights (they cost no time)"]
    names = ("loop", "step") if options.seam else ("loop", "step", "plain step")
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(0).integers(0, 256, (64, size, size), dtype=np.uint8)
        cache = Path(folder, "cache")
        measure.repeated_images(cache, pixels, count=images)
        trainer = ours(recipe, cache)
        plain = None if options.seam else Plain(recipe)
        operations = dict.fromkeys(names)
        if plain is None:
            not_measured.append("the operations of the SEAM stage")
        else:
            operations["loop"] = operations["step"] = gflops(trainer.objective, size=size)
            operations["plain step"] = gflops(plain.objective, size=size)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        if options.peak_only:
            not_measured.append("time (--peak-only)")
        else:
            resident = resident_batch(trainer)
            contiguous = (resident[0].contiguous(), *resident[1:])
            candidates = {
                "loop": lambda: epoch(trainer),
                "step": lambda: again(Resident(trainer).step, *resident, count=steps),
                "plain step": lambda: again(plain.step, *contiguous, count=steps),
            }
            seconds = measure.in_turn({name: candidates[name] for name in names}, rounds=rounds)
        rates = {name: [images / value for value in values] for name, values in seconds.items()}
        peaks = {
            name: measure.in_fresh_process(
                memory,
                quick=options.quick,
                candidate=name,
                model=model,
                size=size,
                batch=batch,
                seam=options.seam,
                cache=str(cache),
            )["bytes"]
            for name in seconds
        }
        tables = {
            "Training, images a second": [
                {
                    "candidate": name,
                    **({"images/s": None} if options.peak_only else measure.spread(rates[name])),
                    "GFLOPs an image": operations[name],
                    "peak MiB": peaks[name] / measure.MIB,
                }
                for name in seconds
            ],
            "Ratios, pair by pair": ratios(seconds, peaks, device=device, timed=not options.peak_only),
        }
        if options.epoch:
            measure.repeated_images(Path(folder, "epoch"), pixels, count=options.epoch)
            whole = ours(recipe, Path(folder, "epoch"))
            started = time.perf_counter()
            epoch(whole)
            measure.finish_work()
            taken, epochs = time.perf_counter() - started, recipe.stage.epochs
            projected = taken * epochs * PAPER_IMAGES / options.epoch / 3600
            tables["A whole epoch"] = [
                {"images": options.epoch, "seconds": taken, "epochs": epochs, "projected hours": projected}
            ]
            not_measured.append(f"the projected hours are for {epochs} epochs of {PAPER_IMAGES:,} images")
        else:
            not_measured.append(f"the wall time of a whole epoch (--epoch {PAPER_IMAGES})")
    measure.Report(
        "train_step",
        {
            "device": device,
            "model": model,
            "stage": "SEAM" if options.seam else "classifier",
            "size": size,
            "batch": batch,
            "grad_accum_steps": recipe.stage.grad_accum_steps,
            "precision": select_device().mixed_precision,
            "gradient scale": trainer.accelerator.scaler.get_scale() if trainer.accelerator.scaler else None,
            "batches a round": steps,
            "rounds": rounds,
        },
        tables,
        not_measured,
    ).show(as_json=options.json)


if __name__ == "__main__":
    main()
