"""Choosing shares and rules by the agreement of two models: on known maps, and the script on tiny data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from helpers.checkpoints import save_untrained

from benchmarks.study.choose_boxes import RULES, SHARES, compare, main
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.presets import get_recipe
from cxr_seam.workspace import Workspace

NAMES = [f"{index}.png" for index in range(30)]
DATASET = SimpleNamespace(
    image_index=NAMES, findings=("Mass",), labels=np.ones((30, 1), dtype=np.float32), __len__=lambda: 30
)


class KnownMaps:
    """A model whose maps show the place of each image's finding, and in all images the same two symmetric places."""

    def forward_dataset(self, dataset, *, desc):
        places = np.random.default_rng(0).integers(2, 30, size=(30, 2))
        cams = torch.zeros(30, 1, 32, 32)
        for cam, (y, x) in zip(cams[:, 0], places, strict=True):
            cam[y - 1 : y + 2, x - 1 : x + 2] = 1
            cam[14:18, 4:8] = cam[14:18, 24:28] = 3
        yield dataset.image_index, SimpleNamespace(cam=cams)

    def heatmap_options(self, *, refined):
        return HeatmapOptions(findings=("Mass",))


def test_symmetric_evidence_hides_the_finding() -> None:
    table = compare([KnownMaps(), KnownMaps()], [DATASET])
    assert list(table.index) == [(share, rule) for share in SHARES for rule in RULES]
    gains = table["gain at IoU > 0.3"].unstack("rule")["local moments, window 0.1"]
    assert gains[0.0] < 0.1 and gains[1.0] > 0.8


def test_script_writes_a_table(demo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    Workspace.open(data=str(demo_folder), preset="tiny", output_dir=output).prepare_data()
    recipe = get_recipe("multires_tiny")
    for seed in (0, 1):
        save_untrained(tmp_path / f"mine.s{seed}.safetensors", replace(recipe, seed=seed))
    options = {"data": demo_folder, "output": output, "preset": "tiny", "models": tmp_path, "rows": "mine"}
    main([word for key, value in options.items() for word in (f"--{key}", str(value))])
    table = pd.read_csv(output / "choose_boxes.csv")
    assert len(table) == len(SHARES) * len(RULES) and set(table.columns) > {"row", "share", "rule"}
