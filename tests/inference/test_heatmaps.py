"""The order of operations of a heat map, by hand and against a slow bilinear reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cxr_seam.errors import InputError
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.presets import get_recipe


def test_heatmap_matches_hand_computed_values():
    # ReLU: 0 2. Four pixels from two, centres at -0.25, 0.25, 0.75, 1.25 of the old: 0, 0.5, 1.5, 2. Peak 2.
    cam = torch.tensor([[[[-6.0, 2.0]]]])
    assert cam_to_heatmap(cam, (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]


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


def test_heatmap_matches_slow_reference():
    cam = np.random.default_rng(0).normal(size=(3, 5))
    maps = cam_to_heatmap(torch.from_numpy(cam)[None, None], (7, 20))
    assert maps[0, 0].numpy() == pytest.approx(_slow(cam, 7, 20))


def test_heatmap_maximum_is_one():
    cam = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    cam *= torch.logspace(-12, 12, 12).view(3, 4, 1, 1)
    maps = cam_to_heatmap(cam, 32)
    assert maps.shape == (3, 4, 32, 32)
    assert (maps.amax(dim=(2, 3)) == 1).all()
    assert maps.min() >= 0


def test_heatmap_without_positive_value_is_zero():
    cam = torch.tensor([[[[-1.0, -2.0]], [[0.0, 0.0]], [[0.0, 3.0]]]])
    assert cam_to_heatmap(cam, 4).amax(dim=(2, 3)).tolist() == [[0, 0, 1]]


def test_half_precision_is_computed_in_float32():
    maps = cam_to_heatmap(torch.full((1, 1, 2, 2), 6e-5, dtype=torch.float16), 4)
    assert maps.dtype == torch.float32
    assert (maps == 1).all()


def test_cam_is_not_changed():
    cam = torch.tensor([[[[-1.0, 2.0]]]])
    cam_to_heatmap(cam, 1)
    assert cam.flatten().tolist() == [-1, 2]


def test_baselines_match_hand_computed_values():
    """From its own minimum, -6, the map of 2 above it stands at 0 and 8: half-way up is 4 / 8."""
    cam = torch.tensor([[[[-6.0, 2.0]], [[-3.0, -1.0]], [[4.0, 4.0]]]])
    maps = cam_to_heatmap(cam, (1, 4), baseline="min")[0, :, 0]
    assert maps[0].tolist() == maps[1].tolist() == [0, 0.25, 0.75, 1]  # a map that is negative everywhere has a peak
    assert maps[2].max() == 0
    assert cam_to_heatmap(cam, (1, 4))[0, 1].max() == 0
    mean = torch.tensor([[[-7.0, 2.0]], [[-3.0, -2.0]], [[4.0, 4.0]]])
    maps = cam_to_heatmap(cam, (1, 2), baseline="negative_mean", negative_mean=mean)
    assert maps[0, :, 0].tolist() == [[1, 0], [0, 1], [0, 0]]


def test_options_select_findings():
    cam = torch.randn(2, 14, 4, 4, generator=torch.Generator().manual_seed(0))
    options = HeatmapOptions("negative_mean", torch.randn(14, 4, 4, generator=torch.Generator().manual_seed(1)))
    maps = options.heatmaps(cam, 8)
    torch.testing.assert_close(options.select([7, 2]).heatmaps(cam[:, [7, 2]], 8), maps[:, [7, 2]])


def test_unknown_baseline_is_refused():
    with pytest.raises(InputError, match="cam_baseline"):
        replace(get_recipe("multires_tiny"), cam_baseline="mean")


def test_mirrored_evidence_is_subtracted():
    """E' = ReLU(E - s mirror(E)) by hand, after the baseline and before the prior."""
    cam = torch.tensor([[[[5.0, 1.0, 3.0]]]])
    found = cam_to_heatmap(cam, (1, 3), baseline="min", mirror_share=0.25)  # E = 4, 0, 2
    assert found[0, 0].tolist() == [[1.0, 0.0, pytest.approx((2 - 1) / (4 - 0.5))]]
    prior = torch.tensor([[[0.0, 1.0, 1.0]]])
    assert cam_to_heatmap(cam, (1, 3), baseline="min", mirror_share=0.25, prior=prior)[0, 0].tolist() == [[0, 0, 1]]
    assert cam_to_heatmap(cam, (1, 3), baseline="min", mirror_share=0.5)[0, 0].tolist() == [[1, 0, 0]]


def test_mirror_keeps_no_symmetric_evidence_and_turns_with_the_image():
    cam = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    symmetric = cam.abs() + cam.abs().flip(-1)
    assert not cam_to_heatmap(symmetric, 8, mirror_share=1.0).any()
    assert torch.equal(cam_to_heatmap(symmetric, 8, mirror_share=0.5), cam_to_heatmap(symmetric, 8))
    mirrored = cam_to_heatmap(cam.flip(-1), 8, mirror_share=0.5)
    assert torch.equal(mirrored, cam_to_heatmap(cam, 8, mirror_share=0.5).flip(-1))
    assert torch.equal(cam_to_heatmap(cam, 8, mirror_share=0.0), cam_to_heatmap(cam, 8))
