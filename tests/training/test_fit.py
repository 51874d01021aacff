import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cxr_seam.data.dataset import Batches, ChestXrayDataset, loader
from cxr_seam.data.nih import load_metadata, train_val_split
from cxr_seam.data.transforms import eval_transform
from cxr_seam.device import is_supported
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.models.checkpoint import best_path, last_path, load_checkpoint, read_header, read_history
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import keep, keep_state, train
from cxr_seam.training.objectives import ClassificationObjective
from cxr_seam.training.optim import make_schedule
from cxr_seam.training.resume import TrainState
from cxr_seam.training.storage import CheckpointWriter

MULTIRES, REFINED = get_recipe("multires_tiny"), get_recipe("multires_tiny_pcm")


@pytest.fixture(scope="module")
def films(demo_folder, demo_store):
    tables = load_metadata(demo_folder)
    chosen = train_val_split(tables, validation_fraction=0.25, num_normal_images=100, seed=0)
    return [ChestXrayDataset(demo_store, tables, image_index=names) for names in chosen]


@pytest.fixture(scope="module")
def trained(films, tmp_path_factory):
    """Both phases, trained once: the folder and the two histories."""
    folder = tmp_path_factory.mktemp("models")
    first = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, epochs=2))
    histories = [train(recipe, folder, train_set=films[0], val_set=films[1]) for recipe in (first, REFINED)]
    return folder, histories


def test_films_come_with_their_own_labels(films, demo_folder, demo_store):
    table = load_metadata(demo_folder).images
    pixels, labels = next(iter(loader(films[0], 4)))
    assert pixels.shape == (4, 1, 64, 64) and pixels.dtype == torch.uint8
    name = films[0].image_index[2]
    assert labels[2].tolist() == table.loc[name].iloc[-14:].tolist()
    assert np.array_equal(pixels[2, 0], demo_store.images[demo_store.image_index.index(name)])


def test_an_epoch_is_a_permutation_another_one_each_time():
    batches = Batches(10, 3, shuffle_seed=7)
    epochs = []
    for batches.epoch in (0, 1, 0):
        epochs.append([place for batch in batches for place in batch])
    assert len(batches) == 3 and len(set(epochs[0])) == 9  # the incomplete last batch is left out
    assert epochs[0] == epochs[2] != epochs[1]
    assert [place for batch in Batches(10, 3) for place in batch] == list(range(10))
    assert len(Batches(2, 3, shuffle_seed=7)) == 1  # but never everything


