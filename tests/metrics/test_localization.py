"""Localization scores: hand-made cases, a plain loop, the paper's denominators and the published controls."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.evaluation.baselines import centre_boxes, random_map_boxes
from cxr_seam.findings import BOXED_FINDINGS
from cxr_seam.inference.boxes import predicted_boxes
from cxr_seam.metrics.bootstrap import bootstrap_patients
from cxr_seam.metrics.froc import froc
from cxr_seam.metrics.localization import best_boxes, localization_scores, localization_table
from cxr_seam.metrics.matching import PREDICTED_COLUMNS, iobb, iou, match, rank_by_raw_score


def _boxes(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=PREDICTED_COLUMNS)


TRUTH = _boxes(
    ("a.png", "Mass", 100, 100, 100, 100, 1.0),
    ("a.png", "Effusion", 500, 500, 200, 200, 1.0),
    ("b.png", "Mass", 0, 0, 50, 50, 1.0),
).drop(columns="score")


def test_table_matches_hand_computed_values():
    predicted = _boxes(
        ("a.png", "Mass", 100, 100, 100, 50, 1.0),  # half of the true box: IoBB 1, IoU 0.5
        ("a.png", "Mass", 700, 700, 10, 10, 0.9),  # misses
        ("a.png", "Effusion", 100, 100, 100, 100, 1.0),  # on the mass: wrong finding
        ("b.png", "Nodule", 0, 0, 50, 50, 1.0),  # no true nodule in b
        ("c.png", "Mass", 0, 0, 50, 50, 1.0),  # c has no true box
        ("a.png", "Hernia", 0, 0, 50, 50, 1.0),  # no true boxes exist for it: not scored
        ("x.png", "Mass", 0, 0, 50, 50, 1.0),  # not among the images: not scored
    )
    table = localization_table(predicted, TRUTH, images=["a.png", "b.png", "c.png"])
    assert list(table.index) == [*BOXED_FINDINGS, "macro", "micro"]
    counts = table[["boxes", "correct", "false_positives"]]
    assert counts.loc["Mass"].tolist() == [2, 1, 2]
    assert counts.loc["Effusion"].tolist() == [1, 0, 1]
    assert counts.loc["Nodule"].tolist() == [0, 0, 1]
    assert counts.loc["Pneumonia"].tolist() == [0, 0, 0]
    assert counts.loc["macro"].tolist() == counts.loc["micro"].tolist() == [3, 1, 4]
    accuracy = table["accuracy"]
    assert accuracy["Mass"] == 0.5
    assert accuracy["Effusion"] == 0
    assert np.isnan(accuracy["Nodule"])  # not defined, not zero
    assert accuracy["macro"] == 0.25  # mean of the two that are defined
    assert accuracy["micro"] == pytest.approx(1 / 3)
    per_image, per_box = table["false_positives_per_image"], table["false_positives_per_box"]
    assert per_image["Mass"] == per_box["Mass"] == pytest.approx(2 / 3)
    assert per_image["macro"] == pytest.approx(4 / 8 / 3)
    assert per_image["micro"] == pytest.approx(4 / 3)


def test_overlap_must_exceed_threshold():
    predicted = _boxes(("b.png", "Mass", 0, 0, 50, 25, 1.0))  # IoU with the true box: exactly 0.5
    at = localization_table(predicted, TRUTH, images=["b.png"], measure="iou", threshold=0.5)
    below = localization_table(predicted, TRUTH, images=["b.png"], measure="iou", threshold=0.499)
    assert at.loc["Mass", ["correct", "false_positives"]].tolist() == [0, 1]
    assert below.loc["Mass", ["correct", "false_positives"]].tolist() == [1, 0]


def test_several_boxes_on_one_lesion():
    predicted = _boxes(
        ("b.png", "Mass", 0, 0, 50, 50, 1.0),
        ("b.png", "Mass", 5, 5, 20, 20, 0.9),
    )
    table = localization_table(predicted, TRUTH, images=["b.png"])
    assert table.loc["Mass", ["boxes", "correct", "false_positives"]].tolist() == [1, 1, 0]


def test_table_without_predicted_boxes():
    table = localization_table(_boxes(), TRUTH, images=["a.png", "b.png"])
    assert table.loc["macro", ["boxes", "correct", "accuracy", "false_positives"]].tolist() == [3, 0, 0, 0]


def test_images_without_true_boxes():
    predicted = _boxes(("c.png", "Mass", 0, 0, 50, 50, 1.0))
    table = localization_table(predicted, TRUTH, images=["c.png"])
    assert np.isnan(table.loc["macro", "accuracy"])
    assert np.isnan(table.loc["macro", "false_positives_per_box"])
    assert table.loc["micro", "false_positives_per_image"] == 1


@pytest.mark.parametrize(("measure", "overlaps"), [("iobb", iobb), ("iou", iou)])
def test_table_matches_slow_reference(measure, overlaps):
    generator = np.random.default_rng(0)

    def some(count: int) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "image_index": generator.choice(list("abcd"), count),
                "finding": generator.choice(BOXED_FINDINGS[:3], count),
                "x": generator.random(count) * 800,
                "y": generator.random(count) * 800,
                "w": generator.random(count) * 300 + 20,
                "h": generator.random(count) * 300 + 20,
                "score": generator.random(count),
            }
        )

    predicted, truth = some(150), some(20)
    table = localization_table(predicted, truth, images=list("abcd"), measure=measure, threshold=0.2)
    for finding in BOXED_FINDINGS[:3]:
        correct = false = 0
        for image in "abcd":
            p, t = (
                frame[(frame.image_index == image) & (frame.finding == finding)][["x", "y", "w", "h"]].to_numpy()
                for frame in (predicted, truth)
            )
            hit = overlaps(p, t) > 0.2
            correct += int(hit.any(axis=0).sum())
            false += int((~hit.any(axis=1)).sum())
        assert table.loc[finding, ["correct", "false_positives"]].tolist() == [correct, false]
    assert 0 < table.loc["micro", "correct"] < 20


def test_table_refuses_bad_input():
    with pytest.raises(InputError, match="only once"):
        localization_table(_boxes(), TRUTH, images=["a.png", "a.png"])
    with pytest.raises(InputError, match="at least one"):
        localization_table(_boxes(), TRUTH, images=[])


def test_predicted_boxes_are_fractions_of_the_image():
    heatmaps = np.zeros((2, 256, 512))
    heatmaps[0, 64:128, 128:192] = 1
    heatmaps[0, 0, 0] = 0.8
    table = predicted_boxes(heatmaps, "a.png", ["Mass", "Nodule"])
    assert list(table.columns) == PREDICTED_COLUMNS
    assert table.to_numpy().tolist() == [
        ["a.png", "Mass", 0.25, 0.25, 0.125, 0.25, 1.0],
        ["a.png", "Mass", 0, 0, 1 / 512, 1 / 256, 0.8],
    ]
    assert list(predicted_boxes(np.zeros((1, 4, 4)), "a.png", ["Mass"]).columns) == PREDICTED_COLUMNS


def test_best_boxes_keep_one_for_each_image_and_finding():
    predicted = _boxes(
        ("a.png", "Mass", 0, 0, 9, 9, 0.5),
        ("a.png", "Mass", 1, 0, 9, 9, 0.9),
        ("a.png", "Mass", 2, 0, 9, 9, 0.9),  # as good, but later
        ("a.png", "Nodule", 3, 0, 9, 9, 0.1),
        ("b.png", "Mass", 4, 0, 9, 9, 0.2),
    )
    assert best_boxes(predicted)["x"].tolist() == [1, 3, 4]


def test_rank_by_raw_score():
    raw_scores = pd.DataFrame([[0.1, 0.2], [0.3, 0.4]], index=["a.png", "b.png"], columns=["Nodule", "Mass"])
    predicted = _boxes(
        ("b.png", "Mass", 0, 0, 9, 9, 0.5), ("a.png", "Mass", 0, 0, 9, 9, 0.5), ("b.png", "Nodule", 0, 0, 9, 9, 0.5)
    )
    assert rank_by_raw_score(predicted, raw_scores)["raw_score"].tolist() == [0.4, 0.2, 0.3]
    assert "raw_score" not in predicted
    with pytest.raises(InputError, match="Mass on c.png"):
        rank_by_raw_score(_boxes(("c.png", "Mass", 0, 0, 9, 9, 0.5)), raw_scores)


def test_filtered_boxes_have_a_probability_above_half():
    predicted = _boxes(*[("b.png", "Nodule", x, 0, 9, 9, 1.0) for x in range(3)])
    bootstrap = bootstrap_patients(["q"], n_bootstrap=2)
    for table, kept in ((predicted.assign(raw_score=[0.5, 0.51, 0.2]), 1), (predicted, 3)):
        scores, _ = localization_scores(table, TRUTH, images=["b.png"], bootstrap=bootstrap)
        assert scores["filtered_boxes"]["iou>0.1"]["findings"]["Nodule"]["false_positives"] == kept


def some_boxes(seed: int, images: list[str], count: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    table = {"image_index": generator.choice(images, count), "finding": generator.choice(BOXED_FINDINGS[:3], count)}
    table |= {column: generator.random(count) * 600 for column in ("x", "y")}
    table |= {column: generator.random(count) * 400 + 20 for column in ("w", "h")}
    return pd.DataFrame(table | {"score": generator.random(count), "raw_score": generator.random(count)})


def test_intervals_match_resampled_tables():
    """Each replicate equals the score of tables that repeat a patient's images as often as the patient was drawn."""
    images = [f"{i}" for i in range(15)]
    predicted, truth = some_boxes(0, images, 200), some_boxes(1, images, 40)
    bootstrap = bootstrap_patients([i // 2 for i in range(15)], n_bootstrap=30, seed=2)
    scores, samples = localization_scores(predicted, truth, images=images, bootstrap=bootstrap)

    slow: dict[str, list[pd.DataFrame]] = {"all_boxes": [], "best_box": [], "filtered_boxes": []}
    slow_froc, slow_first = [], []
    for weights in bootstrap.weights(0, 30):
        names = [f"{image} {copy}" for image, w in zip(images, weights, strict=True) for copy in range(w)]
        copies = pd.DataFrame({"image_index": [name.split()[0] for name in names], "copy": names})
        drawn, true = (
            table.merge(copies, on="image_index").assign(image_index=lambda t: t["copy"])
            for table in (predicted, truth)
        )
        one = drawn.loc[drawn.groupby(["image_index", "finding"])["score"].idxmax()]
        for kind, table in (
            ("all_boxes", drawn),
            ("best_box", one),
            ("filtered_boxes", drawn.query("raw_score > 0.5")),
        ):
            slow[kind].append(localization_table(table, true, images=names, measure="iou", threshold=0.2))
        at = froc(match(drawn, true, images=names), measure="iou", threshold=0.3).at(0.25)
        slow_froc.append(at["macro"])
        slow_first.append(at[BOXED_FINDINGS[0]])

    rows = [(finding, ("findings", finding)) for finding in BOXED_FINDINGS[:3]]
    for kind, tables in slow.items():
        for row, path in [*rows, ("macro", ("macro",)), ("micro", ("micro",))]:
            found = scores[kind]["iou>0.2"]
            for key in path:
                found = found[key]
            for column in ("accuracy", "false_positives_per_image", "false_positives_per_box"):
                low, high = np.nanquantile([table.loc[row, column] for table in tables], [0.025, 0.975])
                assert (found[column]["low"], found[column]["high"]) == pytest.approx((low, high)), (kind, row, column)
    at = scores["froc"]["iou>0.3"]["at_fp_rate"]["0.25"]
    for found, values in ((at["macro"], slow_froc), (at["findings"][BOXED_FINDINGS[0]], slow_first)):
        assert (found["low"], found["high"]) == pytest.approx(tuple(np.nanquantile(values, [0.025, 0.975])))
    assert len(samples) == 3 * 12 * 2 + 3  # three kinds of boxes, twelve overlaps, two quantities; three FROC curves
    for key, values in samples.items():
        value = key.value(scores)
        assert values.shape == (30,)
        assert (value["low"], value["high"]) == pytest.approx(tuple(np.nanquantile(values, [0.025, 0.975])))


def test_scores_match_hand_computed_values():
    """Two images of two patients; a's mass is hit by the weaker of its two boxes, b's by its only one."""
    truth = TRUTH[TRUTH["finding"] == "Mass"]
    predicted = _boxes(
        ("a.png", "Mass", 100, 100, 100, 50, 0.8),  # IoBB 1, IoU 0.5
        ("a.png", "Mass", 700, 700, 10, 10, 1.0),
        ("b.png", "Mass", 0, 0, 50, 50, 1.0),  # the true box itself
    ).assign(raw_score=[0.4, 0.4, 0.9])
    bootstrap = bootstrap_patients(["p", "q"], n_bootstrap=100)
    points = pd.DataFrame({"image_index": ["a.png", "b.png"], "finding": "Mass", "hit": [0.0, 1.0]})
    scores, _ = localization_scores(predicted, truth, images=["a.png", "b.png"], bootstrap=bootstrap, points=points)

    def mass(kind: str, name: str) -> list[float]:
        row = scores[kind][name]["findings"]["Mass"]
        return [row["boxes"], row["correct"], row["accuracy"]["value"], row["false_positives"]]

    assert mass("all_boxes", "iobb>0.9") == mass("all_boxes", "iou>0.4") == [2, 2, 1, 1]
    assert mass("all_boxes", "iou>0.5") == [2, 1, 0.5, 2]  # an IoU of 0.5 is not above 0.5
    assert mass("best_box", "iou>0.1") == [2, 1, 0.5, 1]
    assert mass("filtered_boxes", "iou>0.1") == [2, 1, 0.5, 0]  # a has no value
    assert list(scores["all_boxes"]) == [f"iobb>{t}" for t in (0.1, 0.25, 0.5, 0.75, 0.9)] + [
        f"iou>{t / 10}" for t in range(1, 8)
    ]
    # A draw has a twice (one false positive each), b twice (none) or both.
    best = scores["best_box"]["iou>0.1"]
    assert best["micro"]["false_positives_per_image"] == {"value": 0.5, "low": 0, "high": 1}
    assert best["findings"]["Nodule"]["accuracy"] == {"value": None, "low": None, "high": None}
    # Ranked by raw_score * score: b 0.9 (found), a's miss 0.4, a's hit 0.32. One false positive in two images.
    at = scores["froc"]["iou>0.1"]["at_fp_rate"]
    assert [at[x]["findings"]["Mass"]["value"] for x in ("0.25", "0.5", "1.0")] == [0.5, 1, 1]
    # Draws of a alone: its false positive comes first one on every image, so nothing is found at 0.25. Of b: all.
    assert at["0.25"]["findings"]["Mass"] == {"value": 0.5, "low": 0, "high": 1}
    assert at["0.25"]["findings"]["Nodule"] == {"value": None, "low": None, "high": None}
    assert scores["pointing_game"]["macro"]["value"] == 0.5
    curve = scores["froc"]["iou>0.1"]["curve"]
    assert curve["accuracy"][0] == 0.5 and curve["accuracy"][-1] == 1


def test_macro_leaves_out_replicates_without_a_finding():
    """Mass has one patient's box, so replicates without that patient have no mean over mass and nodule."""
    truth = pd.concat([TRUTH[TRUTH["image_index"] == "b.png"], TRUTH[:1].assign(image_index="c.png", finding="Nodule")])
    bootstrap = bootstrap_patients(["p", "q"], n_bootstrap=50)
    scores, samples = localization_scores(_boxes(), truth, images=["b.png", "c.png"], bootstrap=bootstrap)
    has_b, has_c = (bootstrap.weights(0, 50) > 0).T
    both = has_b & has_c
    for key, values in samples.items():
        # no box is predicted, which costs no false positive in any draw
        expected = np.zeros(50) if key.quantity.endswith("per_image") else np.where(both, 0, np.nan)
        np.testing.assert_array_equal(values, expected)
    rows = scores["best_box"]["iou>0.1"]
    assert (
        rows["macro"]["n_valid_replicates"]
        == scores["froc"]["iou>0.1"]["at_fp_rate"]["0.5"]["n_valid_replicates"]
        == both.sum()
        < 50
    )
    assert rows["findings"]["Mass"]["n_valid_replicates"] == has_b.sum() != has_c.sum()
    assert rows["findings"]["Nodule"]["n_valid_replicates"] == has_c.sum()
    assert rows["findings"]["Effusion"]["n_valid_replicates"] == 0
    assert rows["micro"]["n_valid_replicates"] == 50


def test_scores_without_boxes_and_of_other_images():
    bootstrap = bootstrap_patients(["p", "q"], n_bootstrap=10)
    scores, _ = localization_scores(_boxes(), TRUTH, images=["a.png", "b.png"], bootstrap=bootstrap)
    assert scores["froc"]["iou>0.1"]["at_fp_rate"]["1.0"]["macro"]["value"] == 0
    assert scores["pointing_game"] is None
    scores, samples = localization_scores(_boxes(), TRUTH[:0], images=["a.png", "b.png"], bootstrap=bootstrap)
    assert scores["all_boxes"]["iou>0.1"]["macro"]["accuracy"] == {"value": None, "low": None, "high": None}
    assert scores["froc"]["iou>0.1"]["curve"] == {"false_positives_per_image": [], "accuracy": []}
    assert all(np.isnan(values).all() for key, values in samples.items() if not key.quantity.endswith("per_image"))
    with pytest.raises(InputError, match="bootstrap has 2"):
        localization_scores(_boxes(), TRUTH, images=["a.png"], bootstrap=bootstrap)


@pytest.fixture(scope="module")
def official(nih_root) -> pd.DataFrame:
    return load_metadata(nih_root).boxes


@pytest.fixture(scope="module")
def boxed(official) -> list[str]:
    return list(official["image_index"].unique())


def test_denominators_match_paper(official, boxed):
    table = localization_table(centre_boxes(boxed), official, images=boxed)
    assert len(boxed) == 880
    assert table["boxes"].tolist() == [180, 146, 153, 123, 85, 79, 120, 98, 984, 984]
    quotient = table["false_positives"] / table["false_positives_per_image"]
    assert quotient[:8].round(9).eq(880).all()  # every value of Table 3 is a count / 880
    quotient = table["false_positives"] / table["false_positives_per_box"]
    assert quotient[:8].round(9).eq(984).all()  # Wang et al. divide by the boxes


def test_true_boxes_score_perfectly(official, boxed):
    table = localization_table(official.assign(score=1.0), official, images=boxed, measure="iou", threshold=0.999)
    assert (table["accuracy"] == 1).all()
    assert (table["false_positives"] == 0).all()


def test_random_map_scores(official, boxed):
    predicted = random_map_boxes(boxed)
    macro = localization_table(predicted, official, images=boxed).loc["macro"]
    assert macro["accuracy"] == pytest.approx(0.60, abs=0.03)
    assert macro["false_positives_per_image"] == pytest.approx(8.5, abs=0.1)
    macro = localization_table(predicted, official, images=boxed, measure="iou").loc["macro"]
    assert macro["accuracy"] == pytest.approx(0.44, abs=0.03)


def test_finer_random_maps_have_more_false_positives(official, boxed):
    images = boxed[::8]
    macro = localization_table(random_map_boxes(images, grid=32), official, images=images).loc["macro"]
    assert macro["accuracy"] == pytest.approx(0.96, abs=0.04)
    assert macro["false_positives_per_image"] == pytest.approx(112, abs=2)


def test_centre_box_scores(official, boxed, nih_root):
    macro = localization_table(centre_boxes(boxed), official, images=boxed).loc["macro"]
    assert round(macro["accuracy"], 2) == 0.41
    assert round(macro["false_positives_per_image"], 2) == 0.94
    here = {path.stem for path in (nih_root / "images_256").glob("*.jpg")}
    images = [name for name in boxed if name.removesuffix(".png") in here]
    assert len(images) == 438
    centre = centre_boxes(images)
    assert round(localization_table(centre, official, images=images)["accuracy"]["macro"], 3) == 0.402
    strict = localization_table(centre, official, images=images, measure="iou", threshold=0.3)
    assert round(strict["accuracy"]["macro"], 3) == 0.148


def test_random_maps_depend_on_seed():
    images = [f"{i}.png" for i in range(9)]
    first, again, other = (random_map_boxes(images, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    assert set(first["image_index"]) == set(images)
