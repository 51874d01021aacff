import math

import numpy as np
import pytest
import torch

from cxr_seam.training.losses import (
    balanced_bce,
    class_weights,
    ecr_loss,
    known_fraction,
    msml_loss,
    ohem_mean,
)


def slow_balanced_bce(logits: np.ndarray, labels: np.ndarray) -> float:
    """Eq. 3-5 in loops, float64, averaged over batch and classes."""
    total = 0.0
    for c in range(logits.shape[1]):
        positives = labels[:, c].sum()
        negatives = len(labels) - positives
        for b in range(len(labels)):
            probability = 1 / (1 + math.exp(-logits[b, c]))
            if labels[b, c]:
                total -= (positives + negatives) / positives * math.log(probability)
            else:
                total -= (positives + negatives) / negatives * math.log(1 - probability)
    return total / logits.size


def test_balanced_bce_equals_equations_3_to_5():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator)
    labels = (torch.rand(6, 4, generator=generator) < 0.4).float()
    assert 0 < labels.sum() < labels.numel()
    expected = slow_balanced_bce(logits.double().numpy(), labels.numpy())
    assert balanced_bce(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_bce_by_hand():
    # two images, one positive and one negative, logits 0: each term weighs 2 and is log 2
    assert balanced_bce(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_balanced_bce_is_finite_when_a_class_is_absent(value):
    logits = torch.tensor([[0.0], [100.0], [-100.0]], requires_grad=True)
    loss = balanced_bce(logits, torch.full((3, 1), value))
    loss.backward()
    # its other term alone, weight (P + N) / N = 1: log 2, 100 and 0, over three images
    assert loss.item() == pytest.approx((math.log(2) + 100) / 3, rel=1e-6)
    assert torch.isfinite(logits.grad).all()


def test_both_sides_of_a_class_weigh_the_same():
    # with a constant predictor of 0.5 the gradient of the shared bias vanishes, however rare the class is
    bias = torch.zeros(1, requires_grad=True)
    labels = torch.zeros(32, 1)
    labels[0] = 1
    balanced_bce(bias.expand(32, 1), labels).backward()
    assert bias.grad.item() == pytest.approx(0, abs=1e-6)


NAN = math.nan


def test_class_weights_of_known_labels_by_hand():
    labels = torch.tensor([[1.0, 0.0, NAN], [0.0, NAN, NAN], [NAN, 0.0, NAN], [0.0, 0.0, NAN]])
    # class 1: one of three known images is positive; class 2: three negatives; class 3: nothing is known
    assert class_weights(labels).tolist() == [[3.0, 3.0, 0.0], [1.5, 1.0, 0.0]]


def test_balanced_bce_of_known_labels_by_hand():
    labels = torch.tensor([[1.0, NAN], [0.0, NAN], [NAN, 0.0]])
    logits = torch.tensor([[0.0, 9.0], [0.0, -9.0], [5.0, 0.0]], requires_grad=True)
    loss = balanced_bce(logits, labels)
    # class 1: weights 2 and 2 of two known images; class 2: weight 1 of one; three known labels with log 2 each
    assert loss.item() == pytest.approx((2 + 2 + 1) * math.log(2) / 3, rel=1e-6)
    loss.backward()
    # derivative of softplus at 0: 1/2
    assert logits.grad.flatten().tolist() == pytest.approx([-1 / 3, 0, 1 / 3, 0, 0, 1 / 6], rel=1e-6)


def test_msml_of_known_labels_by_hand():
    refined = torch.tensor([[0.0, 7.0], [0.0, 0.0]])[:, :, None, None]
    labels = torch.tensor([[1.0, NAN], [NAN, 0.0]])
    assert msml_loss(refined, labels).item() == pytest.approx(math.log(2), rel=1e-6)
    assert msml_loss(refined, torch.tensor([[1.0, 0.0], [NAN, NAN]])).item() == pytest.approx(
        (math.log(2) + math.log(1 + math.exp(7))) / 2, rel=1e-6
    )


@pytest.mark.parametrize("function", [balanced_bce, lambda x, y, **known: msml_loss(x[:, :, None, None], y, **known)])
def test_losses_without_known_labels_are_zero(function):
    logits = torch.ones(2, 3, requires_grad=True)
    loss = function(logits, torch.full((2, 3), NAN))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_parts_of_a_batch_add_up_to_its_loss():
    """Three images have 4, 1 and 2 known labels; a mean over each part's own labels would weight them differently."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 4, generator=generator), torch.eye(4)[:3]
    labels[1, 1:], labels[2, :2] = NAN, NAN
    weights, known = class_weights(labels), known_fraction(labels)
    assert known.item() == pytest.approx(7 / 12)
    for loss in (
        lambda part: balanced_bce(logits[part], labels[part], weights=weights, known=known),
        lambda part: msml_loss(logits[part][:, :, None, None], labels[part], known=known),
    ):
        parts = sum(loss(slice(i, i + 1)).item() / 3 for i in range(3))
        assert parts == pytest.approx(loss(slice(3)).item(), rel=1e-6)


def test_hard_pixel_mean_by_hand():
    loss = torch.arange(10.0).reshape(1, 1, 2, 5)
    everywhere = torch.ones(1, 1, 2, 5, dtype=torch.bool)
    assert ohem_mean(loss, fraction=0.2, valid=everywhere).item() == 8.5  # 9 and 8
    assert ohem_mean(loss, fraction=1.0, valid=everywhere).item() == 4.5
    without_last = everywhere.clone()
    without_last[..., 1, 4] = False  # nine valid values, 20 % of them is one: 8
    assert ohem_mean(loss, fraction=0.2, valid=without_last).item() == 8


def test_hard_pixels_change_only_a_factor_where_few_channels_are_nonzero():
    # method: at most 3 of 15 channels non-zero means that the top 20 % holds every non-zero loss
    loss = torch.zeros(1, 15, 4, 4)
    loss[:, :3] = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert ohem_mean(loss, fraction=0.2, valid=everywhere).item() == pytest.approx(loss.mean().item() * 5, rel=1e-5)


def random_maps(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 15, 4, 4, generator=generator) for _ in range(4)]


def ecr(warped_cam, warped_refined, cam_of_warped, refined_of_warped, *, fraction=0.2, valid=None):
    if valid is None:
        valid = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    return ecr_loss(
        warped_cam=warped_cam,
        warped_refined=warped_refined,
        cam_of_warped=cam_of_warped,
        refined_of_warped=refined_of_warped,
        valid=valid,
        ohem_fraction=fraction,
    )


def test_ecr_adds_its_two_norms():
    warped_cam, warped_refined, cam_of_warped, refined_of_warped = random_maps(0)

    def slow(target, refined):
        onehot = np.where(target == target.max(axis=1, keepdims=True), target, 0)
        pixel = np.abs(onehot - refined).reshape(2, -1)
        return np.sort(pixel, axis=1)[:, -48:].mean()  # 20 % of 15 * 16

    expected = slow(cam_of_warped.numpy(), warped_refined.numpy()) + slow(warped_cam.numpy(), refined_of_warped.numpy())
    assert ecr(*random_maps(0)).item() == pytest.approx(expected, rel=1e-5)
    assert expected > slow(cam_of_warped.numpy(), warped_refined.numpy())


def test_ecr_targets_get_no_gradient_and_stay_as_they_were():
    maps = [m.requires_grad_() for m in random_maps(1)]
    before = [m.detach().clone() for m in maps]
    ecr(*maps).backward()
    assert maps[0].grad is None and maps[2].grad is None
    assert maps[1].grad.abs().sum() > 0 and maps[3].grad.abs().sum() > 0
    for now, then in zip(maps, before, strict=True):
        assert torch.equal(now.detach(), then)


def test_ecr_ignores_what_lies_outside():
    maps = random_maps(2)
    valid = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    valid[..., 0] = False
    changed = [m.clone() for m in maps]
    for m in changed:
        m[..., 0] = 7.0
    assert ecr(*maps, valid=valid).item() == ecr(*changed, valid=valid).item()


def test_ecr_is_zero_on_agreement():
    onehot = torch.zeros(2, 15, 4, 4)
    onehot[:, 3] = 1
    assert ecr(onehot, onehot, onehot, onehot).item() == 0


def test_pooled_soft_margin_by_hand():
    refined = torch.zeros(1, 14, 1, 2)
    refined[0, 0] = torch.tensor([[1.0, 0.0]])  # mean 0.5 over both, 1.0 over the first alone
    labels = torch.zeros(1, 14)
    labels[0, 0] = 1
    rest = 13 * math.log(2)
    both = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    first = torch.tensor([[[[True, False]]]])
    expected = (math.log(1 + math.exp(-0.5)) + rest) / 14
    assert msml_loss(refined, labels, valid=both).item() == pytest.approx(expected, rel=1e-6)
    expected = (math.log(1 + math.exp(-1.0)) + rest) / 14
    assert msml_loss(refined, labels, valid=first).item() == pytest.approx(expected, rel=1e-6)