def test_history_and_checkpoints_are_kept(trained):
    folder, (first, second) = trained
    assert [r["epoch"] for r in first] == [0, 1] and first[0]["stage"] == "classifier" and second[0]["stage"] == "seam"
    assert 0 <= first[0]["validation_auc"] <= 1 and second[0]["validation_auc"] is None
    lines = (folder / "multires_tiny.history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == first == read_history(folder, "multires_tiny")
    best = read_header(best_path(folder, "multires_tiny"))
    assert best.metrics["validation_auc"] == max(r["validation_auc"] for r in first)
    assert read_header(folder / "multires_tiny.last.safetensors").epoch == 2


def test_thresholds_come_from_the_validation_films_and_outlive_the_second_phase(trained, films):
    folder, _ = trained
    model, metadata = load_checkpoint(best_path(folder, "multires_tiny"))
    pixels = torch.cat([pixels for pixels, _ in loader(films[1], 8)])
    with torch.no_grad():
        scores = model(eval_transform(pixels, size=64), maps=False).logits.sigmoid().numpy()
    for place, finding in enumerate(FINDINGS):
        truth = films[1].labels[:, place] == 1
        threshold = metadata.thresholds[finding]
        if truth.all() or not truth.any():
            assert threshold is None
            continue

        def youden(value, truth=truth, place=place):
            return (scores[truth, place] >= value).mean() + (scores[~truth, place] < value).mean() - 1

        assert youden(threshold - 1e-6) == pytest.approx(max(youden(value - 1e-6) for value in scores[:, place]))
    assert read_header(best_path(folder, "multires_tiny_pcm")).thresholds == metadata.thresholds


def keep_epochs(aucs, models, folder, *, monkeypatch, breaks):
    """Keep epochs of these AUCs; in the second one the file that ends in `breaks` fails. Returns the best kept."""
    model, metadata = load_checkpoint(best_path(models, "multires_tiny"))
    objective, writer, progress = (
        ClassificationObjective(model, MULTIRES.classifier_stage),
        CheckpointWriter(folder, name="x"),
        TrainState(),
    )
    write = writer.write
    for epoch, auc in enumerate(aucs):
        metadata = replace(metadata, epoch=epoch + 1, metrics={"validation_auc": auc})
        progress.history.append({})
        with monkeypatch.context() as patch:
            if epoch == 1:
                patch.setattr(
                    writer, "write", lambda name, save: fail() if name.endswith(breaks) else write(name, save)
                )
            try:
                keep(objective, writer, metadata=metadata, progress=progress)
            except OSError:
                continue
    return progress.best


def test_a_best_epoch_that_could_not_be_written_is_written_later(trained, tmp_path, monkeypatch):
    """Drive drops while the best epoch is written: it is written with the next one, which is worse."""
    best = keep_epochs([0.6, 0.9, 0.8], trained[0], tmp_path, monkeypatch=monkeypatch, breaks=".best.safetensors")
    assert best == read_header(best_path(tmp_path, "multires_tiny")).metrics["validation_auc"] == 0.9
    assert read_header(last_path(tmp_path, "multires_tiny")).metrics["validation_auc"] == 0.8


def test_no_state_is_written_that_knows_of_a_best_model_which_nobody_has(tmp_path, monkeypatch):
    writer = CheckpointWriter(tmp_path, name="x")
    writer.owed["x.best.safetensors"] = b"best"
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.warns(UserWarning, match="the drive is gone"):
        assert not keep_state(
            writer, SimpleNamespace(recipe=MULTIRES, losses=[]), progress=TrainState(), run={}, count=2
        )
    assert not list(tmp_path.iterdir()) and writer.owed


def test_a_history_that_could_not_be_written_costs_no_better_model(trained, tmp_path, monkeypatch):
    best = keep_epochs([0.6, 0.9, 0.8, 0.7], trained[0], tmp_path, monkeypatch=monkeypatch, breaks=".history.jsonl")
    assert best == read_header(best_path(tmp_path, "multires_tiny")).metrics["validation_auc"] == 0.9


def test_without_an_auc_the_first_model_that_can_be_written_is_the_best(trained, tmp_path, monkeypatch):
    model, metadata = load_checkpoint(best_path(trained[0], "multires_tiny"))
    metadata = replace(metadata, metrics={"validation_auc": None})
    objective, writer, progress = (
        ClassificationObjective(model, MULTIRES.classifier_stage),
        CheckpointWriter(tmp_path, name="x"),
        TrainState(),
    )
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write", fail)
        with pytest.raises(OSError):
            keep(objective, writer, metadata=metadata, progress=progress)
    keep(objective, writer, metadata=metadata, progress=progress)
    assert best_path(tmp_path, "multires_tiny").exists()


def fail(*_, **__):
    raise OSError("the drive is gone")


def test_second_phase_changes_theta_and_nothing_else_on_disk(trained):
    folder, _ = trained
    before = load_checkpoint(best_path(folder, "multires_tiny"))[0].state_dict()
    after = load_checkpoint(best_path(folder, "multires_tiny_pcm"))[0].state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == ["refiner.theta.weight"]


def test_same_seed_same_run(films, tmp_path):
    losses = []
    for run in ("a", "b"):
        history = train(MULTIRES, tmp_path / run, train_set=films[0], val_set=films[1])
        losses.append([(r["train_loss"], r["validation_loss"]) for r in history])
    assert losses[0] == losses[1]


def test_it_learns_a_few_films_by_heart(films, tmp_path):
    """A network that cannot learn eight films by heart is wired wrongly somewhere."""
    few = ChestXrayDataset.__new__(ChestXrayDataset)
    few.__dict__.update(films[0].__dict__, image_index=films[0].image_index[:8], labels=films[0].labels[:8])
    recipe = replace(
        MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, epochs=25, learning_rate=3e-3, grad_accum_steps=1)
    )
    history = train(recipe, tmp_path, train_set=few, val_set=few)
    assert history[-1]["train_loss"] < 0.35 * history[0]["train_loss"]


def test_second_phase_without_the_first_says_so(films, tmp_path):
    with pytest.raises(InputError, match="multires_tiny_pcm goes on from multires_tiny, but there is no .*train that"):
        train(REFINED, tmp_path, train_set=films[0], val_set=films[1])


def test_a_loss_that_is_no_number_stops_the_run(films, tmp_path):
    wild = replace(
        MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, learning_rate=1e30, epochs=2, grad_accum_steps=1)
    )
    with pytest.raises(InputError, match="loss of multires_tiny is nan in epoch ., batch .*; lower"):
        train(wild, tmp_path, train_set=films[0], val_set=films[1])


def test_films_too_small_for_the_recipe_are_refused(films, tmp_path):
    large = replace(MULTIRES, image_size=128)
    with pytest.raises(InputError, match="for films of 128 pixels, but those at hand have 64"):
        train(large, tmp_path, train_set=films[0], val_set=films[1])


def test_a_folder_that_cannot_be_written_warns_and_in_the_end_refuses(films, tmp_path):
    (tmp_path / "models").write_text("a file where the folder should be")
    twice = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, epochs=2))
    with (
        pytest.warns(UserWarning, match="epoch 0: .*could not be written"),
        pytest.raises(InputError, match="could not"),
    ):
        train(twice, tmp_path / "models", train_set=films[0], val_set=films[1])


def test_plateau_lowers_the_rate_after_six_epochs_without_a_rise():
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=3e-4)
    schedule = make_schedule(optimiser, get_recipe("resnet50").classifier_stage, steps=1)
    rates = []
    for auc in [0.7, *[0.6] * 7]:
        schedule.step(auc)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates[:7] == [3e-4] * 7 and rates[7] == pytest.approx(3e-5)
    with pytest.raises(InputError, match="linear"):
        make_schedule(optimiser, replace(get_recipe("resnet50").classifier_stage, schedule="linear"), steps=1)


def test_cards_are_told_from_builds():
    recent = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
    assert not is_supported((6, 0), recent)  # P100
    assert is_supported((7, 5), recent)  # T4
    assert is_supported((8, 9), recent)  # L4 runs sm_86 code
    assert is_supported((9, 0), ["sm_90a"]) and not is_supported((8, 0), ["sm_86"])
    assert is_supported((6, 0), ["sm_50", "sm_60", "sm_70"])
    assert is_supported((13, 0), recent)  # compiled from the intermediate code
