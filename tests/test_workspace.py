"""The folders that notebooks hand to one another."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from cxr_seam.data.cache import prepare
from cxr_seam.errors import InputError
from cxr_seam.workspace import Workspace, image_folders


def test_keeps_what_belongs_to_other_data_in_other_folders(demo_folder: Path) -> None:
    assert Workspace.open(data="demo", preset="tiny").output_dir == Path.cwd() / "runs" / "demo"
    assert Workspace.open(data=str(demo_folder), preset="tiny").output_dir == Path.cwd() / "runs" / demo_folder.name


def test_relative_folders_are_meant_from_here_also_after_leaving(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_folder.parent)
    workspace = Workspace.open(data=demo_folder.name, preset="tiny", output_dir="runs/mine")
    monkeypatch.chdir(tmp_path)
    assert workspace.output_dir == demo_folder.parent / "runs" / "mine"
    assert workspace.metadata_folder == demo_folder and len(workspace.tables().images)
    assert Workspace.open(data="demo", preset="tiny", output_dir=tmp_path).output_dir == tmp_path


def test_variables_go_before_the_form_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_SEAM_DATA", "tiny")
    monkeypatch.setenv("CXR_SEAM_PRESET", "small")
    monkeypatch.setenv("CXR_SEAM_OUTPUT", str(tmp_path))
    workspace = Workspace.open(data="nih", preset="resnet50", output_dir="runs/x")
    assert (workspace.data, workspace.recipes[0].name, workspace.output_dir) == ("tiny", "small", tmp_path)


def test_unknown_choices_are_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'mimic' is neither one of demo, tiny, nih-subset, nih nor a folder"):
        Workspace.open(data="mimic", preset="tiny")
    with pytest.raises(InputError, match=r"'vgg'; choose one of resnet50"):
        Workspace.open(data="demo", preset="vgg")


def test_drive_holds_results_but_never_images(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = []
    drive = ModuleType("google.colab.drive")
    drive.mount = mounted.append
    colab = ModuleType("google.colab")
    colab.drive = drive
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    workspace = Workspace.open(data="nih-subset", preset="tiny", on_drive=True)
    assert mounted == ["/content/drive"]
    assert workspace.models == Path("/content/drive/MyDrive/cxr-seam/runs/nih-subset/models")
    assert workspace.cache_folder == Path("/content/data/nih/cache_256")


def test_a_folder_of_other_data_is_refused(demo_folder: Path, tmp_path: Path) -> None:
    """Images of different data bear the same names; one's films under the other's labels would not be noticed."""
    Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path).prepare_data()
    other = Workspace.open(data="demo", preset="tiny", output_dir=tmp_path)
    for step in (other.prepare_data, other.cache):
        with pytest.raises(InputError, match=f"holds {demo_folder}, not demo of .*choose another KEEP"):
            step()


def test_a_larger_store_serves_and_a_smaller_one_does_not(demo_folder: Path, tmp_path: Path) -> None:
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    assert workspace.cache_folder == tmp_path / "data" / "cache_256"  # real films are kept at 256 pixels at least
    for size in (32, 96, 512):
        (tmp_path / "data" / f"cache_{size}").mkdir(parents=True)
    assert workspace.cache_folder.name == "cache_96"


def test_no_choice_of_recipes_downloads_nihs_archives_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {
        Workspace.open(data=data, preset=recipes).cache_folder
        for data in ("nih", "nih-subset")
        for recipes in ("tiny", "demo", "small", "resnet50", "efficientnet_b4", "strong")
    }
    assert folders == {tmp_path / "data" / "nih" / "cache_256"}


def test_empty_data_are_not_the_current_folder() -> None:
    with pytest.raises(InputError, match="'' is neither one of"):
        Workspace.open(data="", preset="tiny")


def test_drive_is_refused_elsewhere() -> None:
    with pytest.raises(InputError, match="untick SAVE_TO_DRIVE"):
        Workspace.open(data="demo", preset="tiny", on_drive=True)


def test_cells_run_in_the_wrong_order_say_which_notebook_comes_first(tmp_path: Path) -> None:
    workspace = Workspace.open(data="demo", preset="tiny", output_dir=tmp_path)
    for step in (workspace.cache, workspace.test_dataset, workspace.boxed_dataset):
        with pytest.raises(InputError, match="run notebook 01 first"):
            step()
    with pytest.raises(InputError, match="run notebook 01 first"):
        workspace.train_val_datasets(workspace.recipes[0])


def test_a_folder_with_data_is_prepared_once(demo_folder: Path, tmp_path: Path) -> None:
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    tables = workspace.tables()
    first = workspace.prepare_data()
    assert set(first.image_index) == set(tables.images.index)
    again = workspace.prepare_data()
    assert (again.image_index, again.sources) == (first.image_index, first.sources)  # nothing came to it


def test_a_downloaded_folder_brings_its_own_store(demo_folder: Path, tmp_path: Path) -> None:
    """data_download.sh leaves tables and a store, but no images."""
    folder = tmp_path / "nih"
    folder.mkdir()
    for table in (*demo_folder.glob("*.csv"), *demo_folder.glob("*.txt")):
        (folder / table.name).write_bytes(table.read_bytes())
    prepare(demo_folder / "images", folder / "cache_64", size=64, progress=False)
    workspace = Workspace.open(data=str(folder), preset="tiny", output_dir=tmp_path / "keep")
    assert workspace.prepare_data().folder == folder / "cache_64"
    assert len(workspace.test_dataset()) == len(workspace.tables().test)


def test_films_are_split_as_the_official_lists_say(demo_folder: Path, tmp_path: Path) -> None:
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    workspace.prepare_data()
    tables = workspace.tables()
    training, validation = workspace.train_val_datasets(workspace.recipes[0])
    assert set(training.image_index) | set(validation.image_index) <= set(tables.train_val)
    assert set(workspace.test_dataset().image_index) == set(tables.test)
    assert set(workspace.boxed_dataset().image_index) == set(tables.boxes["image_index"]) <= set(tables.test)


def test_original_images_go_before_small_copies(tmp_path: Path) -> None:
    assert image_folders(tmp_path) == [tmp_path]
    for name in ("images_256", "images", "images_128"):
        (tmp_path / name).mkdir()
    assert image_folders(tmp_path) == [tmp_path / "images", tmp_path / "images_256"]
