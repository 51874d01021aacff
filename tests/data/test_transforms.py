import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from cxr_seam.data.transforms import augment, draw, eval_transform, resize_area, sample_crops, warp
from cxr_seam.recipes import Augmentation


def film(size=64, seed=0):
    """A smooth grey picture, (1, 1, size, size) float in [0, 1]: rough ones punish honest interpolation."""
    coarse = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


IDENTITY = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
NO_FLIP, FLIP = torch.tensor([False]), torch.tensor([True])
STRAIGHT = torch.tensor([0.0])


def test_nothing_drawn_nothing_changed():
    assert torch.allclose(warp(film(), crops=IDENTITY, flips=NO_FLIP, degrees=STRAIGHT), film(), atol=1e-5)


def test_flip_equals_torchvision():
    assert torch.allclose(warp(film(), crops=IDENTITY, flips=FLIP, degrees=STRAIGHT), tv.hflip(film()), atol=1e-5)


def test_crop_equals_torchvision():
    crops = torch.tensor([[8 / 64, 4 / 64, 48 / 64, 56 / 64]])  # left 8, top 4, width 48, height 56
    expected = tv.resized_crop(film(), top=4, left=8, height=56, width=48, size=[64, 64], antialias=False)
    difference = (warp(film(), crops=crops, flips=NO_FLIP, degrees=STRAIGHT) - expected).abs()
    assert difference[..., 1:-1, 1:-1].max() < 1e-4  # at the very edge we interpolate with the film beyond the crop


@pytest.mark.parametrize("angle", [-15.0, 6.0, 15.0])
def test_all_four_in_one_sampling_equal_torchvisions_one_after_the_other(angle):
    crops = torch.tensor([[8 / 64, 4 / 64, 48 / 64, 56 / 64]])
    expected = tv.resized_crop(film(), top=4, left=8, height=56, width=48, size=[64, 64], antialias=False)
    expected = tv.rotate(tv.hflip(expected), angle, interpolation=InterpolationMode.BILINEAR)
    ours = warp(film(), crops=crops, flips=FLIP, degrees=torch.tensor([angle]))
    content = tv.rotate(torch.ones(1, 1, 64, 64), angle, interpolation=InterpolationMode.BILINEAR) > 0.999
    assert ((ours - expected).abs() * content).max() < 0.01  # two interpolations there, one here
    empty = tv.rotate(torch.ones(1, 1, 64, 64), angle, interpolation=InterpolationMode.BILINEAR) == 0
    assert empty.any() and (ours[empty] == 0).all()  # black, although the film goes on beyond the crop


def test_crops_have_the_recipes_distribution():
    recipe = Augmentation()
    crops = sample_crops(20_000, recipe, generator=torch.Generator().manual_seed(0))
    left, top, width, height = crops.unbind(dim=1)
    assert (left >= 0).all() and (top >= 0).all()
    assert (left + width <= 1 + 1e-6).all() and (top + height <= 1 + 1e-6).all()
    area, aspect = width * height, width / height
    assert area.min() >= 0.8 - 1e-5 and area.max() <= 1 + 1e-5
    assert aspect.min() >= 0.8 - 1e-5 and aspect.max() <= 1.25 + 1e-5  # what fits with such an area


def test_crops_match_torchvisions_random_resized_crop_in_mean_and_spread():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    recipe = Augmentation()
    blank = torch.zeros(1, 1000, 1000)
    draws = [RandomResizedCrop.get_params(blank, list(recipe.crop_area), list(recipe.crop_aspect)) for _ in range(4000)]
    theirs = torch.tensor(draws, dtype=torch.float32)[:, [1, 0, 3, 2]] / 1000  # left, top, width, height
    ours = sample_crops(4000, recipe, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ours.mean(dim=0), theirs.mean(dim=0), atol=0.005)
    assert torch.allclose(ours.std(dim=0), theirs.std(dim=0), atol=0.005)


def test_flips_and_rotations_have_the_recipes_distribution():
    crops, flips, degrees = draw(20_000, Augmentation(), generator=torch.Generator().manual_seed(0))
    assert crops.shape == (20_000, 4)
    assert flips.float().mean() == pytest.approx(0.5, abs=0.015)  # four standard errors
    assert degrees.abs().max() <= 15 and degrees.min() < -14.9 and degrees.max() > 14.9
    assert degrees.mean() == pytest.approx(0, abs=0.25) and degrees.std() == pytest.approx(30 / 12**0.5, abs=0.1)
    assert torch.corrcoef(torch.stack([flips.float(), degrees]))[0, 1].abs() < 0.03


def test_augment_carries_out_what_was_drawn():
    """With nothing but flips left in the recipe, half the films come out mirrored and the others as they went in."""
    recipe = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), rotation_degrees=0.0)
    films = (film() * 255).byte().repeat(200, 1, 1, 1)
    varied = augment(films, recipe, size=64, generator=torch.Generator().manual_seed(0))
    plain, mirrored = eval_transform(films, size=64)[0], eval_transform(films, size=64)[0].flip(-1)
    kept = [torch.allclose(v, plain, atol=1e-3) for v in varied]
    turned = [torch.allclose(v, mirrored, atol=1e-3) for v in varied]
    assert all(a != b for a, b in zip(kept, turned, strict=True))
    assert 70 <= sum(turned) <= 130


def test_same_seed_same_batch_and_shape():
    films = (film().repeat(4, 1, 1, 1) * 255).byte()

    def varied(seed):
        return augment(films, Augmentation(), size=32, generator=torch.Generator().manual_seed(seed))

    assert varied(1).shape == (4, 3, 32, 32)
    assert torch.equal(varied(1), varied(1)) and not torch.equal(varied(1), varied(2))
    assert not torch.equal(varied(1)[0], varied(1)[1])


def test_shrinking_averages_areas_and_input_is_imagenet_normalised():
    films = torch.from_numpy(np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)) * 10
    assert torch.allclose(resize_area(films, 2)[0, 0] * 255, torch.tensor([[25.0, 45.0], [105.0, 125.0]]), atol=1e-4)
    first = eval_transform(films, size=2)[0, :, 0, 0]
    expected = [(25 / 255 - mean) / std for mean, std in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]]
    assert torch.allclose(first, torch.tensor(expected), atol=1e-5)
