"""Images come with their own labels, and each epoch visits each image once."""

import numpy as np
import pytest
import torch

from cxr_seam.data.dataset import BatchSampler, ChestXrayDataset, iter_batches
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError


@pytest.fixture(scope="module")
def dataset(demo_folder, demo_cache):
    return ChestXrayDataset(demo_cache, load_metadata(demo_folder), image_index=demo_cache.image_index[9::-1])


def test_images_come_with_their_own_labels(dataset, demo_folder, demo_cache):
    table = load_metadata(demo_folder).images
    images, labels = dataset.load([4, 2])
    assert images.shape == (2, 1, 64, 64) and images.dtype == torch.uint8
    for row, index in enumerate([4, 2]):
        name = dataset.image_index[index]
        assert labels[row].tolist() == table.loc[name].iloc[-14:].tolist()
        assert np.array_equal(images[row, 0], demo_cache.images[demo_cache.image_index.index(name)])
    image, label = dataset[2]
    assert torch.equal(image, images[1]) and torch.equal(label, labels[1])


def test_iter_batches_visits_all_images_in_order(dataset):
    batches = list(iter_batches(dataset, 4))
    assert [len(images) for images, _, _ in batches] == [4, 4, 2]
    images, labels, indices = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert indices.tolist() == list(range(10)) and np.array_equal(labels, dataset.labels)
    assert np.array_equal(images, dataset.load(range(10))[0])


def test_iter_batches_samples_no_random_number(dataset):
    before = torch.get_rng_state()
    list(iter_batches(dataset, 4, desc="test"))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch():
    def order(epoch, seed=7):
        return np.concatenate(list(BatchSampler(10, 3, shuffle_seed=seed).batches(epoch))).tolist()

    assert len(set(order(0))) == 9 == len(order(0))  # the incomplete last batch is dropped
    assert order(0) == order(0) != order(1) and order(0) != order(0, seed=8)
    assert [len(batch) for batch in BatchSampler(2, 3, shuffle_seed=7).batches()] == [2]  # the only one is not


def test_a_continued_epoch_sees_the_batches_that_are_left():
    sampler = BatchSampler(23, 7, shuffle_seed=1)
    whole = [batch.tolist() for batch in sampler.batches(3)]
    assert [batch.tolist() for batch in sampler.batches(3, start=2)] == whole[2:] and len(sampler) == len(whole) == 3


def test_an_empty_dataset_is_refused(demo_folder, demo_cache):
    with pytest.raises(InputError, match=str(demo_cache.folder)):
        ChestXrayDataset(demo_cache, load_metadata(demo_folder), image_index=[])
