"""A moving average of the weights: steadier than the weights of any one update.

Source: Polyak and Juditsky 1992; with an exponential decay as in Tarvainen and Valpola 2017:

    average <- decay * average + (1 - decay) * weights, after every update; the first one gives the weights.

So the last 1 / (1 - decay) updates count most. The running statistics of batch normalisation are averaged alike: they
belong to the weights that they were gathered with.
"""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_of(module: nn.Module, *, decay: float) -> AveragedModel:
    """The average of a module's weights and statistics, as yet of none; `update_parameters(module)` adds to it.

    Its count of updates stays on the CPU, so that a GPU is not waited for.

    Args:
        module: is copied, on its device; draws no random number.
        decay: from 0 to below 1; 0.999 looks back a thousand updates.
    """
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False)
