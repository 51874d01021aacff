"""Make boxes of trivial baselines; a model localizes only where it is better than these.

Under the paper's rule (all boxes, IoBB > 0.1) a random map scores high, because it has many boxes. On the 880 boxed
images of ChestX-ray14 a random 8 x 8 map has a macro accuracy of 0.60 with 8.5 false positives per image and finding;
one fixed centred box has 0.41 with 0.94.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from ..errors import InputError
from ..findings import BOXED_FINDINGS, XYWH
from ..inference.boxes import predicted_boxes
from ..inference.heatmaps import PAPER_SIZE, cam_to_heatmap
from ..metrics.boxes import PREDICTED_COLUMNS

CENTRE_EXTENT = 86 / 256
"""Edge of the centred box as a fraction of the image: the box of a centred Gaussian (sigma a fifth of the image)."""


HALF_IMAGE = 0.5
"""Edge of the stronger centred box: 0.45 at IoBB > 0.1 on the official boxes."""


_BATCH_SIZE = 8  # 8 x 8 maps of 256 x 256 float32 take 17 MB


def random_map_boxes(images: Sequence[str], *, grid: int = 8, seed: int = 0) -> pd.DataFrame:
    """Make boxes from random activation maps, with the same steps as for a model.

    Args:
        images: names of the images.
        grid: edge of the maps, uniform in [0, 1): 8 as of a standard ResNet50 at 256 pixels, 32 as of a MultiRes model.
        seed: of the random generator.

    Returns:
        Predicted boxes of each image and each of the eight findings, see `predicted_boxes`, scored by their peaks.

    Raises:
        InputError: the grid is not positive.
    """
    if grid < 1:
        raise InputError(f"a random map of {grid} x {grid} values is empty; give a positive grid")
    generator = np.random.default_rng(seed)
    tables = []
    for start in range(0, len(images), _BATCH_SIZE):
        names = images[start : start + _BATCH_SIZE]
        cam = generator.random((len(names), len(BOXED_FINDINGS), grid, grid), dtype=np.float32)
        maps = cam_to_heatmap(torch.from_numpy(cam), PAPER_SIZE).numpy()
        tables += [predicted_boxes(m, name, BOXED_FINDINGS) for m, name in zip(maps, names, strict=True)]
    if not tables:
        return pd.DataFrame(columns=PREDICTED_COLUMNS)
    return pd.concat(tables, ignore_index=True)


def centre_boxes(images: Sequence[str], *, extent: float = CENTRE_EXTENT) -> pd.DataFrame:
    """Give every image and each of the eight findings the same centred box.

    Args:
        images: names of the images.
        extent: width and height of the box as a fraction of the image, above 0 and at most 1.

    Returns:
        Predicted boxes, one for each image and finding, with score 1.

    Raises:
        InputError: the extent is outside its range.
    """
    if not 0 < extent <= 1:
        raise InputError(f"extent {extent} is outside its range; choose one above 0 and at most 1")
    corner = (1 - extent) / 2
    return pd.DataFrame(
        {
            "image_index": np.repeat(np.asarray(images, dtype=object), len(BOXED_FINDINGS)),
            "finding": np.tile(np.asarray(BOXED_FINDINGS, dtype=object), len(images)),
            "x": corner,
            "y": corner,
            "w": extent,
            "h": extent,
            "score": 1.0,
        }
    )


def prior_boxes(truth: pd.DataFrame, *, patient_of: Mapping[str, object], seed: int = 0) -> pd.DataFrame:
    """Give every image the mean true box of each finding of other patients.

    The patients with boxes are split into two halves at random. The images of each half get the mean x, y, w and h of
    the finding's boxes in the other half, so a mean never includes the patient's own boxes. Patients without boxes get
    the means of the first half. This baseline has seen true boxes; a weakly supervised model has not.

    Args:
        truth: true boxes.
        patient_of: image_index -> patient of the images that get boxes; must include every image of `truth`.
        seed: of the split; the order of rows and patients has no effect.

    Returns:
        Predicted boxes, at most one for each image and finding, with score 1.

    Raises:
        InputError: an image of `truth` has no patient, or fewer than two patients have boxes.
    """
    missing = set(truth["image_index"]) - set(patient_of)
    if missing:
        raise InputError(f"{min(missing)} has a true box but no patient; give the patient of every boxed image")
    patients = sorted({patient_of[image] for image in truth["image_index"]})
    if len(patients) < 2:
        raise InputError("a prior needs boxes of at least two patients, one for each half")
    order = np.random.default_rng(seed).permutation(len(patients))
    first_half = {patients[i] for i in order[: len(patients) // 2]}

    in_first_half = truth["image_index"].map(lambda image: patient_of[image] in first_half).astype(bool)
    images = pd.DataFrame({"image_index": list(patient_of), "in_first": [p in first_half for p in patient_of.values()]})
    tables = []
    for source in (True, False):
        boxes = truth[(in_first_half == source) & truth["finding"].isin(BOXED_FINDINGS)]
        mean = (
            boxes.groupby("finding")[XYWH].mean().reindex(BOXED_FINDINGS).dropna().rename_axis("finding").reset_index()
        )
        tables.append(images.loc[images["in_first"] != source, ["image_index"]].merge(mean, how="cross"))
    return pd.concat(tables, ignore_index=True).assign(score=1.0)[PREDICTED_COLUMNS]
