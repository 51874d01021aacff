"""Read boxes and outlines in COCO's format, `annotations.json`, with or without a table of labels.

The file has `images` (id, file_name, width, height), `categories` (id, name) and `annotations` (image_id, category_id,
`bbox` [x, y, w, h] in pixels and, optionally, `segmentation` as a list of polygons [x1, y1, x2, y2, ...]). Source:
https://cocodataset.org/#format-data. Beside it, `images.csv` gives labels, patients and split, as in the layout
`simple`. Without it, an image has a finding if it has a box of it, and each image is its own patient.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, PositiveInt, TypeAdapter

from ...errors import InputError, count_of
from ..archives import name_by_path
from .base import (
    BOX_COLUMNS,
    MASK_COLUMNS,
    DatasetMetadata,
    ImageFiles,
    scale_boxes,
    split_by_hash,
    warn_guess,
)
from .simple import BOX_TABLE, IMAGE_TABLE, load_images
from .tables import MAX_JSON_BYTES, find_table, read_text, refuse_similar, validate_json

NAME = "coco"
IMAGE_FOLDERS = ("images",)
IMAGE_NAME = name_by_path
ANNOTATIONS = TABLES = "annotations.json"


class _Part(BaseModel, allow_inf_nan=False):
    """A part of the file in which all numbers are finite."""


class _Image(_Part):
    id: int | str
    file_name: str
    width: PositiveInt
    height: PositiveInt


class _Category(_Part):
    id: int
    name: str


class _Annotation(_Part):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] | dict[str, Any] = []


class CocoFile(BaseModel):
    """The parts of a COCO file that are read."""

    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def matches(folder: Path) -> bool:
    """Return whether a folder contains `annotations.json`."""
    return find_table(folder, ANNOTATIONS) is not None


def load_metadata(folder: str | Path) -> DatasetMetadata:
    """Read `annotations.json` and, if it exists, `images.csv`.

    Without `images.csv` a warning tells how patients and split are chosen. Outlines are cut at the border of the image;
    run-length masks are left out with a warning.

    Raises:
        InputError: a file is missing, or the JSON has other keys or types; an annotation is of an unknown image or
            category; a box leaves its image; `boxes.csv` exists too.
    """
    folder = Path(folder)
    path = find_table(folder, ANNOTATIONS)
    if path is None:
        raise InputError(f"{folder} has no {ANNOTATIONS}; export the boxes in COCO's format")
    if (other := find_table(folder, BOX_TABLE)) is not None:
        raise InputError(f"{folder} has boxes in both {ANNOTATIONS} and {other.name}; keep one of them")
    coco = validate_json(read_text(path, most=MAX_JSON_BYTES), TypeAdapter(CocoFile), path, layout="COCO")
    if len({category.name for category in coco.categories}) < len({category.id for category in coco.categories}):
        raise InputError(f"{path} has two categories of one name; export it again")
    refuse_similar([category.name for category in coco.categories], path)
    files = ImageFiles(folder)
    names, _ = files.find_all(pd.Series([image.file_name for image in coco.images], dtype=object), path)
    index = dict(zip((image.id for image in coco.images), names, strict=True))
    if len(set(index.values())) < len(coco.images):
        raise InputError(f"{path} lists an image or an id of an image twice; export it again")
    boxes, masks = _read_annotations(coco, index, path)
    if find_table(folder, IMAGE_TABLE) is None:
        table = _labels_of_boxes(coco, index, boxes, path)
    else:
        table = load_images(folder, files)
    if unknown := set(boxes["finding"]) - set(table.findings):
        raise InputError(f"{path}: the category {min(unknown)!r} is no column of {IMAGE_TABLE}; correct one of them")
    return replace(table, name=NAME, boxes=boxes, masks=masks)


def _read_annotations(coco: CocoFile, index: dict[int | str, str], path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the boxes and the outlines as fractions; removes the annotations from `coco`."""
    names = {category.id: category.name for category in coco.categories}
    size_of = {image.id: (image.height, image.width) for image in coco.images}
    boxes, sizes, masks, run_lengths = [], [], [], 0
    count = len(coco.annotations)
    coco.annotations.reverse()
    while coco.annotations:
        annotation = coco.annotations.pop()  # frees its memory; a long file takes several GB
        number = count - len(coco.annotations)
        if annotation.image_id not in index or annotation.category_id not in names:
            key = "category_id" if annotation.image_id in index else "image_id"
            raise InputError(f"{path}, annotation {number}: unknown {key} {getattr(annotation, key)}; export it again")
        image, finding = index[annotation.image_id], names[annotation.category_id]
        height, width = size_of[annotation.image_id]
        boxes.append((image, finding, *annotation.bbox))
        sizes.append((height, width))
        if isinstance(annotation.segmentation, dict):
            run_lengths += 1
            continue
        for corners in annotation.segmentation:
            if len(corners) < 6 or len(corners) % 2:
                raise InputError(f"{path}, annotation {number}: a polygon needs x and y of three corners or more")
            polygon = np.clip(np.reshape(corners, (-1, 2)) / (width, height), 0, 1)
            masks.append((image, finding, [tuple(corner) for corner in polygon.tolist()]))
    if run_lengths:
        warn_guess(path, f"left out: {count_of(run_lengths, 'run-length mask')}; export polygons")
    numbers = pd.RangeIndex(1, len(boxes) + 1, name="annotation")
    in_pixels = pd.DataFrame(boxes, columns=BOX_COLUMNS, index=numbers)
    return (
        scale_boxes(in_pixels, np.reshape(sizes, (-1, 2)), path),
        pd.DataFrame(masks, columns=MASK_COLUMNS),
    )


def _labels_of_boxes(coco: CocoFile, index: dict[int | str, str], boxes: pd.DataFrame, path: Path) -> DatasetMetadata:
    """Return labels of 1 where an image has a box; each image is its own patient."""
    warn_guess(
        path,
        f"without {IMAGE_TABLE}, findings without a box count as absent, each image counts as its own patient, and "
        "20 % of the images are for the test",
    )
    findings = tuple(category.name for category in coco.categories)
    names = pd.Index(list(index.values()), name="image_index")
    values = np.zeros((len(names), len(findings)), dtype=np.float32)
    values[names.get_indexer(boxes["image_index"]), pd.Index(findings).get_indexer(boxes["finding"])] = 1
    labels = pd.DataFrame(values, index=names, columns=list(findings))
    labels.insert(0, "patient_id", names.to_numpy())
    is_test = split_by_hash(names)
    return DatasetMetadata(NAME, findings, labels, train_val=tuple(names[~is_test]), test=tuple(names[is_test]))
