"""Iterate over the images of a folder, a tar or a zip archive in one way, without unpacking to disk.

NIH publishes twelve .tar.gz of about 3.5 GB, mirrors publish .zip, Kaggle a tree `images_001/images/*.png`. The first
bytes of an archive decide its kind, not its name.
"""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import InputError
from .image_io import MAX_BYTES

SUFFIXES = (".png", ".jpg", ".jpeg")
GZIP_MAGIC = b"\x1f\x8b"
LONG_HEADERS = (*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
"""Types of tar headers that tarfile reads into memory as a whole."""

MAX_HEADER = 2**20
CHUNK = 2**17
"""Bytes that a tar archive is read by at a time; chunks of 2^20 bytes take more than twice as long."""


@dataclass(frozen=True)
class ArchiveImage:
    """One image file of a source.

    Attributes:
        image_index: stem of the file and ".png", NIH's name of the image.
        location: path, or archive and path inside it, for messages.
        data: path of the file to read, or its bytes.
        problem: the reason why it could not be read, or an empty string.
        position: bytes of the source read so far, for the progress bar.
    """

    image_index: str
    location: str
    data: Path | bytes
    problem: str
    position: int


@dataclass(frozen=True)
class Source:
    """A folder or an archive.

    Attributes:
        path: the folder or archive.
        total: length of the archive, or of the image files in the folder, in bytes.
        iter_images: yields the images that a function of the image's name accepts; other images are not read.
            Raises InputError if the archive is cut, broken, or contains a path that leads out of it.
    """

    path: Path
    total: int
    iter_images: Callable[[Callable[[str], bool]], Iterator[ArchiveImage]]


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a folder, or an archive of the kind that its first bytes show.

    Raises:
        InputError: the path is missing, or neither a folder nor a tar or zip archive.
    """
    path = Path(path)
    if path.is_dir():
        files = _list_images(path)
        return Source(path, sum(size for _, size in files), lambda accept: _iter_files(files, accept))
    try:
        with path.open("rb") as file:
            head = file.read(512)
        total = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); correct the path") from error
    if head.lstrip()[:1] == b"<":
        raise InputError(f"{path} is a web page, not an archive; the address it came from no longer serves the data")
    if zipfile.is_zipfile(path):
        return Source(path, total, lambda accept: _iter_zip(path, accept))
    if head.startswith(GZIP_MAGIC) or head[257:262] == b"ustar":
        return Source(path, total, lambda accept: _iter_tar(path, accept, gzipped=head.startswith(GZIP_MAGIC)))
    raise InputError(
        f"{path} is neither a folder nor a .tar.gz, .tar or .zip archive, or it is cut short; fetch it again"
    )


def _image_index(name: str) -> str | None:
    """Return the image name of a file; None for other files and for the hidden "._" copies that macOS makes."""
    path = PurePosixPath(name)
    if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
        return None
    return f"{path.stem}.png"


def _list_images(folder: Path) -> list[tuple[Path, int]]:
    """Return the image files under a folder with their lengths, sorted by path."""

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    files = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if _image_index(name) and not path.is_dir():
                # A dangling link stays in the list, so that reading it gives a warning.
                files.append((path, path.stat().st_size if path.exists() else 0))
    return files


def _iter_files(files: list[tuple[Path, int]], accept: Callable[[str], bool]) -> Iterator[ArchiveImage]:
    position = 0
    for path, size in files:
        position += size
        name = _image_index(path.name)
        if accept(name):
            yield ArchiveImage(name, str(path), path, "", position)


def _iter_tar(path: Path, accept: Callable[[str], bool], *, gzipped: bool) -> Iterator[ArchiveImage]:
    with path.open("rb", buffering=0) as raw:
        stream = _CheckedStream(gzip.GzipFile(fileobj=raw).read1 if gzipped else raw.read)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK, tarinfo=_BoundedHeader) as archive:
                for member in archive:
                    name = _member_index(member.name, path)
                    if member.isdir() or name is None or not accept(name):
                        continue
                    problem = _too_long(member.size) if member.isfile() else "it is a link or a device; pack the file"
                    data = b"" if problem else archive.extractfile(member).read()
                    yield ArchiveImage(name, f"{path}/{member.name}", data, problem, raw.tell())
            while stream.read(CHUNK):  # gzip compares the checksum at the end
                pass
            # tarfile takes a damaged or missing header for the end; after the true end there are only zeros.
            if not tarfile.BLOCKSIZE <= stream.length - archive.offset <= stream.zeros:
                raise EOFError("the bytes after its last readable member are not the end of a tar")
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is broken or ends early ({error}); fetch it again") from error
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error


class _BoundedHeader(tarfile.TarInfo):
    """A tar header that refuses to read more than `MAX_HEADER` bytes of long names and the like into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size > MAX_HEADER and self.type in LONG_HEADERS and self.type != tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)


class _CheckedStream:
    """A stream that counts its bytes and the zeros at its end, and refuses to be read far beyond its end.

    tarfile skips a member that claims terabytes by that many empty reads, which takes hours.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.length = self.zeros = self.empty_reads = 0

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self.empty_reads += not data
        if self.empty_reads > 100:
            raise EOFError("a member claims more than the archive contains")
        zeros = len(data) - len(data.rstrip(b"\0"))
        self.zeros = zeros if zeros < len(data) else self.zeros + zeros
        self.length += len(data)
        return data


def _iter_zip(path: Path, accept: Callable[[str], bool]) -> Iterator[ArchiveImage]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is broken or ends early ({error}); fetch it again") from error
    position = 0
    with archive:
        for member in archive.infolist():
            position += member.compress_size
            name = _member_index(member.filename, path)
            if member.is_dir() or name is None or not accept(name):
                continue
            data, problem = b"", _too_long(member.file_size)
            if not problem:
                try:
                    data = archive.read(member)
                except Exception as error:  # a wrong checksum, a password; each compression raises its own type
                    problem = str(error) or type(error).__name__
            yield ArchiveImage(name, f"{path}/{member.filename}", data, problem, position)


def _member_index(name: str, archive: Path) -> str | None:
    """Return the image name of an archive's member; refuse the archive if the member's path leads out of it.

    Nothing is unpacked, so such a path can do no harm; but an archive that contains one is not NIH's.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:/", str(path)):
        raise InputError(f"{archive} contains the path {name!r}, which leads out of it; do not use this archive")
    return _image_index(str(path))


def _too_long(size: int) -> str:
    return f"it is longer than {MAX_BYTES >> 20} MiB, more than any radiograph" if size > MAX_BYTES else ""
