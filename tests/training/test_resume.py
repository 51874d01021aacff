"""Runs that are stopped and go on: what is taken up, what is refused, what is kept."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.batches import two_sets
from PIL import Image
from safetensors.torch import load_file, save_file

from cxr_seam.data.cache import prepare
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.models.checkpoint import best_path, last_path, load_checkpoint, read_header, read_history, save_checkpoint
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import train
from cxr_seam.training.resume import read_state
from cxr_seam.training.storage import CheckpointWriter
from cxr_seam.training.trainer import CHECKED_EVERY, Trainer

KILLS = Path(__file__).parent.parent / "integration" / "survival" / "kills.py"
PHASE = replace(get_recipe("multires_tiny").classifier_stage, epochs=2, batch_size=4)
MULTIRES = replace(get_recipe("multires_tiny"), classifier_stage=PHASE)

pytestmark = [
    pytest.mark.filterwarnings("ignore:no film that multires_tiny"),
    pytest.mark.filterwarnings("ignore:.*could not be written"),
]


class StopError(Exception):
    """A run that ends as if its process had."""


@pytest.fixture(scope="module")
def films(demo_folder, demo_store):
    return two_sets(demo_folder, demo_store, training=12, validation=6)


def fit(recipe, folder, films, **options):
    return train(recipe, folder, train_set=films[0], val_set=films[1], **options)


def states(folder):
    return CheckpointWriter(folder, name="multires_tiny").states()


@pytest.fixture
def stopped(films, tmp_path, monkeypatch):
    """A folder in which a run was stopped in its second epoch, with two states."""
    count = []

    def step(trainer):
        count.append(None)
        if len(count) == 6:
            raise StopError
        return apply(trainer)

    apply = Trainer.apply
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "apply", step)
        with pytest.raises(StopError):
            fit(MULTIRES, tmp_path, films, save_minutes=0)
    return tmp_path


def test_kills_at_any_moment_change_no_bit():
    """Also `python tests/integration/survival/kills.py`, with thirty."""
    done = subprocess.run([sys.executable, KILLS, "--kills", "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("5 kills")


def test_the_last_states_are_kept_and_removed_at_the_end(stopped, films):
    names = [path.name for path in states(stopped)]
    assert names == [f"multires_tiny.00001-000000{batch}.state.safetensors" for batch in (2, 1)]
    history = fit(MULTIRES, stopped, films)
    assert [record["epoch"] for record in history] == [0, 1] and not states(stopped)


def test_a_damaged_state_costs_no_more_than_the_time_to_the_one_before(stopped, films, tmp_path):
    latest = states(stopped)[0]
    latest.write_bytes(latest.read_bytes()[:-1000])
    with pytest.warns(
        UserWarning, match=r"00001-0000002.state.safetensors is damaged .*; the state before it is taken"
    ):
        fit(MULTIRES, stopped, films)
    fit(MULTIRES, tmp_path / "whole", films)
    expected, found = (load_file(last_path(folder, "multires_tiny")) for folder in (tmp_path / "whole", stopped))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_damaged_state_counts_for_none_once_another_was_gone_on_from(stopped, films):
    """Else it would be one of those that are kept."""
    latest, before = states(stopped)
    latest.write_bytes(latest.read_bytes()[:-1000])

    def stop(trainer):
        raise StopError

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="is damaged"):
        patch.setattr(Trainer, "apply", stop)
        with pytest.raises(StopError):
            fit(MULTIRES, stopped, films)
    assert states(stopped) == [before]


def test_a_run_without_a_state_says_that_it_begins_anew(stopped, films):
    for path in states(stopped):
        path.unlink()
    with pytest.warns(UserWarning, match="no state of multires_tiny is in .*, so it begins anew"):
        fit(MULTIRES, stopped, films)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_model_to_start_from_is_told(content, films, tmp_path):
    path = best_path(tmp_path, "multires_tiny")
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=r"multires_tiny.best.safetensors is (not a readable|a folder)"):
        fit(get_recipe("multires_tiny_pcm"), tmp_path, films)


@pytest.mark.parametrize("metrics", [{}, {"validation_auc": "high"}])
def test_a_best_model_that_does_not_tell_its_score_is_refused(metrics, stopped, films):
    path = best_path(stopped, "multires_tiny")
    model, metadata = load_checkpoint(path)
    save_checkpoint(path, model, metadata=replace(metadata, metrics=metrics))
    with pytest.raises(InputError, match="the best model does not tell its validation_auc"):
        fit(MULTIRES, stopped, films)


def test_where_all_states_are_damaged_nothing_is_begun_anew(stopped, films):
    for path in states(stopped):
        path.write_bytes(path.read_bytes()[:-1000])
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    with (
        pytest.warns(UserWarning, match="0002.state.safetensors is damaged"),
        pytest.raises(InputError, match=r"0001.state.safetensors is damaged .*; delete it to train anew, and so are"),
    ):
        fit(MULTIRES, stopped, films)
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before
    assert len(fit(MULTIRES, stopped, films, overwrite=True)) == 2


def test_a_single_changed_bit_is_seen(stopped, films):
    """In a weight, where no number gives it away."""
    latest = states(stopped)[0]
    content = bytearray(latest.read_bytes())
    content[-len(content) // 2] ^= 1
    latest.write_bytes(content)
    with pytest.warns(UserWarning, match=r"some bits have changed\); delete it; the state before it is taken"):
        fit(MULTIRES, stopped, films)


def odd(change):
    """A readable state, with the digest that belongs to it, one of whose tensors or entries is not what it must be."""

    def made(path):
        header, tensors = read_state(path)
        change(header, tensors)
        save_file(tensors, path, metadata={"cxr_seam_state": json.dumps(header)})

    return made


def first(tensors, ending):
    return next(key for key in sorted(tensors) if key.endswith(ending))


@pytest.mark.parametrize(
    "change",
    [
        lambda header, tensors: tensors.pop(first(tensors, "weight")),
        lambda header, tensors: tensors.update({first(tensors, "weight"): torch.zeros(3)}),
        lambda header, tensors: tensors.update({"objective.more": torch.zeros(3)}),
        lambda header, tensors: tensors.pop("draws"),
        lambda header, tensors: tensors.update({"draws": torch.zeros(3)}),
        lambda header, tensors: tensors.update({"random.cpu": torch.zeros(3, dtype=torch.uint8)}),
        lambda header, tensors: tensors.update({first(tensors, "exp_avg"): torch.zeros(2, 2)}),
        lambda header, tensors: tensors.pop(first(tensors, "exp_avg_sq")),
        lambda header, tensors: tensors.update({"optimiser.x.step": torch.zeros(1)}),
        lambda header, tensors: tensors.update({"losses": torch.zeros(2, 9)}),
        lambda header, tensors: header["progress"].update(epoch="one"),
        lambda header, tensors: header["progress"].update(epoch=0),
        lambda header, tensors: header["progress"].update(colour="red"),
        lambda header, tensors: header["progress"].update(seconds="x"),
        lambda header, tensors: header.update(progress=[]),
        lambda header, tensors: header.update(groups=[]),
        lambda header, tensors: header["groups"][0].pop("betas"),
        lambda header, tensors: header.update(schedule=[]),
        lambda header, tensors: header.update(schedule=None),
        lambda header, tensors: header.update(pieces="many"),
        lambda header, tensors: header.update(terms=None),
    ],
)
def test_a_state_that_is_whole_and_odd_is_refused_in_a_sentence(change, stopped, films):
    odd(change)(states(stopped)[0])
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    with pytest.raises(InputError, match="0002.state.safetensors does not hold what multires_tiny needs to go on"):
        fit(MULTIRES, stopped, films)
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


def test_a_run_killed_before_its_first_ten_minutes_goes_on_after_its_first_epoch(films, tmp_path, capsys):
    """And whatever it kept of later epochs, the best model that lies there is not replaced by a worse one."""
    recipe = replace(MULTIRES, classifier_stage=replace(PHASE, epochs=4))

    def stop(record):
        if record["epoch"] == 2:
            raise StopError

    with pytest.raises(StopError):
        fit(recipe, tmp_path, films, on_epoch=stop)
    assert [path.name for path in states(tmp_path)] == ["multires_tiny.00001-0000000.state.safetensors"]
    model, metadata = load_checkpoint(best_path(tmp_path, "multires_tiny"))
    lucky = replace(metadata, metrics=metadata.metrics | {"validation_auc": 0.999})  # as a GPU may not compute it again
    save_checkpoint(best_path(tmp_path, "multires_tiny"), model, metadata=lucky)
    assert len(fit(recipe, tmp_path, films)) == 4
    assert "goes on from epoch 1, batch 0" in capsys.readouterr().out
    assert read_header(best_path(tmp_path, "multires_tiny")).metrics["validation_auc"] == 0.999


def test_a_best_model_that_is_gone_is_written_again(stopped, films):
    """Its score stands in no state: what lies there is what counts."""
    best_path(stopped, "multires_tiny").unlink()
    history = fit(MULTIRES, stopped, films)
    found = read_header(best_path(stopped, "multires_tiny"))
    assert found.epoch == 2 and found.metrics["validation_auc"] == history[1]["validation_auc"]


def test_other_pixels_are_other_films(stopped, films, demo_folder, tmp_path_factory):
    """Of the same names and labels, prepared in another way: here a single grey value lighter."""
    folder = tmp_path_factory.mktemp("lighter")
    (folder / "images").mkdir()
    for path in (demo_folder / "images").iterdir():
        film = Image.open(path)
        film.point(lambda grey: min(grey + 1, 255)).save(folder / "images" / path.name)
    cache = prepare(folder / "images", folder / "store", size=64, progress=False)
    tables = load_metadata(demo_folder)
    lighter = [ChestXrayDataset(cache, tables, image_index=part.image_index) for part in films]
    with pytest.raises(InputError, match="of another run: pixel_crc is [0-9a-f, ]+ there and [0-9a-f, ]+ here"):
        fit(MULTIRES, stopped, lighter)


def test_no_state_holds_weights_that_a_loss_has_spoilt_and_nobody_has_looked_at_yet(films, tmp_path, monkeypatch):
    """On a GPU losses are looked at now and then only; here every third update."""
    monkeypatch.setitem(CHECKED_EVERY, "cpu", 3)
    learn, batches = Trainer.learn, []

    def spoil(trainer, images, labels, **options):
        batches.append(None)
        return learn(trainer, images * (torch.nan if len(batches) > 4 else 1), labels, **options)

    recipe = replace(MULTIRES, classifier_stage=replace(PHASE, batch_size=2, grad_accum_steps=1))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="is nan in epoch 0, batch 4"):
        patch.setattr(Trainer, "learn", spoil)
        fit(recipe, tmp_path, films, save_minutes=0)
    assert len(batches) == 6
    kept = states(tmp_path)
    assert [path.name for path in kept] == ["multires_tiny.00000-0000003.state.safetensors"]
    tensors = read_state(kept[0])[1]
    assert all(value.isfinite().all() for value in tensors.values())


def other_films(films):
    fewer = ChestXrayDataset.__new__(ChestXrayDataset)
    fewer.__dict__.update(films[0].__dict__, image_index=films[0].image_index[:8], labels=films[0].labels[:8])
    return [fewer, films[1]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda r, f: (replace(r, classifier_stage=replace(r.classifier_stage, learning_rate=0.5)), f),
            "classifier_stage.learning_rate is 0.002",
        ),
        (lambda r, f: (replace(r, seed=3), f), "seed is 0 there and 3 here"),
        (lambda r, f: (r, other_films(f)), "train_fingerprint is 12 films, .* there and 8 films, .* here"),
        (lambda r, f: (r, f[::-1]), "train_fingerprint is .*; val_fingerprint is 6 films, .* there and 12 films"),
    ],
)
def test_a_state_of_another_run_is_refused_by_the_field_that_differs(change, named, stopped, films):
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    recipe, others = change(MULTIRES, films)
    with pytest.raises(InputError, match=f"state.safetensors is of another run: {named}.*--overwrite"):
        fit(recipe, stopped, others)
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before
    assert len(fit(recipe, stopped, others, overwrite=True)) == 2


def rewrite(path, change):
    """Let `change` alter the header of a state."""
    header, tensors = read_state(path)
    change(header)
    save_file(tensors, path, metadata={"cxr_seam_state": json.dumps(header)})


def test_a_state_from_before_a_recipe_had_all_its_fields_is_gone_on_with(stopped, films, tmp_path):
    def make_older(header):
        del header["run"]["tta_flip"], header["run"]["classifier_stage"]["weight_decay"]

    latest = states(stopped)[0]
    rewrite(latest, make_older)
    fit(MULTIRES, stopped, films)
    fit(MULTIRES, tmp_path / "whole", films)
    expected, found = (load_file(last_path(folder, "multires_tiny")) for folder in (tmp_path / "whole", stopped))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_state_of_a_later_version_is_refused_and_stays(stopped, films):
    latest = states(stopped)[0]
    rewrite(latest, lambda header: header["run"]["classifier_stage"].update(colour="red"))
    with pytest.raises(InputError, match=r"0002.state.safetensors is of another version .*colour"):
        fit(MULTIRES, stopped, films)
    assert latest.exists()


def test_a_state_of_another_version_is_refused(stopped, films):
    path = states(stopped)[0]
    save_file({"x": torch.zeros(1)}, path, metadata={"cxr_seam_state": '{"format": 99}'})
    with pytest.raises(InputError, match="has the state format 99, this version reads 1; delete it and train anew"):
        read_state(path)
    with pytest.raises(InputError, match="state format 99"):  # and not passed over: nothing is begun anew unasked
        fit(MULTIRES, stopped, films)


def test_a_complete_run_is_not_trained_again(films, tmp_path, capsys):
    history = fit(MULTIRES, tmp_path, films)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert fit(MULTIRES, tmp_path, films) == history
    assert "multires_tiny is trained already; restart=True" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    with pytest.raises(
        InputError, match="best.safetensors is of another run: seed is 0 there and 1 here; choose another"
    ):
        fit(replace(MULTIRES, seed=1), tmp_path, films)
    fit(MULTIRES, tmp_path, films, overwrite=True)
    assert all(path.stat().st_mtime_ns != files[path.name] for path in tmp_path.iterdir())


def test_a_second_phase_on_another_backbone_is_another_run(films, tmp_path):
    refined = get_recipe("multires_tiny_pcm")
    fit(MULTIRES, tmp_path, films)
    fit(refined, tmp_path, films)
    fit(replace(MULTIRES, seed=1), tmp_path, films, overwrite=True)
    with pytest.raises(InputError, match="multires_tiny_pcm.best.safetensors is of another run: init_fingerprint is"):
        fit(refined, tmp_path, films)


def vanish(folder):
    """Where the folder was, there is something that cannot be written into."""
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("the drive is gone")


def come_back(folder):
    folder.unlink()
    folder.with_name("elsewhere").rename(folder)


@pytest.mark.parametrize("back_in_time", [True, False])
def test_a_place_that_vanishes_costs_a_warning_and_nothing_else(back_in_time, films, tmp_path):
    """The folder goes after the first epoch and is there again after the second, or not before the end."""
    folder, local_dir, recipe = (
        tmp_path / "drive",
        tmp_path / "scratch",
        replace(MULTIRES, classifier_stage=replace(PHASE, epochs=3)),
    )
    fit(recipe, tmp_path / "whole", films)

    def on_epoch(record):
        if record["epoch"] == 0:
            vanish(folder)
        if record["epoch"] == 1 and back_in_time:
            come_back(folder)

    with pytest.warns(UserWarning, match="training goes on, 1 files wait in .*scratch and are copied when"):
        if back_in_time:
            fit(recipe, folder, films, local_dir=local_dir, on_epoch=on_epoch, save_minutes=0)
        else:
            with pytest.raises(InputError, match=r"reconnect its folder, then copy .* there from .*scratch"):
                fit(recipe, folder, films, local_dir=local_dir, on_epoch=on_epoch, save_minutes=0)
            come_back(folder)
            fit(recipe, folder, films, local_dir=local_dir)  # the next call copies what waits
    assert not list(local_dir.iterdir())
    for path in (best_path, last_path):
        expected, found = (load_file(path(place, "multires_tiny")) for place in (tmp_path / "whole", folder))
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert [record["epoch"] for record in read_history(folder, "multires_tiny")] == [0, 1, 2]


def test_a_finding_that_never_occurs_is_told_and_trained(films, tmp_path):
    absent = [name for name, shown in zip(FINDINGS, films[0].labels.any(axis=0), strict=True) if not shown]
    assert absent
    with pytest.warns(UserWarning, match=f"no film that multires_tiny is trained on shows {', '.join(absent)};"):
        history = fit(MULTIRES, tmp_path, films)
    assert np.isfinite([record["train_loss"] for record in history]).all()
