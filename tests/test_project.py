"""The repository as a whole: one address, pictures, the README's example, what training loads."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
MODULES = sorted((ROOT / "cxr_seam").rglob("*.py"))
ADDRESS = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
OWNER_AND_NAME = ADDRESS.removeprefix("https://github.com/")


def test_pictures_have_a_script_and_a_notebook() -> None:
    script = (PICTURES / "draw.py").read_text()
    notebooks = "".join(notebook.read_text() for notebook in NOTEBOOKS)
    assert len(list(PICTURES.glob("*.png"))) >= 7
    for picture in PICTURES.glob("*.png"):
        assert f'HERE / "{picture.name}"' in script and f"/docs/pictures/{picture.name})" in notebooks


@pytest.mark.parametrize("diagram", ["merge_block", "siamese"])
def test_diagram_is_readable_on_any_background(diagram: str) -> None:
    """White paper, transparent corners."""
    pixels = np.asarray(Image.open(PICTURES / f"{diagram}.png").convert("RGBA"))
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1], 3] == 0).all()
    assert (pixels[15:-15, 15:-15, 3] == 255).all()
    assert (pixels[15, 30:-30] == 255).all()


def test_merge_block_diagram_has_the_widths_of_table_4() -> None:
    """2048 + 1024 channels are reduced by 4, joined, and fused to the finer map's width (Sect. 4.1)."""
    script = runpy.run_path(str(PICTURES / "draw.py"))
    texts = {text.get_text() for text in script["merge_block"]().axes[0].texts}
    assert {"2048 × 8 × 8", "512 × 8 × 8", "1024 × 16 × 16", "256 × 16 × 16", "768 × 16 × 16"} <= texts


def test_badges_and_addresses() -> None:
    readme = (ROOT / "README.md").read_text()
    for notebook in NOTEBOOKS:
        assert (
            f"https://colab.research.google.com/github/{OWNER_AND_NAME}/blob/main/notebooks/{notebook.name}" in readme
        )
    named = re.compile(r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/cxr-seam)\b")
    for path in (ROOT / "README.md", ROOT / "pyproject.toml", *NOTEBOOKS, *MODULES, *(ROOT / "docs").glob("*.md")):
        assert set(named.findall(path.read_text())) <= {OWNER_AND_NAME}, path


def test_input_error_is_one_line_in_a_notebook() -> None:
    """IPython shows the sentence without a traceback."""
    program = (
        "from IPython.core.interactiveshell import InteractiveShell as Shell; "
        "Shell.instance().run_cell('from cxr_seam.errors import InputError; raise InputError(\"run notebook 01\")')"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "InputError: run notebook 01"


def test_readme_example_runs(tmp_path: Path, demo_folder: Path) -> None:
    """The README's Python example, unchanged, on tiny data."""
    example = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    image = next((demo_folder / "images").iterdir())
    (tmp_path / "image.png").write_bytes(image.read_bytes())
    tiny = {"CXR_SEAM_DATA": str(demo_folder), "CXR_SEAM_PRESET": "tiny", "CXR_SEAM_OUTPUT": str(tmp_path / "run")}
    environment = os.environ | tiny | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", example]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^0\.\d+$", result.stdout, re.MULTILINE)
