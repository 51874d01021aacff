"""The data, the recipes and the folders of one run, which the notebooks and the command line share.

A notebook opens a workspace with the choices of its form cell. The next notebook, in the same runtime or a new one,
opens the same workspace and finds the models and results of the previous one.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .data.archives import is_zip, name_by_stem, unpack, unpack_tables
from .data.cache import ImageCache
from .data.dataset import ChestXrayDataset
from .data.image_io import TABLE_SUFFIXES, sort_files
from .data.layouts import READERS, check_layout, detect_layout, load_dataset, nih
from .data.layouts.base import DatasetMetadata
from .data.split import train_val_split
from .device import select_device
from .errors import InputError
from .io import atomic_write, list_files, user_path
from .models.checkpoint import best_path
from .presets import get_preset, get_recipe
from .recipes import Recipe

DEMO_PATIENTS = {"demo": 420, "tiny": 40}
"""Number of patients of the synthetic datasets. "tiny" is for tests: too small to learn from."""

ARCHIVES = {"nih-subset": range(1, 3), "nih": range(1, 13)}
"""NIH's archives to download: about 5 GB for the first two, 42 GB for all twelve."""

ENVIRONMENT = {"data": "CXR_SEAM_DATA", "preset": "CXR_SEAM_PRESET", "output_dir": "CXR_SEAM_OUTPUT"}
"""Variables that override the form cells, for example to run all notebooks on other data."""

ROLES = ("standard", "multires", "multires_pcm")
"""Names of the recipes of a preset, in their order."""

COLAB_DISK = Path("/content")
DRIVE = COLAB_DISK / "drive"
DATASET_FILE = "dataset.json"
"""File that names the dataset of an output or data folder."""

OLD_DATASET_FILE = "data.json"
"""Its name in folders of earlier versions."""


