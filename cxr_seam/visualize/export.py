"""Predict image files and export the results: pictures, tables and, for DICOM files, DICOM secondary captures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps

from ..data.image_io import SUFFIXES, image_files, load_image
from ..errors import InputError
from ..findings import OPERATING_POINTS, XYWH
from ..inference.maps.registry import MAPS
from ..inference.predictor import Prediction, Predictor
from ..io import WriteError, atomic_write, is_name_refused, readable, user_path
from .examples import format_probability, prediction_png
from .render import MARGIN, write_text
from .secondary_capture import SERIES_DESCRIPTION, secondary_capture

IMAGES, SCORES, BOXES = "images.csv", "scores.csv", "boxes.csv"

SCORE_COLUMNS = ["finding", "raw_score", "calibrated_probability", "operating_point", "present"]

BOX_COLUMNS = ["finding", *XYWH, "score"]

SUFFIX = "_heatmaps"
"""Follows the name of an image in the names of its pictures."""


def output_stems(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Find image files and choose a unique name for the results of each.

    The name is the path below the given folder, or the file name, without suffix. If two names are equal, they keep
    their suffixes and, if necessary, the name of the given folder. Pictures of an earlier export are skipped in
    folders.

    Args:
        paths: files and folders; a file that occurs twice counts once.

    Returns:
        Name -> file, in the order of `paths`; in a folder, in alphabetical order.

    Raises:
        InputError: two files still have the same name, or a folder has no image.
    """
    candidates: dict[Path, tuple[str, ...]] = {}
    for root in (user_path(path, what="path of the images") for path in paths):
        images = [path for path in image_files(root) if path == root or not path.stem.endswith(SUFFIX)]
        if not images:
            raise InputError(f"{root} holds only pictures of an earlier export; give a folder with images")
        for path in images:
            relative = path.relative_to(root) if path != root else Path(path.name)
            # DICOM files are often named "1.2.840.113619", which has no suffix.
            short = relative.with_suffix("") if relative.suffix.lower() in SUFFIXES else relative
            folder = root.resolve() if path != root else path.resolve().parent
            candidates.setdefault(path, tuple(map(readable, (short, relative, folder.name / relative))))
    counts = [Counter(names) for names in zip(*candidates.values(), strict=True)]
    stems: dict[str, Path] = {}
    for path, names in candidates.items():
        name = next((name for name, count in zip(names, counts, strict=True) if count[name] == 1), names[-1])
        if name in stems:
            raise InputError(
                f"{stems[name]} and {path} have the same name {name}, so their results would overwrite each other; "
                "predict them one by one into different folders"
            )
        stems[name] = path
    return stems


def predict_files(
    predictor: Predictor, files: Mapping[str, Path], output_dir: str | os.PathLike[str]
) -> Iterator[tuple[str, Prediction | InputError]]:
    """Predict files one after another and write the results to a folder.

    For each image, NAME_heatmaps.png has the three most probable findings, and NAME_heatmaps.dcm has the same picture
    if the image is DICOM. At the end, `IMAGES` (size, warnings, or the error), `SCORES` and `BOXES` have one
    table each for all images, also if the caller stops earlier. An image whose pictures cannot be written, for example
    because its name is too long, has its error in `IMAGES`; the others are written.

    Args:
        predictor: the model.
        files: name -> file, see `output_stems`.
        output_dir: created if it is missing.

    Yields:
        Path and prediction, or path and error.

    Raises:
        WriteError: the folder cannot be written.
    """
    images, scores, boxes = [], [], []
    output_dir = user_path(output_dir, what="folder of the results")
    try:
        for name, (path, result) in zip(files, predictor.predict_iter(list(files.values())), strict=True):
            error = result if isinstance(result, InputError) else None
            if isinstance(result, Prediction):
                try:
                    write_pictures(result, output_dir / name)
                except InputError as failure:
                    if isinstance(failure, WriteError) and not is_name_refused(failure):
                        raise
                    error = failure  # of this image alone
                scores += [(name, *row) for row in score_rows(result)]
                boxes += [(name, *row) for row in result.boxes[BOX_COLUMNS].itertuples(index=False)]
            height, width = result.size if isinstance(result, Prediction) else (None, None)
            cautions = "" if isinstance(result, InputError) else "; ".join(result.image_warnings)
            images.append((name, readable(path), width, height, cautions, readable(str(error or ""))))
            yield path, error or result
    finally:
        columns = ["image", "path", "width", "height", "warnings", "error"]
        table = pd.DataFrame(images, columns=columns).astype({"width": "Int64", "height": "Int64"})
        _write_table(table, output_dir / IMAGES)
        _write_table(pd.DataFrame(scores, columns=["image", *SCORE_COLUMNS]), output_dir / SCORES)
        _write_table(pd.DataFrame(boxes, columns=["image", *BOX_COLUMNS]), output_dir / BOXES)


