"""Time `prepare`, from an archive of PNGs to the cache, compared with a bare loop of OpenCV on the same two cores.

    python benchmarks/prepare.py [--json] [--quick] [--rounds N] [--data FOLDER]

The 1024x1024 PNGs of FOLDER are repeated under other names to a .tar.gz and to a folder of plain files. Ours reads
either, checks names and sizes, decodes, shrinks, appends to a store with checksums and syncs it to disk. The bare loops
decode to grey, shrink with INTER_AREA, and drop the result: one over bytes that are already in memory, one over files.
Both use two threads. All files lie in the system's page cache.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import measure
import numpy as np

from cxr_seam.data.cache import prepare
from cxr_seam.synthetic.dataset import write_demo_data

THREADS = 2
SIZE = 256
COLOUR_TYPE, GREY = 25, 0
"""Position of the colour type in a PNG file, and its value for grey images."""


def find_images(data: Path, drawn: Path, *, quick: bool) -> tuple[list[bytes], str]:
    """Return the bytes of grey 1024x1024 PNGs, and their source.

    The few RGBA images of NIH are left out, because OpenCV prints a warning for each.
    """
    kind = f"grey PNGs of {data}"
    if not list(data.glob("images/*.png")):
        kind = f"synthetic images, because {data} holds no images/*.png"
        data = write_demo_data(drawn, patients=4 if quick else 30, progress=False)
    images = [file.read_bytes() for file in sorted(data.glob("images/*.png"))[:200]]
    grey = [image for image in images if image[COLOUR_TYPE] == GREY]
    return grey[: 4 if quick else None], kind


def named(images: Sequence[bytes], count: int) -> Iterable[tuple[str, bytes]]:
    """Yield `count` images with unique names."""
    return ((f"{k:08d}_000.png", data) for k, data in enumerate(itertools.islice(itertools.cycle(images), count)))


def write_archive(path: Path, images: Sequence[bytes], *, count: int) -> Path:
    """An archive like those of NIH: .tar.gz with `images/NAME`."""
    with tarfile.open(path, "w:gz", compresslevel=6) as archive:
        for name, data in named(images, count):
            member = tarfile.TarInfo(f"images/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_files(folder: Path, images: Sequence[bytes], *, count: int) -> list[Path]:
    """Write the same images as files."""
    folder.mkdir()
    for name, data in named(images, count):
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


def into_cache(source: Path, cache: Path) -> None:
    """Prepare a new cache."""
    shutil.rmtree(cache, ignore_errors=True)
    prepare(source, cache, size=SIZE, workers=THREADS, progress=False)


def shrink_bytes(data: bytes) -> np.ndarray:
    """Decode and shrink one image from memory."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def shrink_file(path: Path) -> np.ndarray:
    """Decode and shrink one image file."""
    return cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def bare(work: Callable[[object], np.ndarray], items: Sequence[object]) -> None:
    """Run the bare loop."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(work, items):
            pass


def memory(*, archive: str, cache: str) -> dict[str, int]:
    """Measure the peak memory of preparing from an archive; runs in a fresh process."""
    return {"bytes": measure.peak_bytes(lambda: into_cache(Path(archive), Path(cache)))}


def main() -> None:
    """Measure and print the report."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--data", type=Path, default=Path("../shared/nih"), help="folder with NIH data (%(default)s)")
    options = parser.parse_args()
    measure.use_two_cores()
    if options.child:
        print(json.dumps(memory(**options.child)))
        return
    count, rounds = (8, 2) if options.quick else (1080, options.rounds)
    sizes = (4, 8) if options.quick else (120, 1200)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, kind = find_images(options.data, folder / "drawn", quick=options.quick)
        archive = write_archive(folder / "images.tar.gz", images, count=count)
        files = write_files(folder / "files", images, count=count)
        in_memory = [data for _, data in named(images, count)]
        seconds = measure.in_turn(
            {
                "ours, .tar.gz": lambda: into_cache(archive, folder / "cache"),
                "bare, in memory": lambda: bare(shrink_bytes, in_memory),
                "ours, files": lambda: into_cache(folder / "files", folder / "cache"),
                "bare, files": lambda: bare(shrink_file, files),
            },
            rounds=rounds,
        )
        rates = {name: [count / value for value in values] for name, values in seconds.items()}
        memories = []
        for images_in_it in sizes:
            path = write_archive(folder / f"{images_in_it}.tar.gz", images, count=images_in_it)
            peak = measure.in_fresh_process(
                memory, quick=options.quick, archive=str(path), cache=str(folder / f"cache_{images_in_it}")
            )
            memories.append(
                {"images": images_in_it, "archive MiB": path.stat().st_size / measure.MIB,
                 "peak MiB": peak["bytes"] / measure.MIB}
            )  # fmt: skip
    measure.Report(
        "prepare",
        {"source": kind, "different images": len(images), "images": count, "size": SIZE, "threads": THREADS,
         "rounds": rounds},
        {
            "Images a second": [{"candidate": name, **measure.spread(values)} for name, values in rates.items()],
            "Ratios, pair by pair": [
                measure.compare(f"{ours} / {other}", rates[ours], rates[other], goal=goal)
                for ours, other, goal in (
                    ("ours, .tar.gz", "bare, in memory", "at least 0.85"),
                    ("ours, .tar.gz", "bare, files", "at least 0.85"),
                    ("ours, files", "bare, files", ""),
                )
            ],
            "Peak memory of preparing from a .tar.gz": memories,
        },
        ["the download; reading from a disk that is not cached; a slow disk's share in writing"],
    ).show(as_json=options.json)  # fmt: skip


if __name__ == "__main__":
    main()
