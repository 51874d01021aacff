"""What a map usually is: its mean over films without the finding, place by place.

A class activation map has much that no film decides: it is high at borders or over the heart whatever there is to see.
Measured from what it is there on films whose labels lack the finding, it shows what is unusual about this film:

    usual_k(i) = mean over films with y_k = 0 of cam_k(i),    evidence_k(i) = ReLU( cam_k(i) - usual_k(i) ).

Labels alone choose the films, no box does. Source: this project; docs/beyond-the-paper.md tells what it is worth.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .films import Films
from .looks import look
from .models import LocalizationModel
from .recipes import Recipe


@torch.inference_mode()
def look_again(
    model: LocalizationModel, films: Films, *, recipe: Recipe
) -> tuple[np.ndarray, dict[str, Tensor] | None]:
    """What the looks of prediction say of films: logits, and what maps usually are, in one pass.

    Args:
        model: in evaluation mode, on any device.
        films: with labels; the validation films, from which the network has not learnt.
        recipe: says how films are looked at (`looks`), and whether maps are measured from what is usual.

    Returns:
        Logits (N, 14) float32. And, where the recipe measures maps from them, the usual maps: "cam" and, where the
        model has a refiner, "refined", (14, h, w) float32 on the CPU, of the maps' own size; 0 for a finding that every
        film shows.
    """
    maps, logits, sums = recipe.map_normalisation == "usual", [], {}
    for labels, seen in look(model, films, recipe=recipe, maps=maps, what="look again"):
        logits.append(seen.logits.float().cpu())
        for name in ("cam", "refined"):
            if (part := getattr(seen, name)) is not None:
                absent = 1 - labels.to(part.device).double()
                sums[name] = sums.get(name, 0) + torch.einsum("bk,bkhw->khw", absent, part.double())
    count = torch.from_numpy(1 - films.labels).sum(dim=0).clamp_min(1)[:, None, None].double()
    usual = {name: (total.cpu() / count).float() for name, total in sums.items()}
    return torch.cat(logits).numpy(), usual if maps else None


def usual_of(model: LocalizationModel, films: Films, *, recipe: Recipe) -> dict[str, Tensor] | None:
    """The usual maps of `look_again`, None where the recipe does not measure maps from them."""
    return look_again(model, films, recipe=recipe)[1] if recipe.map_normalisation == "usual" else None
