"""Pixels against values computed by hand, broken files against one readable sentence."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_seam.data.image_io import image_files, load_image, resize_square
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
    assert np.array_equal(load_image(encoded(GREY)).pixels, GREY)
    assert load_image(encoded(GREY)).pixels.dtype == np.uint8


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 23), (64, 40)])
def test_interlaced_greys_keep_their_values(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    # Adam7: first row and column and steps of the seven passes; every row begins with filter 0.
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row for top, left, down, right in passes for row in pixels[top::down, left::right]]
    data = grey_png(width, height, b"".join(b"\0" + row.tobytes() for row in rows), interlaced=True)
    assert np.array_equal(load_image(data).pixels, pixels)


def test_transparent_grey_level_is_black():
    grey = load_image(encoded(GREY, transparency=200)).pixels
    assert np.array_equal(grey, np.where(GREY == 200, 0, GREY))


def test_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert np.array_equal(load_image(encoded(GREY, exif=exif)).pixels, GREY)
    assert load_image(encoded(GREY, "JPEG", exif=exif)).pixels.shape == GREY.shape


def test_real_grey_images_equal_pillow(nih_root):
    for path in sorted((nih_root / "images").iterdir()):
        with Image.open(path) as image:
            if image.mode == "L":
                assert np.array_equal(load_image(path).pixels, np.asarray(image))


def test_path_file_and_bytes(tmp_path):
    path = tmp_path / "with space.png"
    path.write_bytes(encoded(GREY))
    with path.open("rb") as file:
        assert np.array_equal(load_image(file).pixels, GREY)
    assert np.array_equal(load_image(path).pixels, GREY)
    assert np.array_equal(load_image(str(path)).pixels, GREY)


@pytest.mark.parametrize("channels", [3, 4])
def test_equal_channels(channels):
    pixels = np.repeat(GREY[..., None], channels, axis=2)
    if channels == 4:
        pixels[..., 3] = 255
    assert np.array_equal(load_image(encoded(pixels)).pixels, GREY)


def test_colour_becomes_luminance():
    # 0.299 * 255 = 76.2, 0.587 * 255 = 149.7, 0.114 * 255 = 29.1
    for channel, expected in enumerate((76, 150, 29)):
        pixels = np.zeros((20, 20, 3), np.uint8)
        pixels[..., channel] = 255
        assert (load_image(encoded(pixels)).pixels == expected).all()


def test_palette():
    image = Image.fromarray(GREY).convert("P")
    image.putpalette([value for level in range(256) for value in (255 - level,) * 3])
    assert np.array_equal(load_image(encoded(image)).pixels, 255 - GREY)


def test_one_bit_image():
    image = Image.fromarray(np.where(GREY > 128, 255, 0).astype(np.uint8)).convert("1")
    assert np.array_equal(load_image(encoded(image)).pixels, np.where(GREY > 128, 255, 0))


def test_transparency_is_laid_over_black():
    pixels = np.full((20, 20, 4), 200, np.uint8)
    pixels[:10, :, 3] = 0
    pixels[10:, :, 3] = 128
    grey = load_image(encoded(pixels)).pixels
    assert (grey[:10] == 0).all()
    assert (grey[10:] == 100).all()  # 200 * 128 / 255 = 100.4


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bits_are_scaled_by_depth_in_use(bits):
    full = 2**bits - 1
    values = np.linspace(0, full, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    grey = load_image(encoded(values)).pixels
    assert grey.min() == 0 and grey.max() == 255
    assert np.abs(grey - values * (255 / full)).max() <= 0.51


def test_sixteen_bits_of_several_channels_give_the_grey_picture(fault_inputs):
    folder = fault_inputs / "sixteen_bits"
    grey = load_image(folder / "grey.png").pixels.astype(int)
    assert grey.max() == 255
    for name in ("rgb.png", "rgb.tif", "rgba.png", "grey_alpha.png"):
        radiograph = load_image(folder / name)
        assert np.abs(radiograph.pixels - grey).max() <= 1 and radiograph.color_fraction == 0, name


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_sixteen_bit_colour(suffix, bits):
    """Luminance of what OpenCV writes: blue, green, red, and transparency that does not count for the depth."""
    full, ramp = 2**bits - 1, np.linspace(0, 1, 32 * 32).reshape(32, 32)
    blue, green, red = (np.round(full * channel).astype(np.uint16) for channel in (ramp, 1 - ramp, ramp**2))
    expected = (0.299 * red + 0.587 * green + 0.114 * blue) * (255 / full)
    radiograph = load_image(cv2.imencode(suffix, np.dstack([blue, green, red]))[1].tobytes())
    assert np.abs(radiograph.pixels - expected).max() <= 0.52 and radiograph.color_fraction > 0.5
    alpha = np.where(ramp < 0.5, 0, 65535).astype(np.uint16)
    shown = load_image(cv2.imencode(suffix, np.dstack([blue, green, red, alpha]))[1].tobytes()).pixels
    assert np.abs(shown - np.where(alpha > 0, expected, 0)).max() <= 0.52


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_colour_cut_short(suffix):
    noise = np.random.default_rng(0).integers(0, 65536, (40, 40, 3), dtype=np.uint16)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    for length in (len(data) // 3, len(data) // 2, len(data) - 20):
        with pytest.raises(InputError, match="image"):
            load_image(data[:length], name="image")


def test_transparent_level_of_sixteen_bit_grey():
    values = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    data = encoded(values)
    level = int(values[20, 5])
    chunk = b"tRNS" + level.to_bytes(2, "big")
    chunk = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    shown = load_image(data[:33] + chunk + data[33:]).pixels  # after the header
    assert np.abs(shown - np.where(values == level, 0, values / 257)).max() <= 0.51


def test_jpeg_of_twelve_bits_is_explained():
    data = bytearray(encoded(GREY, "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(InputError, match="image.jpg has pixels that cannot be read .*12-bit.*; save it as grey PNG"):
        load_image(bytes(data), name="image.jpg")


def test_empty_path():
    for read in (load_image, image_files):
        with pytest.raises(InputError, match="path of the image"):
            read("")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff(compression):
    assert np.array_equal(load_image(encoded(GREY, "TIFF", compression=compression)).pixels, GREY)
    assert np.array_equal(load_image(encoded(np.dstack([GREY] * 3), "TIFF", compression=compression)).pixels, GREY)


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_sixteen_bit_tiff_with_white_is_zero(white_is_zero):
    values = np.linspace(0, 4095, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    grey = load_image(encoded(values, "TIFF", tiffinfo={262: 0 if white_is_zero else 1})).pixels
    expected = values * (255 / 4095)
    assert np.abs(grey - (255 - expected if white_is_zero else expected)).max() <= 0.51


def test_tiff_with_pages_or_fractions():
    page = Image.fromarray(GREY)
    with pytest.raises(InputError, match="image.tif"):
        load_image(encoded(page, "TIFF", save_all=True, append_images=[page]), name="image.tif")
    with pytest.raises(InputError, match="image.tif"):
        load_image(encoded(GREY.astype(np.float32), "TIFF"), name="image.tif")


def test_jpeg():
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    assert np.abs(load_image(encoded(smooth, "JPEG", quality=95)).pixels.astype(int) - smooth).max() <= 4


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8193, 10_000, 20_000, 2_000_000_000])
def test_decompression_bomb(side):
    with pytest.raises(InputError, match="bomb.png"):
        load_image(grey_png(side, side, b"\0"), name="bomb.png")


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
def test_other_files(data, sentence, tmp_path):
    path = tmp_path / "00000001_000.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=sentence) as error:
        load_image(path)
    assert "00000001_000.png" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_png_cut_or_altered_anywhere(mode, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    pixels = {"L": noise, "RGBA": np.dstack([noise, noise, noise, noise | 255]), "I;16": noise.astype(np.uint16) * 257}
    whole = encoded(pixels[mode])
    damaged = [whole[:length] for length in range(len(whole))]
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 4
        damaged.append(bytes(altered))
    for data in damaged:
        with pytest.raises(InputError, match="^image.png"):
            load_image(data, name="image.png")
    assert capfd.readouterr().err == ""  # libraries add nothing of their own


def test_png_with_too_few_rows():
    with pytest.raises(InputError, match="image.png"):
        load_image(grey_png(32, 32, (b"\0" + bytes(32)) * 31), name="image.png")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="nowhere.png"):
        load_image(tmp_path / "nowhere.png")


def test_file_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_seam.data.image_io.MAX_BYTES", 100)
    (tmp_path / "long.png").write_bytes(encoded(GREY))
    with pytest.raises(InputError, match="long.png"):
        load_image(tmp_path / "long.png")


def test_resize_is_mean_of_areas():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    means = pixels.reshape(16, 4, 16, 6).mean(axis=(1, 3))
    assert np.abs(resize_square(pixels, 16) - means).max() <= 0.5 + 1e-6


def test_resize_of_one_axis_does_not_alias():
    # Columns alternate 0 and 200: averaging gives 100 everywhere, sampling would give 0 or 200.
    pixels = np.tile(np.array([0, 200], np.uint8), (10, 64))
    assert (resize_square(pixels, 32) == 100).all()


@pytest.mark.parametrize("shape", [(16, 16), (100, 30), (31, 77), (32, 32)])
def test_resize_gives_square(shape):
    result = resize_square(np.full(shape, 77, np.uint8), 32)
    assert result.shape == (32, 32) and result.dtype == np.uint8
    assert (result == 77).all()


def test_real_rgba_images_equal_red_channel(nih_root):
    names = [path for path in sorted((nih_root / "images").iterdir()) if Image.open(path).mode == "RGBA"]
    assert len(names) == 3
    for path in names:
        channels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(load_image(path).pixels, channels[..., 2])


def test_real_originals_resize_to_published_small_images(nih_root):
    for path in sorted((nih_root / "images").iterdir())[:5]:
        small = load_image(nih_root / "images_256" / f"{path.stem}.jpg").pixels.astype(int)
        assert np.abs(resize_square(load_image(path).pixels, 256) - small).mean() < 2  # JPEG's loss, no shift, no flip


def test_image_files_are_told_by_bytes(tmp_path):
    """The picture decides: JPEGs under four names, one without a suffix, and three formats that are not read."""
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    for name in ("a.jpg", "b.jfif", "c.dcm", "IM0001"):
        Image.fromarray(grey).save(tmp_path / name, "JPEG")
    for name in ("d.bmp", "e.webp", "f.jp2"):
        Image.fromarray(grey).save(tmp_path / name)
    with pytest.warns(UserWarning, match=r"^3 files are left out.*d\.bmp, .*e\.webp, .*f\.jp2$"):
        files = image_files(tmp_path)
    assert [file.name for file in files] == ["IM0001", "a.jpg", "b.jfif", "c.dcm"]
    first, *others = (load_image(file).pixels for file in files)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.filterwarnings("error")
def test_image_files_follow_links_and_end_loops(tmp_path):
    for name in ("data/images_001/a.png", "elsewhere/images_002/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((20, 20), 7, np.uint8)).save(tmp_path / name)
    data = tmp_path / "data"
    (data / "images_002").symlink_to("../elsewhere/images_002")
    (data / "again").symlink_to("images_001")  # sorts before the folder that it leads to
    (data / "images_001" / "up").symlink_to("..")
    assert image_files(data) == [data / "images_001" / "a.png", data / "images_002" / "b.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipe_is_not_opened(tmp_path):
    """Opening a pipe that nobody writes to would wait forever."""
    Image.fromarray(np.full((20, 20), 7, np.uint8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.warns(UserWarning, match="1 file is left out.*pipe.png"):
        assert image_files(tmp_path) == [tmp_path / "a.png"]
    with pytest.raises(InputError, match="pipe.png .*not a file"):
        load_image(tmp_path / "pipe.png")
