"""Paths that users give: the home folder, empty paths, pipes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_seam.__main__ import main
from cxr_seam.data.cache import ImageCache
from cxr_seam.data.image_io import load_image
from cxr_seam.data.layouts import load_dataset
from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import load_results
from cxr_seam.hub import from_pretrained, save_pretrained
from cxr_seam.io import atomic_write, user_path
from cxr_seam.models.backbones import read_weights
from cxr_seam.models.checkpoint import load_checkpoint
from cxr_seam.workspace import Workspace


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that is not the current folder."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(elsewhere)
    return folder


def test_tilde_is_the_home_folder(home: Path) -> None:
    assert user_path("~/data") == home / "data"
    assert user_path(Path("~") / "data") == home / "data"
    assert user_path("data/~") == Path("data/~")
    with atomic_write("~/new/file.txt") as temporary:
        temporary.write_text("text")
    assert (home / "new" / "file.txt").read_text() == "text"


def test_commands_find_the_home_folder(home: Path, checkpoint: Path, demo_folder: Path) -> None:
    shutil.copy(checkpoint, home / "model.safetensors")
    shutil.copytree(demo_folder, home / "data")
    image = min((home / "data" / "images").glob("*.png")).name
    assert main(["prepare", "~/data/images", "--cache", "~/cache", "--size", "32"]) == 0
    assert len(ImageCache.open("~/cache")) == len(list((home / "data" / "images").glob("*.png")))
    assert main(["predict", f"~/data/images/{image}", "--checkpoint=~/model.safetensors", "--out=~/out"]) == 0
    assert (home / "out" / "scores.csv").is_file()
    run = Workspace.open(data="~/data", preset="tiny", output_dir="~/runs")
    assert (run.folder, run.output_dir) == (home / "data", home / "runs")
    assert len(load_dataset("~/data").images) == len(run.metadata().images)
    save_pretrained("~/model.safetensors", "~/shared")
    assert from_pretrained("~/shared").recipe == load_checkpoint("~/model.safetensors")[1].recipe
    assert not os.listdir(".")  # no folder that is called ~


READERS: dict[str, Callable[[str], object]] = {
    "image": load_image,
    "cache": ImageCache.open,
    "checkpoint": load_checkpoint,
    "results": load_results,
    "dataset": load_dataset,
    "model": from_pretrained,
    "weights": lambda path: read_weights(path, "resnet50"),
    "workspace": lambda path: Workspace.open(data=path, preset="tiny"),
}


@pytest.mark.parametrize("path", ["", " ", "\0"])
@pytest.mark.parametrize("reader", READERS)
def test_empty_path_is_refused(reader: str, path: str) -> None:
    with pytest.raises(InputError):
        READERS[reader](path)


FILES = ("image", "checkpoint", "results", "weights")


@pytest.mark.parametrize("reader", [*FILES, "workspace"])
def test_named_pipe_does_not_block(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="fifo" if reader == "workspace" else "fifo .*pipe or a device"):
        READERS[reader](str(tmp_path / "fifo"))


@pytest.mark.parametrize("reader", FILES)
def test_folder_is_no_file(reader: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path} .*it is a folder"):
        READERS[reader](str(tmp_path))
