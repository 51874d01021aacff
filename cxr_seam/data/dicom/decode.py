"""Decode the pixels of a DICOM file; repair compressed pixels that are packed wrongly.

Compressed pixels are a sequence of fragments with a delimiter at the end (DICOM PS3.5, A.4). pydicom calls the
decoders that are installed; `python-gdcm` decodes the forms that hospitals write.
"""

from __future__ import annotations

import re
from copy import copy
from typing import TYPE_CHECKING

from ...errors import InputError
from .elements import Header, one_line

if TYPE_CHECKING:
    import numpy as np
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import UID

_ITEM = b"\xfe\xff\x00\xe0"
_PIXEL_DATA = re.compile(rb"\xe0\x7f\x10\x00(?:O[BW]\0\0)?\xff{4}(?=\xfe\xff\x00\xe0)")
_JPEG, _JPEG_2000 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_RLE = re.compile(rb"[\x01-\x0f]\0\0\0\x40\0\0\0")

_JPEG_KINDS = {0xC0: "4.50", 0xC1: "4.51", 0xC2: "4.50", 0xC3: "4.70", 0xF7: "4.80"}
"""Marker of a JPEG's frame header (baseline, extended, progressive, lossless, JPEG-LS): end of the transfer syntax."""

_ALIKE = ({"4.50", "4.51"}, {"4.57", "4.70"}, {"4.80", "4.81"}, {f"4.{n}" for n in (90, 91, 92, 93, 201, 202, 203)})
"""Transfer syntaxes that differ in what the pixels are, not in how they begin."""

_SYNTAX = "1.2.840.10008.1.2."

_INSTALL = {
    "gdcm": "python-gdcm",
    "pylibjpeg-libjpeg": "pylibjpeg pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg": "pylibjpeg pylibjpeg-openjpeg",
}
"""Names of decoders in pydicom's requirements, best first, and the packages to install."""


def decode_pixels(header: Header, name: str) -> np.ndarray:
    """Decode the pixels as they are stored: no bits masked, no rescale; YCbCr becomes RGB.

    Returns:
        (H, W) of an integer type, or (H, W, 3) in colour.

    Raises:
        InputError: the pixels are broken or cut short, or no installed decoder reads them; the error says what to
            install for this file, or that nothing does.
    """
    syntax = header.dataset.file_meta.TransferSyntaxUID
    decoder = _decoder(syntax, name)
    try:
        return _decode(header, decoder)
    except Exception as first:  # decoders raise many types
        error = first
    stream = codestream(header) if syntax.is_encapsulated else b""
    if stream:
        set_codestream(header, stream)
        try:
            pixels = _decode(header, decoder)
        except Exception:  # the first error says more
            pass
        else:
            header.warn("its compressed pixels were packed wrongly and were repaired")
            return pixels
    reason = one_line(error).rpartition("all available plugins: ")[2]
    if not syntax.is_encapsulated:
        raise InputError(f"the pixels of {name} could not be decoded ({reason}); export it again") from error
    packages = _advice(decoder)
    advice = f"run pip install {packages}" if packages else "no other decoder is known, so fetch it again"
    raise InputError(
        f"{name} is compressed as {syntax.name}, and {' and '.join(decoder.available_plugins)} could not decode it "
        f"({reason}); {advice}, or export it uncompressed"
    ) from error


def _decode(header: Header, decoder: Decoder) -> np.ndarray:
    """Decode with the first installed decoder that succeeds.

    GDCM recognizes JPEGs of 12 bits by themselves, but pydicom gives it none. So they are given to it as another kind.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGExtended12Bit, JPEGLosslessSV1

    options = {"allow_excess_frames": False}
    if decoder.UID not in JPEG2000TransferSyntaxes:
        options["correct_unused_bits"] = False
    try:
        pixels, _ = decoder.as_array(header.dataset, **options)
    except Exception:
        if decoder.UID != JPEGExtended12Bit or "gdcm" not in decoder.available_plugins:
            raise
        dataset = copy(header.dataset)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        pixels, _ = get_decoder(JPEGLosslessSV1).as_array(dataset, decoding_plugin="gdcm", **options)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _decoder(syntax: UID, name: str) -> Decoder:
    """Return pydicom's decoder; refuse a compression that no installed decoder reads."""
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InputError(
            f"{name} is compressed as {syntax.name}, which no radiograph is; export it uncompressed"
        ) from None
    if not decoder.is_available:
        raise InputError(
            f"{name} is compressed as {syntax.name}, for which no decoder is installed; "
            f"run pip install {_advice(decoder)}, or export it uncompressed"
        )
    return decoder


def _advice(decoder: Decoder) -> str:
    """Return the packages of a decoder that is not installed and may succeed; empty if there is none."""
    missing = " ".join(decoder.missing_dependencies)
    if "gdcm" in decoder.available_plugins:  # it contains OpenJPEG
        missing = missing.replace("pylibjpeg-openjpeg", "")
    return next((packages for plugin, packages in _INSTALL.items() if plugin in missing), "")


