"""Explain the PCM and compare refiners with controls on a trained MultiRes model (docs/pcm.md).

    python -m benchmarks.study.refinement --data demo --output runs/demo --multires runs/demo/models/multires_demo.best.safetensors
    python -m benchmarks.study.refinement --data runs/study/data --output runs/refinement --multires runs/strong.s0.safetensors

Two refiners are trained, the paper's PCM and the residual PCM, both with the SEAM stage of the preset `small`. Then the
script measures three things: how uniform the affinity is, the ECR loss of some refiners, and the boxes of refined maps
beside those of maps that no affinity has refined, as they are and at equal areas. Tables and figures are in
OUTPUT/refinement/RECIPE. With several checkpoints, of one recipe and different seeds, OUTPUT/refinement has the means of
all in boxes.csv and equal_area.csv, and with two of them agreement.csv: how often the boxes of both meet on labelled
images, a comparison without any true box (`choose`). A stopped training continues.
"""  # noqa: E501 (commands stay in one line)

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from benchmarks.study.runner import Study, Values, measure_boxes, with_findings
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.transforms import eval_transform
from cxr_seam.evaluation.methods import Targets
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.io import atomic_write
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP
from cxr_seam.models.checkpoint import best_path, load_checkpoint, read_header
from cxr_seam.models.multires import LocalizationModel
from cxr_seam.presets import SMALL_PCM
from cxr_seam.recipes import Recipe, add_seam_stage
from cxr_seam.training.fit import fit
from cxr_seam.visualize.figures import draw_affinity, finish
from cxr_seam.workspace import Workspace

from .boxes import average, collect_boxes, plot_boxes, reading_options, tabulate
from .candidates import CONSTANT, PAPER, RESIDUAL, Models
from .choose import compare
from .equal_area import equal_areas
from .explain import measure_affinity, measure_ecr, untrained_pcm

AFFINITY_IMAGES, ECR_IMAGES = 64, 256


def train_refiners(run: Workspace, multires: Path, *, folder: Path, most: int | None) -> Models:
    """Train the paper's PCM and the residual PCM on top of a MultiRes checkpoint; return both models.

    A refiner that the checkpoint was trained with stays. `most` limits the number of training images.
    """
    recipe = read_header(multires).recipe
    first = best_path(folder, recipe.name)
    if not first.exists():
        with atomic_write(first) as temporary:
            shutil.copyfile(multires, temporary)
    models = {}
    for name in (PAPER, RESIDUAL):
        if recipe.seam_stage is not None and recipe.refiner == name:
            models[name], _ = load_checkpoint(multires)
            continue
        plain = {"tta_scales": (1.0,), "tta_flip": False, "cam_baseline": "zero", "map_prior": "none"}
        stage = replace(add_seam_stage(recipe, SMALL_PCM), name=f"{recipe.name}_{name}", refiner=name, **plain)
        train_set, val_set = run.train_val_datasets(stage)
        few = sample_images(run, val_set, most=ECR_IMAGES)  # with one epoch there is no best one to choose
        fit(stage, folder, train_set=sample_images(run, train_set, most=most), val_set=few)
        models[name], _ = load_checkpoint(best_path(folder, stage.name))
    return models


