"""A batch in micro-batches equals the whole batch; GPU memory runs out by PyTorch's own error, raised on the CPU."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.device import is_oom
from cxr_seam.errors import InputError
from cxr_seam.models.build import build_model
from cxr_seam.presets import get_recipe
from cxr_seam.training.batch_split import BatchSplit, optimiser_step
from cxr_seam.training.fit import fit
from cxr_seam.training.objectives import make_objective
from cxr_seam.training.trainer import Trainer

OOM = torch.cuda.OutOfMemoryError("a GPU's words")
MULTIRES, REFINED = get_recipe("multires_tiny"), get_recipe("multires_tiny_pcm")


@pytest.fixture(scope="module")
def dataset(demo_folder, demo_cache):
    return ChestXrayDataset(demo_cache, load_metadata(demo_folder), image_index=demo_cache.image_index[:21])


class SmallMemory(nn.Module):
    """An objective that runs out of memory with more than `limit` images at once."""

    def __init__(self, objective, limit):
        super().__init__()
        self.objective, self.limit, self.sizes = objective, limit, []

    def forward(self, images, labels, **params):
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise OOM
        return self.objective(images, labels, **params)

    def train(self, mode=True):
        """Normalise batches by the running statistics: then the result does not depend on their size."""
        return super().train(False)


def trainer_with(recipe, dataset, *, limit=100):
    torch.manual_seed(0)
    objective = make_objective(build_model(recipe.model, weights="none"), recipe)
    return Trainer(SmallMemory(objective, limit), recipe, dataset)


def gradients(recipe, dataset, limit, monkeypatch):
    """The gradients of the first update, and the trainer."""
    trainer = trainer_with(recipe, dataset, limit=limit)
    monkeypatch.setattr("cxr_seam.training.trainer.optimiser_step", lambda optimiser: None)
    next(trainer.train_epoch())
    return {name: p.grad for name, p in trainer.module.named_parameters() if p.grad is not None}, trainer


@pytest.mark.parametrize("recipe", [MULTIRES, REFINED], ids=lambda recipe: recipe.name)
def test_micro_batches_give_the_gradients_of_the_whole_batch(recipe, dataset, monkeypatch):
    field = "classifier_stage" if recipe.seam_stage is None else "seam_stage"
    recipe = replace(recipe, **{field: replace(recipe.stage, batch_size=8, grad_accum_steps=2, max_grad_norm=None)})
    expected, whole = gradients(recipe, dataset, 8, monkeypatch)
    with pytest.warns(UserWarning, match=recipe.name):
        found, trainer = gradients(recipe, dataset, 3, monkeypatch)
    assert trainer.split.micro_batches == 4
    assert trainer.module.sizes == [8, 4, *[2] * 8]  # two batches of eight, from the first one again
    assert found.keys() == expected.keys() and len(found) >= 1
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max())
    for name, losses in whole.losses.items():
        assert torch.allclose(trainer.losses[name], losses, rtol=1e-5)
    labels = torch.from_numpy(dataset.labels[next(trainer.sampler.batches())])
    assert not torch.equal(labels[:2].mean(dim=0), labels.mean(dim=0))  # their own class weights would differ


@pytest.mark.parametrize("recipe", [MULTIRES, REFINED], ids=lambda recipe: recipe.name)
def test_validation_in_micro_batches_is_the_same(recipe, dataset):
    """21 images are two batches of eight and one of five."""
    expected = trainer_with(recipe, dataset).validate(dataset)
    trainer = trainer_with(recipe, dataset, limit=3)
    with pytest.warns(UserWarning, match=recipe.name):
        found = trainer.validate(dataset)
    assert trainer.split.micro_batches == 4 and trainer.module.sizes == [8, 4, *[2] * 8, 1, 1, 1, 2]
    assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-5)
    assert found["validation_auc"] == expected["validation_auc"]


def test_no_memory_for_one_image_is_refused(dataset):
    with pytest.raises(InputError, match="multires_tiny"), pytest.warns(UserWarning):
        next(trainer_with(MULTIRES, dataset, limit=0).train_epoch())


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_slices_of_all_processes_are_the_batch(ranks, micro_batches):
    for n_images in (2, 7, 23):
        indices = []
        for rank in range(ranks):
            split = BatchSplit(SimpleNamespace(process_index=rank, num_processes=ranks), name="test")
            split.micro_batches = micro_batches
            slices = split.slices(n_images)
            sizes = [part.stop - part.start for part in slices]
            assert all(size > 0 for size in sizes) and len(sizes) <= micro_batches
            assert not sizes or max(sizes) - min(sizes) <= 1
            indices += [index for part in slices for index in range(n_images)[part]]
        assert indices == list(range(n_images))


def weights_after_three_updates(*, fails):
    """Adam's weights; allocating the moments with these numbers runs out of memory."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n)) for n in (3, 5, 2)]
    optimiser = torch.optim.Adam(parameters, lr=0.1)
    allocate, allocated = torch.zeros_like, []

    def full(*arguments, **options):
        allocated.append(None)
        if len(allocated) in fails:
            raise OOM
        return allocate(*arguments, **options)

    torch.zeros_like = full
    try:
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = parameter.detach() * 2
            optimiser_step(optimiser)
    finally:
        torch.zeros_like = allocate
    return torch.cat([parameter.detach() for parameter in parameters])


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 6])
def test_update_without_room_for_moments_is_repeated_once(moment):
    assert torch.equal(weights_after_three_updates(fails={moment}), weights_after_three_updates(fails=set()))


@pytest.mark.filterwarnings("ignore:no training image")
def test_oom_elsewhere_is_an_input_error(dataset, tmp_path, monkeypatch):
    def full(*_):
        raise OOM

    monkeypatch.setattr("cxr_seam.training.trainer.optimiser_step", full)
    with pytest.raises(InputError, match="a GPU's words"):
        fit(MULTIRES, tmp_path, train_set=dataset, val_set=dataset, callbacks=[])


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_oom_is_recognised_in_all_its_words(words):
    assert is_oom(RuntimeError(words))
    assert not is_oom(RuntimeError("shape '[2]' is invalid for input of size 3"))


@pytest.mark.parametrize(
    "variable",
    ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4", "ACCELERATE_USE_FSDP=true", "ACCELERATE_DYNAMO_BACKEND=inductor"],
)
def test_environment_does_not_change_a_training(variable, dataset, monkeypatch):
    """With 4 accumulation steps in the environment, accelerate divides every gradient by 4."""
    name, value = variable.split("=")
    monkeypatch.setenv(name, value)
    objective = make_objective(build_model(MULTIRES.model, weights="none"), MULTIRES)
    with pytest.raises(InputError, match=name):
        Trainer(objective, MULTIRES, dataset)


def test_environment_of_accelerate_launch_is_accepted(dataset, monkeypatch):
    for name, value in {
        "USE_CPU": "true",
        "MIXED_PRECISION": "no",
        "DYNAMO_BACKEND": "NO",
        "GRADIENT_ACCUMULATION_STEPS": "1",
    }.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    objective = make_objective(build_model(MULTIRES.model, weights="none"), MULTIRES)
    assert Trainer(objective, MULTIRES, dataset).accelerator.gradient_accumulation_steps == 1
