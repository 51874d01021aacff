"""Compressed DICOM: every form that decoders read, pixels that are packed wrongly, and advice for this very file."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from helpers.dicom_files import dicom_bytes, make_dataset, pydicom_file
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxr_seam.data.image_io import load_image
from cxr_seam.errors import InputError

DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def with_stream(dataset: Dataset, stream: bytes) -> bytes:
    """The bytes of a file whose compressed pixels are one fragment."""
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    return dicom_bytes(dataset)


def jpeg_2000() -> tuple[Dataset, bytes, np.ndarray]:
    """A file of pydicom, its codestream, and the picture of the same file uncompressed."""
    dataset = dcmread(pydicom_file("MR_small_jp2klossless.dcm"))
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    return dataset, stream[: stream.rfind(b"\xff\xd9") + 2], load_image(pydicom_file("MR_small.dcm")).pixels


def jpeg_of_12_bits(blocks: np.ndarray) -> bytes:
    """A JPEG of constant blocks of 8 x 8 pixels with these values, from the specification (ITU-T T.81)."""
    bits, previous = "", 0
    for value in blocks.ravel():
        difference = 8 * (int(value) - 2048) - previous  # of the first coefficients
        previous += difference
        size = abs(difference).bit_length()
        bits += f"{size:05b}"  # code of the size
        if size:
            bits += f"{difference if difference > 0 else difference + 2**size - 1:0{size}b}"
        bits += "0"  # no other coefficients
    bits += "1" * (-len(bits) % 8)
    scan = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    height, width = 8 * blocks.shape[0], 8 * blocks.shape[1]
    segments = {
        0xDB: bytes([0, *[1] * 64]),
        0xC1: bytes([12, height >> 8, height & 255, width >> 8, width & 255, 1, 1, 0x11, 0]),
        0xC4: bytes([0x00, 0, 0, 0, 0, 16, *[0] * 11, *range(16), 0x10, 1, *[0] * 15, 0]),
        0xDA: bytes([1, 1, 0x00, 0, 63, 0]),
    }
    parts = [bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data for marker, data in segments.items()]
    return b"\xff\xd8" + b"".join(parts) + scan + b"\xff\xd9"


@pytest.mark.parametrize("told", [JPEGExtended12Bit, JPEGBaseline8Bit, JPEGLSLossless])
def test_twelve_bit_jpeg_needs_no_other_decoder(told):
    blocks = np.array([[100, 4000, 0], [2048, 3000, 4095]])
    values = np.kron(blocks, np.ones((8, 8), np.uint16)).astype(np.uint16)
    dataset = make_dataset(values, bits=12, syntax=told, WindowCenter=2048, WindowWidth=4096)
    radiograph = load_image(with_stream(dataset, jpeg_of_12_bits(blocks)))
    assert np.abs(radiograph.pixels - values * (255 / 4095)).max() <= 0.51
    assert bool(radiograph.warnings) == (told == JPEGLSLossless)


def test_twelve_bit_jpeg_with_a_wrong_scan_header():
    """pydicom has an image twice, once with a scan that ends at coefficient 0."""
    right, wrong = (load_image(pydicom_file(name)).pixels for name in ("JPGExtended.dcm", "JPEG-lossy.dcm"))
    assert np.array_equal(right, wrong) and right.max() == 255


@pytest.mark.parametrize(
    ("repack", "warns"),
    [
        (lambda stream: stream[:45] + b"\xff\x64\x00\x0e\x00\x01" + DELIMITER + b"\0\0" + stream[45:], False),
        (lambda stream: stream + b"\0" * 999, False),
        (lambda stream: stream + b"\xff\xff\0\0", False),
        (lambda stream: stream[:-2], True),
        (lambda stream: b"\0\0" + stream, True),
    ],
    ids=["delimiter within", "zeros after the end", "bytes after the end", "no end", "zeros before"],
)
def test_jpeg_2000_that_is_packed_wrongly(repack, warns):
    dataset, stream, expected = jpeg_2000()
    assert stream[:4] == b"\xff\x4f\xff\x51" and stream[45:47] == b"\xff\x52"  # after the size comes the coding style
    radiograph = load_image(with_stream(dataset, repack(stream)))
    assert np.array_equal(radiograph.pixels, expected) and any("repaired" in w for w in radiograph.warnings) == warns


@pytest.mark.parametrize(
    "pack",
    [
        lambda stream: _item(b"") + b"".join(_item(stream[at : at + 1000]) for at in range(0, len(stream), 1000)),
        lambda stream: _item(b"\x99\0\0\0") + _item(stream),  # the table of offsets is wrong
        lambda stream: _item(stream),  # there is none
    ],
    ids=["several fragments", "wrong table", "no table"],
)
def test_fragments(pack):
    dataset, stream, expected = jpeg_2000()
    dataset.PixelData = pack(stream + b"\0" * (len(stream) % 2))
    dataset["PixelData"].is_undefined_length = True
    assert np.array_equal(load_image(dicom_bytes(dataset)).pixels, expected)


def _item(data: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + len(data).to_bytes(4, "little") + data


def test_jpeg_2000_file_instead_of_its_codestream():
    Image.fromarray(RAMP).save(buffer := BytesIO(), "JPEG2000")
    assert b"jP  " in buffer.getvalue()[:12]
    data = with_stream(make_dataset(RAMP, bits=16, syntax=JPEG2000Lossless), buffer.getvalue())
    assert np.abs(load_image(data).pixels - RAMP * (255 / 4095)).max() <= 0.51


@pytest.mark.filterwarnings("ignore:End of file reached before delimiter")
def test_end_of_the_pixels_is_not_marked():
    dataset, stream, expected = jpeg_2000()
    data = with_stream(dataset, stream)
    assert data.endswith(DELIMITER) or DELIMITER in data[-400:]
    data = data[: data.rfind(DELIMITER)]
    radiograph = load_image(data)
    assert np.array_equal(radiograph.pixels, expected) and "not marked" in radiograph.warnings[0]
    with pytest.raises(InputError, match="image.dcm ends within its pixels"):
        load_image(data[:-500], name="image.dcm")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MR_small_jp2klossless.dcm", JPEGLSLossless),
        ("MR_small_jp2klossless.dcm", ExplicitVRLittleEndian),
        ("MR_small_jpeg_ls_lossless.dcm", JPEG2000Lossless),
        ("MR_small_RLE.dcm", JPEGBaseline8Bit),
        ("MR_small_RLE.dcm", ExplicitVRLittleEndian),
        ("MR_small.dcm", JPEG2000Lossless),
        ("MR_small.dcm", RLELossless),
    ],
)
def test_pixels_decide_between_compressions(name, told):
    data = bytearray(pydicom_file(name).read_bytes())
    at = data.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    value = str(told).encode() + b"\0" * (len(told) % 2)
    data[at + 6 : at + 8 + length] = len(value).to_bytes(2, "little") + value
    data[140:144] = (int.from_bytes(data[140:144], "little") + len(value) - length).to_bytes(4, "little")
    radiograph = load_image(bytes(data))
    assert np.array_equal(radiograph.pixels, load_image(pydicom_file("MR_small.dcm")).pixels)
    assert told.name in radiograph.warnings[0]


def install(monkeypatch: pytest.MonkeyPatch, syntax: str, *, missing: tuple[str, ...]) -> None:
    """Let pydicom find no plugins of these names for a transfer syntax."""
    decoder = get_decoder(syntax)
    plugins = decoder._available | {name: None for name in decoder._unavailable}
    needs = {"gdcm": ("gdcm>=3.0.10",), "pylibjpeg": ("pylibjpeg>=2.0", "pylibjpeg-libjpeg>=2.1")}
    if syntax == JPEG2000Lossless:
        needs["pylibjpeg"] = ("pylibjpeg>=2.0", "pylibjpeg-openjpeg>=2.0")

    def fail(stream: bytes, runner: object) -> bytes:
        raise RuntimeError("the data are broken")

    here = {name: plugins[name] or fail for name in plugins if name not in missing}
    monkeypatch.setattr(decoder, "_available", here)
    monkeypatch.setattr(decoder, "_unavailable", {name: needs.get(name, ()) for name in missing if name in plugins})


ALL = ("gdcm", "pylibjpeg", "pyjpegls", "pillow")


@pytest.mark.parametrize(
    ("syntax", "name", "missing", "packages"),
    [
        (JPEGLSLossless, "MR_small_jpeg_ls_lossless.dcm", ALL, "python-gdcm"),
        (JPEG2000Lossless, "MR_small_jp2klossless.dcm", ALL, "python-gdcm"),
        (JPEGExtended12Bit, "JPGExtended.dcm", ALL, "python-gdcm"),
        (JPEGExtended12Bit, "JPGExtended.dcm", ("gdcm", "pylibjpeg"), "python-gdcm"),
        (JPEGExtended12Bit, "JPGExtended.dcm", ("gdcm",), "python-gdcm"),  # the other one was installed and failed
    ],
)
def test_advice_names_what_this_file_needs(syntax, name, missing, packages, monkeypatch):
    install(monkeypatch, syntax, missing=missing)
    with pytest.raises(InputError, match=f"{syntax.name.split()[0]}.*run pip install {packages}, or export"):
        load_image(pydicom_file(name))


def broken_stream(name: str) -> bytes:
    dataset = dcmread(pydicom_file(name))
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    return with_stream(dataset, stream[:60] + bytes(len(stream) - 60))


@pytest.mark.parametrize(
    ("syntax", "name", "missing", "packages"),
    [
        (JPEGLSLossless, "MR_small_jpeg_ls_lossless.dcm", ("pylibjpeg",), "pylibjpeg pylibjpeg-libjpeg"),
        (JPEGLSLossless, "MR_small_jpeg_ls_lossless.dcm", (), ""),
        (JPEG2000Lossless, "MR_small_jp2klossless.dcm", ("gdcm", "pylibjpeg"), "python-gdcm"),
        (JPEG2000Lossless, "MR_small_jp2klossless.dcm", ("pylibjpeg",), ""),  # gdcm has the same OpenJPEG
        (JPEG2000Lossless, "MR_small_jp2klossless.dcm", (), ""),
    ],
)
def test_advice_for_a_broken_file_never_repeats_itself(syntax, name, missing, packages, monkeypatch):
    install(monkeypatch, syntax, missing=missing)
    with pytest.raises(InputError) as error:
        load_image(broken_stream(name), name="image.dcm")
    _, _, advice = str(error.value).partition("pip install ")
    assert advice.partition(",")[0] == packages
    assert "\n" not in str(error.value) and "image.dcm" in str(error.value)


def test_jpeg_2000_with_a_broken_header_is_explained():
    with pytest.raises(InputError, match="its pixels claim .*; fetch it again") as error:
        load_image(pydicom_file("JPEG2000-embedded-sequence-delimiter.dcm"))
    assert "pip install" not in str(error.value)


def test_video():
    dataset = dcmread(pydicom_file("MR_small_RLE.dcm"))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    with pytest.raises(InputError, match="MPEG2 .*export it uncompressed"):
        load_image(with_stream(dataset, b"\0\0\x01\xb3" + bytes(100)))


@pytest.mark.parametrize(
    ("at", "value"),
    [(12, bytes(4)), (8, bytes(4)), (42, b"\x50"), (40, b"\0\x09")],
    ids=["no rows", "no columns", "81 bits", "9 channels"],
)
def test_jpeg_2000_that_claims_the_impossible(at, value):
    """GDCM would end the whole process."""
    dataset, stream, _ = jpeg_2000()
    with pytest.raises(InputError, match="image.dcm is a broken DICOM file .*claim"):
        load_image(with_stream(dataset, stream[:at] + value + stream[at + len(value) :]), name="image.dcm")


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_compressed_pixels_decide_the_size(name):
    dataset = dcmread(pydicom_file(name))
    dataset.Rows = 32
    radiograph = load_image(dicom_bytes(dataset))
    assert np.array_equal(radiograph.pixels, load_image(pydicom_file("MR_small.dcm")).pixels)
    assert "64x64" in radiograph.warnings[0]
