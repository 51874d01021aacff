"""Archives that are broken, cut short or no archives at all."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
from helpers.archives import content, fill, name, png, tar, zipped
from PIL import Image

from cxr_seam.data.cache import ImageCache
from cxr_seam.errors import InputError


def test_a_damaged_member_of_a_zip_is_left_out(tmp_path):
    path = zipped(tmp_path / "a.zip", {name(1): png(10), name(2): png(20)})
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF  # inside the first member: its checksum no longer fits
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="1 image could not be read.*00000001_000.png"):
        assert fill(path, tmp_path / "store").image_index == [name(2)]


def test_members_too_long_to_be_radiographs_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_seam.data.archives.MAX_BYTES", 2**20)
    members = {name(1): png(10), name(2): bytes(2**20 + 1)}
    for source in (tar(tmp_path / "a.tar.gz", members), zipped(tmp_path / "a.zip", members)):
        with pytest.warns(UserWarning, match="longer than 1 MiB"):
            assert fill(source, tmp_path / f"store {source.suffix}").image_index == [name(1)]


@pytest.mark.parametrize("member", ["../00000001_000.png", "/tmp/00000001_000.png", "images/../../x.png", "..\\x.png"])
@pytest.mark.parametrize("make", [tar, zipped])
def test_an_archive_whose_paths_lead_out_of_it_is_refused(make, member, tmp_path):
    archive = make(tmp_path / "evil", {member: png(10)})
    with pytest.raises(InputError, match="evil holds the path .* leads out of it"):
        fill(archive, tmp_path / "store")
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_a_truncated_tar_gives_what_it_holds_and_is_refused(kept, mode, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64), dtype=np.uint8)
    members = {}
    for k, pixels in enumerate(noise):
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
        members[name(k)] = buffer.getvalue()
    whole = tar(tmp_path / "whole.tar.gz", members, mode=mode)
    length = sum(len(data) for data in members.values())
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[: int(length * kept)])
    with pytest.raises(InputError, match="cut.tar.gz is broken or ends early.*fetch it again"):
        fill(cut, tmp_path / "store")
    assert 0 < len(ImageCache.open(tmp_path / "store")) < 20
    assert content(fill(whole, tmp_path / "store"))[0] == content(fill(whole, tmp_path / "fresh"))[0]


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize(
    "damage", ["cut at a header", "cut in a header", "a flipped bit in a header", "cut before its end"]
)
def test_a_tar_that_breaks_off_between_two_members_is_not_taken_for_whole(damage, mode, tmp_path):
    """tarfile itself takes each of these for the end of the archive, without a word."""
    members = {name(k): png(k, side=40 + k) for k in range(9)}
    data = bytearray(tar(tmp_path / "plain.tar", members, mode="w").read_bytes())
    place = data.index(name(5).encode())  # a header begins with the member's name
    place -= place % 512
    if damage == "a flipped bit in a header":
        data[place] ^= 1
    elif damage == "cut before its end":
        last = data.index(name(8).encode())
        del data[last - last % 512 + 512 + -(-len(members[name(8)]) // 512) * 512 :]
    else:
        del data[place + (100 if damage == "cut in a header" else 0) :]
    broken = tmp_path / "broken.tar"
    broken.write_bytes(gzip.compress(data) if mode == "w:gz" else data)
    with pytest.raises(InputError, match="broken.tar is broken or ends early.*fetch it again"):
        fill(broken, tmp_path / "store")


def in_pieces(data: bytes) -> list[bytes]:
    """A gzip file of two members, cut in the middle of an image, and zeros between and behind them."""
    half = len(data) // 2
    return [gzip.compress(data[:half]), bytes(300_000), gzip.compress(data[half:]), bytes(512)]


def test_gzip_members_and_padding_are_read_as_one(tmp_path):
    members = {name(k): png(k, side=40 + k) for k in range(9)}
    plain = tar(tmp_path / "plain.tar", members, mode="w")
    (tmp_path / "pieces.tar.gz").write_bytes(b"".join(in_pieces(plain.read_bytes())))
    cache = fill(tmp_path / "pieces.tar.gz", tmp_path / "store")
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
def test_gzip_that_is_not_whole_is_refused(damage, tmp_path):
    plain = tar(tmp_path / "plain.tar", {name(k): png(k, side=40 + k) for k in range(9)}, mode="w")
    (tmp_path / "bad.tar.gz").write_bytes(damage(*in_pieces(plain.read_bytes())))
    with pytest.raises(InputError, match="bad.tar.gz is broken or ends early"):
        fill(tmp_path / "bad.tar.gz", tmp_path / "store")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "neither a folder nor a .tar.gz"),
        (b"junk" * 300, "neither a folder nor a .tar.gz"),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page, not an archive"),
        (b"\x1f\x8bjunk", "broken or ends early"),
        (b"\x1f\x8b", "broken or ends early"),
        (png(1), "neither a folder nor a .tar.gz"),
        (None, "cannot read"),
    ],
    ids=["empty", "junk", "html", "gzip-junk", "gzip-head", "png", "missing"],
)
def test_what_is_no_archive_is_refused_in_one_sentence(data, sentence, tmp_path):
    if data is not None:
        (tmp_path / "images_001.tar.gz").write_bytes(data)
    with pytest.raises(InputError, match=f"images_001.tar.gz.*{sentence}|{sentence}.*images_001.tar.gz") as error:
        fill(tmp_path / "images_001.tar.gz", tmp_path / "store")
    assert "\n" not in str(error.value)
