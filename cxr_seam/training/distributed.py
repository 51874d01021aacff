"""Batch normalisation over a batch that several processes share: statistics of the whole of it.

PyTorch's own `SyncBatchNorm` does this on GPUs and refuses tensors of the CPU; `SynchronisedNorm` does it there, so
that what several processes compute can be held against one process on any machine.
"""

from __future__ import annotations

import atexit

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient, since each process's value takes part in all."""

    @staticmethod
    def forward(_: FunctionCtx, value: Tensor) -> Tensor:
        """Add up."""
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_: FunctionCtx, gradient: Tensor) -> Tensor:
        """Add up."""
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


class SynchronisedNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch statistics are those of all processes' films together, gradients included."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (B, C, H, W); every process must call it, with at least one film."""
        if not self.training:
            return super().forward(maps)
        count = SumOverProcesses.apply(torch.tensor(float(maps.numel() // self.num_features)))
        mean = SumOverProcesses.apply(maps.sum(dim=(0, 2, 3))) / count
        centred = maps - mean[:, None, None]
        variance = SumOverProcesses.apply(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronise(module: nn.Module, *, device: torch.device) -> nn.Module:
    """Return `module` with batch normalisation over all processes' films; names and weights stay as they are."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = SynchronisedNorm  # the same parameters and buffers, so optimisers and names stay valid
    return module


def leave_at_exit() -> None:
    """Have this process part from the others when its program ends, whatever it trains until then.

    Left to the interpreter's teardown, threads of the process group may outlive what they use, and now and then a
    process that has printed its last word never ends.
    """
    atexit.unregister(_leave)
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
