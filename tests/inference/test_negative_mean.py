"""The mean CAM of negative images: over the right images, stored in the checkpoint, and subtracted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.batches import two_sets
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.errors import InputError
from cxr_seam.inference.calibration import calibrate
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, best_path, last_path, load_checkpoint, save_checkpoint
from cxr_seam.models.multires import ModelOutput
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import fit

FIRST = replace(get_recipe("multires_tiny"), cam_baseline="negative_mean")
SECOND = replace(get_recipe("multires_tiny_pcm"), cam_baseline="negative_mean")

pytestmark = pytest.mark.filterwarnings("ignore:no training image")


@pytest.fixture(scope="module")
def datasets(demo_folder, demo_cache):
    return two_sets(demo_folder, demo_cache, training=16, validation=40)


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("negative_mean")
    for recipe in (FIRST, SECOND):
        fit(recipe, folder, train_set=datasets[0], val_set=datasets[1])
    return folder


class Grey(nn.Module):
    """A model whose maps are the datasets' grey, at 1/8 of their size; finding k's is k times as strong."""

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.arange(14.0)[:, None, None])

    def forward(self, images, *, maps=True):
        cam = F.avg_pool2d(images[:, :1], 8) * self.strength
        return ModelOutput(cam.mean(dim=(-2, -1)), cam, None)


def test_negative_mean_by_hand(datasets):
    """By hand: the mean image of those without it, as the network sees it."""
    found = calibrate(Grey(), datasets[1], recipe=FIRST).negative_mean
    assert set(found) == {"cam"} and found["cam"].shape == (14, 8, 8)
    grey = datasets[1].load(range(len(datasets[1])))[0][:, 0].numpy().astype(np.float64) / 255
    seen = ((grey - 0.485) / 0.229).reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4))
    for k in range(14):
        absent = datasets[1].labels[:, k] == 0
        assert found["cam"][k].numpy() == pytest.approx(k * seen[absent].mean(axis=0), abs=1e-4)


def test_negative_mean_without_negatives_is_zero(datasets):
    every = ChestXrayDataset.__new__(ChestXrayDataset)
    every.__dict__.update(datasets[1].__dict__, labels=datasets[1].labels.copy())
    every.labels[:, 3] = 1
    assert not calibrate(Grey(), every, recipe=FIRST).negative_mean["cam"][3].any()


def test_negative_mean_of_known_labels(datasets):
    """An image whose label is unknown is no negative image."""
    some = ChestXrayDataset.__new__(ChestXrayDataset)
    some.__dict__.update(datasets[1].__dict__, labels=datasets[1].labels.copy())
    some.labels[:, 3] = np.nan
    some.labels[[5, 9], 3] = 0
    found = calibrate(Grey(), some, recipe=FIRST).negative_mean["cam"][3].numpy()
    grey = some.load([5, 9])[0][:, 0].numpy().astype(np.float64) / 255
    seen = ((grey - 0.485) / 0.229).reshape(2, 8, 8, 8, 8).mean(axis=(2, 4))
    assert found == pytest.approx(3 * seen.mean(axis=0), abs=1e-4)


def test_only_difference_from_negative_mean_shows():
    negative_mean = torch.rand(14, 8, 8, generator=torch.Generator().manual_seed(0)) * 5 - 9
    cam = negative_mean.repeat(2, 1, 1, 1)
    cam[1, :, 2, 6] += 0.5
    maps = cam_to_heatmap(cam, 8, baseline="negative_mean", negative_mean=negative_mean)
    assert not maps[0].any()
    assert (maps[1, :, 2, 6] == 1).all() and maps[1].sum() == 14
    assert not cam_to_heatmap(cam, 8).any()  # nowhere positive: measured from zero the same maps are empty


def test_mean_of_another_size_is_resized():
    negative_mean = torch.linspace(0, 1, 16).expand(14, 16, 16)  # a slope stays a slope
    cam = torch.linspace(1 / 60, 1 - 1 / 60, 8).expand(1, 14, 8, 8).clone()
    cam[:, :, 3, 3] += 1
    maps = cam_to_heatmap(cam, 8, baseline="negative_mean", negative_mean=negative_mean)
    assert (maps[:, :, 3, 3] == 1).all()
    maps[:, :, 3, 3] = 0
    assert maps.max() < 0.02


def test_training_stores_the_mean_and_prediction_subtracts_it(trained, datasets):
    for recipe, kinds in ((FIRST, {"cam", "refined"}), (SECOND, {"cam", "refined"})):
        path = best_path(trained, recipe.name)
        model, metadata = load_checkpoint(path)
        assert set(metadata.negative_mean) == kinds
        predictor = Predictor.load(path)
        pixels, labels = datasets[1].load(range(len(datasets[1])))
        output = predictor.forward(pixels)
        for kind in kinds:
            maps = getattr(output, kind)
            mean = torch.stack([maps[labels[:, k] == 0, k].double().mean(dim=0) for k in range(14)])
            options = predictor.heatmap_options(refined=kind == "refined")
            assert torch.allclose(options.negative_mean.double(), mean, atol=1e-5)
            expected = cam_to_heatmap(maps, 64, baseline="negative_mean", negative_mean=options.negative_mean)
            assert torch.equal(options.heatmaps(maps, 64), expected)
        assert torch.equal(output.logits, Predictor(model, replace(recipe, cam_baseline="zero")).forward(pixels).logits)
    theta = [load_file(best_path(trained, recipe.name))["refiner.theta.weight"] for recipe in (FIRST, SECOND)]
    assert not torch.equal(*theta)


def test_other_recipes_store_no_negative_mean(datasets, tmp_path):
    plain = get_recipe("multires_tiny")
    fit(plain, tmp_path, train_set=datasets[0], val_set=datasets[1])
    assert load_checkpoint(best_path(tmp_path, plain.name))[1].negative_mean is None
    assert not [key for key in load_file(last_path(tmp_path, plain.name)) if key.startswith("negative_mean")]


def test_checkpoint_without_the_mean_is_refused():
    with pytest.raises(InputError, match=FIRST.name):
        Predictor(build_model(FIRST.model, weights="none"), FIRST)


@pytest.mark.parametrize(
    "odd", [{"cam": torch.zeros(13, 8, 8)}, {"cam": torch.zeros(14, 8)}, {"colour": torch.zeros(14, 8, 8)}]
)
def test_negative_mean_of_wrong_shape_is_refused(odd, tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, build_model(FIRST.model, weights="none"), metadata=Checkpoint(FIRST, negative_mean=odd))
    with pytest.raises(InputError, match="x.safetensors"):
        load_checkpoint(path)


def test_nan_in_negative_mean_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    negative_mean = {"cam": torch.full((14, 8, 8), torch.nan)}
    save_checkpoint(
        path, build_model(FIRST.model, weights="none"), metadata=Checkpoint(FIRST, negative_mean=negative_mean)
    )
    with pytest.raises(InputError, match=r"hold NaN or infinite numbers \(negative_mean.cam\)"):
        load_checkpoint(path)
