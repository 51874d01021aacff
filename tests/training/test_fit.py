import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.data.split import train_val_split
from cxr_seam.data.transforms import eval_transform
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.io import WriteError
from cxr_seam.models.checkpoint import (
    best_path,
    last_path,
    load_checkpoint,
    read_header,
    read_history,
    save_checkpoint,
)
from cxr_seam.presets import get_recipe
from cxr_seam.training import fit as fitting
from cxr_seam.training.fit import Callback, CheckpointSaver, fit, train, train_missing
from cxr_seam.training.objectives import ClassifierObjective
from cxr_seam.training.storage import CheckpointWriter, RunFolder
from cxr_seam.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:no training image")
MULTIRES, REFINED = get_recipe("multires_tiny"), get_recipe("multires_tiny_pcm")


@pytest.fixture(scope="module")
def datasets(demo_folder, demo_cache):
    tables = load_metadata(demo_folder)
    chosen = train_val_split(tables, validation_fraction=0.25, num_normal_images=100, seed=0)
    return [ChestXrayDataset(demo_cache, tables, image_index=names) for names in chosen]


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    """Both stages, trained once: the folder and the two histories."""
    folder = tmp_path_factory.mktemp("models")
    first = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, epochs=2))
    histories = [fit(recipe, folder, train_set=datasets[0], val_set=datasets[1]) for recipe in (first, REFINED)]
    return folder, histories


def test_history_and_checkpoints_are_saved(trained):
    folder, (first, second) = trained
    assert [r["epoch"] for r in first] == [0, 1] and first[0]["stage"] == "classifier" and second[0]["stage"] == "seam"
    assert 0 <= first[0]["validation_auc"] <= 1 and second[0]["validation_auc"] is None
    lines = (folder / "multires_tiny.history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == first == read_history(folder, "multires_tiny")
    best = read_header(best_path(folder, "multires_tiny"))
    assert best.metrics["validation_auc"] == max(r["validation_auc"] for r in first)
    assert read_header(folder / "multires_tiny.last.safetensors").epoch == 2


def test_thresholds_maximise_youden_on_the_validation_set(trained, datasets):
    folder, _ = trained
    model, metadata = load_checkpoint(best_path(folder, "multires_tiny"))
    pixels, _ = datasets[1].load(range(len(datasets[1])))
    with torch.no_grad():
        scores = model(eval_transform(pixels, size=64), maps=False).logits.sigmoid().numpy()
    for place, finding in enumerate(FINDINGS):
        truth = datasets[1].labels[:, place] == 1
        threshold = metadata.scores[finding].thresholds["youden"]
        if truth.all() or not truth.any():
            assert threshold is None
            continue

        def youden(value, truth=truth, place=place):
            return (scores[truth, place] >= value).mean() + (scores[~truth, place] < value).mean() - 1

        assert youden(threshold - 1e-6) == pytest.approx(max(youden(value - 1e-6) for value in scores[:, place]))
    assert read_header(best_path(folder, "multires_tiny_pcm")).scores == metadata.scores


def save_epochs(aucs, models, folder, *, monkeypatch, breaks):
    """Save epochs of these AUCs; in the second one the file that ends in `breaks` cannot be written."""
    model, metadata = load_checkpoint(best_path(models, "multires_tiny"))
    recipe = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, epochs=len(aucs)))
    objective = ClassifierObjective(model, recipe.classifier_stage)
    trainer = SimpleNamespace(recipe=recipe, module=objective, history=[])
    writer = CheckpointWriter(RunFolder(folder, recipe.name))
    saver = CheckpointSaver(writer, metadata.data, best_score=None, has_state=True, save_minutes=1e9)
    copy = writer._copy

    def failing(name, content):
        if name.endswith(breaks):
            raise WriteError("the drive is gone")
        return copy(name, content)

    for epoch, auc in enumerate(aucs):
        record = {"epoch": epoch, "validation_auc": auc}
        trainer.history.append(record)
        trainer.epoch = epoch + 1
        with monkeypatch.context() as patch:
            if epoch == 1:
                patch.setattr(writer, "_copy", failing)
            saver.on_epoch(trainer, record)
    writer.close()
    return read_header(best_path(folder, recipe.name))


@pytest.mark.parametrize("breaks", [".best.safetensors", ".history.jsonl"])
def test_unwritten_best_checkpoint_is_written_later(breaks, trained, tmp_path, monkeypatch):
    """The third epoch is worse than the second, which Drive lost."""
    with pytest.warns(UserWarning, match="the drive is gone"):
        best = save_epochs([0.6, 0.9, 0.8], trained[0], tmp_path, monkeypatch=monkeypatch, breaks=breaks)
    assert best.metrics["validation_auc"] == 0.9
    assert read_header(last_path(tmp_path, "multires_tiny")).metrics["validation_auc"] == 0.8
    assert [record["epoch"] for record in read_history(tmp_path, "multires_tiny")] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*the drive is gone")
