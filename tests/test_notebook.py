"""Cells and notebooks run out of order are told which one comes first; a page is shown in a frame."""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.batches import ROOT
from test_project import NOTEBOOKS, cells, each_notebook, plain_python

from cxr_seam.errors import InputError
from cxr_seam.notebook import FIRST, framed, need, require_checkpoint, uploaded_image

SET_UP, CHOICES = "# @title Set-up", "# @title Choices"
MAGIC = f"%{FIRST}\n"
ALONE = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.load(sys.stdin):
    print("<<<", flush=True)
    if cell is None:
        shell.reset(new_session=False)
    else:
        shell.run_cell(cell)
    print(flush=True)
"""
"""Runs cells as a notebook does, all but the kernel; None forgets every name."""


def shown(sources: Sequence[str | None], folder: Path) -> list[str]:
    """What a person sees of each cell; None starts afresh."""
    tiny = {"CXR_SEAM_DATA": "tiny", "CXR_SEAM_PRESET": "tiny", "CXR_SEAM_OUTPUT": str(folder)}
    result = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=json.dumps(sources),
        cwd=ROOT / "notebooks",
        env=os.environ | tiny | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return [re.sub(r"\x1b\[[\d;]*m", "", text).strip() for text in result.stdout.split("<<<\n")[1:]]


def asked(cell: str) -> dict[str, str]:
    """Name -> heading of the cell's `need`."""
    calls = [node for node in ast.walk(plain_python(cell)) if isinstance(node, ast.Call)]
    found = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "need"]
    return {keyword.arg: keyword.value.value for call in found for keyword in call.keywords}


def made(cell: str) -> set[str]:
    """Names that a cell imports or sets."""
    nodes = list(ast.walk(plain_python(cell)))
    imported = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    names = {alias.asname or alias.name.split(".")[0] for alias in imported}
    return names | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.ImageCache)}


def test_the_first_missing_name_is_told_with_its_heading() -> None:
    with pytest.raises(InputError, match=r'`cases` is not there yet; run the cell under "Fig. 7" first'):
        need({"workspace": None}, workspace="Choices", examples="Fig. 7", prediction="A film of your own")
    need({"workspace": None, "cases": []}, workspace="Choices", examples="Fig. 7")


