"""Datasets with other findings and layouts, from the folder to the prediction."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.dicom_files import make_dataset

from cxr_seam.__main__ import main
from cxr_seam.data.image_io import load_image, resize_square
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.findings import FINDINGS, XYWH
from cxr_seam.hub import save_pretrained
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.checkpoint import load_checkpoint
from cxr_seam.training.fit import train
from cxr_seam.workspace import Workspace

OWN = {
    "White patch": ["Atelectasis", "Infiltration", "Mass", "Pneumonia", "Consolidation"],
    "Large heart": ["Cardiomegaly", "Edema", "Effusion"],
    "Dark area": ["Pneumothorax", "Emphysema"],
}
"""Made-up findings, and the synthetic ones that count as each of them."""


def write_simple(source: Path, folder: Path) -> pd.DataFrame:
    """Write synthetic images with made-up findings into `folder`, two folders of images; return `images.csv`.

    Every seventh label is unknown.
    """
    original = load_metadata(source)
    images = original.images
    names = [f"{'left' if i % 2 else 'right'}/{name}" for i, name in enumerate(images.index)]
    for name, old in zip(names, images.index, strict=True):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "images" / old, folder / "images" / name)
    labels = np.stack([images[findings].any(axis=1) for findings in OWN.values()], axis=1).astype(object) * 1
    labels.ravel()[::7] = ""
    table = pd.DataFrame(labels, columns=list(OWN))
    table.insert(0, "image", names)
    table.insert(1, "patient", images["patient_id"].to_numpy())
    table.insert(2, "split", np.where(images.index.isin(original.test), "test", "train"))
    table.to_csv(folder / "images.csv", index=False)
    new_name = dict(zip(images.index, names, strict=True))
    boxes = original.boxes[original.boxes["finding"] == "Cardiomegaly"]
    boxes = boxes.assign(image=boxes["image_index"].map(new_name), finding="Large heart")
    boxes[XYWH] *= load_image(source / "images" / images.index[0]).pixels.shape[0]
    boxes[["image", "finding", *XYWH]].to_csv(folder / "boxes.csv", index=False)
    return table


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_own_findings_from_the_folder_to_the_prediction(demo_folder, tmp_path, capsys):
    data, output, out = tmp_path / "data", tmp_path / "output", tmp_path / "out"
    table = write_simple(demo_folder, data)
    where = ["--data", str(data), "--preset", "tiny", "--output", str(output)]
    assert main(["train", *where]) == 0
    assert main(["evaluate", *where, "--n-bootstrap", "20"]) == 0
    printed = capsys.readouterr().out
    assert "MultiRes + PCM" in printed and "25,596" not in printed
    run = Workspace.open(data=str(data), preset="tiny", output_dir=output)
    assert set(run.cache().image_index) == set(table["image"])
    path = run.checkpoint("multires_pcm")
    model, metadata = load_checkpoint(path)
    assert model.findings == metadata.findings == tuple(OWN) and model.classifier.out_channels == 4
    assert set(metadata.scores) == set(OWN)

    image = data / "images" / table["image"][0]
    assert main(["predict", str(image), "--checkpoint", str(path), "--out", str(out)]) == 0
    assert "Large heart" in capsys.readouterr().out
    probabilities = pd.read_csv(out / "scores.csv")
    assert list(probabilities["finding"]) == list(OWN)
    assert set(pd.read_csv(out / "boxes.csv")["finding"]) <= set(OWN)
    prediction = Predictor.load(path).predict(image)
    assert set(prediction.top_k(3)) == set(OWN) and prediction.heat_map("Large heart", size=64).shape == (64, 64)
    with pytest.raises(InputError, match=r"Mass.*White patch, Large heart, Dark area"):
        prediction.heat_map("Mass")
    card = (save_pretrained(path, tmp_path / "shared") / "README.md").read_text()
    assert "3 findings" in card and "White patch, Large heart, Dark area" in card and "Cardiomegaly" not in card

    table.rename(columns={"Dark area": "Fracture"}).to_csv(data / "images.csv", index=False)
    run.prepare_data()  # reads the tables again
    for name in ("multires", "multires_pcm"):
        with pytest.raises(InputError, match=r"only the file has Dark area, only the data have Fracture"):
            train(run, name, callbacks=[])
    test_set = Workspace.open(data=str(data), preset="tiny", output_dir=output).test_dataset()
    assert test_set.findings == ("White patch", "Large heart", "Fracture")
    assert set(test_set.image_index) <= set(table.loc[table["split"] == "test", "image"])


def write_rsna(source: Path, folder: Path) -> None:
    """Write synthetic images as DICOM files of 12 bits, and the challenge's table of labels."""
    original, rows = load_metadata(source), []
    (folder / "stage_2_train_images").mkdir(parents=True)
    for name in original.images.index:
        stem, pixels = Path(name).stem, load_image(source / "images" / name).pixels
        values = pixels.astype(np.uint16) * 8 + 500
        file = make_dataset(values, bits=12, WindowCenter=1520, WindowWidth=2040)
        file.save_as(folder / "stage_2_train_images" / f"{stem}.dcm", enforce_file_format=True)
        if original.images.at[name, "Infiltration"] or original.images.at[name, "Pneumonia"]:
            rows.append((stem, 100, 200, 300, 250, 1))
        else:
            rows.append((stem, "", "", "", "", 0))
    columns = ["patientId", "x", "y", "width", "height", "Target"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "stage_2_train_labels.csv", index=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dicom_files_in_rsnas_layout(demo_folder, tmp_path):
    data = tmp_path / "rsna"
    write_rsna(demo_folder, data)
    run = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "output")
    cache, metadata = run.prepare_data(), run.metadata()
    assert set(cache.image_index) == set(metadata.images.index)
    for name, pixels in zip(cache.image_index, cache.images, strict=True):
        shown = load_image(data / "stage_2_train_images" / name).pixels  # as prediction reads it
        assert np.array_equal(pixels, resize_square(shown, cache.size))
        plain = load_image(demo_folder / "images" / f"{Path(name).stem}.png").pixels  # the window undoes 8 x + 500
        assert np.abs(shown.astype(int) - plain).max() <= 1
    history = train(run, "multires", callbacks=[])
    assert np.isfinite(history[-1]["validation_loss"])
    predictor = Predictor.load(run.checkpoint("multires"))
    assert predictor.findings == ("Pneumonia",) and not set(predictor.findings) - set(FINDINGS)
    table = predictor.predict(data / "stage_2_train_images").raw_scores()
    assert table.shape == (len(cache), 1) and table["Pneumonia"].between(0, 1).all()
