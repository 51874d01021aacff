"""Reading prepared images: what comes out is what went in, and damage is told."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_seam.data.cache import BLOCK, ImageCache, prepare
from cxr_seam.errors import InputError


def levels(folder, count, *, suffix=".png", side=32):
    """Write `count` flat images; image k of patient k has the grey value k % 251, so that rows can be told apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(np.full((side, side), k % 251, np.uint8)).save(folder / f"{k:08}_000{suffix}")
    return folder


@pytest.fixture
def cache(tmp_path):
    return prepare(levels(tmp_path / "source", 5), tmp_path / "store", size=16, progress=False)


def test_images_are_read_by_name(cache):
    assert len(cache) == 5 and cache.size == 16
    assert cache.images.shape == (5, 16, 16) and cache.images.dtype == np.uint8
    rows = cache.indices(["00000004_000.png", "00000001_000.png", "00000004_000.png"])
    assert cache.images[rows].mean(axis=(1, 2)).tolist() == [4, 1, 4]
    assert cache.indices([]).shape == (0,)
    assert "00000004_000.png" in cache and "00000005_000.png" not in cache


def test_reading_copies_the_rows_asked_for(cache):
    pixels = cache.load([4, 1, 4])
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8
    assert pixels.mean(axis=(1, 2)).tolist() == [4, 1, 4]
    pixels[0] = 0  # the reader's own copy
    assert cache.load([4]).min() == 4
    assert cache.load([]).shape == (0, 16, 16)


def test_a_store_that_shrinks_or_vanishes_under_its_reader_is_told(cache):
    path = cache.folder / "images.u8"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="images.u8 became shorter"):
        cache.load([4])
    path.unlink()
    with pytest.raises(InputError, match="cannot read .*images.u8"):
        cache.load([0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
def test_reading_every_image_leaves_none_in_memory(tmp_path):
    """32 MB of images are read; of a mapped file all would stay resident."""
    cache = prepare(levels(tmp_path / "source", 8, side=2048), tmp_path / "store", size=2048, progress=False)

    def mapped():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024

    before = mapped()
    for row in range(8):
        cache.load([row])
    assert mapped() - before < 4
    cache.images.sum()
    assert mapped() - before > 24  # the measure does see a mapped file


def test_the_first_missing_name_is_told(cache):
    with pytest.raises(InputError, match="00000007_000.png is not in the store"):
        cache.indices(["00000001_000.png", "00000007_000.png", "00000008_000.png"])


def test_images_cannot_be_written_to(cache):
    with pytest.raises(ValueError):
        cache.images[0, 0, 0] = 1


def test_a_pickled_store_carries_no_pixels(cache):
    copy = pickle.dumps(cache)
    assert len(copy) < 500
    assert np.array_equal(pickle.loads(copy).images, cache.images)


def test_a_folder_without_a_store_is_told_how_to_get_one(tmp_path):
    with pytest.raises(InputError, match="no prepared images in .*; run python -m cxr_seam prepare"):
        ImageCache.open(tmp_path)


def test_verify_finds_a_flipped_bit_and_tells_where(cache):
    cache.verify()
    path = cache.folder / "images.u8"
    data = bytearray(path.read_bytes())
    data[3 * 256 + 7] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged between 00000000_000.png and 00000004_000.png"):
        ImageCache.open(cache.folder).verify()


def test_verify_looks_at_every_block(tmp_path):
    count = BLOCK + 3
    cache = prepare(levels(tmp_path / "source", count, side=16), tmp_path / "store", size=4, progress=False)
    cache.verify()
    path = cache.folder / "images.u8"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(InputError, match=f"{BLOCK:08}_000.png and {BLOCK + 2:08}_000.png"):
        ImageCache.open(cache.folder).verify()


def test_bytes_past_the_index_do_not_count(cache):
    with (cache.folder / "images.u8").open("ab") as file:
        file.write(b"\1" * 300)
    again = ImageCache.open(cache.folder)
    assert again.image_index == cache.image_index
    again.verify()


def test_a_shortened_image_file_is_refused(cache):
    path = cache.folder / "images.u8"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="images.u8 is shorter than its index says"):
        ImageCache.open(cache.folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: "", "is not the index of a store"),
        (lambda text: text[:-10], "is not the index of a store"),
        (lambda text: "[]", "is not the index of a store"),
        (lambda text: "{}", "is not the index of a store"),
        (lambda text: json.dumps(json.loads(text) | {"version": 99}), "is of another version"),
        (lambda text: json.dumps(json.loads(text) | {"colour": 1}), "lacks or garbles"),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "size"}), "lacks or garbles"),
        (lambda text: json.dumps(json.loads(text) | {"names": None}), "lacks or garbles"),
    ],
)
def test_a_broken_index_is_refused_in_one_sentence(change, sentence, cache):
    path = cache.folder / "index.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=f"index.json {sentence}.*prepare again") as error:
        ImageCache.open(cache.folder)
    assert "\n" not in str(error.value)