def test_first_checkpoint_is_best_without_auc(trained, tmp_path, monkeypatch):
    best = save_epochs([None, None], trained[0], tmp_path, monkeypatch=monkeypatch, breaks="nothing")
    assert best.metrics["epoch"] == 0


def test_seam_stage_changes_only_theta(trained):
    folder, _ = trained
    before = load_checkpoint(best_path(folder, "multires_tiny"))[0].state_dict()
    after = load_checkpoint(best_path(folder, "multires_tiny_pcm"))[0].state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == ["refiner.theta.weight"]


def test_same_seed_same_run(datasets, tmp_path):
    losses = []
    for run in ("a", "b"):
        history = fit(MULTIRES, tmp_path / run, train_set=datasets[0], val_set=datasets[1])
        losses.append([(r["train_loss"], r["validation_loss"]) for r in history])
    assert losses[0] == losses[1]


def test_overfits_a_few_images(datasets, tmp_path):
    """A network that cannot learn eight datasets by heart is wired wrongly somewhere."""
    few = ChestXrayDataset.__new__(ChestXrayDataset)
    few.__dict__.update(datasets[0].__dict__, image_index=datasets[0].image_index[:8], labels=datasets[0].labels[:8])
    recipe = replace(
        MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, epochs=25, learning_rate=3e-3, grad_accum_steps=1)
    )
    history = fit(recipe, tmp_path, train_set=few, val_set=few)
    assert history[-1]["train_loss"] < 0.35 * history[0]["train_loss"]


def test_seam_stage_without_its_first_checkpoint_is_refused(datasets, tmp_path):
    with pytest.raises(InputError, match="multires_tiny.best.safetensors"):
        fit(REFINED, tmp_path, train_set=datasets[0], val_set=datasets[1], callbacks=[])


def test_nan_loss_stops_the_run(datasets, tmp_path):
    stage = replace(MULTIRES.classifier_stage, learning_rate=1e30, epochs=2, grad_accum_steps=1)
    with pytest.raises(InputError, match="loss of multires_tiny is nan in epoch ."):
        fit(
            replace(MULTIRES, classifier_stage=stage),
            tmp_path,
            train_set=datasets[0],
            val_set=datasets[1],
            callbacks=[],
        )


def test_unwritable_folder_warns_and_fails_at_the_end(datasets, tmp_path):
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="models"), pytest.raises(InputError, match="models"):
        fit(MULTIRES, tmp_path / "models", train_set=datasets[0], val_set=datasets[1], callbacks=[])


class Recorder(Callback):
    """Write down which methods are called."""

    def __init__(self):
        self.calls = []

    def on_complete(self, recipe):
        self.calls.append("complete")

    def on_start(self, trainer):
        self.calls.append("start")

    def on_update(self, trainer):
        self.calls.append("update")

    def on_epoch(self, trainer, record):
        self.calls.append(record["epoch"])

    def on_end(self, trainer):
        self.calls.append("end")


def test_callbacks_follow_a_run(datasets, tmp_path, capsys):
    calls = []
    for _ in range(2):
        recorder = Recorder()
        fit(MULTIRES, tmp_path, train_set=datasets[0], val_set=datasets[1], callbacks=[recorder])
        calls.append(recorder.calls)
    updates = len(datasets[0]) // MULTIRES.stage.batch_size
    assert calls == [["start", *["update"] * updates, 0, "end"], ["complete"]]
    assert capsys.readouterr().out == ""


def test_calibration_runs_once_on_the_best_checkpoint(datasets, tmp_path, monkeypatch):
    scores, calibrated = [0.6, 0.9, 0.7], []
    monkeypatch.setattr(ClassifierObjective, "score", lambda self, record: scores[record["epoch"]])
    calibrate = fitting.calibrate

    def counted(model, dataset, **options):
        calibrated.append(read_header(best_path(tmp_path, MULTIRES.name)).epoch)
        return calibrate(model, dataset, **options)

    monkeypatch.setattr(fitting, "calibrate", counted)
    recipe = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, epochs=3))
    fit(recipe, tmp_path, train_set=datasets[0], val_set=datasets[1], callbacks=[])
    best = read_header(best_path(tmp_path, MULTIRES.name))
    assert calibrated == [2] and best.epoch == 2 and best.scores is not None
    assert read_header(last_path(tmp_path, MULTIRES.name)).scores is None


def test_train_trains_what_a_recipe_begins_with(demo_folder, tmp_path, capsys):
    run = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    run.prepare_data()
    history = train(run, "multires_pcm", callbacks=[])
    assert [record["stage"] for record in history] == ["seam"] and "multires_tiny" in capsys.readouterr().out
    first = best_path(run.models, "multires_tiny")
    before = first.stat().st_mtime_ns
    assert list(train_missing(run, callbacks=[])) == ["tiny"]
    assert train_missing(run, callbacks=[]) == {} and first.stat().st_mtime_ns == before
    save_checkpoint(first, load_checkpoint(first)[0], metadata=replace(read_header(first), scores=None))
    assert list(train_missing(run, callbacks=[])) == ["multires_tiny"]  # it was not finished
