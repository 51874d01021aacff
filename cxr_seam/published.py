"""What others report on ChestX-ray14, each value with its source, split and metric, and whether it compares.

Two values compare where both were measured on the official test split with the same metric. What does not is marked
and never ranked. Values are those that the sources print; a cell that is not at hand is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OFFICIAL = "official test list"
BOXED = "880 boxed images"
PAPER = "D'Souza et al. 2022"
_IOBB, _IOU, _IOU_WANG = ("0.1", "0.25", "0.5"), ("0.1", "0.2", "0.3", "0.4", "0.5"), ("0.1", "0.2", "0.3")


@dataclass(frozen=True)
class Published:
    """One published row.

    Attributes:
        name: the model.
        source: who reports it.
        split: the films it was measured on.
        metric: "mean AUC", or a measure of localization such as "iobb" or "iou".
        values: "mean" for the mean AUC; for localization the macro accuracy over the eight findings by threshold,
            such as "0.1".
        comparable: whether the split is the official one and the metric the one named.
        note: what a reader must know, "" where there is nothing.
        digits: decimals that the source prints.
    """

    name: str
    source: str
    split: str
    metric: str
    values: Mapping[str, float]
    comparable: bool = True
    note: str = ""
    digits: int = 3

    def printed(self, key: str) -> str:
        """A value with the decimals of its source, "" where it is not at hand."""
        return f"{self.values[key]:.{self.digits}f}" if key in self.values else ""


def _auc(
    name: str, value: float, source: str = "", *, split: str = OFFICIAL, note: str = "", digits: int = 3
) -> Published:
    return Published(name, source or name, split, "mean AUC", {"mean": value}, split == OFFICIAL, note, digits)


def _located(
    name: str, measure: str, thresholds: Sequence[str], values: Sequence[float], *, digits: int = 3, **about: str
) -> Published:
    split = about.get("split", BOXED)
    row = dict(zip(thresholds, values, strict=True))
    source, note = about.get("source", name), about.get("note", "")
    return Published(name, source, split, measure, row, split == BOXED, note, digits)


def _densenet(name: str, iobb: Sequence[float], iou: Sequence[float], note: str = "own map construction") -> tuple:
    """The two rows of a map of the DenseNet121 study, which prints IoU with two decimals."""
    about = {"source": "DenseNet121 study", "note": note}
    return _located(name, "iobb", _IOBB, iobb, **about), _located(name, "iou", _IOU, iou, digits=2, **about)


CLASSIFICATION: tuple[Published, ...] = (
    _auc("ResNet50", 0.745, "Wang et al. 2017", note="D'Souza et al. print 0.738; the mean of its column is 0.745"),
    _auc("Multi-resolution ResNet50", 0.761, "Yao et al. 2018", note="Mass and Nodule look swapped in Table 1"),
    _auc("Standard EfficientNetB4", 0.781, PAPER),
    _auc("MultiRes-EfficientNetB4", 0.774, PAPER),
    _auc("MultiRes-ResNet50", 0.793, PAPER),
    _auc("Standard ResNet50", 0.796, PAPER),
    _auc("Location-aware network", 0.807, "Guendel et al. 2018"),
    _auc("CRAL ResNet50", 0.814),
    _auc("CRAL DenseNet121", 0.816),
    _auc("ResNet50, ImageNet weights, all layers tuned, 224 px", 0.817, "plain baseline", note="+- 0.0015"),
    _auc("DenseNet121", 0.820, "plain baseline"),
    _auc("XProtoNet", 0.822),
    _auc("ConvNeXtV2-B, 512 px", 0.825),
    _auc("CNN-ViT", 0.829, "Li F. et al. 2022"),
    _auc("ViT-B, masked autoencoder", 0.830, "Medical MAE"),
    _auc("Ark-6 Swin-B", 0.8305, digits=4),
    _auc("Foundation X", 0.8335, digits=4),
    _auc("EVA-X-B", 0.835),
    _auc("MobileNetV2", 0.810, "Souid et al. 2021", split="balanced by its authors with patient data"),
    _auc("CheXNet", 0.841, split="random split of its authors"),
    _auc("SynthEnsemble", 0.854, split="another split than the official one"),
)
"""Mean AUC over the fourteen findings; comparable rows in rising order, then those that do not compare."""

LOCALIZATION: tuple[Published, ...] = (
    _located("Standard ResNet50", "iobb", ("0.1",), (0.351,), source=PAPER),
    _located("MultiRes-ResNet50", "iobb", ("0.1",), (0.382,), source=PAPER),
    _located("MultiRes-ResNet50 + PCM", "iobb", ("0.1",), (0.417,), source=PAPER),
    _located("Standard EfficientNetB4", "iobb", ("0.1",), (0.361,), source=PAPER),
    _located("MultiRes-EfficientNetB4", "iobb", ("0.1",), (0.435,), source=PAPER),
    _located("MultiRes-EfficientNetB4 + PCM", "iobb", ("0.1",), (0.350,), source=PAPER),
    _located("ResNet50", "iobb", _IOBB, (0.629, 0.486, 0.330), source="Wang et al. 2017"),
    _located("ResNet50", "iou", _IOU_WANG, (0.568, 0.373, 0.221), source="Wang et al. 2017"),
    *_densenet("DenseNet121 at 512 px, CAM", (0.607, 0.498, 0.336), (0.56, 0.36, 0.21, 0.12, 0.07)),
    *_densenet("DenseNet121 at 512 px, Grad-CAM++", (0.685, 0.550, 0.376), (0.62, 0.42, 0.28, 0.18, 0.10)),
    *_densenet("Random map", (0.371, 0.261, 0.131), (0.29, 0.17, 0.10, 0.05, 0.03), "control; own map construction"),
    _located("CNN-ViT", "iou", _IOU, (0.64, 0.53, 0.40, 0.31, 0.24), source="Li F. et al. 2022", digits=2),
    _located("PCAN", "iou", _IOU, (0.78, 0.57, 0.36, 0.21, 0.10), digits=2),
    _located("ThoraX-PriorNet", "iou", _IOU, (0.80, 0.63, 0.49, 0.33, 0.28), digits=2),
    _located(
        "CLARiTy, 512 px",
        "iou",
        _IOU,
        (0.81, 0.69, 0.59, 0.47, 0.32),
        digits=2,
        split="half of the boxed images",
        note="tuned on the other half",
    ),
)
"""Macro accuracy over the eight boxed findings. Most sources print no false positives, so none of these rows tells
whether it was bought with boxes."""

SLIPS = (
    "Table 1 prints a mean of 0.738 for column [1]; the mean of the column is 0.745.",
    "Table 1: Mass and Nodule of column [19] look swapped against other papers' copies of it.",
    "Table 3 divides false positives by the 880 images, Wang et al. by the 984 boxes: as printed they do not compare.",
    "Table 4 counts the PCM's theta in both rows called MultiRes.",
)
"""What is known to be wrong or misleading in the printed tables."""


def rows_of(metric: str) -> list[Published]:
    """The published rows of a metric ("mean AUC", "iobb", "iou"), those that compare first."""
    rows = [row for row in (*CLASSIFICATION, *LOCALIZATION) if row.metric == metric]
    return sorted(rows, key=lambda row: not row.comparable)
