"""Models that are derived from trained ones: means of two, and Grad-CAM with a linear head equals the CAM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.study.derived import GradCamModel, MeanModel, mean_calibration
from cxr_seam.inference.calibration import Calibration
from cxr_seam.models.build import build_model


def test_mean_model_averages_logits_and_cams() -> None:
    models = [build_model("multires_efficientnet_lite0", weights="none").eval() for _ in range(2)]
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        one, other, mean = (model(images) for model in (*models, MeanModel(models)))
    for name in ("logits", "cam"):
        expected = (getattr(one, name).numpy() + getattr(other, name).numpy()) / 2
        np.testing.assert_allclose(getattr(mean, name).numpy(), expected, atol=1e-6)


def test_gradcam_of_a_model_with_mean_pooling_is_its_cam_above_zero() -> None:
    """With gamma near 0 the LSE pooling is the mean, and the weights of Grad-CAM are the classifier's / (h w)."""
    model = build_model("multires_efficientnet_lite0", weights="none", gamma=1e-3).eval()
    torch.nn.init.zeros_(model.classifier.bias)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = model(images), GradCamModel(model)(images)
    assert torch.equal(found.logits, expected.logits)
    scaled = (expected.cam.relu() / expected.cam[0, 0].numel()).numpy()
    np.testing.assert_allclose(found.cam.numpy(), scaled, atol=1e-3 * scaled.max())


def test_mean_calibration_averages_maps() -> None:
    logits = np.zeros((1, 1), np.float32)
    one, other = (
        Calibration(logits, {}, {"cam": torch.full((1, 2, 2), value)}, {"cam": torch.full((1, 2, 2), value / 4)})
        for value in (1.0, 3.0)
    )
    mean = mean_calibration([one, other])
    assert mean.negative_mean["cam"].unique().item() == pytest.approx(2)
    assert mean.prior["cam"].unique().item() == pytest.approx(0.5)
