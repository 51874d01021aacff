"""Fuzz the readers, guided by coverage: fuzz.py tables|images [--seconds 60] [--output FOLDER].

atheris changes small synthetic files byte by byte and keeps the changes that reach new lines of the readers. Every
input must give a valid result or an `InputError` in one line. An input that gives anything else is written to the
folder of --output and ends the run with exit status 1; add it to the cases of tests/robustness then.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

TABLES = ("Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt", "BBox_List_2017.csv")


def table_seeds() -> list[bytes]:
    """Return the four tables, plain and gzipped; the first byte is the number of the table."""
    import gzip

    from cases_tables import FILES

    seeds = [bytes([number]) + FILES[name].encode() for number, name in enumerate(TABLES)]
    return seeds + [seed[:1] + gzip.compress(seed[1:], mtime=0) for seed in seeds]


def image_seeds() -> list[bytes]:
    """Return small images of every format that is supported."""
    from helpers.dicom_files import dicom_bytes, make_dataset, pydicom_file
    from PIL import Image
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

    grey = (np.arange(20 * 18) % 251).astype(np.uint8).reshape(20, 18)
    seeds = []
    for picture in (grey, grey.astype(np.uint16) * 16, np.dstack([grey] * 3), np.dstack([grey] * 4)):
        for kind in ("PNG", "TIFF", "JPEG"):
            if kind == "JPEG" and (picture.dtype != np.uint8 or picture.ndim == 3 and picture.shape[2] == 4):
                continue
            Image.fromarray(picture).save(file := io.BytesIO(), kind)
            seeds.append(file.getvalue())
    for picture in (Image.fromarray(grey).convert("P"), Image.fromarray(grey).convert("1")):
        picture.save(file := io.BytesIO(), "PNG")
        seeds.append(file.getvalue())
    seeds += [
        dicom_bytes(make_dataset(grey)),
        dicom_bytes(make_dataset(grey.astype(np.uint16) * 16, bits=12)),
        dicom_bytes(make_dataset(np.dstack([grey] * 3))),
    ]
    seeds.append(
        dicom_bytes(make_dataset(grey, WindowCenter="100", WindowWidth="50", RescaleSlope="2", RescaleIntercept="-7"))
    )
    seeds.append(dicom_bytes(make_dataset(grey, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=3)))
    seeds += [
        dicom_bytes(make_dataset(grey, syntax=syntax))
        for syntax in (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian)
    ]
    compressed = ("JPEG2000.dcm", "SC_rgb_rle_2frame.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm")
    return seeds + [pydicom_file(name).read_bytes() for name in compressed if pydicom_file(name).exists()]


class Tables:
    """Reads four tables, one of them made of the fuzzed bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good = {seed[0]: seed[1:] for seed in reversed(table_seeds()[:4])}
        for number, content in self.good.items():
            (folder / TABLES[number]).write_bytes(content)
        self.last = 0

    def __call__(self, data: bytes) -> None:
        number = data[0] % len(TABLES) if data else 0
        (self.folder / TABLES[self.last]).write_bytes(self.good[self.last])
        (self.folder / TABLES[number]).write_bytes(data[1:])
        self.last = number
        from cxr_seam.data.layouts.nih import load_metadata

        tables = load_metadata(self.folder)
        x, y, w, h = tables.boxes[["x", "y", "w", "h"]].to_numpy().T
        assert np.isfinite([x, y, w, h]).all() and (w > 0).all() and (h > 0).all()
        least, most = -1 / 1024, 1025 / 1024
        assert (x >= least).all() and (x + w <= most).all() and (y >= least).all() and (y + h <= most).all()
        assert tables.images.index.is_unique and tables.images["patient_id"].dtype == np.int64
        assert set(np.unique(tables.labels(tables.images.index.tolist()))) <= {0, 1}
        assert not set(tables.train_val) & set(tables.test)


def images(data: bytes) -> None:
    """Read the bytes as an image, and once more as DICOM: old DICOM files are known by their name only."""
    from cxr_seam.data import image_io
    from cxr_seam.errors import InputError

    for name in ("image", "image.dcm"):
        try:
            read = image_io.load_image(data, name=name)
        except InputError as error:
            require_sentence(error)
            continue
        height, width = read.pixels.shape
        assert read.pixels.dtype == np.uint8 and min(height, width) >= image_io.MIN_SIDE
        assert height * width <= image_io.MAX_PIXELS and 0 <= read.color_fraction <= 1


def require_sentence(error: Exception) -> None:
    """Check that the message is one line of several words."""
    assert len(str(error).splitlines()) == 1 and " " in str(error)


def fuzz(target: str, *, seconds: int, output_dir: Path) -> None:
    """Fuzz in this process until the time is over or an input breaks a reader; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["cxr_seam", "pydicom", "PIL"]):
        import pydicom.pixels  # noqa: F401
        from PIL import JpegImagePlugin, PngImagePlugin, TiffImagePlugin  # noqa: F401

        from cxr_seam.data import image_io, nih  # noqa: F401
        from cxr_seam.errors import InputError

    folder = Path(tempfile.mkdtemp(prefix="fuzz "))
    (folder / "tables").mkdir()
    (folder / "seeds").mkdir()
    output_dir.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(table_seeds() if target == "tables" else image_seeds()):
        (folder / "seeds" / str(number)).write_bytes(seed)
    read = Tables(folder / "tables") if target == "tables" else images
    warnings.simplefilter("ignore")
    logging.disable()

    def one(data: bytes) -> None:
        try:
            read(data)
        except InputError as error:
            require_sentence(error)

    options = [
        f"-max_total_time={seconds}",
        "-timeout=20",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={output_dir}/",
        "-max_len=8192",
    ]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(folder / "seeds")], one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz in a separate process and print its statistics in one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=("tables", "images"))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"), help="folder for inputs that break a reader")
    arguments = parser.parse_args()
    if "CXR_SEAM_FUZZ" in os.environ:
        fuzz(arguments.target, seconds=arguments.seconds, output_dir=arguments.output.absolute())
        return 0
    done = subprocess.run(
        [sys.executable, *sys.argv], env=os.environ | {"CXR_SEAM_FUZZ": "1"}, stderr=subprocess.PIPE, check=False
    )
    log = done.stderr.decode(errors="replace")
    covered = [int(number) for number in re.findall(r"^#\d+\s+\w+\s+cov: (\d+)", log, re.MULTILINE)] or [0]
    inputs = re.search(r"stat::number_of_executed_units: (\d+)", log)
    print(
        f"{arguments.target}: {inputs[1] if inputs else '?'} inputs in {arguments.seconds} s, "
        f"coverage from {covered[0]} of the first seed to {covered[-1]}, "
        f"{'nothing but InputError' if not done.returncode else 'BROKEN by:'}"
    )
    if done.returncode:
        print(log[-4000:])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
