"""data_download.sh against a server in this process, which serves small archives, drops connections and lies."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.archives import content, name, png, tar, zipped

from cxr_seam.data.cache import ImageCache

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "data_download.sh")
TABLES = ("BBox_List_2017.csv", "Data_Entry_2017_v2020.csv", "test_list.txt", "train_val_list.txt")
FIRST = "/vfk49d74nhbxq3nqjg0900w5nvkorp5c.gz"  # Box's identifiers of images_001 and images_002
SECOND = "/i28rlmbvmfjbl8p2n3ril0pptcmcu9d1.gz"

pytestmark = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("curl")), reason="data_download.sh needs bash and curl"
)


class Server:
    """Serves `files` (path to bytes), and records what was asked for.

    Attributes:
        asked: (path, Range header) of every request.
        drop: paths whose connection is cut once in the middle of the answer.
        ranges: whether a Range header is honoured.
        refuse: HTTP statuses that the next requests for a path are answered with.
        pause: seconds to wait in the middle of every answer.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.drop: set[str] = set()
        self.ranges = True
        self.refuse: dict[str, list[int]] = {}
        self.pause = 0.0
        state = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                state.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        if self.refuse.get(request.path):
            return request.send_error(self.refuse[request.path].pop(0))
        if request.path not in self.files:
            return request.send_error(404)
        data, start = self.files[request.path], 0
        if wanted and self.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(data):
                return request.send_error(416)
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        data = data[start:]
        if request.path in self.drop:
            self.drop.discard(request.path)
            data = data[: len(data) // 2]
        half = len(data) // 2
        with contextlib.suppress(ConnectionError):  # whoever asked may have been killed
            request.wfile.write(data[:half])
            time.sleep(self.pause)
            request.wfile.write(data[half:])

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@pytest.fixture
def server(tmp_path):
    server = Server()
    for table in TABLES:
        server.files[f"/{table}"] = f"Image Index,of {table}\n".encode()
    for path, start in ((FIRST, 0), (SECOND, 10)):
        images = {f"images/{name(start + k)}": png(start + k, side=64) for k in range(4)}
        server.files[path] = tar(tmp_path / "archive", images).read_bytes()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def command(server, tmp_path):
    """Arguments for subprocess that run the script on the server, in `tmp_path`."""

    def arguments(*options: str, sums: dict[str, bytes] | None = None) -> dict:
        if sums is None:
            sums = {"images_001.tar.gz": server.files[FIRST], "images_002.tar.gz": server.files[SECOND]}
        lines = [f"{hashlib.md5(data).hexdigest()}  {file}\n" for file, data in sums.items()]
        (tmp_path / "sums").write_text("".join(lines))
        return {
            "args": ["bash", SCRIPT, "--dest", "my data", "--size", "16", "--checksums", "sums", *options],
            "cwd": tmp_path,
            "env": {
                **os.environ,
                "PYTHON": sys.executable,
                "CXR_SEAM_NIH_URL": server.url,
                "CXR_SEAM_TABLES_URL": server.url,
                "no_proxy": "127.0.0.1",
            },
        }

    return arguments


@pytest.fixture
def download(command):
    """Run the script to its end; returns (exit status, what it said)."""

    def run(*options: str, sums: dict[str, bytes] | None = None) -> tuple[int, str]:
        done = subprocess.run(**command(*options, sums=sums), capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "my data"


def test_download_prepare_delete_and_do_nothing_the_second_time(download, server, dest):
    status, said = download("--archives", "1-2")
    assert status == 0, said
    store = ImageCache.open(dest / "store_16")
    assert sorted(store.image_index) == [name(k) for k in (0, 1, 2, 3, 10, 11, 12, 13)]
    assert store.images[store.rows([name(12)])].mean() == 12
    assert store.sources == (("images_001.tar.gz", 4), ("images_002.tar.gz", 4))
    assert {path.name for path in dest.iterdir()} == {*TABLES, "store_16"}  # no archive is left
    assert (dest / "test_list.txt").read_text() == "Image Index,of test_list.txt\n"
    assert said.count("is not the release this project was checked with") == 4  # the made-up tables: a warning each

    server.asked.clear()
    status, said = download("--archives", "1-2")
    assert status == 0 and server.asked == []
    assert "images_001 is in my data/store_16 already" in said


def test_a_further_archive_is_added(download, server, dest):
    assert download("--archives", "1")[0] == 0
    server.asked.clear()
    assert download("--archives", "1,2")[0] == 0
    assert server.paths() == [SECOND]
    assert len(ImageCache.open(dest / "store_16")) == 8


def test_originals_are_kept_and_used_again(download, server, dest):
    assert download("--archives", "1", "--output-originals")[0] == 0
    assert (dest / "archives" / "images_001.tar.gz").read_bytes() == server.files[FIRST]
    server.asked.clear()
    assert download("--archives", "1", "--output-originals", "--size", "8")[0] == 0
    assert server.asked == []
    assert ImageCache.open(dest / "store_8").size == 8


def test_tables_only(download, server, dest):
    status, said = download("--tables-only")
    assert status == 0, said
    assert {path.name for path in dest.iterdir()} == set(TABLES)
    assert server.paths() == [f"/{table}" for table in TABLES]


def test_a_wrong_checksum_is_refused_and_deleted_and_the_next_run_recovers(download, server, dest):
    right = server.files[FIRST]
    server.files[FIRST] = right[:-1] + b"\xff"
    sums = {"images_001.tar.gz": right}
    status, said = download("--archives", "1", sums=sums)
    assert status == 1
    assert re.search(r"images_001.tar.gz has the md5 \w{32} instead of \w{32} and was deleted; run again", said)
    assert not (dest / "store_16").exists()
    assert list((dest / "archives").iterdir()) == []
    server.files[FIRST] = right
    assert download("--archives", "1", sums=sums)[0] == 0
    assert len(ImageCache.open(dest / "store_16")) == 4


def test_the_published_checksums_stand_in_the_script(download, server):
    """Without --checksums the made-up archive must be held to the md5 published for images_001."""
    status, said = download("--archives", "1", sums={})
    assert status == 1 and "instead of fe8ed0a6961412fddcbb3603c11b3698" in said


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "begins again"])
def test_a_dropped_connection_is_taken_up_again(ranges, download, server, dest):
    server.drop.add(FIRST)
    server.ranges = ranges
    status, said = download("--archives", "1")
    assert status == 0, said
    half = len(server.files[FIRST]) // 2
    assert server.asked[4] == (FIRST, None)
    assert (FIRST, f"bytes={half}-") in server.asked[5:]
    assert len(ImageCache.open(dest / "store_16")) == 4


