"""One film with what was said about it: labels, true boxes, and each model's probabilities and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from .boxes import boxes_from_heatmap, iou
from .errors import InputError
from .findings import FINDINGS, canonical_finding
from .heatmaps import PAPER_SIZE, heat_maps
from .hits_and_misses import HIT
from .localization import ORIGINAL_SIZE, XYWH


@dataclass(frozen=True, eq=False)
class Case:
    """One film, ready to be shown; figures and the explorer take these. Nothing of it changes once it is made.

    Attributes:
        image_index: name of the film.
        film: (H, W) uint8 grey.
        labels: the findings it is labelled with.
        probabilities: model name -> (14,) in [0, 1]. The order of the names is the order of the panels.
        cams: model name -> (14, h, w), raw or refined class activation maps, any float; the same names.
        box_thresholds: model name -> Q of its recipe, which its boxes are drawn and judged with; the same names.
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
    box_thresholds: Mapping[str, float]
    true_boxes: pd.DataFrame
    patient_id: int | None = None
    doubts: tuple[str, ...] = ()
    _hits: dict[tuple[str, str], bool | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        if self.film.ndim != 2 or self.film.dtype != np.uint8:
            raise InputError(
                f"{self.image_index}: a film must be (H, W) uint8, not {self.film.shape} {self.film.dtype}"
            )
        if not self.cams or not set(self.cams) == set(self.probabilities) == set(self.box_thresholds):
            raise InputError(f"{self.image_index}: give maps, probabilities and Q of the same models, at least one")
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

    def predicted(self, model: str, finding: str) -> np.ndarray:
        """Return `model`'s boxes of `finding`, (K, 4) x, y, w, h in pixels of the original, best first.

        They are made from a heat map of the paper's size, whatever the film's, with the Q of the model's recipe, so
        that the boxes drawn are the boxes scored.
        """
        heatmap = self.heatmap(model, finding, size=PAPER_SIZE)
        return original_boxes(heatmap, threshold=self.box_thresholds[model])

    def true(self, finding: str) -> np.ndarray:
        """Return the true boxes of `finding`, (M, 4) x, y, w, h in pixels of the original."""
        return self.true_boxes[XYWH].to_numpy(dtype=np.float64)[self.true_boxes["finding"].to_numpy() == finding]

    def is_hit(self, model: str, finding: str) -> bool | None:
        """Tell whether `model`'s best box has an IoU above 0.1 with a true one; None where there is no true one.

        The answer is kept: menus ask for it of every film, again and again.
        """
        if (model, finding) not in self._hits:
            true = self.true(finding)
            self._hits[model, finding] = best_iou(self.predicted(model, finding), true) > HIT if len(true) else None
        return self._hits[model, finding]


def original_boxes(heatmap: np.ndarray, *, threshold: float) -> np.ndarray:
    """Return the boxes (K, 4) of one heat map (H, W) as `localization.predicted_boxes` has them, without its table.

    A table takes several times as long as the boxes, which counts while a slider moves.
    """
    height, width = heatmap.shape
    scale = ORIGINAL_SIZE / np.array([width, height, width, height])
    return boxes_from_heatmap(heatmap, threshold=threshold).xywh * scale


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
        which: `ALL`, `LABELLED`, `HITS` of `model` (`Case.is_hit`) or `MISSES`.
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
            fits = case.is_hit(model, finding) is (which == HITS)
        else:
            fits = which == ALL or finding in case.labels
        if fits:
            chosen.append(place)
    return chosen
