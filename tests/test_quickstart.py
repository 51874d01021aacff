"""The packaged model: its size and header, the images that trained it, half precision, the model card."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.batches import ROOT
from helpers.checkpoints import save_untrained
from huggingface_hub import ModelCard

from cxr_seam.__main__ import main
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.data.split import train_val_split
from cxr_seam.evaluation.results import load_results
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.checkpoint import QUICKSTART_FILE, read_header
from cxr_seam.presets import get_preset


def test_file_is_small_and_predicts(demo_folder: Path) -> None:
    assert QUICKSTART_FILE.stat().st_size <= 12_000_000
    predictor = Predictor.load("quickstart")
    assert predictor.findings == FINDINGS and predictor.recipe.name == "quickstart"
    prediction = predictor.predict(next((demo_folder / "images").iterdir()))
    assert set(prediction.boxes["finding"]) <= set(FINDINGS) and len(prediction.boxes)
    assert all(0 <= box <= 1024 for box in prediction.boxes[["x", "y"]].to_numpy().ravel())


@pytest.mark.parametrize("named", [[], ["--checkpoint", "quickstart"]], ids=["by default", "by name"])
def test_predict_says_that_the_model_is_for_research(
    named: list[str], demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    image, out = sorted((demo_folder / "images").iterdir())[0], str(tmp_path / "out")
    assert main(["predict", str(image), *named, "--out", out]) == 0
    assert "not for diagnosis" in capsys.readouterr().err
    assert main(["predict", __file__, *named, "--out", out]) == 2
    assert out not in capsys.readouterr().out  # nothing was written


def test_recipe_uses_image_labels_alone() -> None:
    """The reading of the maps may use labels and validation images; nothing in the header is a box."""
    metadata = read_header("quickstart")
    assert metadata.recipe.weights == "imagenet"
    assert metadata.data is not None and set(metadata.scores) == set(FINDINGS)


def test_card_is_of_this_model() -> None:
    header, path = read_header("quickstart"), QUICKSTART_FILE.with_name("README.md")
    data, text = ModelCard.load(path).data, path.read_text()
    assert data.license == "apache-2.0" and {result.dataset_name for result in data.eval_results} == {
        "NIH ChestX-ray14"
    }
    for fact in (header.data.train_fingerprint, header.data.val_fingerprint, "NIH Clinical Center", "CVPR 2017"):
        assert fact in text
    for section in ("## Data", "## Results", "## External test", "## Intended use", "## Limits"):
        assert text.count(f"\n{section}\n") == 1
    assert re.search(r"^\| \*\*MultiRes \+ PCM\*\* \|", text, re.MULTILINE) and "| Centre box, half of image |" in text


def test_training_images_are_those_of_the_train_val_list(nih_root: Path) -> None:
    """The images that the split chooses from the official list are those of the header, by names and labels."""
    metadata, header = load_metadata(nih_root), read_header("quickstart")
    folders = ("images", "images_256", "images_128")
    present = {f"{path.stem}.png" for folder in folders for path in (nih_root / folder).iterdir()}
    names = train_val_split(
        metadata,
        validation_fraction=header.recipe.data.validation_fraction,
        num_normal_images=header.recipe.data.num_normal_images,
        seed=header.recipe.seed,
        available=present,
    )
    no_pixels = SimpleNamespace(folder=nih_root, size=128, indices=len)
    datasets = [ChestXrayDataset(no_pixels, metadata, image_index=part) for part in names]
    assert [header.data.train_fingerprint, header.data.val_fingerprint] == [each.fingerprint for each in datasets]
    official = gzip.decompress((nih_root / "test_list.txt.gz").read_bytes()).decode().split()
    assert len(official) == 25_596 and not {*names[0], *names[1]} & set(official)


def test_script_packages_and_measures_a_model(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import quickstart

    monkeypatch.setattr(quickstart, "MAX_DIFFERENCE", 1.0)  # random weights give equal scores, which rounding swaps
    source = save_untrained(tmp_path / "single.safetensors", get_preset("tiny")[1])
    package, output = tmp_path / "package" / "model.safetensors", tmp_path / "out"
    options = {"checkpoint": source, "data": demo_folder, "annotations": tmp_path / "none", "package": package}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    monkeypatch.setattr("sys.argv", ["quickstart.py", *words, "--output", str(output), "--n-bootstrap", "20"])
    assert quickstart.main() == 0
    results = load_results(output / "results.json")
    assert results["checkpoints"]["quickstart"]["sha256"] == hashlib.sha256(package.read_bytes()).hexdigest()
    card = package.with_name("README.md").read_text()
    auc = results["classification"]["MultiRes"]["mean"]["auc"]
    assert f"{auc['value']:.3f}" in card and "Not measured." in card and "NIH Clinical Center" in card
    assert (output / "figures" / "reliability.png").exists()


def test_half_precision_keeps_scores_and_maps(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from quickstart import save_half

    source = save_untrained(tmp_path / "single.safetensors", get_preset("tiny")[1])
    save_half(source, tmp_path / "half.safetensors", scores=read_header(source).scores)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * source.stat().st_size
    single, half = (Predictor.load(tmp_path / f"{name}.safetensors") for name in ("single", "half"))
    assert half.calibrator.scores == single.calibrator.scores
    for image in sorted((demo_folder / "images").iterdir())[:3]:
        one, other = single.predict(image), half.predict(image)
        assert list(one.raw_scores.values()) == pytest.approx(list(other.raw_scores.values()), abs=2e-3)
        np.testing.assert_allclose(one.final_cam, other.final_cam, atol=0.01 * np.ptp(one.final_cam))
