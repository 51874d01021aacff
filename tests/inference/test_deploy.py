"""Exported models: onnxruntime and `torch.export.load` give what the predictor gives, for any batch size."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.checkpoints import make_scores
from torch import nn
from torch.nn import functional as F

from cxr_seam.__main__ import main
from cxr_seam.data.transforms import eval_transform
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.deploy import save_onnx, save_program
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import build_from_recipe
from cxr_seam.models.checkpoint import Checkpoint, ScoreCalibration, TrainingData, save_checkpoint
from cxr_seam.models.multires import LocalizationModel
from cxr_seam.presets import get_recipe
from cxr_seam.recipes import Recipe

SIDE, CACHE_SIDE = 64, 100
RECIPES = ("multires_tiny", "multires_tiny_pcm")
SLOW_RECIPES = (
    "resnet50",
    "multires_resnet50_pcm",
    "multires_efficientnet_b4_pcm",
    "multires_strong_small",
    "multires_strong_small_pcm",
)
TOLERANCE = 1e-4


class Exported(NamedTuple):
    predictor: Predictor
    onnx: Path
    program: Path


def grey_images(count: int, side: int) -> torch.Tensor:
    """Blurred noise (count, 1, side, side) uint8."""
    coarse = 255 * torch.rand(count, 1, 9, 9, generator=torch.Generator().manual_seed(count))
    return F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)


def untrained(recipe: Recipe) -> LocalizationModel:
    """Make a random model with the BatchNorm statistics of a batch and maps clearly above 0.

    Otherwise the values of B4 differ by rounding alone, and a map with a peak of nearly 0 is divided by this peak.
    """
    torch.manual_seed(0)
    model = build_from_recipe(recipe, weights="none")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        model.train()(eval_transform(grey_images(16, SIDE), size=SIDE))
        model.classifier.bias.fill_(0.5)
        model.classifier.weight.div_(10)  # logits of a few units, as after training
    return model.eval()


def make_checkpoint(folder: Path, name: str) -> Path:
    """Save a model for images of 64 pixels; of `strong`, with mean CAMs, a prior and a larger cache."""
    recipe = replace(get_recipe(name), image_size=SIDE)
    values = torch.rand(4, len(FINDINGS), 8, 8, generator=torch.Generator().manual_seed(1))
    strong = recipe.cam_baseline == "negative_mean"
    recipe = replace(recipe, map_prior="labels") if strong else recipe
    metadata = Checkpoint(
        recipe,
        scores=make_scores(0.25) | {"Hernia": ScoreCalibration(0, 40)},
        data=TrainingData(CACHE_SIDE if strong else SIDE, "", "", ""),
        negative_mean={"cam": values[0] / 100, "refined": values[1] / 100} if strong else None,
        prior={"cam": values[2], "refined": values[3]} if strong else None,
    )
    return save_checkpoint(folder / "model.safetensors", untrained(recipe), metadata=metadata)


@pytest.fixture(
    scope="module", params=[*RECIPES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_RECIPES)]
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Both files of a model, written by the command line."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = make_checkpoint(folder, request.param)
    written = Exported(Predictor.load(checkpoint), folder / "model.onnx", folder / "model.pt2")
    assert main(["export", str(checkpoint), "--onnx", str(written.onnx), "--torch-export", str(written.program)]) == 0
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "model.onnx", "model.pt2"}
    return written


def expected(predictor: Predictor, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the predictor gives: it draws the refined maps of a trained PCM, else the raw maps."""
    output = predictor.forward(images)
    kind = "refined" if predictor.recipe.name.endswith("_pcm") else "cam"
    heat_maps = cam_to_heatmap(
        getattr(output, kind),
        256,
        baseline=predictor.recipe.cam_baseline,
        mirror_share=predictor.recipe.mirror_share,
        negative_mean=predictor.negative_mean.get(kind),
        prior=predictor.prior.get(kind),
    )
    calibrated = torch.sigmoid(0.5 * output.logits - 1)  # slope and intercept of make_scores
    calibrated[:, FINDINGS.index("Hernia")] = torch.nan
    return {"logits": output.logits, "probabilities": calibrated, "heat_maps": heat_maps}


@pytest.mark.parametrize("batch", [1, 3])
def test_both_files_give_what_the_predictor_gives(exported: Exported, batch: int) -> None:
    images = grey_images(batch, exported.predictor.cache_size)
    right = expected(exported.predictor, images)
    assert right["heat_maps"].amax(dim=(-2, -1)).eq(1).any() and right["heat_maps"].std() > 0.02
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True))
    program = torch.export.load(exported.program).module()(images)
    assert found.keys() == program.keys() == right.keys()
    for name, values in right.items():
        for result in (found[name], program[name].numpy()):
            np.testing.assert_allclose(result, values.numpy(), rtol=0, atol=TOLERANCE, err_msg=name)


def test_files_describe_themselves_and_name_no_path(exported: Exported) -> None:
    model = onnx.load(exported.onnx)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    archive = zipfile.ZipFile(exported.program)
    extra = next(name for name in archive.namelist() if name.endswith("metadata.json"))
    assert json.loads(archive.read(extra)) == metadata
    assert json.loads(metadata["findings"]) == list(FINDINGS)
    assert json.loads(metadata["score_thresholds"])["youden"]["Mass"] == 0.25
    assert json.loads(metadata["not_calibrated"]).keys() == {"Hernia"}
    assert metadata["model"] == exported.predictor.recipe.model
    assert int(metadata["image_size"]) == exported.predictor.cache_size
    assert float(metadata["box_threshold"]) == exported.predictor.recipe.cam_threshold
    assert float(metadata["mirror_share"]) == exported.predictor.recipe.mirror_share
    assert metadata["box_rule"] == exported.predictor.recipe.box_rule
    content = exported.onnx.read_bytes() + b"".join(map(archive.read, archive.namelist()))
    package = importlib.util.find_spec("cxr_seam").submodule_search_locations[0]
    assert package.encode() not in content and str(exported.onnx.parent).encode() not in content


def test_a_missing_package_is_named_and_nothing_is_written(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr_seam.inference.deploy.find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(InputError, match="pip install .*onnxscript"):
        save_onnx(predictor, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("save", "name"), [(save_onnx, "model.pt2"), (save_program, "model.onnx")])
def test_the_name_of_another_format_is_refused(predictor: Predictor, tmp_path: Path, save, name: str) -> None:
    with pytest.raises(InputError, match=name):
        save(predictor, tmp_path / name)
