"""One film with what was said about it: labels, true boxes, and each model's probabilities and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from .boxes import PAPER_THRESHOLD, iou
from .errors import InputError
from .findings import FINDINGS, canonical_finding
from .heatmaps import PAPER_SIZE, heat_maps
from .hits_and_misses import HIT
from .localization import XYWH, predicted_boxes


@dataclass(frozen=True, eq=False)
class Case:
    """One film, ready to be shown; figures and the explorer take these.

    Attributes:
        image_index: name of the film.
        film: (H, W) uint8 grey.
        labels: the findings it is labelled with.
        probabilities: model name -> (14,) in [0, 1]. The order of the names is the order of the panels.
        cams: model name -> (14, h, w), raw or refined class activation maps, any float; the same names.
        true_boxes: columns `finding`, `x`, `y`, `w`, `h` in pixels of the 1024 x 1024 original; may be empty.
        patient_id: whose film it is; None for a film that somebody brought, of which nothing but its pixels is known.
        doubts: why it may be no frontal chest film, a sentence each (`frontal`).

    Raises:
        InputError: the parts do not fit together.
    """

    image_index: str
    film: np.ndarray
    labels: tuple[str, ...]
    probabilities: Mapping[str, np.ndarray]
    cams: Mapping[str, np.ndarray]
    true_boxes: pd.DataFrame
    patient_id: int | None = None
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        if self.film.ndim != 2 or self.film.dtype != np.uint8:
            raise InputError(
                f"{self.image_index}: a film must be (H, W) uint8, not {self.film.shape} {self.film.dtype}"
            )
        if not self.cams or set(self.cams) != set(self.probabilities):
            raise InputError(f"{self.image_index}: give maps and probabilities of the same models, and at least one")
        for model, cam in self.cams.items():
            if cam.ndim != 3 or len(cam) != len(FINDINGS) or len(self.probabilities[model]) != len(FINDINGS):
                raise InputError(f"{self.image_index}: {model} must give {len(FINDINGS)} maps and probabilities")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of their panels."""
        return tuple(self.cams)

    def probability(self, model: str, finding: str) -> float:
        """Return what `model` says of `finding`, in [0, 1]."""
        return float(self.probabilities[model][FINDINGS.index(canonical_finding(finding))])

    def heatmap(self, model: str, finding: str, *, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """Return `model`'s heat map of `finding`, float in [0, 1], at the film's size unless told otherwise."""
        cam = np.ascontiguousarray(self.cams[model][FINDINGS.index(canonical_finding(finding))])
        height, width = self.film.shape
        return heat_maps(torch.from_numpy(cam)[None, None], size or (height, width))[0, 0].numpy()

    def predicted(self, model: str, finding: str, *, threshold: float = PAPER_THRESHOLD) -> np.ndarray:
        """Return `model`'s boxes of `finding`, (K, 4) x, y, w, h in pixels of the original, best first.

        They are made from a heat map of the paper's size, whatever the film's, so that the boxes drawn are the
        boxes scored.
        """
        heatmap = self.heatmap(model, finding, size=PAPER_SIZE)
        return self.boxes_of(heatmap, finding, threshold=threshold)

    def boxes_of(self, heatmap: np.ndarray, finding: str, *, threshold: float = PAPER_THRESHOLD) -> np.ndarray:
        """Return the boxes of one heat map of this film, as `predicted` does."""
        boxes = predicted_boxes(heatmap[None], self.image_index, [finding], threshold=threshold)
        return boxes[XYWH].to_numpy(dtype=np.float64)

    def true(self, finding: str) -> np.ndarray:
        """Return the true boxes of `finding`, (M, 4) x, y, w, h in pixels of the original."""
        rows = self.true_boxes["finding"] == finding
        return self.true_boxes.loc[rows, XYWH].to_numpy(dtype=np.float64)


def best_iou(predicted: np.ndarray, true: np.ndarray) -> float:
    """IoU of the first of some boxes (K, 4) with the true box (M, 4) that it meets best; 0 where there is none."""
    return float(iou(predicted[:1], true).max(initial=0.0))


ALL, LABELLED, HITS, MISSES = "all", "labelled", "hits", "misses"
"""Which cases to look at: any, those labelled with a finding, those where a model's best box is right, or wrong."""


def choose_cases(
    cases: Sequence[Case], *, which: str, finding: str, model: str, patient_id: int | None = None
) -> list[int]:
    """Choose cases by label, by patient, or by whether a model finds what is there.

    Args:
        cases: to choose from.
        which: `ALL`, `LABELLED`, `HITS` (best box of `model` at the paper's Q has an IoU above 0.1) or `MISSES`.
        finding: whose labels, hits or misses.
        model: whose hits or misses.
        patient_id: whose films; None: anybody's.

    Returns:
        Places in `cases`, in their order. Films without a true box of the finding are neither hits nor misses.
    """
    chosen = []
    for place, case in enumerate(cases):
        if patient_id is not None and case.patient_id != patient_id:
            continue
        if which in (HITS, MISSES):
            true = case.true(finding)
            fits = len(true) > 0 and (best_iou(case.predicted(model, finding), true) > HIT) == (which == HITS)
        else:
            fits = which == ALL or finding in case.labels
        if fits:
            chosen.append(place)
    return chosen
