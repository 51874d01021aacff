"""Refinement: controls keep what they should keep, the affinity of known embeddings, the whole script on tiny data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.checkpoints import save_untrained
from torch import Tensor

from benchmarks.study.model_agreement import label_table, labelled_boxes
from benchmarks.study.refinement.__main__ import main
from benchmarks.study.refinement.boxes import METRICS, average, forward_candidates, reading_options, readings
from benchmarks.study.refinement.candidates import (
    BLUR,
    CONSTANT,
    LOWERED,
    MAP,
    MIRRORED,
    MIXED,
    OTHER,
    OTHER_MIRRORED,
    PAPER,
    PAR,
    PAR_STRIDE,
    REFINED,
    RESIDUAL,
    SIGNED,
    SIGNED_CONSTANT,
    SIGNED_OTHER,
    SIPE,
    SUPPRESSED,
    adapt_to_intensities,
    apply_signed_affinity,
    candidate_maps,
    correlation_iou,
    mirrored_candidates,
    similarity_to_seeds,
)
from benchmarks.study.refinement.choose import forward_batches
from benchmarks.study.refinement.equal_area import equal_areas
from benchmarks.study.refinement.explain import IdentityRefiner, UniformRefiner, measure_affinity, measure_ecr
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.models.build import build_model
from cxr_seam.models.multires import LocalizationModel
from cxr_seam.presets import SMALL_PCM, get_recipe


@pytest.fixture(scope="module")
def models() -> dict[str, LocalizationModel]:
    built = {}
    for name in (PAPER, RESIDUAL):
        torch.manual_seed(0)
        built[name] = build_model("multires_timm:test_resnet", weights="none", refiner=name).eval()
    return built


@pytest.fixture(scope="module")
def dataset(demo_folder: Path, demo_cache) -> ChestXrayDataset:
    metadata, names = load_metadata(demo_folder), demo_cache.image_index
    shown = [name for name, row in zip(names, metadata.labels(names), strict=True) if row.any()][:4]
    return ChestXrayDataset(demo_cache, metadata, image_index=shown)


@pytest.fixture(scope="module")
def candidates(models: dict[str, LocalizationModel]) -> dict[str, Tensor]:
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return candidate_maps(models, images)[1]


def mean_of_map(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3))


def test_candidates_are_those_of_the_models(models: dict[str, LocalizationModel]) -> None:
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, candidates = candidate_maps(models, images)
        paper = models[PAPER](images)
        models[RESIDUAL].refiner_input = "cam"
        residual = models[RESIDUAL](images)
    assert torch.equal(logits, paper.logits) and torch.equal(candidates[MAP], paper.cam)
    assert torch.allclose(candidates[REFINED], paper.refined, atol=1e-6)
    assert torch.allclose(candidates[MIXED], residual.refined, atol=1e-6)


def test_controls_keep_what_they_should_keep(candidates: dict[str, Tensor]) -> None:
    assert torch.allclose(mean_of_map(candidates[CONSTANT]), mean_of_map(candidates[MIXED]), atol=1e-5)
    spread = candidates[CONSTANT] - mean_of_map(candidates[CONSTANT])[..., None, None]
    assert torch.allclose(2 * spread, candidates[MAP] - mean_of_map(candidates[MAP])[..., None, None], atol=1e-5)
    own, mixed, other = (candidates[name] for name in (MAP, MIXED, OTHER))
    assert torch.allclose(2 * other[0] - own[0], 2 * mixed[2] - own[2], atol=1e-5)
    signed, others_signed = candidates[SIGNED], candidates[SIGNED_OTHER]
    assert torch.allclose(2 * others_signed[0] - own[0], 2 * signed[2] - own[2], atol=1e-5)
    assert torch.allclose(mean_of_map(candidates[SIGNED_CONSTANT]), mean_of_map(signed), atol=1e-5)
    assert candidates[BLUR].std() < own.std() and torch.allclose(
        mean_of_map(candidates[BLUR]), mean_of_map(own), atol=0.2
    )
    suppressed, positive = candidates[SUPPRESSED], own.relu()
    largest = (positive / positive.amax(dim=(2, 3), keepdim=True).clamp_min(1e-5)).amax(dim=1, keepdim=True)
    assert ((suppressed == 0) | (suppressed == largest)).all() and (suppressed == 0).any()


def test_sipe_with_two_kinds_of_features() -> None:
    """Left half and right half have orthogonal features, so the correlation map of a position is its own half."""
    left = torch.zeros(1, 1, 4, 6)
    left[..., :3] = 1
    features = torch.cat([5 * left, 2 * (1 - left)], dim=1)
    maps = torch.cat([left, 0.5 * left, torch.full_like(left, 0.25)], dim=1)
    expected = torch.cat([left, 0.5 * left, torch.full_like(left, 0.25 * 12 / (12 + 0.25 * 12))], dim=1)
    assert torch.allclose(correlation_iou(features, maps), expected, atol=1e-6)
    seeds = torch.zeros(1, 2, 4, 6, dtype=torch.bool)
    seeds[0, 0, 1, 2] = True
    assert torch.allclose(similarity_to_seeds(features, seeds), torch.cat([left, 0 * left], dim=1), atol=1e-6)


def test_signed_affinity_of_two_opposite_groups() -> None:
    """All cosines are 1 or -1, so all weights are 1/24 in size.

    A constant map becomes 0. A map of 1 in the left half becomes 12/24 there and -12/24 in the right half.
    """
    left = torch.zeros(1, 1, 4, 6)
    left[..., :3] = 1
    features = torch.cat([2 + left, 5 - 3 * left], dim=1)
    found = apply_signed_affinity(features, torch.cat([torch.ones_like(left), left], dim=1))
    assert torch.allclose(found, torch.cat([torch.zeros_like(left), left - 0.5], dim=1), atol=1e-6)


def test_par_stops_at_edges() -> None:
    """Weights sum to 1; across an edge of the intensities only the distance counts: .01 / 1.01 of a weight."""
    side = 24 * PAR_STRIDE
    left = torch.zeros(1, 1, 24, 24)
    left[..., :12] = 1
    edge = torch.nn.functional.interpolate(left, size=side).expand(1, 3, side, side)
    assert torch.allclose(adapt_to_intensities(edge, torch.full_like(left, 0.3)), torch.full_like(left, 0.3), atol=1e-5)
    kept, spread = (adapt_to_intensities(images, left)[0, 0, :, 11] for images in (edge, torch.zeros_like(edge)))
    assert kept.min() > 0.9 and spread.max() < 0.6


def test_mirrored_candidates_are_what_the_option_does() -> None:
    cam, mean = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((3, 8, 8), 0.2)
    found = mirrored_candidates(cam, mean)
    options = HeatmapOptions("negative_mean", mean)
    expected = options._replace(mirror_share=0.5).heatmaps(cam, 8)
    torch.testing.assert_close(options.heatmaps(found[MIRRORED], 8), expected)
    same = torch.cat([cam[:1]] * 4)
    one, other = (mirrored_candidates(same, mean)[name] for name in (MIRRORED, OTHER_MIRRORED))
    assert torch.equal(one, other) and not torch.equal(found[MIRRORED], found[OTHER_MIRRORED])
    lowered, evidence = found[LOWERED], (cam - mean).relu()
    assert torch.allclose(mean_of_map(cam - lowered), mean_of_map(evidence) / 2, atol=1e-6)


def test_one_view_is_the_batch_itself(models: dict[str, LocalizationModel], dataset: ChestXrayDataset) -> None:
    pixels, _ = dataset.load([0, 1])
    logits, candidates = forward_candidates(models, pixels, recipe=get_recipe("multires_tiny"))
    assert logits.shape == (2, 14) and all(maps.shape == (2, 14, 8, 8) for maps in candidates.values())


def test_uniform_and_identity_refiners() -> None:
    cam = torch.tensor([[[[1.0, 3.0, 8.0]]]])
    valid = torch.tensor([[[[True, True, False]]]])
    assert torch.equal(UniformRefiner()(cam, cam), torch.full_like(cam, 4))
    assert torch.equal(UniformRefiner()(cam, cam, valid=valid), torch.full_like(cam, 2))
    assert torch.equal(IdentityRefiner()(cam, cam, valid=valid), cam)


def test_equal_embeddings_use_the_whole_image(
    models: dict[str, LocalizationModel], dataset: ChestXrayDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[PAPER]
    monkeypatch.setattr(
        model, "forward_features", lambda x: (torch.ones(len(x), model.classifier.in_channels, 8, 8), None)
    )
    table = measure_affinity(model, dataset, size=64)
    assert len(table) == 4
    for name in ("untrained theta", "trained theta"):
        assert table.loc[name].filter(like="cosine").tolist() == pytest.approx([1, 1, 1], abs=1e-5)
        assert table.loc[name, "share of the image"] == pytest.approx(1, abs=1e-5)


def test_ecr_of_equal_embeddings_is_that_of_a_uniform_affinity(dataset: ChestXrayDataset) -> None:
    """Theta sees one channel only, which is 1 everywhere: the PCM averages; the residual PCM leaves half of the map."""
    built = {name: build_model("multires_timm:test_resnet", weights="none", refiner=name) for name in (PAPER, RESIDUAL)}
    model, forward_features = built[PAPER], built[PAPER].forward_features

    def with_constant_channel(images: Tensor) -> tuple[Tensor, object]:
        features, low_level = forward_features(images)
        return torch.cat([torch.ones_like(features[:, :1]), features[:, 1:]], dim=1), low_level

    model.forward_features = with_constant_channel
    with torch.no_grad():
        for each in built.values():
            each.refiner.theta.weight.zero_()
            each.refiner.theta.weight[:, 0] = 1
    losses = measure_ecr(built, SMALL_PCM, dataset, size=64)
    assert losses["PCM, trained theta"] == pytest.approx(losses["uniform affinity"], abs=1e-4)
    assert losses["residual PCM, trained"] == pytest.approx(losses["the map as it is"], abs=1e-4)
    assert abs(losses["uniform affinity"] - losses["the map as it is"]) > 1e-3
    assert model.refiner.theta.weight[0, 0] == 1  # the trained refiner is back in its place


def test_script_writes_tables_and_figures(demo_folder: Path, tmp_path: Path) -> None:
    """The second model has the weights of the first one, so their boxes are equal and agree as often as they can."""
    recipe = get_recipe("multires_tiny")
    recipes = [recipe, replace(recipe, name="multires_tiny.s1")]
    checkpoints = [str(save_untrained(tmp_path / f"{each.name}.safetensors", each)) for each in recipes]
    options = ["--data", str(demo_folder), "--preset", "tiny", "--output", str(tmp_path / "run")]
    main([*options, "--multires", *checkpoints, "--n-bootstrap", "20", "--train-images", "8"])
    folder = tmp_path / "run" / "refinement"
    for each in recipes:
        boxes = pd.read_csv(folder / each.name / "boxes.csv", index_col=0)
        for row, column in ((MIXED, "residual PCM minus it"), (MAP, "minus the map"), (SIGNED, "signed minus it")):
            assert boxes.loc[row].filter(like=column).tolist() == ["0.000 (0.000-0.000)"] * 2
        assert {MAP, REFINED, SIPE, PAR, CONSTANT, OTHER, BLUR, "map, contours at Q 0.5"} <= set(boxes.index)
        assert {path.name for path in (folder / each.name).glob("*.png")} == {"affinity.png", "boxes.png"}
    one, mean = (pd.read_csv(path / "boxes.csv", index_col=0) for path in (folder / recipe.name, folder))
    assert one.loc[MAP].equals(mean.loc[MAP])  # the mean of two equal models
    found = pd.read_csv(folder / "agreement.csv", index_col=0)
    assert {MAP, MIXED, SIGNED, BLUR} <= set(found.index)


def test_readings_without_mirrored_evidence() -> None:
    """A recipe that subtracts it also has the map, the residual PCM, three controls and four contours without it."""
    names = (MAP, MIXED, CONSTANT, OTHER, BLUR)
    options = dict.fromkeys(names, HeatmapOptions(mirror_share=0.5))
    strong, demo = (readings(options, get_recipe(name)) for name in ("multires_strong_pcm", "multires_demo_pcm"))
    shares = {name: option.mirror_share for name, (_, option) in strong.items()}
    without = {name for name in shares if name.endswith("mirror share 0")}
    assert {name.removesuffix(", mirror share 0") for name in without} >= set(names) and len(without) == len(names) + 4
    assert all(shares[name] == 0 for name in without) and all(shares[name] == 0.5 for name in names)
    assert not {name for name in demo if name.endswith("mirror share 0")}


def test_equal_areas() -> None:
    """Squares of 100 become squares of 200 about the same centre, cut at the edge; the other finding stays."""
    columns = ["finding", "x", "y", "w", "h"]
    small = pd.DataFrame(
        [
            ("Mass", 100.0, 300.0, 100.0, 100.0),
            ("Mass", 900.0, 900.0, 100.0, 100.0),
            ("Edema", 0.0, 500.0, 80.0, 20.0),
            ("Mass", 500.0, 500.0, 100.0, 100.0),
        ],
        columns=columns,
        index=[7, 5, 3, 9],
    )
    large = pd.DataFrame([("Mass", 0.0, 0.0, 200.0, 200.0), ("Edema", 0.0, 0.0, 80.0, 20.0)], columns=columns)
    found = equal_areas({"small": small, "large": large}, like="large")
    assert found["small"].index.tolist() == [7, 5, 3, 9]
    expected = [[50, 250, 200, 200], [850, 850, 174, 174], [0, 500, 80, 20], [450, 450, 200, 200]]
    assert np.allclose(found["small"][columns[1:]], expected, atol=1e-4)
    other = equal_areas({"small": small, "none": small[:0], "like": large[1:]}, like="like")
    assert np.allclose(other["small"][columns[1:]], small[columns[1:]])
    assert other["none"].empty


def test_average_is_paired() -> None:
    """Replicates of both models are averaged one by one: 1, 3 and 5, 3 have the means 3, 3, without any spread."""
    first, second = (
        {MAP: {metric: {"value": value, "replicates": replicates} for metric in METRICS}}
        for value, replicates in ((0.2, [1.0, 3.0]), (0.4, [5.0, 3.0]))
    )
    for found in average([first, second])[MAP].values():
        assert found["value"] == pytest.approx(0.3) and found["replicates"] == [3.0, 3.0]


def test_candidates_have_one_box_for_each_finding_in_the_labels(
    models: dict[str, LocalizationModel], dataset: ChestXrayDataset
) -> None:
    recipe = get_recipe("multires_tiny")
    options = reading_options(models, dataset, recipe=recipe)
    batches = forward_batches(models, dataset, recipe=recipe)
    boxes = labelled_boxes(batches, options, labels=label_table(dataset))
    labels = zip(dataset.image_index, dataset.labels, strict=True)
    present = {(name, dataset.findings[k]) for name, row in labels for k in np.flatnonzero(row)}
    for name in (MAP, SIGNED, BLUR):
        found = list(zip(boxes[name]["image_index"], boxes[name]["finding"], strict=True))
        assert 0 < len(found) == len(set(found)) and set(found) <= present
