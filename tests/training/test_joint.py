"""Both phases' losses at once: each trains its own part, as if the other were not there."""

from dataclasses import replace

import pytest
import torch
from accelerate.utils import set_seed
from helpers.batches import random_batch, two_sets

from cxr_seam.errors import InputError
from cxr_seam.models.checkpoint import best_path, load_checkpoint, read_history
from cxr_seam.models.multires import build_model
from cxr_seam.presets import get_recipe
from cxr_seam.recipes import SeamStage
from cxr_seam.training.fit import train
from cxr_seam.training.objectives import ClassificationObjective, JointObjective, make_objective
from cxr_seam.training.seam import SeamObjective

FIRST = get_recipe("multires_tiny")
JOINT = replace(FIRST, name="joint_tiny", seam_stage=SeamStage(learning_rate=1e-3), joint=True)


def batch():
    return random_batch(4, side=64, share=0.3)


def gradients(objective, *, training):
    """The gradients of one batch and its terms; drop connect draws the same numbers each time."""
    objective.train(training)
    objective.zero_grad()
    torch.manual_seed(5)
    terms = objective(*batch(), generator=torch.Generator().manual_seed(1))
    terms["loss"].backward()
    return {key: p.grad.clone() for key, p in objective.named_parameters() if p.grad is not None}, terms


def fresh():
    torch.manual_seed(0)
    return build_model("multires_efficientnet_lite0", weights="none")


def test_gradients_are_those_of_the_two_phases_each_by_itself():
    joint, terms = gradients(make_objective(fresh(), JOINT), training=True)
    first, classified = gradients(ClassificationObjective(fresh(), FIRST.classifier_stage), training=True)
    assert joint.keys() == first.keys() | {"model.refiner.theta.weight"} and "model.refiner.theta.weight" not in first
    assert all(torch.equal(joint[key], first[key]) for key in first)
    assert torch.equal(terms["classification"], classified["loss"])
    assert torch.equal(terms["logits"], classified["logits"])
    assert terms["loss"].item() == pytest.approx(
        (terms["classification"] + 1.5 * terms["msml"] + terms["ecr"]).item(), rel=1e-6
    )


def test_the_refiner_learns_from_a_network_that_is_not_training():
    """With the statistics that batch normalisation has when the classifier has seen the batch."""
    objective = make_objective(fresh(), JOINT)
    joint, _ = gradients(objective, training=True)
    second = SeamObjective(fresh(), JOINT.seam_stage)
    second.model.load_state_dict(objective.model.state_dict())
    alone, _ = gradients(second, training=False)
    theta = "model.refiner.theta.weight"
    assert set(alone) == {theta} and torch.allclose(joint[theta], alone[theta], rtol=1e-4, atol=1e-8)


def test_moved_films_leave_no_trace_in_the_statistics():
    states = []
    for objective in (make_objective(fresh(), JOINT), ClassificationObjective(fresh(), FIRST.classifier_stage)):
        gradients(objective, training=True)
        states.append({key: value for key, value in objective.model.state_dict().items() if "running" in key})
        assert objective.model.training and objective.model.merges.training
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


def test_a_joint_run_trains_both_parts_and_keeps_the_best_auc(demo_folder, demo_store, tmp_path):
    films = two_sets(demo_folder, demo_store, training=12, validation=6)
    with pytest.warns(UserWarning, match="no film that joint_tiny"):
        train(JOINT, tmp_path, train_set=films[0], val_set=films[1])
    (record,) = read_history(tmp_path, "joint_tiny")
    assert record["stage"] == "classifier" and 0 <= record["validation_auc"] <= 1
    model, metadata = load_checkpoint(best_path(tmp_path, "joint_tiny"))
    set_seed(JOINT.seed)
    start = build_model(JOINT.model).state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, start[key])}
    assert {"refiner.theta.weight", "classifier.weight"} <= changed and metadata.thresholds is not None
    assert not any(key.startswith("backbone.stages.0") for key in changed)


def test_half_a_joint_recipe_is_refused():
    for changes in ({"seam_stage": None}, {"classifier_stage": None}, {"init_from": "other"}):
        with pytest.raises(InputError, match="joint_tiny is joint; give it a backbone and a seam phase"):
            replace(JOINT, **changes)
    with pytest.raises(InputError, match="has no PCM to train"):
        JointObjective(build_model("resnet18", weights="none"), backbone=FIRST.classifier_stage, seam=JOINT.seam_stage)
