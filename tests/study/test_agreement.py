"""Agreement of two readers, counted by hand and in cases where chance is known."""

import numpy as np
import pandas as pd
import pytest
from agreement import agreement, all_findings

from cxr_seam.errors import InputError

FILMS = ["a", "b", "c"]
LABELS = pd.DataFrame({"Mass": [1, 1, 1], "Nodule": [0, 0, 0], "Edema": [0, 1, 0]}, index=FILMS)


def boxes(*rows):
    return pd.DataFrame(rows, columns=["image_index", "finding", "x", "y", "w", "h"])


def test_what_three_films_say_by_hand():
    """a: the same box; b: apart; c: only one reader has a box. By chance b's first meets c's second, no other."""
    first = boxes(("a", "Mass", 0, 0, 10, 10), ("b", "Mass", 100, 0, 10, 10), ("c", "Mass", 50, 50, 9, 9))
    second = boxes(("a", "Mass", 0, 0, 10, 10), ("b", "Mass", 200, 0, 10, 10), ("c", "Nodule", 50, 50, 9, 9))
    table = agreement(first, second, labels=LABELS)
    assert list(table.index) == ["Mass", "Edema", "mean"]
    assert table.loc["Mass"].tolist() == pytest.approx([3, 1 / 3, 0, 1 / 3])
    second = boxes(("a", "Mass", 0, 0, 10, 10), ("b", "Mass", 200, 0, 10, 10), ("c", "Mass", 105, 0, 10, 10))
    assert agreement(first, second, labels=LABELS).loc["Mass"].tolist() == pytest.approx([3, 1 / 3, 1 / 6, 1 / 6])


def test_an_overlap_must_exceed_the_threshold():
    first, second = boxes(("a", "Mass", 0, 0, 10, 10)), boxes(("a", "Mass", 5, 0, 10, 10))  # 50 of 150
    labels = LABELS[["Mass"]]
    assert agreement(first, second, labels=labels, threshold=0.33).loc["Mass", "agree"] == 1 / 3
    assert agreement(first, second, labels=labels, threshold=1 / 3).loc["Mass", "agree"] == 0


def read(films, places, size):
    """A reader that puts boxes of one size about places."""
    return boxes(
        *[(f, "Mass", x - size / 2, y - size / 2, size, size) for f, (x, y) in zip(films, places, strict=True)]
    )


@pytest.fixture(scope="module")
def readers():
    """Two readers who see the same lesions with errors of their own; by size of the boxes, their gain."""
    chance = np.random.default_rng(0)
    films = [f"{n}" for n in range(200)]
    lesions = chance.uniform(100, 900, (200, 2))
    seen = [lesions + chance.normal(0, 60, (200, 2)) for _ in range(2)]
    labels = pd.DataFrame({"Mass": 1}, index=films)
    return lambda sizes: [
        agreement(*(read(films, places, size) for places in seen), labels=labels).loc["mean", "gain"] for size in sizes
    ]


def test_boxes_that_are_alike_on_all_films_gain_nothing():
    films = [f"{n}" for n in range(20)]
    fixed = read(films, [(500, 500)] * 20, 400)
    table = agreement(fixed, fixed, labels=pd.DataFrame({"Mass": 1}, index=films))
    assert table.loc["Mass"].tolist() == [20, 1, 1, 0]


def test_the_gain_is_highest_where_boxes_are_as_large_as_the_readers_are_uncertain(readers):
    tiny, fitting, huge = readers([5, 200, 3000])
    assert tiny < 0.1 and fitting > 0.6 and huge == 0


def test_readers_who_see_nothing_gain_nothing():
    chance = np.random.default_rng(1)
    films = [f"{n}" for n in range(300)]
    one, other = (read(films, chance.uniform(100, 900, (300, 2)), 300) for _ in range(2))
    table = agreement(one, other, labels=pd.DataFrame({"Mass": 1}, index=films))
    assert table.loc["Mass", "by_chance"] > 0.2 and abs(table.loc["Mass", "gain"]) < 0.06


def test_rare_findings_are_told_and_left_out_of_the_mean():
    films = [f"{n}" for n in range(12)]
    labels = pd.DataFrame({"Mass": 1, "Hernia": [1] + [0] * 11}, index=films)
    table = agreement(read(films, [(5, 5)] * 12, 9), boxes(), labels=labels)
    assert np.isnan(table.loc["Hernia", "gain"]) and table.loc["mean"].tolist() == table.loc["Mass"].tolist()


def test_what_cannot_be_held_against_each_other_is_refused():
    twice = boxes(("a", "Mass", 0, 0, 9, 9), ("a", "Mass", 1, 1, 9, 9))
    with pytest.raises(InputError, match="a has two boxes of Mass; give the best one"):
        agreement(twice, boxes(), labels=LABELS)
    with pytest.raises(InputError, match="no film shows a finding"):
        agreement(boxes(), boxes(), labels=LABELS[["Nodule"]])


def test_labels_of_films_come_by_name():
    table = all_findings(np.eye(14)[:2], ["a", "b"])
    assert table.at["a", "Atelectasis"] == 1 and table.at["b", "Cardiomegaly"] == 1 and table.to_numpy().sum() == 2
