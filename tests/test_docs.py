"""The pages in docs/: their examples run and print what stands below them, their links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest.mock import create_autospec

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from helpers.batches import ROOT
from huggingface_hub import HfApi, ModelCard
from PIL import Image

from cxr_seam import presets
from cxr_seam.evaluation.evaluate import evaluate
from cxr_seam.evaluation.results import load_results
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.classification import classification_table
from cxr_seam.models.backbones import backbone_names
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, best_path, load_checkpoint, save_checkpoint
from cxr_seam.models.extras.attention import GatedAttentionPool
from cxr_seam.models.extras.seam_pcm import SeamPCM
from cxr_seam.models.registry import POOLINGS, REFINERS
from cxr_seam.recipes import CAM_BASELINES, BoxRule, MapPrior, RefinerInput
from cxr_seam.workspace import Workspace

PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def run(page: str) -> dict[str, object]:
    """Run the page's examples in order, as one program; hold what each prints to the text block below it."""
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text())
    assert blocks and blocks[0][0] == "python"
    for number, (kind, content) in enumerate(blocks):
        if kind == "text":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(content, f"{page}, example {number}", "exec"), names)
        if number + 1 < len(blocks) and blocks[number + 1][0] == "text":
            assert printed.getvalue() == blocks[number + 1][1]
    return names


def anchors(page: Path) -> set[str]:
    """The addresses that GitHub gives a page's headings."""
    without_code = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.name)
def test_a_notebooks_links_lead_to_files_of_the_repository(notebook: Path) -> None:
    for link in LINK.findall(notebook.read_text()):
        for part in ("/blob/main/", "raw.githubusercontent.com/cxr-seam/cxr-seam/main/"):
            _, found, path = link.partition(part)
            assert not found or (ROOT / path).exists(), f"{notebook.name} links to {link}"


def test_the_examples_of_reading_results_print_what_stands_below_them() -> None:
    """The figures there were worked out by hand; run compares them."""
    run("reading-results.md")


