"""ChestX-Det in both forms, by hand and, if present, the real annotations of NIH's images."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.batches import ROOT

from cxr_seam.data.layouts import load_dataset, nih
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS

OUTLINES = [[[256, 512], [768, 512], [512, 1024]], [[0, 0], [128, 0], [0, 64]], [[512, 256], [640, 256], [640, 384]]]
TRAIN = [
    {
        "file_name": "36199.png",
        "syms": ["Mass", "Diffuse Nodule", "Mass"],
        "boxes": [[256, 512, 768, 1024], [0, 0, 128, 64], [512, 256, 640, 384]],
        "polygons": OUTLINES,
    },
    {"file_name": "36200.png", "syms": [], "boxes": [], "polygons": []},
]
TEST = [
    {"file_name": "36300.png", "syms": ["Fracture"], "boxes": [[1, 2, 3, 4]], "polygons": [[[1, 2], [3, 2], [3, 4]]]}
]
LINES = [
    {
        "image_index": "00000003_000.png",
        "findings": ["Mass"],
        "boxes_xyxy": [[256, 512, 768, 1024]],
        "polygons": OUTLINES[:1],
    },
    {"image_index": "00000001_000.png", "findings": [], "boxes_xyxy": [], "polygons": []},
]


def write(folder, train=TRAIN, test=TEST):
    (folder / "ChestX_Det_train.json").write_text(json.dumps(train))
    (folder / "ChestX_Det_test.json").write_text(json.dumps(test))
    return folder


def test_lists_as_published(tmp_path):
    with pytest.warns(UserWarning, match="3 names tell no patient, such as 36199.png"):
        read = load_dataset(write(tmp_path))
    assert read.name == "chestx-det" and len(read.findings) == 13
    assert (read.train_val, read.test) == (("36199.png", "36200.png"), ("36300.png",))
    labels = read.labels(["36199.png", "36200.png", "36300.png"])
    assert [{read.findings[k] for k in np.flatnonzero(row)} for row in labels] == [
        {"Mass", "Diffuse Nodule"},
        set(),
        {"Fracture"},
    ]
    assert read.images["patient_id"].is_unique
    assert read.boxes.iloc[0].tolist() == ["36199.png", "Mass", 0.25, 0.5, 0.5, 0.5]
    assert read.boxes["finding"].tolist() == ["Mass", "Diffuse Nodule", "Mass", "Fracture"]
    assert read.masks.iloc[0].tolist() == ["36199.png", "Mass", [(0.25, 0.5), (0.75, 0.5), (0.5, 1.0)]]


@pytest.mark.filterwarnings("ignore:.*tell no patient")
def test_findings_that_nih_has_too_have_its_spelling(tmp_path):
    read = load_dataset(write(tmp_path, test=[TEST[0] | {"syms": ["Pleural Thickening"]}]))
    others = {"Calcification", "Diffuse Nodule", "Fracture"}  # the label sets share the ten others (Lian et al. 2021)
    assert set(read.findings) - set(FINDINGS) == others
    assert read.boxes["finding"].iloc[-1] == read.masks["finding"].iloc[-1] == "Pleural_Thickening"
    assert read.labels(["36300.png"])[0, read.findings.index("Pleural_Thickening")] == 1


@pytest.mark.parametrize("zipped", [False, True])
def test_lines_with_names_and_lists_of_nih(zipped, tmp_path):
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    if zipped:
        (tmp_path / "chestxdet_on_nih.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / "chestxdet_on_nih.jsonl").write_text(text)
    with pytest.warns(UserWarning, match="all images are for the test"):
        read = load_dataset(tmp_path)
    assert read.test == ("00000003_000.png", "00000001_000.png") and read.train_val == ()
    assert read.images["patient_id"].tolist() == [3, 1]
    assert read.boxes.to_numpy().tolist() == [["00000003_000.png", "Mass", 0.25, 0.5, 0.5, 0.5]]
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png")
    (tmp_path / "test_list.txt").write_text("00000003_000.png")
    read = load_dataset(tmp_path)
    assert (read.train_val, read.test) == (("00000001_000.png",), ("00000003_000.png",))


@pytest.mark.filterwarnings("ignore:.*tell no patient")
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"syms": ["Tumour"]}, "ChestX_Det_test.json, image 1: 'Tumour'"),
        ({"syms": ["Mass", "Mass"]}, "ChestX_Det_test.json, image 1: findings, boxes and outlines differ"),
        ({"boxes": [[1, 2, 3]]}, "ChestX_Det_test.json is not of ChestX-Det: 0.boxes"),
        ({"boxes": [[1, 2, 1030, 4]]}, "ChestX_Det_test.json, image 1: the box of 36300.png leaves"),
        ({"boxes": [[3, 2, 1, 4]]}, "ChestX_Det_test.json, image 1: the box of 36300.png has no width"),
        ({"polygons": [[[1, 2], [3, float("inf")], [3, 4]]]}, "ChestX_Det_test.json is not of ChestX-Det: 0.polygons"),
        ({"file_name": "36199.png"}, "36199.png is listed twice"),
    ],
)
def test_wrong_annotations(changed, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        load_dataset(write(tmp_path, test=[TEST[0] | changed]))


@pytest.fixture(scope="module")
def real() -> Path:
    """Folder with the real annotations of NIH's images."""
    folder = Path(os.environ.get("CXR_SEAM_CHESTX_DET", ROOT.parent / "shared" / "chestxdet"))
    if not (folder / "chestxdet_on_nih.jsonl.gz").exists():
        pytest.skip(f"no annotations of ChestX-Det in {folder} (set CXR_SEAM_CHESTX_DET to the folder that holds them)")
    return folder


def test_real_annotations_of_nih_images(real, nih_root, tmp_path):
    for path in (real / "chestxdet_on_nih.jsonl.gz", *nih_root.glob("t*_list.txt*")):
        shutil.copy(path, tmp_path)
    read = load_dataset(tmp_path)
    assert (len(read.images), len(read.test), len(read.train_val)) == (1421, 156, 1265)
    lines = [json.loads(line) for line in gzip.open(real / "chestxdet_on_nih.jsonl.gz")]
    assert len(read.boxes) == len(read.masks) == sum(len(line["findings"]) for line in lines)
    assert set(read.boxes["finding"]) == set(read.findings)
    for line, row in zip(lines, read.labels([line["image_index"] for line in lines]), strict=True):
        names = {name.replace("Pleural Thickening", "Pleural_Thickening") for name in line["findings"]}
        assert {read.findings[k] for k in np.flatnonzero(row)} == names
    patients = nih.load_metadata(nih_root).images["patient_id"]
    assert (read.images["patient_id"] == patients[read.images.index]).all()
    for box, mask in zip(read.boxes.itertuples(), read.masks.itertuples(), strict=True):
        corners = np.array(mask.polygon)  # each outline lies in its box, but for rounding
        assert (corners.min(0) >= [box.x - 2 / 1024, box.y - 2 / 1024]).all()
        assert (corners.max(0) <= [box.x + box.w + 2 / 1024, box.y + box.h + 2 / 1024]).all()
