"""Read ChestX-Det: boxes and outlines of thirteen findings in 3,578 images of NIH ChestX-ray14.

Source: Lian et al. 2021, "A structure-aware relation network for thoracic diseases detection and segmentation", and
https://github.com/Deepwise-AILab/ChestX-Det-Dataset. `ChestX_Det_train.json` and `ChestX_Det_test.json` are lists of
{`file_name`, `syms`, `boxes` (x1, y1, x2, y2), `polygons`} in pixels of the 1024x1024 image.

`chestxdet_on_nih.jsonl` has the same, one image per line, with NIH's names: {`image_index`, `findings`, `boxes_xyxy`,
`polygons`}. With NIH's two lists in the folder, the images are split by them; without, all are for the test.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import AliasChoices, BaseModel, Field, TypeAdapter

from ...errors import InputError, count_of
from ...findings import ALIASES, ORIGINAL_SIZE
from ..archives import name_by_stem
from .base import BOX_COLUMNS, MASK_COLUMNS, DatasetMetadata, scale_boxes, warn_guess
from .nih import TEST_LIST, TRAIN_VAL_LIST, load_lists
from .tables import MAX_JSON_BYTES, find_table, read_text, validate_json

NAME = "chestx-det"
IMAGE_FOLDERS = ("images", "images_256")
IMAGE_NAME = name_by_stem
TRAIN_FILE, TEST_FILE = "ChestX_Det_train.json", "ChestX_Det_test.json"
LINES_FILE = "chestxdet_on_nih.jsonl"
TABLES = f"{TRAIN_FILE} and {TEST_FILE}, or {LINES_FILE}"

FINDINGS = (
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "Diffuse Nodule",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Fracture",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumothorax",
)
"""The findings in the spelling of NIH's tables, so that they are shared with models of NIH's findings."""

_NIH_NAME = re.compile(r"(\d{8})_\d{3}\.png")


class _Image(BaseModel, allow_inf_nan=False):
    image_index: str = Field(validation_alias=AliasChoices("file_name", "image_index"))
    findings: list[str] = Field(validation_alias=AliasChoices("syms", "findings"))
    boxes: list[tuple[float, float, float, float]] = Field(validation_alias=AliasChoices("boxes", "boxes_xyxy"))
    polygons: list[list[tuple[float, float]]]


_IMAGES = TypeAdapter(list[_Image])


def matches(folder: Path) -> bool:
    """Return whether a folder contains the annotations in one of both forms."""
    return find_table(folder, TRAIN_FILE, TEST_FILE, LINES_FILE) is not None


def load_metadata(folder: str | Path) -> DatasetMetadata:
    """Read the annotations, plain or gzipped.

    An image has a finding if it has a box of it. `patient_id` is NIH's number of the patient if all names are NIH's;
    otherwise each image counts as its own patient, and a warning says so. Outlines are cut at the border of the image.

    Raises:
        InputError: a file is missing or has another form; a finding is unknown; an image is listed twice; the numbers
            of findings, boxes and outlines differ; a box leaves the image.
    """
    folder = Path(folder)
    parts, boxes, masks = _read_parts(folder)
    names = pd.Index([name for part in parts for name in part], name="image_index")
    if names.has_duplicates:
        raise InputError(f"{folder}: {names[names.duplicated()][0]} is listed twice; fetch the annotations again")
    matched = [_NIH_NAME.fullmatch(name) for name in names]
    if others := [name for name, match in zip(names, matched, strict=True) if match is None]:
        count = count_of(len(others), "name tells", "names tell")
        warn_guess(folder, f"{count} no patient, such as {others[0]}; each image counts as its own")
    rows, columns = names.get_indexer(boxes["image_index"]), pd.Index(FINDINGS).get_indexer(boxes["finding"])
    labels = np.zeros((len(names), len(FINDINGS)), dtype=np.float32)
    labels[rows, columns] = 1
    images = pd.DataFrame(labels, index=names, columns=list(FINDINGS))
    images.insert(0, "patient_id", list(names) if others else [int(match[1]) for match in matched])
    train_val, test = (tuple(part) for part in parts)
    return DatasetMetadata(NAME, FINDINGS, images, train_val=train_val, test=test, boxes=boxes, masks=masks)


def _read_parts(folder: Path) -> tuple[tuple[list[str], list[str]], pd.DataFrame, pd.DataFrame]:
    """Return the names of the train_val and the test images, all boxes and all outlines."""
    if path := find_table(folder, LINES_FILE):
        lines = filter(str.strip, read_text(path, most=MAX_JSON_BYTES).split("\n"))
        names, boxes, masks = _read_images(path, f"[{','.join(lines)}]")
        if find_table(folder, TRAIN_VAL_LIST) and find_table(folder, TEST_LIST):
            train_val = set(load_lists(folder)[0])
        else:
            train_val = set()
            warn_guess(path, f"without {TRAIN_VAL_LIST} and {TEST_LIST} beside it, all images are for the test")
        parts = [name for name in names if name in train_val], [name for name in names if name not in train_val]
        return parts, boxes, masks
    read = []
    for name in (TRAIN_FILE, TEST_FILE):
        path = find_table(folder, name)
        if path is None:
            raise InputError(f"{folder} has no {name}; fetch it from github.com/Deepwise-AILab/ChestX-Det-Dataset")
        read.append(_read_images(path, read_text(path, most=MAX_JSON_BYTES)))
    (train, *_), (test, *_) = read
    boxes, masks = (pd.concat([part[place] for part in read], ignore_index=True) for place in (1, 2))
    return (train, test), boxes, masks


def _read_images(path: Path, text: str) -> tuple[list[str], pd.DataFrame, pd.DataFrame]:
    """Return the names of the images, their boxes and their outlines as fractions."""
    images = validate_json(text, _IMAGES, path, layout="ChestX-Det")
    boxes, masks, numbers = [], [], []
    for number, image in enumerate(images, 1):
        if not len(image.findings) == len(image.boxes) == len(image.polygons):
            raise InputError(f"{path}, image {number}: findings, boxes and outlines differ in number; fetch it again")
        for finding, (x1, y1, x2, y2), polygon in zip(image.findings, image.boxes, image.polygons, strict=True):
            name = ALIASES.get(finding, finding)
            if name not in FINDINGS:
                raise InputError(f"{path}, image {number}: {finding!r} is none of {', '.join(FINDINGS)}")
            corners = np.clip(np.reshape(polygon, (-1, 2)) / ORIGINAL_SIZE, 0, 1)
            boxes.append((image.image_index, name, x1, y1, x2 - x1, y2 - y1))
            masks.append((image.image_index, name, [tuple(corner) for corner in corners.tolist()]))
            numbers.append(number)
    in_pixels = pd.DataFrame(boxes, columns=BOX_COLUMNS, index=pd.Index(numbers, name="image", dtype=np.int64))
    return (
        [image.image_index for image in images],
        scale_boxes(in_pixels, (ORIGINAL_SIZE, ORIGINAL_SIZE), path),
        pd.DataFrame(masks, columns=MASK_COLUMNS),
    )
