"""Occlusion: the square lies at the centre of the box and shows the mean image; the drop is the judge's loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from benchmarks.study.occlusion import mean_drop, mean_image, occlusion_drops, square
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.findings import FINDINGS
from cxr_seam.metrics.bootstrap import bootstrap_patients


@pytest.fixture(scope="module")
def dataset(demo_folder, demo_cache) -> ChestXrayDataset:
    return ChestXrayDataset(demo_cache, load_metadata(demo_folder), image_index=demo_cache.image_index[:40])


def same_boxes(dataset: ChestXrayDataset, x: float, y: float, w: float, h: float) -> pd.DataFrame:
    """The same box (in pixels of 64) for every image and finding."""
    rows = [(name, finding, x / 64, y / 64, w / 64, h / 64) for name in dataset.image_index for finding in FINDINGS]
    return pd.DataFrame(rows, columns=["image_index", "finding", "x", "y", "w", "h"])


def judge(images: Tensor) -> Tensor:
    """Use one pixel of images of 64 x 64; finding k weighs it by k + 1."""
    return images[:, 0, 16, 16, None].float() / 255 * torch.arange(1, 15)


def pixels(dataset: ChestXrayDataset) -> np.ndarray:
    return dataset.load(range(len(dataset)))[0].numpy()


def test_mean_image(dataset) -> None:
    assert np.array_equal(mean_image(dataset).numpy(), np.round(pixels(dataset).mean(axis=0)))


@pytest.mark.parametrize("box", [(12, 12, 8, 8), (9.75, 11, 12.5, 10), (12.5, 0, 7, 32)])
def test_box_around_the_evidence_removes_it_for_any_size(dataset, box) -> None:
    """All boxes have their centre at (16, 16)."""
    grey = pixels(dataset)[:, 0, 16, 16].astype(float)
    drop = (grey - round(grey.mean())) / grey.std()  # the weight of a finding cancels
    found = occlusion_drops(same_boxes(dataset, *box), judge, dataset, min_images=1)
    np.testing.assert_allclose(found, np.where(dataset.labels == 1, drop[:, None], np.nan), atol=1e-5)


@pytest.mark.parametrize("box", [(44, 44, 8, 8), (12, 32, 8, 8), (0, 56, 1, 1), None])
def test_box_elsewhere_or_no_box_removes_nothing(dataset, box) -> None:
    boxes = same_boxes(dataset, *box) if box else same_boxes(dataset, 0, 0, 1, 1).iloc[:0]
    found = occlusion_drops(boxes, judge, dataset, min_images=1)
    assert not found[dataset.labels == 1].any() and np.isnan(found[dataset.labels == 0]).all()


def test_one_square_at_a_time(dataset) -> None:
    """Each finding of an image is occluded in its own copy."""
    boxes = same_boxes(dataset, 44, 44, 8, 8)
    boxes.loc[boxes["finding"] == FINDINGS[0], ["x", "y"]] = 12 / 64
    found = occlusion_drops(boxes, judge, dataset, min_images=1)
    assert found[dataset.labels[:, 0] == 1, 0].any() and not np.nansum(np.abs(found[:, 1:]))


def test_findings_with_few_images_are_left_out(dataset) -> None:
    counts = dataset.labels.sum(axis=0)
    least = int(np.median(counts))
    found = occlusion_drops(same_boxes(dataset, 12, 12, 8, 8), judge, dataset, min_images=least)
    assert (~np.isnan(found)).sum(axis=0).tolist() == [n if n >= least else 0 for n in counts]
    assert 0 < (counts >= least).sum() < (counts > 0).sum()


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [((0.5, 0.5), (24, 40), (24, 40)), ((0.0, 1.0), (56, 72), (0, 8)), ((0.3, 0.6), (30, 46), (11, 27))],
)
def test_square_is_cut_at_the_border(centre, rows, columns) -> None:
    """0.3 of 64 is 19.2: from 11.2 to 27.2."""
    _, down, right = square(centre, side=64)
    assert ((down.start, down.stop), (right.start, right.stop)) == (rows, columns)


def test_mean_drop_weights_images_by_their_count_in_a_replicate() -> None:
    drops = np.full((6, 14), np.nan)
    drops[:, 0], drops[:2, 1] = [1, 2, 3, 4, 5, 6], [10, 20]
    bootstrap = bootstrap_patients([1, 1, 2, 2, 3, 4], n_bootstrap=50)
    value, replicates = mean_drop(drops, bootstrap)
    assert value == pytest.approx((3.5 + 15) / 2)
    for i, often in enumerate(bootstrap.weights(0, 50).astype(float)):
        means = [np.average(drops[:n, k], weights=often[:n]) for k, n in ((0, 6), (1, 2)) if often[0]]
        assert np.isnan(replicates[i]) if not often[0] else replicates[i] == pytest.approx(np.mean(means))
    assert np.isnan(mean_drop(np.full((6, 14), np.nan), bootstrap)[0])
