"""Count the augmented, normalised images per second on two CPU cores, for four input pipelines.

    python benchmarks/input_pipeline.py [--json] [--quick] [--rounds N] [--data FOLDER]

- paper: Sect. 5.2 as it is commonly written: 1024x1024 PNG, PIL to RGB, resize to 256, torchvision's augmentations
  image by image, in a torch DataLoader with two workers.
- torchxrayvision: its NIH_Dataset over the same files with its own crop and resize at their defaults, then the same
  augmentations on its one channel. Optional: `pip install torchxrayvision`.
- ours: images of a prepared cache, augmented as a whole batch, all on the CPU.
- ours, host side: the same cache; random parameters are sampled but not applied, as on a machine with a GPU.

All read from files that lie in the system's page cache. FOLDER holds NIH data (`images/`, the tables); without it
it uses synthetic images. The resident memory is measured with a small and a 20 times larger cache.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import measure
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cxr_seam.data.cache import IMAGES_FILE, CacheIndex, ImageCache, prepare
from cxr_seam.data.dataset import BatchSampler, ChestXrayDataset
from cxr_seam.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    affine_matrix,
    sample_augmentation,
    train_transform,
)
from cxr_seam.recipes import Augmentation
from cxr_seam.synthetic.dataset import write_demo_data

BATCH = 32
WORKERS = 2
RECIPE = Augmentation()
ALL_IMAGES = 112_120


class PaperDataset(Dataset):
    """Decode, resize and augment files one by one."""

    def __init__(self, files: Sequence[Path], *, size: int) -> None:
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                *augmentations(size),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.files[place]) as image:
            return self.transform(image.convert("RGB")), torch.zeros(14)


def augmentations(size: int) -> list[Callable[[Any], Any]]:
    """Return crop, flip and rotation of the recipe as torchvision transforms of PIL images."""
    return [
        transforms.RandomResizedCrop(size, scale=RECIPE.crop_area, ratio=RECIPE.crop_aspect),
        transforms.RandomHorizontalFlip(RECIPE.flip_probability),
        transforms.RandomRotation(RECIPE.rotation_degrees, interpolation=transforms.InterpolationMode.BILINEAR),
    ]


def torchxrayvision_dataset(folder: Path, files: Sequence[Path], *, size: int, count: int) -> Dataset | None:
    """Make the library's NIH dataset with `count` images that repeat `files`; None if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchxrayvision import datasets
    except ImportError:
        return None
    nih = datasets.NIH_Dataset(
        str(files[0].parent),
        csvpath=str(next(folder.glob("Data_Entry_2017*.csv*"))),
        bbox_list_path=str(next(folder.glob("BBox_List_2017.csv*"))),
        views=["PA", "AP"],
        unique_patients=False,
        transform=transforms.Compose([datasets.XRayCenterCrop(), datasets.XRayResizer(size)]),
        data_aug=transforms.Compose([FirstChannelToPil(), *augmentations(size), transforms.ToTensor()]),
    )
    present = {file.name for file in files}
    rows = [row for row, name in enumerate(nih.csv["Image Index"]) if name in present]
    return datasets.SubsetDataset(nih, [rows[place % len(rows)] for place in range(count)])


class FirstChannelToPil:
    """Convert (1, H, W) float32 arrays to PIL images."""

    def __call__(self, pixels: Any) -> Image.Image:
        return Image.fromarray(pixels[0])


def two_workers(nih: Dataset) -> DataLoader:
    """Make a data loader with persistent workers."""
    return DataLoader(nih, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)


class OurBatches:
    """Shuffled batches of a dataset, as the trainer loads them."""

    def __init__(self, dataset: ChestXrayDataset) -> None:
        self.dataset, self.sampler = dataset, BatchSampler(len(dataset), BATCH, shuffle_seed=0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.dataset.load(indices) for indices in self.sampler.batches())


def pass_through(batches: Iterable, *, change: Callable[[Tensor], Tensor] | None = None) -> None:
    """Iterate over one epoch."""
    for batch in batches:
        images = batch["img"] if isinstance(batch, dict) else batch[0]
        if change is not None:
            change(images)


def sample_only(images: Tensor, size: int, generator: torch.Generator) -> None:
    """The part of the augmentation that stays on the CPU."""
    affine_matrix(sample_augmentation(len(images), RECIPE, generator=generator), height=size, width=size)


def augment(images: Tensor, size: int, generator: torch.Generator) -> None:
    """The whole augmentation on the CPU."""
    train_transform(images, sample_augmentation(len(images), RECIPE, generator=generator), size=size)


def opening(folder: Path, *, count: int, rounds: int) -> list[float]:
    """Measure the milliseconds to open a cache of `count` images. Its file of pixels has no content."""
    names = [f"{place:08d}_000.png" for place in range(count)]
    index = CacheIndex(size=256, names=names, crc32=[0] * count, sources=[("images_001.tar.gz", count)])
    folder.mkdir()
    index.save(folder)
    with (folder / IMAGES_FILE).open("wb") as file:
        file.truncate(count * index.size**2)
    seconds = measure.in_turn({"open": lambda: ImageCache.open(folder)}, rounds=rounds)["open"]
    return [1000 * value for value in seconds]


