"""Predict files: the same preprocessing as in training, one file or many, boxes in pixels of the image."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.dicom_files import dicom_bytes, make_dataset, pydicom_data_file
from PIL import Image
from pydicom import DataElement

from cxr_seam.data.cache import prepare
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.image_io import load_image, resize_square
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.boxes import boxes_from_heatmap
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.inference.predictor import ImageWarning, Prediction, Predictions, Predictor
from cxr_seam.models.checkpoint import Checkpoint, ScoreCalibration, save_checkpoint
from cxr_seam.presets import get_preset
from cxr_seam.training.resume import data_fingerprint
from cxr_seam.visualize.export import output_stems

RECIPE = get_preset("tiny")[2]
pytestmark = pytest.mark.filterwarnings("ignore::cxr_seam.inference.predictor.ImageWarning")


def test_file_and_cache_predict_bit_identically(predictor, demo_folder, tmp_path):
    cache = prepare(demo_folder / "images", tmp_path / "store", size=RECIPE.image_size, progress=False)
    dataset = ChestXrayDataset(cache, load_metadata(demo_folder), image_index=cache.image_index[:5])
    predictions = predictor.predict([demo_folder / "images" / name for name in dataset.image_index])
    pixels, _ = dataset.load(range(5))
    assert np.array_equal(np.stack([p.image for p in predictions]), pixels[:, 0].numpy())
    output = predictor.forward(pixels)
    assert np.array_equal(np.stack([p.final_cam for p in predictions]), output.refined.numpy())
    assert np.array_equal([list(p.raw_scores.values()) for p in predictions], output.logits.double().sigmoid().numpy())


def test_heatmaps_and_boxes_are_in_pixels_of_the_image(predictor, paths, tmp_path):
    wide = tmp_path / "wide.png"
    cv2.imwrite(str(wide), cv2.resize(load_image(paths[0]).pixels, (300, 200)))
    prediction = predictor.predict(wide)
    assert prediction.size == (200, 300)
    for finding in FINDINGS:
        heat_map = prediction.heat_map(finding)
        assert heat_map.shape == (200, 300) and heat_map.min() >= 0 and heat_map.max() <= 1
        paper = cam_to_heatmap(torch.from_numpy(prediction.final_cam[FINDINGS.index(finding)])[None, None], 256)[
            0, 0
        ].numpy()
        expected = boxes_from_heatmap(paper, threshold=RECIPE.cam_threshold).xywh * [300, 200, 300, 200]
        assert prediction.boxes_of(finding) == pytest.approx(expected)


def test_tta_flip_and_min_baseline(predictor, paths):
    changed = Predictor(predictor.model, replace(predictor.recipe, tta_flip=True, cam_baseline="min"))
    size = predictor.recipe.image_size
    pixels = torch.from_numpy(np.stack([resize_square(load_image(path).pixels, size) for path in paths[:2]]))[:, None]
    one, other = predictor.forward(pixels), predictor.forward(pixels.flip(-1))
    logits, maps = (one.logits + other.logits) / 2, (one.refined + other.refined.flip(-1)) / 2
    heatmaps = cam_to_heatmap(maps, 256, baseline="min").numpy()
    for found, expected_logits, expected, heatmap in zip(
        changed.predict(paths[:2]), logits, maps, heatmaps, strict=True
    ):
        assert list(found.raw_scores.values()) == pytest.approx(expected_logits.sigmoid().tolist(), rel=1e-4)
        assert np.allclose(found.final_cam, expected.numpy(), atol=1e-5)
        found_maps = np.stack([found.heat_map(finding, size=256) for finding in FINDINGS])
        assert np.allclose(found_maps, heatmap, atol=1e-4)


def test_untrained_refiner_is_not_used(predictor, paths):
    """A checkpoint of the classifier stage has a refiner too, with random weights."""
    pixels = torch.from_numpy(predictor.predict(paths[0]).image)[None, None]
    first = Predictor(predictor.model, get_preset("tiny")[1])
    output = first.forward(pixels)
    assert output.refined is not None and not torch.equal(output.refined, output.cam)
    assert np.array_equal(first.predict(paths[0]).final_cam, output.cam[0].numpy())


def test_decisions_use_stored_thresholds(predictor, paths):
    prediction = predictor.predict(paths[0])
    assert prediction.decisions["Hernia"] is None
    for finding in FINDINGS[:-1]:
        assert prediction.decisions[finding] is (prediction.raw_scores[finding] >= 0.5)
    scores = {f: ScoreCalibration(1, 1, thresholds={"youden": prediction.raw_scores[f]}) for f in FINDINGS}
    exactly = Predictor(predictor.model, RECIPE, scores=scores).predict(paths[0])
    assert all(exactly.decisions.values())  # "from which on"
    assert set(exactly.decisions_at("sensitivity_90").values()) == {None}
    assert set(Predictor(predictor.model, RECIPE).predict(paths[0]).decisions.values()) == {None}


def test_calibrated_probabilities_and_other_prevalence(predictor, checkpoint, paths):
    """The checkpoint has slope 0.5, intercept -1 and ten of forty positives; a prevalence of 1/2 triples the odds."""
    prediction = predictor.predict(paths[0])
    assert prediction.probabilities["Hernia"] is None and "0 positive" in predictor.calibrator.missing["Hernia"]
    logit = np.log(prediction.raw_scores["Mass"] / (1 - prediction.raw_scores["Mass"]))
    odds = np.exp(0.5 * logit - 1)
    assert prediction.probabilities["Mass"] == pytest.approx(odds / (1 + odds))
    other = Predictor.load(checkpoint, operating_point="specificity_90", prevalence={"Mass": 0.5})
    changed = other.predict(paths[0])
    assert changed.probabilities["Mass"] == pytest.approx(3 * odds / (1 + 3 * odds))
    assert changed.probabilities | {"Mass": 0} == prediction.probabilities | {"Mass": 0}
    assert changed.raw_scores == prediction.raw_scores
    assert changed.decisions == prediction.decisions_at("specificity_90")
    assert changed.decisions["Mass"] is (prediction.raw_scores["Mass"] >= 0.6)
    with pytest.raises(InputError, match="best"):
        prediction.decisions_at("best")
    table = predictor.predict(paths[:2]).probabilities()
    assert table.loc[str(paths[0]), "Mass"] == pytest.approx(prediction.probabilities["Mass"], abs=1e-6)
    assert table["Hernia"].isna().all() and len(table) == 2


def test_list_folder_and_single_files_agree(predictor, paths, tmp_path):
    for k, path in enumerate(paths):
        (tmp_path / f"{9 - k}.png").write_bytes(path.read_bytes())
    folder = predictor.predict(tmp_path)
    listed = predictor.predict(paths)
    assert [Path(p.path).name for p in folder] == ["5.png", "6.png", "7.png", "8.png", "9.png"]
    assert [p.path for p in listed] == [str(path) for path in paths]
    assert isinstance(folder, Predictions) and folder.failures == {}
    for one, other in zip(reversed(folder), listed, strict=True):
        assert np.array_equal(one.image, other.image)
        assert list(one.raw_scores.values()) == pytest.approx(list(other.raw_scores.values()), abs=1e-5)
    single = predictor.predict(paths[3])
    assert isinstance(single, Prediction)
    assert list(single.raw_scores.values()) == pytest.approx(list(listed[3].raw_scores.values()), abs=1e-5)
    assert list(listed.raw_scores().index) == [str(path) for path in paths]
    assert listed.raw_scores().loc[str(paths[3]), "Mass"] == listed[3].raw_scores["Mass"]
    assert len(listed.boxes()) == sum(len(p.boxes) for p in listed)


def test_several_batches_keep_order(predictor, paths, monkeypatch):
    monkeypatch.setattr("cxr_seam.inference.predictor.BATCH_SIZE", 2)
    assert [p.path for p in predictor.predict(paths)] == [str(path) for path in paths]


def test_unreadable_file_among_others(predictor, paths, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(paths[0].read_bytes()[:200])
    with pytest.warns(ImageWarning, match="left out: .*bad.png is broken"):
        predictions = predictor.predict([paths[0], bad, paths[1]])
    assert [p.path for p in predictions] == [str(paths[0]), str(paths[1])]
    assert list(predictions.failures) == [str(bad)] and "broken" in predictions.failures[str(bad)]
    with pytest.raises(InputError, match="bad.png is broken"):
        predictor.predict([bad, bad])
    with pytest.raises(InputError, match="bad.png is broken"):
        predictor.predict(bad)


def test_image_warning(predictor, tmp_path):
    Image.fromarray(np.full((90, 90), 60, np.uint8)).save(tmp_path / "grey.png")
    with pytest.warns(ImageWarning, match="grey.png.*correlation"):
        assert predictor.predict(tmp_path / "grey.png").image_warnings


@pytest.mark.parametrize("suffix", [".png", ".tif", ".dcm"])
def test_lossless_formats_predict_identically(predictor, paths, tmp_path, suffix):
    pixels, path = load_image(paths[0]).pixels, tmp_path / f"image{suffix}"
    if suffix == ".dcm":
        path.write_bytes(dicom_bytes(make_dataset(255 - pixels, PhotometricInterpretation="MONOCHROME1")))
    else:
        Image.fromarray(pixels).save(path)
    expected, found = predictor.predict(paths[0]), predictor.predict(path)
    assert np.array_equal(found.image, expected.image) and found.raw_scores == expected.raw_scores


def test_prediction_is_small_in_memory(predictor):
    path = pydicom_data_file("RG1_J2KR.dcm")
    prediction = predictor.predict(path)
    assert prediction.size == (1955, 1841)
    assert sum(part.nbytes for part in (prediction.image, prediction.final_cam)) < 300_000
    assert prediction.image.base is None or prediction.image.base.nbytes < 300_000
    assert prediction.final_cam.base is None
    assert np.array_equal(prediction.image, resize_square(load_image(path).pixels, RECIPE.image_size))


def test_odd_pixel_spacing_is_ignored(predictor, paths, tmp_path):
    pixels = load_image(paths[0]).pixels
    odd = ["0.2", "0.2\\", "abc\\de", "0,14\\0,14", "-1\\0.2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the very values
        for number, value in enumerate(odd):
            made = make_dataset(pixels)
            made.add(DataElement(0x00280030, "LO", value))  # a text where numbers belong
            (tmp_path / f"{number}.dcm").write_bytes(dicom_bytes(made))
        found = predictor.predict(tmp_path)
    assert len(found) == len(odd) and not found.failures
    assert not any("not square" in doubt for prediction in found for doubt in prediction.image_warnings)


def test_prediction_resizes_as_the_cache(predictor, demo_folder, tmp_path):
    cache = prepare(demo_folder / "images", tmp_path / "store", size=96, progress=False)
    dataset = ChestXrayDataset(cache, load_metadata(demo_folder), image_index=cache.image_index[:5])
    metadata = Checkpoint(RECIPE, data=data_fingerprint(dataset, dataset))
    path = save_checkpoint(tmp_path / "m.safetensors", predictor.model, metadata=metadata)
    pixels, _ = dataset.load(range(5))
    expected = predictor.forward(pixels)
    predictions = Predictor.load(path).predict([demo_folder / "images" / name for name in dataset.image_index])
    assert np.array_equal(np.stack([p.image for p in predictions]), pixels[:, 0].numpy())
    assert np.array_equal(np.stack([p.final_cam for p in predictions]), expected.refined.numpy())
    straight = predictor.predict([demo_folder / "images" / name for name in dataset.image_index])
    assert not np.array_equal(np.stack([p.final_cam for p in straight]), expected.refined.numpy())


def test_predict_home_folder(predictor, paths, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "paths").mkdir()
    for path in paths[:2]:
        (tmp_path / "paths" / path.name).write_bytes(path.read_bytes())
    found = predictor.predict("~/paths")
    assert isinstance(found, Predictions) and len(found) == 2  # all of it, not its first image
    assert list(output_stems(["~/paths", f"~/paths/{paths[0].name}"])) == [path.stem for path in paths[:2]]


def test_predict_impossible_path(predictor):
    with pytest.raises(InputError, match="cannot read a+"):
        predictor.predict("a" * 300)
