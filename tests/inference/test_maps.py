"""LayerCAM against pytorch-grad-cam and a slow reference, the choice of maps, their mean, and their augmentation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr_seam.data.image_io import load_image, resize_square
from cxr_seam.data.transforms import eval_transform
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.boxes import boxes_from_heatmap
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.inference.maps.gradcam import gradcam_maps
from cxr_seam.inference.maps.layercam import layercam_maps, stage_maps
from cxr_seam.inference.maps.registry import MAPS
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import build_model
from cxr_seam.presets import get_preset

RECIPE = get_preset("tiny")[2]
MASS = FINDINGS.index("Mass")
pytestmark = pytest.mark.filterwarnings("ignore::cxr_seam.inference.predictor.ImageWarning")


def scaled(name: str, **options) -> nn.Module:
    """A model with larger classifier weights than at initialisation."""
    torch.manual_seed(0)
    model = build_model(name, weights="none", **options).eval()
    nn.init.normal_(model.classifier.weight, std=0.3)
    return model


@pytest.fixture(scope="module", params=["multires_efficientnet_lite0", "efficientnet_lite0"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return scaled(request.param)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 4 - 2


LARGE = 2.0**30


class Logits(nn.Module):
    """The logits of a model for pytorch-grad-cam, enlarged, because it adds 1e-7 to the maximum of a map."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, maps=False).logits * LARGE


def test_stage_maps_equal_pytorch_grad_cam(model: nn.Module, images: Tensor) -> None:
    """The package runs the model itself, with its own hooks on the three stages."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    (found,) = stage_maps(model, images[:1], [MASS])
    with pytorch_grad_cam.LayerCAM(Logits(model), target_layers=list(model.backbone.stages[-3:])) as package:
        package(images[:1], [ClassifierOutputTarget(MASS)])
        kept = package.activations_and_grads
        expected = [
            package.get_cam_image(None, None, None, a.numpy(), g.numpy() / LARGE, False).clip(0)
            for a, g in zip(kept.activations, kept.gradients, strict=True)
        ]
    assert [tuple(each.shape) for each in found] == [(1, 8, 8), (1, 4, 4), (1, 2, 2)]
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.max() > 0
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-3, atol=1e-4 * float(theirs.max()))


def test_stages_joined_as_the_package_does_equal_its_map(model: nn.Module, images: Tensor) -> None:
    """From the images to the map: it subtracts the minimum of each stage, which we do not, and enlarges it first."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def scale(values: Tensor) -> Tensor:
        values = values - values.min()
        return values / values.max()

    with pytorch_grad_cam.LayerCAM(Logits(model), target_layers=list(model.backbone.stages[-3:])) as package:
        expected = package(images, 2 * [ClassifierOutputTarget(MASS)])
    for image, theirs in zip(images, expected, strict=True):
        (stages,) = stage_maps(model, image[None], [MASS])
        enlarged = [nn.functional.interpolate(scale(each)[None], size=64, mode="bilinear")[0, 0] for each in stages]
        torch.testing.assert_close(scale(sum(enlarged)), torch.from_numpy(theirs), rtol=0, atol=2e-3)


def slow_layercam(model: nn.Module, image: Tensor, finding: int) -> Tensor:
    """The formula stage by stage: a part of the network after each stage is differentiated on its own."""
    total = torch.zeros(8, 8)
    for start in range(2, 5):
        maps = [each.detach() for each in model.backbone(image[None])]
        maps[start].requires_grad_()
        later = maps[: start + 1]
        for stage in model.backbone.stages[start + 1 :]:
            later.append(stage(later[-1]))
        features = later[-1]
        for merge, fine in zip(model.merges, later[-2::-1], strict=False):
            features = merge(features, fine)
        (gradient,) = torch.autograd.grad(model.pool_logits(features)[0, finding], maps[start])
        weighted = (gradient.clamp_min(0) * maps[start]).sum(dim=1, keepdim=True).clamp_min(0).detach()
        weighted = nn.functional.interpolate(weighted, size=(8, 8), mode="bilinear", align_corners=False)
        total += weighted[0, 0] / weighted.max()
    return total / 3


def test_layercam_matches_slow_formula(model: nn.Module, images: Tensor) -> None:
    maps = layercam_maps(model, images, findings=["Mass", "Atelectasis"])
    assert maps.shape == (2, 2, 8, 8) and maps.dtype == torch.float32
    for row, image in enumerate(images):
        for column, finding in enumerate((MASS, 0)):
            torch.testing.assert_close(maps[row, column], slow_layercam(model, image, finding), rtol=1e-3, atol=1e-4)


def test_layercam_in_inference_mode_leaves_no_gradient_and_no_hook(model: nn.Module, images: Tensor) -> None:
    model.zero_grad()
    with torch.inference_mode():
        inside = layercam_maps(model, images.clone(), findings=["Edema"])
    assert torch.equal(inside, layercam_maps(model, images, findings=["Edema"])) and not inside.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.backbone._forward_hooks
    with pytest.raises(InputError, match="Tumour"):
        layercam_maps(model, images, findings=["Tumour"])


