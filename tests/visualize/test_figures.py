"""Figures: their axes, lines, boxes and pixels."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.examples import IMAGE, peak_example

from cxr_seam.data.transforms import imagenet_normalise
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.models.build import build_from_recipe, build_model
from cxr_seam.models.checkpoint import Checkpoint, save_checkpoint
from cxr_seam.visualize.figures import (
    draw_affinity,
    plot_affinity,
    plot_heatmap_grid,
    plot_images,
    plot_loss_curves,
    plot_roc,
    plot_siamese_step,
    to_grey,
)
from cxr_seam.visualize.style import PREDICTED_COLOUR, TRUE_COLOUR
from cxr_seam.workspace import Workspace


def pixels(figure) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(figure._repr_png_(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_heatmap_grid_has_a_row_per_example_and_a_column_per_model():
    figure = plot_heatmap_grid([(peak_example(), "Mass"), (peak_example(), "Nodule")])
    axes = figure.axes
    assert len(axes) == 4
    assert [a.get_title() for a in axes[:2]] == ["Standard", "MultiRes"]
    assert "Nodule" in axes[2].get_ylabel()
    assert axes[0].texts[0].get_text() == "0.20"  # Mass is the fifth of 0, 0.05, 0.10, ...
    shown = [a.images[0].get_array() for a in axes]
    for colour in (TRUE_COLOUR, PREDICTED_COLOUR):
        assert [bool((image == colour).all(axis=-1).any()) for image in shown] == [True, True, False, False]
    # The true box covers x 0.5 to 0.75 and y 0.25 to 0.5 of 512 pixels; lines have four pixels.
    rows, columns = np.argwhere((shown[0] == TRUE_COLOUR).all(axis=-1)).T
    assert (columns.min(), columns.max()) == pytest.approx((256, 383), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((128, 255), abs=2)
    picture = pixels(figure)
    assert picture.mean() < 128  # dark background
    for colour in (TRUE_COLOUR, PREDICTED_COLOUR):
        assert (np.abs(picture.astype(int) - colour).max(axis=-1) < 30).sum() > 50


def test_heatmap_grid_refuses_no_rows_and_other_models():
    with pytest.raises(InputError):
        plot_heatmap_grid([])
    with pytest.raises(InputError, match="models"):
        plot_heatmap_grid([(peak_example(), "Mass"), (peak_example(("Other",)), "Mass")])


def epochs(stage: str, losses: list[float]) -> list[dict]:
    return [
        {"stage": stage, "epoch": i, "train_loss": loss, "validation_loss": loss + 1} for i, loss in enumerate(losses)
    ]


def test_loss_curves_continue_into_the_seam_stage():
    figure = plot_loss_curves(
        {"A": epochs("classifier", [3, 2]), "B": epochs("classifier", [5, 4]) + epochs("seam", [1])}
    )
    train, validation = figure.axes
    lines = {tuple(line.get_xdata()): line for line in train.lines if len(line.get_xdata())}
    assert set(lines) == {(0, 1), (2,)}
    assert lines[(2,)].get_linestyle() == "--"
    assert [list(line.get_ydata()) for line in validation.lines if len(line.get_xdata())] == [[4, 3], [6, 5], [2]]
    legend = [text.get_text() for text in validation.get_legend().get_texts()]
    assert legend[:2] == ["A", "B"]
    assert "SEAM" in legend[2]
    with pytest.raises(InputError):
        plot_loss_curves({"A": []})


def test_roc_has_a_line_per_finding():
    labels = np.zeros((4, 14), int)
    labels[2:, :13] = 1
    raw_scores = np.tile([[0.1], [0.6], [0.4], [0.9]], 14)
    auc, missing = {"value": 0.75, "low": 0.5, "high": 0.9}, {"value": None, "low": None, "high": None}
    findings = {finding: {"auc": missing if finding == "Hernia" else auc} for finding in FINDINGS}
    evaluation = SimpleNamespace(
        final_model="MultiRes",
        findings=FINDINGS,
        labels=labels,
        raw_scores={"MultiRes": raw_scores},
        results={"classification": {"MultiRes": {"findings": findings, "mean": {"auc": auc, "n_defined": 13}}}},
    )
    axes = plot_roc(evaluation).axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(names) == 14
    assert names[0] == "Atelectasis: 0.750 (0.500-0.900)"
    assert names[13] == "Hernia: not defined"
    assert "0.750 (0.500-0.900) over 13 findings" in axes.get_title()
    # Of four pairs of a positive and a negative image, one is in the wrong order: the area is 0.75.
    area = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    assert area(axes.lines[1].get_ydata(), axes.lines[1].get_xdata()) == pytest.approx(0.75)
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines[1:]}
    assert len(styles) == 14
    grey = [(line.get_linestyle(), line.get_marker()) for line in axes.lines[1:]]
    assert len(set(grey)) == 14 and all(marker not in ("", "None", None) for _, marker in grey)  # without colour too


def test_image_grid():
    figure = plot_images([IMAGE] * 5, [f"image {i}" for i in range(5)], columns=3)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"image {i}" for i in range(5)]


def test_to_grey_undoes_the_normalisation():
    grey = torch.from_numpy(IMAGE).float()[None, None] / 255
    assert (to_grey(imagenet_normalise(grey))[0] == IMAGE).all()


def test_figure_is_saved_and_uses_no_global_state(tmp_path):
    plot_images([IMAGE], ["one"], path=tmp_path / "sub" / "a.png")
    assert cv2.imread(str(tmp_path / "sub" / "a.png")) is not None
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.png"]
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_siamese_step_shows_the_losses_of_eq_7(demo_folder, tmp_path):
    """The title is 1.5 MSML + 1.0 ECR = loss; six pictures."""
    run = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    run.prepare_data()
    recipe = run.recipe("multires")
    save_checkpoint(run.checkpoint("multires"), build_from_recipe(recipe, weights="none"), metadata=Checkpoint(recipe))
    figure = plot_siamese_step(run)
    numbers = [float(text) for text in re.findall(r"\d+\.\d+", figure.get_suptitle())]
    weight, msml, other_weight, ecr, loss = numbers
    assert (weight, other_weight) == (1.5, 1.0)
    assert loss == pytest.approx(1.5 * msml + ecr, abs=2e-3)
    assert len([axes for axes in figure.axes if axes.images]) == 6


def test_affinity_figure_marks_the_peak_and_names_the_share(demo_folder, tmp_path):
    """Equal embeddings use the whole image; two groups of pixels that differ in sign use half of it when centred."""
    run = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    run.prepare_data()
    torch.manual_seed(0)
    recipe = run.recipe("multires_pcm")
    model = build_from_recipe(recipe, weights="none").eval()
    save_checkpoint(run.checkpoint("multires_pcm"), model, metadata=Checkpoint(recipe))
    figure = plot_affinity(run, path=tmp_path / "affinity.png")
    assert len([axes for axes in figure.axes if axes.images]) == 6 and (tmp_path / "affinity.png").exists()

    channels = model.classifier.in_channels
    features = torch.full((1, channels, 8, 8), 10.0)
    features[..., 4:] += torch.linspace(-1, 1, channels)[None, :, None, None]
    features[:, 0, 5, 2] += 1e-3
    model.forward_features = lambda images: (features, None)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.weight[3, 0] = 1
        model.classifier.bias.zero_()
        figure = draw_affinity(model, torch.zeros(1, 3, 64, 64), finding=3)
    titles = [axes.get_title() for axes in figure.axes]
    assert "100%" in titles[1] and "50%" in titles[2]
    assert [list(values) for values in figure.axes[0].lines[0].get_data()] == [[20.0], [44.0]]
    with pytest.raises(InputError, match="pixel correlation"):
        draw_affinity(build_model(recipe.model, weights="none", refiner="none"), torch.zeros(1, 3, 64, 64), finding=0)
