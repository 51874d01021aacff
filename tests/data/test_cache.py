"""The cache of prepared images: reading it, and filling it from folders and archives, whole, twice and stopped."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.archives import content, fill, is_whole, name, png, tar, tree, zipped
from helpers.dicom_files import dicom_bytes, make_dataset
from PIL import Image

from cxr_seam.__main__ import main
from cxr_seam.data.archives import name_by_path
from cxr_seam.data.cache import COMMIT_EVERY, CacheIndex, ImageCache, prepare
from cxr_seam.data.image_io import load_image
from cxr_seam.errors import InputError

FOUR = {f"images/{name(k)}": png(10 * k) for k in range(1, 5)}


def write_levels(folder, count, *, suffix=".png", side=32):
    """Write `count` flat images; image k of patient k has the grey value k % 251, so that all rows differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(np.full((side, side), k % 251, np.uint8)).save(folder / f"{k:08}_000{suffix}")
    return folder


@pytest.fixture
def cache(tmp_path):
    return prepare(write_levels(tmp_path / "source", 5), tmp_path / "cache", size=16, progress=False)


def test_indices_of_names(cache):
    assert len(cache) == 5 and cache.size == 16
    assert cache.images.shape == (5, 16, 16) and cache.images.dtype == np.uint8
    rows = cache.indices(["00000004_000.png", "00000001_000.png", "00000004_000.png"])
    assert cache.images[rows].mean(axis=(1, 2)).tolist() == [4, 1, 4]
    assert cache.indices([]).shape == (0,)
    assert "00000004_000.png" in cache and "00000005_000.png" not in cache


def test_load_copies(cache):
    pixels = cache.load([4, 1, 4])
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8
    assert pixels.mean(axis=(1, 2)).tolist() == [4, 1, 4]
    pixels[0] = 0  # a copy
    assert cache.load([4]).min() == 4
    assert cache.load([]).shape == (0, 16, 16)


def test_load_from_shortened_or_missing_file(cache):
    path = cache.folder / "images.u8"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="images.u8"):
        cache.load([4])
    path.unlink()
    with pytest.raises(InputError, match="images.u8"):
        cache.load([0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
def test_load_keeps_no_image_in_memory(tmp_path):
    """32 MB of images are read; of a mapped file all would stay resident."""
    cache = prepare(write_levels(tmp_path / "source", 8, side=2048), tmp_path / "cache", size=2048, progress=False)

    def mapped():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024

    before = mapped()
    for row in range(8):
        cache.load([row])
    assert mapped() - before < 4
    cache.images.sum()
    assert mapped() - before > 24  # the measure does see a mapped file


def test_missing_name(cache):
    with pytest.raises(InputError, match="00000007_000.png"):
        cache.indices(["00000001_000.png", "00000007_000.png", "00000008_000.png"])


def test_images_are_read_only(cache):
    with pytest.raises(ValueError):
        cache.images[0, 0, 0] = 1


def test_pickle_without_pixels(cache):
    copy = pickle.dumps(cache)
    assert len(copy) < 500
    assert np.array_equal(pickle.loads(copy).images, cache.images)


def test_folder_without_cache(tmp_path):
    with pytest.raises(InputError, match="cxr_seam prepare"):
        ImageCache.open(tmp_path)


def test_checksums_are_those_of_the_pixels(tmp_path):
    count = COMMIT_EVERY + 3
    cache = prepare(write_levels(tmp_path / "source", count, side=16), tmp_path / "cache", size=4, progress=False)
    assert cache.crc32 == [zlib.crc32(bytes([k % 251]) * 16) for k in range(count)]


def test_bytes_beyond_index_do_not_count(cache):
    with (cache.folder / "images.u8").open("ab") as file:
        file.write(b"\1" * 300)
    again = ImageCache.open(cache.folder)
    assert again.image_index == cache.image_index
    assert is_whole(again)


def test_shortened_image_file(cache):
    path = cache.folder / "images.u8"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="images.u8"):
        ImageCache.open(cache.folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-10],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: json.dumps(json.loads(text) | {"version": 99}),
        lambda text: json.dumps(json.loads(text) | {"format": "cxr-seam store", "version": 1}),
        lambda text: json.dumps(json.loads(text) | {"colour": 1}),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "size"}),
        lambda text: json.dumps(json.loads(text) | {"names": None}),
        lambda text: json.dumps(json.loads(text) | {"crc32": []}),
    ],
)
def test_broken_index(change, cache):
    path = cache.folder / "index.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match="index.json.*delete") as error:
        ImageCache.open(cache.folder)
    assert "\n" not in str(error.value)


