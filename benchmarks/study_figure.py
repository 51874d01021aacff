"""The study's figure: FROC curves of the paper's recipe, of the strong one, and of the controls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from study_rows import PAPER, STRONG
from study_table import first_of, mean_over, runs_of

from cxr_seam.evaluation.results import FROC, MODEL
from cxr_seam.metrics.bootstrap import estimate

SCORE = "iou>0.1"
RATES = np.geomspace(0.01, 10, 100)
"""False positives per image and finding at which the mean of curves is drawn."""


def draw(out: Path) -> Path | None:
    """Write `froc.png`; None where neither of the two rows is measured.

    A line is the mean over a row's seeds, with the mean's interval at half a false positive.
    """
    from cxr_seam.visualize.figures import plot_froc, save

    shown = {}
    for name in (PAPER, STRONG):
        runs = runs_of(out, name)
        for maps in first_of(runs)["localization"] if runs else ():
            scores = [results["localization"][maps]["froc"][SCORE] for _, results in runs.values()]
            middle = estimate(*mean_over(runs, maps, FROC))
            shown[f"{name}: {maps}"] = {"type": MODEL, "froc": {SCORE: mean_curve(scores, middle)}}
    if not shown:
        return None
    baselines = json.loads((out / "controls.json").read_text())["localization"]
    path = out / "froc.png"
    save(plot_froc({"localization": shown | baselines}, score=SCORE), path)
    return path


def mean_curve(scores: Sequence[Mapping[str, Any]], middle: Mapping[str, Any]) -> dict[str, Any]:
    """The mean of curves at `RATES`; each stays where it ends."""
    curves = [score["curve"] for score in scores]
    heights = [np.interp(RATES, curve["false_positives_per_image"], curve["accuracy"]) for curve in curves]
    line = {"false_positives_per_image": RATES.tolist(), "accuracy": np.mean(heights, axis=0).tolist()}
    return {"at_fp_rate": {"0.5": {"macro": middle}}, "curve": line}
