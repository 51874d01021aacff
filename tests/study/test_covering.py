"""Covering: the square lies at the box's centre, holds the mean film, and the drop is what the judge loses."""

import numpy as np
import pandas as pd
import pytest
import torch
from covering import covering_drops, mean_drop, mean_film, square

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.nih import load_metadata
from cxr_seam.findings import FINDINGS
from cxr_seam.metrics.bootstrap import bootstrap_patients


@pytest.fixture(scope="module")
def films(demo_folder, demo_store):
    return ChestXrayDataset(demo_store, load_metadata(demo_folder), image_index=demo_store.image_index[:40])


def boxes_on(films, x, y, w, h):
    """The same box for every finding on every film, in pixels of a film of 1024."""
    rows = [
        (name, finding, x / 1024, y / 1024, w / 1024, h / 1024) for name in films.image_index for finding in FINDINGS
    ]
    return pd.DataFrame(rows, columns=["image_index", "finding", "x", "y", "w", "h"])


def grey_at_16_16(films):
    """A judge who looks at one pixel of a film of 64; finding k counts it k + 1 times."""
    return films[:, 0, 16, 16, None].float() / 255 * torch.arange(1, 15)


def by_hand(films):
    """(grey - mean grey) at that pixel in standard deviations, which no finding's weight changes."""
    grey = films.__getitems__(range(len(films)))[0][:, 0, 16, 16].numpy().astype(float)
    return (grey - round(grey.mean())) / grey.std()


def test_the_mean_film_is_the_mean(films):
    pixels = films.__getitems__(range(len(films)))[0].numpy()
    assert np.array_equal(mean_film(films).numpy(), np.round(pixels.mean(axis=0)))


@pytest.mark.parametrize("box", [(192, 192, 128, 128), (156, 176, 200, 160), (200, 0, 112, 512)])
def test_a_box_around_the_evidence_takes_it_away_whatever_its_size(films, box):
    """All three have their centre at (256, 256) of 1024, that is (16, 16) of 64."""
    found = covering_drops(boxes_on(films, *box), grey_at_16_16, films, fewest=1)
    expected = np.where(films.labels == 1, by_hand(films)[:, None], np.nan)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("box", [(700, 700, 128, 128), (192, 500, 128, 128), (0, 900, 10, 10)])
def test_a_box_elsewhere_takes_nothing_away(films, box):
    found = covering_drops(boxes_on(films, *box), grey_at_16_16, films, fewest=1)
    assert not found[films.labels == 1].any() and np.isnan(found[films.labels == 0]).all()


def test_where_there_is_no_box_nothing_is_lost(films):
    none = boxes_on(films, 192, 192, 128, 128).iloc[:0]
    assert not covering_drops(none, grey_at_16_16, films, fewest=1)[films.labels == 1].any()


def test_the_judge_is_shown_one_square_at_a_time(films):
    """Of a film with several findings each is covered on a film of its own."""
    boxes = boxes_on(films, 700, 700, 128, 128)
    boxes.loc[boxes["finding"] == FINDINGS[0], ["x", "y"]] = 192 / 1024
    found = covering_drops(boxes, grey_at_16_16, films, fewest=1)
    others = found[:, 1:]
    assert found[films.labels[:, 0] == 1, 0].any() and not others[~np.isnan(others)].any()


def test_findings_that_few_films_show_are_left_out(films):
    counts = films.labels.sum(axis=0)
    fewest = int(np.median(counts))
    found = covering_drops(boxes_on(films, 192, 192, 128, 128), grey_at_16_16, films, fewest=fewest)
    assert (~np.isnan(found)).sum(axis=0).tolist() == [count if count >= fewest else 0 for count in counts]
    assert 0 < (counts >= fewest).sum() < (counts > 0).sum()


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [((0.5, 0.5), (24, 40), (24, 40)), ((0.0, 1.0), (56, 72), (0, 8)), ((0.3, 0.6), (30, 46), (11, 27))],
)
def test_the_square_is_a_quarter_of_the_side_and_cut_at_the_border(centre, rows, columns):
    """0.3 of 64 is 19.2: from 11.2 to 27.2."""
    _, down, right = square(centre, edge=0.25, side=64)
    assert ((down.start, down.stop), (right.start, right.stop)) == (rows, columns)


def test_the_mean_is_over_findings_of_means_over_films_and_a_draw_counts_films_as_drawn():
    drops = np.full((6, 14), np.nan)
    drops[:, 0] = [1, 2, 3, 4, 5, 6]
    drops[:2, 1] = [10, 20]
    draws = bootstrap_patients([1, 1, 2, 2, 3, 4], n_bootstrap=50)
    value, samples = mean_drop(drops, draws)
    assert value == pytest.approx((3.5 + 15) / 2)
    for number in range(50):
        often = draws.weights(number, number + 1)[0].astype(float)
        expected = [(often * drops[:, k])[: (6, 2)[k]].sum() / often[: (6, 2)[k]].sum() for k in (0, 1) if often[0]]
        assert np.isnan(samples[number]) if not often[0] else samples[number] == pytest.approx(np.mean(expected))
    assert np.isnan(mean_drop(np.full((6, 14), np.nan), draws)[0])
