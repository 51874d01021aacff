"""Whether an image looks like a frontal chest film, told in words that a person can check.

A model answers whatever it is shown: a lateral film, a hand, a page of text, a film with black and white exchanged.
Four rules warn of that; none of them refuses an image.

1. The proportions: of NIH's 112,120 films, 36 (0.03 %) are longer than `LONGEST` times their width or the reverse.
2. Colour: X-rays have none.
3. Where it is bright and where dark: the correlation of the image with the mean film, both shrunk to 16 x 16 pixels.
4. What a DICOM header says of the modality, the part of the body and the view.

The third does the work. Of the 2,610 real NIH films at 256 pixels it warns of 44 (1.7 %), some of them rightly: two are
printed with black and white exchanged, one is lateral. Of the 718 test films among them, which the mean film was not
made from, it warns of 10 (1.4 %). Of the same 2,610 films it notices 99.9 % where they are turned upside down, 98.7 %
on their side and all but one with black and white exchanged; `tests/inference/test_view_check.py` counts them. It is no help with a
lateral film, a child's, or another part of the body that happens to be bright below and in the middle: no collection of
those was at hand to measure it on. No warning does not mean that an image is good enough for anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.image_io import Radiograph, resize_square

if TYPE_CHECKING:
    from pydicom import Dataset


LONGEST = 1 / 0.7
"""Longer side over shorter side; see rule 1."""


MOST_COLOUR = 0.05
"""Share of coloured pixels that arrows and letters on a film may have."""


LEAST_AGREEMENT = 0.4
"""Correlation with the mean film, in [-1, 1]; see rule 3."""


XRAY_MODALITIES = ("CR", "DX", "RG", "OT", "SC")
"""Radiographs as DICOM names them, and the two names for "other" that converted films carry."""


FRONTAL_VIEWS = ("AP", "PA")


CHEST = ("CHEST", "THORAX", "TORAX", "TORACE", "LUNG")


# The mean of NIH's 1,892 train_val films at 256 pixels, each shrunk to 16 x 16, mean 0 and standard deviation 1, then
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


MEAN_FILM = np.array([[*row, *row[::-1]] for row in _LEFT_HALF], dtype=np.float64)
"""(16, 16): bright where it is positive. Shoulders, dark lungs, the bright middle and belly can be made out."""


def check_frontal(radiograph: Radiograph) -> tuple[str, ...]:
    """Say why an image may be no frontal chest film, a sentence for each reason; nothing where there is none."""
    return (*_of_the_picture(radiograph), *(() if radiograph.header is None else _of_the_header(radiograph.header)))


def agreement(pixels: np.ndarray) -> float:
    """Correlation of grey pixels (H, W) with the mean film at 16 x 16, in [-1, 1]; 0 for an image of one grey."""
    return _correlation(resize_square(pixels, len(MEAN_FILM)))


def _correlation(small: np.ndarray) -> float:
    centred, film = small - small.mean(), MEAN_FILM - MEAN_FILM.mean()
    norm = np.sqrt((centred**2).sum() * (film**2).sum())
    return float((centred * film).sum() / norm) if norm > 0 else 0.0


def _of_the_picture(radiograph: Radiograph) -> list[str]:
    image_warnings = []
    height, width = radiograph.pixels.shape
    if max(height, width) > LONGEST * min(height, width):
        image_warnings.append(f"it measures {width}x{height} pixels, longer than frontal chest films are")
    if radiograph.coloured > MOST_COLOUR:
        image_warnings.append(f"{radiograph.coloured:.0%} of it is coloured, and X-rays are grey")
    small = resize_square(radiograph.pixels, len(MEAN_FILM)).astype(np.float64)
    upright = _correlation(small)
    if upright < LEAST_AGREEMENT:
        ways = {
            "upside down": small[::-1],
            "turned on its side": np.rot90(small),
            "turned on its other side": np.rot90(small, -1),
            "with black and white exchanged": -small,
        }
        best = max(ways, key=lambda way: _correlation(ways[way]))
        hint = f"; {best} it does" if _correlation(ways[best]) >= LEAST_AGREEMENT else ""
        image_warnings.append(
            f"bright and dark do not lie as on a frontal chest film (correlation {upright:.2f}){hint}"
        )
    return image_warnings


def _of_the_header(header: Dataset) -> list[str]:
    image_warnings = []
    modality, body, view = (
        _first(header.get(entry)).strip().upper() for entry in ("Modality", "BodyPartExamined", "ViewPosition")
    )
    if modality and modality not in XRAY_MODALITIES:
        image_warnings.append(f"its header calls it {modality}, no plain X-ray")
    if body and not any(part in body for part in CHEST):
        image_warnings.append(f"its header says that it shows {body}")
    direction = _first(header.get("PatientOrientation")).upper()
    if (view and view not in FRONTAL_VIEWS) or direction[:1] in ("A", "P"):
        image_warnings.append(f"its header says that the view is {view or 'lateral'}, not frontal")
    across, down = pixel_spacing_ratio(header)
    if not math.isclose(across, down, rel_tol=0.01):  # 0.194 and 0.19431 are a rounding
        image_warnings.append(f"its pixels are not square ({across:g} across to {down:g} down), so it looks stretched")
    return image_warnings


def _first(value: Any) -> str:
    """The text of a header's entry, of several values that of the first."""
    several = not isinstance(value, str) and isinstance(value, Sequence)
    return str((value[0] if len(value) else "") if several else value or "")


def pixel_spacing_ratio(header: Dataset) -> tuple[float, float]:
    """Width and height of a pixel, in mm where the header has them; (1, 1) where it says nothing."""
    for entry in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):  # each is row (down) first
        try:
            down, across = map(float, header.get(entry) or ())
        except (TypeError, ValueError):  # an entry that says what no standard allows is as good as none
            continue
        if 0 < min(across, down) and max(across, down) < math.inf:
            return across, down
    return 1.0, 1.0
