"""Read an image file as grey pixels, and resize grey pixels to a square.

About one in a hundred of NIH's PNGs is RGBA (alpha 255, R = G = B). Other collections bring 16-bit PNGs, JPEGs and
TIFFs, hospitals DICOM. Every file becomes an (H, W) array of uint8 in which bone is bright.
"""

from __future__ import annotations

import os
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from ..errors import InputError, count_of
from ..io import open_file, readable, user_path
from .dicom import PREAMBLE, bit_depth, is_dicom, read_header, to_display_uint8

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_PIXELS = 8192 * 8192
"""More than any X-ray detector has; a file that claims more is refused by its header, before decoding."""

MAX_BYTES = 256 * 2**20
"""Longest file that is read into memory; `MAX_PIXELS` of 16 bits take half of it uncompressed."""

MIN_SIDE = 16
"""Shortest side of a radiograph in pixels."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
TABLE_SUFFIXES = tuple(f".{kind}{zipped}" for kind in ("csv", "txt", "json", "jsonl") for zipped in ("", ".gz"))
"""Tables and lists of a dataset, which lie beside its images."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PILLOW_READERS = (
    (PNG_SIGNATURE, PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (tuple(TiffImagePlugin.PREFIXES), TiffImagePlugin.TiffImageFile),
)
"""First bytes of a file, and its reader. `Image.open` would choose the same, but print a warning for large images."""

MAX_GREY_DIFFERENCE = 32
"""A pixel counts as coloured if its channels differ by more grey levels; JPEG's rounding stays far below."""

TIFF_BITS_PER_SAMPLE, TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 258, 262, 0

BLUE_GREEN_RED = (7471 / 65536, 38470 / 65536, 19595 / 65536)
"""Pillow's weights of the luminance."""


@dataclass(frozen=True, eq=False)
class Radiograph:
    """The content of an image file.

    Attributes:
        pixels: (H, W) uint8, 0 black to 255 white.
        color_fraction: share of the pixels that are not grey, see `MAX_GREY_DIFFERENCE`.
        header: the parsed header of a DICOM file, otherwise None.
        warnings: what was repaired or guessed while reading, one sentence each.
    """

    pixels: np.ndarray
    color_fraction: float = 0.0
    header: Dataset | None = None
    warnings: tuple[str, ...] = ()


def load_image(source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None) -> Radiograph:
    """Read a PNG, JPEG, TIFF or DICOM file as grey pixels.

    - Grey and palette images, and colour images with R = G = B, keep their grey values exactly.
    - Colour images become luminance (ITU-R 601: 0.299 R + 0.587 G + 0.114 B).
    - Transparent pixels are laid over black; NIH's alpha is 255 throughout.
    - 16-bit greys and colours are divided by the full scale of the bit depth in use, the smallest of 8, 10, 12, 14 and
      16 bits that holds the largest value: 12-bit data in a 16-bit file does not become nearly black.
    - DICOM is shown as a viewer would show it, see `dicom.display.to_display_uint8`.
    - An orientation in the EXIF data is not applied: boxes refer to the pixels as stored.

    Args:
        source: a path, the bytes of a file, or a binary file open for reading.
        name: name of the image in error messages; by default its path.

    Raises:
        InputError: the file is missing, empty, of another format, broken, cut short, longer than `MAX_BYTES`, smaller
            than `MIN_SIDE` on a side, claims more than `MAX_PIXELS` pixels, or has several pages or frames; for DICOM
            see also `dicom.read.read_header`.
    """
    if name is None:
        name = str(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", "image")
    data = _read_bytes(source, name)
    try:
        if data.startswith(PNG_SIGNATURE):
            chunks = _png_chunks(data, name)
            if data[24:26] == b"\x08\x00" and chunks.isdisjoint(
                (b"tRNS", b"acTL")
            ):  # 8-bit grey, neither alpha nor frames
                return Radiograph(_decode_grey_png(data, name))
        elif is_dicom(data, "" if pillow_reader(data) else name):  # the name decides only if the bytes do not
            return _load_dicom(data, name)
        return _load_with_pillow(data, name)
    except InputError:
        raise
    except Exception as error:  # decoders raise a dozen types for broken bytes
        raise InputError(f"{name} is broken or cut short ({error}); fetch it again") from error


def resize_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize grey pixels to a square: sides shrink by area averaging, which does not alias, and grow bilinearly.

    Args:
        pixels: (H, W) uint8. An image that is not square is stretched, as by the paper's resize.
        size: side of the result in pixels.

    Returns:
        (size, size) uint8.
    """
    import cv2

    height, width = pixels.shape
    # One side may shrink while the other grows; OpenCV averages areas only if neither grows.
    pixels = cv2.resize(pixels, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    if pixels.shape != (size, size):
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return pixels


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """List the image files of a path: the file itself, or all images below a folder, sorted by path.

    `sort_files` tells which files of a folder are images.

    Raises:
        InputError: the folder contains no image.

    Warns:
        UserWarning: the folder contains files that are neither images nor tables; the warning counts and names them.
    """
    path = user_path(path, what="path of the images")
    if not is_folder(path):
        return [path]
    files, others = sort_files(path)
    if not files:
        raise InputError(f"there is no image in {path}; give a folder with PNG, JPEG, TIFF or DICOM files")
    warn_left_out(others)
    return sorted(files)


def sort_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Separate the images below a folder from the other files.

    The first bytes of a file decide. Files with a name in `SUFFIXES` count as images too, and dangling links with such
    a name, so that reading them gives an error. Pipes and devices are never opened. Links to folders are followed, and
    each folder is visited once. Hidden files and folders and a disc's DICOMDIR are ignored.

    Returns:
        Images, other files (and folders that cannot be read). In both lists the files of a folder come before its
        subfolders, each in alphabetical order.

    Raises:
        InputError: the folder cannot be read.
    """
    files: tuple[list[Path], list[Path]] = [], []

    def note_unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise InputError(f"cannot read the folder {folder} ({error.strerror}); correct its permissions") from error
        files[1].append(Path(error.filename))

    visited = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=note_unreadable):
        if (here := os.path.realpath(root)) in visited:
            folders.clear()
            continue
        visited.add(here)
        links = {name for name in folders if os.path.islink(os.path.join(root, name))}
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        folders.sort(key=links.__contains__)  # last, so that of a folder and a link to it the folder is visited
        for path in (Path(root, name) for name in sorted(names) if not is_hidden(name)):
            files[0 if _is_image_file(path) else 1].append(path)
    return files


