"""What a trained model says of films: probabilities, maps, boxes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .augment import to_input
from .checkpoints import load_checkpoint
from .films import Films, loader
from .findings import BOXED_FINDINGS, FINDINGS
from .hardware import find_hardware
from .heatmaps import PAPER_SIZE, heat_maps
from .localization import ORIGINAL_SIZE, predicted_boxes
from .models import LocalizationModel, Output
from .radiographs import read_radiograph, shrink
from .recipes import Recipe

BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one film.

    Attributes:
        film: (S, S) uint8, the film as the model saw it, before normalisation.
        probabilities: one value in [0, 1] for each finding. They rank films; they are not calibrated.
        heat_maps: (14, H, W) float32 in [0, 1] over the whole image, each divided by its own maximum: they show where
            the evidence lies, not how strong it is.
        threshold: share of a map's maximum from which on a pixel belongs to a box.
        boxes: columns finding, x, y, w, h (pixels of the image that was given), score; best box of a finding first.
    """

    film: np.ndarray
    probabilities: dict[str, float]
    heat_maps: np.ndarray
    threshold: float
    boxes: pd.DataFrame


class Predictor:
    """A trained model, ready for films.

    Example:
        >>> predictor = Predictor.load("multires_resnet50_pcm.best.safetensors")
        >>> predictor.predict("film.png").probabilities["Effusion"]
    """

    def __init__(self, model: LocalizationModel, recipe: Recipe) -> None:
        """Take a model and the recipe it was trained by; the model moves to the GPU if there is one."""
        self.device = torch.device(find_hardware().device)
        self.model = model.eval().to(self.device, memory_format=torch.channels_last)
        self.recipe = recipe

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictor:
        """Load a checkpoint.

        Raises:
            InputError: see `checkpoints.load_checkpoint`.
        """
        model, about = load_checkpoint(path)
        return cls(model, about.recipe)

    @torch.inference_mode()
    def run(self, films: Tensor, *, maps: bool = True) -> Output:
        """Run the model on grey uint8 films (B, 1, S, S), prepared as in training; results on the CPU, float32."""
        images = to_input(films.to(self.device), size=self.recipe.image_size)
        return Output(*(None if part is None else part.float().cpu() for part in self.model(images, maps=maps)))

    def batches(self, films: Films, *, maps: bool, what: str) -> Iterator[tuple[list[str], Output]]:
        """Yield (names, output) batch by batch, with a progress bar called `what`."""
        done = 0
        for pixels, _ in tqdm(loader(films, BATCH_SIZE), desc=what, unit="batch", leave=False):
            yield films.image_index[done : done + len(pixels)], self.run(pixels, maps=maps)
            done += len(pixels)

    def logits(self, films: Films, *, what: str = "classify") -> np.ndarray:
        """Logits (N, 14) float32 of all films."""
        return torch.cat([output.logits for _, output in self.batches(films, maps=False, what=what)]).numpy()

    def predict(self, path: str | os.PathLike[str]) -> Prediction:
        """Predict one image file.

        Raises:
            InputError: the file is no readable image, see `radiographs.read_radiograph`.
        """
        pixels = read_radiograph(path)
        film = shrink(pixels, self.recipe.image_size)
        output = self.run(torch.from_numpy(film)[None, None])
        maps = heat_maps(best_map(output), PAPER_SIZE)[0].numpy()
        boxes = predicted_boxes(maps, os.fspath(path), FINDINGS, threshold=self.recipe.box_threshold)
        height, width = pixels.shape
        scale = np.array([width, height, width, height]) / ORIGINAL_SIZE
        boxes[["x", "y", "w", "h"]] *= scale
        probabilities = output.logits[0].sigmoid().tolist()
        return Prediction(
            film=film,
            probabilities=dict(zip(FINDINGS, probabilities, strict=True)),
            heat_maps=maps,
            threshold=self.recipe.box_threshold,
            boxes=boxes.drop(columns="image_index"),
        )


def best_map(output: Output) -> Tensor:
    """The refined maps where the model has them, else the raw ones."""
    return output.cam if output.refined is None else output.refined


def boxes_of_batch(names: Sequence[str], cam: Tensor, *, threshold: float) -> pd.DataFrame:
    """Boxes of the eight boxed findings for a batch of maps (B, 14, h, w), in pixels of the original."""
    maps = heat_maps(cam[:, : len(BOXED_FINDINGS)], PAPER_SIZE).numpy()
    return pd.concat(
        [predicted_boxes(m, name, BOXED_FINDINGS, threshold=threshold) for name, m in zip(names, maps, strict=True)],
        ignore_index=True,
    )
