"""Interrupted runs: which states are continued, which are refused, which are saved."""

import hashlib
import io
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.batches import two_sets
from PIL import Image
from safetensors.torch import load_file

from cxr_seam.data.cache import prepare
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.models.checkpoint import best_path, last_path, load_checkpoint, read_header, read_history, save_checkpoint
from cxr_seam.presets import get_recipe
from cxr_seam.training import fit as fitting
from cxr_seam.training.fit import Callback
from cxr_seam.training.resume import DIGEST_SIZE, read_state
from cxr_seam.training.storage import RunFolder
from cxr_seam.training.trainer import CHECK_EVERY, Trainer

KILLS = Path(__file__).parent.parent / "integration" / "survival" / "kills.py"
STAGE = replace(get_recipe("multires_tiny").classifier_stage, epochs=2, batch_size=4)
MULTIRES = replace(get_recipe("multires_tiny"), classifier_stage=STAGE)

pytestmark = [
    pytest.mark.filterwarnings("ignore:no training image"),
    pytest.mark.filterwarnings("ignore:.*could not be written"),
]


class StopError(Exception):
    """A run that ends as if its process had."""


@pytest.fixture(scope="module")
def datasets(demo_folder, demo_cache):
    return two_sets(demo_folder, demo_cache, training=12, validation=6)


def fit(recipe, folder, datasets, **options):
    return fitting.fit(recipe, folder, train_set=datasets[0], val_set=datasets[1], **options)


def states(folder):
    return RunFolder(folder, "multires_tiny").states()


@pytest.fixture
def stopped(datasets, tmp_path, monkeypatch):
    """A folder in which a run was stopped in its second epoch, with two states."""
    count = []

    def counted(trainer, batches):
        count.append(None)
        if len(count) == 6:
            raise StopError
        return train_step(trainer, batches)

    train_step = Trainer.train_step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", counted)
        with pytest.raises(StopError):
            fit(MULTIRES, tmp_path, datasets, save_minutes=0)
    return tmp_path


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits():
    """Also `python tests/integration/survival/kills.py`, with thirty."""
    done = subprocess.run([sys.executable, KILLS, "--kills", "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("5 kills")


def test_two_states_are_kept_until_the_end(stopped, datasets):
    names = [path.name for path in states(stopped)]
    assert names == [f"multires_tiny.00001-000000{batch}.state.pt" for batch in (2, 1)]
    history = fit(MULTIRES, stopped, datasets)
    assert [record["epoch"] for record in history] == [0, 1] and not states(stopped)


def test_damaged_state_falls_back_to_the_one_before(stopped, datasets, tmp_path):
    latest = states(stopped)[0]
    latest.write_bytes(latest.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="00001-0000002.state.pt is damaged"):
        fit(MULTIRES, stopped, datasets)
    fit(MULTIRES, tmp_path / "whole", datasets)
    expected, found = (load_file(last_path(folder, "multires_tiny")) for folder in (tmp_path / "whole", stopped))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_damaged_state_is_removed_when_training_continues(stopped, datasets):
    """Otherwise it would count as one of the two latest states."""
    latest, before = states(stopped)
    latest.write_bytes(latest.read_bytes()[:-1000])

    def stop(trainer, batches):
        raise StopError

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="is damaged"):
        patch.setattr(Trainer, "train_step", stop)
        with pytest.raises(StopError):
            fit(MULTIRES, stopped, datasets)
    assert states(stopped) == [before]


def test_run_without_state_warns(stopped, datasets):
    for path in states(stopped):
        path.unlink()
    with pytest.warns(UserWarning, match="no state of multires_tiny"):
        fit(MULTIRES, stopped, datasets)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_damaged_init_checkpoint_is_refused(content, datasets, tmp_path):
    path = best_path(tmp_path, "multires_tiny")
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=r"multires_tiny.best.safetensors is (not a readable|a folder)"):
        fit(get_recipe("multires_tiny_pcm"), tmp_path, datasets)


@pytest.mark.parametrize("metrics", [{}, {"validation_auc": "high"}])
def test_best_checkpoint_without_score_is_refused(metrics, stopped, datasets):
    path = best_path(stopped, "multires_tiny")
    model, metadata = load_checkpoint(path)
    save_checkpoint(path, model, metadata=replace(metadata, metrics=metrics))
    with pytest.raises(InputError, match="score"):
        fit(MULTIRES, stopped, datasets)


