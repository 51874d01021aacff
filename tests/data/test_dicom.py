"""DICOM to greys: hand cases of the standard's look-ups, files of pydicom in every compression, and what is refused."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from helpers.dicom_files import dicom_bytes, make_dataset, pydicom_data_file, pydicom_file
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxr_seam.data.image_io import image_files, load_image
from cxr_seam.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_eight_bits_without_window_are_unchanged():
    assert np.array_equal(load_image(dicom_bytes(make_dataset(GREY))).pixels, GREY)


def test_monochrome1_is_inverted():
    read = load_image(dicom_bytes(make_dataset(GREY, PhotometricInterpretation="MONOCHROME1"))).pixels
    assert np.array_equal(read, 255 - GREY)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_more_bits_without_window_are_stretched(bits, kind):
    low = 100 - (2 ** (bits - 2) if kind is np.int16 else 0)
    values = np.linspace(low, 2 ** (bits - 1) - 1, 1024).reshape(32, 32).astype(kind)
    read = load_image(dicom_bytes(make_dataset(values, bits=bits))).pixels
    share = (values.astype(float) - values.min()) / (float(values.max()) - values.min())
    assert read.min() == 0 and read.max() == 255
    assert np.abs(read - 255 * share).max() <= 0.51


def test_window():
    """PS3.3 C.11.2.1.2.1: below, above and between, pixel by pixel."""
    centre, width = 1000, 500

    def shown(x: float) -> float:
        if x <= centre - 0.5 - (width - 1) / 2:
            return 0
        if x > centre - 0.5 + (width - 1) / 2:
            return 255
        return ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255

    read = load_image(dicom_bytes(make_dataset(RAMP, bits=12, WindowCenter=[centre, 7], WindowWidth=[width, 9]))).pixels
    assert np.abs(read - np.vectorize(shown, otypes=[float])(RAMP)).max() <= 0.51


def test_sigmoid_window():
    """PS3.3 C.11.2.1.3.1."""
    read = load_image(
        dicom_bytes(make_dataset(RAMP, bits=12, WindowCenter=2000, WindowWidth=800, VOILUTFunction="SIGMOID"))
    ).pixels
    assert np.abs(read - 255 / (1 + np.exp(-4 * (RAMP - 2000.0) / 800))).max() <= 0.51


@pytest.mark.parametrize("slope", [2, -2])
def test_window_applies_after_rescale(slope):
    entries = {"RescaleSlope": slope, "RescaleIntercept": -50, "WindowCenter": -50 + slope * 2048, "WindowWidth": 4000}
    read = load_image(dicom_bytes(make_dataset(RAMP, bits=12, **entries))).pixels
    middle = np.abs(RAMP.astype(int) - 2048) <= 1
    assert np.abs(read[middle].astype(int) - 127).max() <= 1
    dark, bright = (read[0, 0], read[-1, -1]) if slope > 0 else (read[-1, -1], read[0, 0])
    assert dark == 0 and bright == 255


def test_voi_lut_has_priority_over_window():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], [255 - value // 16 for value in range(4096)]
    dataset = make_dataset(RAMP, bits=12, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    dataset.VOILUTSequence[0]["LUTDescriptor"].VR = dataset.VOILUTSequence[0]["LUTData"].VR = "US"
    assert np.array_equal(load_image(dicom_bytes(dataset)).pixels, 255 - RAMP // 16)


def test_padding():
    values = RAMP.copy()
    values[:, :4] = 65535
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        read = load_image(
            dicom_bytes(make_dataset(values, PixelPaddingValue=65535, PhotometricInterpretation=kind))
        ).pixels
        assert (read[:, :4] == 0).all()
        assert read[:, 4:].min() == 0 and read[:, 4:].max() == 255


def test_colour():
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[..., 1] = 255
    radiograph = load_image(dicom_bytes(make_dataset(pixels)))
    assert (radiograph.pixels == 150).all() and radiograph.color_fraction == 1  # 0.587 * 255 = 149.7
    grey = load_image(dicom_bytes(make_dataset(np.dstack([GREY] * 3))))
    assert np.array_equal(grey.pixels, GREY) and grey.color_fraction == 0


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
    ],
)
def test_lossless_compression(compressed, plain):
    assert np.array_equal(load_image(pydicom_file(compressed)).pixels, load_image(pydicom_file(plain)).pixels)


@pytest.mark.parametrize(
    "name",
    ["SC_rgb_jpeg_gdcm.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "examples_palette.dcm", "image_dfl.dcm"],
)
def test_other_files_of_pydicom(name):
    """Lossless JPEG, YCbCr, a palette, deflated."""
    read = load_image(pydicom_file(name)).pixels
    assert read.dtype == np.uint8 and read.ndim == 2 and read.max() > read.min()


def test_ycbcr_equals_rgb():
    near = np.abs(
        load_image(pydicom_file("SC_ybr_full_422_uncompressed.dcm")).pixels.astype(int)
        - load_image(pydicom_file("SC_rgb_rle.dcm")).pixels
    )
    assert near.mean() < 8  # halved colour smears the edges of its stripes


def test_real_chest_radiograph_compressed_and_not():
    plain = load_image(pydicom_data_file("RG1_UNCR.dcm"))
    assert plain.pixels.shape == (1955, 1841) and plain.header.PhotometricInterpretation == "MONOCHROME1"
    assert np.array_equal(load_image(pydicom_data_file("RG1_J2KR.dcm")).pixels, plain.pixels)
    lossy = load_image(pydicom_data_file("RG1_J2KI.dcm")).pixels
    assert np.abs(lossy.astype(int) - plain.pixels).mean() < 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("with_meta", [True, False])
@pytest.mark.parametrize("name", ["old.dcm", "IM0001", "image.png"])
def test_file_without_preamble_is_told_by_bytes(syntax, with_meta, name, tmp_path):
    """Also where the name says nothing or something else."""
    dataset, path = make_dataset(GREY, syntax=syntax), tmp_path / name
    if with_meta:
        path.write_bytes(dicom_bytes(dataset)[132:])
    else:
        del dataset.file_meta
        little = syntax != ExplicitVRBigEndian
        dataset.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little)
    assert np.array_equal(load_image(path).pixels, GREY) and image_files(tmp_path) == [path]


def test_empty_transfer_syntax():
    dataset = make_dataset(GREY)
    data = dicom_bytes(dataset)
    at = data.index(b"\x02\x00\x10\x00UI")
    blank = data[: at + 8] + b"\0" * 20 + data[at + 28 :]
    assert data[at + 6 : at + 8] == b"\x14\0"  # 20 bytes
    assert np.array_equal(load_image(blank).pixels, GREY)


def test_image_with_the_name_of_a_dicom_file(tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(cv2.imencode(".png", GREY)[1].tobytes())
    assert np.array_equal(load_image(path).pixels, GREY) and load_image(path).header is None


def _cut(dataset: Dataset) -> bytes:
    return dicom_bytes(dataset)[:-1000]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (lambda: pydicom_file("examples_ybr_color.dcm").read_bytes(), "holds 30 frames"),
        (lambda: pydicom_file("reportsi.dcm").read_bytes(), "modality SR and holds no image"),
        (lambda: pydicom_file("rtplan.dcm").read_bytes(), "modality RTPLAN and holds no image"),
        (lambda: _cut(make_dataset(GREY)), "could not be decoded"),
        (lambda: _cut(make_dataset(GREY))[:300], "not a DICOM file, or one cut short|holds no image|broken"),
        (lambda: b"\0" * 128 + b"DICM", "not a DICOM file|broken"),
        (lambda: b"what is this", "DICOM"),
        (lambda: dicom_bytes(make_dataset(GREY, Rows=60000, Columns=60000)), "claims 60000x60000 pixels"),
        (lambda: dicom_bytes(make_dataset(np.zeros((4, 4), np.uint8))), "4x4 pixels"),
    ],
    ids=["frames", "report", "plan", "cut", "header", "empty", "text", "bomb", "icon"],
)
def test_files_that_are_refused(data, sentence, tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(data())
    with pytest.raises(InputError, match=sentence) as error:
        load_image(path)
    assert "image.dcm" in str(error.value) and "\n" not in str(error.value)


def test_without_pydicom(monkeypatch):
    data = dicom_bytes(make_dataset(GREY))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match="pip install pydicom"):
        load_image(data, name="image.dcm")


def test_image_files_of_disc(tmp_path):
    for name in ("b.png", "a/IM0001", "a/z.TIF", "a/notes.pdf", ".hidden/c.png", "DICOMDIR", "c.dcm", "a/IM0000"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dicom_bytes(make_dataset(GREY)) if "IM0001" in name or name == "DICOMDIR" else b"text")
    with pytest.warns(UserWarning, match="^2 files are left out.*IM0000, .*notes.pdf$"):
        found = [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)]
    assert found == ["a/IM0001", "a/z.TIF", "b.png", "c.dcm"]
    assert image_files(tmp_path / "nowhere.png") == [tmp_path / "nowhere.png"]
    with pytest.raises(InputError, match="no image in .*.hidden/d"):
        (tmp_path / ".hidden" / "d").mkdir()
        image_files(tmp_path / ".hidden" / "d")
