"""Grad-CAM and Grad-CAM++ against their formulas, by hand, pixel by pixel, and where they must equal the CAM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.maps.gradcam import gradcam_maps
from cxr_seam.models.build import build_model


class Given(nn.Module):
    """A model whose features are its images, pooled by the mean, with a classifier of given weights (14, C)."""

    findings = FINDINGS

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward_features(self, images: Tensor) -> tuple[Tensor, None]:
        return images.clone(), None

    def pool_logits(self, features: Tensor) -> Tensor:
        return features.mean(dim=(-2, -1)) @ self.weights.T + 0.7


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A model with LSE pooling and larger classifier weights than at initialisation."""
    torch.manual_seed(0)
    model = build_model("multires_timm:resnet18", weights="none").eval()
    nn.init.normal_(model.classifier.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 4 - 2


def slow_maps(model: nn.Module, images: Tensor, method: str, finding: int) -> Tensor:
    """The formulas as they are written, one image, one channel and one pixel at a time, in float64."""
    maps = []
    for image in images:
        features = model.forward_features(image[None])[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.pool_logits(features)[0, finding], features)
        total = torch.zeros(features.shape[-2:], dtype=torch.float64)
        for channel, slope in zip(features[0].detach().double(), gradient[0].double(), strict=True):
            if method == "gradcam":
                weight = slope.mean()
            else:
                weight = torch.tensor(0.0, dtype=torch.float64)
                for g in slope.flatten():
                    if g > 0:
                        weight += g**2 / (2 * g**2 + channel.sum() * g**3) * g
            total += weight * channel
        maps.append(total.clamp_min(0))
    return torch.stack(maps)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
def test_maps_match_slow_formulas(model: nn.Module, images: Tensor, method: str) -> None:
    maps = gradcam_maps(model, images, method=method, findings=["Mass", "Atelectasis"])
    assert maps.shape == (2, 2, 8, 8) == (2, 2, *model(images).cam.shape[-2:])
    assert maps.dtype == torch.float32 and (maps >= 0).all() and (maps > 0).any()
    for row, finding in enumerate((FINDINGS.index("Mass"), 0)):
        expected = slow_maps(model, images, method, finding)
        torch.testing.assert_close(maps[:, row].double(), expected, rtol=1e-3, atol=1e-5 * expected.max().item())


def test_maps_match_hand_computed_values() -> None:
    """One channel A = [[1, 2], [3, 2]], Y = mean(A) + 0.7, so that every gradient is 1/4.

    Grad-CAM: w = 1/4. Grad-CAM++: alpha = (1/16) / (2/16 + 8/64) = 1/4, w = 4 pixels x 1/4 x 1/4 = 1/4. With Y twice
    that the gradients are 1/2: w = 1/2; alpha = (1/4) / (2/4 + 8/8) = 1/6, w = 4 x 1/6 x 1/2 = 1/3. With the sign
    reversed, there is no evidence for the finding.
    """
    weights = torch.zeros(14, 1)
    weights[:3, 0] = torch.tensor([1.0, 2.0, -1.0])
    image = torch.tensor([[[[1.0, 2.0], [3.0, 2.0]]]])
    for method, factors in (("gradcam", (1 / 4, 1 / 2, 0)), ("gradcam++", (1 / 4, 1 / 3, 0))):
        maps = gradcam_maps(Given(weights), image, method=method)
        assert maps.shape == (1, 14, 2, 2)
        for finding, factor in enumerate(factors):
            torch.testing.assert_close(maps[0, finding], factor * image[0, 0])
        assert (maps[0, 3:] == 0).all()


def test_gradcam_equals_cam_with_mean_pooling() -> None:
    """Selvaraju et al., Sect. 3.1: it generalises CAM; what is left is the number of pixels and the bias."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(14, 5, generator=generator)
    images = torch.rand(3, 5, 4, 6, generator=generator)
    cam = torch.einsum("fc,bchw->bfhw", weights, images)
    torch.testing.assert_close(gradcam_maps(Given(weights), images), cam.relu() / 24)


@pytest.mark.parametrize(("method", "name"), [("gradcam", "GradCAM"), ("gradcam++", "GradCAMPlusPlus")])
def test_maps_equal_pytorch_grad_cam(model: nn.Module, images: Tensor, method: str, name: str) -> None:
    """The package adds 1e-6 to the denominator of alpha, so features are scaled to make their gradients large."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    package = getattr(pytorch_grad_cam, name)(model, target_layers=[])
    features = model.forward_features(images)[0].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.pool_logits(features)[:, FINDINGS.index("Mass")].sum(), features)
    scale = 2.0**-20
    expected = package.get_cam_image(
        None, None, None, (features.detach() * scale).numpy(), (gradient / scale).numpy()
    ).clip(0)
    maps = gradcam_maps(model, images, method=method, findings=["Mass"])[:, 0]
    torch.testing.assert_close(maps, torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
def test_maps_follow_the_unit_of_the_features(method: str) -> None:
    """Features k times larger with weights k times smaller are the same evidence, k times larger."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(14, 5, generator=generator)
    images = torch.rand(1, 5, 4, 4, generator=generator)
    torch.testing.assert_close(
        gradcam_maps(Given(weights / 4096), images * 4096, method=method),
        gradcam_maps(Given(weights), images, method=method),
    )


def test_maps_do_not_depend_on_the_batch(model: nn.Module, images: Tensor) -> None:
    for method in ("gradcam", "gradcam++"):
        alone = torch.cat([gradcam_maps(model, image[None], method=method) for image in images])
        torch.testing.assert_close(gradcam_maps(model, images, method=method), alone, rtol=1e-3, atol=1e-6)


def test_maps_in_inference_mode_leave_no_gradient(model: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        inside = gradcam_maps(model, images.clone(), findings=["Edema"])
    assert torch.equal(inside, gradcam_maps(model, images, findings=["Edema"]))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_unknown_method_or_finding_is_refused(images: Tensor) -> None:
    model = Given(torch.zeros(14, 3))
    with pytest.raises(InputError, match="scorecam"):
        gradcam_maps(model, images, method="scorecam")
    with pytest.raises(InputError, match="Tumour"):
        gradcam_maps(model, images, findings=["Tumour"])
