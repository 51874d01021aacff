"""Archives that are broken, cut short, or of another format."""

from __future__ import annotations

import gzip
import io
import shutil
import stat
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.archives import content, fill, name, png, tar, zipped
from PIL import Image

from cxr_seam.data.archives import unpack
from cxr_seam.data.cache import ImageCache
from cxr_seam.errors import InputError


def test_damaged_member_of_zip(tmp_path):
    path = zipped(tmp_path / "a.zip", {name(1): png(10), name(2): png(20)})
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF  # inside the first member: its checksum is wrong
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="00000001_000.png"):
        assert fill(path, tmp_path / "cache").image_index == [name(2)]


def test_members_that_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_seam.data.archives.MAX_BYTES", 2**20)
    members = {name(1): png(10), name(2): bytes(2**20 + 1)}
    for source in (tar(tmp_path / "a.tar.gz", members), zipped(tmp_path / "a.zip", members)):
        with pytest.warns(UserWarning, match="longer than 1 MiB"):
            assert fill(source, tmp_path / f"cache {source.suffix}").image_index == [name(1)]


@pytest.mark.parametrize("member", ["../00000001_000.png", "/tmp/00000001_000.png", "images/../../x.png", "..\\x.png"])
@pytest.mark.parametrize("make", [tar, zipped])
def test_paths_that_lead_out(make, member, tmp_path):
    archive = make(tmp_path / "evil", {member: png(10)})
    with pytest.raises(InputError, match="evil"):
        fill(archive, tmp_path / "cache")
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("fraction", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_truncated_tar(fraction, mode, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64), dtype=np.uint8)
    members = {}
    for k, pixels in enumerate(noise):
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
        members[name(k)] = buffer.getvalue()
    whole = tar(tmp_path / "whole.tar.gz", members, mode=mode)
    length = sum(len(data) for data in members.values())
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[: int(length * fraction)])
    with pytest.raises(InputError, match="cut.tar.gz"):
        fill(cut, tmp_path / "cache")
    assert 0 < len(ImageCache.open(tmp_path / "cache")) < 20
    assert content(fill(whole, tmp_path / "cache"))[0] == content(fill(whole, tmp_path / "fresh"))[0]


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize(
    "damage", ["cut at a header", "cut in a header", "a flipped bit in a header", "cut before its end"]
)
def test_tar_cut_between_members(damage, mode, tmp_path):
    """tarfile itself takes each of these for the end of the archive."""
    members = {name(k): png(k, side=40 + k) for k in range(9)}
    data = bytearray(tar(tmp_path / "plain.tar", members, mode="w").read_bytes())
    offset = data.index(name(5).encode())  # a header begins with the member's name
    offset -= offset % 512
    if damage == "a flipped bit in a header":
        data[offset] ^= 1
    elif damage == "cut before its end":
        last = data.index(name(8).encode())
        del data[last - last % 512 + 512 + -(-len(members[name(8)]) // 512) * 512 :]
    else:
        del data[offset + (100 if damage == "cut in a header" else 0) :]
    broken = tmp_path / "broken.tar"
    broken.write_bytes(gzip.compress(data) if mode == "w:gz" else data)
    with pytest.raises(InputError, match="broken.tar"):
        fill(broken, tmp_path / "cache")


def in_pieces(data: bytes) -> list[bytes]:
    """A gzip file of two members, cut in the middle of an image, and zeros between and behind them."""
    half = len(data) // 2
    return [gzip.compress(data[:half]), bytes(300_000), gzip.compress(data[half:]), bytes(512)]


def test_gzip_of_several_members(tmp_path):
    members = {name(k): png(k, side=40 + k) for k in range(9)}
    plain = tar(tmp_path / "plain.tar", members, mode="w")
    (tmp_path / "pieces.tar.gz").write_bytes(b"".join(in_pieces(plain.read_bytes())))
    cache = fill(tmp_path / "pieces.tar.gz", tmp_path / "cache")
    assert cache.image_index == list(members)
    assert content(cache)[0] == content(fill(plain, tmp_path / "other"))[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda first, gap, last, end: first[:-6] + b"\x55" + first[-5:] + gap + last,
        lambda first, gap, last, end: first + gap + last[:-1] + b"\x55",
        lambda first, gap, last, end: first + gap + last[:-1],
        lambda first, gap, last, end: first[:-3] + gap + last,
        lambda first, gap, last, end: first + gap + last + end + b"junk",
        lambda first, gap, last, end: first + gap + last[: len(last) // 2],
    ],
    ids=["checksum", "length", "no-end", "no-end-within", "junk", "half"],
)
def test_broken_gzip(damage, tmp_path):
    plain = tar(tmp_path / "plain.tar", {name(k): png(k, side=40 + k) for k in range(9)}, mode="w")
    (tmp_path / "bad.tar.gz").write_bytes(damage(*in_pieces(plain.read_bytes())))
    with pytest.raises(InputError, match="bad.tar.gz"):
        fill(tmp_path / "bad.tar.gz", tmp_path / "cache")


@pytest.mark.parametrize(
    "data",
    [b"", b"junk" * 300, b"\n<!DOCTYPE html><html>404</html>", b"\x1f\x8bjunk", b"\x1f\x8b", png(1), None],
    ids=["empty", "junk", "html", "gzip-junk", "gzip-head", "png", "missing"],
)
def test_other_files(data, tmp_path):
    if data is not None:
        (tmp_path / "images_001.tar.gz").write_bytes(data)
    with pytest.raises(InputError, match="images_001.tar.gz") as error:
        fill(tmp_path / "images_001.tar.gz", tmp_path / "cache")
    assert "\n" not in str(error.value)


FILES = {"a/images.csv": b"image,Mass\n", "a/images/x.png": png(10), "a/images/y.png": png(20)}


def files_below(folder):
    """The visible files, by path."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not path.name.startswith(".")}


def test_unpack_once_and_after_a_change(tmp_path):
    one = zipped(tmp_path / "1.zip", FILES | {"__MACOSX/a/._x.png": b"x", "a/.DS_Store": b"x"})
    two, folder = zipped(tmp_path / "2.zip", {"a/images/x.png": png(10), "b/z.dcm": b"z"}), tmp_path / "unpacked"
    unpack([one, two], folder)
    assert files_below(folder) == FILES | {"b/z.dcm": b"z"}
    states = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    unpack([one, two], folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == states
    zipped(one, FILES | {"a/images.csv": b"image,Edem\n"})  # of the same length
    unpack([one], folder)
    assert files_below(folder) == FILES | {"a/images.csv": b"image,Edem\n"}
    (folder / ".unpacked.json").write_text('{"../1.zip": 1}')  # by somebody else
    with pytest.raises(InputError, match="leads out"):
        unpack([one], folder)
    assert one.exists()


def test_unpack_continues_after_an_interruption(tmp_path, monkeypatch):
    archive, copied, folder = zipped(tmp_path / "a.zip", FILES), [], tmp_path / "unpacked"

    def interrupted(source, target, *length):
        if len(copied) == 2:
            target.write(source.read(5))
            raise KeyboardInterrupt
        copied.append(target.name)
        copyfileobj(source, target, *length)

    copyfileobj = shutil.copyfileobj
    monkeypatch.setattr("cxr_seam.data.archives.shutil.copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack([archive], folder)
    assert files_below(folder).items() < FILES.items() and len(files_below(folder)) == 2
    copied.pop()
    unpack([archive], folder)
    assert files_below(folder) == FILES and len(copied) == 2


@pytest.mark.parametrize("member", ["../x.png", "/tmp/x.png", "images/../../x.png", "..\\x.png", "C:\\x.png"])
def test_unpack_refuses_paths_that_lead_out(member, tmp_path):
    archives = [zipped(tmp_path / "good.zip", FILES), zipped(tmp_path / "evil.zip", {member: png(10)})]
    with pytest.raises(InputError, match="evil.zip contains the path"):
        unpack(archives, tmp_path / "out" / "unpacked")
    assert sorted(tmp_path.rglob("*")) == archives[::-1]


def test_unpack_makes_no_links(tmp_path):
    link = zipfile.ZipInfo("a/images")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, str(tmp_path))
    unpack([tmp_path / "a.zip"], folder := tmp_path / "unpacked")
    assert not (folder / "a/images").is_symlink() and files_below(folder) == {"a/images": bytes(tmp_path)}


@pytest.mark.parametrize("spare", [-1, 0])
def test_unpack_needs_room(spare, tmp_path, monkeypatch):
    archive, usage = zipped(tmp_path / "a.zip", FILES), SimpleNamespace(free=sum(map(len, FILES.values())) + spare)
    monkeypatch.setattr("cxr_seam.data.archives.shutil.disk_usage", lambda path: usage)
    if spare < 0:
        with pytest.raises(InputError, match=r"needs .* GiB .*; make room"):
            unpack([archive], tmp_path / "unpacked")
        assert files_below(tmp_path).keys() == {"a.zip"}
    else:
        unpack([archive], tmp_path / "unpacked")
        assert files_below(tmp_path / "unpacked") == FILES


def test_unpack_of_different_files_of_one_path(tmp_path):
    archives = [zipped(tmp_path / f"{level}.zip", {"x.png": png(level)}) for level in (10, 20)]
    with pytest.raises(InputError, match=r"20.zip has another file x.png"):
        unpack(archives, tmp_path / "unpacked")


def test_unpack_leaves_out_a_damaged_member(tmp_path):
    path = zipped(tmp_path / "a.zip", FILES | {"a/" + "n" * 300: b"too long a name for a file"})
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"2 files could not be unpacked: .*a.zip/a/images/x.png"):
        unpack([path], tmp_path / "unpacked")
    whole = {name: data for name, data in FILES.items() if "x.png" not in name}
    assert files_below(tmp_path / "unpacked") == whole
    (tmp_path / "unpacked" / next(iter(whole))).unlink()
    with pytest.warns(UserWarning, match="2 files could not be unpacked"):  # they are tried again
        unpack([path], tmp_path / "unpacked")
    assert files_below(tmp_path / "unpacked") == whole
