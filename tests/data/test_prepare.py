"""Filling a store from folders and archives, whole, twice and stopped."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.archives import content, fill, name, png, tar, tree, zipped
from PIL import Image

from cxr_seam.__main__ import main
from cxr_seam.data.cache import ImageCache
from cxr_seam.data.image_io import read_radiograph
from cxr_seam.errors import InputError

FOUR = {f"images/{name(k)}": png(10 * k) for k in range(1, 5)}


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
def test_every_kind_of_source_gives_the_same_images(make, tmp_path):
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    cache = fill(source, tmp_path / "store")
    assert levels(cache) == {name(k): 10 * k for k in range(1, 5)}
    assert cache.sources == ((source.name, 4),)
    cache.verify()
    added = set(tmp_path.rglob("*")) - set(before)
    assert {path.name for path in added} == {"store", "images.u8", "index.json"}  # nothing was unpacked


def test_a_second_run_adds_only_what_is_missing(tmp_path):
    first = fill(tree(tmp_path / "a", FOUR), tmp_path / "store")
    before = content(first)
    assert content(fill(tmp_path / "a", tmp_path / "store")) == before
    tree(tmp_path / "a", {"images/00000000_000.png": png(99)})
    again = fill(tmp_path / "a", tmp_path / "store")
    assert again.image_index == [*first.image_index, "00000000_000.png"]
    assert levels(again)["00000000_000.png"] == 99


def test_the_first_source_wins_and_suffixes_do_not_matter(tmp_path):
    tree(tmp_path / "a", {name(1): png(10)})
    tree(tmp_path / "b", {"00000001_000.jpg": png(90, kind="JPEG"), "00000002_000.JPEG": png(20, kind="JPEG")})
    cache = fill([tmp_path / "a", tmp_path / "b"], tmp_path / "store")
    assert levels(cache) == {name(1): 10, name(2): 20}
    assert cache.sources == (("a", 1), ("b", 1))


def test_a_broken_copy_is_replaced_by_the_next_source(tmp_path):
    tree(tmp_path / "a", {name(1): png(10)[:40], name(2): png(20)})
    tree(tmp_path / "b", {name(1): png(30)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = fill([tmp_path / "a", tmp_path / "b"], tmp_path / "store")
    assert levels(cache) == {name(2): 20, name(1): 30}


def test_only_the_names_asked_for_are_prepared(tmp_path):
    source = tree(tmp_path / "a", FOUR)
    assert fill(source, tmp_path / "store", names=[name(3), name(9)]).image_index == [name(3)]
    with pytest.raises(InputError, match="no PNG or JPEG image of those asked for"):
        fill(source, tmp_path / "other", names=[name(9)])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bytes_do_not_depend_on_the_threads(workers, tmp_path):
    source = tar(tmp_path / "a.tar.gz", {name(k): png(k, side=16 + 40 * (k % 3)) for k in range(60)})
    cache = fill(source, tmp_path / "store", workers=workers)
    assert cache.image_index == [name(k) for k in range(60)]
    assert levels(cache) == {name(k): k for k in range(60)}


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_broken_images_are_named_once_and_the_rest_is_kept(kind, tmp_path):
    members = {
        name(1): png(10),
        name(2): b"",
        name(3): png(30)[:-30],
        name(4): b"not an image",
        name(5): png(50, side=1),
        name(6): png(60),
        "README.txt": b"text",
        "._00000007_000.png": b"what macOS leaves behind",
        "00000008_000.npy": b"something else",
    }
    make = {"folder": tree, "tar": tar, "zip": zipped}[kind]
    with pytest.warns(UserWarning, match="4 images could not be read") as caught:
        cache = fill(make(tmp_path / "source", members), tmp_path / "store")
    assert levels(cache) == {name(1): 10, name(6): 60}
    assert len(caught) == 1
    text = str(caught[0].message)
    assert all(name(k) in text for k in (2, 3, 4, 5)) and "\n" not in text


def test_sources_without_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no PNG or JPEG image"):
        fill(tmp_path / "empty", tmp_path / "store")
    with pytest.raises(InputError, match="no source"):
        fill([], tmp_path / "store")
    with pytest.raises(InputError, match="none of the images .* could be read; the first"):
        fill(tree(tmp_path / "bad", {name(1): b"x"}), tmp_path / "store")
    with pytest.raises(InputError, match="no prepared images"):
        ImageCache.open(tmp_path / "store")


def test_another_size_needs_another_folder(tmp_path):
    cache = fill(tree(tmp_path / "a", FOUR), tmp_path / "store")
    before = content(cache)
    with pytest.raises(InputError, match="holds images of size 16, not 24"):
        fill(tmp_path / "a", tmp_path / "store", size=24)
    assert content(cache) == before
    with pytest.raises(InputError, match="size must be"):
        fill(tmp_path / "a", tmp_path / "other", size=0)


def test_a_store_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write to .*file"):
        fill(tree(tmp_path / "a", FOUR), tmp_path / "file" / "store")


def run_child(program: str, *words: object) -> subprocess.CompletedProcess:
    """Run Python in a process of its own, which an error must end with a sentence and not with a traceback."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
    )