@pytest.mark.parametrize("share", [0.4, 1.0], ids=["part", "whole"])
def test_what_an_earlier_run_left_is_taken_up(share, download, server, dest):
    data = server.files[FIRST]
    (dest / "archives").mkdir(parents=True)
    (dest / "archives" / "images_001.tar.gz.part").write_bytes(data[: int(len(data) * share)])
    status, said = download("--archives", "1")
    assert status == 0, said
    assert server.asked[-1] == (FIRST, f"bytes={int(len(data) * share)}-")
    assert len(ImageCache.open(dest / "store_16")) == 4


def test_a_web_page_instead_of_an_archive_is_told(download, server, dest):
    server.files[FIRST] = b"\n<!DOCTYPE html>\n<html><body>This file is gone</body></html>"
    status, said = download("--archives", "1")
    assert status == 1
    assert f"{FIRST} is a web page, not an archive" in said
    assert not list(dest.rglob("images_001*"))


def test_a_web_page_instead_of_a_table_is_told(download, server, dest):
    server.files["/test_list.txt"] = b"<html>log in</html>"
    status, said = download("--tables-only")
    assert status == 1 and "/test_list.txt is a web page, not the table" in said
    assert not (dest / "test_list.txt").exists()


@pytest.mark.parametrize("answer", [b"", b'{"error": "moved"}\n'])
def test_another_file_instead_of_a_table_is_told(answer, download, server, dest):
    server.files["/test_list.txt"] = answer
    status, said = download("--tables-only")
    assert status == 1 and "/test_list.txt is empty or another file, not the table" in said
    assert not (dest / "test_list.txt").exists()