def is_hidden(name: str) -> bool:
    """Return whether a file is none of the user's images: hidden, a "._" copy of macOS, or the index of a disc."""
    return name.startswith(".") or name.upper() == "DICOMDIR"


def has_image_suffix(name: str) -> bool:
    """Return whether a file name ends with one of `SUFFIXES`."""
    return name.lower().endswith(SUFFIXES)


def starts_as_image(head: bytes) -> bool:
    """Return whether the first `PREAMBLE` bytes of a file are those of a PNG, JPEG, TIFF or DICOM file."""
    return pillow_reader(head) is not None or is_dicom(head, "")


def warn_left_out(files: Sequence[str | Path]) -> None:
    """Warn of files that are neither images nor tables: their number and the names of the first ten."""
    others = [file for file in files if not str(file).lower().endswith(TABLE_SUFFIXES)]
    if others:
        count = count_of(len(others), "file is", "files are")
        warnings.warn(
            f"{count} left out, not being PNG, JPEG, TIFF or DICOM images: {first_names(others)}", stacklevel=3
        )


def first_names(names: Sequence[object]) -> str:
    """Join the first ten of some names, and say how many there are beyond."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(readable(str(name)) for name in names[:10]) + more


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path, which may begin with "~", is a folder; False if no file can have this path."""
    try:
        return user_path(path).is_dir()
    except (OSError, ValueError):  # a name that is too long or contains a zero byte
        return False


def _is_image_file(path: Path) -> bool:
    if has_image_suffix(path.name):
        return path.is_file() or not path.exists()
    try:
        with open_file(path) as file:
            return starts_as_image(file.read(PREAMBLE))
    except OSError:
        return False


def _read_bytes(source: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> bytes:
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str | os.PathLike):
        path = user_path(source, what="path of the image")
        try:
            with open_file(path) as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read {name} ({reason}); correct the path") from error
    else:
        data = source.read(MAX_BYTES + 1)
    if not data:
        raise InputError(f"{name} is empty; fetch it again")
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is longer than {MAX_BYTES >> 20} MiB, more than any radiograph; it was not opened")
    return data


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} claims {width}x{height} pixels, more than any radiograph has; it was not opened")
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{name} measures {width}x{height} pixels; a radiograph needs at least {MIN_SIDE} on each side"
        )


def _load_dicom(data: bytes, name: str) -> Radiograph:
    header = read_header(data, name)
    _check_size((header.dataset.Columns, header.dataset.Rows), name)
    pixels = to_display_uint8(header, name)
    color_fraction = 0.0
    if pixels.ndim == 3:
        pixels, color_fraction = _to_grey(Image.fromarray(pixels), name), _color_fraction(pixels)
    return Radiograph(pixels, color_fraction, header.dataset, tuple(header.warnings))


def pillow_reader(data: bytes) -> type[ImageFile.ImageFile] | None:
    """Return the reader of an image file by its first bytes; None for DICOM and other files."""
    return next((reader for start, reader in PILLOW_READERS if data.startswith(start)), None)


