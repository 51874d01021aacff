"""The pointing game by hand: pixels of 256 on a map of 4 x 4 over the image's 1024."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.evaluation.baselines import centre_boxes
from cxr_seam.metrics.bootstrap import bootstrap_patients
from cxr_seam.metrics.pointing_game import box_points, in_box, pointing_game, points

COLUMNS = ["image_index", "finding", "x", "y", "w", "h"]


def hit(heatmap: np.ndarray, *boxes: tuple) -> float:
    """The share of the map's maxima in boxes that are given in pixels of a image of 1024 x 1024."""
    truth = pd.DataFrame([("a", "Mass", *(value / 1024 for value in box)) for box in boxes], columns=COLUMNS)
    return points(heatmap[None], "a", ["Mass"], truth=truth)["hit"].item()


def peak_at(*pixels: tuple[int, int]) -> np.ndarray:
    heatmap = np.full((4, 4), 0.3)
    for pixel in pixels:
        heatmap[pixel] = 0.9
    return heatmap


def test_centre_of_maximum_pixel_counts():
    heatmap = peak_at((1, 2))  # row 1, column 2: its centre is x = 2.5 * 256 = 640, y = 1.5 * 256 = 384
    assert hit(heatmap, (630, 380, 20, 10)) == 1
    assert hit(heatmap, (640, 384, 1, 1)) == 1  # left and upper edges belong to a box
    assert hit(heatmap, (512, 256, 128, 256)) == 0  # it ends before 640
    assert hit(heatmap, (512, 256, 256, 128)) == 0  # and before 384
    assert hit(heatmap, (380, 630, 20, 20)) == 0  # rows are y


def test_heatmap_need_not_be_square():
    heatmap = np.zeros((2, 8))
    heatmap[1, 7] = 1  # centre: x = 7.5 * 128 = 960, y = 1.5 * 512 = 768
    assert hit(heatmap, (959, 767, 2, 2)) == 1


def test_tied_maxima_count_by_fraction():
    heatmap = peak_at((0, 0), (0, 1), (3, 3), (2, 0))
    assert hit(heatmap, (0, 0, 512, 256)) == 0.5
    assert hit(heatmap, (0, 0, 512, 256), (768, 768, 256, 256)) == 0.75  # several boxes are one target
    assert hit(np.ones((4, 4)), (256, 0, 512, 512)) == 0.25  # a flat map scores the box's share of the image


def test_map_of_zeros_is_a_miss():
    assert hit(np.zeros((4, 4)), (0, 0, 1024, 1024)) == 0


def test_maximum_in_corner():
    assert hit(peak_at((3, 3)), (1000, 1000, 24, 24)) == 0  # the pixel's centre is at 896
    assert hit(peak_at((3, 3)), (890, 890, 134, 134)) == 1


def test_other_images_and_findings_are_no_targets():
    truth = pd.DataFrame([("a", "Mass", 0, 0, 0.1, 0.1), ("b", "Nodule", 0, 0, 0.1, 0.1)], columns=COLUMNS)
    table = points(np.ones((2, 4, 4)), "a", ["Nodule", "Mass"], truth=truth)
    assert table[["image_index", "finding"]].to_numpy().tolist() == [["a", "Mass"]]
    assert len(points(np.ones((2, 4, 4)), "c", ["Nodule", "Mass"], truth=truth)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_flip_of_map_and_box_changes_nothing(seed):
    generator = np.random.default_rng(seed)
    heatmap = generator.integers(0, 4, (8, 8)).astype(float)
    x, y, w, h = generator.integers(0, 512, 4) + 0.5
    assert hit(heatmap, (x, y, w, h)) == hit(heatmap[:, ::-1], (1024 - x - w, y, w, h)) == hit(heatmap.T, (y, x, h, w))


def test_game_matches_hand_computed_values():
    # Mass: 1 + 0.5 of 3 targets; Nodule: 0 of 1. Patient p has a and b, patient q has c.
    table = pd.DataFrame(
        [("a", "Mass", 1.0), ("b", "Mass", 0.5), ("c", "Mass", 0.0), ("c", "Nodule", 0.0), ("x", "Nodule", 1.0)],
        columns=["image_index", "finding", "hit"],
    )
    bootstrap = bootstrap_patients(["p", "p", "q"], n_bootstrap=200)
    game = pointing_game(table, images=["a", "b", "c"], bootstrap=bootstrap)  # x is not among the images
    assert game["findings"]["Mass"]["value"] == 0.5
    assert game["findings"]["Nodule"]["value"] == 0
    assert game["findings"]["Effusion"] == {"value": None, "low": None, "high": None}
    assert game["macro"]["value"] == 0.25
    # Two patients: a draw has p twice (1.5 of 2), q twice (0) or both (0.5), so the interval is the whole range.
    assert (game["findings"]["Mass"]["low"], game["findings"]["Mass"]["high"]) == (0, 0.75)


def test_intervals_match_resampled_tables():
    generator = np.random.default_rng(1)
    images, patient_id = [f"{i}" for i in range(20)], generator.integers(0, 8, 20)
    table = pd.DataFrame({"image_index": images, "finding": "Mass", "hit": generator.random(20)})
    bootstrap = bootstrap_patients(patient_id, n_bootstrap=40, seed=3)
    means = [np.repeat(table["hit"].to_numpy(), weights).mean() for weights in bootstrap.weights(0, 40)]
    mass = pointing_game(table, images=images, bootstrap=bootstrap)["findings"]["Mass"]
    assert (mass["low"], mass["high"]) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert mass["value"] == pytest.approx(table["hit"].mean())


def test_box_points_use_centre():
    truth = pd.DataFrame(
        [("a", "Mass", 0, 0, 100, 100), ("a", "Mass", 300, 300, 100, 100), ("b", "Mass", 0, 0, 9, 9)], columns=COLUMNS
    )
    predicted = pd.DataFrame([("a", "Mass", 300, 300, 100, 100, 1.0)], columns=[*COLUMNS, "score"])
    table = box_points(predicted, truth)  # b has no predicted box: a miss
    assert table.to_numpy().tolist() == [["a", "Mass", 1.0], ["b", "Mass", 0.0]]


def test_boxes_are_half_open_and_nan_lies_in_none():
    points = np.array([[0.0, 0.0], [10.0, 5.0], [5.0, np.nan]])
    assert in_box(points, np.array([0, 0, 10, 10])).tolist() == [True, False, False]


def test_image_centre_on_official_boxes(nih_root):
    """How many true boxes hold the centre of the image, counted from the file itself."""
    official = load_metadata(nih_root).boxes
    images = list(official["image_index"].unique())
    x, y, w, h = official[["x", "y", "w", "h"]].to_numpy().T
    holds = (x <= 0.5) & (0.5 < x + w) & (y <= 0.5) & (0.5 < y + h)
    game = pointing_game(
        box_points(centre_boxes(images), official), images=images, bootstrap=bootstrap_patients(images, n_bootstrap=2)
    )
    for finding, value in game["findings"].items():
        assert value["value"] == pytest.approx(holds[official["finding"] == finding].mean())
