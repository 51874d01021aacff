"""Each notebook alone in a new folder, with default choices except for the tiny data and preset."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.batches import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_alone(notebook: Path, tmp_path: Path) -> None:
    (tmp_path / notebook.name).write_bytes(notebook.read_bytes())
    tiny = {"CXR_SEAM_DATA": "tiny", "CXR_SEAM_PRESET": "tiny", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    result = subprocess.run(
        [*command, str(tmp_path / notebook.name)], cwd=tmp_path, env=os.environ | tiny, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "tiny").is_dir()
