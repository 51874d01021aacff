"""CheXpert's tables: uncertain labels, patients of the paths, lateral images."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_seam.data.layouts import chexpert, load_dataset
from cxr_seam.errors import InputError

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)
TRAIN = (
    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0\n"
    "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,,,,,1.0,,,\n"
    "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,,-1.0,1.0,,-1.0,,,,,1.0,,,\n"
)
VALID = (
    "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,"
    "0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\n"
)
FIRST, SECOND, THIRD, VALIDATION = (
    "train/patient00001/study1/view1_frontal.jpg",
    "train/patient00002/study2/view1_frontal.jpg",
    "train/patient00002/study2/view2_lateral.jpg",
    "valid/patient64541/study1/view1_frontal.jpg",
)


def write(folder, train=HEADER + TRAIN, valid=HEADER + VALID):
    (folder / "train.csv").write_text(train)
    (folder / "valid.csv").write_text(valid)
    return folder


def findings_of(read, name, value):
    labels = read.labels([name])[0]
    return {finding for finding, label in zip(read.findings, labels, strict=True) if np.array_equal(label, value, True)}


def test_tables_as_published(tmp_path):
    read = load_dataset(write(tmp_path))
    assert read.name == "chexpert" and len(read.findings) == 13 and "No Finding" not in read.findings
    assert (read.train_val, read.test) == ((FIRST, SECOND), (VALIDATION,))
    assert read.images["patient_id"].tolist() == ["patient00001", "patient00002", "patient64541"]
    assert read.images["view"].tolist() == ["AP", "PA", "AP"] and read.images["age"].tolist() == [68, 87, 73]
    assert findings_of(read, FIRST, 1.0) == {"Support Devices"} and len(findings_of(read, FIRST, 0.0)) == 12
    assert findings_of(read, SECOND, 1.0) == {"Lung Opacity", "Pleural Effusion"}
    assert findings_of(read, SECOND, np.nan) == {"Cardiomegaly", "Edema"}
    assert findings_of(read, VALIDATION, 1.0) == {"Enlarged Cardiomediastinum"}
    assert read.boxes.empty and read.masks.empty


@pytest.mark.parametrize(("uncertain", "value"), [("zeros", 0.0), ("ones", 1.0)])
def test_uncertain_labels(uncertain, value, tmp_path):
    read = chexpert.load_metadata(write(tmp_path), uncertain=uncertain)
    assert {"Cardiomegaly", "Edema"} <= findings_of(read, SECOND, value)
    assert not np.isnan(read.labels(read.images.index)).any()


def test_lateral_images(tmp_path):
    read = chexpert.load_metadata(write(tmp_path), frontal_only=False)
    assert read.train_val == (FIRST, SECOND, THIRD)


def test_full_size_release(tmp_path):
    write(tmp_path, *(text.replace("v1.0-small", "v1.0") for text in (HEADER + TRAIN, HEADER + VALID)))
    assert load_dataset(tmp_path).train_val == (FIRST, SECOND)


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"train": HEADER + TRAIN.replace(",-1.0,1.0", ",-2.0,1.0", 1)}, "train.csv, line 3, column 'Cardiomegaly'"),
        ({"train": HEADER + TRAIN.replace("patient00001", "p1")}, "train.csv, line 2, column 'Path'"),
        ({"train": HEADER + TRAIN.replace("68,Frontal", "68,Oblique")}, "train.csv, line 2, column 'Frontal/Lateral'"),
        ({"valid": HEADER.replace("Edema,", "Oedema,") + VALID}, "valid.csv has no column 'Edema'"),
        ({"valid": HEADER + VALID.replace(",73,", ",old,")}, "valid.csv, line 2, column 'Age': 'old'"),
        ({"valid": HEADER + VALID + VALID}, "patient64541.* is in the tables twice"),
        ({"valid": HEADER}, "valid.csv has no row"),
    ],
)
def test_wrong_tables(tables, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        load_dataset(write(tmp_path, **tables))


def test_tables_of_other_datasets_are_not_taken_for_chexpert(tmp_path):
    write(tmp_path, train="image_id,class_name\n1,2\n")
    with pytest.raises(InputError, match="none of these tables"):
        load_dataset(tmp_path)


def test_unknown_rule_for_uncertain_labels(tmp_path):
    with pytest.raises(InputError, match="ignore, zeros, ones, not 'U-Ones'"):
        chexpert.load_metadata(write(tmp_path), uncertain="U-Ones")
