"""Bad input in archives and folders of images, and in the cache that they fill."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
from cases_images import claimed_png
from helpers.archives import fill, is_whole, name, png, tree
from PIL import Image
from runner import Action, Expected, Sandbox, case, file_size_limit, refused, warns, works

from cxr_seam.data.cache import ImageCache

ARCHIVE, FOLDER, CACHE, DISK = "archive", "folder of images", "cache", "folder of the cache"
IMAGES = {name(k): png(10 * k) for k in range(1, 4)}
SAME = "the three images that were written"
TWO = "the two images that are intact"
FILLED = ("cache", "cache/images.u8", "cache/index.json")


def describe(cache: ImageCache) -> str:
    """Describe the images of a cache after comparing their checksums."""
    assert is_whole(cache)
    return {3: SAME, 2: TWO}.get(len(cache), f"{len(cache)} images")


def prepare_cache(sandbox: Sandbox, source: str) -> Action:
    """Prepare a cache from a source and open it again."""
    return lambda: describe(ImageCache.open(fill(sandbox.folder / source, sandbox.folder / "cache").folder))


def add(description: str, expected: Expected, file: str, data: bytes, *, leaves: tuple[str, ...] = ()) -> None:
    """Add a case of one archive."""

    def prepare_case(sandbox: Sandbox) -> Action:
        sandbox.write(file, data)
        return prepare_cache(sandbox, file)

    case(ARCHIVE, description, expected, leaves=leaves)(prepare_case)


Members = dict[str, bytes] | list[tuple[str, bytes]]


def tarred(members: Members, mode: str = "w:gz", *more: tarfile.TarInfo) -> bytes:
    """Return a tar archive; `more` are members without content, such as links."""
    with tarfile.open(fileobj=(file := io.BytesIO()), mode=mode) as archive:
        for member, data in dict(members).items() if isinstance(members, dict) else members:
            header = tarfile.TarInfo(member)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
        for header in more:
            archive.addfile(header)
    return file.getvalue()


def zip_of(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", kind) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return file.getvalue()


def link(kind: bytes, member: str, target: str) -> tarfile.TarInfo:
    header = tarfile.TarInfo(member)
    header.type, header.linkname = kind, target
    return header


whole = tarred(IMAGES)
add("empty", refused("a.tar.gz"), "a.tar.gz", b"")
add("a web page", refused("a.tar.gz"), "a.tar.gz", b"<html>gone</html>")
add("a PNG named tar.gz", refused("a.tar.gz"), "a.tar.gz", png(1))
add("a tar.xz", refused("a.tar.xz"), "a.tar.xz", tarred(IMAGES, "w:xz"))
add("gzip cut in its header", refused("a.tar.gz"), "a.tar.gz", whole[:6])
add("gzip of something else", refused("a.tar.gz"), "a.tar.gz", gzip.compress(b"hello" * 500))
add("a tar.gz cut behind its images", refused("a.tar.gz"), "a.tar.gz", whole[:-9], leaves=FILLED)
add("a tar.gz with a wrong checksum", refused("a.tar.gz"), "a.tar.gz", whole[:-8] + b"abcd" + whole[-4:], leaves=FILLED)
add("a zip without its end", refused("a.zip"), "a.zip", zip_of(IMAGES)[:-30])
add("a member that leads out of the folder, ../x.png", refused("a.tar.gz"), "a.tar.gz", tarred({"../x.png": png(1)}))
add("an absolute member, /tmp/x.png", refused("a.zip"), "a.zip", zip_of({"/tmp/x.png": png(1)}))
add("a member that leads out of the folder, ..\\x.png", refused("a.zip"), "a.zip", zip_of({"..\\x.png": png(1)}))
add("a member on a drive, C:\\x.png", refused("a.zip"), "a.zip", zip_of({"C:\\x.png": png(1)}))
add(
    "a symbolic link to a file outside",
    warns(SAME, name(4)),
    "a.tar.gz",
    tarred(IMAGES, "w:gz", link(tarfile.SYMTYPE, name(4), "/etc/passwd")),
)
add(
    "a hard link to a member",
    warns(SAME, name(4)),
    "a.tar",
    tarred(IMAGES, "w", link(tarfile.LNKTYPE, name(4), name(1))),
)
add("a symbolic link in a zip", warns(SAME, name(4)), "a.zip", zip_of(IMAGES | {name(4): b"/etc/passwd"}))
add(
    "a pipe and a device for images",
    refused("a.tar"),
    "a.tar",
    tarred({}, "w", link(tarfile.FIFOTYPE, name(4), ""), link(tarfile.CHRTYPE, name(5), "")),
)
add(
    "other files beside the images",
    warns(SAME, "README"),
    "a.zip",
    zip_of({"README": b"x", "a.exe": b"MZ", "._a.png": b"x"} | IMAGES),
)
add("no image", refused("a.zip"), "a.zip", zip_of({"a.txt": b"x"}))
add("an archive in an archive", refused("out.tar.gz"), "out.tar.gz", tarred({"a.tar.gz": whole}))
add("the same image twice", warns(SAME, name(1)), "a.tar", tarred([*IMAGES.items(), (name(1), png(99))]))
add("an empty image among others", warns(SAME, name(9)), "a.tar.gz", tarred({name(9): b""} | IMAGES))
add(
    "names with spaces and umlauts",
    works(SAME),
    "Röntgen bilder.zip",
    zip_of({f"Ärzte/{k} ü.png": v for k, v in IMAGES.items()}),
)


@case(ARCHIVE, "a zip bomb: 300 MB in one image", warns(SAME, name(9)))
def bomb_in_a_zip(sandbox: Sandbox) -> Action:
    with zipfile.ZipFile(sandbox.folder / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, data in IMAGES.items():
            archive.writestr(member, data)
        with archive.open(name(9), "w") as file:
            for _ in range(300):
                file.write(bytes(2**20))
    return prepare_cache(sandbox, "a.zip")


@case(ARCHIVE, "a zip bomb that claims a small length", warns(SAME, name(9)))
def lying_bomb(sandbox: Sandbox) -> Action:
    data = bytearray(zip_of(IMAGES | {name(9): bytes(2**20)}, zipfile.ZIP_DEFLATED))
    start = data.rindex(b"PK\1\2") + 24
    data[start : start + 4] = struct.pack("<I", 1000)
    sandbox.write("a.zip", bytes(data))
    return prepare_cache(sandbox, "a.zip")


@case(ARCHIVE, "a tar that claims an image of 8 TB", refused("a.tar"), leaves=FILLED)
def huge_member(sandbox: Sandbox) -> Action:
    header = tarfile.TarInfo(name(9))
    header.size = 2**43
    sandbox.write("a.tar", tarred(IMAGES, "w", header))
    return prepare_cache(sandbox, "a.tar")


@case(ARCHIVE, "a tar whose header of a long name has 40 MB", refused("a.tar.gz"))
def huge_header(sandbox: Sandbox) -> Action:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 40 * 2**20
    with gzip.open(sandbox.folder / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(40):
            file.write(b"a" * 2**20)
        file.write(tarred(IMAGES, "w"))
    return prepare_cache(sandbox, "a.tar.gz")


def damaged_zip(change: Callable[[bytearray], object], kind: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive with bytes of its first image changed."""
    data = bytearray(zip_of(IMAGES, kind))
    change(data)
    return bytes(data)


