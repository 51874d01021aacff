"""What a model says of labelled films looked at as its recipe says: what thresholds and usual maps come from.

Prediction looks at a film at the recipe's `tta_scales`, with `tta_flip` mirrored too (`averaging`). Whatever is to be
held against what it then says must have been looked at in the same way: logits of enlarged films are others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.dataset import ChestXrayDataset, loader
from ..data.transforms import eval_transform
from ..device import Pieces
from ..models.multires import LocalizationModel, ModelOutput
from ..models.tta import tta_forward
from ..recipes import Recipe

BATCH_SIZE = 32


@torch.inference_mode()
def look(
    model: LocalizationModel, films: ChestXrayDataset, *, recipe: Recipe, maps: bool, what: str
) -> Iterator[tuple[Tensor, ModelOutput]]:
    """Yield (labels, output) of all films in order, a batch or a piece of one that memory holds at a time.

    Args:
        model: in evaluation mode, on any device.
        films: with labels.
        recipe: says image size, scales and mirroring.
        maps: see `LocalizationModel.forward`.
        what: is done, for the progress bar.

    Raises:
        InputError: the memory is too small for a single film.
    """
    pieces, unused = Pieces(recipe.name, processes=1), torch.Generator()
    batches, state = loader(films, BATCH_SIZE), torch.get_rng_state()
    begun = iter(batches)  # draws a number, which must not change a training that looks in between
    torch.set_rng_state(state)
    for pixels, labels in tqdm(begun, total=len(batches), desc=what, unit="batch", leave=False):
        work = partial(look_at, model, pixels, labels, recipe=recipe, maps=maps, pieces=pieces)
        yield from pieces.until_they_fit(work, films=len(pixels), generator=unused)


def look_at(
    model: LocalizationModel, pixels: Tensor, labels: Tensor, *, recipe: Recipe, maps: bool, pieces: Pieces
) -> list[tuple[Tensor, ModelOutput]]:
    """The (labels, output) of a batch (B, 1, S, S) uint8, piece by piece."""
    found = []
    pixels = pixels.to(next(model.parameters()).device)
    for piece, part in pieces.split(pixels, slice(0, len(pixels)), generator=torch.Generator()):
        images = eval_transform(part, size=recipe.image_size)
        output = tta_forward(model, images, scales=recipe.tta_scales, flip=recipe.tta_flip, maps=maps)
        found.append((labels[piece], output))
    return found


def needs_calibration(recipe: Recipe) -> bool:
    """Whether prediction needs to know more than validation's one look at each film has told."""
    return tuple(recipe.tta_scales) != (1.0,) or recipe.tta_flip or recipe.cam_baseline == "negative_mean"


@torch.inference_mode()
def calibrate(
    model: LocalizationModel, films: ChestXrayDataset, *, recipe: Recipe
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
    maps, logits, sums = recipe.cam_baseline == "negative_mean", [], {}
    for labels, seen in look(model, films, recipe=recipe, maps=maps, what="look again"):
        logits.append(seen.logits.float().cpu())
        for name in ("cam", "refined"):
            if (part := getattr(seen, name)) is not None:
                absent = 1 - labels.to(part.device).double()
                sums[name] = sums.get(name, 0) + torch.einsum("bk,bkhw->khw", absent, part.double())
    count = torch.from_numpy(1 - films.labels).sum(dim=0).clamp_min(1)[:, None, None].double()
    negative_mean = {name: (total.cpu() / count).float() for name, total in sums.items()}
    return torch.cat(logits).numpy(), negative_mean if maps else None


def negative_mean_cam(model: LocalizationModel, films: ChestXrayDataset, *, recipe: Recipe) -> dict[str, Tensor] | None:
    """The usual maps of `calibrate`, None where the recipe does not measure maps from them."""
    return calibrate(model, films, recipe=recipe)[1] if recipe.cam_baseline == "negative_mean" else None
