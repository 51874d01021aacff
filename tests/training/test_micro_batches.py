"""A GPU whose memory is too small, by PyTorch's own error raised on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.nih import load_metadata
from cxr_seam.device import is_oom, step
from cxr_seam.errors import InputError
from cxr_seam.inference.calibration import negative_mean_cam
from cxr_seam.models.multires import build_from_recipe, build_model
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import train
from cxr_seam.training.objectives import make_objective
from cxr_seam.training.trainer import Trainer, validate

FULL = torch.cuda.OutOfMemoryError("a GPU's words")
MULTIRES, REFINED = get_recipe("multires_tiny"), get_recipe("multires_tiny_pcm")


@pytest.fixture(scope="module")
def films(demo_folder, demo_store):
    return ChestXrayDataset(demo_store, load_metadata(demo_folder), image_index=demo_store.image_index[:21])


def loop_of(recipe, films, *, most=100):
    """A loop whose network holds no more than so many films at once."""
    torch.manual_seed(0)
    trainer = Trainer(make_objective(build_model(recipe.model, weights="none"), recipe), recipe, films)
    forward = trainer.objective.forward
    trainer.seen = []

    def forgetful(images, labels, **options):
        trainer.seen.append(len(images))
        if len(images) > most:
            raise FULL
        return forward(images, labels, **options)

    trainer.objective.forward = forgetful
    return trainer


@pytest.mark.parametrize("recipe", [MULTIRES, REFINED], ids=lambda recipe: recipe.name)
def test_validation_in_pieces_measures_the_same(recipe, films):
    """Class weights are the whole batch's, and so are the rotations; 21 films are two batches of eight and one of 5."""
    expected, logits = validate(loop_of(recipe, films), films)
    trainer = loop_of(recipe, films, most=3)
    with pytest.warns(UserWarning, match="too small for 4 films at once"):
        found, again = validate(trainer, films)
    assert trainer.pieces.count == 4 and trainer.seen == [8, 4, *[2] * 8, 1, 1, 1, 2]
    assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-5)
    assert (logits is None) is (again is None)
    if logits is not None:
        assert np.allclose(logits, again, atol=1e-5)
        assert found["validation_auc"] == expected["validation_auc"]


def weights(*, fails):
    """Weights after three updates by Adam; memory runs out in the first one, after some moments were made."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n)) for n in (3, 5, 2)]
    optimiser = torch.optim.Adam(parameters, lr=0.1)
    make, made = torch.zeros_like, []

    def short(*arguments, **options):
        made.append(None)
        if len(made) in fails:
            raise FULL
        return make(*arguments, **options)

    torch.zeros_like = short
    try:
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = parameter.detach() * 2
            step(optimiser)
    finally:
        torch.zeros_like = make
    return torch.cat([parameter.detach() for parameter in parameters])


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 6])
def test_an_update_whose_moments_found_no_room_is_made_once(moment):
    assert torch.equal(weights(fails={moment}), weights(fails=set()))


def test_what_cannot_be_helped_is_a_sentence(films, tmp_path, monkeypatch):
    def full(*_):
        raise FULL

    monkeypatch.setattr("cxr_seam.training.trainer.step", full)
    recipe = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, epochs=1))
    with (
        pytest.raises(InputError, match=r"memory is too small for this training \(a GPU's words\); close what else"),
        pytest.warns(UserWarning, match="no film that"),
    ):
        train(recipe, tmp_path, train_set=films, val_set=films)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_a_memory_too_small_is_known_in_all_its_words(words):
    assert is_oom(RuntimeError(words))
    assert not is_oom(RuntimeError("shape '[2]' is invalid for input of size 3"))


def test_usual_maps_in_pieces_are_the_same(films, monkeypatch):
    recipe = replace(MULTIRES, cam_baseline="negative_mean", tta_flip=True)
    model = build_from_recipe(recipe, weights="none").eval()
    expected = negative_mean_cam(model, films, recipe=recipe)
    forward, sizes = type(model).forward, []

    def narrow(self, images, **options):
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.cuda.OutOfMemoryError("too many")
        return forward(self, images, **options)

    monkeypatch.setattr(type(model), "forward", narrow)
    with pytest.warns(UserWarning, match="memory is too small"):
        found = negative_mean_cam(model, films, recipe=recipe)
    assert max(sizes) > 4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
