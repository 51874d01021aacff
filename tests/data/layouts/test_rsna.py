"""RSNA's challenge: several boxes per image, a split by patient that nothing changes."""

from __future__ import annotations

import hashlib
import uuid

import pytest

from cxr_seam.data.layouts import load_dataset
from cxr_seam.errors import InputError

HEADER = "patientId,x,y,width,height,Target\n"
ABSENT, BOTH = "0004cfab-14fd-4e49-80ba-63a80b6bddd6", "00436515-870c-4b36-a041-de91049b9ab4"
LABELS = f"{HEADER}{ABSENT},,,,,0\n{BOTH},264.0,152.0,213.0,379.0,1\n{BOTH},562.0,152.0,256.0,453.0,1\n"
CLASSES = f"patientId,class\n{ABSENT},No Lung Opacity / Not Normal\n{BOTH},Lung Opacity\n{BOTH},Lung Opacity\n"

pytestmark = pytest.mark.filterwarnings("ignore:.*has no public test")


def write(folder, labels=LABELS, classes=CLASSES):
    (folder / "stage_2_train_labels.csv").write_text(labels)
    if classes is not None:
        (folder / "stage_2_detailed_class_info.csv").write_text(classes)
    return folder


@pytest.mark.parametrize("classes", [CLASSES, None], ids=["with classes", "without"])
def test_tables_as_published(classes, tmp_path):
    read = load_dataset(write(tmp_path, classes=classes))
    assert read.name == "rsna" and read.findings == ("Pneumonia",)
    assert read.images.index.tolist() == [f"{ABSENT}.dcm", f"{BOTH}.dcm"]
    assert read.images["patient_id"].tolist() == [ABSENT, BOTH]
    assert read.labels([f"{BOTH}.dcm", f"{ABSENT}.dcm"]).tolist() == [[1], [0]]
    assert read.boxes.to_numpy().tolist() == [
        [f"{BOTH}.dcm", "Pneumonia", 264 / 1024, 152 / 1024, 213 / 1024, 379 / 1024],
        [f"{BOTH}.dcm", "Pneumonia", 562 / 1024, 152 / 1024, 256 / 1024, 453 / 1024],
    ]


def test_split_is_told_and_depends_on_the_patient_alone(tmp_path):
    patients = [str(uuid.UUID(int=number)) for number in range(1000)]
    with pytest.warns(UserWarning, match="20 % of the patients are for the test"):
        read = load_dataset(write(tmp_path, HEADER + "".join(f"{p},,,,,0\n" for p in patients), None))
    assert 160 < len(read.test) < 240 and len(read.train_val) + len(read.test) == 1000
    expected = {f"{p}.dcm" for p in patients if int.from_bytes(hashlib.sha256(p.encode()).digest()[:4], "big") % 5 == 0}
    assert set(read.test) == expected
    part = load_dataset(write(tmp_path, HEADER + "".join(f"{p},,,,,0\n" for p in patients[:99:-1]), None))
    assert set(part.test) == expected & set(part.images.index)


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"labels": LABELS.replace(",,,,,0", ",,,,,2")}, "stage_2_train_labels.csv, line 2, column 'Target': '2'"),
        ({"labels": LABELS.replace("453.0,1", "453.0,0")}, "stage_2_train_labels.csv, line 4.*both targets"),
        ({"labels": LABELS.replace(",,,,,0", ",1,1,9,9,0")}, "line 2, column 'Target': '0' has a box"),
        ({"labels": LABELS.replace("562.0,152.0", "562.0,")}, "line 4, column 'y': ''"),
        ({"labels": LABELS.replace("562.0,152.0", "962.0,152.0")}, f"line 4: the box of {BOTH}.dcm leaves"),
        ({"labels": LABELS.replace("Target", "target")}, "stage_2_train_labels.csv has no column 'Target'"),
        ({"classes": CLASSES.replace("No Lung Opacity / Not Normal", "Lung Opacity")}, "class_info.csv, line 2"),
        ({"classes": CLASSES.replace("No Lung Opacity / Not Normal", "Odd")}, "class_info.csv, line 2.*'Odd'"),
    ],
)
def test_wrong_tables(tables, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        load_dataset(write(tmp_path, **tables))


def test_a_positive_image_without_box_is_refused(tmp_path):
    with pytest.raises(InputError, match="line 2, column 'Target': '1' has no box"):
        load_dataset(write(tmp_path, LABELS.replace(",,,,,0", ",,,,,1"), None))
