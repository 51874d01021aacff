"""NIH's tables against the published counts; wrong tables against one sentence."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pandas as pd
import pytest

from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.data.split import label_counts, train_val_split
from cxr_seam.errors import InputError
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS

HEADER_2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
HEADER_2017 = HEADER_2020.replace("Gender", "Sex") + ","
BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000003_000.png,Infiltrate,1.5,20,300,40.25\n"
ROWS = (
    ("00000001_000.png", "No Finding"),
    ("00000001_001.png", "Pneumothorax|Hernia"),
    ("00000002_000.png", "Pleural_Thickening"),
    ("00000003_000.png", "Infiltration|Mass"),
)


def write_tables(folder, *, header=HEADER_2020, rows=ROWS, age="58", ending="", gz=False, boxes=BOXES, name=None):
    lines = [f"{image},{labels},0,{int(image[:8])},{age},M,PA,2682,2749,0.143,0.143{ending}" for image, labels in rows]
    texts = {
        name or "Data_Entry_2017_v2020.csv": "\n".join([header, *lines]) + "\n",
        "train_val_list.txt": "00000001_000.png\n00000001_001.png\n00000002_000.png",
        "test_list.txt": "00000003_000.png",
        "BBox_List_2017.csv": boxes,
    }
    for table, text in texts.items():
        if gz:
            (folder / f"{table}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / table).write_text(text)
    return folder


@pytest.fixture(scope="module")
def official(nih_root):
    return load_metadata(nih_root)


def patients(metadata, names):
    return set(metadata.images.loc[list(names), "patient_id"])


def test_official_split(official):
    assert len(official.images) == 112_120
    assert official.images["patient_id"].nunique() == 30_805
    assert (len(official.train_val), len(official.test)) == (86_524, 25_596)
    train_val, test = patients(official, official.train_val), patients(official, official.test)
    assert (len(train_val), len(test)) == (28_008, 2_797)
    assert not train_val & test
    assert set(official.train_val) | set(official.test) == set(official.images.index)


def test_official_labels(official):
    assert official.labels(official.train_val).any(axis=1).sum() == 36_024
    test = official.labels(official.test)
    assert dict(zip(FINDINGS, test.sum(axis=0).tolist(), strict=True)) == {
        "Atelectasis": 3279,
        "Cardiomegaly": 1069,
        "Effusion": 4658,
        "Infiltration": 6112,
        "Mass": 1748,
        "Nodule": 1623,
        "Pneumonia": 555,
        "Pneumothorax": 2665,
        "Consolidation": 1815,
        "Edema": 925,
        "Emphysema": 1093,
        "Fibrosis": 435,
        "Pleural_Thickening": 1143,
        "Hernia": 86,
    }
    assert (~test.any(axis=1)).sum() == 9861


def test_patient_is_number_in_name(official):
    assert (official.images.index.str[:8].astype(int) == official.images["patient_id"]).all()


def test_official_boxes(official):
    boxes = official.boxes
    assert len(boxes) == 984
    assert boxes["image_index"].nunique() == 880
    assert set(boxes["image_index"]) <= set(official.test)
    assert not boxes.duplicated(["image_index", "finding"]).any()
    assert boxes["finding"].value_counts().to_dict() == {
        "Atelectasis": 180,
        "Effusion": 153,
        "Cardiomegaly": 146,
        "Infiltration": 123,
        "Pneumonia": 120,
        "Pneumothorax": 98,
        "Mass": 85,
        "Nodule": 79,
    }
    assert set(boxes["finding"]) == set(BOXED_FINDINGS)


def test_boxes_are_x_y_w_h(official):
    x, y, w, h = official.boxes[list("xywh")].to_numpy().T
    assert ((x >= 0) & (y >= 0) & (x + w <= 1) & (y + h <= 1)).all()
    assert ((x + h > 1) | (y + w > 1)).sum() == 79


def test_training_images_of_paper(official):
    train, validation = train_val_split(official, validation_fraction=0.2, num_normal_images=5000, seed=0)
    assert len(train) + len(validation) == len({*train, *validation}) == 36_024 + 5000
    assert {*train, *validation} <= set(official.train_val)
    of_train, of_validation = patients(official, train), patients(official, validation)
    assert not of_train & of_validation
    assert len(of_validation) == round(0.2 * len(of_train | of_validation))
    assert abs(len(validation) / (36_024 + 5000) - 0.2) < 0.02
    assert (~official.labels(train + validation).any(axis=1)).sum() == 5000


def test_split_depends_only_on_seed(official):
    options = {"validation_fraction": 0.2, "num_normal_images": 500}
    first = train_val_split(official, seed=1, **options)
    assert first == train_val_split(official, seed=1, **options)
    assert first != train_val_split(official, seed=2, **options)
    shuffled = list(reversed(official.train_val))
    assert first == train_val_split(official, seed=1, available=shuffled, **options)


def test_available(official):
    available = official.train_val[:300] + official.test[:300]
    train, validation = train_val_split(
        official, validation_fraction=0.25, num_normal_images=10**6, seed=0, available=available
    )
    assert {*train, *validation} == set(official.train_val[:300])  # fewer normal images than asked for: all of them


@pytest.mark.parametrize(
    "variant",
    [
        {"header": HEADER_2020},
        {"header": HEADER_2017, "ending": ",", "age": "058Y", "name": "Data_Entry_2017.csv"},
        {"gz": True},
        {"header": HEADER_2017, "ending": ",", "gz": True, "name": "Data_Entry_2017.csv"},
    ],
    ids=["2020", "2017", "2020.gz", "2017.gz"],
)
def test_both_releases(variant, tmp_path):
    metadata = load_metadata(write_tables(tmp_path, **variant))
    assert metadata.images.index.tolist() == [image for image, _ in ROWS]
    assert metadata.images["patient_id"].tolist() == [1, 1, 2, 3]
    assert metadata.images["age"].tolist() == [58.0] * 4
    assert set(metadata.images["sex"]) == {"M"} and set(metadata.images["view"]) == {"PA"}
    expected = [set(), {"Pneumothorax", "Hernia"}, {"Pleural_Thickening"}, {"Infiltration", "Mass"}]
    for row, names in zip(metadata.labels(metadata.images.index), expected, strict=True):
        assert {name for name, value in zip(FINDINGS, row, strict=True) if value} == names
    assert metadata.test == ("00000003_000.png",)
    assert len(metadata.train_val) == 3
    assert metadata.boxes.iloc[0].tolist() == [
        "00000003_000.png",
        "Infiltration",
        *(v / 1024 for v in (1.5, 20.0, 300.0, 40.25)),
    ]


def test_pneumonia_is_not_part_of_pneumothorax(tmp_path):
    metadata = load_metadata(write_tables(tmp_path))
    assert metadata.images.loc["00000001_001.png", "Pneumonia"] == 0
    assert metadata.images[list(FINDINGS)].to_numpy().dtype == np.float32


@pytest.mark.parametrize(("age", "years"), [("013M", 13 / 12), ("001D", 1 / 365.25), ("414", 414), ("", math.nan)])
def test_ages(age, years, tmp_path):
    read = load_metadata(write_tables(tmp_path, age=age)).images["age"].iloc[0]
    assert read == pytest.approx(years, nan_ok=True)


def test_windows_line_ends(tmp_path):
    write_tables(tmp_path)
    (tmp_path / "test_list.txt").write_bytes(b"00000003_000.png\r\n00000004_000.png\r\n")
    assert load_metadata(tmp_path).test == ("00000003_000.png", "00000004_000.png")


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"rows": (("00000001_000.png", "Pneumo"),)}, "Data_Entry_2017_v2020.csv.*'Pneumo'"),
        ({"rows": (("00000001_000.png", "No Finding|Mass"),)}, "Data_Entry_2017_v2020.csv.*No Finding"),
        ({"rows": ROWS + ROWS[:1]}, "00000001_000.png twice"),
        ({"header": HEADER_2020.replace("Patient ID", "ID")}, "Patient ID"),
        ({"boxes": BOXES.replace("Infiltrate", "Lump")}, "BBox_List_2017.csv.*'Lump'"),
        ({"boxes": BOXES.replace("40.25", "0")}, "BBox_List_2017.csv"),
        ({"boxes": BOXES.replace("40.25", "wide")}, "BBox_List_2017.csv.*'wide'"),
        ({"boxes": "a,b\n1,2\n"}, "BBox_List_2017.csv"),
        ({"boxes": ""}, "BBox_List_2017.csv"),
    ],
)
def test_wrong_table(broken, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence) as error:
        load_metadata(write_tables(tmp_path, **broken))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("test_list.txt", "00000001_000.png", "00000001_000.png is in both"),
        ("test_list.txt", "<!DOCTYPE html>\n<html>\n", "test_list.txt"),
        ("test_list.txt", "", "test_list.txt"),
        ("train_val_list.txt", "00000001_000.png\n00000001_000.png", "train_val_list.txt"),
        ("Data_Entry_2017_v2020.csv", "<html>\n<p>gone</p>\n", "Image Index"),
    ],
)
def test_wrong_file(name, content, sentence, tmp_path):
    write_tables(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        load_metadata(tmp_path)


@pytest.mark.parametrize("cut", [30, 5])
def test_gzip_cut_short(cut, tmp_path):
    write_tables(tmp_path, gz=True)
    path = tmp_path / "Data_Entry_2017_v2020.csv.gz"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="Data_Entry_2017_v2020.csv.gz"):
        load_metadata(tmp_path)


@pytest.mark.parametrize(
    "name", ["Data_Entry_2017_v2020.csv", "test_list.txt", "train_val_list.txt", "BBox_List_2017.csv"]
)
def test_missing_table(name, tmp_path):
    write_tables(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        load_metadata(tmp_path)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_box_table_without_rows(end, tmp_path):
    metadata = load_metadata(write_tables(tmp_path, boxes="Image Index,Finding Label,Bbox [x,y,w,h],,," + end))
    assert metadata.boxes.columns.tolist() == ["image_index", "finding", "x", "y", "w", "h"] and metadata.boxes.empty
    assert metadata.boxes[["x", "y", "w", "h"]].dtypes.eq(np.float64).all() and metadata.masks.empty


def test_labels_of_unknown_image(tmp_path):
    with pytest.raises(InputError, match="00000009_000.png"):
        load_metadata(write_tables(tmp_path)).labels(["00000001_000.png", "00000009_000.png"])


def test_small_dataset_has_both_parts(tmp_path):
    metadata = load_metadata(write_tables(tmp_path))
    for seed in range(5):
        train, validation = train_val_split(metadata, validation_fraction=0.01, num_normal_images=1, seed=seed)
        assert train and validation
    train, validation = train_val_split(metadata, validation_fraction=0, num_normal_images=0, seed=0)
    assert train == ["00000001_001.png", "00000002_000.png"] and validation == []


@pytest.mark.parametrize("fraction", [0.2, 0.75])
def test_single_patient_is_for_training(fraction, official):
    alone = [name for name in official.train_val if name.startswith("00000001_")]
    options = {"validation_fraction": fraction, "num_normal_images": 5000, "seed": 0, "available": alone}
    train, validation = train_val_split(official, **options)
    assert sorted(train) == sorted(alone) and alone and validation == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"num_normal_images": -1}, "num_normal_images"),
        ({"available": ["00000003_000.png"]}, "train_val_list.txt"),
        ({"available": ["00000001_000.png"], "num_normal_images": 0}, "num_normal_images"),
    ],
)
def test_impossible_split(options, sentence, tmp_path):
    metadata = load_metadata(write_tables(tmp_path))
    with pytest.raises(InputError, match=sentence):
        train_val_split(metadata, **{"validation_fraction": 0.2, "num_normal_images": 1, "seed": 0, **options})


def test_none_takes_every_disease_free_image_and_splits_as_a_draw_of_all_does(official):
    options = {"validation_fraction": 0.2, "seed": 3}
    everything = train_val_split(official, num_normal_images=None, **options)
    assert everything == train_val_split(official, num_normal_images=10**6, **options)
    assert sorted(sum(everything, [])) == sorted(official.train_val)


def test_label_counts_match_csv(demo_folder, demo_cache):
    entries = pd.read_csv(demo_folder / "Data_Entry_2017_v2020.csv", dtype=str)
    test = set((demo_folder / "test_list.txt").read_text().split("\n"))
    in_test = entries[entries["Image Index"].isin(test)]["Finding Labels"].str.split("|")
    table = label_counts(load_metadata(demo_folder), demo_cache)
    for finding in (*FINDINGS, "No Finding"):
        assert table.loc[finding, "test"] == sum(finding in labels for labels in in_test)
    assert table.loc["images"].tolist()[:2] == [len(entries) - len(in_test), len(in_test)]
    assert table.loc[FINDINGS[0] : FINDINGS[-1], "boxes"].sum() == len(load_metadata(demo_folder).boxes)
