"""One image file to grey pixels, and grey pixels to a smaller square.

About one in a hundred of NIH's PNGs is RGBA (alpha 255, R = G = B); other collections bring 16-bit PNGs, JPEGs and
TIFFs, hospitals DICOM. All come out alike: an (H, W) array of uint8, bright where the film is bright.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from ..errors import InputError
from .dicom import PREAMBLE, display_pixels, is_dicom, read_header

if TYPE_CHECKING:
    from pydicom import Dataset


MAX_PIXELS = 8192 * 8192
"""More than any X-ray detector has; a file that claims more is refused by its header, before decoding."""


MAX_BYTES = 256 * 2**20
"""A file longer than this is not read into memory; `MAX_PIXELS` of 16 bits take half of it uncompressed."""


MIN_SIDE = 16
"""Pixels; an image with a shorter side is an icon or an accident, not a radiograph."""


SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


FORMATS = (
    (PNG_SIGNATURE, PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (tuple(TiffImagePlugin.PREFIXES), TiffImagePlugin.TiffImageFile),
)
"""First bytes of a file, and what reads it. `Image.open` would choose alike, but warn of a large image on its own."""


COLOURFUL = 32
"""A pixel whose channels differ by more grey levels counts as coloured; JPEG's rounding stays far below."""


TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 262, 0


@dataclass(frozen=True, eq=False)
class Radiograph:
    """What an image file holds.

    Attributes:
        pixels: (H, W) uint8, 0 black to 255 white; see `read_radiograph`.
        coloured: share of the pixels that are not grey, see `COLOURFUL`.
        header: of a DICOM file, as pydicom parses it.
    """

    pixels: np.ndarray
    coloured: float = 0.0
    header: Dataset | None = None


def read_radiograph(source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None) -> np.ndarray:
    """Read a PNG, JPEG, TIFF or DICOM file as grey pixels.

    - Grey and palette images, and colour images with R = G = B, keep their grey values exactly.
    - Colour images whose channels differ become luminance (ITU-R 601: 0.299 R + 0.587 G + 0.114 B).
    - Transparent pixels are laid over black, the value of unexposed film; NIH's alpha is 255 throughout.
    - 16-bit greys are divided by full scale of the bit depth in use, the least of 8, 10, 12, 14 and 16 bits
      that holds the largest value: a 12-bit detector in a 16-bit file does not turn nearly black.
    - DICOM is shown as a viewer would, see `dicom.display_pixels`.
    - An orientation written in the file's EXIF data is not applied: boxes refer to the pixels as stored.

    Args:
        source: a path, the bytes of a file, or a binary file open for reading.
        name: what to call the image in error messages; by default its path.

    Returns:
        (H, W) uint8, 0 black to 255 white.

    Raises:
        InputError: the file is missing, empty, none of these, broken, cut short, longer than `MAX_BYTES`, smaller than
            `MIN_SIDE` on a side, claims more than `MAX_PIXELS` pixels, or holds several pages or frames; for DICOM
            see also `dicom.read_header`.
    """
    return load_image(source, name=name).pixels


