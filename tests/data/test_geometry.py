import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate as torchvision_rotate

from cxr_seam.data.transforms import Motion, motion_valid, move, no_motion, rotate, rotation_valid, send_motion


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


def motions(count, seed=0):
    """Motions that turn, zoom, shift and mirror at once."""
    generator = torch.Generator().manual_seed(seed)
    uniform = 2 * torch.rand(5, count, generator=generator) - 1
    return Motion(
        degrees=uniform[0] * 40,
        zoom=2 ** uniform[1],
        right=uniform[2] * 0.2,
        down=uniform[3] * 0.2,
        mirror=torch.where(uniform[4] < 0, -1.0, 1.0),
    )


def slow_move(image: np.ndarray, motion: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Undo shift, turn, zoom and mirror of each pixel in turn, in pixels, and mean its four neighbours by hand."""
    degrees, zoom, right, down, mirror = motion
    height, width = image.shape
    moved, valid = np.zeros((height, width)), np.zeros((height, width), bool)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for row in range(height):
        for column in range(width):
            x = column + 0.5 - width / 2 - right * width
            y = row + 0.5 - height / 2 - down * height
            x, y = x * cosine - y * sine, x * sine + y * cosine  # clockwise back, rows counted downwards
            x, y = mirror * x / zoom + width / 2 - 0.5, y / zoom + height / 2 - 0.5
            left, top = math.floor(x), math.floor(y)
            inside = 0.0
            for r in (top, top + 1):
                for c in (left, left + 1):
                    weight = (1 - abs(x - c)) * (1 - abs(y - r))
                    if 0 <= r < height and 0 <= c < width:
                        inside += weight
                        moved[row, column] += weight * image[r, c]
            valid[row, column] = inside > 0.999
    return moved, valid


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 14)])
def test_moving_and_its_valid_region_equal_a_slow_computation(height, width):
    motion = motions(6)
    maps = torch.rand(6, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, valid = move(maps, motion), motion_valid(motion, height=height, width=width)
    assert 0 < valid.float().mean() < 1
    for i in range(6):
        slow, slow_valid = slow_move(maps[i, 0].numpy(), [values[i].item() for values in motion])
        np.testing.assert_allclose(ours[i, 0].numpy(), slow, atol=1e-5)
        assert np.array_equal(valid[i, 0].numpy(), slow_valid)


def test_a_constant_map_moves_to_its_valid_region():
    motion = motions(20)
    moved = move(torch.full((20, 3, 12, 12), 2.0), motion)
    valid = motion_valid(motion, height=12, width=12).expand_as(moved)
    assert torch.allclose(moved[valid], torch.tensor(2.0), atol=3e-3) and (moved[~valid] < 2).all()


def test_a_motion_that_only_turns_is_the_rotation_bit_for_bit():
    degrees = torch.linspace(-30, 30, 7)
    motion = no_motion(7)._replace(degrees=degrees)
    for shape in [(16, 16), (9, 14)]:
        maps = torch.rand(7, 2, *shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(move(maps, motion), rotate(maps, degrees))
        assert torch.equal(
            motion_valid(motion, height=shape[0], width=shape[1]),
            rotation_valid(degrees, height=shape[0], width=shape[1]),
        )


def test_no_motion_leaves_every_pixel_valid_and_a_shift_by_whole_pixels_moves_them():
    maps = torch.rand(2, 1, 8, 10, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(move(maps, no_motion(2)), maps, atol=1e-5)
    assert motion_valid(no_motion(2), height=8, width=10).all()
    shift = no_motion(2)._replace(right=torch.full((2,), 0.2), down=torch.full((2,), -0.25))  # 2 right, 2 up
    moved = move(maps, shift)
    assert torch.allclose(moved[:, :, :6, 2:], maps[:, :, 2:, :8], atol=1e-5)
    valid = motion_valid(shift, height=8, width=10)
    assert valid[:, :, :6, 2:].all() and valid.sum() == 2 * 6 * 8


def test_a_part_of_a_motion_is_sent_in_its_order():
    motion = motions(5)
    sent = send_motion(motion, torch.device("cpu"), part=slice(1, 3))
    assert all(torch.equal(ours, whole[1:3]) for ours, whole in zip(sent, motion, strict=True))
