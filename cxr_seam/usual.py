"""What a map usually is: its mean over films without the finding, place by place.

A class activation map has much that no film decides: it is high at borders or over the heart whatever there is to see.
Measured from what it is there on films whose labels lack the finding, it shows what is unusual about this film:

    usual_k(i) = mean over films with y_k = 0 of cam_k(i),    evidence_k(i) = ReLU( cam_k(i) - usual_k(i) ).

Labels alone choose the films, no box does. Source: this project; docs/beyond-the-paper.md tells what it is worth.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .augment import to_input
from .averaging import averaged_output
from .films import Films, loader
from .memory import Pieces
from .models import LocalizationModel
from .recipes import Recipe

BATCH_SIZE = 32


@torch.inference_mode()
def usual_maps(model: LocalizationModel, films: Films, *, recipe: Recipe) -> dict[str, Tensor]:
    """Measure a model's usual maps, looked at as the recipe says (`averaging`).

    Args:
        model: in evaluation mode, on any device.
        films: with labels; the validation films, from which the network has not learnt.
        recipe: says image size, scales and mirroring.

    Returns:
        "cam" and, where the model has a refiner, "refined": (14, h, w) float32 on the CPU, of the maps' own size; 0
        for a finding that every film shows.
    """
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    pieces, unused = Pieces(recipe.name, processes=1), torch.Generator()
    for pixels, labels in tqdm(loader(films, BATCH_SIZE), desc="usual maps", unit="batch", leave=False):
        add = partial(sums_of, model, pixels.to(device), 1 - labels.to(device), recipe=recipe, pieces=pieces)
        for name, part in pieces.until_they_fit(add, films=len(pixels), generator=unused).items():
            sums[name] = sums.get(name, 0) + part
    count = torch.from_numpy(1 - films.labels).sum(dim=0).clamp_min(1)
    return {name: (total.cpu() / count[:, None, None].double()).float() for name, total in sums.items()}


def sums_of(
    model: LocalizationModel, pixels: Tensor, weights: Tensor, *, recipe: Recipe, pieces: Pieces
) -> dict[str, Tensor]:
    """Sums of maps over films (B, 1, S, S), weighted by finding (B, 14), in float64; in pieces that memory holds."""
    sums: dict[str, Tensor] = {}
    for piece, films in pieces.split(pixels, slice(0, len(pixels)), generator=torch.Generator()):
        images = to_input(films, size=recipe.image_size)
        seen = averaged_output(model, images, scales=recipe.test_scales, flip=recipe.test_flip)
        for name in ("cam", "refined"):
            if (maps := getattr(seen, name)) is not None:
                part = torch.einsum("bk,bkhw->khw", weights[piece].double(), maps.double())
                sums[name] = sums.get(name, 0) + part
    return sums


def usual_of(model: LocalizationModel, films: Films, *, recipe: Recipe) -> dict[str, Tensor] | None:
    """`usual_maps` where the recipe measures maps from them, else None."""
    return usual_maps(model, films, recipe=recipe) if recipe.map_normalisation == "usual" else None
