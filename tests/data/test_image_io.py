"""Pixels against values computed by hand, broken files against one readable sentence."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_seam.data.image_io import read_radiograph, resize_square
from cxr_seam.errors import InputError

RAMP = np.arange(32 * 40, dtype=np.uint32).reshape(32, 40)
GREY = (RAMP % 256).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def grey_png(width: int, height: int, rows: bytes, *, interlaced: bool = False) -> bytes:
    """A PNG with right checksums that claims width x height 8-bit greys and holds `rows`, whatever they are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_grey_images_keep_their_values():
    assert np.array_equal(read_radiograph(encoded(GREY)), GREY)
    assert read_radiograph(encoded(GREY)).dtype == np.uint8


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 23), (64, 40)])
def test_interlaced_greys_keep_their_values(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    # Adam7: first row and column and steps of the seven passes; every row begins with filter 0.
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row for top, left, down, right in passes for row in pixels[top::down, left::right]]
    data = grey_png(width, height, b"".join(b"\0" + row.tobytes() for row in rows), interlaced=True)
    assert np.array_equal(read_radiograph(data), pixels)


def test_a_grey_level_declared_transparent_is_black():
    grey = read_radiograph(encoded(GREY, transparency=200))
    assert np.array_equal(grey, np.where(GREY == 200, 0, GREY))


def test_an_orientation_in_the_file_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert np.array_equal(read_radiograph(encoded(GREY, exif=exif)), GREY)
    assert read_radiograph(encoded(GREY, "JPEG", exif=exif)).shape == GREY.shape


def test_real_grey_radiographs_are_what_pillow_decodes(nih_root):
    for path in sorted((nih_root / "images").iterdir()):
        with Image.open(path) as image:
            if image.mode == "L":
                assert np.array_equal(read_radiograph(path), np.asarray(image))


def test_a_path_an_open_file_and_bytes_read_alike(tmp_path):
    path = tmp_path / "with space.png"
    path.write_bytes(encoded(GREY))
    with path.open("rb") as file:
        assert np.array_equal(read_radiograph(file), GREY)
    assert np.array_equal(read_radiograph(path), GREY)
    assert np.array_equal(read_radiograph(str(path)), GREY)


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_with_equal_channels_is_that_channel(channels):
    pixels = np.repeat(GREY[..., None], channels, axis=2)
    if channels == 4:
        pixels[..., 3] = 255
    assert np.array_equal(read_radiograph(encoded(pixels)), GREY)


def test_colour_becomes_luminance():
    # 0.299 * 255 = 76.2, 0.587 * 255 = 149.7, 0.114 * 255 = 29.1
    for channel, expected in enumerate((76, 150, 29)):
        pixels = np.zeros((20, 20, 3), np.uint8)
        pixels[..., channel] = 255
        assert (read_radiograph(encoded(pixels)) == expected).all()


def test_palette_images_give_the_greys_of_their_palette():
    image = Image.fromarray(GREY).convert("P")
    image.putpalette([value for level in range(256) for value in (255 - level,) * 3])
    assert np.array_equal(read_radiograph(encoded(image)), 255 - GREY)


def test_two_level_images_become_black_and_white():
    image = Image.fromarray(np.where(GREY > 128, 255, 0).astype(np.uint8)).convert("1")
    assert np.array_equal(read_radiograph(encoded(image)), np.where(GREY > 128, 255, 0))


