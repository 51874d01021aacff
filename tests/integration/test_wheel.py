"""The wheel in a clean environment outside the checkout: download, prepare, models and predict."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from helpers.archives import name, png, tree
from helpers.batches import ROOT
from helpers.server import FIRST, TABLES, nih_server

from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import Checkpoint, save_checkpoint
from cxr_seam.presets import get_recipe

pytestmark = pytest.mark.slow


def run(*words: str | Path, cwd: Path, **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment with the wheel; dependencies are those of the current environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building writes beside the sources
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "cxr_seam", source / "cxr_seam", ignore=ignore)
    for file in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    venv.create(folder / "environment", with_pip=False)
    python = folder / "environment" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (wheel,) = folder.glob("*.whl")
    run(*pip, "install", "--no-deps", "--target", packages, wheel, cwd=folder)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    for path in (ROOT / "cxr_seam").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (packages / path.relative_to(ROOT)).exists(), path
    module = run(python, "-c", "import cxr_seam; print(cxr_seam.__file__)", cwd=folder)
    assert Path(module.strip()).is_relative_to(packages)
    return python


def test_download(python, tmp_path):
    server = nih_server(tmp_path)
    (tmp_path / "sums").write_text(f"{hashlib.md5(server.files[FIRST]).hexdigest()}  images_001.tar.gz\n")
    options = ["--dest", "nih", "--archives", "1", "--size", "16", "--checksums", "sums"]
    variables = {"CXR_SEAM_NIH_URL": server.url, "CXR_SEAM_TABLES_URL": server.url, "no_proxy": "127.0.0.1"}
    run(python, "-m", "cxr_seam.data.download", *options, cwd=tmp_path, **variables)
    server.stop()
    assert {path.name for path in (tmp_path / "nih").iterdir()} == {*TABLES, "cache_16"}
    assert (tmp_path / "nih" / "cache_16" / "images.u8").stat().st_size == 4 * 16**2


def test_prepare(python, tmp_path):
    tree(tmp_path / "images", {name(k): png(k) for k in range(3)})
    run(python, "-m", "cxr_seam", "prepare", "images", "--cache", "cache", "--size", "16", cwd=tmp_path)
    assert (tmp_path / "cache" / "images.u8").stat().st_size == 3 * 16**2


def test_models(python, tmp_path):
    rows = json.loads(run(python, "-m", "cxr_seam", "models", "--json", cwd=tmp_path))
    assert {row["name"]: row["parameters"] for row in rows}["multires_resnet50"] == 26_273_615


def test_predict(python, tmp_path):
    torch.manual_seed(0)
    recipe = get_recipe("tiny")
    metadata = Checkpoint(recipe, epoch=1, metrics={})
    save_checkpoint(tmp_path / "m.safetensors", build_model(recipe.model, weights="none"), metadata=metadata)
    (tmp_path / "a.png").write_bytes(png(7, side=64))
    run(python, "-m", "cxr_seam", "predict", "a.png", "--checkpoint", "m.safetensors", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "predictions").iterdir()} >= {"scores.csv", "a_heatmaps.png"}


def test_predict_with_the_packaged_model(python, tmp_path):
    (tmp_path / "a.png").write_bytes(png(7, side=64))
    run(python, "-m", "cxr_seam", "predict", "a.png", "--out", "out", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"scores.csv", "boxes.csv", "a_heatmaps.png"}
