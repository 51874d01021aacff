"""The order of operations of a heat map, by hand and against a slow bilinear reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.inference.heatmaps import heat_maps, subtract_baseline
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import train


def test_by_hand():
    # ReLU: 0 2. Four pixels from two, centres at -0.25, 0.25, 0.75, 1.25 of the old: 0, 0.5, 1.5, 2. Peak 2.
    cam = torch.tensor([[[[-6.0, 2.0]]]])
    assert heat_maps(cam, (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]


def _slow(cam: np.ndarray, height: int, width: int) -> np.ndarray:
    cam = np.maximum(cam, 0)
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * cam.shape[0] / height - 0.5, 0), cam.shape[0] - 1)
            x = min(max((j + 0.5) * cam.shape[1] / width - 0.5, 0), cam.shape[1] - 1)
            for r in range(cam.shape[0]):
                for c in range(cam.shape[1]):
                    out[i, j] += max(0, 1 - abs(y - r)) * max(0, 1 - abs(x - c)) * cam[r, c]
    return out / out.max()


def test_against_a_slow_reference():
    cam = np.random.default_rng(0).normal(size=(3, 5))
    maps = heat_maps(torch.from_numpy(cam)[None, None], (7, 20))
    assert maps[0, 0].numpy() == pytest.approx(_slow(cam, 7, 20))


def test_every_map_peaks_at_exactly_one_whatever_its_scale():
    cam = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    cam *= torch.logspace(-12, 12, 12).view(3, 4, 1, 1)
    maps = heat_maps(cam, 32)
    assert maps.shape == (3, 4, 32, 32)
    assert (maps.amax(dim=(2, 3)) == 1).all()
    assert maps.min() >= 0


def test_a_map_without_a_positive_value_stays_zero():
    cam = torch.tensor([[[[-1.0, -2.0]], [[0.0, 0.0]], [[0.0, 3.0]]]])
    assert heat_maps(cam, 4).amax(dim=(2, 3)).tolist() == [[0, 0, 1]]


def test_half_precision_is_computed_in_single():
    maps = heat_maps(torch.full((1, 1, 2, 2), 6e-5, dtype=torch.float16), 4)
    assert maps.dtype == torch.float32
    assert (maps == 1).all()


def test_input_is_left_alone():
    cam = torch.tensor([[[[-1.0, 2.0]]]])
    heat_maps(cam, 1)
    assert cam.flatten().tolist() == [-1, 2]


def test_bad_input_is_told_in_a_sentence():
    with pytest.raises(InputError, match=r"\(B, C, h, w\)"):
        heat_maps(torch.zeros(14, 8, 8), 256)
    with pytest.raises(InputError, match="positive size"):
        heat_maps(torch.zeros(1, 14, 8, 8), 0)


def test_the_floor_of_a_map_by_hand():
    """From its own minimum, -6, the map of 2 above it stands at 0 and 8: half-way up is 4 / 8."""
    cam = torch.tensor([[[[-6.0, 2.0]], [[-3.0, -1.0]], [[4.0, 4.0]]]])
    assert subtract_baseline(cam, "zero") is cam
    lifted = subtract_baseline(cam, "min")
    assert lifted.flatten(start_dim=2).tolist() == [[[0, 8], [0, 2], [0, 0]]]
    maps = heat_maps(lifted, (1, 4))[0, :, 0]
    assert maps[0].tolist() == maps[1].tolist() == [0, 0.25, 0.75, 1]  # a map that is negative everywhere has a peak
    assert heat_maps(cam, (1, 4))[0, 1].max() == 0 and maps[2].max() == 0
    with pytest.raises(InputError, match="no normalisation 'mean' of maps; choose one of zero, min, negative_mean"):
        subtract_baseline(cam, "mean")


def test_a_recipe_of_maps_that_there_are_not_is_refused_before_it_is_trained(tmp_path, demo_store, demo_folder):
    films = ChestXrayDataset(demo_store, load_metadata(demo_folder), image_index=demo_store.image_index)
    recipe = replace(get_recipe("multires_tiny"), cam_baseline="mean")
    with pytest.raises(InputError, match="no normalisation 'mean' of maps"):
        train(recipe, tmp_path, train_set=films, val_set=films)
    assert not list(tmp_path.glob("*.safetensors"))
