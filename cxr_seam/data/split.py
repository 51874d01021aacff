"""Split the images of a dataset by patient, as the paper does, and count them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from ..errors import InputError
from ..findings import NO_FINDING
from .cache import ImageCache
from .layouts.base import DatasetMetadata


def train_val_split(
    metadata: DatasetMetadata,
    *,
    validation_fraction: float,
    num_normal_images: int | None,
    seed: int,
    available: Collection[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Select the training and the validation images (Sect. 5.1 of the paper).

    All `train_val` images with a finding and a random sample of those without one (the paper: "approximately 5000") are
    split by patient, so that no patient is in both parts. Images whose labels are all unknown are left out. A
    validation part that a dataset names belongs to `train_val` and is split with it.

    Args:
        metadata: the tables of a dataset.
        validation_fraction: share of the patients for validation, 0 to below 1 (the paper: 0.2).
        num_normal_images: number of images without a finding; all if there are fewer, or for None.
        seed: of the sample and of the split; the same seed and images give the same result.
        available: names of the images that exist, for example those of a cache; by default all of the label table.

    Returns:
        `image_index` of the training and of the validation images, in the order of the label table. With a fraction
        above 0 and at least two patients neither is empty.

    Raises:
        InputError: an argument is out of range, or no `train_val` image is available.
    """
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}")
    if num_normal_images is not None and num_normal_images < 0:
        raise InputError(f"num_normal_images must not be negative, not {num_normal_images}")
    names = set(metadata.train_val) if available is None else set(metadata.train_val).intersection(available)
    images = metadata.images[metadata.images.index.isin(names)]
    images = images[images[list(metadata.findings)].notna().any(axis=1)]
    if images.empty:
        raise InputError(
            "none of the available images has a known label and is for training (NIH: listed in train_val_list.txt); "
            "prepare images that are"
        )

    sample_rng, split_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    has_finding = (images[list(metadata.findings)].to_numpy() == 1).any(axis=1)
    selected = has_finding.copy()
    selected[sample_rng.permutation(np.flatnonzero(~has_finding))[:num_normal_images]] = True
    if not selected.any():
        raise InputError("no available train_val image has a finding, and num_normal_images is 0; nothing to train on")

    patient_id = images["patient_id"].to_numpy()[selected]
    patients = split_rng.permutation(np.unique(patient_id))
    count = round(validation_fraction * len(patients))
    if validation_fraction > 0:
        count = min(max(count, 1), len(patients) - 1)  # a single patient is for training
    in_validation = np.isin(patient_id, patients[:count])
    image_index = np.asarray(images.index, dtype=object)[selected]
    return image_index[~in_validation].tolist(), image_index[in_validation].tolist()


def label_counts(metadata: DatasetMetadata, cache: ImageCache) -> pd.DataFrame:
    """Count the images of a cache by finding.

    Returns:
        Index: the findings, "No Finding", "images". Columns: `train_val` and `test` (images of the official lists)
        and `boxes` (true boxes). An image with several findings counts for each of them; "No Finding" counts the images
        without a finding that have a known label.
    """
    images = metadata.images[metadata.images.index.isin(cache.image_index)]
    counts = {}
    for column, names in (("train_val", metadata.train_val), ("test", metadata.test)):
        labels = images.loc[images.index.isin(names), list(metadata.findings)]
        is_normal = (labels != 1).all(axis=1) & labels.notna().any(axis=1)
        counts[column] = pd.Series({**labels.sum(), NO_FINDING: is_normal.sum(), "images": len(labels)})
    boxes = metadata.boxes[metadata.boxes["image_index"].isin(cache.image_index)]
    counts["boxes"] = boxes["finding"].value_counts()
    table = pd.DataFrame(counts, index=[*metadata.findings, NO_FINDING, "images"])
    table.loc["images", "boxes"] = boxes["image_index"].nunique()
    return table.fillna(0).astype(int)