def test_index_truncate():
    index = CacheIndex(size=2)
    for k in range(7):
        index.add(f"{k}.png", np.full((2, 2), k, np.uint8), source="a" if k < 3 else "b")
    index.truncate(4)
    assert (index.names, index.sources) == (["0.png", "1.png", "2.png", "3.png"], [("a", 3), ("b", 1)])
    index.truncate(2)
    assert (len(index.crc32), index.sources) == (2, [("a", 2)])


def levels(cache: ImageCache) -> dict[str, float]:
    return dict(zip(cache.image_index, cache.images.mean(axis=(1, 2)).tolist(), strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: tree(folder / "a folder", FOUR),
        lambda folder: tree(folder / "kaggle", {f"images_00{k[14]}/{k}": data for k, data in FOUR.items()}),
        lambda folder: tar(folder / "images_001.tar.gz", FOUR),
        lambda folder: tar(folder / "vfk49d74.gz", FOUR),
        lambda folder: tar(folder / "plain.tar", FOUR, mode="w"),
        lambda folder: zipped(folder / "images_001.zip", FOUR),
    ],
    ids=["folder", "nested", "tar.gz", "gz", "tar", "zip"],
)
def test_every_kind_of_source(make, tmp_path):
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    cache = fill(source, tmp_path / "cache")
    assert levels(cache) == {name(k): 10 * k for k in range(1, 5)}
    assert cache.sources == ((source.name, 4),)
    assert is_whole(cache)
    added = set(tmp_path.rglob("*")) - set(before)
    assert {path.name for path in added} == {"cache", "images.u8", "index.json"}  # nothing was unpacked


def test_second_run_adds_missing_images(tmp_path):
    first = fill(tree(tmp_path / "a", FOUR), tmp_path / "cache")
    before = content(first)
    assert content(fill(tmp_path / "a", tmp_path / "cache")) == before
    tree(tmp_path / "a", {"images/00000000_000.png": png(99)})
    again = fill(tmp_path / "a", tmp_path / "cache")
    assert again.image_index == [*first.image_index, "00000000_000.png"]
    assert levels(again)["00000000_000.png"] == 99


def test_first_source_wins(tmp_path):
    tree(tmp_path / "a", {name(1): png(10)})
    tree(tmp_path / "b", {"00000001_000.jpg": png(90, kind="JPEG"), "00000002_000.JPEG": png(20, kind="JPEG")})
    cache = fill([tmp_path / "a", tmp_path / "b"], tmp_path / "cache")
    assert levels(cache) == {name(1): 10, name(2): 20}
    assert cache.sources == (("a", 1), ("b", 1))


