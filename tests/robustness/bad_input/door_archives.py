"""Bad input: archives and folders of images, and the store that they fill."""

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
from helpers.archives import fill, name, png, tree
from PIL import Image
from runner import Act, Expected, Place, case, files_no_longer_than, refused, warns, works

from cxr_seam.data.cache import ImageCache

ARCHIVE, FOLDER, STORE, DISK = "archive", "folder of images", "store", "place of the store"
IMAGES = {name(k): png(10 * k) for k in range(1, 4)}
SAME = "the three images that were written"
TWO = "the two images that are whole"
FILLED = ("store", "store/images.u8", "store/index.json")


def read(cache: ImageCache) -> str:
    """Which images a store holds, after it was verified."""
    cache.verify()
    return {3: SAME, 2: TWO}.get(len(cache), f"{len(cache)} images")


def prepared(place: Place, source: str) -> Act:
    """The act: prepare a store from a source, open it anew and verify it."""
    return lambda: read(ImageCache.open(fill(place.folder / source, place.folder / "store").folder))


def add(given: str, expected: Expected, file: str, data: bytes, *, leaves: tuple[str, ...] = ()) -> None:
    """A case of one archive."""

    def lay_out(place: Place) -> Act:
        place.write(file, data)
        return prepared(place, file)

    case(ARCHIVE, given, expected, leaves=leaves)(lay_out)


Members = dict[str, bytes] | list[tuple[str, bytes]]


def tarred(members: Members, mode: str = "w:gz", *more: tarfile.TarInfo) -> bytes:
    """The bytes of a tar archive, members without content behind the others."""
    with tarfile.open(fileobj=(file := io.BytesIO()), mode=mode) as archive:
        for member, data in dict(members).items() if isinstance(members, dict) else members:
            header = tarfile.TarInfo(member)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
        for header in more:
            archive.addfile(header)
    return file.getvalue()


def zip_of(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of a zip archive."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", kind) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return file.getvalue()


def link(kind: bytes, member: str, target: str) -> tarfile.TarInfo:
    """A link in a tar archive."""
    header = tarfile.TarInfo(member)
    header.type, header.linkname = kind, target
    return header


whole = tarred(IMAGES)
gone = "fetch it again"
add("empty", refused("a.tar.gz", "neither a folder nor a .tar.gz"), "a.tar.gz", b"")
add("a web page", refused("a.tar.gz", "no longer serves the data"), "a.tar.gz", b"<html>gone</html>")
add("a PNG named tar.gz", refused("a.tar.gz", "neither a folder nor a .tar.gz"), "a.tar.gz", png(1))
add("a tar.xz", refused("a.tar.xz", "neither a folder nor a .tar.gz"), "a.tar.xz", tarred(IMAGES, "w:xz"))
add("gzip cut in its header", refused("a.tar.gz", gone), "a.tar.gz", whole[:6])
add("gzip of something else", refused("a.tar.gz", gone), "a.tar.gz", gzip.compress(b"hello" * 500))
add("a tar.gz cut behind its images", refused("a.tar.gz", gone), "a.tar.gz", whole[:-9], leaves=FILLED)
add(
    "a tar.gz with a wrong checksum",
    refused("a.tar.gz", gone),
    "a.tar.gz",
    whole[:-8] + b"abcd" + whole[-4:],
    leaves=FILLED,
)
add("a zip without its end", refused("a.zip", "cut short"), "a.zip", zip_of(IMAGES)[:-30])
add(
    "a member that climbs out, ../x.png",
    refused("a.tar.gz", "do not use this"),
    "a.tar.gz",
    tarred({"../x.png": png(1)}),
)
add("an absolute member, /tmp/x.png", refused("a.zip", "do not use this"), "a.zip", zip_of({"/tmp/x.png": png(1)}))
add("a member that climbs out, ..\\x.png", refused("a.zip", "do not use this"), "a.zip", zip_of({"..\\x.png": png(1)}))
add("a member on a drive, C:\\x.png", refused("a.zip", "do not use this"), "a.zip", zip_of({"C:\\x.png": png(1)}))
add(
    "a symbolic link to a file outside",
    warns(SAME, name(4), "a link"),
    "a.tar.gz",
    tarred(IMAGES, "w:gz", link(tarfile.SYMTYPE, name(4), "/etc/passwd")),
)
add(
    "a hard link to a member",
    warns(SAME, name(4), "a link"),
    "a.tar",
    tarred(IMAGES, "w", link(tarfile.LNKTYPE, name(4), name(1))),
)
add(
    "a symbolic link in a zip",
    warns(SAME, name(4), "could not be read"),
    "a.zip",
    zip_of(IMAGES | {name(4): b"/etc/passwd"}),
)
add(
    "a pipe and a device for images",
    refused("a.tar", "a link or a device"),
    "a.tar",
    tarred({}, "w", link(tarfile.FIFOTYPE, name(4), ""), link(tarfile.CHRTYPE, name(5), "")),
)
add(
    "other files beside the images",
    works(SAME),
    "a.zip",
    zip_of({"README": b"x", "a.exe": b"MZ", "._a.png": b"x"} | IMAGES),
)
add("no image", refused("a.zip", "holds no PNG or JPEG image"), "a.zip", zip_of({"a.txt": b"x"}))
add(
    "an archive in an archive",
    refused("out.tar.gz", "holds no PNG or JPEG image"),
    "out.tar.gz",
    tarred({"a.tar.gz": whole}),
)
add("the same image twice", works(SAME), "a.tar", tarred([*IMAGES.items(), (name(1), png(99))]))
add("an empty image among others", warns(SAME, name(9), "stayed out"), "a.tar.gz", tarred({name(9): b""} | IMAGES))
add(
    "names with spaces and umlauts",
    works(SAME),
    "Röntgen bilder.zip",
    zip_of({f"Ärzte/{k} ü.png": v for k, v in IMAGES.items()}),
)


