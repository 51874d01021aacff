"""Bad input in image files, one at a time and in folders."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO

import numpy as np
from helpers.dicom_files import dicom_bytes, make_dataset
from PIL import Image
from runner import Action, Expected, Sandbox, case, refused, works

from cxr_seam.data.image_io import image_files, load_image

IMAGE, DICOM = "image", "DICOM image"
RAMP = (np.arange(48 * 40) % 251).astype(np.uint8).reshape(48, 40)
SAME = "the pixels that were written"


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def claimed_png(width: int, height: int, *, colour: int = 0, rows: bytes = b"\0") -> bytes:
    """Return a PNG with valid checksums that claims `width` x `height` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def claimed_jpeg(side: int) -> bytes:
    """Return a JPEG that claims `side` x `side` pixels."""
    data = bytearray(encoded(RAMP, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def add(description: str, expected: Expected, data: bytes, *, name: str = "image.png", group: str = IMAGE) -> None:
    """Add a case of one file; the action compares its pixels with `RAMP`."""

    def prepare_case(sandbox: Sandbox) -> Action:
        path = sandbox.write(name, data)
        return lambda: SAME if np.array_equal(load_image(path).pixels, RAMP) else "other pixels"

    case(group, description, expected)(prepare_case)


whole = encoded(RAMP)
add("empty", refused("image.png"), b"")
add("cut in the middle", refused("image.png"), whole[: len(whole) // 2])
add("a flipped bit in its pixels", refused("image.png"), whole[:90] + b"\x55" + whole[91:])
add("a JPEG cut short", refused("image.jpg"), encoded(RAMP, "JPEG")[:-300], name="image.jpg")
add("a TIFF cut short", refused("image.tif"), encoded(RAMP, "TIFF")[:200], name="image.tif")
add("random bytes", refused("image.png"), np.random.default_rng(0).bytes(5000))
add("a web page", refused("image.png"), b"<html>404</html>")
add("text named png", refused("image.png"), b"not an image")
add("a GIF named png", refused("image.png"), encoded(RAMP, "GIF"))
add("1x1", refused("image.png", "1x1"), encoded(RAMP[:1, :1]))
add("a strip of 15 rows", refused("image.png", "40x15"), encoded(RAMP[:15]))
bomb = "more than any radiograph has; it was not opened"
add("a decompression bomb of 20,000 x 20,000 greys", refused("image.png"), claimed_png(20_000, 20_000))
add("one of 10,000 x 10,000 colours", refused("image.png"), claimed_png(10_000, 10_000, colour=2))
add("one of 20,000 x 20,000 colours", refused("image.png"), claimed_png(20_000, 20_000, colour=2))
add("a JPEG that claims 10,000 x 10,000", refused("image.jpg"), claimed_jpeg(10_000), name="image.jpg")
add("a JPEG that claims 65,500 x 65,500", refused("image.jpg"), claimed_jpeg(65_500), name="image.jpg")
add("fewer rows than its header claims", refused("image.png"), claimed_png(32, 32, rows=bytes(33 * 31)))
add("RGBA", works(SAME), encoded(np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)])))
add("a palette", works(SAME), encoded(Image.fromarray(RAMP).convert("P")))
add("fractions", refused("image.tif"), encoded(RAMP / np.float32(255), "TIFF"), name="image.tif")
add("negative values", refused("image.tif"), encoded(RAMP.astype(np.int32) - 9, "TIFF"), name="image.tif")
add(
    "a TIFF of two pages",
    refused("image.tif"),
    encoded(Image.fromarray(RAMP), "TIFF", save_all=True, append_images=[Image.fromarray(RAMP)]),
    name="image.tif",
)
add("a path with spaces and umlauts", works(SAME), whole, name="Röntgen bilder/Bild  №1 ä.png")
add("a name with a line break", refused("image.png"), b"", name="a\nimage.png")


@case(IMAGE, "16 bits of a 12-bit detector", works("from 0 to 255"))
def sixteen(sandbox: Sandbox) -> Action:
    path = sandbox.write("image.png", encoded(np.linspace(0, 4095, 400).astype(np.uint16).reshape(20, 20)))
    return lambda: "from {} to {}".format(*(f(load_image(path).pixels) for f in (np.min, np.max)))


@case(IMAGE, "a folder in its place", refused("image.png"))
def a_folder(sandbox: Sandbox) -> Action:
    (sandbox.folder / "image.png").mkdir()
    return lambda: load_image(sandbox.folder / "image.png").pixels


def add_path(description: str, path: str, expected: Expected) -> None:
    """Add a case of a path without a file."""
    case(IMAGE, description, expected)(lambda sandbox: lambda: load_image(path).pixels)


add_path("an empty path", "", refused("path of the image"))
add_path("missing", "image.png", refused("image.png"))
add_path("a name with a zero byte", "image\0.png", refused("image"))
add_path("a name of 5,000 letters", "x" * 5000, refused("xxx"))


@case(IMAGE, "a folder without an image", refused("images"))
def empty_folder(sandbox: Sandbox) -> Action:
    sandbox.write("images/readme.txt", "none")
    return lambda: image_files(sandbox.folder / "images")


@case(IMAGE, "a dangling link in a folder", refused("b.png"))
def dangling(sandbox: Sandbox) -> Action:
    sandbox.write("images/a.png", whole)
    os.symlink("gone.png", sandbox.folder / "images" / "b.png")
    return lambda: [load_image(path).pixels for path in image_files(sandbox.folder / "images")]


dicom = dicom_bytes(make_dataset(RAMP))
add("without a preamble", works(SAME), dicom[132:], name="image.dcm", group=DICOM)
add("cut in its header", refused("image.dcm"), dicom[:200], name="image.dcm", group=DICOM)
add("cut in its pixels", refused("image.dcm"), dicom[:-500], name="image.dcm", group=DICOM)
add("not DICOM at all", refused("image.dcm"), b"hello", name="image.dcm", group=DICOM)
add("a PNG named dcm", works(SAME), whole, name="image.dcm", group=DICOM)


def add_dicom(description: str, expected: Expected, **entries: object) -> None:
    """Add a case of a DICOM file with changed entries; None deletes one."""

    def prepare_case(sandbox: Sandbox) -> Action:
        dataset = make_dataset(RAMP)
        for keyword, value in entries.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        path = sandbox.write("image.dcm", dicom_bytes(dataset))
        return lambda: SAME if np.array_equal(load_image(path).pixels, RAMP) else "other pixels"

    case(DICOM, description, expected)(prepare_case)


add_dicom("no pixels", refused("image.dcm"), PixelData=None)
add_dicom("three frames", refused("image.dcm"), NumberOfFrames=3)
add_dicom("20,000 x 20,000 claimed", refused("image.dcm"), Rows=20_000, Columns=20_000)
add_dicom("no rows", refused("image.dcm"), Rows=0)
add_dicom("fewer pixels than rows and columns", refused("image.dcm"), Rows=400)
add_dicom("an unknown kind of pixels", refused("image.dcm"), PhotometricInterpretation="MONOCHROME7")
add_dicom("99 bits a pixel", works(SAME), BitsAllocated=99)
add_dicom("a window of no width", works(SAME), WindowCenter=100, WindowWidth=0)
add_dicom("a rescale that is no number", works(SAME), RescaleSlope="nan", RescaleIntercept="0")
add_dicom("a rescale beyond all numbers", refused("image.dcm"), RescaleSlope="1e308", RescaleIntercept="1e308")


@case(DICOM, "a deflate bomb: 300 MB of zeros", refused("image.dcm"))
def deflate_bomb(sandbox: Sandbox) -> Action:
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset = dicom_bytes(make_dataset(RAMP, syntax=DeflatedExplicitVRLittleEndian))
    end = 144 + int.from_bytes(dataset[140:144], "little")
    packer = zlib.compressobj(1, wbits=-15)
    body = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    path = sandbox.write("image.dcm", dataset[:end] + body)
    return lambda: load_image(path).pixels
