"""Where each finding usually is: by labels alone, stored in the checkpoint, and multiplied with the evidence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.batches import two_sets
from torch import nn

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.errors import InputError
from cxr_seam.inference.calibration import MIN_POSITIVES, calibrate, make_prior
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, best_path, load_checkpoint, save_checkpoint
from cxr_seam.models.multires import ModelOutput
from cxr_seam.presets import get_recipe
from cxr_seam.training.fit import fit

RECIPE = replace(get_recipe("multires_tiny"), cam_baseline="negative_mean", map_prior="labels")

pytestmark = pytest.mark.filterwarnings("ignore:no training image")


@pytest.fixture(scope="module")
def datasets(demo_folder, demo_cache):
    return two_sets(demo_folder, demo_cache, training=16, validation=40)


class LabelledMaps(nn.Module):
    """A model that knows the labels: the map of an image with the finding is 1 in column k % 8, else 0."""

    def __init__(self, labels):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.labels, self.next = torch.from_numpy(labels), 0

    def forward(self, images, *, maps=True):
        labels = self.labels[self.next : self.next + len(images)]
        self.next += len(images)
        cam = torch.zeros(len(images), 14, 4, 8)
        for k in range(14):
            cam[:, k, :, k % 8] = labels[:, k, None]
        return ModelOutput(labels, cam, None)


def test_prior_is_where_positive_images_differ(datasets):
    """Findings with enough images have the one column, and the others the whole map."""
    some = ChestXrayDataset.__new__(ChestXrayDataset)
    some.__dict__.update(datasets[1].__dict__, labels=np.zeros_like(datasets[1].labels))
    for k in range(14):
        some.labels[: k + 4, k] = 1
    found = calibrate(LabelledMaps(some.labels), some, recipe=RECIPE).prior["cam"]
    enough = np.arange(14) + 4 >= MIN_POSITIVES
    assert enough.any() and not enough.all()
    for k in range(14):
        expected = np.zeros((4, 8)) if enough[k] else np.ones((4, 8))
        expected[:, k % 8] = 1
        assert np.array_equal(found[k].numpy(), expected)


def test_prior_by_hand():
    negative = torch.tensor([[[0.0, 2.0, 1.0]], [[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]])
    positive = torch.tensor([[[1.0, 1.0, 5.0]], [[3.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    prior = make_prior(negative, positive, positives=torch.tensor([10, 9, 10]))
    assert prior[0].tolist() == [[0.25, 0.0, 1.0]]
    assert prior[1].tolist() == [[1.0, 1.0, 1.0]]  # too few images
    assert prior[2].tolist() == [[1.0, 1.0, 1.0]]  # nowhere more evidence than on images without the finding


def test_heat_map_is_evidence_times_prior():
    cam = torch.tensor([[[[-1.0, 4.0, 2.0]]]])
    prior = torch.tensor([[[1.0, 0.25, 1.0]]])
    assert cam_to_heatmap(cam, (1, 3), prior=prior)[0, 0].tolist() == [[0.0, 0.5, 1.0]]
    assert torch.equal(cam_to_heatmap(cam, (1, 3), prior=torch.ones(1, 2, 2)), cam_to_heatmap(cam, (1, 3)))


def test_training_stores_the_prior_and_prediction_uses_it(datasets, tmp_path):
    fit(RECIPE, tmp_path, train_set=datasets[0], val_set=datasets[1])
    path = best_path(tmp_path, RECIPE.name)
    model, metadata = load_checkpoint(path)
    assert set(metadata.prior) == {"cam", "refined"}
    predictor = Predictor.load(path)
    output = predictor.forward(datasets[1].load(range(len(datasets[1])))[0])
    for kind in ("cam", "refined"):
        options = predictor.heatmap_options(refined=kind == "refined")
        cam, labels = getattr(output, kind).double(), torch.from_numpy(datasets[1].labels)
        means = [
            torch.stack([cam[labels[:, k] == value, k].nanmean(dim=0).nan_to_num() for k in range(14)])
            for value in (0, 1)
        ]
        expected = make_prior(*means, positives=(labels == 1).sum(dim=0))
        assert torch.allclose(options.prior, expected, atol=1e-4)
        negative_mean, prior = metadata.negative_mean[kind], metadata.prior[kind]
        maps = ((getattr(output, kind) - negative_mean).relu() * prior).flatten(start_dim=2)
        same_size = options.heatmaps(getattr(output, kind), tuple(cam.shape[-2:])).flatten(start_dim=2)
        assert torch.allclose(same_size * maps.amax(dim=-1, keepdim=True), maps, atol=1e-5)
    with pytest.raises(InputError, match=RECIPE.name):
        Predictor(model, RECIPE, negative_mean=metadata.negative_mean)


def test_prior_of_wrong_shape_is_refused(tmp_path):
    path, odd = tmp_path / "x.safetensors", {"cam": torch.zeros(13, 8, 8)}
    save_checkpoint(path, build_model(RECIPE.model, weights="none"), metadata=Checkpoint(RECIPE, prior=odd))
    with pytest.raises(InputError, match="x.safetensors"):
        load_checkpoint(path)
