"""One image file to grey pixels, and grey pixels to a smaller square.

About one in a hundred of NIH's PNGs is RGBA (alpha 255, R = G = B); other collections bring 16-bit PNGs and
JPEGs. All come out alike: an (H, W) array of uint8, bright where the film is bright.
"""

from __future__ import annotations

import os
import zlib
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from .errors import InputError

MAX_PIXELS = 8192 * 8192
"""More than any X-ray detector has; a file that claims more is refused by its header, before decoding."""

MAX_BYTES = 256 * 2**20
"""A file longer than this is not read into memory; `MAX_PIXELS` of 16 bits take half of it uncompressed."""

MIN_SIDE = 16
"""Pixels; an image with a shorter side is an icon or an accident, not a radiograph."""

FORMATS = ("PNG", "JPEG")

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_radiograph(source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None) -> np.ndarray:
    """Read a PNG or JPEG as grey pixels.

    - Grey and palette images, and colour images with R = G = B, keep their grey values exactly.
    - Colour images whose channels differ become luminance (ITU-R 601: 0.299 R + 0.587 G + 0.114 B).
    - Transparent pixels are laid over black, the value of unexposed film; NIH's alpha is 255 throughout.
    - 16-bit greys are divided by full scale of the bit depth in use, the least of 8, 10, 12, 14 and 16 bits
      that holds the largest value: a 12-bit detector in a 16-bit file does not turn nearly black.
    - An orientation written in the file's EXIF data is not applied: boxes refer to the pixels as stored.

    Args:
        source: a path, the bytes of a file, or a binary file open for reading.
        name: what to call the image in error messages; by default its path.

    Returns:
        (H, W) uint8, 0 black to 255 white.

    Raises:
        InputError: the file is missing, empty, no PNG or JPEG, broken, cut short, longer than
            `MAX_BYTES`, smaller than `MIN_SIDE` on a side, or claims more than `MAX_PIXELS` pixels.
    """
    if name is None:
        name = str(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", "image")
    data = _bytes_of(source, name)
    try:
        if data.startswith(PNG_SIGNATURE):
            chunks = _png_chunks(data, name)
            if data[24:26] == b"\x08\x00" and chunks.isdisjoint((b"tRNS", b"acTL")):
                return _grey_png(data, name)
        with Image.open(BytesIO(data), formats=FORMATS) as image:  # reads the header only
            _check_size(image.size, name)
            image.load()
            return _grey(image)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{name} claims far more pixels than any radiograph has; it was not opened") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{name} is neither a PNG nor a JPEG image{_guess(data)}; convert it to PNG") from None
    except Exception as error:  # decoders meet broken bytes with exceptions of a dozen kinds
        raise InputError(f"{name} is broken or cut short ({error}); fetch it again") from error


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
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


def _bytes_of(source: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> bytes:
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str | os.PathLike):
        try:
            with Path(source).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}") from error
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


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: "I;16" and its kin, or "I" from older Pillow
        return _to_eight_bits(np.asarray(image))
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


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    largest = int(values.max())
    bits = next(depth for depth in (8, 10, 12, 14, 16) if largest < 2**depth)
    return (values.astype(np.float32) * (255 / (2**bits - 1)) + 0.5).astype(np.uint8)


def _guess(data: bytes) -> str:
    if data[128:132] == b"DICM":
        return " but DICOM"
    if data.lstrip()[:1] == b"<":
        return " but a web page or XML text"
    return ""