def codestream(header: Header) -> bytes:
    """Return the compressed pixels of a file with one frame: its fragments as their lengths tell, joined.

    The delimiter at the end is not needed, and its bytes may occur within a fragment. Of JPEG 2000, what is around the
    codestream is removed, and a missing marker at its end is added.

    Returns:
        The bytes; empty if there are no fragments or the file ends within one.
    """
    source, ends = header.source, [match.end() for match in _PIXEL_DATA.finditer(header.source)]
    if not ends:
        return b""
    place, fragments = ends[-1], []  # others are icons
    while source[place : place + 4] == _ITEM:
        start, place = place + 8, place + 8 + int.from_bytes(source[place + 4 : place + 8], "little")
        fragments.append(source[start:place])
    if place > len(source):
        return b""
    has_table = not fragments[0].startswith((_JPEG, _JPEG_2000))  # of offsets, before the pixels
    stream = b"".join(fragments[has_table:])
    start = stream.find(_JPEG_2000, 0, 2**12)
    if start < 0:
        return stream
    end = stream.rfind(_END)
    return stream[start : end if end > 0 else None] + _END


def set_codestream(header: Header, stream: bytes) -> None:
    """Replace the pixel data of a file by one fragment."""
    from pydicom.encaps import encapsulate

    header.dataset.PixelData = encapsulate([stream])
    header.dataset["PixelData"].is_undefined_length = True


def recover_pixel_data(header: Header, name: str) -> None:
    """Find compressed pixels that pydicom misses because the delimiter after them is missing.

    Raises:
        InputError: the file ends within its pixels.
    """
    if not _PIXEL_DATA.search(header.source):
        return
    stream = codestream(header)
    if not stream:
        raise InputError(f"{name} ends within its pixels; fetch it again")
    set_codestream(header, stream)
    header.warn("the end of its compressed pixels is not marked; they were read by their length")


def correct_from_pixels(header: Header) -> None:
    """Set transfer syntax, rows and columns as the first bytes of compressed pixels show them, if the header differs.

    Raises:
        ValueError: see `_first_bytes`.
    """
    from pydicom.uid import UID, ExplicitVRLittleEndian

    dataset = header.dataset
    told, true = dataset.file_meta.TransferSyntaxUID, ""
    size = rows, columns = header.integer("Rows"), header.integer("Columns")
    if bytes(dataset.PixelData[:4]) == _ITEM:
        shown, shown_size = _first_bytes(codestream(header))
        if shown and not any({shown, told.removeprefix(_SYNTAX)} <= kinds for kinds in (*_ALIKE, {shown})):
            true = _SYNTAX + shown
        if shown_size not in (None, size):
            header.warn(f"its header tells {columns}x{rows} pixels, but it has {shown_size[1]}x{shown_size[0]}")
            dataset.Rows, dataset.Columns = shown_size
    elif told.is_encapsulated:
        values = rows * columns * header.integer("SamplesPerPixel", 1)
        if len(dataset.PixelData) >= values * header.integer("BitsAllocated", 16) // 8:
            true = ExplicitVRLittleEndian
    if true:
        dataset.file_meta.TransferSyntaxUID = UID(true)
        header.warn(f"its header names the compression {told.name}, but its pixels are {UID(true).name}")


def _first_bytes(stream: bytes) -> tuple[str, tuple[int, int] | None]:
    """Return the end of the transfer syntax and (rows, columns) of compressed pixels; empty and None if unknown.

    Raises:
        ValueError: JPEG 2000 claims what no image has; for such, GDCM ends the whole process.
    """

    def number(start: int, length: int) -> int:
        return int.from_bytes(stream[start : start + length], "big")

    if stream.startswith(_JPEG_2000):
        rows, columns = number(12, 4) - number(20, 4), number(8, 4) - number(16, 4)
        channels, bits = number(40, 2), number(42, 1) % 128 + 1
        if not 0 < min(rows, columns) <= max(rows, columns) < 2**16 or channels not in (1, 3) or bits > 16:
            raise ValueError(f"its pixels claim {columns}x{rows} pixels of {channels} channels of {bits} bits")
        return "4.91", (rows, columns)
    if _RLE.match(stream):
        return "5", None
    place = 2 if stream.startswith(_JPEG) else len(stream)
    while stream[place : place + 1] == b"\xff":
        marker = number(place + 1, 1)
        if marker in _JPEG_KINDS:
            rows, columns = number(place + 5, 2), number(place + 7, 2)
            return _JPEG_KINDS[marker], (rows, columns) if rows else None  # a JPEG may tell its rows at its end
        place += 2 + number(place + 2, 2)
    return "", None
