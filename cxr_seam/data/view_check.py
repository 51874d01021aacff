"""Check whether an image looks like a frontal chest X-ray.

A model answers for any image: a lateral view, a hand, a page of text, a radiograph with black and white exchanged.
Four rules give warnings; none of them refuses an image.

1. Proportions: of NIH's 112,120 images, 36 (0.03 %) have an aspect ratio above `MAX_ASPECT`.
2. Colour: X-rays have none.
3. Brightness: the correlation of the image with the mean image, both resized to 16 x 16 pixels.
4. The DICOM header: modality, body part and view.

The third rule does most of the work. It warns for 44 (1.7 %) of the 2,610 real NIH images at 256 pixels, some of them
rightly: two have black and white exchanged, one is lateral. It warns for 10 (1.4 %) of the 718 test images among them,
which are not part of the mean image. It detects 99.9 % of the 2,610 images if they are upside down, 98.7 % on their
side, and all but one with black and white exchanged (`tests/data/test_view_check.py` counts them). It does not
detect lateral views, children's images, or other body parts that happen to be bright at the bottom and in the middle:
no such collection was available for a measurement. An image without a warning is not necessarily suitable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .image_io import Radiograph, resize_square

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_ASPECT = 1 / 0.7
"""Longer side over shorter side; see rule 1."""

MAX_COLOR_FRACTION = 0.05
"""Share of coloured pixels that arrows and letters may have."""

MIN_CORRELATION = 0.4
"""Correlation with the mean image, in [-1, 1]; see rule 3."""

XRAY_MODALITIES = ("CR", "DX", "RG", "OT", "SC")
"""DICOM's names of radiographs, and its two names for "other" that converted images have."""

FRONTAL_VIEWS = ("AP", "PA")
CHEST = ("CHEST", "THORAX", "TORAX", "TORACE", "LUNG")

# The mean of NIH's 1,892 train_val images at 256 pixels, each resized to 16 x 16, mean 0 and standard deviation 1, then
# averaged with its mirror image: its left half, in twentieths of a standard deviation.
_LEFT_HALF = (
    (-48, -46, -44, -42, -37, -23, -3, 9),
    (-36, -29, -26, -24, -22, -15, -3, 7),
    (-17, -8, -5, -6, -10, -13, -7, 4),
    (-4, 5, 5, -2, -13, -18, -12, 3),
    (2, 9, 8, -4, -20, -24, -14, 6),
    (3, 9, 8, -7, -22, -26, -12, 9),
    (0, 7, 7, -8, -22, -22, -7, 14),
    (-5, 4, 5, -9, -19, -16, 1, 18),
    (-11, 1, 4, -8, -14, -8, 8, 22),
    (-15, -1, 3, -5, -6, 1, 14, 26),
    (-19, -3, 2, 0, 3, 10, 19, 29),
    (-22, -5, 3, 7, 12, 18, 25, 32),
    (-27, -8, 6, 14, 21, 26, 30, 35),
    (-30, -10, 8, 20, 27, 31, 34, 37),
    (-33, -11, 10, 23, 30, 34, 37, 39),
    (-31, -10, 12, 24, 31, 35, 37, 39),
)

MEAN_IMAGE = np.array([[*row, *row[::-1]] for row in _LEFT_HALF], dtype=np.float64)
"""(16, 16), positive where bright: shoulders, mediastinum and abdomen are bright, the lungs dark."""


def check_frontal(radiograph: Radiograph) -> tuple[str, ...]:
    """Return the reasons why an image may not be a frontal chest X-ray, after the warnings of its reader.

    Each is one sentence; empty if there is none.
    """
    header = radiograph.header
    return (*radiograph.warnings, *_check_pixels(radiograph), *(() if header is None else _check_header(header)))


def _check_pixels(radiograph: Radiograph) -> Iterator[str]:
    height, width = radiograph.pixels.shape
    if max(height, width) > MAX_ASPECT * min(height, width):
        yield f"it measures {width}x{height} pixels, longer than frontal chest X-rays are"
    if radiograph.color_fraction > MAX_COLOR_FRACTION:
        yield f"{radiograph.color_fraction:.0%} of it is coloured, and X-rays are grey"
    small = resize_square(radiograph.pixels, len(MEAN_IMAGE)).astype(np.float64)
    upright = _correlation(small)
    if upright < MIN_CORRELATION:
        correlations = {
            "upside down": _correlation(small[::-1]),
            "turned on its side": _correlation(np.rot90(small)),
            "turned on its other side": _correlation(np.rot90(small, -1)),
            "with black and white exchanged": -upright,
        }
        best = max(correlations, key=correlations.__getitem__)
        hint = f"; it may be {best}" if correlations[best] >= MIN_CORRELATION else ""
        yield f"bright and dark regions differ from a frontal chest X-ray (correlation {upright:.2f}){hint}"


def _correlation(small: np.ndarray) -> float:
    """Compute the correlation of an image (16, 16) with `MEAN_IMAGE`, in [-1, 1]; 0 for a constant image."""
    centred, template = small - small.mean(), MEAN_IMAGE - MEAN_IMAGE.mean()
    norm = np.sqrt((centred**2).sum() * (template**2).sum())
    return float((centred * template).sum() / norm) if norm > 0 else 0.0


def _check_header(header: Dataset) -> Iterator[str]:
    modality, body, view = (_values(header, entry)[0] for entry in ("Modality", "BodyPartExamined", "ViewPosition"))
    if modality and modality not in XRAY_MODALITIES:
        yield f"its header calls it {modality}, not a plain X-ray"
    if body and not any(part in body for part in CHEST):
        yield f"its header says that it shows {body}"
    # Directions of rows and columns: L (the patient's left), R, F (feet), H, A, P; empty if unknown.
    rows, columns = (direction[:1] for direction in _values(header, "PatientOrientation")[:2])
    if (view and view not in FRONTAL_VIEWS) or rows in ("A", "P"):
        yield f"its header says that the view is {view or 'lateral'}, not frontal"
    elif rows in ("R", "H", "F") or columns in ("H", "L", "R"):
        kind = "mirrored" if rows == "R" and columns in ("F", "") else "turned or upside down"
        yield f"its header says that it is {kind} (PatientOrientation {rows}\\{columns} instead of L\\F)"
    across, down = _pixel_spacing(header)
    if not math.isclose(across, down, rel_tol=0.01):  # 0.194 and 0.19431 differ by rounding
        yield f"its pixels are not square ({across:g} across to {down:g} down), so it looks stretched"


def _values(header: Dataset, entry: str) -> list[str]:
    """Return the values of an entry of a header in upper case, followed by two empty ones."""
    value = header.get(entry) or ""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else str(value).split("\\")
    return [*(str(value).strip().upper() for value in values), "", ""]


def _pixel_spacing(header: Dataset) -> tuple[float, float]:
    """Return width and height of a pixel, in mm if the header has them, otherwise their ratio; (1, 1) if unknown."""
    for entry in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):  # each is row (down) first
        try:
            down, across = map(float, header.get(entry) or ())
        except (TypeError, ValueError):  # an invalid entry counts as missing
            continue
        if 0 < min(across, down) and max(across, down) < math.inf:
            return across, down
    return 1.0, 1.0
