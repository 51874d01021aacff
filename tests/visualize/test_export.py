"""Predictions as files: names, pictures, tables and DICOM; the predict command; the page docs/own-image.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.batches import ROOT
from helpers.dicom_files import dicom_bytes, make_dataset, pydicom_file
from PIL import Image
from pydicom import dcmread

from cxr_seam.__main__ import main
from cxr_seam.data.image_io import load_image
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.maps.registry import MAPS
from cxr_seam.inference.predictor import Prediction, Predictor
from cxr_seam.presets import get_preset
from cxr_seam.visualize.examples import prediction_png
from cxr_seam.visualize.export import output_stems, predict_files

RECIPE = get_preset("tiny")[2]
PAGE = (ROOT / "docs" / "own-image.md").read_text()
pytestmark = pytest.mark.filterwarnings("ignore::cxr_seam.inference.predictor.ImageWarning")


def test_output_stems(tmp_path):
    for name in ("in/a.png", "in/below/a.png", "in/1.2.840.5", "in/out/a_heatmaps.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(dicom_bytes(make_dataset(np.zeros((4, 4), np.uint8))))
    named = output_stems([tmp_path / "in"])
    assert list(named) == ["1.2.840.5", "a", os.path.join("below", "a")]  # what an earlier call left is no image
    assert output_stems([tmp_path / "in" / "a.png", tmp_path / "in"]) == {"a": tmp_path / "in" / "a.png"} | named
    with pytest.raises(InputError, match="out"):
        output_stems([tmp_path / "in" / "out"])


def test_output_stems_of_equal_names(tmp_path):
    for name in ("a.png", "a.dcm", "disc/IM0001", "other/IM0001", "again/disc/IM0001"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(dicom_bytes(make_dataset(np.zeros((4, 4), np.uint8))))
    pair = output_stems([tmp_path / "a.png", tmp_path / "a.dcm"])
    assert {name: path.suffix for name, path in pair.items()} == {"a.png": ".png", "a.dcm": ".dcm"}
    discs = output_stems([tmp_path / "disc", tmp_path / "other"])
    assert list(discs) == [os.path.join("disc", "IM0001"), os.path.join("other", "IM0001")]
    with pytest.raises(InputError, match="disc.IM0001"):
        output_stems([tmp_path / "disc", tmp_path / "again" / "disc"])


def test_output_folder_may_be_input_folder(checkpoint, paths, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(paths[0].read_bytes())
    for _ in range(2):
        assert main(["predict", ".", "--checkpoint", str(checkpoint), "--out", "."]) == 0
        assert {path.name for path in tmp_path.iterdir()} == {
            "a.png", "a_heatmaps.png", "images.csv", "scores.csv", "boxes.csv",
        }  # fmt: skip
        assert list(pd.read_csv("images.csv")["image"]) == ["a"]


def test_interrupted_export_writes_tables(predictor, paths, tmp_path):
    for _ in predict_files(predictor, output_stems(paths[:3]), tmp_path):
        break
    assert list(pd.read_csv(tmp_path / "images.csv")["image"]) == [paths[0].stem]
    assert len(pd.read_csv(tmp_path / "scores.csv")) == len(FINDINGS)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 can be made on Linux only")
def test_odd_names_cost_no_other_image(checkpoint, paths, tmp_path):
    """A name that is not UTF-8, one of 240 letters, and one so long that no picture can be named after it."""
    names = [b"a.png", b"R\xf6ntgen.png", b"n" * 240 + b".png", b"o" * 251 + b".png", b"z.png"]
    (tmp_path / "in").mkdir()
    for name in names:
        Path(tmp_path / "in", os.fsdecode(name)).write_bytes(paths[0].read_bytes())
    words = [sys.executable, "-m", "cxr_seam", "predict", "in", "--checkpoint", str(checkpoint), "--out", "out"]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 3 and b"Traceback" not in done.stderr, done.stderr
    table = pd.read_csv(tmp_path / "out" / "images.csv", keep_default_na=False).set_index("image")
    assert sorted(table.index) == sorted(["R\\xf6ntgen", "a", "n" * 240, "o" * 251, "z"])
    assert [name for name, error in table["error"].items() if error] == ["o" * 251]
    values = pd.read_csv(tmp_path / "out" / "scores.csv").groupby("finding")["raw_score"]
    assert (values.count() == 5).all() and (values.nunique() == 1).all()  # the same picture five times
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {f"{name}_heatmaps.png" for name in ("R\\xf6ntgen", "a", "n" * 240, "z")}


def test_header_that_cannot_be_copied_costs_one_file(predictor, paths, tmp_path):
    """The study of the first file has a number for a name, which pydicom reads but does not write."""
    for name in ("a.dcm", "b.dcm"):
        dataset = make_dataset(load_image(paths[0]).pixels)
        dataset.add_new("StudyID", "US" if name == "a.dcm" else "SH", 7 if name == "a.dcm" else "7")
        (tmp_path / name).write_bytes(dicom_bytes(dataset))
    answers = [answer for _, answer in predict_files(predictor, output_stems([tmp_path]), tmp_path / "out")]
    assert isinstance(answers[0], InputError) and "a.dcm" in str(answers[0]) and isinstance(answers[1], Prediction)
    assert {path.name for path in (tmp_path / "out").glob("*heat*")} == {
        "a_heatmaps.png", "b_heatmaps.png", "b_heatmaps.dcm",
    }  # fmt: skip
    assert (pd.read_csv(tmp_path / "out" / "scores.csv")["image"].value_counts() == len(FINDINGS)).all()


def test_prediction_png_refuses_several_predictions(predictor, paths):
    with pytest.raises(InputError, match="one image"):
        prediction_png(predictor.predict(paths[:2]))


def test_predict_command_writes_pictures_tables_and_dicom(checkpoint, paths, tmp_path, capsys):
    given = tmp_path / "given"
    given.mkdir()
    (given / "b.png").write_bytes(paths[0].read_bytes())
    (given / "a.dcm").write_bytes(dicom_bytes(make_dataset(load_image(paths[0]).pixels)))
    (given / "frames.dcm").write_bytes(pydicom_file("examples_ybr_color.dcm").read_bytes())
    out = tmp_path / "out"
    assert main(["predict", str(given), "--checkpoint", str(checkpoint), "--out", str(out)]) == 3
    printed = capsys.readouterr()
    assert "frames.dcm holds 30 frames" in printed.err and "of 2 images are in" in printed.out
    assert {path.name for path in out.iterdir()} == {
        "a_heatmaps.png", "a_heatmaps.dcm", "b_heatmaps.png", "images.csv", "scores.csv", "boxes.csv",
    }  # fmt: skip
    table = pd.read_csv(out / "images.csv").set_index("image")
    assert list(table.index) == ["a", "b", "frames"] and "30 frames" in table.loc["frames", "error"]
    prediction = Predictor.load(checkpoint).predict(given / "b.png")
    rows = pd.read_csv(out / "scores.csv").query("image == 'b'").set_index("finding")
    assert rows["raw_score"].to_dict() == pytest.approx(prediction.raw_scores, abs=1e-5)
    calibrated = rows["calibrated_probability"].drop("Hernia")  # has no calibration
    assert calibrated.to_dict() == pytest.approx({f: prediction.probabilities[f] for f in calibrated.index}, rel=1e-4)
    assert rows["calibrated_probability"].isna()["Hernia"] and set(rows["operating_point"]) == {"youden"}
    decisions = {finding: None if yes is None else str(yes) for finding, yes in prediction.decisions.items()}
    assert rows["present"].dropna().astype(str).to_dict() == {f: yes for f, yes in decisions.items() if yes}
    boxes = pd.read_csv(out / "boxes.csv").query("image == 'b'").drop(columns="image").reset_index(drop=True)
    pd.testing.assert_frame_equal(boxes, prediction.boxes, check_dtype=False, atol=1e-3)

    made = dcmread(out / "a_heatmaps.dcm")
    assert made.PatientID == "4711" and made.SOPClassUID.name == "Secondary Capture Image Storage"
    picture = np.asarray(Image.open(out / "a_heatmaps.png").convert("RGB"))
    assert np.array_equal(made.pixel_array[: len(picture)], picture)  # below it stands what it is not
    assert made.pixel_array[len(picture) :].max() == 255
    for finding in FINDINGS:
        assert f"{finding}: " in made.ImageComments


def test_predict_command_at_another_operating_point_and_prevalence(checkpoint, paths, tmp_path, capsys):
    words = ["predict", str(paths[0]), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main([*words, "--operating-point", "sensitivity_90", "--prevalence", "Mass=0.5", "Nodule=0.01"]) == 0
    printed = capsys.readouterr().out
    options = {"operating_point": "sensitivity_90", "prevalence": {"Mass": 0.5, "Nodule": 0.01}}
    prediction = Predictor.load(checkpoint, **options).predict(paths[0])
    rows = pd.read_csv(tmp_path / "out" / "scores.csv").set_index("finding")
    for finding in ("Mass", "Nodule"):
        assert rows.loc[finding, "calibrated_probability"] == pytest.approx(prediction.probabilities[finding], rel=1e-4)
        (line,) = re.findall(rf"^ +{finding} .*$", printed, re.MULTILINE)
        assert f"{prediction.raw_scores[finding]:.3f}" in line and f"{prediction.probabilities[finding]:.3f}" in line
        assert line.endswith(prediction.decision(finding))
    assert "no calibrated probability of Hernia: 0 positive validation images" in printed
    for wrong in ("Mass=0", "Mass=1", "Mass=much", "Cough=0.5", "Hernia=0.5", "Mass"):
        assert main([*words, "--prevalence", wrong]) == 2
        assert wrong.split("=")[0] in capsys.readouterr().err


def test_predict_command_with_another_map(checkpoint, paths, tmp_path, capsys):
    words = ["predict", str(paths[0]), "--checkpoint", str(checkpoint), "--out"]
    pictures = {}
    for name in ("refined", "cam", "layercam", "gradcam", "mean"):
        assert main([*words, str(tmp_path / name), "--map", name]) == 0
        assert MAPS[name] in capsys.readouterr().out
        boxes = pd.read_csv(tmp_path / name / "boxes.csv").drop(columns="image")
        expected = Predictor.load(checkpoint, map=name).predict(paths[0]).boxes
        pd.testing.assert_frame_equal(boxes, expected.reset_index(drop=True), check_dtype=False, atol=1e-3)
        pictures[name] = (tmp_path / name / f"{paths[0].stem}_heatmaps.png").read_bytes()
    assert len(set(pictures.values())) == 5
    assert main([*words, str(tmp_path / "default")]) == 0
    assert (tmp_path / "default" / f"{paths[0].stem}_heatmaps.png").read_bytes() == pictures["refined"]


def test_predict_command_without_readable_file(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["predict", "nowhere.png", "--checkpoint", str(checkpoint), "--out", str(out)]) == 2
    assert "cannot read nowhere.png" in capsys.readouterr().err


@pytest.fixture
def desk(checkpoint, paths, tmp_path) -> Path:
    """A folder with the files of the page."""
    (tmp_path / "model.best.safetensors").write_bytes(checkpoint.read_bytes())
    (tmp_path / "image.dcm").write_bytes(dicom_bytes(make_dataset(load_image(paths[0]).pixels)))
    (tmp_path / "folder").mkdir()
    for path in paths[:2]:
        (tmp_path / "folder" / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("kind", ["python", "shell"])
def test_examples_of_own_image_page(desk, kind):
    examples = re.findall(rf"```{kind}\n(.+?)```", PAGE, re.DOTALL)
    assert len(examples) == {"python": 2, "shell": 1}[kind]
    for example in examples:
        words = example.split()
        command = [sys.executable, "-c", example] if kind == "python" else [sys.executable, *words[1:]]
        result = subprocess.run(
            command, cwd=desk, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
    if kind == "python":
        assert len(pd.read_csv(desk / "raw_scores.csv")) == 2 and len(pd.read_csv(desk / "all_boxes.csv"))
    else:
        named = set(re.findall(r"`((?:NAME_)?\w+\.(?:csv|png|dcm))`", PAGE.split("## From a shell")[1].split("##")[0]))
        wanted = {name.replace("NAME", "image") for name in named}
        assert wanted <= {path.name for path in (desk / "predictions").iterdir()} and len(wanted) == 5
