"""Iterate over the images of a folder, a tar or a zip archive in one way, or unpack zip archives into a folder.

NIH publishes twelve .tar.gz of about 3.5 GB, mirrors publish .zip, Kaggle a tree `images_001/images/*.png`. The first
bytes of files and archives decide their kind, not their names.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm.auto import tqdm

from ..errors import InputError, count_of
from ..io import WriteError, atomic_write, is_name_refused, open_file, readable, user_path
from .dicom import PREAMBLE
from .image_io import MAX_BYTES, TABLE_SUFFIXES, first_names, has_image_suffix, is_hidden, sort_files, starts_as_image

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Archives that are looked for in folders; by their bytes, documents of office programs are zip archives too."""

UNPACKED_FILE = ".unpacked.json"
"""File in a folder of unpacked archives, with the checksum of each file."""

GZIP_MAGIC = b"\x1f\x8b"
LONG_HEADERS = (*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
"""Types of tar headers that tarfile reads into memory as a whole."""

MAX_HEADER = 2**20
CHUNK = 2**17
"""Bytes that a tar archive is read by at a time; chunks of 2^20 bytes take more than twice as long."""


@dataclass(frozen=True)
class ArchiveImage:
    """One file of a source.

    Attributes:
        image_index: name of the image in the cache, see `open_sources`.
        location: path, or archive and path inside it, for messages.
        data: path of the file to read, or its bytes; None if the file is no image.
        problem: the reason why it could not be read, or an empty string.
        position: bytes of the source read so far, for the progress bar.
    """

    image_index: str
    location: str
    data: Path | bytes | None
    problem: str
    position: int


@dataclass(frozen=True)
class Source:
    """The image files of a folder, or an archive.

    Attributes:
        path: the folder or archive.
        total: length of the archive, or of the image files in the folder, in bytes.
        iter_files: yields the visible files that a function of the image's name accepts; others are not read.
            Raises InputError if the archive is cut, broken, or contains a path that leads out of it.
    """

    path: Path
    total: int
    iter_files: Callable[[Callable[[str], bool]], Iterator[ArchiveImage]]


ImageName = Callable[[PurePosixPath], str]
"""Names an image by its path below a folder or in an archive."""


def name_by_stem(path: PurePosixPath) -> str:
    """Name an image as NIH's tables do, wherever it lies: "images/00000001_000.jpg" is "00000001_000.png"."""
    # Names of DICOM files, such as "1.2.840.113619", often have no suffix.
    return f"{path.name if path.suffix[1:].isdigit() else path.stem}.png"


def name_by_path(path: PurePosixPath) -> str:
    """Name an image by its path: "train/patient00001/study1/view1_frontal.jpg"."""
    return path.as_posix()


def open_sources(path: str | os.PathLike[str], *, image_name: ImageName = name_by_stem) -> list[Source]:
    """Open an archive, or a folder and the archives in it (`ARCHIVE_SUFFIXES`).

    Args:
        path: the archive or folder.
        image_name: names the images.

    Raises:
        InputError: the path is missing, or neither a folder nor a tar or zip archive.
    """
    path = user_path(path, what="path of the images")
    if not path.is_dir():
        return [_open_archive(path, image_name)]
    images, others = sort_files(path)
    archives = [file for file in others if file.name.lower().endswith(ARCHIVE_SUFFIXES) and file.is_file()]
    lengths = [file.stat().st_size if file.exists() else 0 for file in images]
    files = [*zip(images, lengths, strict=True), *((file, None) for file in others if file not in archives)]
    names = [image_name(PurePosixPath(readable(file.relative_to(path).as_posix()))) for file, _ in files]
    folder = Source(path, sum(lengths), partial(_iter_folder, list(zip(names, files, strict=True))))
    return [folder, *(_open_archive(archive, image_name) for archive in archives)]


def is_zip(path: Path) -> bool:
    """Return whether a path is a file that ends as a zip archive; a pipe is not opened."""
    return path.is_file() and zipfile.is_zipfile(path)


def _open_archive(path: Path, image_name: ImageName) -> Source:
    """Open an archive of the kind that its first bytes show."""
    try:
        with open_file(path) as file:
            head = file.read(512)
        total = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); correct the path") from error
    if head.lstrip()[:1] == b"<":
        raise InputError(f"{path} is a web page, not an archive; the address it came from no longer serves the data")
    if is_zip(path):
        return Source(path, total, partial(_iter_zip, path, image_name))
    if head.startswith(GZIP_MAGIC) or head[257:262] == b"ustar":
        return Source(path, total, partial(_iter_tar, path, image_name, head.startswith(GZIP_MAGIC)))
    raise InputError(
        f"{path} is neither a folder nor a .tar.gz, .tar or .zip archive, or it is cut short; fetch it again"
    )