def wrong_checksum(data: bytearray) -> None:
    data[data.index(b"IDAT") + 6] ^= 0xFF


def encrypted(data: bytearray) -> None:
    data[data.index(b"PK\3\4") + 6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1


def unknown_compression(data: bytearray) -> None:
    data[data.index(b"PK\3\4") + 8] = data[data.index(b"PK\1\2") + 10] = 97


def broken_lzma(data: bytearray) -> None:
    start = data.index(name(1).encode()) + len(name(1))
    data[start + 4 : start + 40] = b"\xff" * 36


add("an image with a wrong checksum in a zip", warns(TWO, name(1)), "a.zip", damaged_zip(wrong_checksum))
add("an image behind a password", warns(TWO, name(1)), "a.zip", damaged_zip(encrypted))
add("an unknown compression in a zip", warns(TWO, name(1)), "a.zip", damaged_zip(unknown_compression))
add("broken LZMA in a zip", warns(TWO, name(1)), "a.zip", damaged_zip(broken_lzma, zipfile.ZIP_LZMA))
case(ARCHIVE, "missing", refused("a.tar.gz"))(lambda sandbox: prepare_cache(sandbox, "a.tar.gz"))


def add_folder(
    description: str, expected: Expected, files: dict[str, bytes], *, folder: str = "images", link: tuple[str, str] = ()
) -> None:
    """Add a case of a folder with files and perhaps a symbolic link (target, name)."""

    def prepare_case(sandbox: Sandbox) -> Action:
        path = tree(sandbox.folder / folder, files)
        path.mkdir(exist_ok=True)
        if link:
            os.symlink(link[0], path / link[1])
        return prepare_cache(sandbox, folder)

    case(FOLDER, description, expected)(prepare_case)


add_folder("empty", refused("images"), {})
add_folder("only broken images", refused(name(1)), {name(k): b"junk" for k in range(1, 4)})
add_folder("one broken image among others", warns(SAME, name(7)), IMAGES | {name(7): png(1)[:60]})
bomb = {name(7): claimed_png(20_000, 20_000)}
add_folder("a bomb of 20,000 x 20,000 among others", warns(SAME, name(7)), IMAGES | bomb)
add_folder("a folder named like an image", warns(SAME, "readme"), IMAGES | {"a.png/readme": b"x"})
add_folder("a dangling link", warns(SAME, name(7)), IMAGES, link=("gone", name(7)))
add_folder("a link to its own folder", works(SAME), IMAGES, link=(".", "again"))
umlauts = {f"ä ö/{member}": data for member, data in IMAGES.items()}
add_folder("a path with spaces and umlauts", works(SAME), umlauts, folder="Röntgen bilder №1")


def add_size(description: str, size: int) -> None:
    """Add a case of an impossible image size."""

    def prepare_case(sandbox: Sandbox) -> Action:
        images = tree(sandbox.folder / "images", IMAGES)
        return lambda: fill(images, sandbox.folder / "cache", size=size)

    case(FOLDER, description, refused("size"))(prepare_case)


add_size("a size of 0 pixels", 0)
add_size("a size of 1,000,000 pixels", 10**6)
case(FOLDER, "no source at all", refused("source"))(lambda sandbox: lambda: fill([], sandbox.folder / "cache"))


def add_index(description: str, expected: Expected, change: Callable[[str], str], file: str = "index.json") -> None:
    """Add a case of a cache with a changed index; the action opens and reads it."""

    def prepare_case(sandbox: Sandbox) -> Action:
        cache = good_cache(sandbox)
        path = cache.folder / file
        path.write_text(change(path.read_text()))

        def action() -> str:
            again = ImageCache.open(cache.folder)
            again.load(again.indices(IMAGES))
            return describe(again)

        return action

    case(CACHE, description, expected)(prepare_case)


def change_entries(**values: object) -> Callable[[str], str]:
    """Change entries of the index."""
    return lambda text: json.dumps(json.loads(text) | values)


add_index("an index cut short", refused("index.json"), lambda text: text[: len(text) // 2])
add_index("an empty index", refused("index.json"), lambda text: "")
add_index("an index of zeros", refused("index.json"), lambda text: "\0" * len(text))
add_index("an index of 100,000 brackets", refused("index.json"), lambda text: "[" * 100_000)
add_index("another version", refused("index.json"), change_entries(version=3))
add_index("another program's JSON", refused("index.json"), lambda text: '{"nbformat": 4}')
add_index("a size in letters", refused("index.json"), change_entries(size="16"))
add_index("a negative size", refused("index.json"), change_entries(size=-16))
add_index("a fractional size", refused("index.json"), change_entries(size=15.9))
add_index("a size of 0", refused("index.json"), change_entries(size=0))
add_index("a name twice", refused("index.json"), change_entries(names=[name(1), name(1), name(2)]))
add_index("numbers for names", refused("index.json"), change_entries(names=[1, 2, 3]))
add_index("letters for names", refused("index.json"), change_entries(names="abc"))
add_index(
    "more names than images",
    refused("images.u8"),
    change_entries(names=[name(k) for k in range(9)], crc32=[0] * 9, sources=[["a", 9]]),
)
add_index("checksums of too few images", refused("index.json"), change_entries(crc32=[]))
add_index("a checksum in letters", refused("index.json"), change_entries(crc32=["7"]))
add_index("sources of too few images", refused("index.json"), change_entries(sources=[["images", 2]]))


def good_cache(sandbox: Sandbox) -> ImageCache:
    return fill(tree(sandbox.folder / "images", IMAGES), sandbox.folder / "cache")


@case(CACHE, "images cut short", refused("images.u8"))
def short_images(sandbox: Sandbox) -> Action:
    cache = good_cache(sandbox)
    os.truncate(cache.folder / "images.u8", 700)
    return lambda: ImageCache.open(cache.folder)


@case(CACHE, "a folder for the images", refused("images.u8"))
def folder_images(sandbox: Sandbox) -> Action:
    cache = good_cache(sandbox)
    (cache.folder / "images.u8").unlink()
    (cache.folder / "images.u8").mkdir()
    return lambda: ImageCache.open(cache.folder)


@case(CACHE, "a file in its place", refused("cache"))
def file_for_cache(sandbox: Sandbox) -> Action:
    path = sandbox.write("cache", b"x")
    return lambda: ImageCache.open(path)


@case(CACHE, "an image that it does not contain", refused(name(9)))
def missing_image(sandbox: Sandbox) -> Action:
    cache = good_cache(sandbox)
    return lambda: cache.indices([name(1), name(9)])


@case(CACHE, "another size is requested", refused("cache"))
def other_size(sandbox: Sandbox) -> Action:
    cache = good_cache(sandbox)
    return lambda: fill(sandbox.folder / "images", cache.folder, size=24)


case(CACHE, "missing", refused("cache"))(lambda sandbox: lambda: ImageCache.open(sandbox.folder / "cache"))


@case(DISK, "a file in its place", refused("cache"))
def file_in_place(sandbox: Sandbox) -> Action:
    tree(sandbox.folder / "images", IMAGES)
    sandbox.write("cache", b"precious")
    return prepare_cache(sandbox, "images")


@case(DISK, "read-only", refused("locked/cache"))
def read_only(sandbox: Sandbox) -> Action:
    images = tree(sandbox.folder / "images", IMAGES)
    locked = sandbox.read_only("locked")
    return lambda: fill(images, locked / "cache")


NOISE = [np.random.default_rng(k).integers(0, 256, (64, 64), dtype=np.uint8) for k in range(40)]


def write_noise(sandbox: Sandbox) -> None:
    """Write forty images that need 4 kB each in a cache."""
    for k, pixels in enumerate(NOISE):
        (sandbox.folder / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(sandbox.folder / "images" / name(k))


def describe_partial(folder: os.PathLike[str]) -> str:
    """Verify the cache that a full disk has left: some images, all whole."""
    cache = ImageCache.open(folder)
    assert is_whole(cache)
    same = all(np.array_equal(cache.images[k], NOISE[k]) for k in range(len(cache)))
    return "some whole images" if same and 0 < len(cache) < len(NOISE) else f"{len(cache)} images"


@case(
    DISK,
    "full, after some images",
    refused("disk/cache"),
    leaves=("disk/cache", "disk/cache/images.u8", "disk/cache/index.json"),
)
def full_disk(sandbox: Sandbox) -> Action:
    write_noise(sandbox)
    disk = sandbox.small_disk("disk", kib=100)

    def action() -> None:
        try:
            fill(sandbox.folder / "images", disk / "cache", size=64)
        finally:
            assert describe_partial(disk / "cache") == "some whole images"

    return action


@case(DISK, "a quota, after some images", refused("cache"), leaves=FILLED)
def quota(sandbox: Sandbox) -> Action:
    write_noise(sandbox)

    def action() -> None:
        try:
            with file_size_limit(64 * 64 * 12 + 100):
                fill(sandbox.folder / "images", sandbox.folder / "cache", size=64)
        finally:
            assert describe_partial(sandbox.folder / "cache") == "some whole images"

    return action
