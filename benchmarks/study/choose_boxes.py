"""Compare shares of the mirrored evidence and rules of boxes by the agreement of two models, without any true box.

    python -m benchmarks.study.choose_boxes --output runs/study --models runs/saved --rows strong,strong_joint

The models of a row, ROW.s0.safetensors and ROW.s1.safetensors, were trained from two seeds. On the validation images of
each, both find the findings of the labels. `model_agreement.agreement` is how often the boxes of their unrefined CAMs
meet, above chance. Prints a table and writes it to OUTPUT/choose_boxes.csv. docs/beyond-the-paper.md says what was
chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.findings import XYWH
from cxr_seam.inference.boxes import boxes_from_heatmap
from cxr_seam.inference.extras.moments import local_moment_box, moment_box
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.inference.predictor import Predictor
from cxr_seam.io import atomic_write
from cxr_seam.workspace import Workspace

from .model_agreement import label_table, labelled_heatmaps, mean_gains, mean_table
from .runner import Study, with_findings

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contour, Q 0.8": lambda heatmap: boxes_from_heatmap(heatmap, threshold=0.8).xywh[0],
    "moments": moment_box,
    **{f"local moments, window {w:g}": partial(local_moment_box, window=w) for w in (0.1, 0.2, 0.3, 0.4)},
}
"""Heat map (H, W) with a positive value -> the best box (4,)."""


def best_boxes(
    batches: Sequence[tuple[list[str], Tensor]], options: HeatmapOptions, *, labels: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return the best box of each finding in the labels, for each rule.

    Args:
        batches: image names and CAMs (B, K, h, w).
        options: how CAMs become heat maps.
        labels: index image_index, columns findings, 0 or 1.
    """
    rows: dict[str, list[tuple]] = {rule: [] for rule in RULES}
    for names, cams in batches:
        for name, findings, heatmaps in labelled_heatmaps(names, cams, options, labels=labels):
            for finding, heatmap in zip(findings, heatmaps, strict=True):
                for rule, box in RULES.items() if heatmap.max() > 0 else ():
                    rows[rule].append((name, finding, *box(heatmap)))
    return {rule: pd.DataFrame(found, columns=["image_index", "finding", *XYWH]) for rule, found in rows.items()}


def compare(predictors: Sequence[Predictor], datasets: Sequence[ChestXrayDataset]) -> pd.DataFrame:
    """Tabulate the gain of each share and rule at each IoU, mean over the datasets."""
    gains = []
    for dataset in datasets:
        labels = label_table(dataset)
        maps = [
            [(names, output.cam) for names, output in predictor.forward_dataset(dataset, desc="two models")]
            for predictor in predictors
        ]
        for share in SHARES:
            options = [each.heatmap_options(refined=False)._replace(mirror_share=share) for each in predictors]
            first, second = (best_boxes(*pair, labels=labels) for pair in zip(maps, options, strict=True))
            gains += [
                {"share": share, "rule": rule} | mean_gains(first[rule], second[rule], labels=labels) for rule in RULES
            ]
    return mean_table(gains, ["share", "rule"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the dataset; by default that of the study")
    parser.add_argument("--output", type=Path, default=Path("runs/study"), help="folder of the study (%(default)s)")
    parser.add_argument("--preset", default="small", help="its image size chooses the image cache (%(default)s)")
    parser.add_argument("--models", type=Path, required=True, help="folder of --save-models, with two seeds")
    parser.add_argument("--rows", default="strong,strong_joint", help="names separated by commas (%(default)s)")
    chosen = parser.parse_args(arguments)
    run = Workspace.open(
        data=chosen.data or str(chosen.output / "data"), preset=chosen.preset, output_dir=chosen.output
    )
    study = Study(run, chosen.output, lambda *_: {})
    tables = {}
    for row in chosen.rows.split(","):
        predictors = [Predictor.load(chosen.models / f"{row}.s{seed}.safetensors") for seed in (0, 1)]
        datasets = [with_findings(study, run.train_val_datasets(predictor.recipe)[1]) for predictor in predictors]
        tables[row] = compare(predictors, datasets)
    table = pd.concat(tables, names=["row"])
    print(table.to_string())
    with atomic_write(chosen.output / "choose_boxes.csv") as temporary:
        table.to_csv(temporary)


if __name__ == "__main__":
    main()