def _iter_folder(
    files: Sequence[tuple[str, tuple[Path, int | None]]], accept: Callable[[str], bool]
) -> Iterator[ArchiveImage]:
    """Iterate over names, files and their lengths in bytes, None for files that are no images."""
    position = 0
    for name, (path, length) in files:
        position += length or 0
        if length is None:
            yield ArchiveImage(name, str(path), None, "", position)
        elif accept(name):
            yield ArchiveImage(name, str(path), path, "", position)


def _iter_tar(
    path: Path, image_name: ImageName, gzipped: bool, accept: Callable[[str], bool]
) -> Iterator[ArchiveImage]:
    with path.open("rb", buffering=0) as raw:
        stream = _CheckedStream(gzip.GzipFile(fileobj=raw).read1 if gzipped else raw.read)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK, tarinfo=_BoundedHeader) as archive:
                for member in archive:
                    name = _member_index(member.name, path, image_name)
                    if member.isdir() or name is None or not accept(name):
                        continue
                    problem = _too_long(member.size) if member.isfile() else "it is a link or a device; pack the file"
                    data = _read_image(None if problem else archive.extractfile(member), member.name)
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


def unpack_tables(archives: Sequence[Path], folder: Path) -> bool:
    """Write the tables (`TABLE_SUFFIXES`) of zip archives into a folder, without the folders that they are in.

    Returns:
        Whether the archives contain tables.

    Raises:
        InputError: see `unpack`; or a table cannot be read.
    """
    tables: dict[Path, Member] = {}
    for path, member, name in _visible_members(archives):
        if name.name.endswith(TABLE_SUFFIXES):
            tables.setdefault(folder / name.name, (path, member))
    if not tables:
        return False
    for location, reason in _unpack_members(tables, folder).values():
        raise InputError(f"cannot read {location} ({reason}); fetch it again")
    return True


def unpack(archives: Sequence[Path], folder: Path) -> None:
    """Unpack the visible files of zip archives into a folder, unless they are there as they are in the archives.

    An interrupted call is continued by the next one. Members that cannot be read are left out with a warning, and the
    next call tries them again.

    Raises:
        InputError: an archive is broken or contains a path that leads out of it (nothing is written then), two archives
            have different files of one path, or the disk is too small or cannot be written.
    """
    members: dict[str, Member] = {}
    for path, member, name in _visible_members(archives):
        if members.setdefault(str(name), (path, member))[1].CRC != member.CRC:
            raise InputError(f"{path} has another file {name} than the archives before it; remove one of them")
    record, done, wanted = folder / UNPACKED_FILE, {}, {name: member.CRC for name, (_, member) in members.items()}
    with suppress(OSError, TypeError, ValueError):  # there is none yet, or it is damaged
        done = dict(json.loads(record.read_text(encoding="utf-8")))
    changed = {
        folder / name: member
        for name, member in members.items()
        if done.get(name) != wanted[name] or not os.path.isfile(folder / name)
    }
    if not changed and done == wanted:
        return
    broken = _unpack_members(changed, folder)
    if broken:
        locations, reasons = zip(*broken.values(), strict=True)
        first = f"{first_names(locations)} (the first: {reasons[0]})"
        warnings.warn(f"{count_of(len(broken), 'file')} could not be unpacked: {first}", stacklevel=3)
    for name in done.keys() - wanted.keys():
        if (path := _member_path(name, record)) is not None:
            (folder / path).unlink(missing_ok=True)
    with atomic_write(record) as temporary:
        unpacked = {name: checksum for name, checksum in wanted.items() if folder / name not in broken}
        temporary.write_text(json.dumps(unpacked), encoding="utf-8")


