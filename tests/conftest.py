"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def random_batch(count: int, *, side: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 3, side, side) of noise and labels (count, 14), a share of them 1 and the third always."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, side, side, generator=generator)
    labels = (torch.rand(count, 14, generator=generator) < share).float()
    labels[:, 2] = 1
    return images, labels


def two_sets(folder: Path, store, *, training: int, validation: int) -> list:
    """The first films of a store, to train on, and the next ones, to validate on."""
    from cxr_seam.films import Films
    from cxr_seam.nih import load_tables

    tables, names = load_tables(folder), store.image_index
    parts = (names[:training], names[training : training + validation])
    return [Films(store, tables, image_index=part) for part in parts]


@pytest.fixture(autouse=True, scope="module")
def own_choices() -> Iterator[None]:
    """Tests make their own choices, whatever the variables say that steer the notebooks of the same run.

    Of a module's scope, so that it goes before the module's other fixtures and is undone before the notebooks.
    """
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("CXR_SEAM_DATA", "CXR_SEAM_RECIPES", "CXR_SEAM_KEEP"):
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="session")
def nih_root() -> Path:
    """Folder with real NIH radiographs and tables; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("CXR_SEAM_NIH", ROOT.parent / "shared" / "nih"))
    if not (folder / "BBox_List_2017.csv").exists():
        pytest.skip(f"no real NIH data in {folder} (set CXR_SEAM_NIH to the folder that holds it)")
    return folder


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic radiographs of a few patients in NIH's layout."""
    from cxr_seam.phantom import write_demo_data

    folder = tmp_path_factory.mktemp("demo")
    write_demo_data(folder, patients=16, seed=3, progress=False)
    return folder


@pytest.fixture(scope="session")
def demo_store(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The same, prepared at 64 pixels."""
    from cxr_seam.prepare import prepare

    return prepare(demo_folder / "images", tmp_path_factory.mktemp("store"), size=64, progress=False)