def test_a_full_disk_is_told_and_the_next_run_completes(tmp_path):
    """A limit to the length of files stands for the full disk: the system refuses the write in the same way."""
    source = tree(tmp_path / "a", {name(k): png(k) for k in range(100)})
    done = run_child(
        "import resource, sys; from cxr_seam.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "sys.exit(main(['prepare', sys.argv[1], '--cache', sys.argv[2], '--size', '16']))",
        source,
        tmp_path / "store",
    )
    assert done.returncode == 2
    assert "cannot write to" in done.stderr and "make room" in done.stderr and "Traceback" not in done.stderr
    part = ImageCache.open(tmp_path / "store")
    part.verify()
    assert len(part) == 10_000 // 16**2  # what was prepared is kept
    assert content(fill(source, tmp_path / "store")) == content(fill(source, tmp_path / "whole"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory")
def test_memory_does_not_grow_with_the_archive(tmp_path):
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
            tmp_path / f"store {count}",
        )
        assert done.returncode == 0, done.stderr
        peak[count] = int(done.stdout) * 1024
    assert peak[240] - peak[40] < 16e6
    assert peak[240] < 1e9


def test_the_command_line_tells_of_broken_images_by_its_status(tmp_path, capsys):
    source = tree(tmp_path / "a", {name(1): png(10), name(2): b"no image"})
    words = ["prepare", str(source), "--cache", str(tmp_path / "store"), "--size", "16"]
    assert main(words) == 3
    assert "cxr_seam: 1 image could not be read" in capsys.readouterr().err
    (source / name(2)).unlink()
    assert main(words) == 0


def test_bytes_of_a_stopped_run_are_cut_off(tmp_path):
    whole = fill(tree(tmp_path / "a", FOUR), tmp_path / "whole")
    part = fill(tmp_path / "a", tmp_path / "store", names=[name(1), name(2)])
    with (part.folder / "images.u8").open("ab") as file:
        file.write(b"half an image")
    (part.folder / ".index.1234.part.json").write_text("{")
    assert content(fill(tmp_path / "a", tmp_path / "store")) == content(whole)
    assert {path.name for path in part.folder.iterdir()} == {"images.u8", "index.json"}


def test_images_without_an_index_are_begun_anew(tmp_path):
    whole = fill(tree(tmp_path / "a", FOUR), tmp_path / "whole")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "images.u8").write_bytes(b"never committed")
    assert content(fill(tmp_path / "a", tmp_path / "store")) == content(whole)


def test_a_killed_run_leaves_a_store_that_the_next_run_completes(tmp_path, monkeypatch):
    """Killed for good in mid-run: what it committed opens and verifies, and the end is as if it had never stopped."""
    source = tar(tmp_path / "a.tar.gz", {name(k): png(k % 251, side=64) for k in range(600)})
    program = (
        "import sys, time, cxr_seam.prepare as p, cxr_seam.radiographs as r\n"
        "p.BLOCK = 7\n"
        "read = p.read_radiograph\n"
        "p.read_radiograph = lambda *a, **k: (time.sleep(0.01), read(*a, **k))[1]\n"
        "p.prepare(sys.argv[1], sys.argv[2], size=16, progress=False)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program, source, tmp_path / "store"], cwd=Path(__file__).parent.parent.parent
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "store" / "index.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(InputError, match="another run is filling"):
        fill(source, tmp_path / "store")
    os.kill(running.pid, signal.SIGKILL)
    running.wait()

    part = ImageCache.open(tmp_path / "store")
    part.verify()
    assert 0 < len(part) < 600
    assert part.image_index == [name(k) for k in range(len(part))]
    assert content(fill(source, tmp_path / "store")) == content(fill(source, tmp_path / "whole"))


def test_the_real_originals_and_the_small_images_prepare_together(nih_root, tmp_path):
    originals = sorted((nih_root / "images").glob("*.png"))[:3]
    stems = {path.stem for path in (nih_root / "images").iterdir()}
    small = sorted(path for path in (nih_root / "images_256").iterdir() if path.stem not in stems)[:5]
    names = sorted({path.name for path in originals} | {f"{path.stem}.png" for path in small})
    cache = fill([nih_root / "images", nih_root / "images_256"], tmp_path / "store", size=256, names=names)
    assert sorted(cache.image_index) == names
    assert cache.image_index[:3] == [path.name for path in originals]
    assert cache.sources == (("images", 3), ("images_256", 5))
    # 1024 to 256 is the mean of each 4x4 block.
    blocks = read_radiograph(originals[0]).reshape(256, 4, 256, 4).mean(axis=(1, 3))
    assert np.abs(cache.images[0] - blocks).max() <= 0.5
    last = cache.image_index[-1]
    assert np.array_equal(cache.images[-1], read_radiograph(nih_root / "images_256" / f"{Path(last).stem}.jpg"))


def test_the_real_part_has_the_images_it_lists(nih_root):
    counts = {name: len({path.stem for path in (nih_root / name).iterdir()}) for name in ("images", "images_256")}
    assert counts == {"images": 60, "images_256": 2610}