Member = tuple[Path, zipfile.ZipInfo]
"""An archive and one of its members."""


def _visible_members(archives: Sequence[Path]) -> Iterator[tuple[Path, zipfile.ZipInfo, PurePosixPath]]:
    """Yield the files of zip archives that are not hidden, with their paths."""
    for path in archives:
        with _open_zip(path) as archive:
            for member in archive.infolist():
                name = _member_path(member.filename, path)
                if not member.is_dir() and name is not None:
                    yield path, member, name


def _unpack_members(members: Mapping[Path, Member], folder: Path) -> dict[Path, tuple[str, str]]:
    """Write members of archives to paths below a folder, unless they are there already.

    Returns:
        Path of each member that could not be read -> its place in the archive, and the reason.
    """
    with _write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        members = {target: member for target, member in members.items() if not _is_unpacked(target, member[1])}
        needed, room = sum(member.file_size for _, member in members.values()), shutil.disk_usage(folder).free
    if needed > room:
        raise InputError(
            f"{folder} needs {needed / 2**30:.1f} GiB for the files of the archives, and its disk has "
            f"{room / 2**30:.1f}; make room, or choose an OUTPUT on another disk"
        )
    broken = {}
    with tqdm(desc="unpack", total=needed, unit="B", unit_scale=True, delay=1) as bar:
        for path, group in groupby(members.items(), key=lambda item: item[1][0]):
            with _open_zip(path) as archive:
                for target, (_, member) in group:
                    try:
                        with archive.open(member) as source, atomic_write(target) as temporary:
                            with temporary.open("wb") as file:
                                shutil.copyfileobj(source, file, CHUNK)
                    except Exception as error:  # a wrong checksum, a password; each compression raises its own type
                        if isinstance(error, WriteError) and not is_name_refused(error):
                            raise
                        broken[target] = f"{path}/{member.filename}", str(error) or type(error).__name__
                    bar.update(member.file_size)
    return broken


def _is_unpacked(target: Path, member: zipfile.ZipInfo) -> bool:
    if not os.path.isfile(target) or target.stat().st_size != member.file_size:
        return False
    checksum = 0
    with target.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == member.CRC


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Convert an OSError into an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or error}); choose another OUTPUT") from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is broken or ends early ({error}); fetch it again") from error


def _iter_zip(path: Path, image_name: ImageName, accept: Callable[[str], bool]) -> Iterator[ArchiveImage]:
    position = 0
    with _open_zip(path) as archive:
        for member in archive.infolist():
            position += member.compress_size
            name = _member_index(member.filename, path, image_name)
            if member.is_dir() or name is None or not accept(name):
                continue
            problem = _too_long(member.file_size)
            try:
                data = _read_image(None if problem else archive.open(member), member.filename)
            except Exception as error:  # a wrong checksum, a password; each compression raises its own type
                data, problem = _read_image(None, member.filename), str(error) or type(error).__name__
            yield ArchiveImage(name, f"{path}/{member.filename}", data, problem, position)


def _read_image(file: IO[bytes] | None, name: str) -> bytes | None:
    """Read a member of an archive and close it; None if neither its first bytes nor its name are those of an image."""
    if file is None:
        return b"" if has_image_suffix(name) else None
    with file:
        head = file.read(PREAMBLE)
        return head + file.read() if has_image_suffix(name) or starts_as_image(head) else None


def _member_index(name: str, archive: Path, image_name: ImageName) -> str | None:
    """Return the image name of an archive's member; None if it is hidden."""
    path = _member_path(name, archive)
    return None if path is None else image_name(path)


def _member_path(name: str, archive: Path) -> PurePosixPath | None:
    """Return the path of an archive's member, None if it is hidden.

    Raises:
        InputError: the path leads out of the archive. Such an archive is not that of a dataset.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:/", str(path)):
        raise InputError(f"{archive} contains the path {name!r}, which leads out of it; do not use this archive")
    return None if any(map(is_hidden, path.parts)) else PurePosixPath(readable(path.as_posix()))


def _too_long(size: int) -> str:
    return f"it is longer than {MAX_BYTES >> 20} MiB, more than any radiograph" if size > MAX_BYTES else ""