@pytest.fixture
def on_demo_images(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page trains in a folder of its own, as shortly as can be; what it registers is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXR_SEAM_DATA", str(demo_folder))
    members = dict(presets.PRESETS)
    tiny = presets.PRESETS["tiny"]
    monkeypatch.setattr(presets, "SMALL", tiny[0])
    monkeypatch.setattr(presets, "SMALL_PCM", tiny[2].seam_stage)
    yield
    presets.PRESETS.clear()
    presets.PRESETS.update(members)


def test_new_backbone_page_trains_a_timm_network(on_demo_images: None) -> None:
    run_folder = run("new-backbone.md")["run"].models
    model, metadata = load_checkpoint(best_path(run_folder, "multires_regnet_pcm"))
    assert metadata.recipe.model == "multires_timm:regnety_004"
    # torchvision publishes the same network's count: less its classifier
    published = torchvision.models.RegNet_Y_400MF_Weights.IMAGENET1K_V1.meta["num_params"]
    assert sum(p.numel() for p in model.backbone.parameters()) == published - (440 + 1) * 1000


def test_other_parts_page_trains_its_preset(on_demo_images: None) -> None:
    model, metadata = load_checkpoint(best_path(run("other-parts.md")["run"].models, "multires_mine_pcm"))
    assert isinstance(model.pool, GatedAttentionPool) and isinstance(model.refiner, SeamPCM)
    assert metadata.recipe.seam_stage.ohem_fraction == 0.3


def test_other_parts_page_names_all_parts() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", (ROOT / "docs" / "other-parts.md").read_text(), re.MULTILINE))
    named = {field: set(re.findall(r"`(\w+)`", cells)) for field, cells in rows.items()}
    assert named["pooling"] == set(POOLINGS) and named["refiner"] == set(REFINERS)
    assert named["refiner_input"] == set(get_args(RefinerInput))
    assert named["model"] - {"multires_"} == set(backbone_names())
    assert named["cam_baseline"] == set(CAM_BASELINES)
    assert named["map_prior"] == set(get_args(MapPrior)) and named["box_rule"] == set(get_args(BoxRule))
    assert named["classifier_stage.optimiser"] == {"adam", "adamw", "weight_decay"}
    assert named["classifier_stage.schedule"] == {"plateau", "constant", "one_cycle", "cosine", "warmup_fraction"}


def test_the_shared_model_of_the_example_is_the_checkpoint(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the results of an evaluation as it is made today, of models that nobody trained."""
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir="runs/demo")
    workspace.prepare_data()
    named = replace(presets.PRESETS["tiny"][2], name="multires_demo_pcm")
    workspace = replace(workspace, recipes=(*workspace.recipes[:2], named))
    model = build_model(named.model, weights="none")
    checkpoint = save_checkpoint(best_path(workspace.models, named.name), model, metadata=Checkpoint(named))
    evaluate(workspace, n_bootstrap=20)
    hub = create_autospec(HfApi)
    hub.return_value.model_info.return_value.private = True
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    names = run("share-a-model.md")
    assert hub.return_value.create_repo.call_args.kwargs["private"]
    hub.return_value.upload_folder.assert_called_once()
    assert (names["folder"] / "model.safetensors").read_bytes() == checkpoint.read_bytes()
    logits = torch.from_numpy(Predictor.load(checkpoint).logits(workspace.test_dataset()))
    scores = classification_table(workspace.test_dataset().labels, logits.double().sigmoid().numpy())
    card = (names["folder"] / "README.md").read_text()
    values = {result.metric_type: result.metric_value for result in ModelCard(card).data.eval_results}
    assert values["roc_auc"] == pytest.approx(scores["auc"].mean(), abs=1e-4)
    assert str(tmp_path) not in card and str(demo_folder) not in card


def test_quickstart_page_predicts(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(paths[0].read_bytes())
    prediction = run("quickstart.md")["prediction"]
    assert len(prediction.raw_scores) == 14 and len(prediction.boxes)


def test_export_page_gives_what_the_predictor_gives(
    checkpoint: Path, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = best_path(Path("runs/demo/models"), "multires_demo_pcm")
    named.parent.mkdir(parents=True)
    named.write_bytes(checkpoint.read_bytes())
    (tmp_path / "image.png").write_bytes(paths[0].read_bytes())
    names = run("export.md")
    expected = names["predictor"].predict("image.png").probabilities
    assert expected.pop("Hernia") is None
    for found in (names["probabilities"][0], names["output"]["probabilities"][0]):
        found = dict(zip(names["findings"], found.tolist(), strict=True))
        assert math.isnan(found.pop("Hernia")) and found == pytest.approx(expected, abs=1e-4)


def test_own_data_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve patients with three images each, not square; findings that NIH does not have; two boxes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXR_SEAM_PRESET", "tiny")
    random = np.random.default_rng(0)
    rows = []
    for number in range(36):
        file = "example.png" if number == 35 else f"p{number // 3}/image{number}.{'jpg' if number == 5 else 'png'}"
        path = tmp_path / "mydata" / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (100, 200), dtype=np.uint8)).save(path)
        labels = [number % 2, (number // 2) % 2, "" if number % 5 == 0 else number % 3 // 2]
        rows.append((file, f"P{number // 3}", "train" if number < 24 else "test", *labels))
    columns = ["image", "patient", "split", "Opacity", "Clip", "Rib notching"]
    pd.DataFrame(rows, columns=columns).to_csv("mydata/images.csv", index=False)
    boxes = [("p8/image25.png", "Opacity", 20, 10, 50, 25), ("p8/image25.png", "Opacity", 100, 50, 100, 50)]
    pd.DataFrame(boxes, columns=["image", "finding", "x", "y", "w", "h"]).to_csv("mydata/boxes.csv", index=False)

    names = run("own-data.md")
    assert list(names["prediction"].raw_scores) == columns[3:]
    assert names["prediction"].heat_map("Clip").shape == (100, 200)
    results = load_results(names["run"].results)
    assert list(results["classification"]["Standard"]["findings"]) == columns[3:]
    known = [row[5] for row in rows[24:] if row[5] != ""]
    notching = results["classification"]["Standard"]["findings"]["Rib notching"]
    assert (notching["positives"], notching["negatives"]) == (known.count(1), known.count(0))
    truth = names["run"].metadata().boxes
    assert truth[["x", "y", "w", "h"]].to_numpy().tolist() == [[0.1, 0.1, 0.25, 0.25], [0.5, 0.5, 0.5, 0.5]]
    assert names["prediction"].boxes["finding"].isin(columns[3:]).all()