def test_all_states_damaged_is_refused(stopped, datasets):
    for path in states(stopped):
        path.write_bytes(path.read_bytes()[:-1000])
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    with (
        pytest.warns(UserWarning, match="0002.state.pt is damaged"),
        pytest.raises(InputError, match=r"0001.state.pt is damaged .*0002.state.pt"),
    ):
        fit(MULTIRES, stopped, datasets)
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before
    assert len(fit(MULTIRES, stopped, datasets, overwrite=True)) == 2


def test_changed_bit_in_a_state_is_detected(stopped, datasets):
    """In a weight, where no number gives it away."""
    latest = states(stopped)[0]
    content = bytearray(latest.read_bytes())
    content[-len(content) // 2] ^= 1
    latest.write_bytes(content)
    with pytest.warns(UserWarning, match="checksum"):
        fit(MULTIRES, stopped, datasets)


def rewrite(path, change):
    """Change the content of a state and give it the checksum of its new content."""
    state = read_state(path)
    change(state)
    file = io.BytesIO()
    torch.save(state, file)
    path.write_bytes(hashlib.sha256(file.getvalue()).digest() + file.getvalue())
    assert len(path.read_bytes()) == DIGEST_SIZE + len(file.getvalue())


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["objective"].popitem(),
        lambda state: state["objective"].update({next(iter(state["objective"])): torch.zeros(3)}),
        lambda state: state["objective"].update({"more": torch.zeros(3)}),
        lambda state: state.pop("generator"),
        lambda state: state.update(generator=torch.zeros(3)),
        lambda state: state.update(rng_state=[torch.zeros(3, dtype=torch.uint8)]),
        lambda state: state["optimiser"].update(param_groups=[]),
        lambda state: state["progress"].update(epoch="one"),
        lambda state: state["progress"].pop("history"),
        lambda state: state.update(progress=[]),
        lambda state: state.update(schedule=None),
    ],
)
def test_state_that_does_not_fit_is_refused(change, stopped, datasets):
    rewrite(states(stopped)[0], change)
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    with pytest.raises(InputError, match="0002.state.pt does not fit multires_tiny"):
        fit(MULTIRES, stopped, datasets)
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


