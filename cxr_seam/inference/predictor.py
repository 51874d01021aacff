"""Predict images with a trained model: scores, calibrated probabilities, decisions, heat maps, boxes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.dataset import ChestXrayDataset, iter_batches
from ..data.image_io import image_files, is_folder, load_image, resize_square
from ..data.transforms import eval_transform
from ..data.view_check import check_frontal
from ..device import select_device
from ..errors import InputError
from ..findings import XYWH, canonical_finding
from ..models.checkpoint import Checkpoint, ScoreCalibration, load_checkpoint
from ..models.multires import LocalizationModel
from ..models.tta import tta_forward
from ..recipes import Recipe
from .heatmap_options import HeatmapOptions
from .heatmaps import PAPER_SIZE
from .maps.registry import GRADIENT_MAPS, LocalizationMap, available_maps, choose_map, gradient_map, mean_map
from .scores import Calibrator, raw_scores

BATCH_SIZE = 32


class ImageWarning(UserWarning):
    """An image was predicted but may not be a frontal chest X-ray, or one file of several could not be read."""


class PredictorOutput(NamedTuple):
    """Output of a model for a batch, after test-time augmentation; on the CPU, float32 except the raw scores.

    Attributes:
        logits: (B, K), in the order of the model's findings.
        raw_scores: (B, K) float64, sigmoid of the logits.
        cam: (B, K, h, w) raw class activation maps; None if they were not requested.
        refined: (B, K, h, w) maps of the refiner; None without a refiner.
    """

    logits: Tensor
    raw_scores: Tensor
    cam: Tensor | None
    refined: Tensor | None

    def split(self) -> list[PredictorOutput]:
        """Return the output for each image of the batch, (1, K)."""
        parts = [len(self.logits) * [None] if part is None else part.split(1) for part in self]
        return [PredictorOutput(*image) for image in zip(*parts, strict=True)]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction of one image; 0.3 MB in memory, whatever the size of the image.

    Attributes:
        path: the image file.
        size: (H, W) of the image in pixels.
        image: (S, S) uint8, the image at the size of the training cache, before normalisation.
        raw_scores: the raw score of each finding in [0, 1], the sigmoid of its logit. It ranks images; it is no
            probability.
        probabilities: the calibrated probability of each finding, None without one; `calibrator.missing` says why.
        calibrator: the calibration of the model, with the operating point and the prevalence that were chosen.
        map: name of the map, one of `maps.registry.MAPS`.
        final_cam: (K, h, w) float32, this map; see `heat_map`.
        options: how the CAM becomes heat maps and boxes.
        boxes: columns finding, x, y, w, h (pixels of the given image), score; best box of each finding first.
        image_warnings: reasons why the image may not be a frontal chest X-ray, one sentence each.
    """

    path: str
    size: tuple[int, int]
    image: np.ndarray
    raw_scores: dict[str, float]
    probabilities: dict[str, float | None]
    calibrator: Calibrator
    map: str
    final_cam: np.ndarray
    options: HeatmapOptions
    boxes: pd.DataFrame
    image_warnings: tuple[str, ...] = ()

    def heat_map(self, finding: str, *, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """Make the heat map of a finding, by default in pixels of the image.

        It is divided by its own maximum, so it shows where the evidence is, not how strong it is.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            InputError: the finding is unknown.
        """
        return self.options.heatmap(self.final_cam, finding, size or self.size)

    def boxes_of(self, finding: str) -> np.ndarray:
        """Return the boxes of one finding, (K, 4) x, y, w, h in pixels of the image, best first."""
        name = canonical_finding(finding, list(self.raw_scores))
        return self.boxes.loc[self.boxes["finding"] == name, XYWH].to_numpy(dtype=np.float64)

    def top_k(self, k: int) -> list[str]:
        """Return the `k` findings with the highest raw scores, the highest first."""
        return sorted(self.raw_scores, key=self.raw_scores.__getitem__, reverse=True)[:k]

    @property
    def decisions(self) -> dict[str, bool | None]:
        """Whether each finding is present at the chosen operating point, see `decisions_at`."""
        return self.decisions_at(self.calibrator.operating_point)

    def decisions_at(self, operating_point: str) -> dict[str, bool | None]:
        """Return whether the raw score of each finding reaches its threshold, None without a threshold.

        Args:
            operating_point: "youden", "sensitivity_90" or "specificity_90", whose thresholds were chosen on the
                validation images and are stored in the checkpoint.

        Raises:
            InputError: the operating point is unknown.
        """
        pairs = zip(self.raw_scores.items(), self.calibrator.thresholds(operating_point), strict=True)
        return {finding: None if np.isnan(t) else bool(score >= t) for (finding, score), t in pairs}

    def decision(self, finding: str) -> str:
        """Return the decision about a finding in words: "present", "not present" or "no threshold"."""
        decision = self.decisions[canonical_finding(finding, list(self.raw_scores))]
        return {True: "present", False: "not present", None: "no threshold"}[decision]


class Predictions(list[Prediction]):
    """Predictions of several images, in the order in which the files were given.

    Attributes:
        failures: path -> error message of each file that could not be predicted.
    """

    def __init__(self, predictions: Sequence[Prediction], failures: dict[str, str]) -> None:
        super().__init__(predictions)
        self.failures = failures

    def raw_scores(self) -> pd.DataFrame:
        """Return the raw scores: index path, one column for each finding."""
        return self._table([p.raw_scores for p in self])

    def probabilities(self) -> pd.DataFrame:
        """Return the calibrated probabilities: index path, one column for each finding; NaN without one."""
        return self._table([p.probabilities for p in self]).astype(np.float64)

    def _table(self, rows: Sequence[Mapping[str, float | None]]) -> pd.DataFrame:
        index = pd.Index([prediction.path for prediction in self], name="path", dtype=object)
        return pd.DataFrame(rows, index=index)

    def boxes(self) -> pd.DataFrame:
        """Return all boxes: path, finding, x, y, w, h in pixels of each image, score."""
        empty = pd.DataFrame(columns=["path", "finding", *XYWH, "score"])
        tables = [p.boxes.assign(path=p.path)[list(empty)] for p in self if len(p.boxes)]
        return pd.concat(tables, ignore_index=True) if tables else empty


class Predictor:
    """A trained model for prediction, on the GPU if there is one.

    Args:
        model: the model; it is switched to evaluation mode.
        recipe: the recipe that trained it.
        scores: finding -> calibration and thresholds of its score.
        operating_point: rule of the decisions: "youden" (largest sensitivity + specificity), "sensitivity_90" or
            "specificity_90".
        prevalence: finding -> fraction of images with the finding where the model is used, for calibrated
            probabilities; by default that of the validation images.
        map: of the heat maps and boxes: "cam", "refined", "layercam", "gradcam" or "mean"; by default the refined CAM
            of a model with a trained refiner, else the CAM.
        negative_mean: "cam" and "refined" -> (K, h, w) mean CAM of negative images, for recipes that subtract it.
        prior: "cam" and "refined" -> (K, h, w) in [0, 1], for recipes that weight heat maps by it.
        cache_size: edge of the cached images that the model was trained on; by default `recipe.image_size`.

    Raises:
        InputError: the recipe needs the mean CAM of negative images or the prior, and there is none; the model has no
            such map; or see `Calibrator`.

    Example:
        >>> predictor = Predictor.load("quickstart", prevalence={"Effusion": 0.05})
        >>> predictor.predict("image.dcm").probabilities["Effusion"]
        >>> predictor.predict("folder").raw_scores()
    """

    def __init__(
        self,
        model: LocalizationModel,
        recipe: Recipe,
        *,
        scores: Mapping[str, ScoreCalibration] | None = None,
        operating_point: str = "youden",
        prevalence: Mapping[str, float] | None = None,
        map: str | None = None,
        negative_mean: Mapping[str, Tensor] | None = None,
        prior: Mapping[str, Tensor] | None = None,
        cache_size: int | None = None,
    ) -> None:
        needs = [(recipe.cam_baseline == "negative_mean", negative_mean), (recipe.map_prior == "labels", prior)]
        if any(needed and not found for needed, found in needs):
            raise InputError(
                f"the checkpoint of {recipe.name} has no mean CAMs of the validation images, which its heat maps need; "
                "train it again"
            )
        self.device = torch.device(select_device().device)
        self.model = model.eval().to(self.device, memory_format=torch.channels_last)
        self.recipe = recipe
        self.map = choose_map(map, model, recipe)
        self.calibrator = Calibrator(self.findings, dict(scores or {}), operating_point, dict(prevalence or {}))
        self.negative_mean, self.prior = dict(negative_mean or {}), dict(prior or {})
        self.cache_size = cache_size or recipe.image_size

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        operating_point: str = "youden",
        prevalence: Mapping[str, float] | None = None,
        map: str | None = None,
    ) -> Predictor:
        """Load a checkpoint, or "quickstart", the packaged model; the options are those of the class.

        Raises:
            InputError: see `load_checkpoint` and the class.
        """
        model, metadata = load_checkpoint(path)
        options = {"operating_point": operating_point, "prevalence": prevalence, "map": map}
        return cls.from_checkpoint(model, metadata, **options)

    @classmethod
    def from_checkpoint(cls, model: LocalizationModel, metadata: Checkpoint, **options: Any) -> Predictor:
        """Make a predictor from a loaded checkpoint; the options are those of the class."""
        return cls(
            model,
            metadata.recipe,
            **options,
            scores=metadata.scores,
            negative_mean=metadata.negative_mean,
            prior=metadata.prior,
            cache_size=metadata.cache_size,
        )

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the K findings of the model."""
        return self.model.findings

    def heatmap_options(self, *, refined: bool) -> HeatmapOptions:
        """Return how the recipe turns raw or refined CAMs into heat maps and boxes."""
        kind = "refined" if refined else "cam"
        return HeatmapOptions(
            baseline=self.recipe.cam_baseline,
            negative_mean=self.negative_mean.get(kind),
            prior=self.prior.get(kind),
            threshold=self.recipe.cam_threshold,
            box_rule=self.recipe.box_rule,
            findings=self.findings,
            mirror_share=self.recipe.mirror_share,
        )

    @torch.inference_mode()
    def forward(self, images: Tensor, *, maps: bool = True) -> PredictorOutput:
        """Run the model with the test-time augmentation of its recipe.

        Args:
            images: (B, 1, S, S) uint8, as in the cache.
            maps: whether to compute the CAMs.
        """
        images = eval_transform(images.to(self.device), size=self.recipe.image_size)
        output = tta_forward(self.model, images, scales=self.recipe.tta_scales, flip=self.recipe.tta_flip, maps=maps)
        logits, cam, refined = (None if part is None else part.float().cpu() for part in output)
        return PredictorOutput(logits, torch.from_numpy(raw_scores(logits.numpy())), cam, refined)

    def compute_map(
        self,
        name: str,
        images: Tensor,
        *,
        output: PredictorOutput | None = None,
        findings: Sequence[str] | None = None,
    ) -> LocalizationMap:
        """Compute a map of images with the test-time augmentation of the recipe.

        Args:
            name: one of `available_maps`.
            images: (B, 1, S, S) uint8, as in the cache.
            output: of `forward` for the same images, if it is known.
            findings: names of the findings of the map, in this order; by default all of the model.

        Raises:
            InputError: the model has no such map.
        """
        findings = self.findings if findings is None else findings
        choose_map(name, self.model, self.recipe)
        if name in GRADIENT_MAPS:
            inputs = eval_transform(images.to(self.device), size=self.recipe.image_size)
            return gradient_map(name, self.model, inputs, recipe=self.recipe, findings=findings)
        output = output or self.forward(images)
        if name == "mean":
            names = [each for each in self.available_maps if each != "mean"]
            return mean_map([self.compute_map(each, images, output=output, findings=findings) for each in names])
        cam = output.refined if name == "refined" else output.cam
        return LocalizationMap(cam, self.heatmap_options(refined=name == "refined")).select(findings)

    @property
    def available_maps(self) -> tuple[str, ...]:
        """Names of the maps that the model has; "refined" needs a trained refiner."""
        return available_maps(self.model, self.recipe)

    def forward_dataset(
        self, dataset: ChestXrayDataset, *, maps: bool = True, desc: str
    ) -> Iterator[tuple[list[str], PredictorOutput]]:
        """Yield (image names, output) of a dataset batch by batch, with a progress bar labelled `desc`."""
        for images, _, indices in iter_batches(dataset, BATCH_SIZE, desc=desc):
            yield [dataset.image_index[index] for index in indices], self.forward(images, maps=maps)

    def logits(self, dataset: ChestXrayDataset, *, desc: str = "classify") -> np.ndarray:
        """Return the logits of a dataset, (N, K) float32."""
        return torch.cat([output.logits for _, output in self.forward_dataset(dataset, maps=False, desc=desc)]).numpy()

    def raw_scores(self, dataset: ChestXrayDataset, *, desc: str = "classify") -> np.ndarray:
        """Return the raw scores of a dataset, (N, K) float64 in [0, 1]."""
        return raw_scores(self.logits(dataset, desc=desc))

    def predict(self, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Prediction | Predictions:
        """Predict an image file, several, or a folder: PNG, JPEG, TIFF or DICOM.

        An `ImageWarning` is issued for images that do not look like frontal chest X-rays and, among several, for files
        that cannot be read; the others are predicted, and `Predictions.failures` holds the messages.

        Args:
            source: a file gives a `Prediction`; a list or a folder (with its subfolders) gives `Predictions`.

        Raises:
            InputError: the file, or each of several files, is not a readable image.
        """
        one = isinstance(source, str | os.PathLike) and not is_folder(source)
        sources = [source] if isinstance(source, str | os.PathLike) else source
        paths = [path for source in sources for path in image_files(source)]
        predictions, failures = [], {}
        for path, result in self.predict_iter(paths, progress=not one):
            if isinstance(result, InputError):
                failures[path] = result
            else:
                predictions.append(result)
        if failures and not predictions:
            raise next(iter(failures.values()))
        messages = [f"{p.path}: {warning}" for p in predictions for warning in p.image_warnings]
        for message in [*messages, *(f"left out: {error}" for error in failures.values())]:
            warnings.warn(message, ImageWarning, stacklevel=2)
        return predictions[0] if one else Predictions(predictions, {path: str(e) for path, e in failures.items()})

    def predict_iter(
        self, paths: Sequence[str | os.PathLike[str]], *, progress: bool = True
    ) -> Iterator[tuple[str, Prediction | InputError]]:
        """Yield (path, prediction) for each file in the order given; for a file that cannot be read, its error.

        Files are read in several threads and predicted in batches; at most one batch is in memory.
        """
        paths = [os.fspath(path) for path in paths]
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            tqdm(total=len(paths), desc="predict", unit="image", leave=False, disable=not progress) as bar,
        ):
            for start in range(0, len(paths), BATCH_SIZE):
                batch = paths[start : start + BATCH_SIZE]
                files = list(pool.map(partial(_read, cache_size=self.cache_size), batch))
                images = [file["image"] for file in files if not isinstance(file, InputError)]
                outputs = iter(self.forward(torch.from_numpy(np.stack(images))[:, None]).split() if images else ())
                for path, file in zip(batch, files, strict=True):
                    failed = isinstance(file, InputError)
                    yield path, file if failed else self._predict_one(file, next(outputs))
                    bar.update()

    def _predict_one(self, file: dict[str, Any], output: PredictorOutput) -> Prediction:
        """Make the prediction of one file from its content (`_read`) and the output for its image, (1, K)."""
        pixels = torch.from_numpy(file["image"])[None, None]
        cam, options = self.compute_map(self.map, pixels, output=output)
        heatmaps = options.heatmaps(cam, PAPER_SIZE)[0].numpy()
        boxes = options.boxes(heatmaps, file["path"], findings=self.findings)
        height, width = file["size"]
        boxes[XYWH] *= [width, height, width, height]
        calibrated = self.calibrator.probabilities(output.logits[0].numpy()).tolist()
        return Prediction(
            **file,
            raw_scores=dict(zip(self.findings, output.raw_scores[0].tolist(), strict=True)),
            probabilities={f: None if np.isnan(p) else p for f, p in zip(self.findings, calibrated, strict=True)},
            calibrator=self.calibrator,
            map=self.map,
            final_cam=cam[0].numpy().copy(),  # a view would keep the whole batch in memory
            options=options,
            boxes=boxes.drop(columns="image_index"),
        )


def _read(path: str, cache_size: int) -> dict[str, Any] | InputError:
    """Read a file: four of the fields of its prediction, the image resized exactly as in the cache; or the error."""
    try:
        radiograph = load_image(path)
    except InputError as error:
        return error
    return {
        "path": path,
        "size": radiograph.pixels.shape,
        "image": resize_square(radiograph.pixels, cache_size),
        "image_warnings": check_frontal(radiograph),
    }
