"""Bad input: image files, one at a time and in folders."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO

import numpy as np
from helpers.dicom_files import film, written
from PIL import Image
from runner import Act, Expected, Place, case, refused, works

from cxr_seam.data.image_io import image_files, load_image, read_radiograph

IMAGE, DICOM = "image", "DICOM film"
RAMP = (np.arange(48 * 40) % 251).astype(np.uint8).reshape(48, 40)
SAME = "the pixels that were written"


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def claimed_png(width: int, height: int, *, colour: int = 0, rows: bytes = b"\0") -> bytes:
    """A PNG with right checksums that claims so many pixels, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def claimed_jpeg(side: int) -> bytes:
    """A JPEG whose header claims a square of that side."""
    data = bytearray(encoded(RAMP, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def add(given: str, expected: Expected, data: bytes, *, name: str = "film.png", door: str = IMAGE) -> None:
    """A case of one file; the act compares its pixels with `RAMP`."""

    def lay_out(place: Place) -> Act:
        path = place.write(name, data)
        return lambda: SAME if np.array_equal(read_radiograph(path), RAMP) else "other pixels"

    case(door, given, expected)(lay_out)


whole = encoded(RAMP)
add("empty", refused("film.png", "is empty; fetch it again"), b"")
add("cut in the middle", refused("film.png", "cut short"), whole[: len(whole) // 2])
add(
    "a flipped bit in its pixels", refused("film.png", "checksum in it does not fit"), whole[:90] + b"\x55" + whole[91:]
)
add("a JPEG cut short", refused("film.jpg", "cut short"), encoded(RAMP, "JPEG")[:-300], name="film.jpg")
add("a TIFF cut short", refused("film.tif", "fetch it again"), encoded(RAMP, "TIFF")[:200], name="film.tif")
add("random bytes", refused("film.png", "convert it"), np.random.default_rng(0).bytes(5000))
add("a web page", refused("film.png", "a web page or XML text; convert it"), b"<html>404</html>")
add("text named png", refused("film.png", "convert it"), b"not an image")
add("a GIF named png", refused("film.png", "convert it"), encoded(RAMP, "GIF"))
add("1x1", refused("film.png", "1x1 pixels; a radiograph needs at least 16"), encoded(RAMP[:1, :1]))
add("a strip of 15 rows", refused("film.png", "40x15 pixels"), encoded(RAMP[:15]))
bomb = "more than any radiograph has; it was not opened"
add("a decompression bomb of 20,000 x 20,000 greys", refused("film.png", bomb), claimed_png(20_000, 20_000))
add("one of 10,000 x 10,000 colours", refused("film.png", bomb), claimed_png(10_000, 10_000, colour=2))
add("one of 20,000 x 20,000 colours", refused("film.png", "it was not opened"), claimed_png(20_000, 20_000, colour=2))
add("a JPEG that claims 10,000 x 10,000", refused("film.jpg", bomb), claimed_jpeg(10_000), name="film.jpg")
add("a JPEG that claims 65,500 x 65,500", refused("film.jpg", "not opened"), claimed_jpeg(65_500), name="film.jpg")
add("fewer rows than its header claims", refused("film.png", "cut short"), claimed_png(32, 32, rows=bytes(33 * 31)))
add("RGBA", works(SAME), encoded(np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)])))
add("a palette", works(SAME), encoded(Image.fromarray(RAMP).convert("P")))
add(
    "fractions",
    refused("film.tif", "save it with 8 or 16 bits"),
    encoded(RAMP / np.float32(255), "TIFF"),
    name="film.tif",
)
add(
    "negative values",
    refused("film.tif", "save it with 8 or 16 bits"),
    encoded(RAMP.astype(np.int32) - 9, "TIFF"),
    name="film.tif",
)
add(
    "a TIFF of two pages",
    refused("film.tif", "save the one you mean alone"),
    encoded(Image.fromarray(RAMP), "TIFF", save_all=True, append_images=[Image.fromarray(RAMP)]),
    name="film.tif",
)
add("a path with spaces and umlauts", works(SAME), whole, name="Röntgen bilder/Film  №1 ä.png")
add("a name with a line break", refused("film.png", "is empty; fetch it again"), b"", name="a\nfilm.png")


@case(IMAGE, "16 bits of a 12-bit detector", works("from 0 to 255"))
def sixteen(place: Place) -> Act:
    path = place.write("film.png", encoded(np.linspace(0, 4095, 400).astype(np.uint16).reshape(20, 20)))
    return lambda: "from {} to {}".format(*(f(read_radiograph(path)) for f in (np.min, np.max)))


@case(IMAGE, "missing", refused("film.png", "correct the path"))
def missing(place: Place) -> Act:
    return lambda: read_radiograph(place.folder / "film.png")


@case(IMAGE, "a folder in its place", refused("film.png", "correct the path"))
def a_folder(place: Place) -> Act:
    (place.folder / "film.png").mkdir()
    return lambda: read_radiograph(place.folder / "film.png")


@case(IMAGE, "a name with a zero byte", refused("film", "correct the path"))
def zero_byte(place: Place) -> Act:
    return lambda: read_radiograph("film\0.png")


@case(IMAGE, "a name of 5,000 letters", refused("xxx", "correct the path"))
def long_name(place: Place) -> Act:
    return lambda: read_radiograph("x" * 5000)


@case(IMAGE, "a folder without an image", refused("films", "give a folder with PNG, JPEG, TIFF or DICOM"))
def empty_folder(place: Place) -> Act:
    place.write("films/readme.txt", "none")
    return lambda: image_files(place.folder / "films")


@case(IMAGE, "a link to nowhere among the files of a folder", refused("b.png", "correct the path"))
def dangling(place: Place) -> Act:
    place.write("films/a.png", whole)
    os.symlink("gone.png", place.folder / "films" / "b.png")
    return lambda: [read_radiograph(path) for path in image_files(place.folder / "films")]


dicom = written(film(RAMP))
add("without a preamble", works(SAME), dicom[132:], name="film.dcm", door=DICOM)
add("cut in its header", refused("film.dcm", "fetch it again"), dicom[:200], name="film.dcm", door=DICOM)
add("cut in its pixels", refused("film.dcm", "export it again"), dicom[:-500], name="film.dcm", door=DICOM)
add("not DICOM at all", refused("film.dcm", "fetch it again"), b"hello", name="film.dcm", door=DICOM)
add("a PNG named dcm", works(SAME), whole, name="film.dcm", door=DICOM)


def odd(given: str, expected: Expected, **entries: object) -> None:
    """A DICOM file with some entries changed."""

    def lay_out(place: Place) -> Act:
        made = film(RAMP)
        for keyword, value in entries.items():
            if value is None:
                delattr(made, keyword)
            else:
                setattr(made, keyword, value)
        path = place.write("film.dcm", written(made))
        return lambda: SAME if np.array_equal(load_image(path).pixels, RAMP) else "other pixels"

    case(DICOM, given, expected)(lay_out)


odd("no pixels", refused("film.dcm", "holds no image; give a radiograph"), PixelData=None)
odd("three frames", refused("film.dcm", "save the one you mean"), NumberOfFrames=3)
odd("20,000 x 20,000 claimed", refused("film.dcm", bomb), Rows=20_000, Columns=20_000)
odd("no rows", refused("film.dcm", "holds no image"), Rows=0)
odd("fewer pixels than rows and columns", refused("film.dcm", "export it again"), Rows=400)
odd("an unknown kind of pixels", refused("film.dcm", "export it again"), PhotometricInterpretation="MONOCHROME7")
odd("99 bits a pixel", refused("film.dcm", "export it again"), BitsAllocated=99)
odd("a window of no width", refused("film.dcm", "export it again"), WindowCenter=100, WindowWidth=0)
odd("a rescale that is no number", refused("film.dcm", "export it again"), RescaleSlope="nan", RescaleIntercept="0")


@case(DICOM, "a deflate bomb: 300 MB of zeros", refused("film.dcm", "it was not opened"))
def deflate_bomb(place: Place) -> Act:
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    made = written(film(RAMP, syntax=DeflatedExplicitVRLittleEndian))
    end = 144 + int.from_bytes(made[140:144], "little")
    packer = zlib.compressobj(1, wbits=-15)
    body = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    path = place.write("film.dcm", made[:end] + body)
    return lambda: read_radiograph(path)
