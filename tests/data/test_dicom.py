"""DICOM to greys: hand cases of the standard's look-ups, files of pydicom in every compression, and what is refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.dicom_files import film, of_pydicom, of_pydicom_data, written
from pydicom import Dataset, dcmread

from cxr_seam.data.image_io import image_files, load_image, read_radiograph
from cxr_seam.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_eight_bits_without_a_window_stay_as_they_are():
    assert np.array_equal(read_radiograph(written(film(GREY))), GREY)


def test_monochrome1_is_turned_over():
    read = read_radiograph(written(film(GREY, PhotometricInterpretation="MONOCHROME1")))
    assert np.array_equal(read, 255 - GREY)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_more_bits_without_a_window_are_stretched_from_least_to_largest(bits, kind):
    low = 100 - (2 ** (bits - 2) if kind is np.int16 else 0)
    values = np.linspace(low, 2 ** (bits - 1) - 1, 1024).reshape(32, 32).astype(kind)
    read = read_radiograph(written(film(values, bits=bits)))
    share = (values.astype(float) - values.min()) / (float(values.max()) - values.min())
    assert read.min() == 0 and read.max() == 255
    assert np.abs(read - 255 * share).max() <= 0.51


def test_a_window_is_that_of_the_standard():
    """PS3.3 C.11.2.1.2.1: below, above and between, pixel by pixel."""
    centre, width = 1000, 500

    def shown(x: float) -> float:
        if x <= centre - 0.5 - (width - 1) / 2:
            return 0
        if x > centre - 0.5 + (width - 1) / 2:
            return 255
        return ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255

    read = read_radiograph(written(film(RAMP, bits=12, WindowCenter=[centre, 7], WindowWidth=[width, 9])))
    assert np.abs(read - np.vectorize(shown, otypes=[float])(RAMP)).max() <= 0.51


def test_a_sigmoid_window_is_that_of_the_standard():
    """PS3.3 C.11.2.1.3.1."""
    read = read_radiograph(written(film(RAMP, bits=12, WindowCenter=2000, WindowWidth=800, VOILUTFunction="SIGMOID")))
    assert np.abs(read - 255 / (1 + np.exp(-4 * (RAMP - 2000.0) / 800))).max() <= 0.51


@pytest.mark.parametrize("slope", [2, -2])
def test_a_window_is_meant_after_the_rescale(slope):
    entries = {"RescaleSlope": slope, "RescaleIntercept": -50, "WindowCenter": -50 + slope * 2048, "WindowWidth": 4000}
    read = read_radiograph(written(film(RAMP, bits=12, **entries)))
    middle = np.abs(RAMP.astype(int) - 2048) <= 1
    assert np.abs(read[middle].astype(int) - 127).max() <= 1
    dark, bright = (read[0, 0], read[-1, -1]) if slope > 0 else (read[-1, -1], read[0, 0])
    assert dark == 0 and bright == 255


def test_a_voi_lut_goes_before_a_window():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], [255 - value // 16 for value in range(4096)]
    made = film(RAMP, bits=12, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    made.VOILUTSequence[0]["LUTDescriptor"].VR = made.VOILUTSequence[0]["LUTData"].VR = "US"
    assert np.array_equal(read_radiograph(written(made)), 255 - RAMP // 16)


def test_padding_is_black_and_stretches_nothing():
    values = RAMP.copy()
    values[:, :4] = 65535
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        read = read_radiograph(written(film(values, PixelPaddingValue=65535, PhotometricInterpretation=kind)))
        assert (read[:, :4] == 0).all()
        assert read[:, 4:].min() == 0 and read[:, 4:].max() == 255


def test_colour_becomes_luminance_and_is_told():
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[..., 1] = 255
    radiograph = load_image(written(film(pixels)))
    assert (radiograph.pixels == 150).all() and radiograph.coloured == 1  # 0.587 * 255 = 149.7
    grey = load_image(written(film(np.dstack([GREY] * 3))))
    assert np.array_equal(grey.pixels, GREY) and grey.coloured == 0


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
def test_a_lossless_file_reads_as_the_uncompressed_one(compressed, plain):
    assert np.array_equal(read_radiograph(of_pydicom(compressed)), read_radiograph(of_pydicom(plain)))


@pytest.mark.parametrize(
    "name",
    ["SC_rgb_jpeg_gdcm.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "examples_palette.dcm", "image_dfl.dcm"],
)
def test_other_files_of_pydicom_give_a_picture(name):
    """Lossless JPEG, YCbCr, a palette, deflated."""
    read = read_radiograph(of_pydicom(name))
    assert read.dtype == np.uint8 and read.ndim == 2 and read.max() > read.min()


def test_ycbcr_is_the_same_picture_as_rgb():
    near = np.abs(
        read_radiograph(of_pydicom("SC_ybr_full_422_uncompressed.dcm")).astype(int)
        - read_radiograph(of_pydicom("SC_rgb_rle.dcm"))
    )
    assert near.mean() < 8  # halved colour smears the edges of its stripes


def test_a_real_chest_film_reads_alike_compressed_and_not():
    plain = load_image(of_pydicom_data("RG1_UNCR.dcm"))
    assert plain.pixels.shape == (1955, 1841) and plain.header.PhotometricInterpretation == "MONOCHROME1"
    assert np.array_equal(read_radiograph(of_pydicom_data("RG1_J2KR.dcm")), plain.pixels)
    lossy = read_radiograph(of_pydicom_data("RG1_J2KI.dcm"))
    assert np.abs(lossy.astype(int) - plain.pixels).mean() < 1


def test_a_file_without_preamble_is_told_by_its_name(tmp_path):
    made = film(GREY)
    path = tmp_path / "old.dcm"
    path.write_bytes(written(made)[132:])
    assert np.array_equal(read_radiograph(path), GREY)
    del made.file_meta
    made.save_as(path, implicit_vr=True, little_endian=True)
    assert np.array_equal(read_radiograph(path), GREY)


def _cut(dataset: Dataset) -> bytes:
    return written(dataset)[:-1000]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (lambda: of_pydicom("examples_ybr_color.dcm").read_bytes(), "holds 30 frames"),
        (lambda: of_pydicom("reportsi.dcm").read_bytes(), "modality SR and holds no image"),
        (lambda: of_pydicom("rtplan.dcm").read_bytes(), "modality RTPLAN and holds no image"),
        (lambda: _cut(film(GREY)), "could not be decoded"),
        (lambda: _cut(film(GREY))[:300], "not a DICOM file, or one cut short|holds no image|broken"),
        (lambda: b"\0" * 128 + b"DICM", "not a DICOM file|broken"),
        (lambda: b"what is this", "DICOM"),
        (lambda: written(film(GREY, Rows=60000, Columns=60000)), "claims 60000x60000 pixels"),
        (lambda: written(film(np.zeros((4, 4), np.uint8))), "4x4 pixels"),
        (lambda: written(film(RAMP, bits=12, WindowCenter=5, WindowWidth=0)), "Window Width"),
    ],
    ids=["frames", "report", "plan", "cut", "header", "empty", "text", "bomb", "icon", "window"],
)
def test_what_is_no_film_is_refused_in_one_sentence(data, sentence, tmp_path):
    path = tmp_path / "film.dcm"
    path.write_bytes(data())
    with pytest.raises(InputError, match=sentence) as error:
        read_radiograph(path)
    assert "film.dcm" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_decoder_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda syntax: SimpleNamespace(is_available=False))
    with pytest.raises(InputError, match="compressed as JPEG-LS Lossless.*pip install python-gdcm"):
        read_radiograph(of_pydicom("MR_small_jpeg_ls_lossless.dcm"))


def test_what_the_installed_decoders_cannot_read_is_named_with_what_can(monkeypatch):
    def refuse(dataset):
        raise RuntimeError("Unable to decode as exceptions were raised by all available plugins:\n  gdcm: no")

    monkeypatch.setattr("pydicom.Dataset.pixel_array", property(refuse))
    with pytest.raises(InputError, match="compressed as JPEG Extended .*pip install pylibjpeg pylibjpeg-libjpeg"):
        read_radiograph(of_pydicom("JPGExtended.dcm"))


def test_a_film_as_video_is_refused():
    made = dcmread(of_pydicom("MR_small_RLE.dcm"))
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    with pytest.raises(InputError, match="MPEG2 .*export it uncompressed"):
        read_radiograph(written(made))


def test_without_pydicom_a_sentence_says_what_to_install(monkeypatch):
    data = written(film(GREY))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match="pip install pydicom"):
        read_radiograph(data, name="film.dcm")


def test_a_folder_is_walked_in_order_and_discs_are_understood(tmp_path):
    for name in ("b.png", "a/IM0001", "a/z.TIF", "a/notes.txt", ".hidden/c.png", "DICOMDIR", "c.dcm", "a/IM0000"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(written(film(GREY)) if "IM0001" in name or name == "DICOMDIR" else b"text")
    found = [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)]
    assert found == ["a/IM0001", "a/z.TIF", "b.png", "c.dcm"]
    assert image_files(tmp_path / "nowhere.png") == [tmp_path / "nowhere.png"]
    with pytest.raises(InputError, match="no image in .*.hidden/d"):
        (tmp_path / ".hidden" / "d").mkdir()
        image_files(tmp_path / ".hidden" / "d")