def test_transparency_is_laid_over_black():
    pixels = np.full((20, 20, 4), 200, np.uint8)
    pixels[:10, :, 3] = 0
    pixels[10:, :, 3] = 128
    grey = read_radiograph(encoded(pixels))
    assert (grey[:10] == 0).all()
    assert (grey[10:] == 100).all()  # 200 * 128 / 255 = 100.4


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bit_files_are_scaled_by_the_depth_in_use(bits):
    full = 2**bits - 1
    values = np.linspace(0, full, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    grey = read_radiograph(encoded(values))
    assert grey.min() == 0 and grey.max() == 255
    assert np.abs(grey - values * (255 / full)).max() <= 0.51


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_keeps_grey_and_colour(compression):
    assert np.array_equal(read_radiograph(encoded(GREY, "TIFF", compression=compression)), GREY)
    assert np.array_equal(read_radiograph(encoded(np.dstack([GREY] * 3), "TIFF", compression=compression)), GREY)


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_sixteen_bit_tiff_is_scaled_and_turned_over_where_white_is_zero(white_is_zero):
    values = np.linspace(0, 4095, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    grey = read_radiograph(encoded(values, "TIFF", tiffinfo={262: 0 if white_is_zero else 1}))
    expected = values * (255 / 4095)
    assert np.abs(grey - (255 - expected if white_is_zero else expected)).max() <= 0.51


def test_tiff_with_several_pages_or_fractions_is_refused():
    page = Image.fromarray(GREY)
    with pytest.raises(InputError, match="film.tif has 2 pages"):
        read_radiograph(encoded(page, "TIFF", save_all=True, append_images=[page]), name="film.tif")
    with pytest.raises(InputError, match="film.tif holds fractions"):
        read_radiograph(encoded(GREY.astype(np.float32), "TIFF"), name="film.tif")


def test_jpeg_is_read_closely():
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    assert np.abs(read_radiograph(encoded(smooth, "JPEG", quality=95)).astype(int) - smooth).max() <= 4


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8193, 10_000, 20_000, 2_000_000_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    with pytest.raises(InputError, match="bomb.png claims .* pixels.*not opened"):
        read_radiograph(grey_png(side, side, b"\0"), name="bomb.png")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"not an image at all", "neither a PNG nor a JPEG"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\0" * 128 + b"DICM" + b"\0" * 100, "DICOM"),
        (encoded(GREY)[: len(encoded(GREY)) // 2], "broken or cut short"),
        (encoded(GREY)[:20], "broken or cut short|neither a PNG"),
        (encoded(GREY, "JPEG")[:-200], "broken or cut short"),
        (encoded(np.zeros((1, 1), np.uint8)), "1x1 pixels"),
        (encoded(np.zeros((15, 400), np.uint8)), "400x15 pixels"),
        (encoded(Image.fromarray(GREY), "BMP"), "neither a PNG nor a JPEG"),
    ],
    ids=["empty", "text", "html", "dicom", "half", "header", "half-jpeg", "dot", "strip", "bmp"],
)
def test_what_is_no_radiograph_is_refused_in_one_sentence(data, sentence, tmp_path):
    path = tmp_path / "00000001_000.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=sentence) as error:
        read_radiograph(path)
    assert "00000001_000.png" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_a_png_cut_or_altered_anywhere_is_refused(mode, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    pixels = {"L": noise, "RGBA": np.dstack([noise, noise, noise, noise | 255]), "I;16": noise.astype(np.uint16) * 257}
    whole = encoded(pixels[mode])
    damaged = [whole[:length] for length in range(len(whole))]
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 4
        damaged.append(bytes(altered))
    for data in damaged:
        with pytest.raises(InputError, match="^film.png is (broken or cut short|empty|neither a PNG nor a JPEG)"):
            read_radiograph(data, name="film.png")
    assert capfd.readouterr().err == ""  # libraries add nothing of their own


def test_a_png_with_too_few_rows_is_refused():
    with pytest.raises(InputError, match="film.png is broken or cut short"):
        read_radiograph(grey_png(32, 32, (b"\0" + bytes(32)) * 31), name="film.png")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.png"):
        read_radiograph(tmp_path / "nowhere.png")


def test_a_file_too_long_to_be_a_radiograph_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_seam.data.image_io.MAX_BYTES", 100)
    (tmp_path / "long.png").write_bytes(encoded(GREY))
    with pytest.raises(InputError, match="long.png is longer"):
        read_radiograph(tmp_path / "long.png")


def test_shrinking_is_the_mean_of_each_area():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    means = pixels.reshape(16, 4, 16, 6).mean(axis=(1, 3))
    assert np.abs(resize_square(pixels, 16) - means).max() <= 0.5 + 1e-6


def test_shrinking_one_axis_while_the_other_grows_does_not_alias():
    # Columns alternate 0 and 200: averaging gives 100 everywhere, sampling would give 0 or 200.
    pixels = np.tile(np.array([0, 200], np.uint8), (10, 64))
    assert (resize_square(pixels, 32) == 100).all()


@pytest.mark.parametrize("shape", [(16, 16), (100, 30), (31, 77), (32, 32)])
def test_the_result_is_a_square_of_the_size_asked_for(shape):
    result = resize_square(np.full(shape, 77, np.uint8), 32)
    assert result.shape == (32, 32) and result.dtype == np.uint8
    assert (result == 77).all()


def test_real_rgba_radiographs_equal_their_red_channel(nih_root):
    names = [path for path in sorted((nih_root / "images").iterdir()) if Image.open(path).mode == "RGBA"]
    assert len(names) == 3
    for path in names:
        channels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(read_radiograph(path), channels[..., 2])


def test_real_originals_shrink_to_the_published_small_ones(nih_root):
    for path in sorted((nih_root / "images").iterdir())[:5]:
        small = read_radiograph(nih_root / "images_256" / f"{path.stem}.jpg").astype(int)
        assert np.abs(resize_square(read_radiograph(path), 256) - small).mean() < 2  # JPEG's loss, no shift, no flip
