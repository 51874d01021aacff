import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cxr_seam.errors import InputError
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import (
    HEADER,
    QUICKSTART_FILE,
    Checkpoint,
    ScoreCalibration,
    TrainingData,
    checkpoint_path,
    load_checkpoint,
    read_header,
    save_checkpoint,
)
from cxr_seam.presets import get_recipe

RECIPE = get_recipe("multires_tiny")
SCORE = ScoreCalibration(
    12, 88, slope=1 / 3, intercept=-np.pi, thresholds={"youden": 0.1 + 0.2, "specificity_90": 1e-300}
)
DATA = TrainingData(cache_size=128, train_fingerprint="a", val_fingerprint="b", pixel_crc="c", init_fingerprint=None)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(RECIPE.model, weights="none").eval()


def test_loaded_model_equals_saved_model(model, tmp_path):
    path = tmp_path / "a model ä.safetensors"
    saved = Checkpoint(
        RECIPE,
        epoch=3,
        metrics={"validation_auc": 0.75},
        scores={"Mass": SCORE, "Hernia": ScoreCalibration(0, 9)},
        data=DATA,
    )
    save_checkpoint(path, model, metadata=saved)
    loaded, metadata = load_checkpoint(path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(loaded(images), model(images), strict=True):
            assert torch.equal(ours, theirs)
    assert metadata == saved == read_header(path) and metadata.cache_size == 128
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def test_half_precision_weights_are_loaded_as_float32(model, tmp_path):
    half = copy.deepcopy(model)
    for parameter in half.parameters():
        parameter.data = parameter.data.half()
    path = save_checkpoint(tmp_path / "half.safetensors", half, metadata=Checkpoint(RECIPE))
    loaded, _ = load_checkpoint(path)
    exact = dict(model.named_parameters())
    for name, value in loaded.named_parameters():
        assert value.dtype is torch.float32
        torch.testing.assert_close(value, exact[name], rtol=2**-11, atol=2**-25)  # rounding of IEEE 754 binary16
    assert all(torch.equal(value, model.get_buffer(name)) for name, value in loaded.named_buffers())


def test_quickstart_is_a_name_and_no_file_is_mistaken_for_it(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # a folder is no checkpoint
    assert checkpoint_path("quickstart") == QUICKSTART_FILE
    (tmp_path / "quickstart").rmdir()
    save_checkpoint("quickstart", model, metadata=Checkpoint(RECIPE))
    for read in (read_header, load_checkpoint):
        with pytest.raises(InputError, match="./quickstart"):
            read("quickstart")
    for path in ("./quickstart", Path("quickstart")):
        assert load_checkpoint(path)[1].recipe == RECIPE
    with pytest.raises(InputError):
        checkpoint_path("")


class Bomb:
    def __reduce__(self):
        return (open, ("/tmp/cxr_seam_bomb_went_off", "w"))


def test_pickle_is_refused_and_not_executed(tmp_path):
    import os

    for name, content in [("p.safetensors", pickle.dumps(Bomb())), ("empty.safetensors", b"")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_checkpoint(tmp_path / name)
    assert not os.path.exists("/tmp/cxr_seam_bomb_went_off")


def test_recipe_of_an_earlier_version_has_the_papers_refiner_input(model, tmp_path):
    path = save_checkpoint(tmp_path / "m.safetensors", model, metadata=Checkpoint(RECIPE))
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    assert header["recipe"].pop("refiner_input")
    save_file(load_file(path), path, metadata={HEADER: json.dumps(header)})
    loaded, metadata = load_checkpoint(path)
    assert metadata.recipe.refiner_input == loaded.refiner_input == "suppressed"


def test_missing_foreign_and_truncated_files_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="none.safetensors"):
        read_header(tmp_path / "none.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="foreign.safetensors"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    whole = save_checkpoint(tmp_path / "whole.safetensors", model, metadata=Checkpoint(RECIPE)).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="half.safetensors"):
        load_checkpoint(tmp_path / "half.safetensors")


def test_weights_of_another_model_are_refused(model, tmp_path):
    save_checkpoint(tmp_path / "m.safetensors", model, metadata=Checkpoint(get_recipe("tiny")))
    with pytest.raises(InputError, match="m.safetensors.*efficientnet_lite0"):
        load_checkpoint(tmp_path / "m.safetensors")


def rewrite_header(path, change):
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    change(header)
    save_file(load_file(path), path, metadata={HEADER: json.dumps(header)})


def test_tensor_names_and_header_keys_are_plain(model, tmp_path):
    path = save_checkpoint(tmp_path / "m.safetensors", model, metadata=Checkpoint(RECIPE, data=DATA))
    assert {key.split(".")[0] for key in load_file(path)} == {"backbone", "merges", "classifier", "refiner"}
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    assert set(header) == {"format", "findings", "recipe", "epoch", "metrics", "scores", "data"}
    assert header["data"]["cache_size"] == 128


@pytest.mark.parametrize("name", ["tiny", "multires_tiny"])
def test_model_of_other_findings_survives(name, tmp_path):
    findings, scores = ("Bruch der Rippe", "fluid"), {"fluid": SCORE}
    recipe = get_recipe(name)
    model = build_model(recipe.model, weights="none", findings=findings).eval()
    metadata = Checkpoint(recipe, findings=findings, scores=scores)
    loaded, found = load_checkpoint(save_checkpoint(tmp_path / "m.safetensors", model, metadata=metadata))
    assert loaded.findings == found.findings == findings and found.scores == scores
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert [output.shape[1] for output in loaded(images) if output is not None] == [2] * (3 if loaded.merges else 2)
        for ours, theirs in zip(loaded(images), model(images), strict=True):
            assert ours is theirs is None or torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("findings"),
        lambda header: header.update(findings=[]),
        lambda header: header.update(findings=["Mass", "Mass"]),
        lambda header: header.update(findings=["Mass", ""]),
        lambda header: header.update(findings="Mass"),
        lambda header: header.update(findings=[1, 2]),
        lambda header: header.update(scores={"Fracture": {"positives": 1, "negatives": 1}}),
        lambda header: header.update(findings=header["findings"][:13]),  # the weights have fourteen outputs
    ],
)
def test_header_with_wrong_findings_is_refused(change, model, tmp_path):
    path = save_checkpoint(tmp_path / "m.safetensors", model, metadata=Checkpoint(RECIPE))
    rewrite_header(path, change)
    with pytest.raises(InputError, match="m.safetensors"):
        load_checkpoint(path)


@pytest.mark.parametrize("old", [3, None])
def test_checkpoint_of_an_earlier_version_is_refused_in_one_sentence(model, tmp_path, old):
    path = save_checkpoint(tmp_path / "old.safetensors", model, metadata=Checkpoint(RECIPE))
    rewrite_header(path, lambda header: header.update(format=old))
    with pytest.raises(InputError, match=r"old.safetensors.*train again with this version$"):
        load_checkpoint(path)


def test_negative_mean_survives_and_wrong_shapes_are_refused(model, tmp_path):
    cams = {"cam": torch.rand(14, 8, 8), "refined": torch.rand(14, 8, 8)}
    path = save_checkpoint(tmp_path / "m.safetensors", model, metadata=Checkpoint(RECIPE, negative_mean=cams))
    loaded = load_checkpoint(path)[1].negative_mean
    assert set(loaded) == set(cams) and all(torch.equal(loaded[key], cams[key]) for key in cams)
    for wrong in ({"cam": torch.rand(13, 8, 8)}, {"cam": torch.rand(8, 8)}, {"heat": torch.rand(14, 8, 8)}):
        save_checkpoint(path, model, metadata=Checkpoint(RECIPE, negative_mean=wrong))
        with pytest.raises(InputError, match="m.safetensors"):
            load_checkpoint(path)
