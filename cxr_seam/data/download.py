"""Download NIH ChestX-ray14: archive by archive into the image cache, with md5 checks and resumed transfers.

`bash data_download.sh` and `python -m cxr_seam.data.download` are the same command.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from ..errors import InputError
from ..io import user_path
from .archives import is_zip
from .cache import INDEX_FILE, BrokenImageWarning, check_size, prepare

NIH_URL = "https://nihcc.box.com/shared/static"
MIRROR_URL = "https://huggingface.co/datasets/alkzar90/NIH-Chest-X-ray-dataset/resolve/main/data"
ARCHIVES = {
    1: ("vfk49d74nhbxq3nqjg0900w5nvkorp5c", "fe8ed0a6961412fddcbb3603c11b3698"),
    2: ("i28rlmbvmfjbl8p2n3ril0pptcmcu9d1", "ab07a2d7cbe6f65ddd97b4ed7bde10bf"),
    3: ("f1t00wrtdk94satdfb9olcolqx20z2jp", "2301d03bde4c246388bad3876965d574"),
    4: ("0aowwzs5lhjrceb3qp67ahp0rd1l1etg", "9f1b7f5aae01b13f4bc8e2c44a4b8ef6"),
    5: ("v5e3goj22zr6h8tzualxfsqlqaygfbsn", "1861f3cd0ef7734df8104f2b0309023b"),
    6: ("asi7ikud9jwnkrnkj99jnpfkjdes7l6l", "456b53a8b351afd92a35bc41444c58c8"),
    7: ("jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", "1075121ea20a137b87f290d6a4a5965e"),
    8: ("tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j", "b61f34cec3aa69f295fbb593cbd9d443"),
    9: ("upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj", "442a3caa61ae9b64e61c561294d1e183"),
    10: ("l6nilvfa9cg3s28tqv1qc1olm3gnz54p", "09ec81c4c31e32858ad8cf965c494b74"),
    11: ("hhq8fkdgvcari67vfhs7ppg2w6ni4jze", "499aefc67207a5a97692424cf5dbeed5"),
    12: ("ioqwiy20ihqwyr8pf4c24eazhh281pbu", "dc9fda1757c2de0032b63347a7d2895c"),
}
"""Box's identifier and the md5 of NIH's twelve archives."""

TABLES = {
    "BBox_List_2017.csv": "c288912caf65ab8b6c7aff6717d11005",
    "Data_Entry_2017_v2020.csv": "27d223bb367648f1fd40e28dd42a0af3",
    "test_list.txt": "adeeabf20ea2a8eb66ced87b78434400",
    "train_val_list.txt": "067e3a84206964892e6300e4a4c0a205",
}
"""The md5 of the four tables as most copies hold them. Releases differ, so another md5 only gives a warning."""

ATTEMPTS = 5
RETRY_SECONDS = 1.0
"""Wait before the second attempt; it doubles before each further one."""

TIMEOUT = (30, 60)
"""Seconds to wait for a connection, and for the next bytes."""

CHUNK = 2**20
BUSY = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same request may succeed."""

FINISHED_FILE = "finished.txt"
"""File in the cache folder that lists the archives that were added completely."""


def download(
    folder: str | os.PathLike[str],
    *,
    archives: Iterable[int] = tuple(ARCHIVES),
    source: Literal["nih", "huggingface"] = "nih",
    size: int = 256,
    tables_only: bool = False,
    keep_originals: bool = False,
    checksums: Mapping[str, str] | None = None,
    progress: bool = True,
    log: Callable[[str], None] = print,
) -> Path:
    """Download NIH's tables and add its archives to the image cache, one after another; continue an earlier run.

    Args:
        folder: destination; receives the four tables, `cache_SIZE` and, while it is in use, `archives`.
        archives: numbers from 1 to 12.
        source: "nih" (.tar.gz, md5 known) or "huggingface", a mirror (.zip, md5 unknown).
        size: side of the prepared images in pixels.
        tables_only: download no archive.
        keep_originals: keep the archives in `folder/archives`; by default each is deleted once it is prepared.
        checksums: md5 by file name; replaces and adds to the published ones.
        progress: show progress bars.
        log: receives one sentence per step and per warning.

    Returns:
        The folder of the image cache.

    Raises:
        InputError: a file cannot be downloaded, is not what it should be (md5, web page) or cannot be written; or
            some images were unreadable. A second call continues where the first one stopped.
    """
    check_size(size)
    archive_md5 = {f"images_{number:03d}.tar.gz": md5 for number, (_, md5) in ARCHIVES.items()}
    task = _Download(
        user_path(folder), source, size, keep_originals, archive_md5 | TABLES | (checksums or {}), progress, log
    )
    archive_folder = task.folder / "archives"
    try:
        archive_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made into a folder ({error.strerror}); choose another") from error
    for name in TABLES:
        task.table(name)
    if not tables_only:
        for leftover in archive_folder.glob("*.done"):
            leftover.unlink()
        task.add_archives(list(archives))
    with suppress(OSError):  # the folder is not empty
        archive_folder.rmdir()
    log(f"the tables are in {folder}" if tables_only else f"the images are in {task.cache}, the tables in {folder}")
    return task.cache