def load_image(source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None) -> Radiograph:
    """Read an image file as `read_radiograph` does, and keep what else it says of itself.

    Raises:
        InputError: as `read_radiograph`.
    """
    if name is None:
        name = str(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", "image")
    data = _bytes_of(source, name)
    try:
        if data.startswith(PNG_SIGNATURE):
            chunks = _png_chunks(data, name)
            if data[24:26] == b"\x08\x00" and chunks.isdisjoint((b"tRNS", b"acTL")):
                return Radiograph(_grey_png(data, name))
        elif is_dicom(data, name):
            header = read_header(data, name)
            _check_size((header.Columns, header.Rows), name)
            pixels = display_pixels(header, name)
            grey = pixels if pixels.ndim == 2 else _grey(Image.fromarray(pixels), name)
            return Radiograph(grey, _coloured(pixels), header)
        reader = next((reader for start, reader in FORMATS if data.startswith(start)), None)
        if reader is None:
            raise InputError(f"{name} is neither a PNG nor a JPEG, TIFF or DICOM image{_guess(data)}; convert it")
        with reader(BytesIO(data)) as image:  # reads the header only
            _check_size(image.size, name)
            if image.format == "TIFF" and image.n_frames > 1:
                raise InputError(f"{name} has {image.n_frames} pages, a film has one; save the one you mean alone")
            image.load()
            grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
            return Radiograph(_grey(image, name), 0.0 if grey else _coloured(np.asarray(image.convert("RGB"))))
    except InputError:
        raise
    except Exception as error:  # decoders meet broken bytes with exceptions of a dozen kinds
        raise InputError(f"{name} is broken or cut short ({error}); fetch it again") from error


def resize_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize grey pixels to a square by area averaging, which does not alias; short sides grow bilinearly.

    Args:
        pixels: (H, W) uint8. An image that is not square is stretched, as the paper's resize does.
        size: side of the result in pixels.

    Returns:
        (size, size) uint8.
    """
    import cv2

    height, width = pixels.shape
    # One axis may shrink while the other grows; OpenCV averages areas only where neither grows.
    pixels = cv2.resize(pixels, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    if pixels.shape != (size, size):
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return pixels


def image_files(place: str | os.PathLike[str]) -> list[Path]:
    """The image files that a path stands for: itself, or of a folder all below it, in alphabetical order.

    In a folder, images are told by `SUFFIXES` and DICOM files, which hospitals' discs name "IM0001", by their bytes;
    hidden files, a disc's DICOMDIR and everything else are passed over.

    Raises:
        InputError: there is no image in the folder.
    """
    place = Path(place).expanduser()
    if not is_folder(place):
        return [place]
    # A link to nowhere is kept, so that whoever reads it tells of it.
    below = (path for path in sorted(place.rglob("*")) if not path.is_dir() and path.name.upper() != "DICOMDIR")
    visible = (path for path in below if not any(part.startswith(".") for part in path.relative_to(place).parts))
    found = [path for path in visible if path.suffix.lower() in SUFFIXES or _starts_as_dicom(path)]
    if not found:
        raise InputError(f"there is no image in {place}; give a folder with PNG, JPEG, TIFF or DICOM files")
    return found


def is_folder(place: str | os.PathLike[str]) -> bool:
    """Whether a path, which may begin with "~", is a folder's; False for one that no file can have."""
    try:
        return Path(place).expanduser().is_dir()
    except (OSError, ValueError):  # a name too long, or with a zero byte: whoever opens it says so
        return False


def _starts_as_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(PREAMBLE), path.name)
    except OSError:
        return False


def _bytes_of(source: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> bytes:
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str | os.PathLike):
        try:
            with Path(source).open("rb") as file:
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


def _png_chunks(data: bytes, name: str) -> set[bytes]:
    """Return which kinds of chunks a PNG has. Each ends with a CRC-32, which Pillow passes over where pixels are."""
    view, kinds, start = memoryview(data), set(), len(PNG_SIGNATURE)
    while b"IEND" not in kinds:
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        if end + 4 > len(data):
            raise InputError(f"{name} is broken or cut short (its last chunk is missing); fetch it again")
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise InputError(f"{name} is broken or cut short (a checksum in it does not fit); fetch it again")
        kinds.add(data[start + 4 : start + 8])
        start = end + 4
    return kinds


def _grey_png(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG of 8-bit greys by OpenCV: the pixels that Pillow gives, sooner, and no fewer rows than claimed."""
    import cv2

    _check_size((int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")), name)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise InputError(f"{name} is broken or cut short (its pixels do not inflate); fetch it again")
    return pixels


def _grey(image: Image.Image, name: str) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: "I;16" and its kin, or "I" from older Pillow
        grey = _to_eight_bits(np.asarray(image), name)
        # Pillow turns such files over where they have 8 bits, not where they have 16.
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


def _coloured(pixels: np.ndarray) -> float:
    """Share of pixels (H, W) or (H, W, 3) whose channels differ by more than `COLOURFUL`; grey ones have none."""
    if pixels.ndim == 2:
        return 0.0
    return float((np.ptp(pixels, axis=-1) > COLOURFUL).mean())


def _to_eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    largest = int(values.max())
    if values.min() < 0 or largest >= 2**16:
        raise InputError(f"{name} has values outside 0 to 65535, which have no white; save it with 8 or 16 bits")
    bits = next(depth for depth in (8, 10, 12, 14, 16) if largest < 2**depth)
    return (values.astype(np.float32) * (255 / (2**bits - 1)) + 0.5).astype(np.uint8)


def _guess(data: bytes) -> str:
    if data.lstrip()[:1] == b"<":
        return " but a web page or XML text"
    return ""