def test_a_missing_archive_is_told_with_its_status(download, server):
    del server.files[FIRST]
    status, said = download("--archives", "1", sums={})
    assert status == 1 and f"{FIRST} answers with HTTP status 404" in said


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status, download, server, dest):
    server.refuse[FIRST] = [status]
    code, said = download("--archives", "1")
    assert code == 0, said
    assert server.paths().count(FIRST) == 2
    assert len(ImageCache.open(dest / "store_16")) == 4


def test_a_server_that_stays_busy_is_told_with_its_status(download, server, dest):
    server.refuse[FIRST] = [429] * 100
    code, said = download("--archives", "1")
    assert code == 1 and f"{FIRST} answers with HTTP status 429; try again later" in said
    assert server.paths().count(FIRST) == 4  # it has been asked again three times, and then left alone
    assert not list(dest.rglob("images_001.tar.gz")) and not (dest / "store_16").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full, which answers as a full disk does")
def test_a_full_disk_is_told(download, dest):
    (dest / "archives").mkdir(parents=True)
    (dest / "archives" / "images_001.tar.gz.part").symlink_to("/dev/full")
    status, said = download("--archives", "1")
    assert status == 1 and "cannot write my data/archives/images_001.tar.gz.part; make room on the disk" in said
    assert not (dest / "archives" / "images_001.tar.gz").exists() and not (dest / "store_16").exists()


def test_killed_anywhere_the_next_run_goes_on_to_the_same_bytes(command, download, server, dest, tmp_path):
    """Killed for good after ever longer times, in downloads and between them, until it came to its end."""
    assert download("--archives", "1-2")[0] == 0
    whole = content(ImageCache.open(dest / "store_16"))
    shutil.rmtree(dest)
    server.pause = 0.3
    killed = 0
    while True:
        running = subprocess.Popen(
            **command("--archives", "1-2"),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            status = running.wait(0.25 * (killed + 1))
            break
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            killed += 1
    assert killed >= 3
    assert status == 0
    assert content(ImageCache.open(dest / "store_16")) == whole
    assert {path.name for path in dest.iterdir()} == {*TABLES, "store_16"}
    for table in TABLES:
        assert (dest / table).read_bytes() == server.files[f"/{table}"]


def test_an_archive_that_a_killed_run_was_done_with_is_deleted(download, dest):
    assert download("--archives", "1")[0] == 0
    (dest / "archives").mkdir()
    (dest / "archives" / "images_001.tar.gz.done").write_bytes(b"prepared")
    assert download("--archives", "1")[0] == 0
    assert {path.name for path in dest.iterdir()} == {*TABLES, "store_16"}


def test_an_entry_that_is_no_image_is_told_and_the_others_are_kept(download, server, dest, tmp_path):
    images = {f"images/{name(1)}": png(1), f"images/{name(2)}": b"no image", f"images/{name(3)}": png(3)}
    server.files[FIRST] = tar(tmp_path / "archive", images).read_bytes()
    status, said = download("--archives", "1-2")
    assert status == 1
    assert "1 image could not be read" in said and name(2) in said and "Traceback" not in said
    assert "some images of images_001 could not be read" in said
    assert ImageCache.open(dest / "store_16").image_index == [name(k) for k in (1, 3, 10, 11, 12, 13)]
    server.asked.clear()
    assert download("--archives", "1-2")[0] == 0  # its checksum was right: another copy would be no better
    assert server.asked == []


def test_a_damaged_image_of_an_archive_without_checksum_is_fetched_again(download, server, dest, tmp_path):
    path = "/images/images_003.zip"
    right = zipped(tmp_path / "zip", {name(k): png(k) for k in range(3)}).read_bytes()
    place = right.index(b"IDAT") + 6
    server.files[path] = right[:place] + bytes([right[place] ^ 0xFF]) + right[place + 1 :]
    status, said = download("--source", "huggingface", "--archives", "3")
    assert status == 1 and "some images of images_003 could not be read" in said
    server.files[path] = right
    assert download("--source", "huggingface", "--archives", "3")[0] == 0
    assert sorted(ImageCache.open(dest / "store_16").image_index) == [name(k) for k in range(3)]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data, _: data[: len(data) // 2], "images_001.tar.gz is broken or ends early"),
        (lambda _, evil: evil, "leads out of it; do not use this archive"),
    ],
    ids=["cut short", "path that climbs out"],
)
def test_an_archive_of_the_right_checksum_can_be_refused(damage, sentence, download, server, dest, tmp_path):
    evil = tar(tmp_path / "evil", {name(1): png(1), f"../{name(2)}": png(2)}).read_bytes()
    server.files[FIRST] = damage(server.files[FIRST], evil)
    status, said = download("--archives", "1")
    assert status == 2 and sentence in said and "Traceback" not in said
    assert not (dest / "store_16" / "finished.txt").exists()
    assert not list(tmp_path.rglob(name(2)))


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals to open")
def test_a_terminal_shows_progress_and_the_time_left(command):
    import fcntl
    import pty
    import termios

    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))  # rows and columns
    running = subprocess.Popen(**command("--archives", "1-2"), stdout=its, stderr=its)
    os.close(its)
    said = b""
    with contextlib.suppress(OSError):  # Linux's answer when the other end has closed
        while data := os.read(ours, 4096):
            said += data
    os.close(ours)
    assert running.wait() == 0, said
    assert b"fetching images_001 (1 of 2)" in said
    assert re.search(rb"fetching images_002 \(2 of 2, about 0 h 01 min left\)", said)
    assert re.search(rb"Time +Current", said) and b"Left" in said  # curl's table while it fetches
    assert re.search(rb"16x16: 100%.*B/s", said)  # the preparation's bar


