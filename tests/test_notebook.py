"""The five notebooks: paired with scripts, without outputs, the same first cells, short cells; and their helpers."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.batches import ROOT

from cxr_seam.errors import InputError
from cxr_seam.notebook import choose_image, show_page
from cxr_seam.presets import PRESETS

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
PICTURES = "https://raw.githubusercontent.com/cxr-seam/cxr-seam/main/docs/pictures/"
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook: Path, kind: str) -> list[str]:
    content = json.loads(notebook.read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def test_five_notebooks_with_a_script_each() -> None:
    assert [notebook.stem[:2] for notebook in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.py")) == [n.stem for n in NOTEBOOKS]


@each_notebook
def test_notebook_is_paired_and_has_no_outputs(notebook: Path) -> None:
    command = [sys.executable, "-m", "jupytext", "--quiet", "--to", "py:percent", "--output", "-", str(notebook)]
    converted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert converted == notebook.with_suffix(".py").read_text(), "run `make pair`"
    code = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_setup_and_choices_are_the_same_in_all_notebooks() -> None:
    (first,) = {tuple(cells(notebook, "code")[:2]) for notebook in NOTEBOOKS}
    address = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f'%pip install -q "git+{address}"' in first[0]
    default, offered = re.search(r'PRESET = "(\w+)"  # @param (\[.*\])', first[1]).groups()
    assert default in json.loads(offered) and set(json.loads(offered)) <= set(PRESETS)


@each_notebook
def test_code_cells_are_short_calls_after_markdown(notebook: Path) -> None:
    content = json.loads(notebook.read_text())["cells"]
    forbidden = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.Try)
    for above, cell in zip(content, content[1:], strict=False):
        if cell["cell_type"] == "markdown":
            continue
        source = "".join(cell["source"])
        assert above["cell_type"] == "markdown" and len(source.splitlines()) <= 12
        tree = ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.MULTILINE))
        assert not [node for node in ast.walk(tree) if isinstance(node, forbidden)]


@each_notebook
def test_badge_and_pictures_are_there(notebook: Path) -> None:
    texts = cells(notebook, "markdown")
    assert f"https://colab.research.google.com/github/cxr-seam/cxr-seam/blob/main/notebooks/{notebook.name}" in texts[0]
    pictures = re.findall(r"^!\[(.+)\]\((.+)\)$", "\n".join(texts), re.MULTILINE)
    assert pictures
    for _, link in pictures:
        assert (ROOT / "docs" / "pictures" / link.removeprefix(PICTURES)).exists(), link


def test_page_reaches_its_frame_unchanged(tmp_path: Path) -> None:
    page = '<!DOCTYPE html><p title="a & b">\'5 &lt; 6\'</p><iframe srcdoc="&lt;p&gt;"></iframe> é'
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    frames: list[dict[str, str | None]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: frames.append(dict(attributes)) if tag == "iframe" else None
    parser.feed(show_page(tmp_path / "page.html").data)
    assert [frame["srcdoc"] for frame in frames] == [page]


@pytest.fixture
def unload_colab():
    """Unload the stub afterwards: a loaded `google.colab` makes the program think that it runs on Colab."""
    yield
    for name in [name for name in sys.modules if name.startswith("google.colab")]:
        del sys.modules[name]


def test_choose_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unload_colab: None) -> None:
    assert choose_image("a.png", upload=False, default="b.png") == Path("a.png")
    assert choose_image("", upload=False, default="b.png") == Path("b.png")
    with pytest.raises(InputError, match="UPLOAD"):
        choose_image("", upload=True, default="b.png")
    monkeypatch.syspath_prepend(ROOT / "tests" / "colab" / "stub")
    monkeypatch.chdir(tmp_path)
    assert choose_image("", upload=True, default="b.png") == Path("b.png")  # no file chosen
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "image.png").write_bytes(b"pixels")
    monkeypatch.setenv("COLAB_UPLOAD", str(tmp_path / "mine" / "image.png"))
    assert choose_image("", upload=True, default="b.png").read_bytes() == b"pixels"
