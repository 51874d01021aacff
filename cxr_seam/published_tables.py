"""The cells of Tables 1 to 4 as the paper prints them, and Wang et al.'s localization by finding.

Source: D'Souza et al. 2022 and Wang et al. 2017. Printed slips are left as they stand and told in
`published.SLIPS`. Findings are in NIH's order.
"""

from __future__ import annotations

from .findings import BOXED_FINDINGS

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
