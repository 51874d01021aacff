"""Batched transforms against torchvision, against a slow reference, and in distribution."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tv

from cxr_seam.data.transforms import (
    AffineParams,
    affine_warp,
    eval_transform,
    resize_area,
    rotation_params,
    sample_augmentation,
    sample_rotation,
    train_transform,
    valid_mask,
)
from cxr_seam.recipes import Augmentation

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_image(size=64):
    """(1, 1, size, size) float in [0, 1]; on smooth images two interpolations are close to one."""
    coarse = torch.rand(1, 1, 5, 5, generator=seeded())
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


def params_of(*, left=0.0, top=0.0, width=1.0, height=1.0, flip=False, angle=0.0):
    """Parameters of one image from its crop, in fractions of the image."""
    return AffineParams(
        angle=torch.tensor([angle]),
        scale=torch.tensor([[width, height]]),
        translation=torch.tensor([[2 * left + width - 1, 2 * top + height - 1]]),
        flip=torch.tensor([-1.0 if flip else 1.0]),
    )


CROP = {"left": 8 / 64, "top": 4 / 64, "width": 48 / 64, "height": 56 / 64}


def test_identity():
    assert torch.allclose(affine_warp(smooth_image(), params_of()), smooth_image(), atol=1e-5)


def test_flip_equals_torchvision():
    assert torch.allclose(affine_warp(smooth_image(), params_of(flip=True)), tv.hflip(smooth_image()), atol=1e-5)


def test_crop_equals_torchvision():
    expected = tv.resized_crop(smooth_image(), top=4, left=8, height=56, width=48, size=[64, 64], antialias=False)
    difference = (affine_warp(smooth_image(), params_of(**CROP)) - expected).abs()
    assert (
        difference[..., 1:-1, 1:-1].max() < 1e-4
    )  # the outermost pixel is interpolated with the image around the crop


@pytest.mark.parametrize("angle", [-15.0, 6.0, 15.0])
def test_one_sampling_equals_torchvisions_operations_in_a_row(angle):
    expected = tv.resized_crop(smooth_image(), top=4, left=8, height=56, width=48, size=[64, 64], antialias=False)
    expected = tv.rotate(tv.hflip(expected), angle, interpolation=InterpolationMode.BILINEAR)
    ours = affine_warp(smooth_image(), params_of(**CROP, flip=True, angle=angle))
    content = tv.rotate(torch.ones(1, 1, 64, 64), angle, interpolation=InterpolationMode.BILINEAR)
    assert ((ours - expected).abs() * (content > 0.999)).max() < 0.01  # two interpolations there, one here
    assert (content == 0).any() and (ours[content == 0] == 0).all()  # black, although the image goes on there


def test_quarter_turn_is_counter_clockwise():
    square = torch.rand(1, 2, 5, 5, generator=seeded())
    assert torch.allclose(affine_warp(square, params_of(angle=90.0)), square.rot90(1, dims=(2, 3)), atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (12, 20), (15, 9)])
@pytest.mark.parametrize("angle", [-30.0, 7.5, 30.0])
def test_rotation_equals_torchvision_also_if_not_square(shape, angle):
    image = torch.rand(1, 2, *shape, generator=seeded())
    expected = tv.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
    valid = valid_mask(params_of(angle=angle), height=shape[0], width=shape[1], device=CPU)
    assert ((affine_warp(image, params_of(angle=angle)) - expected).abs() * valid).max() < 1e-4
    assert 0.4 < valid.float().mean() < 1.0


def random_params(count):
    """Crops, flips and rotations; the crops lie in the image."""
    augmentation = Augmentation(crop_area=(0.3, 1.0), crop_aspect=(0.5, 2.0), rotation_degrees=40.0)
    return sample_augmentation(count, augmentation, generator=seeded())


def slow_warp(image, angle, scale, translation, flip):
    """Find the source of each pixel, in pixels, and average its four neighbours: values and valid pixels."""
    height, width = image.shape
    warped, valid = np.zeros((height, width)), np.zeros((height, width), bool)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
            x, y = x * cosine - y * sine, x * sine + y * cosine  # undo the rotation; rows are counted downwards
            if abs(x) > width / 2 or abs(y) > height / 2:
                continue
            valid[row, column] = abs(x) <= width / 2 - 0.499 and abs(y) <= height / 2 - 0.499
            x = flip * x * scale[0] + (translation[0] + 1) * width / 2 - 0.5
            y = y * scale[1] + (translation[1] + 1) * height / 2 - 0.5
            for r in (math.floor(y), math.floor(y) + 1):
                for c in (math.floor(x), math.floor(x) + 1):
                    inside = image[min(max(r, 0), height - 1), min(max(c, 0), width - 1)]
                    warped[row, column] += (1 - abs(x - c)) * (1 - abs(y - r)) * inside
    return warped, valid


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 14)])
def test_warp_and_valid_mask_equal_a_slow_computation(height, width):
    params = random_params(6)
    images = torch.rand(6, 1, height, width, dtype=torch.float64, generator=seeded(1))
    ours, valid = affine_warp(images, params), valid_mask(params, height=height, width=width, device=CPU)
    assert 0 < valid.float().mean() < 1
    for i in range(6):
        one = (params.angle, params.scale, params.translation, params.flip)
        slow, slow_valid = slow_warp(images[i, 0].numpy(), *(values[i].tolist() for values in one))
        np.testing.assert_allclose(ours[i, 0].numpy(), slow, atol=1e-5)
        assert np.array_equal(valid[i, 0].numpy(), slow_valid)


def test_valid_pixels_do_not_depend_on_the_outside():
    rotation = rotation_params(torch.tensor([-30.0, 12.0, 30.0]))
    inner, framed = torch.zeros(3, 1, 32, 32), torch.full((3, 1, 34, 34), 9.0)
    inner += torch.rand(inner.shape, generator=seeded())
    framed[..., 1:-1, 1:-1] = inner
    valid = valid_mask(rotation, height=32, width=32, device=CPU)
    expected = affine_warp(framed, rotation)[..., 1:-1, 1:-1]  # same scale and centre, another surrounding
    assert torch.allclose(affine_warp(inner, rotation)[valid], expected[valid], atol=0.02)
    assert not valid[:, :, 0, 0].any() and valid[:, :, 16, 16].all()
    assert valid_mask(rotation_params(torch.zeros(1)), height=7, width=9, device=CPU).all()


def test_rotation_and_back_is_nearly_the_identity():
    smooth = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    back = affine_warp(affine_warp(smooth, params_of(angle=20.0)), params_of(angle=-20.0))
    assert (back - smooth)[..., 10:22, 10:22].abs().max() < 1e-3


def test_slices_of_a_batch_have_the_parameters_of_the_whole():
    params, images = random_params(5), torch.rand(5, 2, 8, 8, generator=seeded())
    whole = affine_warp(images, params)
    assert torch.equal(affine_warp(images[1:3], params[1:3]), whole[1:3]) and len(params[1:3]) == 2
    assert not torch.equal(whole[1], affine_warp(images[1:2], params[2:3])[0])


def test_mixed_precision_does_not_reach_the_sampling():
    images, params = torch.randn(2, 3, 64, 64, generator=seeded()), random_params(2)
    plain = affine_warp(images, params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(affine_warp(images, params), plain) and plain.dtype == torch.float32


def test_crops_have_the_recipes_distribution():
    params = sample_augmentation(20_000, Augmentation(), generator=seeded())
    width, height = params.scale.unbind(dim=1)
    assert (params.translation.abs() <= 1 - params.scale + 1e-6).all()  # in the image
    area, aspect = width * height, width / height
    assert area.min() >= 0.8 - 1e-5 and area.max() <= 1 + 1e-5
    assert aspect.min() >= 0.8 - 1e-5 and aspect.max() <= 1.25 + 1e-5  # others do not fit with such an area


def test_crops_match_torchvisions_in_mean_and_spread():
    torch.manual_seed(0)
    augmentation, blank = Augmentation(), torch.zeros(1, 1000, 1000)
    ranges = list(augmentation.crop_area), list(augmentation.crop_aspect)
    crops = torch.tensor([RandomResizedCrop.get_params(blank, *ranges) for _ in range(4000)]) / 1000
    top, left, height, width = crops.unbind(dim=1)
    theirs = torch.stack([width, height, 2 * left + width - 1, 2 * top + height - 1], dim=1)
    params = sample_augmentation(4000, augmentation, generator=seeded())
    ours = torch.cat([params.scale, params.translation], dim=1)
    assert torch.allclose(ours.mean(dim=0), theirs.mean(dim=0), atol=0.01)
    assert torch.allclose(ours.std(dim=0), theirs.std(dim=0), atol=0.01)


def test_flips_and_rotations_have_the_recipes_distribution():
    params = sample_augmentation(20_000, Augmentation(), generator=seeded())
    flips, angle = (params.flip == -1).float(), params.angle
    assert flips.mean() == pytest.approx(0.5, abs=0.015)  # four standard errors
    assert angle.abs().max() <= 15 and angle.min() < -14.9 and angle.max() > 14.9
    assert angle.mean() == pytest.approx(0, abs=0.25) and angle.std() == pytest.approx(30 / 12**0.5, abs=0.1)
    assert torch.corrcoef(torch.stack([flips, angle]))[0, 1].abs() < 0.03


def test_seam_rotation_is_uniform():
    rotation = sample_rotation(4000, 20.0, generator=seeded())
    assert rotation.angle.abs().max() <= 20 and abs(rotation.angle.mean()) < 1
    assert rotation.angle.std().item() == pytest.approx(20 / math.sqrt(3), rel=0.05)
    assert (rotation.scale == 1).all() and (rotation.translation == 0).all() and (rotation.flip == 1).all()


def test_train_transform_flips_as_sampled():
    augmentation = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), rotation_degrees=0.0)
    images = (smooth_image() * 255).byte().repeat(200, 1, 1, 1)
    params = sample_augmentation(200, augmentation, generator=seeded())
    plain = eval_transform(images, size=64)
    expected = torch.where(params.flip[:, None, None, None] < 0, plain.flip(-1), plain)
    assert torch.allclose(train_transform(images, params, size=64), expected, atol=1e-3)
    assert 70 <= (params.flip < 0).sum() <= 130


def test_same_seed_same_batch():
    images = (smooth_image().repeat(4, 1, 1, 1) * 255).byte()

    def augmented(seed):
        return train_transform(images, sample_augmentation(4, Augmentation(), generator=seeded(seed)), size=32)

    assert augmented(1).shape == (4, 3, 32, 32)
    assert torch.equal(augmented(1), augmented(1)) and not torch.equal(augmented(1), augmented(2))
    assert not torch.equal(augmented(1)[0], augmented(1)[1])


def test_resize_averages_areas_and_images_are_imagenet_normalised():
    images = torch.from_numpy(np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)) * 10
    assert torch.allclose(resize_area(images, 2)[0, 0] * 255, torch.tensor([[25.0, 45.0], [105.0, 125.0]]), atol=1e-4)
    first = eval_transform(images, size=2)[0, :, 0, 0]
    expected = [(25 / 255 - mean) / std for mean, std in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]]
    assert torch.allclose(first, torch.tensor(expected), atol=1e-5)
