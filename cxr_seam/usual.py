"""What a map usually is: its mean over films without the finding, place by place.

A class activation map has much that no film decides: it is high at borders or over the heart whatever there is to see.
Measured from what it is there on films whose labels lack the finding, it shows what is unusual about this film:

    usual_k(i) = mean over films with y_k = 0 of cam_k(i),    evidence_k(i) = ReLU( cam_k(i) - usual_k(i) ).

Labels alone choose the films, no box does. Source: this project; docs/beyond-the-paper.md tells what it is worth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .films import Films
from .looks import look
from .models import LocalizationModel
from .recipes import Recipe


@torch.inference_mode()
def usual_maps(model: LocalizationModel, films: Films, *, recipe: Recipe) -> dict[str, Tensor]:
    """Measure a model's usual maps, looked at as the recipe says (`looks`).

    Args:
        model: in evaluation mode, on any device.
        films: with labels; the validation films, from which the network has not learnt.
        recipe: says image size, scales and mirroring.

    Returns:
        "cam" and, where the model has a refiner, "refined": (14, h, w) float32 on the CPU, of the maps' own size; 0
        for a finding that every film shows.
    """
    sums: dict[str, Tensor] = {}
    for labels, seen in look(model, films, recipe=recipe, maps=True, what="usual maps"):
        for name in ("cam", "refined"):
            if (maps := getattr(seen, name)) is not None:
                absent = 1 - labels.to(maps.device).double()
                sums[name] = sums.get(name, 0) + torch.einsum("bk,bkhw->khw", absent, maps.double())
    count = torch.from_numpy(1 - films.labels).sum(dim=0).clamp_min(1)
    return {name: (total.cpu() / count[:, None, None].double()).float() for name, total in sums.items()}


def usual_of(model: LocalizationModel, films: Films, *, recipe: Recipe) -> dict[str, Tensor] | None:
    """`usual_maps` where the recipe measures maps from them, else None."""
    return usual_maps(model, films, recipe=recipe) if recipe.map_normalisation == "usual" else None
