"""What others report on ChestX-ray14, each value with its source, split and metric, and whether it compares.

Two values compare where both were measured on the official test split with the same metric. What does not is marked
and never ranked. Values are those that the sources print; a cell that is not at hand is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..findings import BOXED_FINDINGS

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
    name: str, measure: str, thresholds: Sequence[str], values: Sequence[float], *, digits: int = 3, **metadata: str
) -> Published:
    split = metadata.get("split", BOXED)
    row = dict(zip(thresholds, values, strict=True))
    source, note = metadata.get("source", name), metadata.get("note", "")
    return Published(name, source, split, measure, row, split == BOXED, note, digits)


def _densenet(name: str, iobb: Sequence[float], iou: Sequence[float], note: str = "own map construction") -> tuple:
    """The two rows of a map of the DenseNet121 study, which prints IoU with two decimals."""
    metadata = {"source": "DenseNet121 study", "note": note}
    return _located(name, "iobb", _IOBB, iobb, **metadata), _located(name, "iou", _IOU, iou, digits=2, **metadata)


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


TABLE_1_COLUMNS = (
    "Standard ResNet50 [1]",
    "Multi-resolution ResNet50 [19]",
    "MobileNetV2 [25]",
    "Standard ResNet50",
    "MultiRes-ResNet50",
    "Standard EfficientNetB4",
    "MultiRes-EfficientNetB4",
)
"""[1] is Wang et al. 2017, [19] Yao et al. 2018, [25] Souid et al. 2021; the last four are the authors' own."""


PAPER_AUC = {
    "Atelectasis": (0.700, 0.733, 0.794, 0.751, 0.752, 0.738, 0.743),
    "Cardiomegaly": (0.810, 0.856, 0.885, 0.868, 0.883, 0.863, 0.845),
    "Effusion": (0.759, 0.806, 0.876, 0.817, 0.817, 0.809, 0.811),
    "Infiltration": (0.661, 0.673, 0.711, 0.633, 0.627, 0.643, 0.617),
    "Mass": (0.693, 0.777, 0.826, 0.796, 0.809, 0.762, 0.763),
    "Nodule": (0.669, 0.718, 0.743, 0.732, 0.718, 0.711, 0.704),
    "Pneumonia": (0.658, 0.684, 0.733, 0.705, 0.701, 0.659, 0.673),
    "Pneumothorax": (0.799, 0.805, 0.880, 0.844, 0.848, 0.834, 0.839),
    "Consolidation": (0.703, 0.711, 0.790, 0.734, 0.730, 0.725, 0.729),
    "Edema": (0.805, 0.806, 0.884, 0.845, 0.844, 0.835, 0.828),
    "Emphysema": (0.833, 0.842, 0.891, 0.925, 0.920, 0.862, 0.862),
    "Fibrosis": (0.786, 0.743, 0.762, 0.822, 0.806, 0.816, 0.793),
    "Pleural_Thickening": (0.684, 0.724, 0.763, 0.739, 0.761, 0.741, 0.726),
    "Hernia": (0.872, 0.775, 0.811, 0.935, 0.891, 0.931, 0.910),
    "Mean": (0.738, 0.761, 0.810, 0.796, 0.793, 0.781, 0.774),
}
"""Table 1: area under the ROC curve on the test set; a row a finding, a column each of `TABLE_1_COLUMNS`."""


PAPER_ACCURACY = {
    "Standard ResNet50": (0.428, 0.788, 0.510, 0.220, 0.365, 0.114, 0.242, 0.143),
    "MultiRes-ResNet50": (0.378, 0.829, 0.588, 0.122, 0.518, 0.241, 0.208, 0.173),
    "MultiRes-ResNet50 + PCM": (0.450, 0.829, 0.686, 0.195, 0.553, 0.177, 0.275, 0.173),
    "Standard EfficientNetB4": (0.456, 0.795, 0.680, 0.374, 0.271, 0.000, 0.108, 0.204),
    "MultiRes-EfficientNetB4": (0.506, 0.699, 0.660, 0.496, 0.435, 0.203, 0.267, 0.214),
    "MultiRes-EfficientNetB4 + PCM": (0.278, 0.685, 0.601, 0.390, 0.365, 0.038, 0.242, 0.204),
}
"""Table 2: share of the true boxes that some predicted box overlaps, IoBB > 0.1; columns are `BOXED_FINDINGS`."""


PAPER_FALSE_POSITIVES = {
    "Standard ResNet50": (0.580, 0.115, 0.591, 0.615, 0.276, 0.550, 0.361, 0.355),
    "MultiRes-ResNet50": (0.753, 0.130, 0.817, 0.969, 0.360, 0.430, 0.311, 0.384),
    "MultiRes-ResNet50 + PCM": (0.467, 0.106, 0.686, 1.103, 0.292, 0.278, 0.228, 0.302),
    "Standard EfficientNetB4": (0.720, 1.180, 1.018, 0.903, 0.848, 0.773, 0.332, 1.434),
    "MultiRes-EfficientNetB4": (0.443, 0.091, 0.600, 0.755, 0.300, 0.251, 0.199, 0.281),
    "MultiRes-EfficientNetB4 + PCM": (0.762, 0.394, 0.984, 0.767, 0.403, 0.384, 0.241, 0.331),
}
"""Table 3: false positives divided by the 880 boxed images."""


PAPER_BOXED_IMAGES, PAPER_BOXES = 880, 984


BOXES_OF_FINDING = dict(zip(BOXED_FINDINGS, (180, 146, 153, 123, 85, 79, 120, 98), strict=True))
"""True boxes of each finding in NIH's table."""


WANG_ACCURACY = {
    "iobb>0.1": (0.7277, 0.9931, 0.7124, 0.7886, 0.4352, 0.1645, 0.7500, 0.4591),
    "iou>0.1": (0.6888, 0.9383, 0.6601, 0.7073, 0.4000, 0.1392, 0.6333, 0.3775),
}
"""Wang et al. 2017, ResNet50, by finding."""


WANG_FALSE_POSITIVES_PER_BOX = {
    "iobb>0.1": (0.8323, 0.3506, 0.7998, 0.5589, 0.6423, 0.6047, 0.9055, 0.4776),
    "iou>0.1": (0.8943, 0.5996, 0.8343, 0.6250, 0.6666, 0.6077, 1.0203, 0.4949),
}
"""Theirs are divided by the 984 boxes, not by the 880 images."""


PAPER_MILLISECONDS = {
    "resnet50": 15.51,
    "multires_resnet50": 16.93,
    "efficientnet_b4": 20.29,
    "multires_efficientnet_b4": 23.46,
}
"""Table 4: inference time for an image of 256 x 256 on a P100. Its parameters are `models.PAPER_PARAMETERS`."""