def test_broken_copy_is_replaced_by_next_source(tmp_path):
    tree(tmp_path / "a", {name(1): png(10)[:40], name(2): png(20)})
    tree(tmp_path / "b", {name(1): png(30)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = fill([tmp_path / "a", tmp_path / "b"], tmp_path / "cache")
    assert levels(cache) == {name(2): 20, name(1): 30}


def test_names(tmp_path):
    source = tree(tmp_path / "a", FOUR)
    for _ in range(2):  # also if the cache is complete
        with pytest.warns(UserWarning, match=f"^1 listed image has no file in .*: {name(9)}$"):
            assert fill(source, tmp_path / "cache", names=[name(3), name(9)]).image_index == [name(3)]
    with pytest.raises(InputError, match=rf"^none of the listed images \({name(8)}, {name(9)}\) has a file in .*a;"):
        fill(source, tmp_path / "other", names=[name(9), name(8)])


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_do_not_change_bytes(workers, tmp_path):
    source = tar(tmp_path / "a.tar.gz", {name(k): png(k, side=16 + 40 * (k % 3)) for k in range(60)})
    cache = fill(source, tmp_path / "cache", workers=workers)
    assert cache.image_index == [name(k) for k in range(60)]
    assert levels(cache) == {name(k): k for k in range(60)}


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_broken_images_give_one_warning(kind, tmp_path):
    members = {
        name(1): png(10),
        name(2): b"",
        name(3): png(30)[:-30],
        name(4): b"not an image",
        name(5): png(50, side=1),
        name(6): png(60),
        "README.pdf": b"text",
        "._00000007_000.png": b"what macOS leaves behind",
        "00000008_000.npy": b"something else",
    }
    make = {"folder": tree, "tar": tar, "zip": zipped}[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache = fill(make(tmp_path / "source", members), tmp_path / "cache")
    assert levels(cache) == {name(1): 10, name(6): 60}
    others, broken = (str(caution.message) for caution in caught)
    assert others.startswith("2 files are left out") and "README.pdf" in others and "00000008_000.npy" in others
    assert broken.startswith("4 images could not be read") and all(name(k) in broken for k in (2, 3, 4, 5))
    assert "\n" not in others + broken


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_images_are_told_by_bytes(kind, tmp_path):
    """TIFF and DICOM files are prepared, and images whatever their suffix; other formats are named."""
    Image.fromarray(np.full((32, 32), 20, np.uint8)).save(tiff := io.BytesIO(), "TIFF")
    dicom = dicom_bytes(make_dataset(np.full((32, 32), 3, np.uint8)))
    members = {
        "a.tif": tiff.getvalue(),
        "b.dcm": dicom,
        "sub/1.2.840.113619.7": dicom,
        "c.jfif": png(30, kind="JPEG"),
        "d.dcm": png(40, kind="JPEG"),
        "e.bmp": png(50, kind="BMP"),
        ".hidden/f.png": png(60),
    }
    source = {"folder": tree, "tar": tar, "zip": zipped}[kind](tmp_path / "source", members)
    with pytest.warns(UserWarning, match="^1 file is left out.*e.bmp$"):
        cache = fill(source, tmp_path / "cache")
    assert sorted(cache.image_index) == ["1.2.840.113619.7.png", "a.png", "b.png", "c.png", "d.png"]
    for index, (file, data) in {"a.png": ("a.tif", None), "b.png": ("b.dcm", dicom)}.items():
        pixels = load_image(members[file] if data is None else data, name=file).pixels
        assert (cache.images[cache.indices([index])] == pixels[:16, :16]).all()
    assert levels(cache)["c.png"] == 30 and levels(cache)["d.png"] == 40


@pytest.mark.filterwarnings("error")
def test_links_are_followed_and_loops_end(tmp_path):
    tree(tmp_path / "data", {f"images_001/{name(1)}": png(10)})
    tree(tmp_path / "elsewhere", {f"images_002/{name(2)}": png(20)})
    (tmp_path / "data" / "images_002").symlink_to("../elsewhere/images_002")
    (tmp_path / "elsewhere" / "images_002" / "back").symlink_to(tmp_path / "data")
    assert levels(fill(tmp_path / "data", tmp_path / "cache")) == {name(1): 10, name(2): 20}


def test_folder_of_archives(tmp_path):
    """The images of each archive in a folder are added; a document of an office program is no such archive."""
    plain = fill(tree(tmp_path / "plain", FOUR), tmp_path / "one")
    (tmp_path / "zips" / "more").mkdir(parents=True)
    zipped(tmp_path / "zips" / "images_001.zip", {f"images/{name(k)}": png(10 * k) for k in (1, 2)})
    tar(tmp_path / "zips" / "more" / "images_002.tar.gz", {f"images/{name(k)}": png(10 * k) for k in (3, 4)})
    zipped(tmp_path / "zips" / "notes.docx", {"word/media/image1.png": png(90)})
    with pytest.warns(UserWarning, match="^1 file is left out.*notes.docx$"):
        cache = fill(tmp_path / "zips", tmp_path / "cache")
    assert content(cache)[0] == content(plain)[0]
    assert cache.sources == (("images_001.zip", 2), ("images_002.tar.gz", 2))


def test_images_of_one_name_give_a_warning(tmp_path):
    """As on a disc of a hospital: IM0001 in the folder of each patient."""
    source = tree(tmp_path / "disc", {"p1/IM0001": png(10), "p2/IM0001": png(20), "p2/IM0002": png(30)})
    with pytest.warns(UserWarning, match="^1 image has the name of an earlier one.*IM0001.png"):
        assert levels(fill(source, tmp_path / "cache")) == {"IM0001.png": 10, "IM0002.png": 30}


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 can be made on Linux only")
def test_names_by_path_do_not_collide(tmp_path):
    """CheXpert has an image view1_frontal.jpg in each study."""
    members = {f"train/patient{k:05}/study1/view1_frontal.jpg": png(40 * k, kind="JPEG") for k in (1, 2, 3)}
    wanted = [name for name in members if "00002" not in name]
    for number, source in enumerate((tree(tmp_path / "folder", members), zipped(tmp_path / "a.zip", members))):
        cache = fill(source, tmp_path / f"cache {number}", image_name=name_by_path, names=wanted)
        assert cache.image_index == wanted
        assert [int(image.mean()) for image in cache.images] == [40, 120]


def test_guessed_images_give_one_warning(tmp_path):
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    for number in range(3):
        width = 800 if number == 2 else -1
        make_dataset(values, bits=10, WindowCenter=500, WindowWidth=width).save_as(tmp_path / f"{number}.dcm")
    with pytest.warns(UserWarning, match="2 images were repaired or guessed while reading: 0.png, 1.png .*window"):
        fill(tmp_path, tmp_path / "cache")


def test_name_that_is_not_utf8(tmp_path):
    source = tree(tmp_path / "a", {os.fsdecode(b"R\xf6ntgen.png"): png(10), name(2): png(20)})
    assert levels(fill(source, tmp_path / "cache")) == {"R\\xf6ntgen.png": 10, name(2): 20}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipes_are_not_opened(tmp_path):
    os.mkfifo(tree(tmp_path / "a", {name(1): png(10)}) / "pipe.png")
    with pytest.warns(UserWarning, match="1 file is left out.*pipe.png"):
        assert len(fill(tmp_path / "a", tmp_path / "cache")) == 1
    with pytest.raises(InputError, match="pipe.png .*not a file"):
        fill(tmp_path / "a" / "pipe.png", tmp_path / "cache")


def test_sources_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no PNG, JPEG, TIFF or DICOM image"):
        fill(tmp_path / "empty", tmp_path / "cache")
    with pytest.raises(InputError, match="no source"):
        fill([], tmp_path / "cache")
    with pytest.raises(InputError, match=name(1)):
        fill(tree(tmp_path / "bad", {name(1): b"x"}), tmp_path / "cache")
    with pytest.raises(InputError, match="no prepared images"):
        ImageCache.open(tmp_path / "cache")


def test_other_size_needs_other_folder(tmp_path):
    cache = fill(tree(tmp_path / "a", FOUR), tmp_path / "cache")
    before = content(cache)
    with pytest.raises(InputError, match="size 16, not 24"):
        fill(tmp_path / "a", tmp_path / "cache", size=24)
    assert content(cache) == before
    with pytest.raises(InputError, match="size must be"):
        fill(tmp_path / "a", tmp_path / "other", size=0)


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file"):
        fill(tree(tmp_path / "a", FOUR), tmp_path / "file" / "cache")


def run_child(program: str, *words: object) -> subprocess.CompletedProcess:
    """Run Python in a separate process."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
    )


def test_full_disk_and_next_run(tmp_path):
    """A limit to the length of files stands for the full disk: the system refuses the write in the same way."""
    source = tree(tmp_path / "a", {name(k): png(k) for k in range(100)})
    done = run_child(
        "import resource, sys; from cxr_seam.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "sys.exit(main(['prepare', sys.argv[1], '--cache', sys.argv[2], '--size', '16']))",
        source,
        tmp_path / "cache",
    )
    assert done.returncode == 2
    assert "make room" in done.stderr and "Traceback" not in done.stderr
    part = ImageCache.open(tmp_path / "cache")
    assert is_whole(part)
    assert len(part) == 10_000 // 16**2  # prepared images stay
    assert content(fill(source, tmp_path / "cache")) == content(fill(source, tmp_path / "whole"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux reports the peak memory of a process")
def test_memory_does_not_grow_with_archive(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
    Image.fromarray(noise).save(buffer := io.BytesIO(), "PNG", compress_level=1)
    peak = {}
    for count in (40, 240):  # 10 and 63 MB of PNGs
        source = tar(tmp_path / f"{count}.tar.gz", {name(k): buffer.getvalue() for k in range(count)})
        done = run_child(
            "import sys; from cxr_seam.data.cache import prepare\n"
            "prepare(sys.argv[1], sys.argv[2], size=64, workers=2, progress=False)\n"
            "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])",
            source,
            tmp_path / f"cache {count}",
        )
        assert done.returncode == 0, done.stderr
        peak[count] = int(done.stdout) * 1024
    assert peak[240] - peak[40] < 16e6
    assert peak[240] < 1e9


def test_status_of_command_with_broken_images(tmp_path, capsys):
    source = tree(tmp_path / "a", {name(1): png(10), name(2): b"no image"})
    words = ["prepare", str(source), "--cache", str(tmp_path / "cache"), "--size", "16"]
    assert main(words) == 3
    assert name(2) in capsys.readouterr().err
    (source / name(2)).unlink()
    (source / "notes.pdf").write_text("no image either")
    (source / "table.csv").write_text("tables lie beside images")
    assert main(words) == 0
    assert "1 file is left out" in (printed := capsys.readouterr().err) and "notes.pdf" in printed


def test_bytes_of_stopped_run_are_cut_off(tmp_path):
    whole = fill(tree(tmp_path / "a", FOUR), tmp_path / "whole")
    part = fill(tmp_path / "a", tmp_path / "cache", names=[name(1), name(2)])
    with (part.folder / "images.u8").open("ab") as file:
        file.write(b"half an image")
    (part.folder / ".index.1234.part.json").write_text("{")
    assert content(fill(tmp_path / "a", tmp_path / "cache")) == content(whole)
    assert {path.name for path in part.folder.iterdir()} == {"images.u8", "index.json"}


def test_images_without_index_are_prepared_again(tmp_path):
    whole = fill(tree(tmp_path / "a", FOUR), tmp_path / "whole")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "images.u8").write_bytes(b"never committed")
    assert content(fill(tmp_path / "a", tmp_path / "cache")) == content(whole)


def test_killed_run_is_completed_by_next_run(tmp_path, monkeypatch):
    """A killed run leaves a cache that opens and verifies; the next run gives the bytes of an uninterrupted one."""
    source = tar(tmp_path / "a.tar.gz", {name(k): png(k % 251, side=64) for k in range(600)})
    program = (
        "import sys, time, cxr_seam.data.cache as c\n"
        "c.COMMIT_EVERY = 7\n"
        "read = c.load_image\n"
        "c.load_image = lambda *a, **k: (time.sleep(0.01), read(*a, **k))[1]\n"
        "c.prepare(sys.argv[1], sys.argv[2], size=16, progress=False)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program, source, tmp_path / "cache"], cwd=Path(__file__).parent.parent.parent
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "cache" / "index.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(InputError, match="another run is filling"):
        fill(source, tmp_path / "cache")
    os.kill(running.pid, signal.SIGKILL)
    running.wait()

    part = ImageCache.open(tmp_path / "cache")
    assert is_whole(part)
    assert 0 < len(part) < 600
    assert part.image_index == [name(k) for k in range(len(part))]
    assert content(fill(source, tmp_path / "cache")) == content(fill(source, tmp_path / "whole"))


def test_real_originals_and_small_images(nih_root, tmp_path):
    originals = sorted((nih_root / "images").glob("*.png"))[:3]
    stems = {path.stem for path in (nih_root / "images").iterdir()}
    small = sorted(path for path in (nih_root / "images_256").iterdir() if path.stem not in stems)[:5]
    names = sorted({path.name for path in originals} | {f"{path.stem}.png" for path in small})
    cache = fill([nih_root / "images", nih_root / "images_256"], tmp_path / "cache", size=256, names=names)
    assert sorted(cache.image_index) == names
    assert cache.image_index[:3] == [path.name for path in originals]
    assert cache.sources == (("images", 3), ("images_256", 5))
    # 1024 to 256 is the mean of each 4x4 block.
    blocks = load_image(originals[0]).pixels.reshape(256, 4, 256, 4).mean(axis=(1, 3))
    assert np.abs(cache.images[0] - blocks).max() <= 0.5
    last = cache.image_index[-1]
    assert np.array_equal(cache.images[-1], load_image(nih_root / "images_256" / f"{Path(last).stem}.jpg").pixels)


def test_real_subset_is_complete(nih_root):
    counts = {name: len({path.stem for path in (nih_root / name).iterdir()}) for name in ("images", "images_256")}
    assert counts == {"images": 60, "images_256": 2610}