def test_a_missing_model_is_told_with_its_notebook(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model.safetensors; run notebook 02 first"):
        require_checkpoint(tmp_path / "model.safetensors", notebook="02")
    (tmp_path / "model.safetensors").touch()
    assert require_checkpoint(tmp_path / "model.safetensors", notebook="02") == tmp_path / "model.safetensors"


def test_a_framed_page_reaches_the_frame_as_it_is(tmp_path: Path) -> None:
    page = '<!DOCTYPE html><p title="a & b">\'5 &lt; 6\'</p><iframe srcdoc="&lt;p&gt;"></iframe> é'
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    frames: list[dict[str, str | None]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: frames.append(dict(attributes)) if tag == "iframe" else None
    parser.feed(framed(tmp_path / "page.html", height=300).data)
    assert [(frame["srcdoc"], frame["height"]) for frame in frames] == [(page, "300")]


@each_notebook
def test_a_cell_uses_only_what_it_makes_or_asks_for(notebook: Path) -> None:
    """So that no cell, whichever is run first, ends in a NameError."""
    for cell in cells(notebook):
        used = {node.id for node in ast.walk(plain_python(cell)) if isinstance(node, ast.Name)}
        begins = cell.startswith((SET_UP, CHOICES)) or MAGIC in cell
        assert begins, cell
        assert used - made(cell) - set(dir(builtins)) <= {"workspace", *asked(cell)}, cell


@each_notebook
def test_the_heading_that_is_told_is_that_of_a_cell_above_which_makes_the_name(notebook: Path) -> None:
    heading, makers = "", set()
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ (.+)$", source, re.MULTILINE) or [heading])[-1]
        else:
            assert asked(source).items() <= makers, source
            makers |= {(name, heading) for name in made(source)}


@pytest.mark.parametrize("there", [False, True])
def test_every_cell_that_is_run_first_answers_with_one_sentence(tmp_path: Path, there: bool) -> None:
    """Where the package cannot be imported yet, as on Colab, and where it can."""
    hide = 'import sys; sys.modules["cxr_seam"] = None'
    sources = [cell for notebook in NOTEBOOKS for cell in cells(notebook) if not cell.startswith(SET_UP)]
    answers = shown([*([] if there else [hide]), *(part for cell in sources for part in (None, cell))], tmp_path)
    answers = answers[-2 * len(sources) :][1::2]
    assert len(answers) == len(sources) > 40
    for cell, answer in zip(sources, answers, strict=True):
        if cell.startswith(CHOICES):
            assert answer == 'UsageError: run the cell under "Set-up" first'
        else:
            assert answer == "UsageError: Line magic function `%run_set_up_and_choices_first` not found.", cell


def test_a_cell_that_is_run_after_the_choices_answers_with_one_sentence(tmp_path: Path) -> None:
    sentence = r'InputError: `\w+` is not there yet; run the cell under ".+" first, or all cells in order'
    for notebook in NOTEBOOKS[:1]:
        first, *later = cells(notebook)
        choices, *sections = later
        answers = shown([first, choices, *sections[1:-1]], tmp_path)
        assert not any("Error" in answer for answer in answers[:2])
        assert all(re.fullmatch(sentence, answer) for answer in answers[2:]), answers


def test_where_the_choices_have_failed_no_section_goes_on(tmp_path: Path) -> None:
    first, choices, section, *_ = cells(NOTEBOOKS[0])
    wrong = "get_ipython().run_line_magic('load_ext', 'cxr_seam.notebook')"
    answer = shown([first, wrong, section], tmp_path)[-1]
    assert (
        answer == 'InputError: `workspace` is not there yet; run the cell under "Choices" first, or all cells in order'
    )


def test_a_notebook_without_the_models_of_an_earlier_one_says_so_before_it_fetches_films(tmp_path: Path) -> None:
    """NIH's films may be 42 GB, so the sentence must not come after them."""
    sentences = {"03": "run notebook 02 first", "04": "run notebooks 02 and 03", "05": "run notebooks 02 and 03"}
    for notebook in NOTEBOOKS[2:]:
        looks = [n for n, cell in enumerate(cells(notebook)) if {"load_predictors", "require_checkpoint"} & made(cell)]
        first = looks[0]
        answers = shown(cells(notebook)[: first + 1], tmp_path)
        assert re.fullmatch(rf"InputError: .+ {sentences[notebook.stem[:2]]}.+", answers[-1]), answers
        assert not any("Error" in answer for answer in answers[:-1])
        assert not any("fetch()" in cell for cell in cells(notebook)[:first])
    assert not list(tmp_path.rglob("cache_*"))


@pytest.fixture
def no_colab_afterwards():
    """What is loaded of `google.colab` tells the program that it runs on Colab, in every test that follows."""
    yield
    for name in [name for name in sys.modules if name.startswith("google.colab")]:
        del sys.modules[name]


def test_colabs_dialogue_is_asked_for_a_film_and_elsewhere_refused(tmp_path, monkeypatch, no_colab_afterwards):
    with pytest.raises(InputError, match="untick UPLOAD"):
        uploaded_image()
    monkeypatch.syspath_prepend(ROOT / "tests" / "colab" / "stub")
    monkeypatch.chdir(tmp_path)
    assert uploaded_image() is None  # nothing chosen
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "film.png").write_bytes(b"film")
    monkeypatch.setenv("COLAB_UPLOAD", str(tmp_path / "mine" / "film.png"))
    assert uploaded_image().read_bytes() == b"film"
