"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.batches import ROOT


@pytest.fixture(autouse=True, scope="module")
def own_choices() -> Iterator[None]:
    """Ignore the environment variables that set the choices of notebooks.

    Of a module's scope, so that it goes before the module's other fixtures and is undone before the notebooks.
    """
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("CXR_SEAM_DATA", "CXR_SEAM_PRESET", "CXR_SEAM_OUTPUT"):
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
def fault_inputs(nih_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with unusual inputs made of one real radiograph; skips where the program that makes them is missing."""
    program = Path(os.environ.get("CXR_SEAM_FAULTS", ROOT.parent / "shared" / "faults")) / "make_inputs.py"
    if not program.exists():
        pytest.skip(f"no {program} (set CXR_SEAM_FAULTS to the folder that holds it)")
    folder = tmp_path_factory.mktemp("faults")
    subprocess.run([sys.executable, program, folder, nih_root], check=True)
    return folder


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic radiographs of a few patients in NIH's layout."""
    from cxr_seam.synthetic.dataset import write_demo_data

    folder = tmp_path_factory.mktemp("demo")
    write_demo_data(folder, patients=16, seed=3, progress=False)
    return folder


@pytest.fixture(scope="session")
def demo_cache(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The same, prepared at 64 pixels."""
    from cxr_seam.data.cache import prepare

    return prepare(demo_folder / "images", tmp_path_factory.mktemp("cache"), size=64, progress=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained MultiRes + PCM model of the preset `tiny`."""
    from helpers.checkpoints import save_untrained

    from cxr_seam.presets import get_preset

    return save_untrained(tmp_path_factory.mktemp("model") / "model.best.safetensors", get_preset("tiny")[2])


@pytest.fixture(scope="module")
def predictor(checkpoint: Path):
    """The predictor of that model."""
    from cxr_seam.inference.predictor import Predictor

    return Predictor.load(checkpoint)


@pytest.fixture(scope="module")
def paths(demo_folder: Path) -> list[Path]:
    """Five image files of the synthetic dataset."""
    return sorted((demo_folder / "images").iterdir())[:5]
