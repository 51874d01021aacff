"""The structure of the package: layers, sizes of folders and functions, cost of imports, names that users call."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.batches import ROOT

PACKAGE = ROOT / "cxr_seam"
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({module.parent for module in MODULES})
LAYERS = (
    {"errors", "findings", "io", "recipes", "presets", "device"},
    {"data", "models", "metrics", "synthetic"},
    {"inference", "workspace"},
    {"training", "evaluation"},
    {"visualize", "hub"},
    {"notebook", "selfcheck"},
    {"__init__", "__main__"},
)
"""Lowest layer first. Modules of the lowest layer may import each other; folders of one layer may not."""
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MOST_FILES, MOST_LINES_OF_A_FUNCTION = 9, 50


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def package_imports(module: Path) -> Iterator[str]:
    """Yield the dotted names, below cxr_seam, of all imports: at the top, in functions, and for types alone."""
    folders = module.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folders[: len(folders) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join((*base, name)) for name in names)
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cxr_seam":
            yield node.module.partition(".")[2] or node.names[0].name
        elif isinstance(node, ast.Import):
            yield from (name.name.partition(".")[2] for name in node.names if name.name.startswith("cxr_seam"))


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return function.end_lineno - body[0].lineno + 1


def modules_loaded_by(program: str) -> set[str]:
    """Return the names of all modules that are loaded after `program` ran in a new interpreter."""
    program = f"import sys\n{program}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_go_to_lower_layers_only(module: Path) -> None:
    here = name_of(module).split("/")[0]
    for imported in package_imports(module):
        there = imported.split(".")[0]
        if there in RANK:  # else a name of the package itself, such as __version__
            assert here == there or RANK[there] < RANK[here] or RANK[there] == RANK[here] == 0, imported


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_functions_have_at_most_50_lines_of_code(module: Path) -> None:
    functions = [n for n in ast.walk(ast.parse(module.read_text())) if isinstance(n, ast.FunctionDef)]
    assert not {f.name: lines_of_code(f) for f in functions if lines_of_code(f) > MOST_LINES_OF_A_FUNCTION}


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f != PACKAGE], ids=lambda folder: folder.name)
def test_folders_have_at_most_nine_files(folder: Path) -> None:
    assert len([file for file in folder.glob("*.py") if file.name != "__init__.py"]) <= MOST_FILES


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """Imports within functions count as well."""
    graph = {name_of(m).replace("/", "."): set(package_imports(m)) for m in MODULES if m.name != "__init__.py"}
    while leaves := {name for name, imported in graph.items() if not imported & graph.keys()}:
        graph = {name: imported for name, imported in graph.items() if name not in leaves}
    assert not graph


def test_the_method_loads_no_optional_parts() -> None:
    loaded = modules_loaded_by("import cxr_seam.models.build, cxr_seam.training.trainer")
    assert not [name for name in loaded if name.startswith("cxr_seam.models.extras.") or name == "timm"]


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import cxr_seam", {"cv2", "matplotlib", "pandas", "ipywidgets", "torch"}),
        ("import cxr_seam.training.fit", {"cv2", "matplotlib", "ipywidgets", "sklearn", "pydicom"}),
        ("import cxr_seam.visualize.overlay", {"matplotlib", "pandas", "torch", "cxr_seam.metrics.bootstrap"}),
    ],
)
def test_imports_load_only_what_they_need(program: str, absent: set[str]) -> None:
    assert not modules_loaded_by(program) & absent
