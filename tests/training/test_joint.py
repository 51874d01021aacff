"""SEAM's joint training: the ER loss by hand, which loss reaches which parameters, rates, the record of an epoch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.batches import random_batch, two_sets
from torch import Tensor

from cxr_seam.data.transforms import rotation_params, sample_rotation
from cxr_seam.models.build import build_model
from cxr_seam.presets import JOINT, get_recipe
from cxr_seam.recipes import SeamStage
from cxr_seam.training.extras.equivariance import er_loss
from cxr_seam.training.losses import class_weights
from cxr_seam.training.objectives import JointObjective
from cxr_seam.training.optim import CLASSIFIER_RATE, make_optimiser
from cxr_seam.training.seam import SeamObjective
from cxr_seam.training.trainer import Trainer

RECIPE = replace(get_recipe("multires_tiny_pcm"), seam_stage=replace(JOINT, epochs=1, batch_size=8))


def objective(stage: SeamStage = JOINT) -> JointObjective:
    torch.manual_seed(0)
    return JointObjective(build_model("multires_timm:resnet18", weights="none"), stage)


def losses(seam: SeamObjective, images: Tensor, labels: Tensor, *, part: slice = slice(None)) -> dict[str, Tensor]:
    rotation = sample_rotation(len(images), 30.0, generator=torch.Generator().manual_seed(1))
    weights = class_weights(labels)
    return seam(images[part], labels[part], class_weights=weights, rotation=rotation[part])


def test_er_by_hand() -> None:
    """One of two findings is present; its CAM (4, 1; 1, 0) turns into (1, 0; 4, 1) by a quarter turn."""
    cam = torch.tensor([[[[4.0, 1.0], [1.0, 0.0]], [[9.0, 0.0], [0.0, 0.0]]]])
    turned = torch.tensor([[[[1.0, 0.0], [4.0, 1.0]], [[0.0, 9.0], [0.0, 0.0]]]])
    labels, valid = torch.tensor([[1.0, math.nan]]), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    quarter = rotation_params(torch.tensor([90.0]))
    assert er_loss(cam, turned, labels, rotation=quarter, valid=valid).item() == pytest.approx(0, abs=1e-5)
    other = torch.tensor([[[[2.0, 0.0], [4.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]]])  # one pixel of four differs by 1 / 4
    assert er_loss(cam, other, labels, rotation=quarter, valid=valid).item() == pytest.approx(1 / 16, abs=1e-5)
    valid[..., 0, 0] = False
    assert er_loss(cam, other * valid, labels, rotation=quarter, valid=valid).item() == pytest.approx(0, abs=1e-5)


def test_terms_add_up_and_the_refiners_loss_is_the_papers() -> None:
    seam, (images, labels) = objective().eval(), random_batch(4, side=64, share=0.2)
    terms = losses(seam, images, labels)
    refiner = 1.5 * terms["msml"] + terms["ecr"]
    assert terms["loss"].item() == pytest.approx((terms["bce"] + JOINT.er_weight * terms["er"] + refiner).item())
    assert terms["er"] > 0
    with torch.no_grad():
        papers = losses(SeamObjective(seam.model, SeamStage()).eval(), images, labels)
    assert refiner.item() == pytest.approx(papers["loss"].item(), rel=1e-5)


def test_slices_of_a_batch_average_to_the_whole() -> None:
    seam, (images, labels) = objective().eval(), random_batch(4, side=64, share=0.2)
    with torch.no_grad():
        whole, *halves = (
            losses(seam, images, labels, part=part)["loss"].item() for part in (slice(None), slice(2), slice(2, 4))
        )
    assert whole == pytest.approx(sum(halves) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("term", "classifier", "refiner"),
    [("er", True, False), ("bce", True, False), ("ecr", False, True), ("msml", False, True)],
)
def test_which_loss_trains_which_part(term: str, classifier: bool, refiner: bool) -> None:
    """The paper's losses do not change the classifier, and ER does not change the refiner."""
    seam = objective().eval()
    losses(seam, *random_batch(4, side=64, share=0.2))[term].backward()

    def learns(parameters: object) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in parameters)

    assert learns(seam.model.backbone.parameters()) == learns(seam.model.classifier.parameters()) == classifier
    assert learns(seam.model.refiner.parameters()) == refiner


def test_unknown_labels_and_empty_maps_give_finite_gradients() -> None:
    """A classifier with a bias of -100 has no positive evidence, so all maps are empty."""
    seam, (images, labels) = objective(), random_batch(4, side=64, share=0.2)
    labels[:, 5], labels[0] = math.nan, math.nan
    torch.nn.init.constant_(seam.model.classifier.bias, -100.0)
    terms = losses(seam, images, labels)
    terms["loss"].backward()
    assert all(value.isfinite().all() for value in terms.values()) and terms["er"] == 0
    assert all(p.grad.isfinite().all() for p in seam.parameters() if p.grad is not None)


def test_classifier_learns_at_a_tenth_of_the_rate() -> None:
    seam = objective()
    optimiser = make_optimiser(seam, replace(RECIPE, seam_stage=JOINT))
    rate_of = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert len(rate_of) == len(list(seam.parameters()))
    for name, parameter in seam.named_parameters():
        assert rate_of[id(parameter)] == JOINT.learning_rate * (1 if "refiner" in name else CLASSIFIER_RATE)


@pytest.mark.filterwarnings("ignore:no training image")
def test_epoch_trains_everything_and_reports_the_auc(demo_folder: Path, demo_cache) -> None:
    train_set, val_set = two_sets(demo_folder, demo_cache, training=16, validation=40)
    torch.manual_seed(0)
    trainer = Trainer(JointObjective(build_model(RECIPE.model, weights="none"), RECIPE.seam_stage), RECIPE, train_set)
    before = {name: p.detach().clone() for name, p in trainer.module.named_parameters()}
    for _ in trainer.train_epoch():
        pass
    record = trainer.finish_epoch(val_set)
    assert 0 <= record["validation_auc"] <= 1 and trainer.module.score(record) == record["validation_auc"]
    changed = {name.split(".")[1] for name, p in trainer.module.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"backbone", "merges", "classifier", "refiner"}
