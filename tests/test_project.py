"""What holds for the repository as a whole: one address, paired notebooks, the direction of imports, small files."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_seam.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
MODULES = sorted((ROOT / "cxr_seam").glob("*.py"))
ADDRESS = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
OWNER_AND_NAME = ADDRESS.removeprefix("https://github.com/")
STANDING_ALONE = ("errors", "files", "findings", "recipes", "pooling", "pcm", "boxes", "geometry", "cams")
FOUNDATIONS = {"checked", "errors", "files", "findings"}
LAST = {"__main__", "explorer", "gallery", "html_report", "plots", "report"}
NOT_FOR_TRAINING = ("cv2", "matplotlib", "ipywidgets", "sklearn", "pydicom")


def name_of(path: Path) -> str:
    return path.stem


each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
each_module = pytest.mark.parametrize("module", MODULES, ids=name_of)


def cells(notebook: Path, kind: str = "code") -> list[str]:
    content = json.loads(notebook.read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def plain_python(cell: str) -> ast.Module:
    """The cell without shell lines and magics, which Python cannot parse."""
    return ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", cell, flags=re.MULTILINE))


def own_imports(module: Path, *, at_top_only: bool = False) -> set[str]:
    """Our modules that a module imports, anywhere or as it is loaded; imports for types alone do not count."""
    tree = ast.parse(module.read_text())
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    nodes = tree.body if at_top_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found & {m.stem for m in MODULES}


def test_there_are_five_notebooks_each_with_a_script() -> None:
    assert [n.stem[:2] for n in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    assert sorted(p.stem for p in (ROOT / "notebooks").glob("*.py")) == [n.stem for n in NOTEBOOKS]


@each_notebook
def test_badge_and_set_up_follow_the_address_of_pyproject(notebook: Path) -> None:
    badge = f"https://colab.research.google.com/github/{OWNER_AND_NAME}/blob/main/notebooks/{notebook.name}"
    assert badge in cells(notebook, "markdown")[0]
    assert f"git clone -q {ADDRESS} " in cells(notebook)[0]


@each_notebook
def test_a_notebook_opens_with_a_picture_and_every_picture_is_there(notebook: Path) -> None:
    """By absolute addresses, since Colab shows no others; from the branch that the badge opens."""
    address = f"https://raw.githubusercontent.com/{OWNER_AND_NAME}/main/docs/pictures/"
    shown = [re.findall(r"^!\[(.*)\]\((.*)\)$", cell, re.MULTILINE) for cell in cells(notebook, "markdown")]
    assert len(shown[0]) == 1
    for alternative, link in sum(shown, []):
        assert len(alternative) > 40
        path = PICTURES / link.removeprefix(address)
        assert link.startswith(address) and path.exists() and path.stat().st_size < 150_000, link
    diagram = {"02": "merge_block.png", "03": "siamese.png"}.get(notebook.stem[:2])
    assert diagram is None or any(link == address + diagram for cell in shown[1:] for _, link in cell)


def test_every_picture_is_drawn_by_the_script_and_shown_by_a_notebook() -> None:
    script = (PICTURES / "draw.py").read_text()
    notebooks = "".join(notebook.read_text() for notebook in NOTEBOOKS)
    assert len(list(PICTURES.glob("*.png"))) >= 7
    for picture in PICTURES.glob("*.png"):
        assert f'HERE / "{picture.name}"' in script and f"/docs/pictures/{picture.name})" in notebooks


@pytest.mark.parametrize("diagram", ["merge_block", "siamese"])
def test_a_diagram_is_a_white_sheet_with_nothing_around_it(diagram: str) -> None:
    """Readable on a dark page as on a light one."""
    pixels = np.asarray(Image.open(PICTURES / f"{diagram}.png").convert("RGBA"))
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1], 3] == 0).all()
    assert (pixels[15:-15, 15:-15, 3] == 255).all()
    assert (pixels[15, 30:-30] == 255).all()


def test_the_diagram_of_the_merge_block_has_the_widths_that_table_4_implies() -> None:
    """2048 + 1024 channels are reduced by 4, joined, and fused to the finer map's width (Sect. 4.1)."""
    script = runpy.run_path(str(PICTURES / "draw.py"))
    texts = {text.get_text() for text in script["merge_block"]().axes[0].texts}
    assert {"2048 × 8 × 8", "512 × 8 × 8", "1024 × 16 × 16", "256 × 16 × 16", "768 × 16 × 16"} <= texts


