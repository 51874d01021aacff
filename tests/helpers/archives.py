"""Makes folders and archives of small images, and prepares them, for the tests."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cxr_seam.data.cache import ImageCache, prepare


def png(level: int, *, side: int = 32, kind: str = "PNG") -> bytes:
    Image.fromarray(np.full((side, side), level, np.uint8)).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def name(k: int) -> str:
    return f"{k:08}_000.png"


def tar(path: Path, members: dict[str, bytes], *, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, data in members.items():
            header = tarfile.TarInfo(member)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return path


def tree(folder: Path, members: dict[str, bytes]) -> Path:
    for member, data in members.items():
        path = folder / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def fill(source, folder, **options) -> ImageCache:
    return prepare(source, folder, **{"size": 16, "progress": False, **options})


def content(cache: ImageCache) -> tuple[bytes, bytes]:
    return (cache.folder / "images.u8").read_bytes(), (cache.folder / "index.json").read_bytes()


def is_whole(cache: ImageCache) -> bool:
    """Compare every image with its checksum in the index."""
    return [zlib.crc32(cache.load([row])) for row in range(len(cache))] == cache.crc32
