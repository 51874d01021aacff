"""COCO's format with and without a table of labels."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from cxr_seam.data.layouts import load_dataset
from cxr_seam.data.layouts.tables import MAX_BYTES
from cxr_seam.errors import InputError

COCO = {
    "info": {"year": 2026},
    "images": [
        {"id": 7, "file_name": "a.png", "width": 200, "height": 100},
        {"id": 9, "file_name": "b.png", "width": 50, "height": 400},
        {"id": 11, "file_name": "c.png", "width": 10, "height": 10},
    ],
    "categories": [{"id": 3, "name": "Mass"}, {"id": 5, "name": "Effusion"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 5, "bbox": [10, 100, 20, 40], "area": 800, "iscrowd": 0},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 3,
            "bbox": [20, 10, 100, 50],
            "segmentation": [[20, 10, 120, 10, 120, 60], [20, 50, 40, 50, 40, 60, 20, 60]],
        },
    ],
}


def write(folder, *, table=None, **changed):
    (folder / "annotations.json").write_text(json.dumps(COCO | changed))
    if table is not None:
        (folder / "images.csv").write_text(table)
    return folder


@pytest.mark.filterwarnings("ignore:.*have no file")
def test_boxes_and_outlines_beside_a_table(tmp_path):
    table = "image,patient,split,Effusion,Mass,Edema\na.png,1,test,0,1,\nb.png,2,train,0,0,1\n"
    read = load_dataset(write(tmp_path, table=table))
    assert read.name == "coco" and read.findings == ("Effusion", "Mass", "Edema")
    assert np.array_equal(read.labels(["a.png", "b.png"]), [[0, 1, np.nan], [0, 0, 1]], equal_nan=True)
    assert (read.train_val, read.test) == (("b.png",), ("a.png",))
    assert read.boxes.to_numpy().tolist() == [
        ["b.png", "Effusion", 0.2, 0.25, 0.4, 0.1],
        ["a.png", "Mass", 0.1, 0.1, 0.5, 0.5],
    ]
    assert read.masks.to_numpy().tolist() == [
        ["a.png", "Mass", [(0.1, 0.1), (0.6, 0.1), (0.6, 0.6)]],
        ["a.png", "Mass", [(0.1, 0.5), (0.2, 0.5), (0.2, 0.6), (0.1, 0.6)]],
    ]


def test_labels_of_boxes_without_a_table(tmp_path):
    for name in ("a.png", "b.jpg", "c.png"):
        Image.new("L", (20, 20)).save(tmp_path / name)
    images = [COCO["images"][0], COCO["images"][1] | {"file_name": "b.PNG"}, COCO["images"][2]]
    with pytest.warns(UserWarning, match="without images.csv"), pytest.warns(UserWarning, match="b.PNG is b.jpg"):
        read = load_dataset(write(tmp_path, images=images))
    assert read.findings == ("Mass", "Effusion")
    assert read.labels(["a.png", "b.jpg", "c.png"]).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert read.labels(["a.png"]).dtype == np.float32
    assert read.images["patient_id"].is_unique
    assert sorted(read.train_val + read.test) == ["a.png", "b.jpg", "c.png"]


@pytest.mark.filterwarnings("ignore:.*without images.csv")
def test_run_lengths_are_left_out_with_a_warning(tmp_path):
    annotation = COCO["annotations"][0] | {"segmentation": {"counts": "abc", "size": [400, 50]}}
    with pytest.warns(UserWarning, match="1 run-length mask;"):
        read = load_dataset(write(tmp_path, annotations=[annotation]))
    assert len(read.boxes) == 1 and read.masks.empty


def annotation(**changed):
    return {"annotations": [COCO["annotations"][0], COCO["annotations"][1] | changed]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (annotation(image_id=8), "annotation 2: unknown image_id 8"),
        (annotation(category_id=8), "annotation 2: unknown category_id 8"),
        (annotation(bbox=[150, 10, 60, 10]), "annotation 2: the box of a.png leaves the image.*200x100"),
        (annotation(bbox=[150, 10, 0, 10]), "annotation 2: the box of a.png has no width"),
        (annotation(bbox=[150, 10, 20]), r"annotations.json.*annotations.1.bbox"),
        (annotation(segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "annotations.1.segmentation"),
        (annotation(segmentation=[[1, 2, 3, 4]]), "annotation 2: a polygon"),
        ({"categories": [{"id": 3, "name": "Mass"}, {"id": 5, "name": "Mass"}]}, "two categories"),
        ({"categories": [{"id": 3, "name": "Mass"}, {"id": 5, "name": "MASS"}]}, "'Mass' and 'MASS'"),
        ({"images": [*COCO["images"], COCO["images"][0]]}, "annotations.json lists an image"),
        ({"images": "none"}, "annotations.json is not of COCO: images"),
        ({"table": "image,Effusion\na.png,1\n"}, "'Mass' is no column of images.csv"),
    ],
)
def test_wrong_files(changed, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        load_dataset(write(tmp_path, **changed))


def test_no_json(tmp_path):
    (tmp_path / "annotations.json").write_text("<html>")
    with pytest.raises(InputError, match="annotations.json is not of COCO"):
        load_dataset(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_length_of_the_file(tmp_path, monkeypatch):
    """Annotations are longer than tables: COCO's own have 448 MiB. The limit stops a file that inflates without end."""
    expected = load_dataset(write(tmp_path))
    padding = {"info": {"description": "x" * (MAX_BYTES + 1)}}
    read = load_dataset(write(tmp_path, **padding))
    assert read.boxes.equals(expected.boxes) and read.masks.equals(expected.masks)
    monkeypatch.setattr("cxr_seam.data.layouts.coco.MAX_JSON_BYTES", 2**20)
    (tmp_path / "annotations.json.gz").write_bytes(gzip.compress((tmp_path / "annotations.json").read_bytes()))
    (tmp_path / "annotations.json").unlink()
    with pytest.raises(InputError, match=r"annotations.json.gz is longer than 1 MiB"):
        load_dataset(tmp_path)


def test_boxes_in_two_files_are_refused(tmp_path):
    (write(tmp_path) / "boxes.csv").write_text("image,finding,x,y,w,h\n")
    with pytest.raises(InputError, match="annotations.json and boxes.csv"):
        load_dataset(tmp_path)
