"""What the PCM draws on for one place of a film: the place's row of the affinity (Eq. 2), laid over the film.

The PCM *is* this matrix: a refined map is, at each place, the mean of the raw map over the film, weighted by that
place's row.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .augment import to_input
from .errors import InputError
from .pcm import PixelCorrelation, rows_of_affinity, unit_length
from .predict import Predictor
from .radiographs import shrink


def has_pcm(predictor: Predictor) -> bool:
    """Whether a model's refiner is the PCM."""
    return isinstance(predictor.model.pcm, PixelCorrelation)


@torch.inference_mode()
def embed_film(predictor: Predictor, film: np.ndarray) -> Tensor:
    """Embed every place of a film as the PCM does.

    Args:
        predictor: of a model with a PCM.
        film: (H, W) uint8 grey, shrunk here as `Predictor.predict` does.

    Returns:
        (D, h, w) float32 on the CPU, theta(x) at unit length; h = S / 8.

    Raises:
        InputError: the model has no PCM.
    """
    model = predictor.model
    if not has_pcm(predictor):
        raise InputError("this model has no PCM to look into; take a MultiRes model whose refiner is the PCM")
    prepared = torch.from_numpy(shrink(film, predictor.film_size))[None, None]
    images = to_input(prepared.to(predictor.device), size=predictor.recipe.image_size)
    theta = model.pcm.embed(*model.encode(images))
    return unit_length(theta)[0].reshape(theta.shape[1:]).cpu()


def affinity_row(embedding: Tensor, *, across: float, down: float) -> np.ndarray:
    """One row of `pcm.affinity`, without the other rows.

    Args:
        embedding: (D, h, w) of unit length, see `embed_film`.
        across, down: the place, as shares of width and height in [0, 1].

    Returns:
        (h, w) float32, not negative; sums to 1, or to 0 where a place resembles nothing, not even itself.
    """
    row, column = cell_of(embedding.shape[1:], across=across, down=down)
    query = embedding.flatten(start_dim=1)[None]
    weights = rows_of_affinity(embedding[:, row, column][None, :, None], query, None)
    return weights.reshape(embedding.shape[1:]).numpy()


def cell_of(shape: tuple[int, ...], *, across: float, down: float) -> tuple[int, int]:
    """Row and column of the cell of a map (h, w) that a place lies in; places are shares in [0, 1]."""
    height, width = shape
    return min(int(down * height), height - 1), min(int(across * width), width - 1)


def share_of_half(weights: np.ndarray) -> float:
    """The smallest share of the film that carries half of a row's weight: 0.5 where all places count alike."""
    largest_first = np.sort(weights.ravel())[::-1].cumsum(dtype=np.float64)
    if not largest_first[-1]:
        return 0.0
    return (int(np.searchsorted(largest_first, largest_first[-1] / 2)) + 1) / weights.size
