"""Warnings about what is no frontal chest film: how often they are false on real films, and what they notice."""

from __future__ import annotations

import gzip
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers.dicom_files import film, of_pydicom_data, written

from cxr_seam.data.image_io import Radiograph, load_image, read_radiograph
from cxr_seam.inference.view_check import LEAST_AGREEMENT, LONGEST, MEAN_FILM, agreement, check_frontal


@pytest.fixture(scope="module")
def films(nih_root: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_radiograph(path) for path in sorted((nih_root / "images_256").iterdir())}


@pytest.fixture(scope="module")
def test_list(nih_root: Path) -> set[str]:
    return {name.removesuffix(".png") for name in gzip.open(nih_root / "test_list.txt.gz", "rt").read().split()}


def share_noticed(films, change) -> float:
    return float(np.mean([agreement(np.ascontiguousarray(change(pixels))) < LEAST_AGREEMENT for pixels in films]))


def test_false_alarms_are_rare_on_real_films_and_rarer_still_on_those_the_mean_was_not_made_from(films, test_list):
    noticed = {name for name, pixels in films.items() if check_frontal(Radiograph(pixels))}
    assert len(films) == 2610 and len(noticed) == 44  # as the module says: 1.7 %
    assert len(noticed & test_list) == 10 and len(films.keys() & test_list) == 718  # 1.4 %


def test_films_turned_or_printed_wrongly_are_noticed(films):
    some = list(films.values())
    for change in (np.flipud, np.rot90, lambda pixels: np.rot90(pixels, -1), lambda pixels: 255 - pixels):
        assert share_noticed(some, change) > 0.98
    assert share_noticed(some, np.fliplr) < 0.02  # a mirrored film still is a frontal film


def test_the_mean_film_is_that_of_the_films_to_train_on(films, test_list):
    total = np.zeros((16, 16))
    for name, pixels in films.items():
        if name not in test_list:
            small = pixels.reshape(16, 16, 16, 16).mean(axis=(1, 3))
            total += (small - small.mean()) / small.std()
    mean = total + total[:, ::-1]
    assert np.abs((mean - mean.mean()) / mean.std() - MEAN_FILM / 20).max() < 0.05


def test_no_more_than_a_few_of_nihs_originals_are_as_long_as_is_warned_of(nih_root):
    table = pd.read_csv(nih_root / "Data_Entry_2017_v2020.csv.gz")
    width, height = table["OriginalImage[Width"], table["Height]"]
    assert (np.maximum(width, height) / np.minimum(width, height) > LONGEST).sum() == 36


def test_an_unusual_film_is_told_what_it_resembles(films):
    pixels = films["00000001_000"]
    assert check_frontal(Radiograph(pixels)) == ()
    for change, words in (
        (pixels[::-1], "upside down"),
        (255 - pixels, "with black and white exchanged"),
        (np.rot90(pixels), "turned on its"),
    ):
        (doubt,) = check_frontal(Radiograph(np.ascontiguousarray(change)))
        assert f"{words} it does" in doubt or f"{words} other side it does" in doubt or f"{words} side it does" in doubt


def test_what_is_no_film_is_noticed():
    generator = np.random.default_rng(0)
    page = np.full((1100, 800), 255, np.uint8)
    for line in range(60, 1060, 24):
        cv2.putText(page, "All happy families are alike; each unhappy", (40, line), 0, 0.9, 0, 2)
    blank, noise = np.full((300, 300), 90, np.uint8), generator.integers(0, 256, (500, 500), dtype=np.uint8)
    for picture in (page, blank, noise):
        assert any("do not lie as on a frontal chest film" in doubt for doubt in check_frontal(Radiograph(picture)))


def test_photographs_are_noticed_by_colour_and_without():
    datasets = pytest.importorskip("sklearn.datasets")
    for name in ("china.jpg", "flower.jpg"):
        photograph = datasets.load_sample_image(name)
        data = cv2.imencode(".png", photograph[..., ::-1])[1].tobytes()
        image_warnings = check_frontal(load_image(data))
        assert any("coloured" in doubt for doubt in image_warnings)
        assert any("do not lie as on" in doubt for doubt in image_warnings)


def test_long_strips_are_noticed():
    assert any("longer" in doubt for doubt in check_frontal(Radiograph(np.zeros((300, 1000), np.uint8))))


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
        ({"Modality": "CR", "BodyPartExamined": "CHEST_AP", "ViewPosition": "AP"}, []),
        ({"Modality": "", "BodyPartExamined": "", "ViewPosition": ""}, []),
    ],
)
def test_the_header_is_read(entries, words):
    header = film(np.zeros((40, 40), np.uint8), **entries)
    said = check_frontal(Radiograph(MEAN_AS_FILM, header=header))
    assert len(said) == len(words) and all(word in doubt for word, doubt in zip(words, said, strict=True))


MEAN_AS_FILM = np.clip(128 + 2 * np.kron(MEAN_FILM, np.ones((4, 4))), 0, 255).astype(np.uint8)


def test_real_dicom_films():
    chest, extremity = (load_image(of_pydicom_data(f"{name}_J2KR.dcm")) for name in ("RG1", "RG3"))
    assert check_frontal(chest) == ()
    assert any("shows EXTREMITY" in doubt for doubt in check_frontal(extremity))
    assert any("do not lie as on" in doubt for doubt in check_frontal(Radiograph(extremity.pixels)))


def test_drawn_films_raise_no_doubt(demo_folder):
    image_warnings = [check_frontal(load_image(path)) for path in sorted((demo_folder / "images").iterdir())]
    assert sum(map(bool, image_warnings)) <= 0.02 * len(image_warnings)


def test_doubts_need_a_header_that_was_written(tmp_path):
    radiograph = load_image(written(film(MEAN_AS_FILM, ViewPosition="LATERAL")))
    assert check_frontal(radiograph) == ("its header says that the view is LATERAL, not frontal",)
