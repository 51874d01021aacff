"""VinDr-CXR: the majority of the readers, all their boxes, sizes of DICOM headers."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.dicom_files import dicom_bytes, make_dataset

from cxr_seam.data.layouts import load_dataset
from cxr_seam.data.layouts.base import image_size
from cxr_seam.errors import InputError

TABLES = {
    "image_labels_train.csv": "image_id,rad_id,Cardiomegaly,Nodule/Mass,Other diseases,No finding\n"
    "aaa,R10,1,0,0,0\naaa,R8,1,1,0,0\naaa,R9,0,0,0,0\nbbb,R1,0,0,0,1\nbbb,R2,0,0,1,0\nbbb,R3,0,0,1,0\n",
    "annotations_train.csv": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
    "aaa,R10,Cardiomegaly,6.0,10.0,36.0,30.0\naaa,R8,Cardiomegaly,3.0,10.0,33.0,40.0\n"
    "aaa,R8,Nodule/Mass,0.0,0.0,6.0,4.0\nbbb,R1,No finding,,,,\n",
    "image_labels_test.csv": "image_id,Cardiomegaly,Nodule/Mass,Other disease,No finding\nccc,0,1,0,0\n",
    "annotations_test.csv": "image_id,class_name,x_min,y_min,x_max,y_max\nccc,Nodule/Mass,10,20,30,60\n",
}
FILES = {"train/aaa.dicom": (40, 60), "train/bbb.dicom": (40, 60), "test/ccc.dicom": (80, 100)}
"""Height and width."""

pytestmark = pytest.mark.filterwarnings("ignore:.*VinDr-CXR has no patients")


def write(folder, *, files=FILES, tables="annotations", **changed):
    (folder / tables).mkdir(exist_ok=True)
    for name, text in TABLES.items():
        (folder / tables / name).write_text(changed.get(name.removesuffix(".csv"), text))
    for name, shape in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(dicom_bytes(make_dataset(np.ones(shape, dtype=np.uint8))))
    return folder


@pytest.mark.parametrize("tables", ["annotations", "."])
def test_tables_as_published(tables, tmp_path):
    with pytest.warns(UserWarning, match="its own patient"):
        read = load_dataset(write(tmp_path, tables=tables))
    assert read.name == "vindr" and read.findings == ("Cardiomegaly", "Nodule/Mass", "Other diseases")
    assert (read.train_val, read.test) == (("train/aaa.dicom", "train/bbb.dicom"), ("test/ccc.dicom",))
    labels = read.labels(["train/aaa.dicom", "train/bbb.dicom", "test/ccc.dicom"])
    assert labels.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]] and labels.dtype == np.float32
    assert read.images["patient_id"].tolist() == ["aaa", "bbb", "ccc"]
    assert read.boxes[["image_index", "finding"]].to_numpy().tolist() == [
        ["train/aaa.dicom", "Cardiomegaly"],
        ["train/aaa.dicom", "Cardiomegaly"],
        ["train/aaa.dicom", "Nodule/Mass"],
        ["test/ccc.dicom", "Nodule/Mass"],
    ]
    assert read.boxes[["x", "y", "w", "h"]].to_numpy() == pytest.approx(
        np.array([[0.1, 0.25, 0.5, 0.5], [0.05, 0.25, 0.5, 0.75], [0, 0, 0.1, 0.1], [0.1, 0.25, 0.2, 0.5]])
    )


def test_two_of_four_readers_are_no_majority(tmp_path):
    labels = TABLES["image_labels_train.csv"] + "aaa,R11,0,1,0,0\n"
    read = load_dataset(write(tmp_path, image_labels_train=labels))
    assert read.labels(["train/aaa.dicom"]).tolist() == [[0, 0, 0]]


def test_boxes_of_missing_images_are_left_out_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"boxes of 1 image without a file are left out: train/aaa.dicom"):
        read = load_dataset(write(tmp_path, files={"test/ccc.dicom": (80, 100)}))
    assert read.boxes["image_index"].tolist() == ["test/ccc.dicom"] and len(read.images) == 3


def test_size_needs_the_header_only(tmp_path):
    data = dicom_bytes(make_dataset(np.ones((40, 60), dtype=np.uint8)))
    (tmp_path / "cut.dicom").write_bytes(data[:-2000])
    assert image_size(tmp_path / "cut.dicom") == (40, 60)
    (tmp_path / "broken.dicom").write_bytes(data[:200])
    for name in ("broken.dicom", "missing.dicom"):
        with pytest.raises(InputError, match=name):
            image_size(tmp_path / name)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"image_labels_train": TABLES["image_labels_train.csv"].replace("R9,0", "R9,2")}, "train.csv, line 4.*'2'"),
        ({"image_labels_test": TABLES["image_labels_test.csv"].replace("Nodule/", "")}, "'Mass' is a column"),
        ({"annotations_test": TABLES["annotations_test.csv"].replace("30,60", "30,85")}, "line 2: the box of test/ccc"),
        ({"annotations_test": TABLES["annotations_test.csv"].replace("10,20", "31,20")}, "line 2: .* no width"),
        ({"annotations_test": TABLES["annotations_test.csv"].replace("10,20", ",20")}, "line 2, column 'x_min'"),
        ({"annotations_test": TABLES["annotations_test.csv"].replace("Nodule", "Lump")}, "line 2.*'Lump/Mass'"),
    ],
)
def test_wrong_tables(changed, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        load_dataset(write(tmp_path, **changed))


@pytest.mark.parametrize("name", [name for name in TABLES if name != "image_labels_train.csv"])
def test_missing_table(name, tmp_path):
    (write(tmp_path) / "annotations" / name).unlink()
    with pytest.raises(InputError, match=name):
        load_dataset(tmp_path)