def test_the_mirrors_zip_archives_say_that_no_checksum_is_known(download, server, dest, tmp_path):
    images = {f"images_003/{name(k)}": png(k) for k in range(3)}
    server.files["/images/images_003.zip"] = zipped(tmp_path / "zip", images).read_bytes()
    status, said = download("--source", "huggingface", "--archives", "3")
    assert status == 0, said
    assert "no checksum is known for images_003.zip" in said
    assert len(ImageCache.open(dest / "store_16")) == 3


def test_a_zip_cut_short_is_deleted(download, server, dest, tmp_path):
    whole = zipped(tmp_path / "zip", {name(k): png(k) for k in range(3)}).read_bytes()
    server.files["/images/images_003.zip"] = whole[:-40]
    status, said = download("--source", "huggingface", "--archives", "3")
    assert status == 1 and "images_003.zip is no whole zip archive and was deleted" in said
    assert not list(dest.rglob("images_003*"))


def test_what_the_preparation_refuses_ends_the_script(download, server, dest, tmp_path):
    server.files[FIRST] = tar(tmp_path / "empty", {"README.txt": b"no images"}).read_bytes()
    status, said = download("--archives", "1")
    assert status == 2
    assert "images_001.tar.gz holds no PNG or JPEG image" in said and "Traceback" not in said
    assert not (dest / "store_16" / "finished.txt").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--archives", "0-3"], "--archives takes numbers from 1 to 12"),
        (["--archives", "5-3"], "--archives takes numbers from 1 to 12"),
        (["--archives", "13"], "--archives takes numbers from 1 to 12"),
        (["--archives", "x; ls"], "--archives takes numbers from 1 to 12"),
        (["--source", "kaggle"], "--source is nih or huggingface"),
        (["--size", "0"], "--size is a number of pixels"),
        (["--size"], "--size needs a value"),
        (["--quick"], "unknown option --quick"),
        (["--checksums", "nowhere"], "cannot read nowhere"),
    ],
)
def test_wrong_options_are_told(options, sentence, download, server):
    status, said = download(*options)
    assert status == 2 and sentence in said
    assert server.asked == []


def test_help_names_every_option(download):
    status, said = download("--help")
    assert status == 0
    for option in ("dest", "archives", "source", "size", "tables-only", "keep-originals", "checksums"):
        assert f"--{option}" in said
