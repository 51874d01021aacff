"""Predict anybody's image files and keep what was said of them: pictures, tables and, for DICOM, DICOM."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from ..data.image_io import SUFFIXES, image_files, load_image
from ..errors import InputError
from ..findings import FINDINGS, XYWH
from ..inference.predictor import Prediction, Predictor
from ..io import WriteError, atomic_write

if TYPE_CHECKING:
    from pydicom import Dataset


WIDTH = 512
"""Of a panel in pixels."""


BAND = 28
"""Pixels below a picture for DICOM, for the line that says what it is not."""


FILMS, PROBABILITIES, BOXES = "films.csv", "probabilities.csv", "boxes.csv"


RESULT = "_heatmaps"
"""What a film's name is followed by in the names of its results."""


def output_stems(places: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Name the image files that paths stand for by what their results will be called.

    A file is called by its stem; one in a folder that was given, by its path below that folder, without suffix. Files
    that would be called alike keep their suffixes and, where these are the same too, the name of the folder that was
    given. In a folder, results of an earlier call are passed over.

    Args:
        places: files and folders; a file that is named twice counts once.

    Returns:
        Name -> file, in the order of `places` and, in a folder, of the alphabet.

    Raises:
        InputError: two files would be called alike all the same, or a folder holds no image beside results.
    """
    candidates: dict[Path, tuple[str, ...]] = {}
    for place in (Path(place).expanduser() for place in places):
        found = image_files(place)
        fresh = [path for path in found if path == place or not path.stem.endswith(RESULT)]
        if not fresh:
            raise InputError(f"all images in {place} are heat maps of an earlier call; give a folder with films")
        for path in fresh:
            below = path.relative_to(place) if path != place else Path(path.name)
            # "1.2.840.113619" of a hospital's disc is all name and no suffix.
            plain = below.with_suffix("") if below.suffix.lower() in SUFFIXES else below
            folder = place.resolve() if path != place else path.resolve().parent
            candidates.setdefault(path, (str(plain), str(below), str(folder.name / below)))
    counts = [Counter(names) for names in zip(*candidates.values(), strict=True)]
    named: dict[str, Path] = {}
    for path, names in candidates.items():
        name = next((name for name, count in zip(names, counts, strict=True) if count[name] == 1), names[-1])
        if name in named:
            raise InputError(
                f"two files are called {name}, {named[name]} and {path}; one's results would replace the "
                "other's: give them one by one, each with an --out of its own"
            )
        named[name] = path
    return named


def predict_files(
    predictor: Predictor, files: dict[str, Path], out: str | os.PathLike[str]
) -> Iterator[tuple[str, Prediction | InputError]]:
    """Predict files one after another and write what is said of them into the folder `out`.

    Of each film NAME_heatmaps.png (the three most probable findings) and, where it is DICOM, NAME_heatmaps.dcm; at the
    end `FILMS` (size, warnings, or why the file could not be read), `PROBABILITIES` and `BOXES` of all films.

    Args:
        predictor: the model.
        files: see `output_stems`.
        out: made if it is missing.

    Yields:
        Path and prediction, or path and the error that took its place.

    Raises:
        WriteError: the folder cannot be written.
    """
    films, probabilities, boxes = [], [], []
    out = Path(out)
    try:
        for name, (path, answer) in zip(files, predictor.each(list(files.values())), strict=True):
            row = {"film": name, "path": path, "width": None, "height": None, "warnings": "", "error": ""}
            if isinstance(answer, Prediction):
                answer = _pictured(answer, out / name)
            if isinstance(answer, InputError):
                films.append(row | {"error": str(answer)})
            else:
                height, width = answer.size
                films.append(row | {"width": width, "height": height, "warnings": "; ".join(answer.image_warnings)})
                probabilities += [
                    {"film": name, "finding": finding, "probability": answer.probabilities[finding], "present": present}
                    for finding, present in answer.present.items()
                ]
                boxes.append(answer.boxes.assign(film=name))
            yield path, answer
    finally:  # whoever stops it after some films has the tables of these
        sizes = {"width": "Int64", "height": "Int64"}  # whole numbers, though missing where a file could not be read
        columns = ["film", "path", "width", "height", "warnings", "error"]
        _write_table(pd.DataFrame(films, columns=columns).astype(sizes), out / FILMS, columns)
        _write_table(pd.DataFrame(probabilities), out / PROBABILITIES, ["film", "finding", "probability", "present"])
        _write_table(pd.concat(boxes) if boxes else pd.DataFrame(), out / BOXES, ["film", "finding", *XYWH, "score"])


def _pictured(prediction: Prediction, stem: Path) -> Prediction | InputError:
    """The prediction, its pictures written; the error where its file, read a second time, is there no more."""
    try:
        write_pictures(prediction, stem)
    except WriteError:
        raise
    except InputError as error:
        return error
    return prediction


def write_pictures(prediction: Prediction, stem: Path) -> None:
    """Write STEM_heatmaps.png and, where the film is DICOM, STEM_heatmaps.dcm with the same picture."""
    from .examples import prediction_png

    radiograph = load_image(prediction.path)
    png = prediction_png(prediction, pixels=radiograph.pixels, width=WIDTH)
    with atomic_write(stem.with_name(f"{stem.name}{RESULT}.png")) as temporary:
        temporary.write_bytes(png)
    if radiograph.header is not None:
        made = prediction_dicom(prediction, radiograph.header, png)
        with atomic_write(stem.with_name(f"{stem.name}{RESULT}.dcm")) as temporary:
            made.save_as(temporary, enforce_file_format=True)


def prediction_dicom(prediction: Prediction, film: Dataset, png: bytes) -> Dataset:
    """Make a secondary capture of a prediction's picture, with probabilities and boxes as text in its header."""
    import cv2

    from .secondary_capture import SERIES_DESCRIPTION, secondary_capture

    picture = np.asarray(Image.open(BytesIO(png)).convert("RGB"))
    picture = np.pad(picture, ((0, BAND), (0, 0), (0, 0)))
    at = (8, picture.shape[0] - 9)
    # Viewers hide headers, so what the picture is not stands in the picture.
    cv2.putText(picture, SERIES_DESCRIPTION, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return secondary_capture(film, picture, comment=as_text(prediction))


def as_text(prediction: Prediction) -> str:
    """What a prediction says, in lines: probabilities, decisions, and the best box of each finding."""
    lines = ["Probability, decision, best box in pixels of the film (x, y, width, height)"]
    for finding in prediction.top_k(len(FINDINGS)):
        decision = {True: "present", False: "not present", None: "no threshold"}[prediction.present[finding]]
        boxes = prediction.boxes_of(finding)
        box = ", ".join(f"{value:.0f}" for value in boxes[0]) if len(boxes) else "none"
        lines.append(f"{finding}: {prediction.probabilities[finding]:.3f}, {decision}, box {box}")
    return "\r\n".join([*lines, *(f"Warning: {doubt}" for doubt in prediction.image_warnings)])


def _write_table(table: pd.DataFrame, path: Path, columns: list[str]) -> None:
    with atomic_write(path) as temporary:
        table.reindex(columns=columns).to_csv(temporary, index=False, float_format="%.6g")  # hundredths of a pixel
