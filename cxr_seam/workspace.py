"""Where a run keeps its data, models, figures and results: what the five notebooks hand to one another.

A notebook makes its choices in one form cell and opens a workspace with them; the next notebook, in the same runtime
or a new one, opens the same workspace and finds what the last one left.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from .data.cache import ImageCache
from .data.dataset import ChestXrayDataset
from .data.nih import NihMetadata, load_metadata, train_val_split
from .device import select_device
from .errors import InputError
from .io import atomic_write
from .presets import get_preset
from .recipes import Recipe

DEMO_PATIENTS = {"demo": 420, "tiny": 40}
"""Patients of the synthetic data sets. "tiny" is for tests: it runs, it does not learn."""


ARCHIVES = {"nih-subset": range(1, 3), "nih": range(1, 13)}
"""NIH's archives that are downloaded: about 5 GB for the first two, 42 GB for all twelve."""


ENVIRONMENT = {"data": "CXR_SEAM_DATA", "preset": "CXR_SEAM_PRESET", "output_dir": "CXR_SEAM_OUTPUT"}
"""Variables that override the form cells, so that a whole suite can be run on other data without editing it."""


COLAB_DISK = Path("/content")


DRIVE = COLAB_DISK / "drive"


CLAIM = "data.json"
"""The file in which a folder says whose data it is for."""


