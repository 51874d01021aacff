"""What a trained model says of films: probabilities, decisions, maps, boxes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.dataset import ChestXrayDataset, iter_batches
from ..data.image_io import image_files, is_folder, load_image, resize_square
from ..data.transforms import eval_transform
from ..device import select_device
from ..errors import InputError
from ..findings import FINDINGS, XYWH, canonical_finding
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.multires import LocalizationModel, ModelOutput
from ..models.tta import tta_forward
from ..recipes import Recipe
from .boxes import predicted_boxes
from .heatmaps import PAPER_SIZE, heat_maps, subtract_baseline
from .view_check import check_frontal

BATCH_SIZE = 32


class ImageWarning(UserWarning):
    """An image that was predicted but may be no frontal chest film, or one that could not be read among others."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one film; 0.3 MB in memory, whatever the size of the image.

    Attributes:
        path: the image file.
        size: (H, W) of the image in pixels.
        film: (S, S) uint8, the film as the model saw it, before normalisation.
        probabilities: one value in [0, 1] for each finding. They rank films; they are not calibrated.
        present: the decision on each finding: whether its probability reaches the threshold that was chosen on the
            validation films and is kept in the checkpoint; None where there is no threshold.
        cam: (14, h, w) float32, the activation maps; see `heat_map`.
        threshold: share of a map's maximum from which on a pixel belongs to a box.
        boxes: columns finding, x, y, w, h (pixels of the image that was given), score; best box of a finding first.
        image_warnings: why the image may be no frontal chest film, a sentence each (`frontal`).
    """

    path: str
    size: tuple[int, int]
    film: np.ndarray
    probabilities: dict[str, float]
    present: dict[str, bool | None]
    cam: np.ndarray
    threshold: float
    boxes: pd.DataFrame
    image_warnings: tuple[str, ...] = ()

    def heat_map(self, finding: str, *, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """Make the heat map of a finding, by default in the image's own pixels.

        It is divided by its own maximum: it shows where the evidence lies, not how strong it is.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            InputError: the finding is unknown.
        """
        cam = torch.from_numpy(self.cam[FINDINGS.index(canonical_finding(finding))])
        return heat_maps(cam[None, None], size or self.size)[0, 0].numpy()

    @property
    def heat_maps(self) -> np.ndarray:
        """The maps of all findings at the paper's size, (14, 256, 256) float32 in [0, 1], made anew at each call."""
        return heat_maps(torch.from_numpy(self.cam)[None], PAPER_SIZE)[0].numpy()

    def boxes_of(self, finding: str) -> np.ndarray:
        """Boxes of one finding, (K, 4) x, y, w, h in pixels of the image, best first."""
        return self.boxes.loc[self.boxes["finding"] == canonical_finding(finding), XYWH].to_numpy(dtype=np.float64)

    def top_k(self, count: int) -> list[str]:
        """The `count` most probable findings, most probable first."""
        return sorted(self.probabilities, key=self.probabilities.__getitem__, reverse=True)[:count]


class Predictions(list[Prediction]):
    """What a model says of several films, in the order in which they were given or lie in a folder.

    Attributes:
        failures: path -> the sentence why a file could not be predicted.
    """

    def __init__(self, predictions: Sequence[Prediction] = (), failures: Mapping[str, str] | None = None) -> None:
        """Take predictions and what failed."""
        super().__init__(predictions)
        self.failures = dict(failures or {})

    def table(self) -> pd.DataFrame:
        """Probabilities: index path, one column a finding."""
        index = pd.Index([prediction.path for prediction in self], name="path", dtype=object)
        return pd.DataFrame([p.probabilities for p in self], index=index, columns=list(FINDINGS))

    def boxes(self) -> pd.DataFrame:
        """All boxes: path, finding, x, y, w, h in pixels of each image, score."""
        empty = pd.DataFrame(columns=["path", "finding", *XYWH, "score"])
        tables = [p.boxes.assign(path=p.path)[list(empty)] for p in self if len(p.boxes)]
        return pd.concat(tables, ignore_index=True) if tables else empty


