"""Pixels and parts of the figures: what must be seen is looked for in them."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxr_seam.data.transforms import imagenet_normalise
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.visualize.examples import Example
from cxr_seam.visualize.figures import plot_augmented, plot_films, plot_heatmap_grid, plot_loss_curves, plot_roc, save
from cxr_seam.visualize.overlay import PREDICTED_COLOUR, TRUE_COLOUR, draw_boxes, overlay_heatmap

FILM = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)


def _case(models: tuple[str, ...] = ("Standard", "MultiRes"), **changes) -> Example:
    cam = np.full((14, 8, 8), -1, dtype=np.float32)
    cam[FINDINGS.index("Mass"), 2:4, 4:6] = 5
    parts = {
        "image_index": "00000001_000.png",
        "film": FILM,
        "labels": ("Mass",),
        "probabilities": {name: np.linspace(0, 0.65, 14) for name in models},
        "cams": {name: cam for name in models},
        "cam_thresholds": dict.fromkeys(models, 0.7),
        "true_boxes": pd.DataFrame({"finding": ["Mass"], "x": [0.5], "y": [0.25], "w": [0.25], "h": [0.25]}),
    }
    return Example(**parts | changes)


def test_overlay_leaves_the_film_where_the_map_is_zero_or_transparent():
    heatmap = np.zeros(FILM.shape)
    heatmap[:, 32:] = np.linspace(0.1, 1, 32)
    shown = overlay_heatmap(FILM, heatmap, opacity=0.8)
    assert shown.dtype == np.uint8
    assert (shown[:, :32] == FILM[:, :32, None]).all()
    assert (shown[:, 40:] != FILM[:, 40:, None]).any(axis=-1).mean() > 0.9
    assert (overlay_heatmap(FILM, heatmap, opacity=0) == FILM[..., None]).all()


def test_overlay_is_rgb_and_full_opacity_hides_the_film_at_the_peak():
    pad_value, white = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
    assert (
        overlay_heatmap(pad_value, np.ones((2, 2)), opacity=1) == overlay_heatmap(white, np.ones((2, 2)), opacity=1)
    ).all()
    # Jet ends in a dark red and begins in a dark blue: red stands first.
    red, _, blue = overlay_heatmap(pad_value, np.ones((2, 2)), opacity=1, colour_map="jet")[0, 0].tolist()
    assert red > 100
    assert blue == 0


def test_overlay_mixes_in_proportion():
    colour = overlay_heatmap(FILM, np.ones(FILM.shape), opacity=1)[0, 0].astype(float)
    half = overlay_heatmap(FILM, np.ones(FILM.shape), opacity=0.5)
    assert np.abs(half - (FILM[..., None] + colour) / 2).max() <= 0.51


@pytest.mark.parametrize(
    ("heatmap", "choices", "says"),
    [
        (np.zeros((8, 8)), {}, "both be"),
        (np.full(FILM.shape, 2.0), {}, r"\[0, 1\]"),
        (np.full(FILM.shape, np.nan), {}, r"\[0, 1\]"),
        (np.zeros(FILM.shape), {"opacity": 1.1}, "opacity 1.1"),
        (np.zeros(FILM.shape), {"colour_map": "pink"}, "pink"),
    ],
)
def test_overlay_refuses_in_a_sentence(heatmap, choices, says):
    with pytest.raises(InputError, match=says):
        overlay_heatmap(FILM, heatmap, **choices)


def _painted(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((image == colour).all(axis=-1))


def test_a_drawn_box_spans_the_scaled_box():
    image = np.full((128, 256, 3), 99, np.uint8)
    drawn = draw_boxes(image, np.array([[0.25, 0.25, 0.5, 0.125]]), thickness=1)  # x 64..191, y 32..47
    rows, columns = _painted(drawn, PREDICTED_COLOUR).T
    assert (columns.min(), columns.max()) == (64, 191)
    assert (rows.min(), rows.max()) == (32, 47)
    assert (drawn[36:44, 70:186] == 99).all()  # hollow
    assert (image == 99).all()  # a copy was drawn on


def test_a_box_on_the_border_is_seen_whole():
    drawn = draw_boxes(np.full((64, 64, 3), 99, np.uint8), np.array([[0, 0, 1, 1]]), thickness=1)
    rows, columns = _painted(drawn, PREDICTED_COLOUR).T
    assert {rows.min(), columns.min()} == {1}
    assert {rows.max(), columns.max()} == {62}


def test_true_boxes_differ_without_colour():
    image, box = np.full((128, 128, 3), 99, np.uint8), np.array([[0.125, 0.125, 0.75, 0.75]])
    solid = len(_painted(draw_boxes(image, box, colour=TRUE_COLOUR), TRUE_COLOUR))
    dashed = len(_painted(draw_boxes(image, box, colour=TRUE_COLOUR, dashed=True), TRUE_COLOUR))
    assert 0.3 * solid < dashed < 0.9 * solid


def test_boxes_of_nothing_change_nothing():
    image = np.full((16, 16, 3), 99, np.uint8)
    assert (draw_boxes(image, np.zeros((0, 4))) == image).all()


def test_a_case_draws_the_boxes_that_are_scored():
    # Of the map's 8 x 8 cells, columns 4-5 and rows 2-3 are 1. Bilinear slopes fall from 1 at the centres of the
    # outer cells, 4.5 and 5.5, to 0 one cell further out, so they pass 0.7 at 4.2 and 5.8; rows likewise at 2.2 and
    # 3.8. A cell is an eighth of the image; heat maps have 256 pixels.
    example = _case()
    expected = np.array([[4.2, 2.2, 1.6, 1.6]]) / 8
    assert example.predicted("MultiRes", "Mass") == pytest.approx(expected, abs=2 / 256)
    larger = _case(film=cv2.resize(FILM, (512, 512)))
    assert (larger.predicted("MultiRes", "Mass") == example.predicted("MultiRes", "Mass")).all()
    assert example.heatmap("Standard", "Mass").shape == FILM.shape
    assert example.predicted("Standard", "Nodule").shape == (0, 4)
    assert example.true("Mass").tolist() == [[0.5, 0.25, 0.25, 0.25]]
    assert example.probability("Standard", "Cardiomegaly") == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"film": FILM.astype(float)}, "uint8"),
        ({"cams": {}}, "same models"),
        ({"probabilities": {"Standard": np.zeros(14)}}, "same models"),
        ({"cams": {name: np.zeros((8, 4, 4)) for name in ("Standard", "MultiRes")}}, "14 maps"),
    ],
)
def test_a_case_whose_parts_do_not_fit_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        _case(**changes)


def _pixels(figure) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(figure._repr_png_(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_grid_has_a_row_a_case_and_a_column_a_model():
    figure = plot_heatmap_grid([(_case(), "Mass"), (_case(), "Nodule")])
    axes = figure.axes
    assert len(axes) == 4
    assert [a.get_title() for a in axes[:2]] == ["Standard", "MultiRes"]
    assert "Nodule" in axes[2].get_ylabel()
    assert axes[0].texts[0].get_text() == "0.20"  # Mass is the fifth of 0, 0.05, 0.10, ...
    assert [len(a.patches) for a in axes] == [2, 2, 0, 0]
    # Half-open boxes of the original on 64 pixels: 512 / 16 = 32, 256 / 16 = 16, half a pixel up and left.
    true = next(p for p in axes[0].patches if p.get_linestyle() != "solid" and p.get_linestyle() != "-")
    assert (*true.get_xy(), true.get_width(), true.get_height()) == (31.5, 15.5, 16, 16)
    picture = _pixels(figure)
    assert picture.mean() < 128  # dark ground
    for colour in (TRUE_COLOUR, PREDICTED_COLOUR):
        assert (np.abs(picture.astype(int) - colour).max(axis=-1) < 30).sum() > 50


def test_grid_refuses_in_a_sentence():
    with pytest.raises(InputError, match="no film"):
        plot_heatmap_grid([])
    with pytest.raises(InputError, match="same models"):
        plot_heatmap_grid([(_case(), "Mass"), (_case(("Other",)), "Mass")])


def _epochs(phase: str, losses: list[float]) -> list[dict]:
    return [
        {"stage": phase, "epoch": i, "train_loss": loss, "validation_loss": loss + 1} for i, loss in enumerate(losses)
    ]


def test_loss_curves_count_on_into_the_second_phase():
    figure = plot_loss_curves(
        {"A": _epochs("classifier", [3, 2]), "B": _epochs("classifier", [5, 4]) + _epochs("seam", [1])}
    )
    train, validation = figure.axes
    drawn = {tuple(line.get_xdata()): line for line in train.lines if len(line.get_xdata())}
    assert set(drawn) == {(0, 1), (2,)}
    assert drawn[(2,)].get_linestyle() == "--"
    assert [list(line.get_ydata()) for line in validation.lines if len(line.get_xdata())] == [[4, 3], [6, 5], [2]]
    legend = [text.get_text() for text in validation.get_legend().get_texts()]
    assert legend[:2] == ["A", "B"]
    assert "PCM" in legend[2]
    with pytest.raises(InputError, match="train a model"):
        plot_loss_curves({"A": []})


def test_roc_names_every_finding_and_what_is_not_defined():
    labels = np.zeros((4, 14), int)
    labels[2:, :13] = 1
    probabilities = np.tile([[0.1], [0.6], [0.4], [0.9]], 14)
    figure = plot_roc(labels, probabilities, title="MultiRes")
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(names) == 14
    assert names[0] == "Atelectasis: 0.750"  # of four pairs, one is in the wrong order
    assert names[12] == "Pleural Thickening: 0.750"
    assert names[13] == "Hernia: not defined"
    assert figure.axes[0].get_title() == "MultiRes: mean AUC 0.750 over 13 findings"
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[1:]}
    assert len(styles) == 14
    grey = [(line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines[1:]]
    assert len(set(grey)) == 14 and all(marker not in ("", "None", None) for _, marker in grey)  # without colour too
    value = {"value": 0.75, "low": 0.5, "high": 0.9}
    scores = {"findings": dict.fromkeys(FINDINGS, {"auc": value}), "mean": {"auc": value}}
    axes = plot_roc(labels, probabilities, scores=scores).axes[0]
    assert axes.get_legend().get_texts()[0].get_text() == "Atelectasis: 0.750 (0.500-0.900)"
    assert axes.get_title() == "Mean AUC 0.750 (0.500-0.900) over 13 findings"


def test_contact_sheet():
    figure = plot_films([FILM] * 5, [f"film {i}" for i in range(5)], boxes=[[[0, 0, 512, 512]]] * 5, columns=3)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"film {i}" for i in range(5)]
    assert all(len(axes.patches) == 1 for axes in shown)
    with pytest.raises(InputError, match="title"):
        plot_films([FILM], [])


def test_augmented_films_are_shown_as_they_were_before_normalisation():
    grey = torch.from_numpy(FILM).float()[None, None] / 255
    figure = plot_augmented(FILM, imagenet_normalise(grey))
    film, variation = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[:2])
    assert (film == FILM).all()
    assert (variation == FILM).all()
    with pytest.raises(InputError, match=r"\(K, 3, S, S\)"):
        plot_augmented(FILM, np.zeros((3, 8, 8)))


def test_save_and_no_global_state(tmp_path):
    save(plot_films([FILM], ["one"]), tmp_path / "sub" / "film.png", dpi=50)
    assert cv2.imread(str(tmp_path / "sub" / "film.png")) is not None
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["film.png"]
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
