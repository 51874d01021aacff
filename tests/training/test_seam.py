from dataclasses import replace

import pytest
import torch
from helpers.batches import random_batch

from cxr_seam.data.transforms import draw_rotation, motion_valid, pad_value, rotate, rotation_valid
from cxr_seam.errors import InputError
from cxr_seam.models.backbones import LowLevelFeatures
from cxr_seam.models.multires import build_model
from cxr_seam.models.pcm import PCM
from cxr_seam.recipes import SeamStage
from cxr_seam.training.losses import ecr_loss, msml_loss
from cxr_seam.training.seam import SeamObjective, present_maps, with_background


def batch(count=3, side=64):
    return random_batch(count, side=side, share=0.2)


def objective(**changes):
    torch.manual_seed(0)
    return SeamObjective(build_model("multires_timm:resnet18", weights="none"), replace(SeamStage(), **changes))


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
    assert changed == ["refiner.theta.weight"]


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


def test_the_papers_rotation_is_bit_for_bit_one_angle_an_image_and_nothing_else():
    """The same loss from the rotation alone, drawn and applied by hand."""
    seam = objective()
    images, labels = batch()
    with torch.no_grad():
        degrees = (2 * torch.rand(3, generator=torch.Generator().manual_seed(1)) - 1) * 30
        rotated = rotate(images - pad_value(images), degrees) + pad_value(images)
        cam, refined = seam.branch(images, valid=None)
        valid = rotation_valid(degrees, height=8, width=8)
        cam_transformed, refined_transformed = seam.branch(rotated, valid=valid)
        present = labels[:, :, None, None]
        ecr = ecr_loss(
            cam_moved=rotate(with_background(cam, present), degrees),
            refined_moved=rotate(present_maps(refined, present), degrees),
            cam_transformed=with_background(cam_transformed, present),
            refined_transformed=present_maps(refined_transformed, present),
            valid=valid,
            ohem_fraction=0.2,
        )
        msml = 0.5 * (
            msml_loss(refined[:, :14], labels, valid=torch.ones_like(valid))
            + msml_loss(refined_transformed[:, :14], labels, valid=valid)
        )
        generator = torch.Generator().manual_seed(1)
        parts = seam(images, labels, generator=generator)
    assert torch.equal(parts["ecr"], ecr) and torch.equal(parts["msml"], msml)
    used = torch.Generator().manual_seed(1)
    torch.rand(3, generator=used)
    assert torch.equal(generator.get_state(), used.get_state())


def test_a_part_of_a_batch_moves_as_it_would_in_the_whole():
    seam = objective()
    images, labels = batch(count=4)
    seen = []
    seam.branch = lambda images, *, valid: (seen.append(images), SeamObjective.branch(seam, images, valid=valid))[1]
    with torch.no_grad():
        for part in (slice(None), slice(0, 2), slice(2, 4)):
            seam(images[part], labels, generator=torch.Generator().manual_seed(1), part=part)
    whole, first, second = seen[1::2]
    assert torch.equal(whole, torch.cat([first, second]))


@pytest.mark.parametrize("refiner", ["pcm", "seam_pcm", "self_attention"])
def test_what_the_network_says_of_empty_corners_counts_nowhere(refiner):
    """Whatever stands in images and maps where the moved film has no content, the loss stays the same."""
    seam = objective()
    seam.model.set_refiner(refiner)
    encode = seam.model.forward_features
    motion = draw_rotation(3, seam.phase, generator=torch.Generator().manual_seed(1))

    def loss_with_corners(value):
        calls = []

        def spoil(values, valid):
            inside = torch.nn.functional.interpolate(valid.float(), size=values.shape[-2:]) > 0  # cell by cell
            noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(2)) * value
            return torch.where(inside, values, noise)

        def encode_with_noise(images):
            features, low_level = encode(images)
            calls.append(images)
            if len(calls) == 2:  # the transformed branch
                valid = motion_valid(motion, height=features.shape[-2], width=features.shape[-1])
                assert not valid.all()
                low_level = LowLevelFeatures(spoil(images, valid), tuple(spoil(seen, valid) for seen in low_level.maps))
                features = spoil(features, valid)
            return features, low_level

        seam.model.forward_features = encode_with_noise
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
    pcm = PCM(8)
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
    with pytest.raises(InputError, match="no refiner"):
        SeamObjective(build_model("timm:resnet18", weights="none"), SeamStage())
