from dataclasses import replace

import pytest
import torch

from cxr_seam.errors import InputError
from cxr_seam.geometry import rotate, rotation_valid
from cxr_seam.models import build_model
from cxr_seam.pcm import PixelCorrelation
from cxr_seam.recipes import SeamPhase
from cxr_seam.seam import SeamObjective, present_maps, with_background


def batch(count=3, side=64):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, side, side, generator=generator)
    labels = (torch.rand(count, 14, generator=generator) < 0.2).float()
    labels[:, 2] = 1
    return images, labels


def objective(**changes):
    torch.manual_seed(0)
    return SeamObjective(build_model("multires_resnet18", weights="none"), replace(SeamPhase(), **changes))


def loss_of(seam, seed=1):
    return seam(*batch(), generator=torch.Generator().manual_seed(seed))


def test_only_theta_learns_and_everything_else_stays_bit_identical():
    seam = objective()
    before = {key: value.clone() for key, value in seam.model.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in seam.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        seam.train()
        loss_of(seam, seed=step)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    changed = [key for key, value in seam.model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["pcm.theta.weight"]


def test_weights_of_equation_7():
    parts = loss_of(objective())
    assert parts["loss"].item() == pytest.approx(1.5 * parts["msml"].item() + 1.0 * parts["ecr"].item(), rel=1e-6)
    assert parts["ecr"] > 0 and parts["msml"] > 0


def test_without_rotation_the_two_branches_are_one_and_ecr_is_twice_one_norm():
    seam = objective(rotation_degrees=0.0)
    images, labels = batch()
    with torch.no_grad():
        cam, refined = seam.branch(images, valid=None)
        present = labels[:, :, None, None]
        target, refined = with_background(cam, present), present_maps(refined, present)
        onehot = torch.where(target == target.amax(dim=1, keepdim=True), target, torch.zeros(()))
        pixel = (onehot - refined).abs().flatten(1).sort(dim=1, descending=True).values
        kept = int(0.2 * pixel.shape[1])
        assert loss_of(seam)["ecr"].item() == pytest.approx(2 * pixel[:, :kept].mean().item(), rel=1e-4)


def test_what_the_network_says_of_empty_corners_counts_nowhere():
    """Whatever stands in the features where the rotated film has no content, the loss stays the same."""
    seam = objective()
    features_of = seam.model.features
    degrees = (2 * torch.rand(3, generator=torch.Generator().manual_seed(1)) - 1) * 30

    def loss_with_corners(value):
        calls = []

        def features(images):
            result = features_of(images)
            calls.append(result)
            if len(calls) == 2:  # the transformed branch
                valid = rotation_valid(degrees, height=result.shape[-2], width=result.shape[-1])
                assert not valid.all()
                noise = torch.randn(result.shape, generator=torch.Generator().manual_seed(2)) * value
                result = torch.where(valid, result, noise)
            return result

        seam.model.features = features
        with torch.no_grad():
            return loss_of(seam)["loss"].item()

    quiet, loud = loss_with_corners(0.0), loss_with_corners(1000.0)
    assert loud == pytest.approx(quiet, rel=1e-5)


def test_each_image_gets_an_angle_of_its_own_from_the_generator():
    assert loss_of(objective(), seed=1)["loss"] == loss_of(objective(), seed=1)["loss"]
    assert loss_of(objective(), seed=1)["loss"] != loss_of(objective(), seed=2)["loss"]


def test_mixed_precision_does_not_reach_the_rotation_or_the_affinity():
    degrees = torch.tensor([17.0, -23.0])
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pcm = PixelCorrelation(8)
    features, cam = torch.randn(2, 8, 6, 6), torch.rand(2, 15, 6, 6)
    plain = rotate(images, degrees), pcm(features, cam)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = rotate(images, degrees), pcm(features, cam)
    for ours, expected in zip(mixed, plain, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, expected)


def test_absent_findings_are_masked_and_background_is_one_minus_the_present_maximum():
    cam = torch.tensor([[[[2.0, 1.0]], [[4.0, 4.0]]]])  # two findings, the second absent
    present = torch.tensor([1.0, 0.0])[None, :, None, None]
    maps = with_background(cam, present)
    assert torch.equal(maps, torch.tensor([[[[1.0, 0.5]], [[0.0, 0.0]], [[0.0, 0.5]]]]))
    refined = torch.tensor([[[[2.0, 1.0]], [[4.0, 4.0]], [[0.5, 0.25]]]])
    assert torch.equal(present_maps(refined, present), torch.tensor([[[[1.0, 0.5]], [[0.0, 0.0]], [[1.0, 0.5]]]]))


def test_a_model_without_pcm_is_refused():
    with pytest.raises(InputError, match="no PCM"):
        SeamObjective(build_model("resnet18", weights="none"), SeamPhase())
