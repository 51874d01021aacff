"""The structure that every reader of a dataset layout returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ...errors import InputError
from ...findings import XYWH

BOX_COLUMNS = ["image_index", "finding", *XYWH]
MASK_COLUMNS = ["image_index", "finding", "polygon"]


def _no_masks() -> pd.DataFrame:
    return pd.DataFrame(columns=MASK_COLUMNS)


@dataclass(frozen=True, eq=False)
class DatasetMetadata:
    """Labels, split, boxes and masks of a dataset.

    Attributes:
        name: name of the layout.
        findings: names of the K findings, in the order of the labels.
        images: one row per image, indexed by `image_index`, the file name or relative path of the image; columns
            `patient_id` (int or str), where the layout has them `follow_up` (int), `age` (years, float, NaN where
            unknown), `sex` and `view`, and one float32 column per finding: 0, 1, or NaN where unknown or uncertain.
        train_val, test: names of the images of both parts, including images that are not in `images`.
        boxes: columns `image_index`, `finding`, and `x`, `y`, `w`, `h` as fractions of the image's width and height, in
            [0, 1]. Their images may be missing in `images`.
        masks: columns `image_index`, `finding` and `polygon`, a list of corners (x, y) as fractions, in [0, 1]; no rows
            if the layout has no outlines.
    """

    name: str
    findings: tuple[str, ...]
    images: pd.DataFrame
    train_val: tuple[str, ...]
    test: tuple[str, ...]
    boxes: pd.DataFrame
    masks: pd.DataFrame = field(default_factory=_no_masks)

    def labels(self, image_index: Sequence[str]) -> np.ndarray:
        """Return the labels of images: (N, K) float32, in the order of `image_index` and of `findings`.

        Raises:
            InputError: an image is not in the label table.
        """
        rows = self.images.index.get_indexer(pd.Index(list(image_index), dtype=self.images.index.dtype))
        if (rows < 0).any():
            missing = image_index[int(np.argmax(rows < 0))]
            raise InputError(f"{missing} is not in the label table; use the tables of this dataset")
        return self.images[list(self.findings)].to_numpy(dtype=np.float32)[rows]
