"""Files of a run: names, order of writing, disks that vanish, die and come back."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.batches import two_sets
from helpers.disks import disk
from safetensors.torch import load_file

from cxr_seam.errors import InputError
from cxr_seam.io import atomic_write
from cxr_seam.models.checkpoint import best_path, history_path, last_path, read_header, read_history
from cxr_seam.presets import get_recipe
from cxr_seam.training import fit as fitting
from cxr_seam.training.fit import Callback
from cxr_seam.training.storage import (
    CheckpointWriter,
    RunFolder,
    is_of_run,
    is_partial_file,
    is_state,
    mount_point,
    state_name,
)

STAGE = replace(get_recipe("multires_tiny").classifier_stage, epochs=3, batch_size=6)
RECIPE = replace(get_recipe("multires_tiny"), classifier_stage=STAGE)

pytestmark = pytest.mark.filterwarnings("ignore:no training image")


@pytest.fixture(scope="module")
def datasets(demo_folder, demo_cache):
    return two_sets(demo_folder, demo_cache, training=12, validation=6)


def fit(recipe, folder, datasets, **options):
    return fitting.fit(recipe, folder, train_set=datasets[0], val_set=datasets[1], **options)


def writer_of(folder, name="x", local_dir=None):
    return CheckpointWriter(RunFolder(folder, name, local_dir=local_dir))


def write(writer, name, text):
    return writer.write(name, text.encode())


@pytest.fixture(scope="module")
def whole(datasets, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    fit(RECIPE, folder, datasets)
    return folder


def assert_same_models(folder, expected):
    for path_of in (best_path, last_path):
        first, second = (load_file(path_of(path, RECIPE.name)) for path in (folder, expected))
        assert all(torch.equal(first[key], second[key]) for key in first | second)
    losses = [[record["train_loss"] for record in read_history(path, RECIPE.name)] for path in (folder, expected)]
    assert losses[0] == losses[1]


def test_dead_disk_that_comes_back_costs_warnings_only(datasets, whole, tmp_path):
    """The mount answers errno 107 from the first epoch on, and is mounted anew after the next."""
    with disk(tmp_path) as drive:
        folder = drive.place / "models"

        class DriveDies(Callback):
            def on_epoch(self, trainer, record):
                if record["epoch"] == 0:
                    drive.die()
                if record["epoch"] == 1:
                    drive.go()
                    drive.come()

        with pytest.warns(UserWarning, match="its disk is gone"):
            fit(RECIPE, folder, datasets, local_dir=tmp_path / "local", callbacks=[DriveDies()], save_minutes=0)
        assert mount_point(folder) == drive.place
        assert_same_models(folder, whole)
        assert not list((tmp_path / "local").iterdir())
        assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_dead_disk_at_the_start_is_refused(datasets, tmp_path):
    """What it holds must be known: a run begun anew would take the place of what lies there."""
    with disk(tmp_path) as drive:
        drive.die()
        with pytest.raises(InputError, match="drive/models cannot be read"):
            fit(RECIPE, drive.place / "models", datasets, local_dir=tmp_path / "local")
    assert not (tmp_path / "local").exists()


def test_empty_mount_point_is_not_written(tmp_path):
    with disk(tmp_path) as drive:
        writer = writer_of(drive.place)
        assert write(writer, "x.history.jsonl", "1")
        drive.go()
        with pytest.warns(UserWarning, match="its disk is gone"):
            assert not write(writer, "x.history.jsonl", "2")
        assert not list(drive.place.iterdir())
        with pytest.raises(InputError, match="its disk is gone"):
            writer.close()
        drive.come()
        writer.close()
        assert (drive.behind / "x.history.jsonl").read_text() == "2"


@pytest.mark.parametrize("name", ["x", "x.v2", "x.best", "a+b", "1.5"])
def test_file_names_of_similar_recipe_names_differ(name):
    own = [best_path(Path(), name), last_path(Path(), name), Path(state_name(name, epoch=123456, batch=7))]
    for other in ("x", "x.v2", "x.best", "a+b", "aab", "1.5", "105"):
        for path in own:
            temporary = f".{path.stem}.4711.part{path.suffix}"
            assert is_of_run(path.name, other) is is_partial_file(temporary, other) is (other == name)
            assert not is_partial_file(path.name, other) and not is_of_run(temporary, other)
    assert [is_state(path.name, name) for path in own] == [False, False, True]


def test_files_of_similar_recipe_names_are_left_alone(datasets, whole, tmp_path):
    """`x` takes no state of `x.v2` for its own, and removes none."""
    others = [
        tmp_path / state_name(f"{RECIPE.name}.v2", epoch=1, batch=0),
        best_path(tmp_path, f"{RECIPE.name}.v2"),
        tmp_path / f".{RECIPE.name}.v2.best.99.part.safetensors",
    ]
    for path in others:
        path.write_bytes(b"another run's")
    fit(RECIPE, tmp_path, datasets)
    assert all(path.read_bytes() == b"another run's" for path in others)
    assert_same_models(tmp_path, whole)


def test_files_are_synced_in_order(tmp_path, monkeypatch):
    """So that a power cut leaves what a kill would; no page cache can be pulled out here, so the calls are watched."""
    calls = []
    sync, replace_ = os.fsync, os.replace

    def watched_sync(descriptor):
        calls.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def watched_replace(source, target):
        calls.append(("rename", Path(target).name))
        replace_(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    writer = writer_of(tmp_path / "folder", local_dir=tmp_path / "local")
    write(writer, "x.best.safetensors", "1")
    part = f".x.best.{os.getpid()}.part.safetensors"
    assert calls == [
        ("sync", part),
        ("rename", "x.best.safetensors"),
        ("sync", "local"),
        ("sync", part),
        ("rename", "x.best.safetensors"),
        ("sync", "folder"),
    ]
    calls.clear()
    with atomic_write(tmp_path / "figure.png") as temporary:  # pictures and tables need not wait for the disk
        temporary.write_text("1")
    assert calls == [("rename", "figure.png")]


class StopError(Exception):
    """A run that ends as if its process had."""


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_run_killed_between_its_last_files_continues(after, datasets, whole, tmp_path, monkeypatch):
    """They are the best checkpoint, the history, the last checkpoint, and the calibrated best checkpoint."""
    copy, written = CheckpointWriter._copy, []

    def stopping(writer, name, content):
        copy(writer, name, content)
        if (tmp_path / "last epoch").exists():
            written.append(name)
            if len(written) == after:
                raise StopError

    class LastEpochBegins(Callback):
        def on_epoch(self, trainer, record):
            if record["epoch"] == 1:
                (tmp_path / "last epoch").touch()

    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(CheckpointWriter, "_copy", stopping)
        # The last epoch is the best: its score is its number.
        patch.setattr("cxr_seam.training.objectives.ClassifierObjective.score", lambda _, record: record["epoch"])
        fit(RECIPE, tmp_path, datasets, callbacks=[LastEpochBegins()])
    assert [name.split(".")[-2] for name in written] == ["best", "history", "last", "best"][:after]
    with monkeypatch.context() as patch:
        patch.setattr("cxr_seam.training.objectives.ClassifierObjective.score", lambda _, record: record["epoch"])
        history = fit(RECIPE, tmp_path, datasets)
    assert [record["epoch"] for record in history] == [0, 1, 2] and history == read_history(tmp_path, RECIPE.name)
    expected, found = (load_file(last_path(folder, RECIPE.name)) for folder in (whole, tmp_path))
    best = load_file(best_path(tmp_path, RECIPE.name))
    assert all(torch.equal(expected[key], found[key]) and torch.equal(expected[key], best[key]) for key in expected)
    assert read_header(best_path(tmp_path, RECIPE.name)).scores is not None
    assert not RunFolder(tmp_path, RECIPE.name).states()


def test_complete_run_removes_left_states(datasets, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    twin = tmp_path / "twin"
    with pytest.raises(StopError):
        fit(RECIPE, twin, datasets, callbacks=[StopAfterTwoEpochs()])
    state = RunFolder(twin, RECIPE.name).states()[0]
    shutil.copy(state, tmp_path)
    fit(RECIPE, tmp_path, datasets)
    assert "is trained already" in capsys.readouterr().out and not RunFolder(tmp_path, RECIPE.name).states()
    assert_same_models(tmp_path, whole)


class StopAfterTwoEpochs(Callback):
    def on_epoch(self, trainer, record):
        if record["epoch"] == 1:
            raise StopError


def no_room(monkeypatch, *, above):
    """A disk on which files larger than so many bytes cannot be copied, but removed."""
    copy = shutil.copyfile

    def refuse(source, target):
        if Path(source).stat().st_size > above:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", refuse)


def keeping_states(writer, numbers):
    for number in numbers:
        write(writer, state_name("x", epoch=number, batch=0), "state" * 10)
        writer.prune(2)


@pytest.mark.filterwarnings("ignore:.*could not be written")
def test_pending_states_remove_none_from_the_folder(tmp_path, monkeypatch):
    """The local folder is lost with the machine."""
    writer = writer_of(tmp_path / "drive", local_dir=tmp_path / "local")
    keeping_states(writer, (1, 2))
    there = sorted(path.name for path in (tmp_path / "drive").iterdir())
    no_room(monkeypatch, above=0)
    keeping_states(writer, (3, 4, 5))
    assert sorted(path.name for path in (tmp_path / "drive").iterdir()) == there and len(there) == 2
    assert {path.name for path in (tmp_path / "local").iterdir()} == set(writer.pending)
    assert [path.name for path in writer.files.states()[:2]] == [state_name("x", epoch=n, batch=0) for n in (5, 4)]


@pytest.mark.filterwarnings("ignore:.*could not be written")
def test_state_without_room_holds_back_no_checkpoint(tmp_path, monkeypatch):
    writer = writer_of(tmp_path / "drive", local_dir=tmp_path / "local")
    no_room(monkeypatch, above=20)
    keeping_states(writer, (1,))
    write(writer, "x.best.safetensors", "best")
    keeping_states(writer, (2,))
    write(writer, "x.last.safetensors", "last")
    assert {path.name for path in (tmp_path / "drive").iterdir()} == {"x.best.safetensors", "x.last.safetensors"}
    writer.close()
    writer.prune(0)
    assert not writer.pending and not list((tmp_path / "local").iterdir())


def test_pending_checkpoint_holds_back_states(tmp_path, monkeypatch):
    writer = writer_of(tmp_path / "drive", local_dir=tmp_path / "local")
    no_room(monkeypatch, above=60)
    with pytest.warns(UserWarning, match="x.best.safetensors could not be written"):
        write(writer, "x.best.safetensors", "best" * 20)
        keeping_states(writer, (1,))
    assert not list((tmp_path / "drive").iterdir())


def test_empty_file_counts_as_removed(tmp_path):
    writer = writer_of(tmp_path / "drive", local_dir=tmp_path / "local")
    path = tmp_path / "drive" / "x.last.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert writer.files.find(path) is None


@pytest.mark.parametrize("left", [None, b"", b"{}\n", b"\xff\n", b"{\n", b"1\n2\n3\n"])
def test_complete_run_without_history_is_refused(left, datasets, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    path = history_path(folder, RECIPE.name)
    path.unlink() if left is None else path.write_bytes(left)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=f"{RECIPE.name}.history.jsonl"):
        fit(RECIPE, folder, datasets)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