class Predictor:
    """A trained model, ready for films.

    Example:
        >>> predictor = Predictor.load("multires_resnet50_pcm.best.safetensors")
        >>> predictor.predict("film.dcm").probabilities["Effusion"]
        >>> predictor.predict("folder").table()
    """

    def __init__(
        self,
        model: LocalizationModel,
        recipe: Recipe,
        *,
        thresholds: Mapping[str, float | None] | None = None,
        negative_mean: Mapping[str, Tensor] | None = None,
        cache_size: int | None = None,
    ) -> None:
        """Take a model, the recipe it was trained by, and `thresholds`, `usual`, `cache_size` of its `Checkpoint`.

        The model moves to the GPU if there is one.
        """
        self.device = torch.device(select_device().device)
        self.model = model.eval().to(self.device, memory_format=torch.channels_last)
        self.recipe = recipe
        self.thresholds = dict.fromkeys(FINDINGS) | dict(thresholds or {})
        self.negative_mean = dict(negative_mean or {})
        self.cache_size = cache_size or recipe.image_size

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictor:
        """Load a checkpoint.

        Raises:
            InputError: see `checkpoints.load_checkpoint`.
        """
        return cls.of(*load_checkpoint(path))

    @classmethod
    def of(cls, model: LocalizationModel, metadata: Checkpoint) -> Predictor:
        """Take a checkpoint that is loaded."""
        told = {
            "thresholds": metadata.thresholds,
            "negative_mean": metadata.negative_mean,
            "cache_size": metadata.cache_size,
        }
        return cls(model, metadata.recipe, **told)

    @torch.inference_mode()
    def run(self, films: Tensor, *, maps: bool = True) -> ModelOutput:
        """Run the model on grey uint8 films (B, 1, S, S), prepared as in training; results on the CPU, float32.

        Images are looked at as the recipe's `tta_scales` and `tta_flip` say, and maps are measured from the floor of
        its `cam_baseline`.
        """
        images = eval_transform(films.to(self.device), size=self.recipe.image_size)
        recipe = self.recipe
        found = tta_forward(self.model, images, scales=recipe.tta_scales, flip=recipe.tta_flip, maps=maps)
        found = ModelOutput(*(None if part is None else part.float().cpu() for part in found))
        floor = {
            name: subtract_baseline(part, recipe.cam_baseline, negative_mean=self.negative_mean.get(name))
            for name, part in found._asdict().items()
            if name != "logits" and part is not None
        }
        return found._replace(**floor)

    def batches(self, films: ChestXrayDataset, *, maps: bool, what: str) -> Iterator[tuple[list[str], ModelOutput]]:
        """Yield (names, output) batch by batch, with a progress bar called `what`."""
        for images, _, indices in iter_batches(films, BATCH_SIZE, desc=what):
            yield [films.image_index[index] for index in indices], self.run(images, maps=maps)

    def logits(self, films: ChestXrayDataset, *, what: str = "classify") -> np.ndarray:
        """Logits (N, 14) float32 of all films."""
        return torch.cat([output.logits for _, output in self.batches(films, maps=False, what=what)]).numpy()

    def probabilities(self, films: ChestXrayDataset, *, what: str = "classify") -> np.ndarray:
        """Probabilities (N, 14) float64 of all films."""
        return 1 / (1 + np.exp(-self.logits(films, what=what).astype(np.float64)))

    @property
    def thresholds_array(self) -> np.ndarray:
        """The thresholds as (14,) float64 in the order of `FINDINGS`, NaN for None."""
        return np.array([np.nan if self.thresholds[f] is None else self.thresholds[f] for f in FINDINGS])

    def predict(self, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Prediction | Predictions:
        """Predict an image file, several, or a folder of them: PNG, JPEG, TIFF or DICOM.

        Warns (`ImageWarning`) of images that look like no frontal chest film and, among several, of files that could
        not be read; the others are predicted all the same, and `Predictions.failures` keeps the sentences.

        Args:
            source: a file gives a `Prediction`; a list, or a folder and all below it (see `image_files`), gives
                `Predictions`.

        Raises:
            InputError: the file is no readable image, see `image_io.load_image`; or no file of several is.
        """
        one = isinstance(source, str | os.PathLike) and not is_folder(source)
        places = [source] if isinstance(source, str | os.PathLike) else source
        found, failures = [], {}
        for path, answer in self.each([path for place in places for path in image_files(place)], progress=not one):
            if isinstance(answer, InputError):
                failures[path] = answer
            else:
                found.append(answer)
        if failures and not found:
            raise next(iter(failures.values()))
        for prediction in found:
            for doubt in prediction.image_warnings:
                warnings.warn(f"{prediction.path}: {doubt}", ImageWarning, stacklevel=2)
        for error in failures.values():
            warnings.warn(f"left out: {error}", ImageWarning, stacklevel=2)
        return found[0] if one else Predictions(found, {path: str(error) for path, error in failures.items()})

    def each(
        self, paths: Sequence[str | os.PathLike[str]], *, progress: bool = True
    ) -> Iterator[tuple[str, Prediction | InputError]]:
        """Yield (path, prediction) file by file in the order given; in place of one that failed, its error.

        Files are read on several cores and predicted in batches, so that no more than a batch is in memory.
        """
        paths = [os.fspath(path) for path in paths]
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            tqdm(total=len(paths), desc="predict", unit="film", leave=False, disable=not progress) as bar,
        ):
            for start in range(0, len(paths), BATCH_SIZE):
                batch = paths[start : start + BATCH_SIZE]
                read = list(pool.map(self._read, batch))
                films = [answer.pixels for answer in read if isinstance(answer, _Film)]
                output = self.run(torch.from_numpy(np.stack(films))[:, None]) if films else None
                place = 0
                for path, answer in zip(batch, read, strict=True):
                    if isinstance(answer, _Film):
                        answer, place = self._prediction(path, answer, output, place), place + 1
                    yield path, answer
                    bar.update()

    def _read(self, path: str) -> _Film | InputError:
        """Read a file and bring it to the size of the films in training, exactly as `prepare` fills a store."""
        try:
            radiograph = load_image(path)
        except InputError as error:
            return error
        return _Film(
            resize_square(radiograph.pixels, self.cache_size), radiograph.pixels.shape, check_frontal(radiograph)
        )

    def _prediction(self, path: str, film: _Film, output: ModelOutput, place: int) -> Prediction:
        """What the model says of the film at `place` of a batch."""
        cam = final_cam(output, self.recipe)[place]
        threshold = self.recipe.cam_threshold
        boxes = predicted_boxes(heat_maps(cam[None], PAPER_SIZE)[0].numpy(), path, FINDINGS, threshold=threshold)
        height, width = film.size
        boxes[XYWH] *= [width, height, width, height]
        probabilities = dict(zip(FINDINGS, output.logits[place].sigmoid().tolist(), strict=True))
        return Prediction(
            path=path,
            size=film.size,
            film=film.pixels,
            probabilities=probabilities,
            present={
                finding: None if least is None else probabilities[finding] >= least
                for finding, least in self.thresholds.items()
            },
            cam=cam.numpy().copy(),  # not a view that would keep the whole batch
            threshold=threshold,
            boxes=boxes.drop(columns="image_index"),
            image_warnings=film.image_warnings,
        )


class _Film(NamedTuple):
    """A file, read: (S, S) uint8 pixels, (H, W) of the image, and doubts about it."""

    pixels: np.ndarray
    size: tuple[int, int]
    image_warnings: tuple[str, ...]


def final_cam(output: ModelOutput, recipe: Recipe) -> Tensor:
    """The refined maps where the recipe has trained a refiner, else the raw ones: as drawn, one refines nothing."""
    return output.cam if recipe.seam_stage is None or output.refined is None else output.refined