@dataclass(frozen=True)
class _Download:
    folder: Path
    source: str
    size: int
    keep_originals: bool
    md5: Mapping[str, str]
    progress: bool
    log: Callable[[str], None]

    @property
    def cache(self) -> Path:
        return self.folder / f"cache_{self.size}"

    def table(self, name: str) -> None:
        """Download a table unless it is there; warn if it is not the known release."""
        path = self.folder / name
        if not path.is_file() or not path.stat().st_size:
            self.log(f"downloading {name}")
            url, new = f"{_mirror_url()}/{name}", path.with_name(f".{name}.new")
            fetch(url, new)
            first = new.read_bytes()[:512].split(b"\n")[0]
            if _is_web_page(new) or not (b"Image" in first or b".png" in first):
                new.unlink()
                raise InputError(f"{url} is not the table but a web page or another file; the mirror may have moved")
            new.replace(path)
        if md5_of(path) != self.md5[name]:
            self.log(f"warning: {path} is not the release this project was checked with; it is used as it is")

    def add_archives(self, numbers: list[int]) -> None:
        """Download and prepare archives; report unreadable images at the end."""
        started, done, incomplete = time.monotonic(), 0, []
        record, finished = self.cache / FINISHED_FILE, []
        if (self.cache / INDEX_FILE).exists() and record.exists():
            finished = record.read_text(encoding="utf-8").split()
        for position, number in enumerate(numbers, start=1):
            name = f"images_{number:03d}"
            if name in finished:
                self.log(f"{name} is already in {self.cache}")
                continue
            left = ""
            if done:
                minutes = int((time.monotonic() - started) * (len(numbers) - position + 1) / done / 60) + 1
                left = f", about {minutes // 60} h {minutes % 60:02d} min left"
            self.log(f"downloading {name} ({position} of {len(numbers)}{left})")
            if not self.add_archive(number, name):
                incomplete.append(name)
            done += 1
        if incomplete:
            raise InputError(
                f"some images of {', '.join(incomplete)} could not be read, see above; the others are in {self.cache}"
            )

    def add_archive(self, number: int, name: str) -> bool:
        """Download, check, prepare and delete one archive; return whether all its images could be read."""
        if self.source == "nih":
            file, url = f"{name}.tar.gz", f"{os.environ.get('CXR_SEAM_NIH_URL', NIH_URL)}/{ARCHIVES[number][0]}.gz"
        else:
            file, url = f"{name}.zip", f"{_mirror_url()}/images/{name}.zip"
        path = self.folder / "archives" / file
        if not path.exists():
            fetch(url, path, progress=self.progress)
        self.check_archive(path, url)
        self.log(f"preparing {name}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            prepare(path, self.cache, size=self.size, progress=self.progress)
        broken = any(issubclass(caution.category, BrokenImageWarning) for caution in caught)
        for caution in caught:
            self.log(f"warning: {caution.message}")
        if broken and file not in self.md5:
            path.unlink()  # another copy of this archive may be better
            return False
        done = path.with_name(f"{file}.done")
        if not self.keep_originals:
            path.replace(done)  # if the run is stopped here, the next one deletes it
        with (self.cache / FINISHED_FILE).open("a", encoding="utf-8") as record:
            record.write(f"{name}\n")
        done.unlink(missing_ok=True)
        return not broken

    def check_archive(self, path: Path, url: str) -> None:
        """Delete and refuse a web page and an archive of a wrong md5."""
        problem, expected = "", self.md5.get(path.name)
        if _is_web_page(path):
            problem = f"{url} is a web page, not an archive; it may have moved: try later or with another source"
        elif expected is None:
            self.log(f"no checksum is known for {path.name}; it is used as it is")
            if not is_zip(path):
                problem = f"{path.name} is not a complete zip archive and was deleted; run again"
        elif (actual := md5_of(path)) != expected:
            problem = f"{path.name} has the md5 {actual} instead of {expected} and was deleted; run again"
        if problem:
            path.unlink()
            raise InputError(problem)


def fetch(url: str, path: Path, *, progress: bool = False) -> None:
    """Download `url` to `path` through `path`.part, which a later call resumes.

    Raises:
        InputError: the server refuses, the connection fails `ATTEMPTS` times, or the disk is full.
    """
    import requests
    from urllib3.exceptions import HTTPError

    part = path.with_name(f"{path.name}.part")
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))
        try:
            problem = _fetch_rest(url, part, progress=progress)
        except (requests.RequestException, HTTPError) as error:
            problem = type(error).__name__
        except OSError as error:
            raise InputError(f"cannot write {part} ({error.strerror}); make room on the disk and run again") from error
        if not problem:
            part.replace(path)
            return
    raise InputError(f"{url} could not be downloaded in {ATTEMPTS} attempts ({problem}); run again, it will resume")


