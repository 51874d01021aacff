import pickle

import pytest
import torch
from safetensors.torch import save_file

from cxr_seam.errors import InputError
from cxr_seam.models.checkpoint import Checkpoint, load_checkpoint, read_header, save_checkpoint
from cxr_seam.models.multires import build_model
from cxr_seam.presets import get_recipe

RECIPE = get_recipe("multires_tiny")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(RECIPE.model, weights="none").eval()


def test_what_is_loaded_computes_what_was_saved(model, tmp_path):
    path = tmp_path / "a model ä.safetensors"
    saved = Checkpoint(RECIPE, epoch=3, metrics={"validation_auc": 0.75}, thresholds={"Mass": 0.25, "Hernia": None})
    save_checkpoint(path, model, metadata=saved)
    loaded, metadata = load_checkpoint(path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(loaded(images), model(images), strict=True):
            assert torch.equal(ours, theirs)
    assert metadata == saved
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


class Bomb:
    def __reduce__(self):
        return (open, ("/tmp/cxr_seam_bomb_went_off", "w"))


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    import os

    for name, content in [("p.safetensors", pickle.dumps(Bomb())), ("empty.safetensors", b"")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is not a readable safetensors checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not os.path.exists("/tmp/cxr_seam_bomb_went_off")


def test_missing_foreign_and_truncated_files_are_told(model, tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        read_header(tmp_path / "none.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="foreign.safetensors holds weights but no cxr_seam header"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    whole = save_checkpoint(tmp_path / "whole.safetensors", model, metadata=Checkpoint(RECIPE)).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="half.safetensors"):
        load_checkpoint(tmp_path / "half.safetensors")


def test_weights_of_another_model_are_refused(model, tmp_path):
    save_checkpoint(tmp_path / "m.safetensors", model, metadata=Checkpoint(get_recipe("tiny")))
    with pytest.raises(InputError, match="m.safetensors do not fit a efficientnet_lite0"):
        load_checkpoint(tmp_path / "m.safetensors")
