"""What a model says of labelled films looked at as its recipe says: what thresholds and usual maps come from.

Prediction looks at a film at the recipe's `test_scales`, with `test_flip` mirrored too (`averaging`). Whatever is to be
held against what it then says must have been looked at in the same way: logits of enlarged films are others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .augment import to_input
from .averaging import averaged_output
from .films import Films, loader
from .memory import Pieces
from .models import LocalizationModel, Output
from .recipes import Recipe

BATCH_SIZE = 32


@torch.inference_mode()
def look(
    model: LocalizationModel, films: Films, *, recipe: Recipe, maps: bool, what: str
) -> Iterator[tuple[Tensor, Output]]:
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
) -> list[tuple[Tensor, Output]]:
    """The (labels, output) of a batch (B, 1, S, S) uint8, piece by piece."""
    found = []
    pixels = pixels.to(next(model.parameters()).device)
    for piece, part in pieces.split(pixels, slice(0, len(pixels)), generator=torch.Generator()):
        images = to_input(part, size=recipe.image_size)
        output = averaged_output(model, images, scales=recipe.test_scales, flip=recipe.test_flip, maps=maps)
        found.append((labels[piece], output))
    return found


def looks_again(recipe: Recipe) -> bool:
    """Whether prediction needs to know more than validation's one look at each film has told."""
    return tuple(recipe.test_scales) != (1.0,) or recipe.test_flip or recipe.map_normalisation == "usual"
