"""Examples without a model, for the tests of figures and of the viewer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cxr_seam.findings import FINDINGS, OPERATING_POINTS
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.visualize.examples import Example, ModelOutput

NONE = np.full(14, np.nan)
NO_THRESHOLDS = dict.fromkeys(OPERATING_POINTS, NONE)
IMAGE = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)


def peak_example(models: tuple[str, ...] = ("Standard", "MultiRes"), **changes: Any) -> Example:
    """An example with one peak in the map of Mass: columns 4-5 and rows 2-3 of 8 x 8."""
    cam = np.full((14, 8, 8), -1, dtype=np.float32)
    cam[FINDINGS.index("Mass"), 2:4, 4:6] = 5
    values = {
        "image_index": "00000001_000.png",
        "image": IMAGE,
        "labels": ("Mass",),
        "outputs": dict.fromkeys(
            models, ModelOutput(np.linspace(0, 0.65, 14), cam, HeatmapOptions(), NONE, NO_THRESHOLDS)
        ),
        "true_boxes": pd.DataFrame({"finding": ["Mass"], "x": [0.5], "y": [0.25], "w": [0.25], "h": [0.25]}),
        "patient_id": 1,
    }
    return Example(**values | changes)


def random_example(name: str = "00000001_000.png", *, labels: tuple[str, ...] = ("Mass",), seed: int = 0) -> Example:
    """An example with random maps and scores; the map of Hernia is negative everywhere."""
    generator = np.random.default_rng(seed)
    models = ("Standard", "MultiRes", "MultiRes + PCM")
    cams = {model: generator.random((14, 8, 8)).astype(np.float32) for model in models}
    for cam in cams.values():
        cam[FINDINGS.index("Hernia")] = -1
    return Example(
        image_index=name,
        image=generator.integers(0, 255, (96, 96)).astype(np.uint8),
        labels=labels,
        outputs={
            model: ModelOutput(generator.random(14), cam, HeatmapOptions(), NONE, NO_THRESHOLDS)
            for model, cam in cams.items()
        },
        true_boxes=pd.DataFrame({"finding": ["Mass"], "x": [0.25], "y": [0.125], "w": [0.5], "h": [0.625]}),
        patient_id=int(name[:8]),
    )
