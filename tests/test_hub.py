"""Sharing a model: the same bytes, a card with the values of results.json, uploads and downloads only on request."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from helpers.results import make_results, method
from huggingface_hub import HfApi, ModelCard

from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import metric_definitions, ranking
from cxr_seam.hub import from_pretrained, push_to_hub, save_pretrained
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, save_checkpoint
from cxr_seam.presets import get_preset

RECIPE = get_preset("tiny")[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "tiny.best.safetensors"
    return save_checkpoint(path, build_model(RECIPE.model, weights="none"), metadata=Checkpoint(RECIPE, epoch=4))


@pytest.fixture
def results(checkpoint: Path, tmp_path: Path) -> Path:
    """Results of an evaluation of this checkpoint."""
    content = make_results(
        localization={
            "MultiRes + PCM": method("model", froc=0.321, best=0.456, every=0.789, count=10),
            "Centre box": method("baseline", froc=0.111, best=0.222, every=0.333, count=10),
            "Grad-CAM": method("comparison", froc=0.1, best=0.2, every=0.3),
        },
        checkpoints={
            RECIPE.name: {
                "models": ["MultiRes", "MultiRes + PCM"],
                "epoch": 4,
                "metrics": {},
                "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
                "recipe": {},
            }
        },
    )
    content["data"] |= {
        "listed_test_images": 25596,
        "test_images": 718,
        "test_patients": 600,
        "boxed_images": 438,
        "true_boxes": 499,
    }
    content["ranking"] = ranking(content)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    return path


class Hub:
    """A fake of HfApi: checks the arguments, records the calls, stores the uploaded files."""

    def __init__(self, folder: Path, *, public: bool = False) -> None:
        self.folder = folder
        self.public = public
        self.asked: list[tuple[str, dict]] = []

    def __call__(self, **options: object) -> Hub:
        inspect.signature(HfApi).bind(**options)
        self.asked.append(("HfApi", options))
        return self

    def create_repo(self, repo_id: str, **options: object) -> None:
        inspect.signature(HfApi.create_repo).bind(self, repo_id, **options)
        self.asked.append(("create_repo", {"repo_id": repo_id, **options}))
        self.public = self.public or options["private"] is False

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, *, folder_path: Path, **options: object) -> SimpleNamespace:
        inspect.signature(HfApi.upload_folder).bind(self, folder_path=folder_path, **options)
        self.asked.append(("upload_folder", options))
        for path in Path(folder_path).iterdir():
            (self.folder / path.name).write_bytes(path.read_bytes())
        return SimpleNamespace(commit_url="https://hub.invalid/owner/name/commit/1")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    (tmp_path / "hub").mkdir()
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    return hub


def test_save_and_load_folder(checkpoint: Path, demo_folder: Path, tmp_path: Path) -> None:
    folder = save_pretrained(checkpoint, tmp_path / "shared")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == checkpoint.read_bytes()
    image = next((demo_folder / "images").iterdir())
    ours, theirs = Predictor.load(checkpoint).predict(image), from_pretrained(folder).predict(image)
    assert ours.raw_scores == theirs.raw_scores
    np.testing.assert_array_equal(ours.heat_map("Mass"), theirs.heat_map("Mass"))


def test_card_tables(checkpoint: Path, results: Path, tmp_path: Path) -> None:
    text = (save_pretrained(checkpoint, tmp_path / "shared", results=results) / "README.md").read_text()
    lines = text.splitlines()
    assert (
        "| **MultiRes + PCM** | 0.321 (0.221-0.421) | 0.456 (0.356-0.556) | 0.500 | 0.321 (0.221-0.421) "
        "| 0.789 (0.689-0.889) | 2.500 |" in lines
    )
    assert (
        "| Centre box | 0.111 (0.011-0.211) | 0.222 (0.122-0.322) | 0.500 | 0.111 (0.011-0.211) "
        "| 0.333 (0.233-0.433) | 2.500 |" in lines
    )
    assert "Grad-CAM" not in text
    row = "| Mass | 3 | 0.750 (0.610-0.840) | 0.500 (0.400-0.600) | 0.500 (0.400-0.600) | 0.250 |"
    assert f"{row} 0.110 (0.070-0.160) | 0.175 (0.100-0.300) |" in lines
    assert "| Hernia | 0 |  |  |  |  |  |  |" in lines  # not defined is empty, never 0
    assert "718 of 25,596 listed images, of 600 patients; 499 true boxes on 438 of the images." in text.replace(
        "\n", " "
    )
    for sentence in ("not a medical device", "Never decide about a patient by it", "## Intended use", "## Limits"):
        assert sentence in text


def test_card_metadata(checkpoint: Path, results: Path, tmp_path: Path) -> None:
    folder = save_pretrained(checkpoint, tmp_path / "shared", results=results, license="mit")
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "cxr-seam", "image-classification")
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    localization = {"froc": 0.321, "best_box_accuracy": 0.456, "froc_iou_0.1": 0.321, "all_boxes_accuracy": 0.789}
    assert values == {"roc_auc": 0.75} | localization
    assert {result.dataset_name for result in data.eval_results} == {"NIH ChestX-ray14"}  # known by its test list
    content = json.loads(results.read_text())
    content["data"]["split"] = "all of the test list of own images"
    results.write_text(json.dumps(content))
    card = save_pretrained(checkpoint, tmp_path / "own", results=results, notes="## Credits\n\nTo X.") / "README.md"
    assert {result.dataset_name for result in ModelCard.load(card).data.eval_results} == {"the folder 'patients'"}
    assert "\n\n## Credits\n\nTo X.\n\n## Intended use\n" in card.read_text()


def test_no_local_path_is_uploaded(checkpoint: Path, results: Path, hub: Hub) -> None:
    push_to_hub(checkpoint, "owner/name", results=results)
    for path in hub.folder.iterdir():
        for private in ("/home/somebody", str(checkpoint.parent), str(results.parent)):
            assert private.encode() not in path.read_bytes()


def test_card_without_results(checkpoint: Path, tmp_path: Path) -> None:
    text = (save_pretrained(checkpoint, tmp_path / "shared") / "README.md").read_text()
    assert "No evaluation was given" in text and "eval_results" not in text and "model-index" not in text
    assert "license" not in ModelCard(text).data.to_dict()


def test_card_without_true_boxes(checkpoint: Path, results: Path, tmp_path: Path) -> None:
    content = json.loads(results.read_text())
    content["localization"], content["data"]["boxed_images"], content["data"]["true_boxes"] = {}, 0, 0
    content["bootstrap"], content["differences"] = {}, []
    content["metrics"] = metric_definitions(boxes=False)
    content["ranking"] = ranking(content)
    results.write_text(json.dumps(content))
    text = (save_pretrained(checkpoint, tmp_path / "shared", results=results) / "README.md").read_text()
    assert "of 600 patients.\n" in text and "no true boxes of the evaluated findings" in text
    assert "| Mass | 3 | 0.750" in text
    for word in ("accura", "false positives", "aseline", "IoU", "0 true"):
        assert word not in text
    assert {result.metric_type for result in ModelCard(text).data.eval_results} == {"roc_auc"}


def test_card_of_synthetic_images(checkpoint: Path, results: Path, tmp_path: Path) -> None:
    content = json.loads(results.read_text())
    content["data"]["description"] = "demo"
    results.write_text(json.dumps(content))
    text = (save_pretrained(checkpoint, tmp_path / "shared", results=results) / "README.md").read_text()
    assert "say nothing about patients" in text


def test_refuses_results_of_another_checkpoint(checkpoint: Path, results: Path, hub: Hub) -> None:
    content = json.loads(results.read_text())
    content["checkpoints"][RECIPE.name]["sha256"] = "0" * 64
    results.write_text(json.dumps(content))
    with pytest.raises(InputError, match="tiny.best.safetensors"):
        push_to_hub(checkpoint, "owner/name", results=results)
    assert hub.asked == []


def test_push_is_private_with_two_files(checkpoint: Path, results: Path, hub: Hub) -> None:
    address = push_to_hub(checkpoint, "owner/name", results=results, token="secret")
    asked = dict(hub.asked)
    assert address == "https://hub.invalid/owner/name/commit/1"
    assert asked["HfApi"]["token"] == "secret"
    assert asked["create_repo"] == {"repo_id": "owner/name", "private": True, "exist_ok": True}
    assert sorted(path.name for path in hub.folder.iterdir()) == ["README.md", "model.safetensors"]
    assert (hub.folder / "model.safetensors").read_bytes() == checkpoint.read_bytes()
    assert 'from_pretrained("owner/name")' in (hub.folder / "README.md").read_text()


def test_push_refuses_public_repository(checkpoint: Path, hub: Hub) -> None:
    hub.public = True
    with pytest.raises(InputError, match="private=False"):
        push_to_hub(checkpoint, "owner/name")
    assert not list(hub.folder.iterdir())
    push_to_hub(checkpoint, "owner/name", private=False)
    assert list(hub.folder.iterdir())


def test_hub_errors_become_input_errors(checkpoint: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("401 Unauthorized\nand more")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(InputError, match=r"owner/name.*401 Unauthorized"):
        push_to_hub(checkpoint, "owner/name")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(InputError, match="owner/name"):
        from_pretrained("owner/name")


def test_from_pretrained_downloads_weights_only(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(repo_id: str, filename: str, *, revision: str | None, token: str | None, **_: str) -> str:
        fetched.append((repo_id, filename, revision, token))
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert from_pretrained("owner/name", revision="v1").recipe == RECIPE
    assert fetched == [("owner/name", "model.safetensors", "v1", None)]


def test_existing_folder_is_not_searched_on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="model.safetensors"):
        from_pretrained(tmp_path)
