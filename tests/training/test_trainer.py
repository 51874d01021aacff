"""One step and one epoch: what they freeze, how updates are grouped, and that nothing in a step makes a GPU wait."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.models.build import build_model
from cxr_seam.presets import get_recipe
from cxr_seam.training.objectives import make_objective
from cxr_seam.training.trainer import CHECK_EVERY, Trainer

MULTIRES, REFINED = get_recipe("multires_tiny"), get_recipe("multires_tiny_pcm")


@pytest.fixture(scope="module")
def dataset(demo_folder, demo_cache):
    return ChestXrayDataset(demo_cache, load_metadata(demo_folder), image_index=demo_cache.image_index[:16])


def trainer_of(recipe, dataset):
    torch.manual_seed(0)
    return Trainer(make_objective(build_model(recipe.model, weights="none"), recipe), recipe, dataset)


def run(trainer):
    for _ in trainer.train_epoch():
        pass


class Waits(TorchDispatchMode):
    """Notes the operations whose result the CPU must know before it can go on: on a GPU it waits there."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = [
            index
            for index in (args[1] if name in ("index", "index_put", "index_put_") else [])
            if index is not None and index.dtype == torch.bool
        ]
        if name in self.WAITING or masks:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def test_waits_are_detected():
    with Waits() as waits:
        values = torch.arange(3.0)
        values.sum().item()
        values[values > 1]
    assert {"_local_scalar_dense", "index"} <= set(waits.seen)


@pytest.mark.parametrize("recipe", [MULTIRES, REFINED], ids=lambda recipe: recipe.name)
def test_training_step_does_not_wait_for_the_gpu(recipe, dataset):
    trainer = trainer_of(recipe, dataset)
    indices = next(trainer.sampler.batches())
    params = trainer.sample_params(dataset, indices, trainer.generator)
    trainer.objective.train()
    with Waits() as waits:
        trainer.compute_losses(trainer.objective, dataset, indices, params)["loss"].backward()
    assert waits.seen == []


def test_three_batches_make_one_update(dataset):
    recipe = replace(
        MULTIRES,
        classifier_stage=replace(MULTIRES.classifier_stage, batch_size=4, grad_accum_steps=3, schedule="constant"),
    )
    trainer = trainer_of(recipe, dataset)
    weights = next(p for p in trainer.objective.parameters() if p.requires_grad)
    before, moved = weights.detach().clone(), []
    for done in trainer.train_epoch():
        moved.append((done, not torch.equal(weights, before)))
        before = weights.detach().clone()
    assert moved == [(3, True), (4, True)]  # after the third batch, and after the fourth, which ends the epoch


def frozen_part(objective):
    return nn.ModuleList(objective.model.backbone.stages[:3])


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_of_frozen_stages(dataset, frozen):
    recipe = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, freeze_bn_stats=frozen))
    trainer = trainer_of(recipe, dataset)
    before = {key: value.clone() for key, value in frozen_part(trainer.objective).state_dict().items()}
    run(trainer)
    changed = {key for key, v in frozen_part(trainer.objective).state_dict().items() if not torch.equal(v, before[key])}
    assert all("running" in key or "num_batches" in key for key in changed)  # weights never
    assert bool(changed) is not frozen


def test_frozen_stages_build_no_graph(dataset):
    trainer = trainer_of(MULTIRES, dataset)
    trainer.objective.train()
    maps = trainer.objective.model.backbone(torch.randn(2, 3, 64, 64))
    strides = [64 // m.shape[-1] for m in maps]
    assert [(stride, m.requires_grad) for stride, m in zip(strides, maps, strict=True)][-3:] == [
        (8, False),
        (16, True),
        (32, True),
    ]


def test_frozen_head_does_not_change(dataset):
    recipe = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, train_head=False))
    trainer = trainer_of(recipe, dataset)
    head = nn.ModuleList([*trainer.objective.model.merges, trainer.objective.model.classifier])
    before = {key: value.clone() for key, value in head.state_dict().items()}
    run(trainer)
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


class Nan(nn.Module):
    """An objective with a term that is NaN in its third batch."""

    def __init__(self, objective, term):
        super().__init__()
        self.objective, self.term, self.calls = objective, term, 0

    def forward(self, images, labels, **params):
        result = self.objective(images, labels, **params)
        self.calls += 1
        if self.calls == 3:
            result |= {name: result[name] * torch.nan for name in (self.term, "loss")}
        return result


@pytest.mark.parametrize("every", [1, 32])
def test_nan_in_a_loss_names_term_batch_and_images(dataset, every, monkeypatch):
    monkeypatch.setitem(CHECK_EVERY, "cpu", every)  # on a GPU losses are checked later
    recipe = replace(REFINED, seam_stage=replace(REFINED.seam_stage, batch_size=4))
    torch.manual_seed(0)
    trainer = Trainer(Nan(make_objective(build_model(recipe.model, weights="none"), recipe), "msml"), recipe, dataset)
    third = ", ".join(dataset.image_index[index] for index in list(trainer.sampler.batches())[2])
    with pytest.raises(InputError, match=rf"^msml of {recipe.name} is nan in epoch 0, batch 2; .*{third}$"):
        run(trainer)


def test_too_small_images_are_refused(dataset):
    with pytest.raises(InputError, match="128"):
        trainer_of(replace(MULTIRES, image_size=128), dataset)


def test_random_parameters_follow_the_generator(dataset):
    """A continued epoch samples what an uninterrupted one does: the generator is part of the state."""
    trainer, again = trainer_of(REFINED, dataset), trainer_of(REFINED, dataset)
    indices = next(trainer.sampler.batches())
    trainer.sample_params(dataset, indices, trainer.generator)
    again.generator.set_state(trainer.generator.get_state())
    ours, theirs = (t.sample_params(dataset, indices, t.generator) for t in (trainer, again))
    assert torch.equal(ours.rotation.angle, theirs.rotation.angle)
    assert torch.equal(ours.augmentation.scale, theirs.augmentation.scale)
    trainer.start_epoch(0)
    assert not torch.equal(
        trainer.sample_params(dataset, indices, trainer.generator).rotation.angle, ours.rotation.angle
    )
