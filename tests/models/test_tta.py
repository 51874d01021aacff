"""Test-time augmentation against outputs known for each view."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cxr_seam.models.build import build_model
from cxr_seam.models.multires import ModelOutput
from cxr_seam.models.tta import rescale, tta_forward

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class Means(nn.Module):
    """A model: maps are means of 8 x 8 pixels, logits the mean of the left half of the image."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images, *, maps=True):
        self.sizes.append(tuple(images.shape[-2:]))
        cam = F.avg_pool2d(images[:, :1], 8).repeat(1, 14, 1, 1)
        logits = images[..., : images.shape[-1] // 2].mean(dim=(-2, -1))[:, :1].repeat(1, 14)
        return ModelOutput(logits, cam, cam + 1) if maps else ModelOutput(logits, None, None)


def test_tta_of_one_view_is_the_models_output():
    model = build_model("multires_timm:test_resnet", weights="none").eval()
    with torch.no_grad():
        for ours, expected in zip(tta_forward(model, IMAGES), model(IMAGES), strict=True):
            assert torch.equal(ours, expected)


def test_tta_flip_averages_mirrored_maps():
    output = tta_forward(Means(), IMAGES, flip=True)
    plain = Means()(IMAGES)
    assert torch.allclose(output.cam, plain.cam, atol=1e-6) and torch.allclose(output.refined, plain.refined, atol=1e-6)
    assert torch.allclose(output.logits, IMAGES[:, :1].mean(dim=(-2, -1)).repeat(1, 14), atol=1e-6)


def test_tta_flip_is_invariant():
    model = build_model("multires_timm:test_resnet", weights="none").eval()
    with torch.no_grad():
        one, other = (tta_forward(model, images, flip=True) for images in (IMAGES, IMAGES.flip(-1)))
        assert not torch.allclose(model(IMAGES).logits, model(IMAGES.flip(-1)).logits, rtol=1e-3)
    assert torch.allclose(one.logits, other.logits, rtol=1e-4)
    assert torch.allclose(one.cam, other.cam.flip(-1), rtol=1e-3, atol=1e-5)
    assert torch.allclose(one.refined, other.refined.flip(-1), rtol=1e-3, atol=1e-5)


def test_tta_scales_return_maps_of_first_size():
    """A slope is the same slope at every scale, except at its edges."""
    slope = torch.linspace(-1, 1, 96).expand(1, 3, 64, 96)
    model = Means()
    output = tta_forward(model, slope, scales=(1.0, 1.3, 2.0), flip=False)
    assert model.sizes == [(64, 96), (96, 128), (128, 192)]  # 83 x 125 is no multiple of 32
    assert output.cam.shape == (1, 14, 8, 12)
    assert torch.allclose(output.cam[..., 1:-1], Means()(slope).cam[..., 1:-1], atol=0.02)


def test_tta_rescale_rounds_halves_up():
    """80 is between 64 and 96, 16 between 0 and 32."""
    for side, scale, expected in ((64, 1.25, 96), (128, 1.25, 160), (32, 0.5, 32), (64, 1.24, 64)):
        assert rescale(torch.zeros(1, 3, side, side), scale).shape[-2:] == (expected, expected)


def test_tta_without_maps():
    output = tta_forward(Means(), IMAGES, scales=(1.0, 0.5), flip=True, maps=False)
    assert output.cam is None and output.refined is None
    halves = [F.interpolate(IMAGES, size=(32, 64), mode="bilinear", antialias=True), IMAGES]  # 48 is as near to 64
    expected = np.mean([half[:, 0].mean(dim=(-2, -1)).numpy() for half in halves], axis=0)
    assert output.logits[:, 0].numpy() == pytest.approx(expected, abs=1e-5)
