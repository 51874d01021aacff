from dataclasses import replace

import pytest
import torch
from helpers.batches import random_batch
from torch import nn

from cxr_seam.data.transforms import rotation_params, sample_rotation, valid_mask
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.models.build import build_model
from cxr_seam.models.pcm import LowLevelFeatures
from cxr_seam.recipes import SeamStage
from cxr_seam.training.seam import SeamObjective, mask_by_labels, with_background


def batch(count=3, side=64):
    return random_batch(count, side=side, share=0.2)


def objective(**changes):
    torch.manual_seed(0)
    return SeamObjective(build_model("multires_timm:resnet18", weights="none"), replace(SeamStage(), **changes))


def rotation(count=3, seed=1, degrees=30.0):
    return sample_rotation(count, degrees, generator=torch.Generator().manual_seed(seed))


def test_only_the_refiner_learns():
    seam = objective()
    before = {key: value.clone() for key, value in seam.model.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in seam.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        seam.train()
        seam(*batch(), rotation=rotation(seed=step))["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    changed = [key for key, value in seam.model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["refiner.theta.weight"]


def test_weights_of_equation_7():
    terms = objective()(*batch(), rotation=rotation())
    assert terms["loss"].item() == pytest.approx(1.5 * terms["msml"].item() + 1.0 * terms["ecr"].item(), rel=1e-6)
    assert terms["ecr"] > 0 and terms["msml"] > 0


class HandModel(nn.Module):
    """A model with a 2 x 2 CAM that turns with the image; its refiner halves the maps that it is given."""

    background, findings = "one_minus_max", FINDINGS

    def freeze_all_but_refiner(self):
        """There is nothing to freeze."""

    def forward_features(self, images):
        """Take the red channel, two of four pixels per side, as the only feature."""
        return images[:, :1, ::2, ::2], None

    def compute_cam(self, features):
        """The first finding is the feature, the others are absent."""
        return torch.cat([features, torch.zeros(len(features), 13, 2, 2)], dim=1)

    def refiner(self, features, cam, *, valid=None, low_level=None):
        """Halve the CAM."""
        return cam / 2


def test_loss_by_hand_for_a_quarter_turn():
    """The CAM is (4, 1; 1, 0), its quarter turn (1, 0; 4, 1)."""
    images = torch.zeros(1, 3, 4, 4)
    images[0, 0] = torch.tensor([[4.0, 1.0], [1.0, 0.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    labels = torch.zeros(1, 14)
    labels[0, 0] = 1
    seam = SeamObjective(HandModel(), replace(SeamStage(), ohem_fraction=1.0))
    terms = seam(images, labels, rotation=rotation_params(torch.tensor([90.0])))
    # Divided by its maximum the CAM is (1, 1/4; 1/4, 0), the background (0, 3/4; 3/4, 1). A target keeps the maximum of
    # each pixel: (1, 0; 0, 0) and (0, 3/4; 3/4, 1). The refined CAM is half the CAM; divided by its maximum it is the
    # CAM again. So two of 15 * 4 values differ by 1/4, in each of the two norms.
    assert terms["ecr"].item() == pytest.approx(2 * (2 / 4) / 60, rel=1e-4)
    pooled = torch.tensor((1 + 1 / 4 + 1 / 4) / 2 / 4)  # of the refined CAM as it is
    expected = (torch.nn.functional.softplus(-pooled) + 13 * torch.log(torch.tensor(2.0))) / 14
    assert terms["msml"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_unknown_label_counts_as_absent_in_ecr_and_not_in_msml():
    images, labels = batch()
    unknown, absent = labels.clone(), labels.clone()
    unknown[:, 5], absent[:, 5] = torch.nan, 0
    seam, turned = objective(), rotation()
    with torch.no_grad():
        terms, other = (seam(images, given, rotation=turned) for given in (unknown, absent))
        maps = seam.forward_branches(images, turned)
    assert terms["ecr"].item() == other["ecr"].item()
    pooled = maps.refined[:, :14].mean(dim=(-2, -1))
    valid = maps.valid.float()
    pooled_of_warped = (maps.refined_of_warped[:, :14] * valid).sum(dim=(-2, -1)) / valid.sum(dim=(-2, -1))
    known = [k for k in range(14) if k != 5]
    expected = [
        torch.nn.functional.multilabel_soft_margin_loss(values[:, known], labels[:, known]).item()
        for values in (pooled, pooled_of_warped)
    ]
    assert terms["msml"].item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_loss_by_hand_if_the_branches_disagree():
    """One refined pixel of the rotated branch is wrong by 1 in one of 15 channels: the mean of 60 values, one norm."""
    seam = SeamObjective(HandModel(), replace(SeamStage(), ohem_fraction=1.0))
    calls = []

    def refiner(features, cam, *, valid=None, low_level=None):
        calls.append(cam)
        wrong = cam.clone() / 2
        if len(calls) == 2:
            wrong[0, 0, 1, 1] = 0.5  # 0 in the CAM
        return wrong

    seam.model.refiner = refiner
    images, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 14)
    images[0, 0, :2, :2] = 4.0  # CAM (4, 0; 0, 0)
    labels[0, 0] = 1
    terms = seam(images, labels, rotation=rotation_params(torch.zeros(1)))
    assert terms["ecr"].item() == pytest.approx(1 / 60, rel=1e-4)


def test_slices_of_a_batch_average_to_the_whole():
    seam, (images, labels), params = objective().eval(), batch(count=4), rotation(4)
    with torch.no_grad():
        whole = seam(images, labels, rotation=params)["loss"]
        halves = [seam(images[s], labels[s], rotation=params[s])["loss"] for s in (slice(0, 2), slice(2, 4))]
    assert whole.item() == pytest.approx(sum(halves).item() / 2, rel=1e-5)


def test_the_angle_matters():
    seam = objective()
    assert seam(*batch(), rotation=rotation())["loss"] == seam(*batch(), rotation=rotation())["loss"]
    assert seam(*batch(), rotation=rotation())["loss"] != seam(*batch(), rotation=rotation(seed=2))["loss"]


@pytest.mark.parametrize("refiner", ["pcm", "seam_pcm", "self_attention"])
def test_empty_corners_count_nowhere(refiner):
    """Features and CAMs where the rotated image has no content do not change the loss."""
    seam, params = objective(), rotation()
    seam.model.set_refiner(refiner)
    forward_features = seam.model.forward_features

    def loss_with_corners(value):
        calls = []

        def spoil(values, valid):
            inside = torch.nn.functional.interpolate(valid.float(), size=values.shape[-2:]) > 0  # cell by cell
            noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(2)) * value
            return torch.where(inside, values, noise)

        def spoilt_features(images):
            features, low_level = forward_features(images)
            calls.append(images)
            if len(calls) == 2:  # the branch of the rotated images
                height, width = features.shape[-2:]
                valid = valid_mask(params, height=height, width=width, device=images.device)
                assert not valid.all()
                low_level = LowLevelFeatures(spoil(images, valid), tuple(spoil(maps, valid) for maps in low_level.maps))
                features = spoil(features, valid)
            return features, low_level

        seam.model.forward_features = spoilt_features
        with torch.no_grad():
            return seam(*batch(), rotation=params)["loss"].item()

    assert loss_with_corners(1000.0) == pytest.approx(loss_with_corners(0.0), rel=1e-5)


def test_absent_findings_are_masked_and_background_is_one_minus_the_present_maximum():
    cam = torch.tensor([[[[2.0, 1.0]], [[4.0, 4.0]]]])  # two findings, the second absent
    labels = torch.tensor([1.0, 0.0])[None, :, None, None]
    assert torch.equal(with_background(cam, labels), torch.tensor([[[[1.0, 0.5]], [[0.0, 0.0]], [[0.0, 0.5]]]]))
    refined = torch.tensor([[[[2.0, 1.0]], [[4.0, 4.0]], [[0.5, 0.25]]]])
    expected = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.0]], [[1.0, 0.5]]]])
    assert torch.equal(mask_by_labels(refined, labels), expected)


def test_a_model_without_refiner_is_refused():
    with pytest.raises(InputError):
        SeamObjective(build_model("timm:resnet18", weights="none"), SeamStage())
