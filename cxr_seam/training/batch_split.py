"""Split a batch over processes and micro-batches, so that the training step sees one batch of any size.

A batch of the recipe (32 images in the paper) stays one batch however it is computed. Each process takes a slice of it.
If a GPU runs out of memory, its slice is computed in smaller micro-batches, with the same gradients, except that
batch normalisation of trained stages uses the statistics of each micro-batch. This is possible because everything else
that concerns the whole batch, its random parameters and class weights, is in `BatchParams`.
"""

from __future__ import annotations

import atexit
import math
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from ..data.transforms import AffineParams
from ..device import OOM_ADVICE, is_oom
from ..errors import InputError

Result = TypeVar("Result")

ACCELERATE_SWITCHES = (
    "GRADIENT_ACCUMULATION_STEPS",
    "DYNAMO_BACKEND",
    "USE_CPU",
    "USE_DEEPSPEED",
    "USE_FSDP",
    "USE_MEGATRON_LM",
    "USE_PARALLELISM_CONFIG",
    "DOWNCAST_BF16",
)
"""Environment variables ACCELERATE_... that change a training; its precision is always chosen by `select_device`."""

NEUTRAL = ("", "0", "no", "false", "off")
"""Their values without effect; for the number of accumulation steps also 1."""


@dataclass(frozen=True)
class BatchParams:
    """Random parameters and class weights of one whole batch; `params[2:4]` are those of two of its images.

    Attributes:
        class_weights: (2, K), see `losses.class_weights`; the same for every slice.
        known: see `losses.known_fraction`; the same for every slice.
        augmentation: of the images; None in validation.
        rotation: of the SEAM step; None in the classifier stage.
    """

    class_weights: Tensor
    known: Tensor
    augmentation: AffineParams | None = None
    rotation: AffineParams | None = None

    def __getitem__(self, index: slice) -> BatchParams:
        augmentation, rotation = (p if p is None else p[index] for p in (self.augmentation, self.rotation))
        return BatchParams(self.class_weights, self.known, augmentation, rotation)


Batch = tuple[np.ndarray, BatchParams]
"""Indices (B,) of the images in the dataset, and the parameters of the batch."""
Losses = Callable[[np.ndarray, BatchParams], dict[str, Tensor]]
"""Computes "loss" and its terms, means over some images of a batch, and "logits" if there are any."""


def check_environment(device: str) -> None:
    """Refuse environment variables of accelerate that would change a training without a word.

    Args:
        device: "cpu" allows ACCELERATE_USE_CPU, which `accelerate launch --cpu` sets.

    Raises:
        InputError: one of `ACCELERATE_SWITCHES` is set; the error names it.
    """
    for name in (f"ACCELERATE_{switch}" for switch in ACCELERATE_SWITCHES):
        value = os.environ.get(name, "")
        neutral = (*NEUTRAL, "1") if name.endswith("STEPS") else NEUTRAL
        if value.lower() not in neutral and not (name.endswith("USE_CPU") and device == "cpu"):
            raise InputError(
                f"the environment variable {name}={value} would change the training; unset it, or leave the option out "
                "of accelerate's configuration, because the recipe decides"
            )