def _load_with_pillow(data: bytes, name: str) -> Radiograph:
    reader = pillow_reader(data)
    if reader is None:
        guess = " but a web page or XML text" if data.lstrip()[:1] == b"<" else ""
        raise InputError(f"{name} is neither a PNG nor a JPEG, TIFF or DICOM image{guess}; convert it")
    try:
        image = reader(BytesIO(data))  # reads only the header
    except SyntaxError as error:
        if not re.search("unknown pixel mode|cannot handle", str(error)):
            raise
        raise InputError(f"{name} has pixels that cannot be read ({error}); save it as grey PNG") from error
    with image:
        _check_size(image.size, name)
        if image.format == "TIFF" and image.n_frames > 1:
            raise InputError(f"{name} has {image.n_frames} pages; save the one radiograph as its own file")
        image.load()
        if image.mode in ("RGB", "RGBA", "LA", "CMYK") and _bits_of_channel(image, data) > 8:
            return _decode_deep_colour(data, name)
        is_grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
        color_fraction = 0.0 if is_grey else _color_fraction(np.asarray(image.convert("RGB")))
        return Radiograph(_to_grey(image, name), color_fraction)


def _png_chunks(data: bytes, name: str) -> set[bytes]:
    """Return the types of a PNG's chunks and compare their CRC-32, which Pillow ignores for the pixels."""
    view, kinds, start = memoryview(data), set(), len(PNG_SIGNATURE)
    while b"IEND" not in kinds:
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        if end + 4 > len(data):
            raise InputError(f"{name} is broken or cut short (its last chunk is missing); fetch it again")
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise InputError(f"{name} is broken or cut short (a checksum in it does not match); fetch it again")
        kinds.add(data[start + 4 : start + 8])
        start = end + 4
    return kinds


def _decode_grey_png(data: bytes, name: str) -> np.ndarray:
    """Decode an 8-bit grey PNG with OpenCV, which gives Pillow's pixels faster and refuses missing rows."""
    import cv2

    _check_size((int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")), name)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise InputError(f"{name} is broken or cut short (its pixels do not inflate); fetch it again")
    return pixels


def _bits_of_channel(image: Image.Image, data: bytes) -> int:
    """Return the bits of a channel in the file; Pillow gives 8 of each channel in colour, whatever the file holds."""
    if image.format == "PNG":
        return data[24]
    bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, 8)
    return max(bits) if isinstance(bits, tuple) else bits


def _decode_deep_colour(data: bytes, name: str) -> Radiograph:
    """Decode colour of 16 bits with OpenCV: luminance as for 8 bits, scaled as 16-bit grey, transparency over black."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # (H, W, 3 or 4) blue, green, red, alpha
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise InputError(f"{name} has colours of more than 8 bits that cannot be read; save it as grey PNG")
    colours = _scale_to_uint8(pixels[..., :3], name)
    grey = pixels[..., :3].astype(np.float32) @ np.array(BLUE_GREEN_RED, np.float32)
    if pixels.shape[2] == 4:
        grey *= pixels[..., 3] / np.float32(2**16 - 1)
    white = 2 ** bit_depth(int(pixels[..., :3].max())) - 1
    return Radiograph((grey * (255 / white) + 0.5).astype(np.uint8), _color_fraction(colours))


def _to_grey(image: Image.Image, name: str) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: "I;16" and similar, or "I" from older Pillow
        values = np.asarray(image)
        grey = _scale_to_uint8(values, name)
        if "transparency" in image.info:
            return np.where(values == image.info["transparency"], 0, grey).astype(np.uint8)
        # Pillow inverts such TIFFs if they have 8 bits, but not if they have 16.
        tags = getattr(image, "tag_v2", {})
        return 255 - grey if tags.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO else grey
    if image.mode == "F":
        raise InputError(f"{name} holds fractions, which have no white; save it with 8 or 16 bits")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"), dtype=np.uint16)
        grey = np.asarray(image.convert("RGB").convert("L"))
        return ((grey * alpha + 127) // 255).astype(np.uint8)
    if image.mode == "L":
        return np.asarray(image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    # The weights of Pillow's luminance add up to 2^16, so R = G = B passes through unchanged.
    return np.asarray(image.convert("L"))


def _color_fraction(pixels: np.ndarray) -> float:
    """Return the share of pixels (H, W, 3) that are coloured."""
    return float((np.ptp(pixels, axis=-1) > MAX_GREY_DIFFERENCE).mean())


def _scale_to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    largest = int(values.max())
    if values.min() < 0 or largest >= 2**16:
        raise InputError(f"{name} has values outside 0 to 65535, which have no white; save it with 8 or 16 bits")
    return (values.astype(np.float32) * (255 / (2 ** bit_depth(largest) - 1)) + 0.5).astype(np.uint8)