class DatasetFile(BaseModel):
    """The content of `dataset.json`.

    Attributes:
        dataset: see `Workspace.data_id`.
        layout: of the dataset; empty in files of earlier versions.
        warnings: what was guessed when the tables were read; each sentence is shown once.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["cxr-seam dataset"] = "cxr-seam dataset"
    version: Literal[2] = 2
    dataset: str
    layout: str = ""
    warnings: list[str] = []

    def save(self, folder: Path) -> None:
        """Write the file into a folder."""
        with atomic_write(folder / DATASET_FILE) as temporary:
            temporary.write_text(self.model_dump_json() + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Workspace:
    """The data, the recipes and the folders of one run.

    Attributes:
        data: "demo", "tiny", "nih-subset", "nih", or the path of a folder with the tables and images of a dataset in a
            layout of `data.layouts`, of a zip archive of it, or of a folder of zip archives; the tables may also lie
            beside the archives.
        folder: the absolute path of that folder or archive; None for synthetic and downloaded data.
        recipes: the standard, MultiRes and MultiRes + PCM recipes of the preset.
        output_dir: folder for models, figures and results; on Colab it may be on Google Drive.
        chosen_layout: see `open`.
    """

    data: str
    folder: Path | None
    recipes: tuple[Recipe, Recipe, Recipe]
    output_dir: Path
    chosen_layout: str = ""

    @classmethod
    def open(
        cls,
        *,
        data: str,
        preset: str,
        output_dir: str | os.PathLike[str] = "",
        layout: str = "",
        save_to_drive: bool = False,
    ) -> Workspace:
        """Open a workspace; the environment variables of `ENVIRONMENT` have priority over the arguments.

        Args:
            data: see `Workspace`.
            preset: a name in `presets.PRESETS`.
            output_dir: folder for models, figures and results, relative to the current folder; "" is `runs/` and the
                name of the data.
            layout: one of `data.layouts.LAYOUTS`, for example "chexpert:ones"; "" is that of the output folder's
                earlier use, at first the one that the folder's tables show.
            save_to_drive: on Colab, mount Google Drive and put `output_dir` into its folder `cxr-seam`.

        Raises:
            InputError: the preset, the data or the layout is unknown, or `save_to_drive` is set outside Colab.
        """
        data = os.environ.get(ENVIRONMENT["data"], data)
        folder = None if data in DEMO_PATIENTS or data in ARCHIVES else user_path(data, what="DATA").absolute()
        if folder is not None and not folder.is_dir() and not is_zip(folder):
            known = ", ".join([*DEMO_PATIENTS, *ARCHIVES])
            raise InputError(
                f"data {data!r} is neither one of {known} nor a folder or .zip file; choose one or give a path"
            )
        if layout and check_layout(layout) != nih.NAME and folder is None:
            raise InputError(f"{data} has the layout {nih.NAME}, not {layout}; leave the layout empty")
        recipes = get_preset(os.environ.get(ENVIRONMENT["preset"], preset))
        output_dir = os.environ.get(ENVIRONMENT["output_dir"], os.fspath(output_dir)) or f"runs/{Path(data).name}"
        parent = mount_drive() if save_to_drive else Path.cwd()
        return cls(data, folder, recipes, parent / user_path(output_dir, what="OUTPUT"), layout)

    @property
    def summary(self) -> str:
        """The device and the output folder, in two lines."""
        return f"Device: {select_device().name}\nOutput folder: {self.output_dir}"

    @property
    def models(self) -> Path:
        """Folder of checkpoints and histories."""
        return self.output_dir / "models"

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.output_dir / "figures"

    @property
    def results(self) -> Path:
        """File of the evaluation's results."""
        return self.output_dir / "results.json"

    @property
    def local_dir(self) -> Path | None:
        """Folder to write checkpoints to before they are copied to Google Drive; None if the output is not on Drive."""
        if not self.output_dir.is_relative_to(DRIVE):
            return None
        return COLAB_DISK / "not_on_drive_yet" / self.output_dir.relative_to(DRIVE)

    @property
    def data_id(self) -> str:
        """Description of the dataset; images of different datasets may have the same names."""
        if self.data in DEMO_PATIENTS:
            return f"demo of {DEMO_PATIENTS[self.data]} patients"
        return "NIH's archives" if self.folder is None else str(self.folder)

    @property
    def data_dir(self) -> Path:
        """Folder of the images. On Colab it is on the runtime's disk, because Drive fails with many files.

        NIH's archives have one folder for all runs, `data/nih`, so that they are downloaded once.
        """
        on_colab = "google.colab" in sys.modules
        if self.data in ARCHIVES:
            return (COLAB_DISK if on_colab else Path.cwd()) / "data" / "nih"
        return COLAB_DISK / "data" / Path(self.data).name if on_colab else self.output_dir / "data"

    @property
    def metadata_folder(self) -> Path:
        """Folder of the dataset's tables. Those that are in zip archives are unpacked into `data_dir`."""
        if self.folder is None:
            return self.data_dir
        is_archive = self.folder.is_file()
        if not is_archive and any(path.name.endswith(TABLE_SUFFIXES) for path in list_files(self.folder)):
            return self.folder
        if unpack_tables(self._archives, self.data_dir / "tables"):
            return self.data_dir / "tables"
        return self.folder.parent if is_archive else self.folder

    @property
    def dataset_folder(self) -> Path:
        """Folder of the dataset's tables and images.

        Where tables name images by their paths, zip archives are unpacked into `data_dir` at the first use and after
        they changed. Tables beside the archives are copied to them.
        """
        tables, reader = self.metadata_folder, READERS[self.layout.partition(":")[0]]
        if reader.IMAGE_NAME is name_by_stem or not self._archives:
            return tables
        if self.folder.is_dir() and sort_files(self.folder)[0]:  # archives beside the images that they contain
            return tables
        unpack(self._archives, folder := self.data_dir / "unpacked")
        if tables != self.data_dir / "tables":
            copy_tables(tables, folder)
        below = (path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern)))
        return next((path for path in chain([folder], below) if reader.matches(path)), folder)

    @property
    def _archives(self) -> list[Path]:
        """The zip archive, or the zip archives in the folder."""
        if self.folder is None or self.folder.is_file():
            return [self.folder] if self.folder else []
        return sorted(path for path in list_files(self.folder) if path.suffix.lower() == ".zip" and is_zip(path))

    @property
    def layout(self) -> str:
        """The layout of the dataset: as chosen, as when the output folder was used first, or as the tables show."""
        stored = self._check_folder(self.output_dir)
        self._check_folder(self.data_dir)
        if layout := self.chosen_layout or (stored.layout if stored else ""):
            return layout
        return nih.NAME if self.folder is None else detect_layout(self.metadata_folder)

    @property
    def cache_folder(self) -> Path:
        """Folder of the image cache: the smallest existing one that is large enough for the recipes, or a new one.

        Synthetic images are prepared at the recipes' size, because they are quickly made again; real images at 256
        pixels or more. A folder that data_download.sh has filled contains its own cache.
        """
        image_size = max(recipe.image_size for recipe in self.recipes)
        for folder in filter(None, (self.folder, self.data_dir)):
            sizes = [int(path.name[6:]) for path in folder.glob("cache_*") if path.name[6:].isdecimal()]
            if large_enough := [size for size in sizes if size >= image_size]:
                return folder / f"cache_{min(large_enough)}"
        size = image_size if self.data in DEMO_PATIENTS else max(image_size, Recipe.image_size)
        return self.data_dir / f"cache_{size}"

    def recipe(self, name: str) -> Recipe:
        """Return a recipe of the preset by its role (see `ROLES`), or any recipe by its name.

        Raises:
            InputError: the name is unknown.
        """
        by_name = {recipe.name: recipe for recipe in self.recipes} | dict(zip(ROLES, self.recipes, strict=True))
        return by_name[name] if name in by_name else get_recipe(name)

    def checkpoint(self, name: str) -> Path:
        """Return the path of the best checkpoint of a recipe, see `recipe`."""
        return best_path(self.models, self.recipe(name).name)

    def prepare_data(self) -> ImageCache:
        """Make the image cache: synthesize the demo's images, download NIH's, or read a folder; done once.

        Raises:
            InputError: a download failed, a folder contains no usable image, or `output_dir` belongs to other data.
        """
        from .data.cache import prepare

        self.__dict__.pop("_metadata", None)  # the tables may have changed
        self._claim_folders()
        reader = READERS[self.layout.partition(":")[0]]
        cache_folder = self.cache_folder
        size = int(cache_folder.name[6:])
        if self.data in ARCHIVES:
            from .data.download import download

            download(self.data_dir, archives=ARCHIVES[self.data], size=size)
        elif self.data in DEMO_PATIENTS:
            from .synthetic.dataset import write_demo_data

            if not cache_folder.exists():
                write_demo_data(self.data_dir, patients=DEMO_PATIENTS[self.data])
            return prepare(self.data_dir / "images", cache_folder, size=size)
        elif cache_folder.parent != self.folder:
            if reader.IMAGE_NAME is name_by_stem:
                return prepare(image_folders(self.folder, reader.IMAGE_FOLDERS), cache_folder, size=size)
            sources, names = image_folders(self.dataset_folder, reader.IMAGE_FOLDERS), self.metadata().images.index
            return prepare(sources, cache_folder, size=size, names=frozenset(names), image_name=reader.IMAGE_NAME)
        return ImageCache.open(cache_folder)

    def cache(self) -> ImageCache:
        """Open the image cache; the output folder then belongs to this dataset and layout.

        Raises:
            InputError: the images have not been prepared, for example in a new Colab runtime, or `output_dir` belongs
                to other data.
        """
        for folder in (self.output_dir, self.data_dir):
            self._check_folder(folder)
        if not self.cache_folder.exists():
            raise InputError(
                f"no images in {self.cache_folder}; run prepare_data(), python -m cxr_seam download, or notebook 01 (a "
                "new Colab runtime is empty)"
            )
        self._claim_folders()
        return ImageCache.open(self.cache_folder)

    def metadata(self) -> DatasetMetadata:
        """Return the tables of the dataset; they are read at the first call and again by `prepare_data`.

        What was guessed gives a warning, once for each output folder.

        Raises:
            InputError: see `layouts.load_dataset`.
        """
        return self._metadata

    @cached_property
    def _metadata(self) -> DatasetMetadata:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            metadata = load_dataset(self.dataset_folder, layout=self.layout)
        stored = self._check_folder(self.output_dir)
        for warning in caught:
            if stored is None or str(warning.message) not in stored.warnings:
                warnings.warn(warning.message, stacklevel=4)  # the caller of `metadata`
        if stored is not None and (new := {str(warning.message) for warning in caught} - set(stored.warnings)):
            stored.model_copy(update={"warnings": sorted({*stored.warnings, *new})}).save(self.output_dir)
        return metadata

    def train_val_datasets(self, recipe: Recipe) -> tuple[ChestXrayDataset, ChestXrayDataset]:
        """Select the training and the validation images by the recipe's split."""
        cache, metadata = self.cache(), self.metadata()
        split = train_val_split(
            metadata,
            validation_fraction=recipe.data.validation_fraction,
            num_normal_images=recipe.data.num_normal_images,
            seed=recipe.seed,
            available=cache.image_index,
        )
        train, val = (ChestXrayDataset(cache, metadata, image_index=names) for names in split)
        return train, val

    def test_dataset(self) -> ChestXrayDataset:
        """Return the test images of the dataset that are in the cache.

        Raises:
            InputError: there is none.
        """
        cache, metadata = self.cache(), self.metadata()
        names = [name for name in metadata.test if name in cache]
        if not names:
            raise InputError(
                f"none of the images in {cache.folder} is for the test (NIH: listed in test_list.txt; images.csv: test "
                "in the column split); prepare images that are"
            )
        return ChestXrayDataset(cache, metadata, image_index=names)

    def _claim_folders(self) -> None:
        """Write `dataset.json` into the output and the data folder; refuse folders of other data."""
        layout = self.layout
        for folder, text in ((self.output_dir, layout), (self.data_dir, layout.partition(":")[0])):
            if not (folder / DATASET_FILE).exists():
                DatasetFile(dataset=self.data_id, layout=text).save(folder)

    def _check_folder(self, folder: Path) -> DatasetFile | None:
        """Return the content of `dataset.json` or None; refuse a folder of other data or of an earlier version."""
        path = folder / DATASET_FILE
        if not path.exists():
            if (folder / OLD_DATASET_FILE).exists():
                raise InputError(f"{folder} is of an earlier version; choose another OUTPUT or delete that folder")
            return None
        try:
            stored = DatasetFile.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(f"{path} is damaged; delete it if {folder} belongs to {self.data_id}") from error
        if stored.dataset != self.data_id:
            raise InputError(
                f"{folder} belongs to {stored.dataset}, not to {self.data_id}; choose another OUTPUT or delete that "
                "folder"
            )
        chosen = self.chosen_layout if folder == self.output_dir else self.chosen_layout.partition(":")[0]
        if chosen and stored.layout not in ("", chosen):
            raise InputError(
                f"{folder} was made with the layout {stored.layout}, not {chosen}; choose another OUTPUT or delete "
                "that folder"
            )
        return stored


def mount_drive() -> Path:
    """Mount Google Drive and return its folder `cxr-seam`.

    Raises:
        InputError: this is not Colab.
    """
    if "google.colab" not in sys.modules:
        raise InputError("Google Drive can be mounted on Colab only; untick SAVE_TO_DRIVE and give a folder in OUTPUT")
    from google.colab import drive

    drive.mount(str(DRIVE))
    return DRIVE / "MyDrive" / "cxr-seam"


def copy_tables(source: Path, folder: Path) -> None:
    """Copy the tables of a folder, and those in its folder `annotations`, unless `folder` has them as they are."""
    for path in (*list_files(source), *list_files(source / "annotations")):
        if path.name.endswith(TABLE_SUFFIXES) and path.is_file():
            copy, state = folder / path.relative_to(source), path.stat()
            if copy.exists() and (copy.stat().st_size, copy.stat().st_mtime) == (state.st_size, state.st_mtime):
                continue
            with atomic_write(copy) as temporary:
                shutil.copy2(path, temporary)


def image_folders(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the image folders of a dataset: those of some names that exist, or else the folder itself.

    Of NIH's the originals come first, so that the larger of two copies of an image is used.
    """
    named = [folder / name for name in names if (folder / name).is_dir()]
    return named or [folder]
