import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate as torchvision_rotate

from cxr_seam.geometry import rotate, rotation_valid


def picture(height, width):
    return torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(0))


def test_quarter_turn_is_counter_clockwise():
    square = picture(5, 5)
    assert torch.allclose(rotate(square, torch.tensor([90.0])), square.rot90(1, dims=(2, 3)), atol=1e-5)


def test_equals_torchvision_also_on_maps_that_are_not_square():
    for shape in [(16, 16), (12, 20), (15, 9)]:
        image = picture(*shape)
        for angle in [-30.0, 7.5, 30.0]:
            expected = torchvision_rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
            valid = rotation_valid(torch.tensor([angle]), height=shape[0], width=shape[1])
            difference = (rotate(image, torch.tensor([angle])) - expected).abs() * valid
            assert difference.max() < 1e-4
            assert 0.4 < valid.float().mean() < 1.0


def test_each_image_has_its_own_angle():
    batch = picture(8, 8).repeat(2, 1, 1, 1)
    turned = rotate(batch, torch.tensor([0.0, 25.0]))
    assert torch.allclose(turned[0], batch[0], atol=1e-5) and not torch.allclose(turned[1], batch[1], atol=0.1)


def test_valid_pixels_never_depend_on_the_fill():
    degrees = torch.tensor([-30.0, 12.0, 30.0])
    ones = rotate(torch.ones(3, 1, 32, 32), degrees)
    valid = rotation_valid(degrees, height=32, width=32)
    assert (ones[valid] > 0.999).all()
    assert not valid[:, :, 0, 0].any() and valid[:, :, 16, 16].all()


def test_rotation_there_and_back_is_nearly_the_identity():
    smooth = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    there = rotate(smooth, torch.tensor([20.0]))
    back = rotate(there, torch.tensor([-20.0]))
    assert (back - smooth)[..., 10:22, 10:22].abs().max() < 1e-3
