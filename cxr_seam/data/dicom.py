"""One DICOM file to the grey (or colour) bytes that a viewer would show.

pydicom does the work; compressed files need a decoder beside it, and `python-gdcm` decodes what hospitals write.
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
"""Bytes that a DICOM file is recognised by: 128 of any kind, then DICM."""


_MAGIC = slice(128, PREAMBLE)


_META = slice(140, 144)
"""Where the length of the file's meta information stands, which begins behind it."""


_DEFLATED = b"1.2.840.10008.1.2.1.99"


MAX_INFLATED = 256 * 2**20
"""Bytes; see `radiographs.MAX_BYTES`."""


_FAR = 1e30
"""Beyond any pixel's value: what a window gives there is where its black and its white lie."""


def is_dicom(data: bytes, name: str) -> bool:
    """Tell DICOM by its bytes; old files begin without them and are told by their name."""
    return data[_MAGIC] == b"DICM" or name.lower().endswith((".dcm", ".dicom"))


def read_header(data: bytes, name: str) -> Dataset:
    """Parse a DICOM file that holds one still image; its pixels are not decoded yet.

    Args:
        data: the bytes of the file.
        name: what to call the file in error messages.

    Raises:
        InputError: pydicom is not installed, the file is no DICOM, cut short, holds no image or several frames, or is
            compressed in a way for which no decoder is installed; the sentence names it and what to install.
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
    except Exception as error:  # pydicom meets broken bytes with exceptions of a dozen kinds
        raise InputError(f"{name} is a broken DICOM file ({_line(error)}); fetch it again") from error
    if not len(dataset):
        raise InputError(f"{name} is not a DICOM file, or one cut short; fetch it again")
    if not holds:
        kind = f"DICOM of modality {modality}" if modality else "DICOM"
        raise InputError(f"{name} is {kind} and holds no image; give a radiograph")
    if frames > 1:
        raise InputError(f"{name} holds {frames} frames, a film has one; save the one you mean as its own file")
    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        _note_syntax(dataset)
    _find_decoder(dataset.file_meta.TransferSyntaxUID, name)
    return dataset


def _refuse_bomb(data: bytes, name: str) -> None:
    """Refuse a deflated file that would inflate beyond what any film takes; pydicom inflates without a limit."""
    end = _META.stop + int.from_bytes(data[_META], "little")
    if data[_MAGIC] != b"DICM" or _DEFLATED not in data[_META.stop : end]:
        return
    inflater, rest, length = zlib.decompressobj(-zlib.MAX_WBITS), data[end:], 0
    while rest and length <= MAX_INFLATED:
        length += len(inflater.decompress(rest, 2**20))
        rest = inflater.unconsumed_tail
    if length > MAX_INFLATED:
        raise InputError(f"{name} inflates beyond {MAX_INFLATED >> 20} MiB, more than any film; it was not opened")


def display_pixels(dataset: Dataset, name: str) -> np.ndarray:
    """Decode the pixels and bring them to the greys that a viewer would show.

    In this order: modality LUT or rescale; VOI LUT, else the first window; MONOCHROME1 turned over, so that bone is
    bright. Where the file has neither VOI LUT nor window, 8 bits or fewer without a rescale are shown as they stand,
    since they were made for display; anything else is stretched from its least to its largest value, since detectors
    seldom fill their bits and rescaled values have no natural black. Padding (PixelPaddingValue) counts for neither
    end and becomes black. Palettes and YCbCr become RGB.

    Returns:
        (H, W) uint8 grey, or (H, W, 3) uint8 RGB where the file is in colour.

    Raises:
        InputError: the pixels are broken or cut short, or the header contradicts itself.
    """
    try:
        if dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
            return _greys(dataset)
        return _colours(dataset)
    except Exception as error:  # as above: decoders and look-up tables raise whatever they like
        if "all available plugins" in str(error):  # pydicom's words; 12-bit JPEG is such a case
            syntax = dataset.file_meta.TransferSyntaxUID.name
            raise InputError(
                f"{name} is compressed as {syntax}, which the installed decoders cannot read, or is broken; "
                "run pip install pylibjpeg pylibjpeg-libjpeg, or export it uncompressed"
            ) from error
        raise InputError(f"the pixels of {name} could not be decoded ({_line(error)}); export it again") from error


def _greys(dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    stored = dataset.pixel_array
    padding = _padding(stored, dataset)
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence") or dataset.get("WindowCenter") not in (None, ""):
        grey = _windowed(values, dataset)
    elif dataset.BitsStored <= 8 and stored.dtype.kind == "u" and np.array_equal(values, stored):
        grey = stored / (2**dataset.BitsStored - 1)
    else:
        film = values[~padding] if padding.any() and not padding.all() else values
        low, high = float(film.min()), float(film.max())
        grey = (values - low) / max(high - low, 1e-12)
    if not np.isfinite(grey).all():
        raise ValueError("rescale or window leave no finite numbers")
    eight_bits = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        eight_bits = 255 - eight_bits
    eight_bits[padding] = 0
    return eight_bits


def _windowed(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Apply the first VOI LUT, else the first window; 0 is its black and 1 its white."""
    from pydicom import Dataset
    from pydicom.pixels import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        lut = deepcopy(dataset.VOILUTSequence[0])
        entries, first, bits = lut.LUTDescriptor
        # Told of 8 bits, pydicom 3.0 counts the entries in 8 bits too and wraps around after 256 of them.
        lut.LUTDescriptor = [entries, first, 16]
        wide = Dataset()
        wide.VOILUTSequence, wide.file_meta = [lut], dataset.file_meta
        return apply_voi(np.rint(values).astype(np.int32), wide) / (2**bits - 1)
    with np.errstate(over="ignore"):  # of the exponential of a sigmoid window, whose ends it reaches so
        pad_value, white = apply_windowing(np.array([-_FAR, _FAR]), dataset)
        return (apply_windowing(values, dataset) - pad_value) / (white - pad_value)


def _padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Where pixels only fill up the rectangle: (H, W) bool."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _colours(dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    stored, bits = dataset.pixel_array, dataset.BitsStored
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    return np.rint(stored * (255 / (2**bits - 1))).astype(np.uint8)


def _note_syntax(dataset: Dataset) -> None:
    """Note how a file without that entry turned out to be written; only uncompressed files come so."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _find_decoder(syntax, name: str) -> None:  # noqa: ANN001 (pydicom's UID)
    """Refuse, before anything is decoded, what could not be."""
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InputError(f"{name} is compressed as {syntax.name}, which no film is; export it uncompressed") from None
    if not decoder.is_available:
        install = "pylibjpeg pylibjpeg-openjpeg" if "High-Throughput" in syntax.name else "python-gdcm"
        raise InputError(
            f"{name} is compressed as {syntax.name}, for which no decoder is installed; run pip install {install}, "
            "or export it uncompressed"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