def sample_images(run: Workspace, dataset: ChestXrayDataset, *, most: int | None) -> ChestXrayDataset:
    """Return at most `most` images of a dataset, spread evenly; None: all."""
    if most is None or most >= len(dataset):
        return dataset
    names = [dataset.image_index[i * len(dataset) // most] for i in range(most)]
    return ChestXrayDataset(dataset.cache, run.metadata(), image_index=names)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="demo, or the folder of a dataset (%(default)s)")
    parser.add_argument("--preset", default="demo", help="its image size chooses the image cache (%(default)s)")
    parser.add_argument("--output", default="runs/demo", help="folder of a run with this data (%(default)s)")
    parser.add_argument(
        "--multires", type=Path, nargs="+", required=True, help="checkpoints of a MultiRes model, one for each seed"
    )
    parser.add_argument("--train-images", type=int, help="train the refiners on so many images; by default all")
    parser.add_argument("--n-bootstrap", type=int, default=N_BOOTSTRAP, help="bootstrap replicates (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print the tables and write them with the figures."""
    chosen = parse(arguments)
    run = Workspace.open(data=chosen.data, preset=chosen.preset, output_dir=chosen.output)
    run.prepare_data()
    folder = run.output_dir / "refinement"
    recipes = [read_header(path).recipe for path in chosen.multires]
    folders = [folder / recipe.name for recipe in recipes]
    models = [
        train_refiners(run, path, folder=each / "models", most=chosen.train_images)
        for path, each in zip(chosen.multires, folders, strict=True)
    ]
    val_sets = [run.train_val_datasets(recipe)[1] for recipe in recipes]
    options = [reading_options(*each, recipe=r) for *each, r in zip(models, val_sets, recipes, strict=True)]
    studies = [Study(run, each, lambda *_: {}, chosen.n_bootstrap) for each in folders]
    labelled = [with_findings(*each) for each in zip(studies, val_sets, strict=True)]
    measured = [
        measure(each, study, recipe=recipe, options=read, labelled=images)
        for each, study, recipe, read, images in zip(models, studies, recipes, options, labelled, strict=True)
    ]
    if len(models) > 1:
        for name in measured[0]:
            show(name, tabulate(average([each[name] for each in measured])), folder)
    if len(models) == 2:
        show("agreement", compare(models, labelled, options, recipes=recipes), folder)


def measure(
    models: Models, study: Study, *, recipe: Recipe, options: dict[str, HeatmapOptions], labelled: ChestXrayDataset
) -> dict[str, dict[str, Values]]:
    """Measure one MultiRes model with its refiners.

    Args:
        models: with both refiners.
        study: with the images that have true boxes.
        recipe: of the model.
        options: how each candidate is read.
        labelled: validation images with a finding.

    Returns:
        The metrics of each candidate's boxes: "boxes" as they are, "equal_area" at equal areas (`equal_areas`).
    """
    few = sample_images(study.run, study.targets.dataset, most=AFFINITY_IMAGES)
    show("affinity", measure_affinity(models[PAPER], few, size=recipe.image_size).round(3), study.folder)
    boxes = collect_boxes(models, study, options=options, recipe=recipe)
    scaled = equal_areas({name: boxes[name] for name in options}, like=CONSTANT)
    measured = {
        kind: {name: measure_boxes(study, table)[0] for name, table in tables.items()}
        for kind, tables in (("boxes", boxes), ("equal_area", scaled))
    }
    for kind, values in measured.items():
        show(kind, tabulate(values), study.folder)
    plot_boxes(measured["boxes"], study.folder / "boxes.png")
    some = sample_images(study.run, labelled, most=ECR_IMAGES)
    show("ecr", measure_ecr(models, SMALL_PCM, some, size=recipe.image_size).round(3), study.folder)
    plot_first_box(models[PAPER], study.targets, path=study.folder / "affinity.png", size=recipe.image_size)
    return measured


def show(name: str, table: pd.DataFrame | pd.Series, folder: Path) -> None:
    """Print a table and write it to FOLDER/NAME.csv."""
    print(f"\n{folder.name}, {name}\n{table.to_string()}", flush=True)
    with atomic_write(folder / f"{name}.csv") as temporary:
        table.to_csv(temporary)


def plot_first_box(model: LocalizationModel, targets: Targets, *, path: Path, size: int) -> None:
    """Plot the affinity of an untrained PCM for the image and finding of the first true box."""
    box, dataset = targets.boxes.iloc[0], targets.dataset
    images = eval_transform(dataset.load([dataset.image_index.index(box["image_index"])])[0], size=size)
    model.refiner = untrained_pcm(model)
    with torch.inference_mode():
        figure = draw_affinity(model, images, finding=dataset.findings.index(box["finding"]))
    finish(figure, path)


if __name__ == "__main__":
    main()
