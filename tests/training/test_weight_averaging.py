"""The moving average of the weights, held against sums by hand; that it is what is judged and kept."""

from dataclasses import replace

import pytest
import torch
from helpers.batches import two_sets
from safetensors.torch import load_file
from torch import nn

from cxr_seam.data.transforms import eval_transform
from cxr_seam.models.checkpoint import best_path, last_path, load_checkpoint
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import train
from cxr_seam.training.losses import balanced_bce
from cxr_seam.training.optim import average_of
from cxr_seam.training.trainer import Trainer

RECIPE = get_recipe("multires_tiny")
DECAY = 0.5
AVERAGED = replace(RECIPE, classifier_stage=replace(RECIPE.classifier_stage, epochs=2, batch_size=4, ema_decay=DECAY))


@pytest.fixture(scope="module")
def films(demo_folder, demo_store):
    return two_sets(demo_folder, demo_store, training=12, validation=6)


@pytest.fixture(scope="module")
def trained(films, tmp_path_factory):
    """A folder with an averaged run's models, and the weights after each of its updates."""
    folder, weights = tmp_path_factory.mktemp("averaged"), []
    apply = Trainer.apply

    def noted(trainer):
        apply(trainer)
        weights.append({key: value.clone() for key, value in trainer.module.model.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="no film that"):
        patch.setattr(Trainer, "apply", noted)
        history = train(AVERAGED, folder, train_set=films[0], val_set=films[1])
    return folder, weights, history


def test_three_updates_by_hand():
    """0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4 = 1.39: the first update gives the weights, the others a tenth each."""
    module = nn.BatchNorm2d(1)
    average = average_of(module, decay=0.9)
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(module.weight, value)
        module.running_mean.fill_(10 * value)
        average.update_parameters(module)
    assert average.module.weight.item() == pytest.approx(1.39)
    assert average.module.running_mean.item() == pytest.approx(13.9)
    assert module.weight.item() == 4 and not any(p.requires_grad for p in average.parameters())


def test_what_is_kept_is_the_average_of_all_updates(trained):
    folder, weights, _ = trained
    assert len(weights) == 6
    kept = load_file(last_path(folder, RECIPE.name))
    for key, value in kept.items():
        if not value.is_floating_point():
            continue
        expected = weights[0][key].double()
        for later in weights[1:]:
            expected = DECAY * expected + (1 - DECAY) * later[key].double()
        assert torch.allclose(value.double(), expected, rtol=1e-5, atol=1e-6), key
    moved = [key for key in kept if not torch.equal(kept[key], weights[-1][key])]
    assert any(key.endswith("running_mean") for key in moved) and "classifier.weight" in moved


def test_what_is_validated_is_what_is_kept(trained, films):
    folder, _, history = trained
    model, metadata = load_checkpoint(last_path(folder, RECIPE.name))
    assert metadata.metrics == history[-1]
    losses = []
    for part in (range(4), range(4, 6)):
        pixels, labels = films[1].__getitems__(list(part))
        with torch.no_grad():
            logits = model(eval_transform(pixels, size=RECIPE.image_size), maps=False).logits
        losses.append(balanced_bce(logits, labels).item() * len(part))
    assert history[-1]["validation_loss"] == pytest.approx(sum(losses) / 6, rel=1e-4)
    best = max(history, key=lambda record: record["validation_auc"])
    assert load_checkpoint(best_path(folder, RECIPE.name))[1].metrics == best


def test_averaging_changes_no_update(trained, films, tmp_path):
    """It looks on: losses and last weights of the run itself are those of a run without it."""
    plain = replace(AVERAGED, classifier_stage=replace(AVERAGED.classifier_stage, ema_decay=None))
    with pytest.warns(UserWarning, match="no film that"):
        history = train(plain, tmp_path, train_set=films[0], val_set=films[1])
    _, weights, averaged = trained
    assert [r["train_loss"] for r in history] == [r["train_loss"] for r in averaged]
    last = load_file(last_path(tmp_path, RECIPE.name))
    assert all(torch.equal(last[key], value) for key, value in weights[-1].items())