def _fetch_rest(url: str, part: Path, *, progress: bool) -> str:
    """Append to `part` what is missing; return the reason why it is not complete yet, or an empty string."""
    import requests

    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416 and start:  # nothing is missing; the checks of the file decide
            return ""
        if status in BUSY:
            return f"HTTP status {status}"
        if status not in (200, 206):
            raise InputError(f"{url} answers with HTTP status {status}; try again later or with another source")
        if status == 200:  # the server does not resume
            start = 0
        length = int(response.headers.get("Content-Length", -1))
        total = start + length if length >= 0 else None
        bar = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=not progress)
        with part.open("ab" if start else "wb") as file, bar:
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
            received = file.tell() - start
    return "" if received == length or length < 0 else "the connection was cut"


def md5_of(path: Path) -> str:
    """Compute the md5 of a file, hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def read_checksums(path: Path) -> dict[str, str]:
    """Read a file as md5sum prints it, "md5  name" in each line; return md5 by name.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        rows = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {name.strip().removeprefix("*"): md5.lower() for md5, name in rows}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as a list of checksums ({error})") from error


def parse_archives(text: str) -> list[int]:
    """Convert "1,4-6" to [1, 4, 5, 6].

    Raises:
        ArgumentTypeError: the text is not a list of numbers and ranges from 1 to 12.
    """
    numbers = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= len(ARCHIVES):
            raise argparse.ArgumentTypeError(f"takes numbers from 1 to {len(ARCHIVES)}, such as 1,4-6, not {text!r}")
        numbers += range(first, last + 1)
    return numbers


def _mirror_url() -> str:
    return os.environ.get("CXR_SEAM_TABLES_URL", MIRROR_URL)


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        return re.search(rb"<(!doctype|html)", file.read(512), re.IGNORECASE) is not None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="data_download.sh",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        description="""\
Download NIH ChestX-ray14: the four tables, then each archive in turn: download, check the md5, add the images to the
cache as small grey squares, delete the archive. Run the command again after an interruption; it continues.
All twelve archives are about 42 GB of traffic. 5 GB of free disk suffice, plus the cache (7.4 GB at 256 pixels).""",
        epilog="""\
Writes DIR/Data_Entry_2017_v2020.csv, BBox_List_2017.csv, train_val_list.txt, test_list.txt and DIR/cache_N.
Environment: PYTHON is the interpreter of data_download.sh (default python3); CXR_SEAM_NIH_URL and CXR_SEAM_TABLES_URL
replace the addresses of the archives and of the mirror.
The data: NIH Clinical Center, https://nihcc.app.box.com/v/ChestXray-NIHCC; cite X. Wang et al., ChestX-ray8, CVPR 2017.
""",
    )

    add = parser.add_argument
    add("--dest", metavar="DIR", default="data", help="folder for the tables and the cache (default: %(default)s)")
    add("--archives", metavar="LIST", type=parse_archives, default=[*ARCHIVES], help="such as 1,4-6 (default: 1-12)")
    source = "nih: NIH's .tar.gz; huggingface: a mirror's .zip, without known checksums (default: %(default)s)"
    add("--source", choices=("nih", "huggingface"), default="nih", help=source)
    add("--size", metavar="N", type=int, default=256, help="side of the prepared images in pixels (default: 256)")
    add("--tables-only", action="store_true", help="download only the tables")
    add("--keep-originals", action="store_true", help="keep the archives in DIR/archives")
    add("--checksums", metavar="FILE", help='md5 sums that replace or add to the known ones, in lines "md5  name"')
    return parser


def main(words: list[str] | None = None) -> int:
    """Run data_download.sh's command line; return 0, or 1 after printing one sentence."""
    arguments = vars(_parser().parse_args(words))
    folder, checksums = arguments.pop("dest"), arguments.pop("checksums")
    try:
        if not folder:
            raise InputError("--dest needs a folder")
        download(
            folder,
            checksums=read_checksums(user_path(checksums)) if checksums else None,
            progress=sys.stderr.isatty(),
            log=lambda message: print(message, file=sys.stderr),
            **arguments,
        )
    except InputError as error:
        print(f"data_download.sh: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
