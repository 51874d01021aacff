"""Evaluate models that were trained on NIH's labels on the boxes and outlines of ChestX-Det (docs/external-test.md).

    python benchmarks/external_test.py --models runs/real/models --preset small --output runs/external
    python benchmarks/external_test.py --checkpoint runs/strong.s0.safetensors --output runs/external

ChestX-Det are boxes and outlines that three radiologists drew on NIH images. Nothing is trained on them or chosen by
them. There are four sets of images: those of NIH's test list, and those of its train_val list, whose NIH labels the
models may have been trained on; each with at least 256 pixels, and known at 128 pixels only.
"""

from __future__ import annotations

import argparse
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cxr_seam.data.cache import ImageCache, prepare
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.base import DatasetMetadata
from cxr_seam.data.layouts.chestx_det import LINES_FILE, load_metadata
from cxr_seam.data.layouts.nih import TEST_LIST, TRAIN_VAL_LIST
from cxr_seam.evaluation import tables
from cxr_seam.evaluation.evaluate import evaluate_models, find_targets, load_predictors, shared_findings
from cxr_seam.evaluation.results import MULTIRES, REFINED, format_estimate
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP
from cxr_seam.presets import get_preset
from cxr_seam.recipes import Recipe

LARGE, SMALL = ("images", "images_256"), ("images_128",)
"""Folders of images of at least 256 pixels, and of images known at 128 pixels only."""


def load_annotations(data: Path, annotations: Path, folder: Path) -> DatasetMetadata:
    """Read ChestX-Det's annotations beside NIH's two lists, which split the images."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, names in ((annotations, [LINES_FILE]), (data, [TRAIN_VAL_LIST, TEST_LIST])):
        for path in (source / f"{name}{suffix}" for name in names for suffix in ("", ".gz")):
            if path.exists():
                shutil.copyfile(path, folder / path.name)
    return load_metadata(folder)


def image_sets(metadata: DatasetMetadata, data: Path) -> dict[str, list[str]]:
    """Return the names of the annotated images of each set."""
    present = {
        size: {f"{path.stem}.png" for folder in folders for path in (data / folder).iterdir()}
        for size, folders in (("large", LARGE), ("small", SMALL))
    }
    parts = {"test list": metadata.test, "train_val list": metadata.train_val}
    return {
        f"{part}, {title}": [name for name in names if name in chosen]
        for title, chosen in (("256 pixels", present["large"]), ("128 pixels", present["small"] - present["large"]))
        for part, names in parts.items()
    }


def prepare_images(data: Path, metadata: DatasetMetadata, folder: Path, *, size: int) -> ImageCache:
    """Prepare the annotated images at `size` pixels; of two copies of an image the larger one."""
    names = [*metadata.train_val, *metadata.test]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every small copy of a large image would be told
        return prepare([data / name for name in (*LARGE, *SMALL)], folder, size=size, names=names)


def evaluate_set(
    predictors: dict[str, Predictor], metadata: DatasetMetadata, cache: ImageCache, names: list[str], *, seed: int = 0
) -> dict:
    """Evaluate all models and baselines on some images; the findings are those of both label sets."""
    part = replace(metadata, test=tuple(names), boxes=metadata.boxes[metadata.boxes["image_index"].isin(names)])
    dataset = ChestXrayDataset(cache, part, image_index=names)
    targets = find_targets(part, dataset, findings=shared_findings(predictors, part))
    return evaluate_models(predictors, part, dataset, targets, n_bootstrap=N_BOOTSTRAP, seed=seed).results


def model_name(recipe: Recipe) -> str:
    """Name the model of a recipe, as `load_predictors` does."""
    return MULTIRES if recipe.seam_stage is None else REFINED


def by_finding(results: dict) -> pd.DataFrame:
    """Tabulate the accuracy of the best box at IoU > 0.3 by finding."""
    return pd.DataFrame(
        {
            method: {
                name: format_estimate(row["accuracy"])
                for name, row in scores["best_box"]["iou>0.3"]["findings"].items()
            }
            for method, scores in results["localization"].items()
        }
    ).T


def main() -> None:
    """Evaluate every set and print its tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", type=Path, default=Path("runs/real/models"), help="folder of the checkpoints")
    options.add_argument("--preset", default="small")
    options.add_argument("--checkpoint", type=Path, help="one MultiRes checkpoint instead of a preset's models")
    options.add_argument("--data", type=Path, default=Path("../shared/nih"), help="folder with NIH's lists and images")
    options.add_argument("--annotations", type=Path, default=Path("../shared/chestxdet"))
    options.add_argument("--output", type=Path, default=Path("runs/external"))
    chosen = options.parse_args()
    if chosen.checkpoint:
        predictor = Predictor.load(chosen.checkpoint)
        predictors = {model_name(predictor.recipe): predictor}
    else:
        predictors = load_predictors(get_preset(chosen.preset), chosen.models)
    metadata = load_annotations(chosen.data, chosen.annotations, chosen.output / "tables")
    size = next(iter(predictors.values())).cache_size
    cache = prepare_images(chosen.data, metadata, chosen.output / f"cache_{size}", size=size)
    for title, images in image_sets(metadata, chosen.data).items():
        results = evaluate_set(predictors, metadata, cache, images)
        method = next(iter(results["localization"].values()))
        boxes = sum(row["boxes"] for row in method["best_box"]["iou>0.3"]["findings"].values())
        print(f"\n{title}: {len(images)} images, {boxes} boxes\n")
        for table in (tables.summary(results), tables.differences(results), tables.masks(results), by_finding(results)):
            print(table.to_string(na_rep=""), end="\n\n")


if __name__ == "__main__":
    main()