def test_layercam_of_a_timm_network_and_of_one_with_channels_last(images: Tensor) -> None:
    maps = layercam_maps(scaled("multires_timm:resnet18"), images[:1], findings=["Mass"])
    assert maps.shape == (1, 1, 8, 8) and maps.min() >= 0 and 0 < maps.max() <= 1
    swin = scaled("timm:swin_tiny_patch4_window7_224")
    with pytest.raises(InputError, match="channels first"):
        layercam_maps(swin, images)


@pytest.fixture(scope="module")
def pixels(paths) -> Tensor:
    size = RECIPE.image_size
    return torch.from_numpy(np.stack([resize_square(load_image(path).pixels, size) for path in paths[:2]]))[:, None]


def test_each_map_is_the_one_of_its_method(predictor: Predictor, pixels: Tensor) -> None:
    output, inputs = predictor.forward(pixels), eval_transform(pixels, size=RECIPE.image_size)
    expected = {
        "cam": output.cam,
        "refined": output.refined,
        "layercam": layercam_maps(predictor.model, inputs),
        "gradcam": gradcam_maps(predictor.model, inputs),
    }
    assert predictor.available_maps == (*expected, "mean") == tuple(MAPS)
    for name, cam in expected.items():
        found = predictor.compute_map(name, pixels)
        torch.testing.assert_close(found.cam, cam, rtol=1e-4, atol=1e-6)
        part = predictor.compute_map(name, pixels, output=output, findings=["Edema", "Mass"])
        torch.testing.assert_close(part.cam, cam[:, [FINDINGS.index("Edema"), MASS]], rtol=1e-4, atol=1e-6)
        assert part.options.findings == ("Edema", "Mass")
    heatmaps = [cam_to_heatmap(cam, 8).numpy() for cam in expected.values()]
    mean = predictor.compute_map("mean", pixels).cam.numpy()
    np.testing.assert_allclose(mean, sum(heatmaps) / 4, atol=1e-5)


def test_baseline_and_prior_apply_to_cams_only(predictor: Predictor, pixels: Tensor) -> None:
    means = {name: torch.rand(14, 8, 8, generator=torch.Generator().manual_seed(0)) for name in ("cam", "refined")}
    priors = {name: torch.rand(14, 8, 8, generator=torch.Generator().manual_seed(1)) for name in means}
    recipe = replace(RECIPE, cam_baseline="negative_mean", map_prior="labels", box_rule="moments")
    with_mean = Predictor(predictor.model, recipe, negative_mean=means, prior=priors)
    for name in ("cam", "refined"):
        found = with_mean.compute_map(name, pixels, findings=["Mass"])
        own = slice(MASS, MASS + 1)
        options = {"baseline": "negative_mean", "negative_mean": means[name][own], "prior": priors[name][own]}
        torch.testing.assert_close(found.options.heatmaps(found.cam, 64), cam_to_heatmap(found.cam, 64, **options))
    for name in ("layercam", "gradcam"):
        found, plain = (each.compute_map(name, pixels) for each in (with_mean, predictor))
        assert found.options.negative_mean is found.options.prior is None and found.options.baseline == "zero"
        assert found.options.box_rule == "moments"
        torch.testing.assert_close(found.cam, plain.cam)


@pytest.mark.parametrize("name", ["layercam", "gradcam"])
def test_gradient_maps_are_augmented_as_the_recipe_says(predictor: Predictor, pixels: Tensor, name: str) -> None:
    flipped = Predictor(predictor.model, replace(RECIPE, tta_flip=True)).compute_map(name, pixels).cam
    one, other = (predictor.compute_map(name, each).cam for each in (pixels, pixels.flip(-1)))
    torch.testing.assert_close(flipped, (one + other.flip(-1)) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(MAPS))
def test_predictions_use_the_chosen_map(predictor: Predictor, paths, name: str) -> None:
    chosen = Predictor(predictor.model, RECIPE, map=name)
    prediction = chosen.predict(paths[0])
    image = torch.from_numpy(prediction.image)[None, None]
    found = chosen.compute_map(name, image)
    heatmaps = found.options.heatmaps(found.cam, 256)[0].numpy()
    assert prediction.map == name
    np.testing.assert_allclose(prediction.heat_map("Mass", size=256), heatmaps[MASS], atol=1e-5)
    height, width = prediction.size
    boxes = boxes_from_heatmap(heatmaps[MASS], threshold=RECIPE.cam_threshold).xywh
    assert prediction.boxes_of("Mass") == pytest.approx(boxes * [width, height, width, height])
    assert prediction.raw_scores == predictor.predict(paths[0]).raw_scores


def test_refined_map_needs_a_trained_refiner(predictor: Predictor, pixels: Tensor) -> None:
    first = Predictor(predictor.model, get_preset("tiny")[1])  # its refiner is random
    assert first.map == "cam" and predictor.map == "refined" and "refined" not in first.available_maps
    with pytest.raises(InputError, match="no trained refiner"):
        first.compute_map("refined", pixels)
    for name in ("refined", "scorecam"):
        with pytest.raises(InputError, match=name):
            Predictor(predictor.model, get_preset("tiny")[1], map=name)
