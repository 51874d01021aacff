"""Check the installation against hand-computed values; needs no checkpoint and no data.

Two images, one finding (a mass), one CAM of 8 x 8 pixels for each image. The tests check many more values; see
`tests/metrics/test_hand_computed.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from .findings import FINDINGS, XYWH
from .inference.boxes import predicted_boxes
from .inference.heatmaps import cam_to_heatmap
from .metrics.classification import classification_table
from .metrics.localization import localization_table
from .metrics.matching import iobb, iou
from .models.pcm import apply_affinity
from .models.pooling import lse_pool
from .training.losses import balanced_bce

TOLERANCE = 1e-5  # float32 has seven digits

CAMS = torch.zeros(2, 1, 8, 8)
CAMS[0, 0, 1:3, 1:3] = 10  # the box (1, 1, 2, 2) / 8
CAMS[0, 0, 6, 6] = 7.5  # above Q = 0.7 of the maximum: a second box
CAMS[1, 0, 0:2, 4:8] = 3  # the box (4, 0, 4, 2) / 8
TRUTH = pd.DataFrame(
    [("a", "Mass", 1 / 8, 1 / 8, 1 / 4, 1 / 2), ("b", "Mass", 7 / 8, 1 / 8, 1 / 8, 1 / 4)],
    columns=["image_index", "finding", *XYWH],
)


class Check(NamedTuple):
    """One hand-computed value; `result` is an error message if it could not be computed."""

    name: str
    expected: Any
    result: Any
    passed: bool


def selfcheck() -> list[Check]:
    """Compute all values; an exception is a failed check, so that the others are still computed."""
    results = []
    for name, expected, compute in _checks():
        try:
            result = np.asarray(compute(), dtype=np.float64)
        except Exception as error:  # a broken installation may raise anything
            results.append(Check(name, expected, f"{type(error).__name__}: {error}", False))
            continue
        passed = result.shape == np.shape(expected) and np.allclose(result, expected, rtol=0, atol=TOLERANCE)
        results.append(Check(name, expected, result.tolist(), bool(passed)))
    return results


def _boxes() -> pd.DataFrame:
    heatmaps = cam_to_heatmap(CAMS, 8).numpy()
    return pd.concat([predicted_boxes(maps, name, ["Mass"]) for maps, name in zip(heatmaps, "ab", strict=True)])


def _overlaps(measure: Callable[..., np.ndarray]) -> np.ndarray:
    return np.diag(measure(_boxes()[XYWH].to_numpy()[[0, 2]], TRUTH[XYWH].to_numpy()))


def _counts() -> pd.Series:
    table = localization_table(_boxes(), TRUTH, images=["a", "b"], measure="iobb", threshold=0.1)
    return table.loc["Mass", ["boxes", "correct", "false_positives"]]


def _auc() -> float:
    labels, scores = np.zeros((2, 4, len(FINDINGS)))
    labels[:, 0], scores[:, 0] = (1, 1, 0, 1), (0.5, 0.6, 0.6, 0.1)
    return classification_table(labels, scores).loc[FINDINGS[0], "auc"]


def _refined() -> torch.Tensor:
    # pixels 1 and 4 have parallel embeddings, so have 2 and 3; the two pairs are orthogonal
    embedding = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[0.0, 2.0], [1.0, 0.0]]]])
    return apply_affinity(embedding, torch.tensor([[[[8.0, 2.0], [4.0, 0.0]]]]))[0, 0]


def _checks() -> list[tuple[str, Any, Callable[[], Any]]]:
    """Return name, hand-computed value and function of each check."""
    return [
        # pixel centres 0.5 and 1.5 of two pixels lie at 1 and 3 of four pixels; between them the map is linear
        ("heat map", [0, 0.25, 0.75, 1], lambda: cam_to_heatmap(torch.tensor([[[[-6.0, 2.0]]]]), (1, 4))[0, 0, 0]),
        ("boxes", [[1, 1, 2, 2], [6, 6, 1, 1], [4, 0, 4, 2]], lambda: _boxes()[XYWH] * 8),
        # a: half of the true box; b: 1 of 8 pixels, the union has 9
        ("IoBB", [1, 1 / 8], lambda: _overlaps(iobb)),
        ("IoU", [1 / 2, 1 / 9], lambda: _overlaps(iou)),
        ("true boxes, correct, false positives", [2, 2, 1], _counts),
        # of the three pairs one is tied and two are in the wrong order
        ("AUC", 1 / 6, _auc),
        # log((e^0 + e^log 3) / 2)
        ("LSE pooling (Eq. 1)", [[log(2)]], lambda: lse_pool(torch.tensor([[[[0, log(3)]]]]), gamma=1)),
        # each pixel becomes the mean of its pair
        ("PCM (Eq. 2)", [[4, 3], [3, 4]], _refined),
        # class 1: weights 2 and 2; class 2: weight 1; all logits 0
        ("loss (Eq. 3-5)", 1.5 * log(2), lambda: balanced_bce(torch.zeros(2, 2), torch.tensor([[1, 0], [0, 0]]))),
    ]


def format_check(check: Check) -> str:
    """Format a check as one line."""
    values = [
        value if isinstance(value, str) else "  ".join(f"{number:.4g}" for number in np.ravel(value))
        for value in (check.expected, check.result)
    ]
    if check.passed:
        return f"ok      {check.name}: {values[0]}"
    return f"FAILED  {check.name}: expected {values[0]}, got {values[1]}"