class Stop(Callback):
    """Stop a run after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, trainer, record):
        if record["epoch"] == self.epoch:
            raise StopError


def test_first_state_is_saved_after_the_first_epoch(datasets, tmp_path, capsys):
    """A worse model never replaces the best checkpoint, also after epochs are trained again."""
    recipe = replace(MULTIRES, classifier_stage=replace(STAGE, epochs=4))

    with pytest.raises(StopError):
        fit(recipe, tmp_path, datasets, callbacks=[Stop(2)])
    assert [path.name for path in states(tmp_path)] == ["multires_tiny.00001-0000000.state.pt"]
    model, metadata = load_checkpoint(best_path(tmp_path, "multires_tiny"))
    lucky = replace(metadata, metrics=metadata.metrics | {"validation_auc": 0.999})  # as a GPU may not compute it again
    save_checkpoint(best_path(tmp_path, "multires_tiny"), model, metadata=lucky)
    assert len(fit(recipe, tmp_path, datasets)) == 4
    assert "continues at epoch 1, batch 0" in capsys.readouterr().out
    assert read_header(best_path(tmp_path, "multires_tiny")).metrics["validation_auc"] == 0.999


def test_missing_best_checkpoint_is_written_again(stopped, datasets):
    """Its score stands in no state: what lies there is what counts."""
    best_path(stopped, "multires_tiny").unlink()
    history = fit(MULTIRES, stopped, datasets)
    found = read_header(best_path(stopped, "multires_tiny"))
    assert found.epoch == 2 and found.metrics["validation_auc"] == history[1]["validation_auc"]


def test_other_pixels_are_another_run(stopped, datasets, demo_folder, tmp_path_factory):
    """Of the same names and labels, prepared in another way: here a single grey value lighter."""
    folder = tmp_path_factory.mktemp("lighter")
    (folder / "images").mkdir()
    for path in (demo_folder / "images").iterdir():
        image = Image.open(path)
        image.point(lambda grey: min(grey + 1, 255)).save(folder / "images" / path.name)
    cache = prepare(folder / "images", folder / "store", size=64, progress=False)
    tables = load_metadata(demo_folder)
    lighter = [ChestXrayDataset(cache, tables, image_index=part.image_index) for part in datasets]
    with pytest.raises(InputError, match="another run: pixel_crc is"):
        fit(MULTIRES, stopped, lighter)


def test_no_state_is_saved_after_an_unchecked_nan(datasets, tmp_path, monkeypatch):
    """On a GPU losses are checked only now and then; here every third update."""
    monkeypatch.setitem(CHECK_EVERY, "cpu", 3)
    compute, batches = Trainer.compute_losses, []

    def spoil(trainer, objective, dataset, indices, params):
        batches.append(None)
        losses = compute(trainer, objective, dataset, indices, params)
        return {name: values * (torch.nan if len(batches) > 4 else 1) for name, values in losses.items()}

    recipe = replace(MULTIRES, classifier_stage=replace(STAGE, batch_size=2, grad_accum_steps=1))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="is nan in epoch 0, batch 4"):
        patch.setattr(Trainer, "compute_losses", spoil)
        fit(recipe, tmp_path, datasets, save_minutes=0)
    assert len(batches) == 6
    left = states(tmp_path)
    assert [path.name for path in left] == ["multires_tiny.00000-0000003.state.pt"]
    assert all(value.isfinite().all() for value in read_state(left[0])["objective"].values())


def other_films(datasets):
    fewer = ChestXrayDataset.__new__(ChestXrayDataset)
    fewer.__dict__.update(datasets[0].__dict__, image_index=datasets[0].image_index[:8], labels=datasets[0].labels[:8])
    return [fewer, datasets[1]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda r, f: (replace(r, classifier_stage=replace(r.classifier_stage, learning_rate=0.5)), f),
            "classifier_stage.learning_rate is 0.002",
        ),
        (lambda r, f: (replace(r, seed=3), f), "seed is 0 in the file and 3 now"),
        (lambda r, f: (r, other_films(f)), "train_fingerprint is 12 images, .* in the file and 8 images, .* now"),
        (
            lambda r, f: (r, f[::-1]),
            "train_fingerprint is .*; val_fingerprint is 6 images, .* in the file and 12 images",
        ),
    ],
)
def test_state_of_another_run_is_refused(change, named, stopped, datasets):
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    recipe, others = change(MULTIRES, datasets)
    with pytest.raises(InputError, match=f"belongs to another run: {named}"):
        fit(recipe, stopped, others)
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before
    assert len(fit(recipe, stopped, others, overwrite=True)) == 2


@pytest.mark.parametrize(
    ("findings", "named"),
    [
        ((*FINDINGS[:13], "Fracture"), "only the file has Hernia, only the data have Fracture"),
        ((*FINDINGS[:12], *FINDINGS[:11:-1]), "their order differs"),
    ],
)
def test_findings_of_another_dataset_are_refused(findings, named, stopped, datasets):
    others = []
    for dataset in datasets:  # the same images and the same numbers
        others.append(ChestXrayDataset.__new__(ChestXrayDataset))
        others[-1].__dict__.update(dataset.__dict__, findings=findings)
    with pytest.raises(InputError, match=f"best.safetensors was trained on other findings .*: {named}; "):
        fit(MULTIRES, stopped, others)
    best_path(stopped, MULTIRES.name).unlink()
    with pytest.raises(InputError, match=f"state.pt was trained on other findings .*: {named}; "):
        fit(MULTIRES, stopped, others)


def test_state_without_findings_has_nihs(stopped, datasets):
    rewrite(states(stopped)[0], lambda state: state["run"].pop("findings"))
    assert len(fit(MULTIRES, stopped, datasets)) == 2


def test_state_of_another_version_is_refused(stopped, datasets):
    path = states(stopped)[0]
    rewrite(path, lambda state: state.update(format=99))
    with pytest.raises(InputError, match="0002.state.pt was written by another version"):
        fit(MULTIRES, stopped, datasets)
    old = path.rename(path.with_suffix(".safetensors"))
    with pytest.raises(InputError, match="0002.state.safetensors was written by an earlier version"):
        fit(MULTIRES, stopped, datasets)
    assert old.exists()


def test_pickle_as_state_is_not_executed(stopped, datasets, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    for path in states(stopped):
        content = pickle.dumps(Harmful())
        file = io.BytesIO()
        torch.save({"format": 2, "run": Harmful()}, file)
        for harmful in (content, file.getvalue()):
            path.write_bytes(hashlib.sha256(harmful).digest() + harmful)
            with pytest.raises(InputError, match="damaged"):
                read_state(path)
    assert not (tmp_path / "executed").exists()


class KillInCalibrationError(Exception):
    """A run that ends while it calibrates."""


def test_run_killed_in_calibration_ends_with_the_same_bits(datasets, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KillInCalibrationError

    with monkeypatch.context() as patch, pytest.raises(KillInCalibrationError):
        patch.setattr(fitting, "calibrate", killed)
        fit(MULTIRES, tmp_path / "killed", datasets, save_minutes=0)
    assert read_header(best_path(tmp_path / "killed", "multires_tiny")).scores is None
    for folder in ("killed", "whole"):
        fit(MULTIRES, tmp_path / folder, datasets, save_minutes=0)
    for path in (best_path, last_path):
        ours, theirs = (path(tmp_path / folder, "multires_tiny") for folder in ("killed", "whole"))
        ours, theirs = (load_file(path) for path in (ours, theirs))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    ours, theirs = (read_header(best_path(tmp_path / folder, "multires_tiny")) for folder in ("killed", "whole"))
    assert ours.scores == theirs.scores is not None and not states(tmp_path / "killed")


def test_complete_run_is_not_trained_again(datasets, tmp_path, capsys):
    history = fit(MULTIRES, tmp_path, datasets)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert fit(MULTIRES, tmp_path, datasets) == history
    assert "multires_tiny is trained already" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    with pytest.raises(InputError, match="best.safetensors belongs to another run: seed is 0 in the file and 1 now"):
        fit(replace(MULTIRES, seed=1), tmp_path, datasets)
    fit(MULTIRES, tmp_path, datasets, overwrite=True)
    assert all(path.stat().st_mtime_ns != files[path.name] for path in tmp_path.iterdir())


def test_seam_stage_on_another_backbone_is_another_run(datasets, tmp_path):
    refined = get_recipe("multires_tiny_pcm")
    fit(MULTIRES, tmp_path, datasets)
    fit(refined, tmp_path, datasets)
    fit(replace(MULTIRES, seed=1), tmp_path, datasets, overwrite=True)
    with pytest.raises(InputError, match="multires_tiny_pcm.best.safetensors .*: init_fingerprint is"):
        fit(refined, tmp_path, datasets)


def vanish(folder):
    """Where the folder was, there is something that cannot be written into."""
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("the drive is gone")


def come_back(folder):
    folder.unlink()
    folder.with_name("elsewhere").rename(folder)


class DriveVanishes(Callback):
    """The folder goes after the first epoch and is there again after the second, or not before the end."""

    def __init__(self, folder, back_in_time):
        self.folder, self.back_in_time = folder, back_in_time

    def on_epoch(self, trainer, record):
        if record["epoch"] == 0:
            vanish(self.folder)
        if record["epoch"] == 1 and self.back_in_time:
            come_back(self.folder)


@pytest.mark.parametrize("back_in_time", [True, False])
def test_vanished_folder_costs_warnings_only(back_in_time, datasets, tmp_path):
    folder, local_dir = tmp_path / "drive", tmp_path / "local"
    recipe = replace(MULTIRES, classifier_stage=replace(STAGE, epochs=3))
    fit(recipe, tmp_path / "whole", datasets)
    options = {"local_dir": local_dir, "callbacks": [DriveVanishes(folder, back_in_time)], "save_minutes": 0}
    with pytest.warns(UserWarning, match="drive"):
        if back_in_time:
            fit(recipe, folder, datasets, **options)
        else:
            with pytest.raises(InputError, match=f"copy .* there from {local_dir}"):
                fit(recipe, folder, datasets, **options)
            come_back(folder)
            fit(recipe, folder, datasets, local_dir=local_dir)  # copies the pending files
    assert not list(local_dir.iterdir())
    for path in (best_path, last_path):
        expected, found = (load_file(path(place, "multires_tiny")) for place in (tmp_path / "whole", folder))
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert [record["epoch"] for record in read_history(folder, "multires_tiny")] == [0, 1, 2]


def test_absent_finding_warns_and_trains(datasets, tmp_path):
    absent = [name for name, shown in zip(FINDINGS, datasets[0].labels.any(axis=0), strict=True) if not shown]
    assert absent
    with pytest.warns(UserWarning, match=f"multires_tiny shows {', '.join(absent)};"):
        history = fit(MULTIRES, tmp_path, datasets)
    assert np.isfinite([record["train_loss"] for record in history]).all()
