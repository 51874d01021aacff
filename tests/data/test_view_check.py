"""Warnings for images that are not frontal chest X-rays: false alarms on NIH's images, and what is detected."""

from __future__ import annotations

import gzip
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers.dicom_files import dicom_bytes, make_dataset, pydicom_data_file

from cxr_seam.data.image_io import Radiograph, load_image
from cxr_seam.data.view_check import MAX_ASPECT, MEAN_IMAGE, check_frontal


@pytest.fixture(scope="module")
def images(nih_root: Path) -> dict[str, np.ndarray]:
    return {path.stem: load_image(path).pixels for path in sorted((nih_root / "images_256").iterdir())}


@pytest.fixture(scope="module")
def test_list(nih_root: Path) -> set[str]:
    return {name.removesuffix(".png") for name in gzip.open(nih_root / "test_list.txt.gz", "rt").read().split()}


def share_detected(images, change) -> float:
    changed = (Radiograph(np.ascontiguousarray(change(pixels))) for pixels in images)
    return float(np.mean(["correlation" in "".join(check_frontal(radiograph)) for radiograph in changed]))


def test_false_alarms_on_real_images(images, test_list):
    detected = {name for name, pixels in images.items() if check_frontal(Radiograph(pixels))}
    assert len(images) == 2610 and len(detected) == 44  # as the module says: 1.7 %
    assert len(detected & test_list) == 10 and len(images.keys() & test_list) == 718  # 1.4 %


def test_turned_and_inverted_images_are_detected(images):
    some = list(images.values())
    for change in (np.flipud, np.rot90, lambda pixels: np.rot90(pixels, -1), lambda pixels: 255 - pixels):
        assert share_detected(some, change) > 0.98
    assert share_detected(some, np.fliplr) < 0.02  # a mirrored image is still frontal


def test_mean_image_is_that_of_train_val_images(images, test_list):
    total = np.zeros((16, 16))
    for name, pixels in images.items():
        if name not in test_list:
            small = pixels.reshape(16, 16, 16, 16).mean(axis=(1, 3))
            total += (small - small.mean()) / small.std()
    mean = total + total[:, ::-1]
    assert np.abs((mean - mean.mean()) / mean.std() - MEAN_IMAGE / 20).max() < 0.05


def test_aspect_of_nihs_originals(nih_root):
    table = pd.read_csv(nih_root / "Data_Entry_2017_v2020.csv.gz")
    width, height = table["OriginalImage[Width"], table["Height]"]
    assert (np.maximum(width, height) / np.minimum(width, height) > MAX_ASPECT).sum() == 36


def test_hint_names_the_change(images):
    pixels = images["00000001_000"]
    assert check_frontal(Radiograph(pixels)) == ()
    for change, words in (
        (pixels[::-1], "upside down"),
        (255 - pixels, "with black and white exchanged"),
        (np.rot90(pixels), "turned on its"),
    ):
        (warning,) = check_frontal(Radiograph(np.ascontiguousarray(change)))
        assert words in warning


def test_other_pictures_are_detected():
    generator = np.random.default_rng(0)
    page = np.full((1100, 800), 255, np.uint8)
    for line in range(60, 1060, 24):
        cv2.putText(page, "All happy families are alike; each unhappy", (40, line), 0, 0.9, 0, 2)
    blank, noise = np.full((300, 300), 90, np.uint8), generator.integers(0, 256, (500, 500), dtype=np.uint8)
    for picture in (page, blank, noise):
        assert any("correlation" in warning for warning in check_frontal(Radiograph(picture)))


def test_photographs_are_detected_with_and_without_colour():
    datasets = pytest.importorskip("sklearn.datasets")
    for name in ("china.jpg", "flower.jpg"):
        photograph = datasets.load_sample_image(name)
        data = cv2.imencode(".png", photograph[..., ::-1])[1].tobytes()
        image_warnings = check_frontal(load_image(data))
        assert any("coloured" in warning for warning in image_warnings)
        assert any("correlation" in warning for warning in image_warnings)


def test_long_strips_are_detected():
    assert any("longer" in warning for warning in check_frontal(Radiograph(np.zeros((300, 1000), np.uint8))))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"Modality": "CT"}, ["calls it CT"]),
        ({"BodyPartExamined": "HAND"}, ["shows HAND"]),
        ({"ViewPosition": "LL"}, ["view is LL"]),
        ({"ViewPosition": "", "PatientOrientation": ["P", "F"]}, ["view is lateral"]),
        ({"PixelSpacing": [0.2, 0.1]}, ["not square (0.1 across to 0.2 down)"]),
        ({"PixelSpacing": [0.194, 0.19431]}, []),  # rounded on one side
        ({"Modality": ["CR", "DX"], "BodyPartExamined": "TORAX"}, []),
        ({"PixelAspectRatio": [1, 1], "PatientOrientation": ["L", "F"]}, []),
        ({"PatientOrientation": "L"}, []),
        ({"PatientOrientation": ["LH", "FL"]}, []),  # slightly oblique
        ({"PatientOrientation": ["R", "F"]}, ["mirrored"]),
        ({"PatientOrientation": ["R", "H"]}, ["upside down"]),
        ({"PatientOrientation": ["L", "H"]}, ["upside down"]),
        ({"PatientOrientation": ["F", "L"]}, ["turned"]),
        ({"Modality": "CR", "BodyPartExamined": "CHEST_AP", "ViewPosition": "AP"}, []),
        ({"Modality": "", "BodyPartExamined": "", "ViewPosition": ""}, []),
    ],
)
def test_header(entries, words):
    header = make_dataset(np.zeros((40, 40), np.uint8), **entries)
    found = check_frontal(Radiograph(MEAN_AS_IMAGE, header=header))
    assert len(found) == len(words) and all(word in warning for word, warning in zip(words, found, strict=True))


MEAN_AS_IMAGE = np.clip(128 + 2 * np.kron(MEAN_IMAGE, np.ones((4, 4))), 0, 255).astype(np.uint8)


def test_real_dicom_files():
    chest, extremity = (load_image(pydicom_data_file(f"{name}_J2KR.dcm")) for name in ("RG1", "RG3"))
    assert check_frontal(chest) == ()
    assert any("shows EXTREMITY" in warning for warning in check_frontal(extremity))
    assert any("correlation" in warning for warning in check_frontal(Radiograph(extremity.pixels)))


def test_synthetic_images_give_no_warning(demo_folder):
    image_warnings = [check_frontal(load_image(path)) for path in sorted((demo_folder / "images").iterdir())]
    assert sum(map(bool, image_warnings)) <= 0.02 * len(image_warnings)


def test_warnings_of_the_reader_come_first():
    assert check_frontal(Radiograph(MEAN_AS_IMAGE, warnings=("its window was ignored",))) == ("its window was ignored",)


def test_header_of_written_file(tmp_path):
    radiograph = load_image(dicom_bytes(make_dataset(MEAN_AS_IMAGE, ViewPosition="LATERAL")))
    assert check_frontal(radiograph) != () and "LATERAL" in check_frontal(radiograph)[0]