class BatchSplit:
    """Compute batches slice by slice.

    Attributes:
        micro_batches: number of slices of this process; doubled each time that the GPU runs out of memory.
    """

    def __init__(self, accelerator: Accelerator, *, name: str) -> None:
        self.accelerator, self.name = accelerator, name
        self.micro_batches = 1

    def slices(self, n_images: int) -> list[slice]:
        """Return this process's slices of a batch, of equal sizes as nearly as possible, none empty."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        start, stop = n_images * rank // ranks, n_images * (rank + 1) // ranks
        count = min(self.micro_batches, stop - start)
        bounds = [start + (stop - start) * i // count for i in range(count + 1)] if count else []
        return [slice(first, last) for first, last in zip(bounds, bounds[1:], strict=False)]

    def backward(self, batches: Sequence[Batch], losses: Losses, *, model: nn.Module, steps: int) -> dict[str, Tensor]:
        """Compute the gradients of the mean loss of `steps` batches.

        At the end of an epoch there may be fewer than `steps` batches. Their gradients are still divided by `steps`:
        a weaker update, once an epoch. After a retry, the running statistics of batch normalisation have seen the
        images of the failed try twice.

        Args:
            batches: whose images take part in the update.
            losses: computes the losses of a slice.
            model: as accelerate prepared it.
            steps: `grad_accum_steps` of the recipe.

        Returns:
            Losses by name, (batches,) float32 each, the same in all processes.

        Raises:
            InputError: the memory is too small for one image, or one of several processes has too little.
        """

        def compute() -> list[dict[str, Tensor]]:
            model.zero_grad()
            totals: list[dict[str, Tensor]] = [{} for _ in batches]
            parts = [(batch, part) for batch, (indices, _) in enumerate(batches) for part in self.slices(len(indices))]
            for batch, part in parts:
                (indices, params), total = batches[batch], totals[batch]
                weight = (part.stop - part.start) / len(indices)
                # In the last part processes exchange their gradients.
                with nullcontext() if (batch, part) == parts[-1] else self.accelerator.no_sync(model):
                    terms = losses(indices[part], params[part])
                    # Gradients are averaged over processes; shares of a batch must be added.
                    self.accelerator.backward(terms["loss"] * (weight * self.accelerator.num_processes / steps))
                for name in terms.keys() - {"logits"}:
                    total[name] = total.get(name, 0) + terms[name].detach().float() * weight
            return totals

        totals = self._retry_on_oom(compute, max(len(indices) for indices, _ in batches))
        return {name: self.sum(torch.stack([total[name] for total in totals])) for name in sorted(totals[0])}

    def forward(self, indices: np.ndarray, params: BatchParams, losses: Losses) -> list[tuple[np.ndarray, dict]]:
        """Compute the losses of this process's slices of a batch.

        Returns:
            The indices of each slice and what `losses` returned.

        Raises:
            InputError: see `backward`.
        """

        def compute() -> list[tuple[np.ndarray, dict]]:
            return [(indices[part], losses(indices[part], params[part])) for part in self.slices(len(indices))]

        return self._retry_on_oom(compute, len(indices))

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor over all processes."""
        return self.accelerator.reduce(values, reduction="sum")

    def _retry_on_oom(self, compute: Callable[[], Result], n_images: int) -> Result:
        while True:
            try:
                return compute()
            except RuntimeError as error:  # it holds the frames that hold the memory, so leave the block first
                if not is_oom(error):
                    raise
            if self.accelerator.num_processes > 1:  # the others wait for this one's gradients
                raise InputError(
                    f"the GPU's memory is too small for {self.name} with {n_images} images in "
                    f"{self.accelerator.num_processes} processes; launch more processes or choose a smaller image size"
                )
            if self.micro_batches >= n_images:
                raise InputError(f"the GPU's memory is too small for one image of {self.name}; {OOM_ADVICE}")
            torch.cuda.empty_cache()
            too_many = math.ceil(n_images / self.micro_batches)
            self.micro_batches *= 2
            warnings.warn(
                f"the GPU's memory is too small for {too_many} images of {self.name} at once; continuing with "
                f"micro-batches of {math.ceil(n_images / self.micro_batches)}; gradients are added up, but batch "
                "normalisation of trained stages sees each micro-batch alone",
                stacklevel=3,
            )


def optimiser_step(optimiser: torch.optim.Optimizer) -> None:
    """Update the weights; if memory runs out, free what the backward pass has left and try once more.

    The first update allocates Adam's moments, twice the size of the weights. No weight changes before all of them are
    allocated, so those of a failed try can be dropped.
    """
    known = set(optimiser.state)
    try:
        optimiser.step()
        return
    except RuntimeError as error:
        if not is_oom(error):
            raise
    for parameter in set(optimiser.state) - known:
        del optimiser.state[parameter]
    torch.cuda.empty_cache()
    optimiser.step()


class SumOverProcesses(torch.autograd.Function):
    """Add up a tensor over all processes; the gradient is added up as well."""

    @staticmethod
    def forward(_: FunctionCtx, value: Tensor) -> Tensor:
        """Return the sum."""
        total = value.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: FunctionCtx, gradient: Tensor) -> Tensor:
        """Return the sum of the gradients."""
        return SumOverProcesses.apply(gradient)


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes on the CPU, where PyTorch has none."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (B, C, H, W); every process must call it, with at least one image."""
        if not self.training:
            return super().forward(maps)
        count = SumOverProcesses.apply(torch.tensor(float(maps.numel() // self.num_features)))
        mean = SumOverProcesses.apply(maps.sum(dim=(0, 2, 3))) / count  # (C,)
        centred = maps - mean[:, None, None]
        variance = SumOverProcesses.apply(centred.square().sum(dim=(0, 2, 3))) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()  # (C,)
        return centred * scale[:, None, None] + self.bias[:, None, None]


def prepare_for_processes(objective: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Let batch normalisation use the images of all processes; with one process nothing changes.

    The processes leave their group when the program ends. Otherwise threads of the group may outlive what they use.
    """
    if accelerator.num_processes == 1:
        return objective
    atexit.unregister(_leave_group)
    atexit.register(_leave_group)
    if accelerator.device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(objective)
    for module in objective.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CpuSyncBatchNorm  # the same parameters and buffers
    return objective


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