def find_images(data: Path, drawn: Path, *, quick: bool) -> tuple[Path, list[Path], str]:
    """Return the folder with tables, its 1024x1024 PNGs, and their source."""
    kind = f"PNGs of {data}"
    if not list(data.glob("images/*.png")):
        kind = f"synthetic images, because {data} holds no images/*.png"
        data = write_demo_data(drawn, patients=4 if quick else 30, progress=False)
    files = sorted(data.glob("images/*.png"))
    return data, files[:4] if quick else files[:200], kind


def memory(*, cache: str) -> dict[str, int]:
    """Measure the resident memory after an epoch, above that of the imports; runs in a fresh process."""
    before = measure.resident()
    nih = measure.all_images(Path(cache))
    pass_through(OurBatches(nih))
    after = measure.resident()
    return {"images": len(nih), **{key: after[key] - before[key] for key in ("RssAnon", "RssFile")}}


def main() -> None:
    """Measure and print the report."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--data", type=Path, default=Path("../shared/nih"), help="folder with NIH data (%(default)s)")
    options = parser.parse_args()
    measure.use_two_cores()
    if options.child:
        print(json.dumps(memory(**options.child)))
        return
    quick = options.quick
    size, rounds = (64, 2) if quick else (256, options.rounds)
    decoded, stored, small = (8, 64, 64) if quick else (256, 4096, 1000)
    with tempfile.TemporaryDirectory() as folder:
        data, files, kind = find_images(options.data, Path(folder, "drawn"), quick=quick)
        names = [file.name for file in files]
        pixels = prepare(files[0].parent, Path(folder, "prepared"), size=size, names=names, progress=False).images
        batches = OurBatches(measure.repeated_images(Path(folder, "store"), pixels, count=stored))
        generator = torch.Generator().manual_seed(0)
        repeated = [files[place % len(files)] for place in range(decoded)]
        paper = two_workers(PaperDataset(repeated, size=size))
        candidates = {
            "paper": lambda: pass_through(paper),
            "ours": lambda: pass_through(batches, change=lambda images: augment(images, size, generator)),
            "ours, host side": lambda: pass_through(
                batches, change=lambda images: sample_only(images, size, generator)
            ),
        }
        counts = {"paper": decoded, "ours": stored, "ours, host side": stored}
        not_measured = [
            "the copy to a GPU and the augmentation there; reading from a disk that is not cached",
        ]
        library = torchxrayvision_dataset(data, files, size=size, count=decoded)
        if library is None:
            not_measured.append("torchxrayvision: not installed (pip install torchxrayvision)")
        else:
            other = two_workers(library)
            candidates = {"paper": candidates["paper"], "torchxrayvision": lambda: pass_through(other), **candidates}
            counts["torchxrayvision"] = decoded
        seconds = measure.in_turn(candidates, rounds=rounds)
        rates = {name: [counts[name] / value for value in seconds[name]] for name in candidates}
        ratios = [measure.compare("ours / paper", rates["ours"], rates["paper"], goal="at least 5")]
        if library is not None:
            ratios.append(
                measure.compare("ours / torchxrayvision", rates["ours"], rates["torchxrayvision"], goal="at least 4")
            )
        ratios.append(
            measure.compare("ours, host side / paper", rates["ours, host side"], rates["paper"], goal="at least 200")
        )
        memories = []
        for count in (small, 20 * small):
            cache = Path(folder, f"cache_{count}")
            measure.repeated_images(cache, pixels, count=count)
            resident = measure.in_fresh_process(memory, quick=options.quick, cache=str(cache))
            memories.append(
                {
                    "images": resident["images"],
                    "cache MiB": count * size**2 / measure.MIB,
                    "own memory MiB (RssAnon)": resident["RssAnon"] / measure.MIB,
                    "mapped file MiB (RssFile)": resident["RssFile"] / measure.MIB,
                }
            )
        opened = measure.spread(opening(Path(folder, "large"), count=ALL_IMAGES, rounds=max(5, rounds)))
    measure.Report(
        "input_pipeline",
        {"source": kind, "files": len(files), "size": size, "batch": BATCH, "workers": WORKERS, "rounds": rounds},
        {
            "Images a second": [
                {"candidate": name, "images a round": counts[name], **measure.spread(rates[name])}
                for name in candidates
            ],
            "Ratios, pair by pair": ratios,
            "Resident memory after an epoch": memories,
            "Opening a cache": [{"images": ALL_IMAGES, **{f"{key} ms": value for key, value in opened.items()}}],
        },
        not_measured,
    ).show(as_json=options.json)


if __name__ == "__main__":
    main()