@dataclass(frozen=True)
class Workspace:
    """The folders of a run.

    Attributes:
        data: "demo", "tiny", "nih-subset", "nih", or the path of a folder with NIH's tables and images.
        folder: the folder that `data` names, absolute; None for data that are drawn or downloaded.
        recipes: the standard, MultiRes and MultiRes + PCM recipes to train.
        output_dir: folder for models, figures and results; on Colab it may lie on Drive.
    """

    data: str
    folder: Path | None
    recipes: tuple[Recipe, Recipe, Recipe]
    output_dir: Path

    @classmethod
    def open(
        cls, *, data: str, preset: str, output_dir: str | os.PathLike[str] = "", on_drive: bool = False
    ) -> Workspace:
        """Open a workspace with the choices of a form cell; environment variables go before them (`ENVIRONMENT`).

        Relative paths are meant from the current folder, which the notebooks' first cell makes the repository's root.

        Args:
            data: see `Workspace`.
            preset: name of a preset, see `families.PRESETS`.
            output_dir: folder for models, figures and results; "" means `runs/` and the name of the data.
            on_drive: on Colab, mount Google Drive and keep everything but the images there, in `cxr-seam/`.

        Raises:
            InputError: there is no such recipes of recipes, `data` is neither a known name nor a folder, or Drive is
                asked for outside Colab.
        """
        data = os.environ.get(ENVIRONMENT["data"], data)
        folder = None if data in DEMO_PATIENTS or data in ARCHIVES else Path(data).absolute()
        if not data or (folder is not None and not folder.is_dir()):
            known = ", ".join([*DEMO_PATIENTS, *ARCHIVES])
            raise InputError(
                f"data {data!r} is neither one of {known} nor a folder; choose one or give a folder's path"
            )
        recipes = get_preset(os.environ.get(ENVIRONMENT["preset"], preset))
        output_dir = os.environ.get(ENVIRONMENT["output_dir"], os.fspath(output_dir)) or f"runs/{Path(data).name}"
        return cls(data, folder, recipes, (mount_drive() if on_drive else Path.cwd()) / output_dir)

    @property
    def summary(self) -> str:
        """Two sentences for a person: what will compute, and where everything is kept.

        Raises:
            InputError: see `hardware.select_device`.
        """
        return f"Runs on {select_device().name}.\nKeeps everything in {self.output_dir}."

    @property
    def models(self) -> Path:
        """Folder of checkpoints and histories."""
        return self.output_dir / "models"

    @property
    def local_dir(self) -> Path | None:
        """Where models are written before they are copied to Drive, which comes and goes; None where they are not."""
        on_drive = self.output_dir.is_relative_to(DRIVE)
        return COLAB_DISK / "not_on_drive_yet" / self.output_dir.relative_to(DRIVE) if on_drive else None

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.output_dir / "figures"

    @property
    def results(self) -> Path:
        """File of the evaluation's results."""
        return self.output_dir / "results.json"

    @property
    def image_size(self) -> int:
        """Side in pixels that images must at least have: the largest that a recipe of the recipes needs."""
        return max(recipe.image_size for recipe in self.recipes)

    @property
    def data_id(self) -> str:
        """What tells these data from others: films of different data may bear the same name."""
        if self.data in DEMO_PATIENTS:
            return f"demo of {DEMO_PATIENTS[self.data]} patients"
        return "NIH's archives" if self.folder is None else str(self.folder)

    @property
    def local(self) -> Path:
        """Folder of the images: on Colab the runtime's own disk, never Drive, which fails with many files.

        NIH's archives have one folder for all, `data/nih`, so that no choice of recipes downloads them twice.
        """
        colab = "google.colab" in sys.modules
        if self.data in ARCHIVES:
            return (COLAB_DISK if colab else Path.cwd()) / "data" / "nih"
        return COLAB_DISK / "data" / Path(self.data).name if colab else self.output_dir / "data"

    @property
    def metadata_folder(self) -> Path:
        """Folder of the four tables."""
        return self.folder or self.local

    @property
    def cache_folder(self) -> Path:
        """Folder of the prepared images: the smallest store that is large enough for the recipes, or the one to make.

        Drawn films are made at the recipes' size, since they are soon made again; real ones at 256 pixels at least.
        A folder that data_download.sh has filled brings its own store.
        """
        for place in (self.folder, self.local):
            sizes = [int(s.name[6:]) for s in place.glob("cache_*") if s.name[6:].isdecimal()] if place else []
            if enough := [size for size in sizes if size >= self.image_size]:
                return place / f"cache_{min(enough)}"
        drawn = self.data in DEMO_PATIENTS
        return self.local / f"cache_{self.image_size if drawn else max(self.image_size, Recipe.image_size)}"

    def prepare_data(self) -> ImageCache:
        """Get the data ready: draw the demo's, download NIH's, or read a folder; what is there is not done again.

        Raises:
            InputError: a download failed, a folder holds no usable image, or `keep` belongs to other data.
        """
        from .data.cache import prepare
        from .data.download import download

        self._claim(self.output_dir)
        self._claim(self.local)
        place = self.cache_folder
        size = int(place.name[6:])
        if self.data in ARCHIVES:
            download(self.local, archives=ARCHIVES[self.data], size=size)
        elif self.data in DEMO_PATIENTS:
            from .synthetic.dataset import write_demo_data

            if not place.exists():
                write_demo_data(self.local, patients=DEMO_PATIENTS[self.data])
            return prepare(self.local / "images", place, size=size)
        elif place.parent != self.folder:
            return prepare(image_folders(self.folder), place, size=size)
        return ImageCache.open(place)

    def _claim(self, folder: Path) -> None:
        """Write down whose data a folder is for, or refuse it if it is for others'."""
        path = folder / CLAIM
        if not path.exists():
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps({"data": self.data_id}) + "\n")
        self._check(folder)

    def _check(self, folder: Path) -> None:
        """Refuse a folder that is for other data."""
        path = folder / CLAIM
        try:
            other = json.loads(path.read_text())["data"] if path.exists() else self.data_id
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it if {folder} is for these data") from error
        if other != self.data_id:
            raise InputError(f"{folder} holds {other}, not {self.data_id}; choose another KEEP or delete that folder")

    def cache(self) -> ImageCache:
        """Open the prepared images.

        Raises:
            InputError: notebook 01 has not been run, or the runtime is a new one and its disk empty.
        """
        self._check(self.output_dir)
        self._check(self.local)
        if not self.cache_folder.exists():
            raise InputError(
                f"no images in {self.cache_folder}; run notebook 01 first (a new Colab runtime starts empty)"
            )
        return ImageCache.open(self.cache_folder)

    def tables(self) -> NihMetadata:
        """Read the tables.

        Raises:
            InputError: see `nih.load_metadata`.
        """
        return load_metadata(self.metadata_folder)

    def train_val_datasets(self, recipe: Recipe) -> tuple[ChestXrayDataset, ChestXrayDataset]:
        """The films to train on and those to validate on, chosen as the recipe says."""
        cache, tables = self.cache(), self.tables()  # in this order: it tells of notebook 01
        chosen = train_val_split(
            tables,
            validation_fraction=recipe.data.validation_fraction,
            disease_free=recipe.data.num_normal_images,
            seed=recipe.seed,
            available=cache.image_index,
        )
        train, validation = (ChestXrayDataset(cache, tables, image_index=names) for names in chosen)
        return train, validation

    def test_dataset(self) -> ChestXrayDataset:
        """All films of the official test list that are in the store."""
        cache, tables = self.cache(), self.tables()
        return ChestXrayDataset(cache, tables, image_index=[name for name in tables.test if name in cache])

    def boxed_dataset(self) -> ChestXrayDataset:
        """The films of the store that carry a true box; all of them are test films."""
        cache, tables = self.cache(), self.tables()
        names = [name for name in dict.fromkeys(tables.boxes["image_index"]) if name in cache]
        return ChestXrayDataset(cache, tables, image_index=names)


def mount_drive() -> Path:
    """Mount Google Drive and return the folder in it that everything is kept below.

    Raises:
        InputError: this is not Colab.
    """
    if "google.colab" not in sys.modules:
        raise InputError("Google Drive can be mounted on Colab only; untick SAVE_TO_DRIVE and give a folder in KEEP")
    from google.colab import drive

    drive.mount(str(DRIVE))
    return DRIVE / "MyDrive" / "cxr-seam"


def image_folders(folder: Path) -> list[Path]:
    """Where a folder with NIH's tables keeps its images: in `images` and `images_256`, or else anywhere in it.

    Originals come first, so that an image that is there twice is taken from the larger copy.
    """
    named = [folder / name for name in ("images", "images_256") if (folder / name).is_dir()]
    return named or [folder]
