"""The folder of a study: its data, prepared once, and the workspaces of its rows."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from study_rows import Row, study_rows

from cxr_seam.data.cache import prepare
from cxr_seam.data.nih import BOX_TABLE, LABEL_TABLES, TEST_LIST, TRAIN_VAL_LIST, load_metadata, train_val_split
from cxr_seam.errors import InputError
from cxr_seam.io import atomic_write
from cxr_seam.recipes import DataSplit, Recipe
from cxr_seam.workspace import Workspace

SHRUNK_BEFORE = {"images_128": 128}
"""Folders whose images were shrunk by an unknown filter, to so many pixels: no box is ever scored on them, and the AUC
is told without them too."""
FOLDERS = ("images", "images_256", *SHRUNK_BEFORE)


@dataclass(frozen=True)
class StudyWorkspace(Workspace):
    """A row's folder; models are those of all rows."""

    @property
    def models(self) -> Path:
        """Folder of checkpoints and histories."""
        return self.keep.parent.parent / "models"


@dataclass(frozen=True)
class Study:
    """What all rows have in common.

    Attributes:
        source: folder with NIH's tables and images.
        out: folder of the study.
        backbone: a key of `backbones.BACKBONES`.
        size: of the films in pixels.
        epochs: of a first phase.
        draws: of the bootstrap over patients.
    """

    source: Path
    out: Path
    backbone: str
    size: int
    epochs: int
    draws: int

    @property
    def data(self) -> Path:
        """Folder of the tables and the prepared films."""
        return self.out / "data"

    @property
    def folders(self) -> list[Path]:
        """Where images come from, larger copies first."""
        named = (name for name in FOLDERS if self.size <= SHRUNK_BEFORE.get(name, self.size))
        return [self.source / name for name in named if (self.source / name).is_dir()]

    def rows(self, seed: int) -> dict[str, Row]:
        """The rows for a seed."""
        options = {"backbone": self.backbone, "size": self.size, "epochs": self.epochs}
        return study_rows(**options, seed=seed, images=lambda recipe: self.training_images(recipe.data, recipe.seed))

    def settings(self) -> dict[str, Any]:
        """What makes two studies the same, for JSON."""
        own = {key: value for key, value in asdict(self).items() if key not in ("source", "out")}
        return {"data": str(self.source.absolute()), **own}

    def prepare_data(self) -> None:
        """Copy the tables and prepare the films, unless that is done.

        Raises:
            InputError: `out` belongs to a study of other settings, or there are no tables or images.
        """
        claim = self.out / "study.json"
        if claim.exists() and (other := json.loads(claim.read_text())) != self.settings():
            raise InputError(f"{self.out} holds a study of {other}, not of {self.settings()}; choose another --out")
        tables = load_metadata(self.source)
        with atomic_write(claim) as temporary:
            temporary.write_text(json.dumps(self.settings()) + "\n")
        for name in (*LABEL_TABLES, TRAIN_VAL_LIST, TEST_LIST, BOX_TABLE):
            for path in (self.source / name, self.source / f"{name}.gz"):
                if path.exists():
                    with atomic_write(self.data / path.name) as temporary:
                        shutil.copyfile(path, temporary)
        if not self.folders:
            raise InputError(f"{self.source} has no folder {' or '.join(FOLDERS)} with images; name another --data")
        boxed = set(tables.boxes["image_index"])
        for folder in self.folders:  # a film is taken from the first that holds it
            held = boxed & {f"{path.stem}.png" for path in folder.iterdir()}
            if held and folder.name in SHRUNK_BEFORE:
                raise InputError(
                    f"{folder} has films with true boxes ({min(held)}), shrunk by an unknown filter; move them away: "
                    "no box is to be scored on them"
                )
            boxed -= held
        prepare(self.folders, self.data / f"cache_{self.size}", size=self.size)

    def workspace(self, folder: Path, recipe: Recipe) -> Workspace:
        """The workspace of a row's folder."""
        data = self.data.absolute()
        return StudyWorkspace(str(data), data, (recipe,) * 3, folder.absolute())

    @cache  # noqa: B019 (there is one study)
    def training_images(self, data: DataSplit, seed: int) -> int:
        """How many images are trained on, told from the names in the folders."""
        available = {f"{path.stem}.png" for folder in self.folders for path in folder.iterdir()}
        chosen = train_val_split(
            load_metadata(self.source),
            validation_fraction=data.validation_fraction,
            num_normal_images=data.num_normal_images,
            seed=seed,
            available=available,
        )
        return len(chosen[0])
