"""Convert a DICOM file to the grey or colour bytes that a viewer would show.

pydicom reads the file. Compressed files need a decoder; `python-gdcm` decodes the forms that hospitals write.
"""

from __future__ import annotations

import zlib
from copy import deepcopy
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset


PREAMBLE = 132
"""Length of the first bytes of a DICOM file: 128 of any kind, then DICM."""

_MAGIC = slice(128, PREAMBLE)
_META = slice(140, 144)
"""Bytes with the length of the meta information, which begins after them."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
MAX_INFLATED = 256 * 2**20
"""Largest size in bytes of an inflated file, as `image_io.MAX_BYTES`."""

_FAR = 1e30
"""A value beyond any pixel's; a window maps it to its white and the negative value to its black."""


def is_dicom(data: bytes, name: str) -> bool:
    """Return whether the bytes, or for old files the name, are those of a DICOM file."""
    return data[_MAGIC] == b"DICM" or name.lower().endswith((".dcm", ".dicom"))


def read_header(data: bytes, name: str) -> Dataset:
    """Parse a DICOM file with one still image; its pixels are not decoded yet.

    Args:
        data: the bytes of the file.
        name: name of the file in error messages.

    Raises:
        InputError: pydicom is not installed, the file is not DICOM, cut short, without image or with several frames, or
            compressed in a form that no installed decoder reads; the error says what to install.
    """
    try:
        from pydicom import dcmread
    except ImportError:
        raise InputError(f"{name} is a DICOM file; to read it, run pip install pydicom python-gdcm") from None
    try:
        _refuse_bomb(data, name)
        dataset = dcmread(BytesIO(data), force=data[_MAGIC] != b"DICM")
        modality, frames = dataset.get("Modality"), int(dataset.get("NumberOfFrames") or 1)
        holds = "PixelData" in dataset and int(dataset.get("Rows", 0)) * int(dataset.get("Columns", 0))
    except InputError:
        raise
    except Exception as error:  # pydicom raises a dozen types for broken bytes
        raise InputError(f"{name} is a broken DICOM file ({_line(error)}); fetch it again") from error
    if not len(dataset):
        raise InputError(f"{name} is not a DICOM file, or one cut short; fetch it again")
    if not holds:
        kind = f"DICOM of modality {modality}" if modality else "DICOM"
        raise InputError(f"{name} is {kind} and holds no image; give a radiograph")
    if frames > 1:
        raise InputError(f"{name} holds {frames} frames; save the one radiograph as its own file")
    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        _set_transfer_syntax(dataset)
    _find_decoder(dataset.file_meta.TransferSyntaxUID, name)
    return dataset


def _refuse_bomb(data: bytes, name: str) -> None:
    """Refuse a deflated file that inflates beyond `MAX_INFLATED`; pydicom inflates without a limit."""
    end = _META.stop + int.from_bytes(data[_META], "little")
    if data[_MAGIC] != b"DICM" or _DEFLATED not in data[_META.stop : end]:
        return
    inflater, rest, length = zlib.decompressobj(-zlib.MAX_WBITS), data[end:], 0
    while rest and length <= MAX_INFLATED:
        length += len(inflater.decompress(rest, 2**20))
        rest = inflater.unconsumed_tail
    if length > MAX_INFLATED:
        raise InputError(
            f"{name} inflates beyond {MAX_INFLATED >> 20} MiB, more than any radiograph; it was not opened"
        )


def to_display_uint8(dataset: Dataset, name: str) -> np.ndarray:
    """Decode the pixels and convert them to the greys that a viewer would show.

    In this order: modality LUT or rescale; VOI LUT, else the first window; MONOCHROME1 inverted, so that bone is
    bright. Without VOI LUT and window, at most 8 bits without a rescale are shown unchanged, because they were made for
    display; other values are stretched from their minimum to their maximum, because detectors seldom fill their bits
    and rescaled values have no natural black. Padding (PixelPaddingValue) is excluded from that range and becomes
    black. Palettes and YCbCr become RGB.

    Returns:
        (H, W) uint8 grey, or (H, W, 3) uint8 RGB if the file is in colour.

    Raises:
        InputError: the pixels are broken or cut short, or the header contradicts itself.
    """
    try:
        if dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
            return _decode_grey(dataset)
        return _decode_colour(dataset)
    except Exception as error:  # decoders and look-up tables raise many types
        if "all available plugins" in str(error):  # pydicom's message, for example for 12-bit JPEG
            syntax = dataset.file_meta.TransferSyntaxUID.name
            raise InputError(
                f"{name} is compressed as {syntax}, which the installed decoders cannot read, or is broken; "
                "run pip install pylibjpeg pylibjpeg-libjpeg, or export it uncompressed"
            ) from error
        raise InputError(f"the pixels of {name} could not be decoded ({_line(error)}); export it again") from error


def _decode_grey(dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    stored = dataset.pixel_array
    padding = _padding_mask(stored, dataset)
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence") or dataset.get("WindowCenter") not in (None, ""):
        grey = _apply_window(values, dataset)
    elif dataset.BitsStored <= 8 and stored.dtype.kind == "u" and np.array_equal(values, stored):
        grey = stored / (2**dataset.BitsStored - 1)
    else:
        image = values[~padding] if padding.any() and not padding.all() else values
        low, high = float(image.min()), float(image.max())
        grey = (values - low) / max(high - low, 1e-12)
    if not np.isfinite(grey).all():
        raise ValueError("rescale or window give values that are not finite")
    eight_bits = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        eight_bits = 255 - eight_bits
    eight_bits[padding] = 0
    return eight_bits


def _apply_window(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Apply the first VOI LUT, else the first window; 0 becomes black and 1 white."""
    from pydicom import Dataset
    from pydicom.pixels import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        lut = deepcopy(dataset.VOILUTSequence[0])
        entries, first, bits = lut.LUTDescriptor
        # For 8 bits, pydicom 3.0 counts the entries in 8 bits too and wraps around after 256 of them.
        lut.LUTDescriptor = [entries, first, 16]
        wide = Dataset()
        wide.VOILUTSequence, wide.file_meta = [lut], dataset.file_meta
        return apply_voi(np.rint(values).astype(np.int32), wide) / (2**bits - 1)
    with np.errstate(over="ignore"):  # the exponential of a sigmoid window overflows at its ends
        black, white = apply_windowing(np.array([-_FAR, _FAR]), dataset)
        return (apply_windowing(values, dataset) - black) / (white - black)


def _padding_mask(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return the mask of pixels that only fill up the rectangle: (H, W) bool."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _decode_colour(dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    stored, bits = dataset.pixel_array, dataset.BitsStored
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    return np.rint(stored * (255 / (2**bits - 1))).astype(np.uint8)


def _set_transfer_syntax(dataset: Dataset) -> None:
    """Set the transfer syntax of a file that lacks it; only uncompressed files lack it."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _find_decoder(syntax, name: str) -> None:  # noqa: ANN001 (pydicom's UID)
    """Refuse a compression that no installed decoder reads, before decoding."""
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InputError(
            f"{name} is compressed as {syntax.name}, which no radiograph is; export it uncompressed"
        ) from None
    if not decoder.is_available:
        install = "pylibjpeg pylibjpeg-openjpeg" if "High-Throughput" in syntax.name else "python-gdcm"
        raise InputError(
            f"{name} is compressed as {syntax.name}, for which no decoder is installed; run pip install {install}, "
            "or export it uncompressed"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
