"""Parse a DICOM file with one still image; `decode` reads its pixels."""

from __future__ import annotations

import re
import zlib
from io import BytesIO
from typing import TYPE_CHECKING

from ...errors import InputError
from .decode import correct_from_pixels, recover_pixel_data
from .elements import Header, complete_pixel_elements, copy_functional_groups, one_line

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE = 132
"""Length of the first bytes of a DICOM file: 128 of any kind, then DICM."""

_MAGIC = slice(128, PREAMBLE)
_META = slice(140, 144)
"""Bytes with the length of the meta information, which begins after them."""

_BARE = re.compile(rb"[\x02\x08]\0[\0-\x18]\0(?:[A-Z]{2}|.\0\0\0)|\0[\x02\x08]\0[\0-\x18][A-Z]{2}", re.DOTALL)
"""First element of a file without preamble: group 2 or 8, and its type or the upper bytes of its length."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
MAX_INFLATED = 256 * 2**20
"""Largest size in bytes of an inflated file, as `image_io.MAX_BYTES`."""


def is_dicom(data: bytes, name: str) -> bool:
    """Return whether the bytes, or for old files the name, are those of a DICOM file.

    Args:
        data: at least the first `PREAMBLE` bytes.
        name: name of the file, or an empty string.
    """
    return data[_MAGIC] == b"DICM" or bool(_BARE.match(data)) or name.lower().endswith((".dcm", ".dicom"))


def read_header(data: bytes, name: str) -> Header:
    """Parse a DICOM file with one still image; its pixels are not decoded yet.

    Elements that describe the pixels are completed, and those of functional groups copied to the top of the header.

    Args:
        data: the bytes of the file.
        name: name of the file in error messages.

    Raises:
        InputError: pydicom is not installed, the file is not DICOM, cut short, without image or with several frames.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise InputError(f"{name} is a DICOM file; to read it, run pip install pydicom python-gdcm") from None
    try:
        _refuse_bomb(data, name)
        header = Header(_parse(data), source=data)
        if not len(header.dataset):
            raise InputError(f"{name} is not a DICOM file, or one cut short; fetch it again")
        _set_transfer_syntax(header.dataset)
        header.big_endian = not header.dataset.file_meta.TransferSyntaxUID.is_little_endian
        if not header.dataset.get("PixelData"):
            recover_pixel_data(header, name)
        _refuse_other_objects(header, name)
        correct_from_pixels(header)
        copy_functional_groups(header)
        complete_pixel_elements(header)
    except InputError:
        raise
    except Exception as error:  # pydicom raises a dozen types for broken bytes
        raise InputError(f"{name} is a broken DICOM file ({one_line(error)}); fetch it again") from error
    return header


def _parse(data: bytes) -> Dataset:
    from pydicom import dcmread

    options = {"force": data[_MAGIC] != b"DICM"}
    try:
        dataset = dcmread(BytesIO(data), **options)
    except Exception:  # pydicom takes the pixels for elements if their end is marked wrongly
        dataset = None
    return dataset or dcmread(BytesIO(data), stop_before_pixels=True, **options)


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


def _refuse_other_objects(header: Header, name: str) -> None:
    modality, frames = header.text("Modality"), header.integer("NumberOfFrames", 1)
    if not (header.dataset.get("PixelData") and header.integer("Rows") > 0 and header.integer("Columns") > 0):
        kind = f"DICOM of modality {modality}" if modality else "DICOM"
        raise InputError(f"{name} is {kind} and holds no image; give a radiograph")
    if frames > 1:
        raise InputError(f"{name} holds {frames} frames; save the one radiograph as its own file")


def _set_transfer_syntax(dataset: Dataset) -> None:
    """Set the transfer syntax of a file that lacks it, as of an uncompressed file."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset.file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    told = str(dataset.file_meta.get("TransferSyntaxUID") or "").strip(" \0")
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = UID(told) if told else ImplicitVRLittleEndian if implicit else explicit
