import math
from dataclasses import replace

import pytest
import torch

from cxr_seam.data.transforms import (
    EQUIVARIANCES,
    LARGEST_SHIFT,
    SINGLE,
    SMALLEST_ZOOM,
    draw_mixture,
    find_equivariance,
    move,
)
from cxr_seam.errors import InputError
from cxr_seam.recipes import SeamStage


def drawn(name, count=4000, seed=0, **changes):
    phase = replace(SeamStage(), **changes)
    return find_equivariance(name)(count, phase, generator=torch.Generator().manual_seed(seed))


def neutral(motion, *fields):
    """Whether the named fields leave the picture as it is."""
    rest = {"degrees": 0.0, "zoom": 1.0, "right": 0.0, "down": 0.0, "mirror": 1.0}
    return all((getattr(motion, field) == rest[field]).all() for field in fields)


def test_rotation_is_uniform_within_the_phases_angle():
    motion = drawn("rotation", rotation_degrees=20.0)
    assert motion.degrees.abs().max() <= 20 and neutral(motion, "zoom", "right", "down", "mirror")
    assert abs(motion.degrees.mean()) < 1 and motion.degrees.std().item() == pytest.approx(20 / math.sqrt(3), rel=0.05)


def test_rescaling_only_shrinks_log_uniformly():
    motion = drawn("rescaling")
    assert motion.zoom.min() >= SMALLEST_ZOOM and motion.zoom.max() <= 1
    assert neutral(motion, "degrees", "right", "down", "mirror")
    assert motion.zoom.median().item() == pytest.approx(math.sqrt(SMALLEST_ZOOM), rel=0.02)


def test_translation_goes_everywhere_within_its_bound():
    motion = drawn("translation")
    assert neutral(motion, "degrees", "zoom", "mirror")
    for shift in (motion.right, motion.down):
        assert 0.98 * LARGEST_SHIFT < shift.max() <= LARGEST_SHIFT and shift.min() < -0.98 * LARGEST_SHIFT
    assert torch.corrcoef(torch.stack([motion.right, motion.down]))[0, 1].abs() < 0.05


def test_flip_is_its_own_inverse():
    maps = torch.rand(3, 2, 7, 12, generator=torch.Generator().manual_seed(0))
    motion = drawn("flip", count=3)
    once = move(maps, motion)
    assert torch.allclose(once, maps.flip(-1), atol=1e-5)
    assert torch.allclose(move(once, motion), maps, atol=1e-5)


def test_the_mixture_moves_each_film_in_one_way_and_draws_each_equally():
    motion = drawn("mixture")
    turned, zoomed = motion.degrees != 0, motion.zoom != 1
    shifted, mirrored = (motion.right != 0) | (motion.down != 0), motion.mirror == -1
    ways = torch.stack([turned, zoomed, shifted, mirrored])
    assert (ways.sum(dim=0) == 1).all()
    assert ((ways.float().mean(dim=1) - 1 / len(SINGLE)).abs() < 0.03).all()


@pytest.mark.parametrize("name", EQUIVARIANCES)
def test_draws_come_from_the_generator_alone(name):
    assert all(torch.equal(a, b) for a, b in zip(drawn(name, seed=1), drawn(name, seed=1), strict=True))
    assert name == "flip" or any(
        not torch.equal(a, b) for a, b in zip(drawn(name, seed=1), drawn(name, seed=2), strict=True)
    )
    assert all(values.shape == (4000,) and values.dtype == torch.float32 for values in drawn(name))


def test_unknown_names_are_told():
    assert find_equivariance("mixture") is draw_mixture
    with pytest.raises(InputError, match="no equivariance 'warp'; choose one of rotation, rescaling"):
        find_equivariance("warp")
