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

from ..findings import BOXED_FINDINGS, XYWH
from ..inference.boxes import predicted_boxes
from ..inference.heatmaps import PAPER_SIZE, cam_to_heatmap
from ..metrics.matching import PREDICTED_COLUMNS

CENTRE_EXTENT = 86 / 256
"""Edge of the centred box as a fraction of the image: the box of a centred Gaussian (sigma a fifth of the image)."""

HALF_IMAGE = 0.5
"""Edge of the stronger centred box: 0.45 at IoBB > 0.1 on the official boxes."""


def random_map_boxes(
    images: Sequence[str], *, grid: int = 8, seed: int = 0, findings: Sequence[str] = BOXED_FINDINGS
) -> pd.DataFrame:
    """Make boxes from random activation maps, uniform in [0, 1), with the same steps as for a model.

    Args:
        images: names of the images.
        grid: edge of the maps: 8 as of a standard ResNet50 at 256 pixels, 32 as of a MultiRes model.
        seed: of the random generator.
        findings: findings of the maps.

    Returns:
        Predicted boxes of each image and finding, scored by their peaks.
    """
    generator = np.random.default_rng(seed)
    tables = []
    for name in images:
        cam = generator.random((1, len(findings), grid, grid), dtype=np.float32)
        heatmaps = cam_to_heatmap(torch.from_numpy(cam), PAPER_SIZE)[0].numpy()
        tables.append(predicted_boxes(heatmaps, name, findings))
    return pd.concat(tables, ignore_index=True)


def centre_boxes(
    images: Sequence[str], *, extent: float = CENTRE_EXTENT, findings: Sequence[str] = BOXED_FINDINGS
) -> pd.DataFrame:
    """Give every image and finding the same centred box, with score 1.

    Args:
        images: names of the images.
        extent: width and height of the box as a fraction of the image, above 0 and at most 1.
        findings: findings of the boxes.
    """
    corner = (1 - extent) / 2
    return pd.DataFrame(
        {
            "image_index": np.repeat(np.asarray(images, dtype=object), len(findings)),
            "finding": np.tile(np.asarray(findings, dtype=object), len(images)),
            "x": corner,
            "y": corner,
            "w": extent,
            "h": extent,
            "score": 1.0,
        }
    )


def prior_boxes(truth: pd.DataFrame, *, patient_of: Mapping[str, object], seed: int = 0) -> pd.DataFrame:
    """Give every image the mean true box of each finding of other patients.

    The patients with boxes, at least two, are split into two halves at random. The images of each half get the mean x,
    y, w and h of the finding's boxes in the other half, so a mean never includes the patient's own boxes. Patients
    without boxes get the means of the first half. This baseline has seen true boxes; a weakly supervised model has not.

    Args:
        truth: true boxes.
        patient_of: image_index -> patient of the images that get boxes; must include every image of `truth`.
        seed: of the split; the order of rows and patients has no effect.

    Returns:
        Predicted boxes, at most one for each image and finding, with score 1.
    """
    patients = sorted({patient_of[image] for image in truth["image_index"]})
    order = np.random.default_rng(seed).permutation(len(patients))
    first_half = {patients[i] for i in order[: len(patients) // 2]}
    in_first_half = {image: patient in first_half for image, patient in patient_of.items()}
    half = truth["image_index"].map(in_first_half).rename("half")
    mean = truth.groupby([half, "finding"])[XYWH].mean().reset_index()
    images = pd.DataFrame({"image_index": list(patient_of), "half": [not first for first in in_first_half.values()]})
    return images.merge(mean, on="half").assign(score=1.0)[PREDICTED_COLUMNS]