def write_pictures(prediction: Prediction, stem: Path) -> None:
    """Write STEM_heatmaps.png and, if the image is DICOM, STEM_heatmaps.dcm.

    The second is a secondary capture of the same picture, with scores and boxes as text in its header. The
    notice "research use only" is also in its pixels, because viewers hide headers.
    """
    radiograph = load_image(prediction.path)
    png = prediction_png(prediction, pixels=radiograph.pixels, width=512)
    with atomic_write(stem.with_name(f"{stem.name}{SUFFIX}.png")) as temporary:
        temporary.write_bytes(png)
    if radiograph.header is not None:
        picture = ImageOps.expand(Image.open(BytesIO(png)), border=(0, 0, 0, 28))
        at = (MARGIN, picture.height - 14)
        write_text(ImageDraw.Draw(picture), at, SERIES_DESCRIPTION, size=14, colour=(255, 255, 255), anchor="lm")
        try:
            capture = secondary_capture(radiograph.header, np.asarray(picture), comment=prediction_text(prediction))
            with atomic_write(stem.with_name(f"{stem.name}{SUFFIX}.dcm")) as temporary:
                capture.save_as(temporary, enforce_file_format=True)
        except WriteError:
            raise
        except Exception as error:  # pydicom raises a dozen types for odd values
            reason = next(iter(str(error).splitlines()), type(error).__name__)  # further lines hold a traceback
            raise InputError(f"the header of {prediction.path} cannot be written to a DICOM file ({reason})") from error


def score_rows(prediction: Prediction) -> list[tuple[str, float, float | None, str, bool | None]]:
    """Return the `SCORE_COLUMNS` of each finding, in the order of the model."""
    scores, point = prediction.raw_scores, prediction.calibrator.operating_point
    return [
        (name, scores[name], prediction.probabilities[name], point, yes) for name, yes in prediction.decisions.items()
    ]


def score_lines(prediction: Prediction) -> list[str]:
    """Format raw score, calibrated probability and decision of each finding, highest raw score first, with a head."""
    width = 2 + max(map(len, prediction.raw_scores))
    title = OPERATING_POINTS[prediction.calibrator.operating_point]
    lines = [f"{'':<{width}}raw score  calibrated probability  at {title}"]
    for finding in prediction.top_k(len(prediction.raw_scores)):
        score, probability = prediction.raw_scores[finding], format_probability(prediction.probabilities[finding])
        lines.append(f"{finding:<{width}}{score:9.3f}  {probability:>22}  {prediction.decision(finding)}")
    return lines


def prediction_text(prediction: Prediction) -> str:
    """Format scores, decision and best box of each finding, one line each, then the warnings."""
    title = OPERATING_POINTS[prediction.calibrator.operating_point]
    lines = [
        f"Raw score, calibrated probability, decision at {title}, best box in pixels (x, y, width, height)",
        f"Heat maps and boxes: {MAPS[prediction.map]}",
    ]
    for finding in prediction.top_k(len(prediction.raw_scores)):
        box = ", ".join(f"{value:.0f}" for value in prediction.boxes_of(finding)[:1].ravel()) or "none"
        score, probability = prediction.raw_scores[finding], format_probability(prediction.probabilities[finding])
        lines.append(f"{finding}: {score:.3f}, {probability}, {prediction.decision(finding)}, box {box}")
    return "\r\n".join([*lines, *(f"Warning: {warning}" for warning in prediction.image_warnings)])


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