def test_readme_has_every_badge_and_no_other_address_of_ours() -> None:
    readme = (ROOT / "README.md").read_text()
    for notebook in NOTEBOOKS:
        assert (
            f"https://colab.research.google.com/github/{OWNER_AND_NAME}/blob/main/notebooks/{notebook.name}" in readme
        )
    named = re.compile(r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/cxr-seam)\b")
    for path in (ROOT / "README.md", ROOT / "pyproject.toml", *NOTEBOOKS, *MODULES, *(ROOT / "docs").glob("*.md")):
        assert set(named.findall(path.read_text())) <= {OWNER_AND_NAME}, path


def test_the_first_two_code_cells_are_the_same_everywhere() -> None:
    assert len({tuple(cells(notebook)[:2]) for notebook in NOTEBOOKS}) == 1


@each_notebook
def test_script_is_what_the_notebook_converts_to(notebook: Path) -> None:
    command = [sys.executable, "-m", "jupytext", "--quiet", "--to", "py:percent", "--output", "-", str(notebook)]
    converted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert converted == notebook.with_suffix(".py").read_text(), "run `make pair`"


@each_notebook
def test_no_output_or_count_is_committed(notebook: Path) -> None:
    code = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@each_notebook
def test_notebooks_hold_calls_and_no_definitions_or_loops(notebook: Path) -> None:
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While)
    for cell in cells(notebook):
        assert len(cell.splitlines()) <= 16
        assert not [node for node in ast.walk(plain_python(cell)) if isinstance(node, forbidden)], cell


@each_notebook
def test_every_figure_of_a_notebook_is_saved_into_the_workspace(notebook: Path) -> None:
    source = "\n".join(cells(notebook))
    assert source.count("figure = ") == source.count("save(figure, workspace.figures / ")


@each_module
def test_modules_are_short(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 300


@each_module
def test_imports_never_reach_back(module: Path) -> None:
    """Follow the imports of a module; none of them may lead to the module itself."""
    seen: set[str] = set()
    ahead = own_imports(module)
    while ahead:
        seen |= ahead
        ahead = set().union(*(own_imports(ROOT / "cxr_seam" / f"{name}.py") for name in ahead)) - seen
    assert module.stem not in seen
    if module.stem in STANDING_ALONE:
        assert seen <= FOUNDATIONS
    if module.stem not in LAST:
        assert not own_imports(module, at_top_only=True) & LAST


def test_training_loads_no_package_for_figures_or_widgets() -> None:
    program = (
        f"import sys, cxr_seam.training, cxr_seam.seam; print([n for n in {NOT_FOR_TRAINING} if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_wrong_input_is_one_sentence_in_a_notebook() -> None:
    """IPython itself shows an InputError: no frame of the program, the sentence alone."""
    program = (
        "from IPython.core.interactiveshell import InteractiveShell as Shell; "
        "Shell.instance().run_cell('from cxr_seam.errors import InputError; raise InputError(\"run notebook 01\")')"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "InputError: run notebook 01"


def test_the_lines_of_the_readme_run(tmp_path: Path, demo_folder: Path) -> None:
    """The README's Python example, word for word, on tiny data."""
    example = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    film = next((demo_folder / "images").iterdir())
    (tmp_path / "film.png").write_bytes(film.read_bytes())
    tiny = {"CXR_SEAM_DATA": str(demo_folder), "CXR_SEAM_PRESET": "tiny", "CXR_SEAM_OUTPUT": str(tmp_path / "run")}
    environment = os.environ | tiny | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", example]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^0\.\d+$", result.stdout, re.MULTILINE)


def test_the_form_offers_families_that_there_are() -> None:
    offered = re.search(r'RECIPES = "(\w+)"  # @param (\[.*\])', NOTEBOOKS[0].with_suffix(".py").read_text())
    families = json.loads(offered[2])
    assert offered[1] in families and {"strong", "resnet50", "efficientnet_b4"} <= set(families) <= set(PRESETS)


def test_set_up_and_choices_are_the_same_in_all_notebooks() -> None:
    """They stand five times because each notebook opens alone on Colab; they must not drift apart."""
    for title in ("# @title Set-up", "# @title Choices"):
        assert len({cell for notebook in NOTEBOOKS for cell in cells(notebook) if cell.startswith(title)}) == 1
        assert all(any(cell.startswith(title) for cell in cells(notebook)) for notebook in NOTEBOOKS)
