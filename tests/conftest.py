"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def nih_root() -> Path:
    """Folder with real NIH radiographs and tables; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("CXR_SEAM_NIH", ROOT.parent / "shared" / "nih"))
    if not (folder / "BBox_List_2017.csv").exists():
        pytest.skip(f"no real NIH data in {folder} (set CXR_SEAM_NIH to the folder that holds it)")
    return folder