@case(ARCHIVE, "a zip bomb: 300 MB in one image", warns(SAME, name(9), "longer than 256 MiB"))
def bomb_in_a_zip(place: Place) -> Act:
    with zipfile.ZipFile(place.folder / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, data in IMAGES.items():
            archive.writestr(member, data)
        with archive.open(name(9), "w") as file:
            for _ in range(300):
                file.write(bytes(2**20))
    return prepared(place, "a.zip")


@case(ARCHIVE, "a zip bomb that lies about its length", warns(SAME, name(9), "could not be read"))
def lying_bomb(place: Place) -> Act:
    data = bytearray(zip_of(IMAGES | {name(9): bytes(2**20)}, zipfile.ZIP_DEFLATED))
    for at in (data.rindex(b"PK\1\2") + 24,):
        data[at : at + 4] = struct.pack("<I", 1000)
    place.write("a.zip", bytes(data))
    return prepared(place, "a.zip")


@case(ARCHIVE, "a tar that claims an image of 8 TB", refused("a.tar", gone), leaves=FILLED)
def huge_member(place: Place) -> Act:
    header = tarfile.TarInfo(name(9))
    header.size = 2**43
    place.write("a.tar", tarred(IMAGES, "w", header))
    return prepared(place, "a.tar")


@case(ARCHIVE, "a tar whose header of a long name has 40 MB", refused("a.tar.gz", gone))
def huge_header(place: Place) -> Act:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 40 * 2**20
    with gzip.open(place.folder / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(40):
            file.write(b"a" * 2**20)
        file.write(tarred(IMAGES, "w"))
    return prepared(place, "a.tar.gz")


@case(ARCHIVE, "an image with a wrong checksum in a zip", warns(TWO, name(1), "stayed out of the store"))
def wrong_checksum(place: Place) -> Act:
    data = bytearray(zip_of(IMAGES))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    place.write("a.zip", bytes(data))
    return prepared(place, "a.zip")


@case(ARCHIVE, "an image behind a password", warns(TWO, name(1), "stayed out of the store"))
def password(place: Place) -> Act:
    data = bytearray(zip_of(IMAGES))
    data[data.index(b"PK\3\4") + 6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    place.write("a.zip", bytes(data))
    return prepared(place, "a.zip")


@case(ARCHIVE, "broken LZMA in a zip", warns(TWO, name(1), "stayed out of the store"))
def broken_lzma(place: Place) -> Act:
    data = bytearray(zip_of(IMAGES, zipfile.ZIP_LZMA))
    start = data.index(name(1).encode()) + len(name(1))
    data[start + 4 : start + 40] = b"\xff" * 36
    place.write("a.zip", bytes(data))
    return prepared(place, "a.zip")


@case(ARCHIVE, "an unknown compression in a zip", warns(TWO, name(1), "stayed out of the store"))
def unknown_compression(place: Place) -> Act:
    data = bytearray(zip_of(IMAGES))
    data[data.index(b"PK\3\4") + 8] = data[data.index(b"PK\1\2") + 10] = 97
    place.write("a.zip", bytes(data))
    return prepared(place, "a.zip")


@case(ARCHIVE, "missing", refused("a.tar.gz", "correct the path"))
def missing(place: Place) -> Act:
    return prepared(place, "a.tar.gz")


@case(FOLDER, "empty", refused("films", "holds no PNG or JPEG image"))
def empty(place: Place) -> Act:
    (place.folder / "films").mkdir()
    return prepared(place, "films")


@case(FOLDER, "nothing but broken images", refused(name(1), "convert it"))
def all_broken(place: Place) -> Act:
    tree(place.folder / "films", {name(k): b"junk" for k in range(1, 4)})
    return prepared(place, "films")


@case(FOLDER, "one broken image among others", warns(SAME, name(7), "stayed out of the store"))
def one_broken(place: Place) -> Act:
    tree(place.folder / "films", IMAGES | {name(7): png(1)[:60]})
    return prepared(place, "films")


@case(FOLDER, "a bomb of 20,000 x 20,000 among others", warns(SAME, name(7), "it was not opened"))
def one_bomb(place: Place) -> Act:
    from door_images import claimed_png

    tree(place.folder / "films", IMAGES | {name(7): claimed_png(20_000, 20_000)})
    return prepared(place, "films")


@case(FOLDER, "a folder named like an image", works(SAME))
def folder_png(place: Place) -> Act:
    tree(place.folder / "films", IMAGES | {"a.png/readme": b"x"})
    return prepared(place, "films")


@case(FOLDER, "a link to nowhere", warns(SAME, name(7), "No such file"))
def dangling(place: Place) -> Act:
    os.symlink("gone", tree(place.folder / "films", IMAGES) / name(7))
    return prepared(place, "films")


@case(FOLDER, "a link that leads to itself", works(SAME))
def trainer(place: Place) -> Act:
    os.symlink(".", tree(place.folder / "films", IMAGES) / "again")
    return prepared(place, "films")


@case(FOLDER, "a path with spaces and umlauts", works(SAME))
def umlauts(place: Place) -> Act:
    tree(place.folder / "Röntgen bilder №1" / "ä ö", IMAGES)
    return prepared(place, "Röntgen bilder №1")


@case(FOLDER, "a size of 0 pixels", refused("size", "not 0"))
def no_size(place: Place) -> Act:
    films = tree(place.folder / "films", IMAGES)
    return lambda: fill(films, place.folder / "store", size=0)


@case(FOLDER, "a size of 1,000,000 pixels", refused("size", "not 1000000"))
def huge_size(place: Place) -> Act:
    films = tree(place.folder / "films", IMAGES)
    return lambda: fill(films, place.folder / "store", size=10**6)


@case(FOLDER, "no source at all", refused("source", "name a folder or an archive"))
def no_source(place: Place) -> Act:
    return lambda: fill([], place.folder / "store")


def store_with(given: str, expected: Expected, change: Callable[[str], str], file: str = "index.json") -> None:
    """A case of a store whose index was changed; the act opens it, reads it and verifies it."""

    def lay_out(place: Place) -> Act:
        cache = fill(tree(place.folder / "films", IMAGES), place.folder / "store")
        path = cache.folder / file
        path.write_text(change(path.read_text()))

        def act() -> str:
            again = ImageCache.open(cache.folder)
            again.load(again.indices(IMAGES))
            return read(again)

        return act

    case(STORE, given, expected)(lay_out)


def entry(**values: object) -> Callable[[str], str]:
    """A change of entries of the index."""
    return lambda text: json.dumps(json.loads(text) | values)


delete = "and prepare again"
store_with("an index cut short", refused("index.json", delete), lambda text: text[: len(text) // 2])
store_with("an empty index", refused("index.json", delete), lambda text: "")
store_with("an index of zeros", refused("index.json", delete), lambda text: "\0" * len(text))
store_with("an index of 100,000 brackets", refused("index.json", delete), lambda text: "[" * 100_000)
store_with("another version", refused("index.json", delete), entry(version=2))
store_with("another program's JSON", refused("index.json", delete), lambda text: '{"nbformat": 4}')
store_with("a size in letters", refused("index.json", delete), entry(size="16"))
store_with("a negative size", refused("index.json", delete), entry(size=-16))
store_with("a fractional size", refused("index.json", delete), entry(size=15.9))
store_with("a size of 0", refused("index.json", delete), entry(size=0))
store_with("a name twice", refused("index.json", delete), entry(names=[name(1), name(1), name(2)]))
store_with("numbers for names", refused("index.json", delete), entry(names=[1, 2, 3]))
store_with("letters for names", refused("index.json", delete), entry(names="abc"))
store_with(
    "more names than images", refused("images.u8", delete), entry(names=[name(k) for k in range(9)], sources=[["a", 9]])
)
store_with("checksums of too few blocks", refused("index.json", delete), entry(crc32=[]))
store_with("a wrong checksum", refused("images.u8", delete), entry(crc32=[7]))
store_with("a checksum in letters", refused("index.json", delete), entry(crc32=["7"]))
store_with("sources of too few images", refused("index.json", delete), entry(sources=[["films", 2]]))


@case(STORE, "images cut short", refused("images.u8", delete))
def short_images(place: Place) -> Act:
    cache = fill(tree(place.folder / "films", IMAGES), place.folder / "store")
    os.truncate(cache.folder / "images.u8", 700)
    return lambda: ImageCache.open(cache.folder)


@case(STORE, "a folder for the images", refused("images.u8", delete))
def folder_images(place: Place) -> Act:
    cache = fill(tree(place.folder / "films", IMAGES), place.folder / "store")
    (cache.folder / "images.u8").unlink()
    (cache.folder / "images.u8").mkdir()
    return lambda: ImageCache.open(cache.folder)


@case(STORE, "missing", refused("store", "run python -m cxr_seam prepare"))
def no_store(place: Place) -> Act:
    return lambda: ImageCache.open(place.folder / "store")


@case(STORE, "a file in its place", refused("store", "run python -m cxr_seam prepare"))
def file_store(place: Place) -> Act:
    place.write("store", b"x")
    return lambda: ImageCache.open(place.folder / "store")


@case(STORE, "an image that it does not hold", refused(name(9), "prepare it first"))
def not_held(place: Place) -> Act:
    cache = fill(tree(place.folder / "films", IMAGES), place.folder / "store")
    return lambda: cache.indices([name(1), name(9)])


@case(STORE, "another size is asked for", refused("store", "name another folder"))
def other_size(place: Place) -> Act:
    films = tree(place.folder / "films", IMAGES)
    fill(films, place.folder / "store")
    return lambda: fill(films, place.folder / "store", size=24)


@case(DISK, "a file in the folder's place", refused("store", "name another folder"))
def file_in_place(place: Place) -> Act:
    tree(place.folder / "films", IMAGES)
    place.write("store", b"precious")
    return prepared(place, "films")


@case(DISK, "read-only", refused("locked/store", "name another folder"))
def read_only(place: Place) -> Act:
    films = tree(place.folder / "films", IMAGES)
    (place.folder / "locked").mkdir()
    locked = place.read_only(place.folder / "locked")
    return lambda: fill(films, locked / "store")


NOISE = [np.random.default_rng(k).integers(0, 256, (64, 64), dtype=np.uint8) for k in range(40)]


def noisy(place: Place) -> None:
    """Forty images that take 4 kB each in a store."""
    for k, pixels in enumerate(NOISE):
        (place.folder / "films").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place.folder / "films" / name(k))


def kept(folder: os.PathLike[str]) -> str:
    """What a store holds after its disk was full: images that verify, fewer than there were."""
    cache = ImageCache.open(folder)
    cache.verify()
    same = all(np.array_equal(cache.images[k], NOISE[k]) for k in range(len(cache)))
    return "some whole images" if same and 0 < len(cache) < len(NOISE) else f"{len(cache)} images"


@case(
    DISK,
    "full, after some images",
    refused("disk/store", "what was prepared is kept"),
    leaves=("disk/store", "disk/store/images.u8", "disk/store/index.json"),
)
def full_disk(place: Place) -> Act:
    noisy(place)
    disk = place.small_disk("disk", kib=100)

    def act() -> None:
        try:
            fill(place.folder / "films", disk / "store", size=64)
        finally:
            assert kept(disk / "store") == "some whole images"

    return act


@case(DISK, "a quota, after some images", refused("store", "what was prepared is kept"), leaves=FILLED)
def quota(place: Place) -> Act:
    noisy(place)

    def act() -> None:
        try:
            with files_no_longer_than(64 * 64 * 12 + 100):
                fill(place.folder / "films", place.folder / "store", size=64)
        finally:
            assert kept(place.folder / "store") == "some whole images"

    return act
