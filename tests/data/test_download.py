"""The downloader against a server in this process that serves small archives, cuts connections, sends other files."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.archives import content, name, png, tar, zipped
from helpers.batches import ROOT
from helpers.server import FIRST, SECOND, TABLES, nih_server

from cxr_seam.data import download as module
from cxr_seam.data.cache import ImageCache
from cxr_seam.data.download import ARCHIVES, fetch, main, md5_of, parse_archives
from cxr_seam.errors import InputError

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="data_download.sh needs bash")


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = nih_server(tmp_path)
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        "PYTHON": sys.executable, "CXR_SEAM_NIH_URL": server.url, "CXR_SEAM_TABLES_URL": server.url,
        "no_proxy": "127.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    yield server
    server.stop()


@pytest.fixture
def words(server):
    """The options that run the downloader on the server, in the current folder."""

    def words(*options: str, sums: dict[str, bytes] | None = None) -> list[str]:
        if sums is None:
            sums = {"images_001.tar.gz": server.files[FIRST], "images_002.tar.gz": server.files[SECOND]}
        lines = [f"{hashlib.md5(data).hexdigest()}  {file}\n" for file, data in sums.items()]
        Path("sums").write_text("".join(lines))
        return ["--dest", "my data", "--size", "16", "--checksums", "sums", *options]

    return words


@pytest.fixture
def download(words, capsys):
    """Run the downloader to its end in this process; returns (exit status, messages)."""

    def run(*options: str, sums: dict[str, bytes] | None = None) -> tuple[int, str]:
        try:
            status = main(words(*options, sums=sums))
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        assert printed.out == ""
        return status, printed.err

    return run


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "my data"


def test_download_prepares_deletes_and_is_done_once(download, server, dest):
    status, messages = download("--archives", "1-2")
    assert status == 0, messages
    cache = ImageCache.open(dest / "cache_16")
    assert sorted(cache.image_index) == [name(k) for k in (0, 1, 2, 3, 10, 11, 12, 13)]
    assert cache.images[cache.indices([name(12)])].mean() == 12
    assert cache.sources == (("images_001.tar.gz", 4), ("images_002.tar.gz", 4))
    assert {path.name for path in dest.iterdir()} == {*TABLES, "cache_16"}  # no archive is left
    for table in TABLES:
        assert (dest / table).read_bytes() == server.files[f"/{table}"]
    server.asked.clear()
    assert download("--archives", "1-2")[0] == 0
    assert server.asked == []


def test_further_archive_is_added(download, server, dest):
    assert download("--archives", "1")[0] == 0
    server.asked.clear()
    assert download("--archives", "1,2")[0] == 0
    assert server.paths() == [SECOND]
    assert len(ImageCache.open(dest / "cache_16")) == 8


def test_keep_originals(download, server, dest):
    assert download("--archives", "1", "--keep-originals")[0] == 0
    assert (dest / "archives" / "images_001.tar.gz").read_bytes() == server.files[FIRST]
    server.asked.clear()
    assert download("--archives", "1", "--keep-originals", "--size", "8")[0] == 0
    assert server.asked == []
    assert ImageCache.open(dest / "cache_8").size == 8


def test_tables_only(download, server, dest):
    status, messages = download("--tables-only")
    assert status == 0, messages
    assert {path.name for path in dest.iterdir()} == set(TABLES)
    assert server.paths() == [f"/{table}" for table in TABLES]


def test_other_release_of_table_gives_one_warning(download, server, tmp_path):
    sums = {table: server.files[f"/{table}"] for table in TABLES[1:]}
    messages = download("--tables-only", sums=sums)[1]
    assert messages.count("warning") == 1 and TABLES[0] in messages[messages.index("warning") :]


def test_wrong_md5_is_deleted_and_next_run_recovers(download, server, dest):
    right = server.files[FIRST]
    server.files[FIRST] = right[:-1] + b"\xff"
    status, messages = download("--archives", "1", sums={"images_001.tar.gz": right})
    assert (
        status == 1
        and hashlib.md5(right).hexdigest() in messages
        and hashlib.md5(server.files[FIRST]).hexdigest() in messages
    )
    assert not (dest / "cache_16").exists()
    assert list((dest / "archives").iterdir()) == []
    server.files[FIRST] = right
    assert download("--archives", "1", sums={"images_001.tar.gz": right})[0] == 0
    assert len(ImageCache.open(dest / "cache_16")) == 4


def test_published_md5_is_compared(download, server):
    """Without --checksums, the small archive is compared with the md5 published for images_001."""
    status, messages = download("--archives", "1", sums={})
    assert status == 1 and "fe8ed0a6961412fddcbb3603c11b3698" in messages
    assert len(ARCHIVES) == 12 and len({text for pair in ARCHIVES.values() for text in pair}) == 24


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "begins again"])
def test_cut_connection_is_resumed(ranges, download, server, dest):
    server.drop.add(FIRST)
    server.ranges = ranges
    status, messages = download("--archives", "1")
    assert status == 0, messages
    half = len(server.files[FIRST]) // 2
    assert server.asked[4:] == [(FIRST, None), (FIRST, f"bytes={half}-")]
    assert len(ImageCache.open(dest / "cache_16")) == 4


@pytest.mark.parametrize("share", [0.4, 1.0], ids=["part", "whole"])
def test_part_file_of_earlier_run_is_resumed(share, download, server, dest):
    data = server.files[FIRST]
    (dest / "archives").mkdir(parents=True)
    (dest / "archives" / "images_001.tar.gz.part").write_bytes(data[: int(len(data) * share)])
    status, messages = download("--archives", "1")
    assert status == 0, messages
    assert server.asked[-1] == (FIRST, f"bytes={int(len(data) * share)}-")
    assert len(ImageCache.open(dest / "cache_16")) == 4


def test_fetch_does_not_inflate(server, tmp_path):
    """A .tar.gz must arrive as it is, for its md5 is that of the compressed file."""
    fetch(f"{server.url}{FIRST}", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.files[FIRST]
    assert md5_of(tmp_path / "file") == hashlib.md5(server.files[FIRST]).hexdigest()


def test_fetch_gives_up_when_nobody_answers(server, tmp_path):
    server.stop()
    with pytest.raises(InputError, match=FIRST):
        fetch(f"{server.url}{FIRST}", tmp_path / "file")


def test_web_page_instead_of_archive(download, server, dest):
    server.files[FIRST] = b"\n<!DOCTYPE html>\n<html><body>This file is gone</body></html>"
    status, messages = download("--archives", "1")
    assert status == 1 and FIRST in messages and "web page" in messages
    assert not list(dest.rglob("images_001*"))


@pytest.mark.parametrize("answer", [b"<html>log in</html>", b"", b'{"error": "moved"}\n'])
def test_other_file_instead_of_table(answer, download, server, dest):
    server.files["/test_list.txt"] = answer
    status, messages = download("--tables-only")
    assert status == 1 and "/test_list.txt" in messages
    assert not (dest / "test_list.txt").exists()


def test_missing_archive(download, server):
    del server.files[FIRST]
    status, messages = download("--archives", "1", sums={})
    assert status == 1 and FIRST in messages and "404" in messages


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server_is_asked_again(status, download, server, dest):
    server.refuse[FIRST] = [status]
    code, messages = download("--archives", "1")
    assert code == 0, messages
    assert server.paths().count(FIRST) == 2
    assert len(ImageCache.open(dest / "cache_16")) == 4


def test_server_that_stays_busy(download, server, dest):
    server.refuse[FIRST] = [429] * 100
    code, messages = download("--archives", "1")
    assert code == 1 and FIRST in messages and "429" in messages
    assert server.paths().count(FIRST) == 5
    assert not list(dest.rglob("images_001.tar.gz")) and not (dest / "cache_16").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full, which answers as a full disk does")
def test_full_disk(download, dest):
    (dest / "archives").mkdir(parents=True)
    (dest / "archives" / "images_001.tar.gz.part").symlink_to("/dev/full")
    status, messages = download("--archives", "1")
    assert status == 1 and "images_001.tar.gz.part" in messages and "make room" in messages
    assert not (dest / "archives" / "images_001.tar.gz").exists() and not (dest / "cache_16").exists()


@needs_bash
def test_script_killed_anywhere_resumes_to_same_bytes(words, download, server, dest):
    """Kill data_download.sh after ever longer times, in downloads and between them, until it came to its end."""
    assert download("--archives", "1-2")[0] == 0
    whole = content(ImageCache.open(dest / "cache_16"))
    shutil.rmtree(dest)
    server.pause = 0.5
    killed = 0
    while True:
        command = ["bash", str(ROOT / "data_download.sh"), *words("--archives", "1-2")]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = subprocess.Popen(command, start_new_session=True, **quiet)
        try:
            status = running.wait(1 + 0.7 * killed)
            break
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            killed += 1
    assert killed >= 2
    assert status == 0
    assert content(ImageCache.open(dest / "cache_16")) == whole
    assert {path.name for path in dest.iterdir()} == {*TABLES, "cache_16"}
    for table in TABLES:
        assert (dest / table).read_bytes() == server.files[f"/{table}"]


def test_archive_of_killed_run_is_deleted(download, dest):
    assert download("--archives", "1")[0] == 0
    (dest / "archives").mkdir()
    (dest / "archives" / "images_001.tar.gz.done").write_bytes(b"prepared")
    assert download("--archives", "1")[0] == 0
    assert {path.name for path in dest.iterdir()} == {*TABLES, "cache_16"}


def test_broken_image_is_reported_and_others_are_kept(download, server, dest, tmp_path):
    images = {f"images/{name(1)}": png(1), f"images/{name(2)}": b"no image", f"images/{name(3)}": png(3)}
    server.files[FIRST] = tar(tmp_path / "archive", images).read_bytes()
    status, messages = download("--archives", "1-2")
    assert status == 1 and name(2) in messages and "images_001" in messages.splitlines()[-1]
    assert ImageCache.open(dest / "cache_16").image_index == [name(k) for k in (1, 3, 10, 11, 12, 13)]
    server.asked.clear()
    assert download("--archives", "1-2")[0] == 0  # its md5 was right: another copy would be no better
    assert server.asked == []


def test_mirror_has_no_checksums(download, server, dest, tmp_path):
    images = {f"images_003/{name(k)}": png(k) for k in range(3)}
    server.files["/images/images_003.zip"] = zipped(tmp_path / "zip", images).read_bytes()
    status, messages = download("--source", "huggingface", "--archives", "3")
    assert status == 0 and "no checksum is known for images_003.zip" in messages
    assert len(ImageCache.open(dest / "cache_16")) == 3


def test_damaged_image_of_archive_without_checksum_is_fetched_again(download, server, dest, tmp_path):
    path = "/images/images_003.zip"
    right = zipped(tmp_path / "zip", {name(k): png(k) for k in range(3)}).read_bytes()
    offset = right.index(b"IDAT") + 6
    server.files[path] = right[:offset] + bytes([right[offset] ^ 0xFF]) + right[offset + 1 :]
    status, messages = download("--source", "huggingface", "--archives", "3")
    assert status == 1 and "images_003" in messages
    server.files[path] = right
    assert download("--source", "huggingface", "--archives", "3")[0] == 0
    assert sorted(ImageCache.open(dest / "cache_16").image_index) == [name(k) for k in range(3)]


def test_zip_cut_short_is_deleted(download, server, dest, tmp_path):
    whole = zipped(tmp_path / "zip", {name(k): png(k) for k in range(3)}).read_bytes()
    server.files["/images/images_003.zip"] = whole[:-40]
    status, messages = download("--source", "huggingface", "--archives", "3")
    assert status == 1 and "images_003.zip" in messages.splitlines()[-1]
    assert not list(dest.rglob("images_003*"))


@pytest.mark.parametrize("fault", ["cut short", "path that climbs out", "no images"])
def test_archive_of_right_md5_can_be_refused(fault, download, server, dest, tmp_path):
    server.files[FIRST] = {
        "cut short": server.files[FIRST][: len(server.files[FIRST]) // 2],
        "path that climbs out": tar(tmp_path / "a", {name(1): png(1), f"../{name(2)}": png(2)}).read_bytes(),
        "no images": tar(tmp_path / "b", {"README.txt": b"no images"}).read_bytes(),
    }[fault]
    status, messages = download("--archives", "1")
    assert status == 1 and "images_001.tar.gz" in messages.splitlines()[-1] and "Traceback" not in messages
    assert not (dest / "cache_16" / "finished.txt").exists()
    assert not list(tmp_path.rglob(name(2)))


def test_progress_and_time_left(server, tmp_path, capsys):
    messages = []
    sums = {
        f"images_{k:03d}.tar.gz": hashlib.md5(server.files[path]).hexdigest() for k, path in ((1, FIRST), (2, SECOND))
    }
    module.download(tmp_path / "new", archives=[1, 2], size=16, checksums=sums, log=messages.append)
    assert any("(2 of 2, about 0 h 01 min left)" in message for message in messages)
    bars = capsys.readouterr().err
    assert "images_001.tar.gz: 100%" in bars and "16x16: 100%" in bars


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--archives", "0-3"], "--archives"),
        (["--archives", "5-3"], "--archives"),
        (["--archives", "13"], "--archives"),
        (["--archives", "x; ls"], "--archives"),
        (["--source", "kaggle"], "--source"),
        (["--size", "0"], "size must be from 1"),
        (["--size"], "--size"),
        (["--dest", ""], "--dest"),
        (["--quick"], "--quick"),
        (["--checksums", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options(options, named, download, server):
    status, messages = download(*options)
    assert status in (1, 2) and named in messages and "Traceback" not in messages
    assert server.asked == []


def test_parse_archives():
    assert parse_archives("1,4-6,12") == [1, 4, 5, 6, 12]


@needs_bash
def test_script_has_every_option():
    command = ["bash", str(ROOT / "data_download.sh"), "--help"]
    messages = subprocess.run(
        command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=True
    )
    for option in ("dest", "archives", "source", "size", "tables-only", "keep-originals", "checksums"):
        assert f"--{option}" in messages.stdout
