"""Headers with empty, missing, odd or wrong elements: the values decide, and what is guessed gives a warning.

The expected pictures come from pydicom's own functions for complete headers, from another file of the same picture, or
from a calculation by hand.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers.dicom_files import dicom_bytes, make_dataset, put, pydicom_file
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing

from cxr_seam.data.image_io import Radiograph, load_image
from cxr_seam.data.view_check import check_frontal

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
GREY = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
STRETCHED = RAMP * (255 / 4095)


def read(dataset: Dataset) -> Radiograph:
    return load_image(dicom_bytes(dataset))


def distance(radiograph: Radiograph, expected: np.ndarray) -> float:
    return float(np.abs(radiograph.pixels - expected).max())


def table_item(entries: object, *, bits: int, first: int = 0, vr: str = "OW", count: int | None = None) -> Dataset:
    """An item of a look-up table sequence."""
    item = Dataset()
    put(item, "LUTDescriptor", "US", [len(entries) if count is None else count, first, bits])
    put(item, "LUTData", vr, np.asarray(entries, "<u2").tobytes() if vr == "OW" else [int(value) for value in entries])
    return item


WRONG = ("voi_lut_told_16_bits", "voi_lut_told_10_bits", "voi_lut_told_12_bits_values_to_65535", "window_width_")


def test_unusual_headers_give_the_picture_of_a_usual_one(fault_inputs):
    files = sorted((fault_inputs / "dicom").iterdir())
    expected = load_image(fault_inputs / "dicom" / "voi_lut_told_12_bits_values_to_4095.dcm").pixels.astype(int)
    assert len(files) == 12 and expected.min() == 0 and expected.max() == 255
    for path in files:
        radiograph = load_image(path)
        assert distance(radiograph, expected) <= 1, path.name
        assert bool(radiograph.warnings) == path.name.startswith(WRONG), path.name


COMPLETE = {
    "RescaleIntercept": "0",
    "RescaleSlope": "1",
    "RescaleType": "US",
    "WindowCenter": "2048",
    "WindowWidth": "4096",
    "VOILUTFunction": "LINEAR",
    "NumberOfFrames": "1",
    "PresentationLUTShape": "IDENTITY",
    "PatientOrientation": ["L", "F"],
    "PixelAspectRatio": ["1", "1"],
}
UNSIGNED = {"PixelPaddingValue": "US", "PixelPaddingRangeLimit": "US", "HighBit": "US", "PixelRepresentation": "US"}
EMPTY = {"ModalityLUTSequence": "SQ", "VOILUTSequence": "SQ", "ShutterShape": "CS", "PlanarConfiguration": "US"}
DESCRIBE = ("BitsStored", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")


@pytest.mark.parametrize("missing", [False, True], ids=["empty", "missing"])
@pytest.mark.parametrize("keyword", [*COMPLETE, *UNSIGNED, *EMPTY, *DESCRIBE, "Modality", "ViewPosition", "Rows"])
def test_empty_or_missing_element(keyword, missing):
    dataset = make_dataset(RAMP, bits=12, **COMPLETE)
    vr = UNSIGNED.get(keyword) or EMPTY.get(keyword) or dataset[keyword].VR
    put(dataset, keyword, vr, None)
    if missing:
        del dataset[keyword]
    if keyword == "Rows":
        with pytest.raises(ValueError, match="holds no image"):
            read(dataset)
        return
    radiograph = read(dataset)
    assert distance(radiograph, STRETCHED) <= 1
    guessed = keyword in ("WindowCenter", "WindowWidth", "BitsAllocated", "PhotometricInterpretation")
    assert bool(radiograph.warnings) == guessed
    assert check_frontal(radiograph)[: len(radiograph.warnings)] == radiograph.warnings


def test_all_optional_elements_empty_at_once():
    dataset = make_dataset(RAMP, bits=12, **COMPLETE)
    for keyword in (*COMPLETE, "BodyPartExamined", "PatientID"):
        put(dataset, keyword, dataset[keyword].VR, None)
    for keyword, vr in (UNSIGNED | EMPTY).items():
        put(dataset, keyword, vr, None)
    assert distance(read(dataset), STRETCHED) <= 0.51 and read(dataset).warnings == ()


@pytest.mark.parametrize(
    ("entries", "same_as", "warns"),
    [
        ({"WindowCenter": ["1000", "7"], "WindowWidth": ["500", "9"]}, (1000, 500), False),
        ({"WindowCenter": ["", "1000"], "WindowWidth": ["", "500"]}, (1000, 500), False),
        ({"WindowCenter": "1000\\7", "WindowWidth": "500\\9"}, (1000, 500), False),
        ({"WindowCenter": " 1000 ", "WindowWidth": "+5.0E2"}, (1000, 500), False),
        ({"WindowCenter": "1000,0", "WindowWidth": "500"}, (1000, 500), True),
        ({"WindowCenter": ["1000", "7"], "WindowWidth": "500"}, (1000, 500), False),
        ({"WindowCenter": "unknown", "WindowWidth": "500"}, None, True),
        ({"WindowCenter": "nan", "WindowWidth": "500"}, None, True),
        ({"WindowCenter": "1000", "WindowWidth": "-500"}, None, True),
        ({"WindowCenter": ["1000", "1000"], "WindowWidth": ["0", "500"]}, (1000, 500), True),
        ({"WindowCenter": "100000", "WindowWidth": "100"}, None, True),  # all black
        ({"WindowCenter": "-9000", "WindowWidth": "100"}, None, True),  # all white
    ],
)
def test_windows_of_other_types(entries, same_as, warns):
    dataset = make_dataset(RAMP, bits=12)
    for keyword, value in entries.items():
        put(dataset, keyword, "LO", value)  # LO keeps text as it is
    radiograph = read(dataset)
    if same_as is None:
        assert distance(radiograph, STRETCHED) <= 0.51
    else:
        usual = make_dataset(RAMP, bits=12, WindowCenter=same_as[0], WindowWidth=same_as[1])
        assert np.array_equal(radiograph.pixels, read(usual).pixels)
    assert bool(radiograph.warnings) == warns


def test_decimal_comma_in_a_decimal_string():
    data = dicom_bytes(make_dataset(RAMP, bits=12, WindowCenter="1000.5", WindowWidth="500.0"))
    plain, comma = load_image(data), load_image(data.replace(b"1000.5", b"1000,5"))
    assert np.array_equal(plain.pixels, comma.pixels)
    assert plain.warnings == () and "1000,5" in comma.warnings[0]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_equals_pydicom(function):
    dataset = make_dataset(RAMP, bits=12, WindowCenter=1000.5, WindowWidth=700, VOILUTFunction=function)
    assert distance(read(dataset), apply_windowing(RAMP, dataset) * (255 / 4095)) <= 0.51


def test_window_of_width_one_is_a_step():
    shown = read(make_dataset(RAMP, bits=12, WindowCenter=1000, WindowWidth=1)).pixels
    assert np.array_equal(shown, np.where(RAMP > 999.5, 255, 0))


def test_unknown_voi_lut_function():
    dataset = make_dataset(RAMP, bits=12, WindowCenter=1000, WindowWidth=700)
    usual = read(dataset)
    dataset.VOILUTFunction = "CURVED"
    assert np.array_equal(read(dataset).pixels, usual.pixels) and "CURVED" in read(dataset).warnings[0]


@pytest.mark.parametrize(
    ("entries", "slope", "intercept", "warns"),
    [
        ({"RescaleSlope": "2", "RescaleIntercept": "-50"}, 2, -50, False),
        ({"RescaleIntercept": "-50"}, 1, -50, False),
        ({"RescaleSlope": "-1"}, -1, 0, False),
        ({"RescaleSlope": ["2", "3"], "RescaleIntercept": "-50"}, 2, -50, False),
        ({"RescaleSlope": "2,0", "RescaleIntercept": "-50"}, 2, -50, True),
        ({"RescaleSlope": "0", "RescaleIntercept": "-50"}, 1, -50, True),
        ({"RescaleSlope": "nan", "RescaleIntercept": "0"}, 1, 0, True),
        ({"RescaleSlope": "2", "RescaleIntercept": "-50", "RescaleType": "ODD"}, 2, -50, False),
    ],
)
def test_rescale(entries, slope, intercept, warns):
    """The window shows the rescaled values 100 to 1100 as black to white."""
    dataset = make_dataset(RAMP, bits=12, WindowCenter=600, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    for keyword, value in entries.items():
        put(dataset, keyword, "LO", value)
    radiograph = read(dataset)
    if slope < 0:  # no value lies in the window, which therefore is ignored
        assert distance(radiograph, 255 - STRETCHED) <= 0.51
    else:
        expected = np.clip((RAMP.astype(float) * slope + intercept - 100) / 1000, 0, 1) * 255
        assert distance(radiograph, expected) <= 0.51
    assert bool(radiograph.warnings) == (warns or slope < 0)


CURVE = np.round(4095 * np.linspace(0, 1, 4096) ** 0.7).astype(int)


@pytest.mark.parametrize("told", [8, 10, 11, 12, 14, 16])
@pytest.mark.parametrize("top", [255, 1023, 4095, 65535])
def test_values_of_a_voi_lut_decide_its_depth(told, top):
    entries = np.round(CURVE * (top / 4095)).astype(int)
    radiograph = read(make_dataset(RAMP, bits=12, VOILUTSequence=[table_item(entries, bits=told)]))
    assert distance(radiograph, CURVE[RAMP] * (255 / 4095)) <= 1
    assert bool(radiograph.warnings) == (top != 2**told - 1)


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_voi_lut_equals_pydicom(bits, vr):
    entries = np.round(CURVE * ((2**bits - 1) / 4095)).astype(int)[:3000]
    dataset = make_dataset(RAMP, bits=12, VOILUTSequence=[table_item(entries, bits=bits, first=500, vr=vr)])
    white = 2**bits - 1 if entries.max() >= 2 ** (bits - 1) else entries.max()
    assert distance(read(dataset), apply_voi(RAMP, dataset) * (255 / white)) <= 0.51


def test_voi_lut_of_bytes_in_words():
    packed = (RAMP.ravel() // 16).astype(np.uint8).tobytes()
    item = table_item([], bits=8, count=4096)
    put(item, "LUTData", "OW", packed)
    radiograph = read(make_dataset(RAMP, bits=12, VOILUTSequence=[item]))
    assert np.array_equal(radiograph.pixels, RAMP // 16) and radiograph.warnings == ()


def test_voi_lut_in_a_big_endian_file():
    from pydicom.uid import ExplicitVRBigEndian

    item = table_item([], bits=12, count=4096)
    put(item, "LUTData", "OW", CURVE.astype(">u2").tobytes())
    dataset = make_dataset(RAMP, bits=12, VOILUTSequence=[item], syntax=ExplicitVRBigEndian)
    dataset.PixelData = RAMP.astype(">u2").tobytes()
    assert distance(read(dataset), CURVE[RAMP] * (255 / 4095)) <= 0.51


@pytest.mark.parametrize(
    ("change", "warns"),
    [
        (lambda item: put(item, "LUTDescriptor", "US", None), True),
        (lambda item: put(item, "LUTDescriptor", "US", [4096, 0]), True),
        (lambda item: put(item, "LUTData", "OW", None), True),
        (lambda item: item.clear(), False),
        (lambda item: [put(item, "LUTDescriptor", "US", None), put(item, "LUTData", "OW", None)], False),
    ],
    ids=["no descriptor", "two numbers", "no data", "no elements", "empty elements"],
)
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_incomplete_table_counts_as_missing(sequence, change, warns):
    item = table_item(CURVE, bits=12)
    change(item)
    radiograph = read(make_dataset(RAMP, bits=12, **{sequence: [item]}))
    assert distance(radiograph, STRETCHED) <= 0.51
    assert bool(radiograph.warnings) == warns


def test_voi_lut_with_fewer_entries_than_told():
    radiograph = read(make_dataset(RAMP, bits=12, VOILUTSequence=[table_item(CURVE[:3000], bits=12, count=4096)]))
    assert distance(radiograph, CURVE[np.minimum(RAMP, 2999)] * (255 / 4095)) <= 0.51
    assert "3000 entries" in radiograph.warnings[0]


def test_voi_lut_that_begins_below_zero():
    values = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    item = table_item(CURVE, bits=12)
    put(item, "LUTDescriptor", "US", [4096, 2**16 - 2048, 12])  # -2048 as unsigned
    assert distance(read(make_dataset(values, VOILUTSequence=[item])), CURVE[RAMP] * (255 / 4095)) <= 0.51


def test_voi_lut_that_shows_nothing():
    radiograph = read(make_dataset(RAMP, bits=12, VOILUTSequence=[table_item(CURVE, bits=12, first=5000)]))
    assert distance(radiograph, STRETCHED) <= 0.51 and "one grey" in radiograph.warnings[0]


@pytest.mark.parametrize("told", [8, 10, 12, 16])
def test_depth_of_a_modality_lut_does_not_matter(told):
    dataset = make_dataset(RAMP, bits=12, ModalityLUTSequence=[table_item(CURVE, bits=told)])
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 2000, 1000, "LINEAR_EXACT"
    expected = np.clip((CURVE[RAMP] - 1500) / 1000, 0, 1) * 255
    assert distance(read(dataset), expected) <= 0.51
    if told == 16:  # pydicom reads this depth of the two that the standard allows
        assert np.array_equal(apply_modality_lut(RAMP, dataset), CURVE[RAMP])


@pytest.mark.parametrize("told", [8, 10, 11])
def test_values_beyond_bits_stored_are_kept(told):
    dataset = make_dataset(RAMP, bits=told, WindowCenter=2048, WindowWidth=4096)
    radiograph = read(dataset)
    assert distance(radiograph, STRETCHED) <= 1 and "4095" in radiograph.warnings[0]


def test_embedded_overlay_is_masked():
    dataset = make_dataset(RAMP | np.uint16(0x8000) * (RAMP % 7 == 0), bits=12)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 15)
    assert distance(read(dataset), STRETCHED) <= 0.51 and read(dataset).warnings == ()


def test_values_at_the_upper_end_of_their_words():
    """HighBit 15 of 12 bits: the lowest four bits are not part of the values."""
    dataset = make_dataset(
        RAMP << np.uint16(4) | np.uint16(9), bits=12, HighBit=15, WindowCenter=2048, WindowWidth=4096
    )
    assert distance(read(dataset), STRETCHED) <= 1
    lower = make_dataset(RAMP, bits=12, HighBit=15, WindowCenter=2048, WindowWidth=4096)  # HighBit is wrong
    assert distance(read(lower), STRETCHED) <= 1


def test_negative_values_told_to_be_unsigned():
    values = RAMP.astype(np.int16) - 2048
    dataset = make_dataset(values, bits=12, PixelRepresentation=0)
    assert distance(read(dataset), STRETCHED) <= 0.51 and "negative" in read(dataset).warnings[0]


@pytest.mark.parametrize(("bits", "factor"), [(12, 1), (16, 16)])
def test_positive_values_told_to_be_signed(bits, factor):
    dataset = make_dataset(RAMP * np.uint16(factor), bits=bits, PixelRepresentation=1)
    assert distance(read(dataset), STRETCHED) <= 0.51 and "not negative" in read(dataset).warnings[0]


@pytest.mark.parametrize("extended", [False, True])
def test_signed_values_with_and_without_extended_sign(extended):
    values = RAMP.astype(np.int16) - 2048
    words = values if extended else values & 0x0FFF
    dataset = make_dataset(words.astype(np.int16), bits=12)
    assert distance(read(dataset), STRETCHED) <= 0.51 and read(dataset).warnings == ()


@pytest.mark.parametrize(
    ("values", "vr", "padding"),
    [
        (np.where(RAMP % 64 < 4, 65535, RAMP).astype(np.uint16), "US", 65535),  # beyond BitsStored
        (np.where(RAMP % 64 < 4, -2000, RAMP).astype(np.int16), "SS", -2000),
        (np.where(RAMP % 64 < 4, -2000, RAMP).astype(np.int16), "US", 63536),  # -2000 as unsigned
        (np.where(RAMP % 64 < 4, 63536, RAMP).astype(np.uint16), "SS", -2000),
        (np.where(RAMP % 64 < 4, 4095, RAMP % 4000).astype(np.uint16), "LO", "4095"),
    ],
)
def test_padding_of_other_types(values, vr, padding):
    dataset = make_dataset(values, bits=16 if values.dtype == np.int16 else 12)
    put(dataset, "PixelPaddingValue", vr, padding)
    radiograph = read(dataset)
    image = RAMP % 64 >= 4
    seen = values[image].astype(float)
    expected = (seen - seen.min()) / (seen.max() - seen.min()) * 255
    assert (radiograph.pixels[~image] == 0).all() and np.abs(radiograph.pixels[image] - expected).max() <= 0.51
    assert radiograph.warnings == ()


def test_padding_of_all_pixels_is_ignored():
    dataset = make_dataset(RAMP, bits=12)
    put(dataset, "PixelPaddingValue", "US", 0)
    put(dataset, "PixelPaddingRangeLimit", "US", 4095)
    assert distance(read(dataset), STRETCHED) <= 0.51 and "Padding" in read(dataset).warnings[0]


@pytest.mark.parametrize("told", [12, 99, 32])
def test_length_of_the_pixels_decides_bits_allocated(told):
    radiograph = read(make_dataset(RAMP, bits=12, BitsAllocated=told))
    assert distance(radiograph, STRETCHED) <= 0.51 and "BitsAllocated" in radiograph.warnings[0]


@pytest.mark.parametrize("stored", [0, 40])
def test_impossible_bits_stored(stored):
    radiograph = read(make_dataset(RAMP, BitsStored=stored))
    assert distance(radiograph, STRETCHED) <= 0.51 and bool(radiograph.warnings) == (stored > 0)


@pytest.mark.parametrize(("photometric", "samples"), [("RGB", 1), ("MONOCHROME2", 3), ("", 3), ("", None)])
def test_length_of_the_pixels_decides_between_grey_and_colour(photometric, samples):
    grey, colour = make_dataset(GREY), make_dataset(np.dstack([GREY, GREY, 255 - GREY]))
    expected = read(colour)
    for dataset in (grey, colour):
        put(dataset, "PhotometricInterpretation", "CS", photometric)
        put(dataset, "SamplesPerPixel", "US", samples)
    assert np.array_equal(read(colour).pixels, expected.pixels) and read(colour).color_fraction > 0.5
    if samples != 3 or photometric:
        assert np.array_equal(read(grey).pixels, GREY)
    assert read(colour).warnings


@pytest.mark.parametrize("entries", [{}, {"PlanarConfiguration": None}, {"NumberOfFrames": "0"}])
def test_colour_of_incomplete_headers(entries):
    dataset = make_dataset(np.dstack([GREY] * 3))
    for keyword, value in entries.items():
        put(dataset, keyword, dataset[keyword].VR if keyword in dataset else "IS", value)
    assert np.array_equal(read(dataset).pixels, GREY) and read(dataset).color_fraction == 0


def palette_dataset(*, bits: int, entries: np.ndarray, data: bytes) -> Dataset:
    dataset = make_dataset(GREY, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        put(dataset, f"{colour}PaletteColorLookupTableDescriptor", "US", [len(entries), 0, bits])
        put(dataset, f"{colour}PaletteColorLookupTableData", "OW", data)
    return dataset


@pytest.mark.parametrize("told", [8, 16])
def test_depth_of_a_palette(told):
    entries = np.arange(255, -1, -1)
    expected = 255 - GREY.astype(int)
    packed = palette_dataset(bits=told, entries=entries, data=entries.astype(np.uint8).tobytes())
    words = palette_dataset(bits=told, entries=entries, data=entries.astype("<u2").tobytes())
    for dataset in (packed, words):
        assert np.array_equal(read(dataset).pixels, expected) and bool(read(dataset).warnings) == (told == 16)
    full = palette_dataset(bits=16, entries=entries, data=(entries * 257).astype("<u2").tobytes())
    assert np.array_equal(read(full).pixels, expected) and read(full).warnings == ()


def test_palette_equals_pydicom():
    dataset = dcmread(pydicom_file("examples_palette.dcm"))
    colours = apply_color_lut(dataset.pixel_array, dataset).astype(float)
    luminance = colours[..., :3] @ [0.299, 0.587, 0.114]
    white = 65535 if colours.max() > 255 else 255
    assert np.abs(read(dataset).pixels - luminance * (255 / white)).max() <= 1.01


def test_palette_without_tables_is_refused():
    with pytest.raises(ValueError, match="palette|Palette"):
        read(make_dataset(GREY, PhotometricInterpretation="PALETTE COLOR"))


ROWS, COLUMNS = np.mgrid[1:65, 1:65]
"""Rows and columns of `RAMP` from 1, as DICOM counts them."""

CIRCLE = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": ["30", "40"], "RadiusOfCircularShutter": "20"}
RECTANGLE = {
    "ShutterShape": "RECTANGULAR",
    "ShutterLeftVerticalEdge": "11",
    "ShutterRightVerticalEdge": "50",
    "ShutterUpperHorizontalEdge": "21",
    "ShutterLowerHorizontalEdge": "60",
}
IN_RECTANGLE = (COLUMNS >= 11) & (COLUMNS <= 50) & (ROWS >= 21) & (ROWS <= 60)
IN_CIRCLE = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 <= 400


@pytest.mark.parametrize(
    ("entries", "visible"),
    [
        (RECTANGLE, IN_RECTANGLE),
        (CIRCLE, IN_CIRCLE),
        (RECTANGLE | CIRCLE | {"ShutterShape": ["RECTANGULAR", "CIRCULAR"]}, IN_RECTANGLE & IN_CIRCLE),
        (
            {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": "10 10 10 50 50 10".split()},
            (ROWS >= 10) & (COLUMNS >= 10) & (ROWS + COLUMNS <= 60),
        ),
        (RECTANGLE | {"ShutterRightVerticalEdge": ""}, (COLUMNS >= 11) & (ROWS >= 21) & (ROWS <= 60)),
    ],
    ids=["rectangle", "circle", "both", "polygon", "one edge missing"],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_outside_of_a_shutter_is_black(entries, visible, photometric):
    values = RAMP.copy()
    values[~visible] = 65535  # does not count for the range of the image
    radiograph = read(make_dataset(values, PhotometricInterpretation=photometric, **entries))
    share = (values[visible] - float(values[visible].min())) / np.ptp(values[visible])
    expected = 255 * (share if photometric == "MONOCHROME2" else 1 - share)
    assert (radiograph.pixels[~visible] == 0).all()
    assert np.abs(radiograph.pixels[visible] - expected).max() <= 0.51
    assert radiograph.warnings == ()


def test_outside_of_a_shutter_is_black_in_colour():
    shown = read(make_dataset(np.full((64, 64, 3), 200, np.uint8), **RECTANGLE)).pixels
    assert np.array_equal(shown, np.where(IN_RECTANGLE, 200, 0))


@pytest.mark.parametrize(
    "entries",
    [
        CIRCLE | {"RadiusOfCircularShutter": ""},
        RECTANGLE | {"ShutterLeftVerticalEdge": "500"},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": ["10", "10", "30"]},
    ],
    ids=["no radius", "outside", "no polygon"],
)
def test_impossible_shutter_is_ignored(entries):
    radiograph = read(make_dataset(RAMP, bits=12, **entries))
    assert distance(radiograph, STRETCHED) <= 0.51 and "shutter" in radiograph.warnings[0]


def groups(**macros: Dataset) -> Dataset:
    group = Dataset()
    for keyword, item in macros.items():
        setattr(group, keyword, [item])
    return group


def item(**entries: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in entries.items():
        setattr(dataset, keyword, value)
    return dataset


def test_window_and_rescale_of_functional_groups():
    """An enhanced file of one frame: window per frame, rescale and shutter shared."""
    window = item(WindowCenter=600, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    rescale = item(RescaleSlope=0.25, RescaleIntercept=-50, RescaleType="US")
    shutter = item(**RECTANGLE)
    dataset = make_dataset(RAMP, bits=12, NumberOfFrames=1)
    dataset.PerFrameFunctionalGroupsSequence = [groups(FrameVOILUTSequence=window)]
    dataset.SharedFunctionalGroupsSequence = [
        groups(
            FrameVOILUTSequence=item(WindowCenter=1, WindowWidth=2),  # the frame's own has priority
            PixelValueTransformationSequence=rescale,
            FrameDisplayShutterSequence=shutter,
        )
    ]
    expected = np.clip((RAMP * 0.25 - 50 - 100) / 1000, 0, 1) * 255
    radiograph = read(dataset)
    assert distance(radiograph, np.where(IN_RECTANGLE, expected, 0)) <= 0.51 and radiograph.warnings == ()


def test_empty_functional_groups():
    dataset = make_dataset(
        RAMP, bits=12, PerFrameFunctionalGroupsSequence=[], SharedFunctionalGroupsSequence=[Dataset()]
    )
    put(dataset, "WindowCenter", "DS", None)
    put(dataset, "WindowWidth", "DS", None)
    assert distance(read(dataset), STRETCHED) <= 0.51
    dataset.SharedFunctionalGroupsSequence = [groups(FrameVOILUTSequence=item(WindowCenter=1000, WindowWidth=500))]
    usual = read(make_dataset(RAMP, bits=12, WindowCenter=1000, WindowWidth=500))
    assert np.array_equal(read(dataset).pixels, usual.pixels)


def test_prediction_shows_what_was_guessed(predictor, tmp_path):
    path = tmp_path / "image.dcm"
    values = np.kron(RAMP, np.ones((2, 2), np.uint16))
    path.write_bytes(dicom_bytes(make_dataset(values, bits=12, WindowCenter=5, WindowWidth=0)))
    with pytest.warns(UserWarning, match="width 0"):
        prediction = predictor.predict(path)
    assert any("width 0" in warning for warning in prediction.image_warnings)
