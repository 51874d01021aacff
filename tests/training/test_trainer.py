"""The pass over the films: what it freezes, how it groups updates, and that nothing in it makes a GPU wait."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cxr_seam.data.dataset import ChestXrayDataset, load
from cxr_seam.data.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.models.multires import build_model
from cxr_seam.presets import get_recipe
from cxr_seam.training.objectives import make_objective
from cxr_seam.training.trainer import CHECKED_EVERY, Trainer

MULTIRES, REFINED = get_recipe("multires_tiny"), get_recipe("multires_tiny_pcm")


@pytest.fixture(scope="module")
def films(demo_folder, demo_store):
    return ChestXrayDataset(demo_store, load_metadata(demo_folder), image_index=demo_store.image_index[:16])


def loop_of(recipe, films):
    torch.manual_seed(0)
    return Trainer(make_objective(build_model(recipe.model, weights="none"), recipe), recipe, films)


def run(trainer):
    for _ in trainer.updates():
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


def test_the_watch_sees_what_it_watches_for():
    with Waits() as waits:
        values = torch.arange(3.0)
        values.sum().item()
        values[values > 1]
    assert {"_local_scalar_dense", "index"} <= set(waits.seen)


@pytest.mark.parametrize("recipe", [MULTIRES, REFINED], ids=lambda recipe: recipe.name)
def test_nothing_in_a_step_asks_for_a_value(recipe, films):
    trainer = loop_of(recipe, films)
    pixels, labels = next(iter(load(films, trainer.sampler)))
    trainer.objective.train()
    with Waits() as waits:
        trainer.learn(trainer.vary(pixels), labels)
    assert waits.seen == []


def test_gradients_of_three_batches_make_one_update(films):
    recipe = replace(
        MULTIRES,
        classifier_stage=replace(MULTIRES.classifier_stage, batch_size=4, grad_accum_steps=3, schedule="constant"),
    )
    trainer = loop_of(recipe, films)
    weights = next(p for p in trainer.objective.parameters() if p.requires_grad)
    before, moved = weights.detach().clone(), []
    for done in trainer.updates():
        moved.append((done, not torch.equal(weights, before)))
        before = weights.detach().clone()
    assert moved == [(3, True), (4, True)]  # after the third batch, and after the fourth, which ends the epoch


def frozen_part(objective):
    return nn.ModuleList(objective.model.backbone.stages[:3])


@pytest.mark.parametrize("kept", [True, False])
def test_batch_norm_of_frozen_stages_does_as_the_recipe_says(films, kept):
    recipe = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, freeze_bn_stats=kept))
    trainer = loop_of(recipe, films)
    before = {key: value.clone() for key, value in frozen_part(trainer.objective).state_dict().items()}
    run(trainer)
    changed = {key for key, v in frozen_part(trainer.objective).state_dict().items() if not torch.equal(v, before[key])}
    assert all("running" in key or "num_batches" in key for key in changed)  # weights never
    assert bool(changed) is not kept


def test_frozen_stages_build_no_graph(films):
    trainer = loop_of(MULTIRES, films)
    trainer.objective.train()
    maps = trainer.objective.model.backbone(torch.randn(2, 3, 64, 64))
    strides = [64 // m.shape[-1] for m in maps]
    assert [(stride, m.requires_grad) for stride, m in zip(strides, maps, strict=True)][-3:] == [
        (8, False),
        (16, True),
        (32, True),
    ]


def test_a_frozen_head_stays_as_it_was_drawn(films):
    recipe = replace(MULTIRES, classifier_stage=replace(MULTIRES.classifier_stage, train_head=False))
    trainer = loop_of(recipe, films)
    head = nn.ModuleList([*trainer.objective.model.merges, trainer.objective.model.classifier])
    before = {key: value.clone() for key, value in head.state_dict().items()}
    run(trainer)
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


class Forgetful(nn.Module):
    """An objective that runs out of memory with more than so many films at once."""

    def __init__(self, objective, most):
        super().__init__()
        self.objective, self.most, self.seen = objective, most, []

    def forward(self, images, labels, **options):
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.cuda.OutOfMemoryError("a GPU's words")
        return self.objective(images, labels, **options)

    def train(self, mode=True):
        """Batch normalisation by what it has learnt: batches of any size are then normalised alike."""
        return super().train(False)


def gradients(recipe, films, most):
    """The gradients of the first update, the loop and what it warned of."""
    torch.manual_seed(0)
    objective = Forgetful(make_objective(build_model(recipe.model, weights="none"), recipe), most)
    trainer = Trainer(objective, recipe, films)
    found = {}
    trainer.apply = lambda: found.update(
        {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    )
    next(trainer.updates())
    return found, trainer


@pytest.mark.parametrize("recipe", [MULTIRES, REFINED], ids=lambda recipe: recipe.name)
def test_where_memory_is_short_the_update_is_the_same_in_pieces(recipe, films):
    part = "classifier_stage" if recipe.seam_stage is None else "seam_stage"
    recipe = replace(recipe, **{part: replace(recipe.stage, batch_size=8, grad_accum_steps=2)})
    expected, _ = gradients(recipe, films, most=8)
    with pytest.warns(UserWarning, match="too small for 4 films at once; .* goes on with 2 and accumulates 4 times"):
        found, trainer = gradients(recipe, films, most=3)
    assert trainer.pieces.count == 4 and trainer.objective.seen == [
        8,
        4,
        *[2] * 8,
    ]  # two batches of eight, from the first anew
    assert found.keys() == expected.keys() and len(found) >= 1
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max())
    labels = torch.from_numpy(films.labels[next(trainer.sampler.whole())])
    assert not torch.equal(labels[:2].mean(dim=0), labels.mean(dim=0))  # the pieces' own class weights would differ


def test_a_memory_too_small_for_one_film_is_told(films):
    with pytest.raises(InputError, match="too small for a single film of multires_tiny"), pytest.warns(UserWarning):
        gradients(MULTIRES, films, most=0)


class Nan(nn.Module):
    """An objective whose term is no number in its third batch."""

    def __init__(self, objective, term):
        super().__init__()
        self.objective, self.term, self.calls = objective, term, 0

    def forward(self, images, labels, **options):
        result = self.objective(images, labels, **options)
        self.calls += 1
        if self.calls == 3:
            result[self.term] = result[self.term] * torch.nan
            result["loss"] = result["loss"] * torch.nan
        return result


@pytest.mark.parametrize("every", [1, 32])
def test_a_loss_that_is_no_number_is_told_with_its_term_step_and_images(films, every, monkeypatch):
    monkeypatch.setitem(CHECKED_EVERY, "cpu", every)  # a GPU's losses are looked at later, and told no less exactly
    recipe = replace(REFINED, seam_stage=replace(REFINED.seam_stage, batch_size=4))
    torch.manual_seed(0)
    trainer = Trainer(Nan(make_objective(build_model(recipe.model, weights="none"), recipe), "msml"), recipe, films)
    third = [", ".join(films.image_index[place] for place in batch) for batch in trainer.sampler.whole()][2]
    with pytest.raises(InputError) as caught:
        run(trainer)
    text = str(caught.value)
    assert text.startswith("the term msml of the loss of multires_tiny_pcm is nan in epoch 0, batch 2;")
    assert text.endswith(third)
