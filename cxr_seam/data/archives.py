"""Where images come from: a folder, a tar or a zip archive, walked alike and never unpacked to disk.

NIH hands out twelve .tar.gz of about 3.5 GB, mirrors hand out .zip, Kaggle a tree `images_001/images/*.png`.
An archive is recognised by its first bytes, not by its name.
"""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import InputError
from .image_io import MAX_BYTES

SUFFIXES = (".png", ".jpg", ".jpeg")


NO_FILE = "it is a link or a device, which are not followed; pack the file itself"


PAX_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


STEP = 2**17
"""Bytes that a tar archive is read and inflated by at a time; 2^20 take more than twice as long."""


@dataclass(frozen=True)
class Entry:
    """One image file of a source.

    Attributes:
        image_index: stem of the file and ".png", NIH's name of the image.
        where: path, or archive and path inside it, for messages.
        data: path of the file to read, or its bytes.
        problem: why it could not be read, or an empty string.
        position: bytes of the source walked so far, for the progress bar.
    """

    image_index: str
    where: str
    data: Path | bytes
    problem: str
    position: int


@dataclass(frozen=True)
class Source:
    """A folder or an archive.

    Attributes:
        path: the folder or archive.
        total: its length in bytes (of a folder: of the image files in it).
        walk: yields the images whose name the given function wants; of others nothing is read.
    """

    path: Path
    total: int
    walk: Callable[[Callable[[str], bool]], Iterator[Entry]]


def open_source(path: str | os.PathLike[str]) -> Source:
    """Recognise a source by its content.

    Raises:
        InputError: there is none, or it is neither a folder nor a tar or zip archive. Walking it raises InputError
            too, where an archive ends early, is broken, or holds a path that leads out of it.
    """
    path = Path(path)
    if path.is_dir():
        files = _files(path)
        return Source(path, sum(size for _, size in files), lambda wanted: _walk_files(files, wanted))
    try:
        with path.open("rb") as file:
            head = file.read(512)
        total = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); correct the path") from error
    if head.lstrip()[:1] == b"<":
        raise InputError(f"{path} is a web page, not an archive; the address it came from no longer serves the data")
    if zipfile.is_zipfile(path):
        return Source(path, total, lambda wanted: _walk_zip(path, wanted))
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return Source(path, total, lambda wanted: _walk_tar(path, wanted, gzipped=head[:2] == b"\x1f\x8b"))
    raise InputError(
        f"{path} is neither a folder nor a .tar.gz, .tar or .zip archive, or it is cut short; fetch it again"
    )


def _image_index(name: str) -> str | None:
    """Return the name of the image in a file, None for files that are none (and macOS's hidden '._' doubles)."""
    path = PurePosixPath(name)
    if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
        return None
    return f"{path.stem}.png"


def _files(folder: Path) -> list[tuple[Path, int]]:
    """List the image files under a folder with their lengths, in an order that does not depend on the disk."""

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    files = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if _image_index(name) and not path.is_dir():
                # A link to nowhere is kept, so that whoever reads it tells of it.
                files.append((path, path.stat().st_size if path.exists() else 0))
    return files


def _walk_files(files: list[tuple[Path, int]], wanted: Callable[[str], bool]) -> Iterator[Entry]:
    position = 0
    for path, size in files:
        position += size
        name = _image_index(path.name)
        if wanted(name):
            yield Entry(name, str(path), path, "", position)


def _walk_tar(path: Path, wanted: Callable[[str], bool], *, gzipped: bool) -> Iterator[Entry]:
    with path.open("rb", buffering=0) as raw:
        stream = _Tail(_Gunzip(raw) if gzipped else raw)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=STEP, tarinfo=_Header) as archive:
                for member in archive:
                    name = _member_index(member.name, path)
                    if member.isdir() or name is None or not wanted(name):
                        continue
                    data, problem = b"", _too_long(member.size) if member.isfile() else NO_FILE
                    if not problem:
                        data = archive.extractfile(member).read()
                    yield Entry(name, f"{path}/{member.name}", data, problem, raw.tell())
            _read_to_end(stream)
            # tarfile takes a damaged or missing header for the end; at the true end there is nothing but zeros.
            if not tarfile.BLOCKSIZE <= stream.length - archive.offset <= stream.zeros:
                raise EOFError("what follows its last readable member is not the end of a tar")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is broken or ends early ({error}); fetch it again") from error
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error


class _Header(tarfile.TarInfo):
    """A member's header. Long names and their like, which tarfile reads into memory whole, have no more than 1 MiB."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size > 2**20 and self.type in (*tarfile.GNU_TYPES, *PAX_TYPES) and self.type != tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)


class _Tail:
    """Passes a stream on and counts its bytes and the zeros that it ends with."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.length = self.zeros = self.beyond = 0

    def read(self, size: int) -> bytes:
        """Return what the stream gives; raise EOFError where a reader does not stop at its end.

        tarfile would step over a member that claims terabytes by so many empty reads, which takes hours.
        """
        data = self.stream.read(size)
        self.beyond += not data
        if self.beyond > 100:
            raise EOFError("a member claims more than the archive holds")
        zeros = len(data) - len(data.rstrip(b"\0"))
        self.zeros = zeros if zeros < len(data) else self.zeros + zeros
        self.length += len(data)
        return data


class _Gunzip:
    """Inflates a gzip file in large steps, with a third less work than `gzip`, which reads for `readline` too.

    zlib compares length and checksum of every member and raises zlib.error. Zeros may pad the members.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.member = None
        self.rest = b""

    def read(self, size: int) -> bytes:
        """Return between 1 and `size` bytes, none at the end; raise EOFError where the end is missing."""
        while True:
            self.rest = self.rest or self.file.read(STEP)
            if not self.rest:
                if self.member is not None:
                    raise EOFError("its end is missing")
                return b""
            if self.member is None:
                self.rest = self.rest.lstrip(b"\0")
                self.member = zlib.decompressobj(wbits=31) if self.rest else None
                continue
            data = self.member.decompress(self.rest, size)
            self.rest = self.member.unconsumed_tail or self.member.unused_data
            if self.member.eof:
                self.member = None
            if data:
                return data


def _walk_zip(path: Path, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is broken or ends early ({error}); fetch it again") from error
    position = 0
    with archive:
        for member in archive.infolist():
            position += member.compress_size
            name = _member_index(member.filename, path)
            if member.is_dir() or name is None or not wanted(name):
                continue
            data, problem = b"", _too_long(member.file_size)
            if not problem:
                try:
                    data = archive.read(member)
                except Exception as error:  # a wrong checksum, a password; each compression raises its own kind
                    problem = str(error) or type(error).__name__
            yield Entry(name, f"{path}/{member.filename}", data, problem, position)


def _member_index(name: str, archive: Path) -> str | None:
    """Return the image name of an archive's member; refuse the archive where the path leads out of it.

    Nothing is unpacked, so such a path could do no harm; but an archive that holds one is not NIH's.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:/", str(path)):
        raise InputError(f"{archive} holds the path {name!r}, which leads out of it; do not use this archive")
    return _image_index(str(path))


def _too_long(size: int) -> str:
    return f"it is longer than {MAX_BYTES >> 20} MiB, more than any radiograph" if size > MAX_BYTES else ""


def _read_to_end(stream: BinaryIO) -> None:
    """Read what follows the last member, so that the checksum is compared and a missing end noticed."""
    while stream.read(STEP):
        pass
