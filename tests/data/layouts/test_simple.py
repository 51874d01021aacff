"""The simple layout: labels, patients, split and boxes by hand; usual defects of CSV files."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from cxr_seam.data.layouts import load_dataset
from cxr_seam.data.split import train_val_split
from cxr_seam.errors import InputError

IMAGES = """image,patient,split,Mass,Lung Opacity
a.png,p1,train,1,0
b.png,p1,val,0,
sub/c.png,q,test,0,1
d.png,r,train,,
"""
BOXES = "image,finding,x,y,w,h\nsub/c.png,Lung Opacity,20,10,40,30\n"
NAN = float("nan")


def write(folder, images=IMAGES, boxes=BOXES, files=("a.png", "b.png", "sub/c.png", "d.png")):
    for name in files:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (200, 100)).save(path)  # 200 wide, 100 high
    (folder / "images.csv").write_bytes(images.encode() if isinstance(images, str) else images)
    if boxes is not None:
        (folder / "boxes.csv").write_text(boxes)
    return folder


@pytest.fixture(autouse=True)
def no_warning_by_default():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def is_the_dataset(read) -> bool:
    labels = read.labels(["a.png", "b.png", "sub/c.png", "d.png"])
    return (
        np.array_equal(labels, np.array([[1, 0], [0, NAN], [0, 1], [NAN, NAN]], np.float32), equal_nan=True)
        and read.findings == ("Mass", "Lung Opacity")
        and read.images["patient_id"].tolist() == ["p1", "p1", "q", "r"]
        and (read.train_val, read.test) == (("a.png", "b.png", "d.png"), ("sub/c.png",))
    )


def test_tables_as_written(tmp_path):
    read = load_dataset(write(tmp_path))
    assert read.name == "simple" and is_the_dataset(read)
    assert read.labels(["a.png"]).dtype == np.float32
    assert read.boxes.to_numpy().tolist() == [["sub/c.png", "Lung Opacity", 0.1, 0.1, 0.2, 0.3]]
    assert read.masks.empty


@pytest.mark.parametrize(
    "images",
    [
        b"\xef\xbb\xbf" + IMAGES.encode(),
        IMAGES.replace(",", ";"),
        IMAGES.replace(",", "\t"),
        "sep=;\n" + IMAGES.replace(",", ";"),
        b"\xef\xbb\xbf" + b'"sep=\t"\r\n' + IMAGES.replace(",", "\t").encode(),
        IMAGES.replace("\n", "\r\n"),
        IMAGES.replace("image,patient,split,Mass,Lung Opacity", " Image , patient,Split, Mass , Lung Opacity "),
        IMAGES.replace(",1,0", ",1.0,False").replace(",0,1", ",0.0,True"),
        "".join(f"{n},{line}\n" if n else f",{line}\n" for n, line in enumerate(IMAGES.splitlines())),
        IMAGES.replace("b.png", "b.PNG"),
        IMAGES.replace("a.png", "images/a.png"),
        IMAGES.replace("sub/c", "sub\\c"),
        IMAGES.replace("Mass,L", "No Finding,Mass,L").replace(",1,0", ",0,1,0").replace(",0,\n", ",,0,\n")
        .replace(",0,1\n", ",0,0,1\n").replace("train,,", "train,,,"),
    ],
    ids=[
        "BOM", "semicolons", "tabs", "sep=;", "sep=tab", "CRLF", "spaces", "True", "index", "suffix", "folder",
        "backslash", "No Finding",
    ],
)  # fmt: skip
def test_usual_defects_are_read(images, tmp_path):
    assert is_the_dataset(load_dataset(write(tmp_path, images)))


def test_upper_case_files(tmp_path):
    read = load_dataset(write(tmp_path, boxes=None, files=("a.PNG", "b.png", "sub/c.png", "d.png")))
    assert read.images.index.tolist() == ["a.PNG", "b.png", "sub/c.png", "d.png"] and read.boxes.empty


def test_other_suffix_is_matched_with_a_warning(tmp_path):
    write(tmp_path, IMAGES.replace("a.png", "a.jpg").replace("sub/c.png", "c.png"))
    with pytest.warns(UserWarning, match=r"2 images .*a.jpg is a.png, c.png is sub/c.png"):
        read = load_dataset(tmp_path)
    assert is_the_dataset(read)


def test_all_defects_at_once(tmp_path):
    """As a spreadsheet with a German locale writes a table of pandas with an index."""

    def spoil(table: str) -> bytes:
        lines = [f"{n or ''},{line}" for n, line in enumerate(table.replace(".png", ".jpg").splitlines())]
        lines[0] = lines[0].replace(",", " , ")
        return b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).replace(",", ";").encode()

    (write(tmp_path, spoil(IMAGES)) / "boxes.csv").write_bytes(spoil(BOXES))
    with (
        pytest.warns(UserWarning, match=r"images.csv: 4 images"),
        pytest.warns(UserWarning, match=r"boxes.csv: 1 image"),
    ):
        read = load_dataset(tmp_path)
    assert is_the_dataset(read)
    assert read.boxes.to_numpy().tolist() == [["sub/c.png", "Lung Opacity", 0.1, 0.1, 0.2, 0.3]]


def test_two_files_of_one_stem_are_refused(tmp_path):
    write(tmp_path, IMAGES.replace("a.png", "a.tif"), files=("a.jpg", "a.png"))
    with pytest.raises(InputError, match=r"a.tif may be .*a.jpg, .*a.png"):
        load_dataset(tmp_path)


def test_another_folder_is_not_matched(tmp_path):
    write(tmp_path, IMAGES.replace("sub/c.png", "other/c.png"), boxes=None)
    assert "other/c.png" in load_dataset(tmp_path).images.index


def test_boxes_without_file_are_left_out_with_a_warning(tmp_path):
    write(tmp_path, boxes=BOXES + "e.png,Mass,1,1,5,5\n")
    with pytest.warns(UserWarning, match="boxes of 1 image without a file") as caught:
        read = load_dataset(tmp_path)
    assert len(read.boxes) == 1 and all("boxes.csv" in str(warning.message) for warning in caught)


def test_without_patients_and_split(tmp_path):
    rows = "".join(f"{n}.png,{n % 2}\n" for n in range(500))
    with pytest.warns(UserWarning) as caught:
        read = load_dataset(write(tmp_path, "image,Mass\n" + rows, boxes=None, files=[f"{n}.png" for n in range(500)]))
    assert sorted(next(w for w in ("patient", "split") if f"column {w}" in str(c.message)) for c in caught) == [
        "patient",
        "split",
    ]
    assert read.images["patient_id"].is_unique
    assert 70 < len(read.test) < 130 and set(read.test) | set(read.train_val) == set(read.images.index)


def test_patients_in_both_parts_warn(tmp_path):
    with pytest.warns(UserWarning, match="1 patient in both parts, such as p1"):
        load_dataset(write(tmp_path, IMAGES.replace("p1,val", "p1,test")))


def test_a_table_without_test_images_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"images.csv: no image is for the test.*not evaluated"):
        assert load_dataset(write(tmp_path, IMAGES.replace("q,test", "q,train"), boxes=None)).test == ()


def test_split_takes_patients_as_text_and_leaves_out_unknown_images(tmp_path):
    read = load_dataset(write(tmp_path))
    train, val = train_val_split(read, validation_fraction=0.5, num_normal_images=None, seed=0)
    assert (train, val) == (["a.png", "b.png"], [])  # one patient; no label of d.png is known


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"images": IMAGES.replace(",1,0", ",2,0")}, "images.csv, line 2, column 'Mass': '2'"),
        ({"images": IMAGES.replace("val,0,", "val,maybe,")}, "images.csv, line 3, column 'Mass': 'maybe'"),
        ({"images": IMAGES.replace("b.png", "a.png")}, "images.csv, line 3, lists a.png"),
        ({"images": IMAGES.replace("p1,train", ",train")}, "images.csv, line 2, column 'patient'"),
        ({"images": IMAGES.replace("q,test", "q,later")}, "images.csv, line 4, column 'split': 'later'"),
        ({"images": IMAGES.replace("b.png,p1,val,0,", "b.png,p1")}, "images.csv, line 3, has fewer"),
        ({"images": IMAGES.replace(",0,1", ",0,1,1")}, "images.csv, line 4, has more"),
        ({"images": IMAGES.replace(",Mass", ",Ward").replace(",1,0", ",W7,0")}, "'Ward': 'W7'.*delete the column"),
        ({"images": IMAGES.replace("image,", "file,")}, "images.csv has no column 'image'"),
        ({"images": IMAGES.replace("Lung Opacity", "Mass")}, "images.csv has several columns 'Mass'"),
        ({"images": IMAGES.replace("Lung Opacity", "mass")}, "images.csv has the findings 'Mass' and 'mass'"),
        ({"images": "sep=;\n" + IMAGES.replace(",1,0", ",2,0").replace(",", ";")}, "images.csv, line 3, column 'Mass'"),
        ({"images": "image,patient,split\na.png,p,train\n"}, "images.csv has no column of a finding"),
        ({"images": ""}, "images.csv is empty"),
        ({"images": IMAGES.splitlines()[0]}, "images.csv has no row"),
        ({"images": IMAGES.encode("utf-16")}, "images.csv is not UTF-8"),
        ({"boxes": BOXES.replace("Lung Opacity", "Edema")}, "boxes.csv, line 2, column 'finding': 'Edema'"),
        ({"boxes": BOXES.replace("20,10", "x,10")}, "boxes.csv, line 2, column 'x': 'x'"),
        ({"boxes": BOXES.replace(",", ";").replace("20", "20,5")}, "boxes.csv, line 2, column 'x': '20,5' .* 12.5"),
        ({"boxes": BOXES + BOXES.splitlines()[1]}, "boxes.csv, line 3, column 'image': 'sub/c.png' has the same box"),
        ({"boxes": BOXES.replace("20,10", "-2,10")}, "boxes.csv, line 2: the box of sub/c.png leaves.*200x100"),
        ({"boxes": BOXES.replace("40,30", "40,92")}, "boxes.csv, line 2: the box of sub/c.png leaves"),
        ({"boxes": BOXES.replace("40,30", "40,0")}, "boxes.csv, line 2: the box of sub/c.png has no width or height"),
    ],
)
def test_wrong_cells_are_named_by_file_and_line(tables, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        load_dataset(write(tmp_path, **tables))


@pytest.mark.parametrize("box", ["-1,0,50,50", "160,60,41,41"])
def test_a_pixel_beyond_the_image_is_cut(box, tmp_path):
    read = load_dataset(write(tmp_path, boxes=BOXES.replace("20,10,40,30", box)))
    x, y, w, h = read.boxes[["x", "y", "w", "h"]].iloc[0]
    assert min(x, y) >= 0 and x + w <= 1 and y + h <= 1


def test_box_table_without_rows(tmp_path):
    assert load_dataset(write(tmp_path, boxes=BOXES.splitlines()[0])).boxes.empty


def test_detection_says_which_tables_are_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"Data_Entry_2017.*images\.csv"):
        load_dataset(tmp_path)
    with pytest.raises(InputError, match="'coko'.*simple.*chexpert:ones"):
        load_dataset(tmp_path, layout="coko")
    write(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_text("")
    with pytest.raises(InputError, match="nih and simple; choose one"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, layout="simple").name == "simple"
