"""Compare the losses of one process and of two, with the same recipe, images and effective batch.

    python benchmarks/processes.py [--images 192] [--size 64] [--epochs 3] [--seed 0] [--precision float64]

Both stages of a MultiRes EfficientNet-Lite0 are trained from ImageNet weights on synthetic images on the CPU: batch
size 32, accumulation of three batches, the paper's learning rate. Stochastic depth is off, because each process would
sample its own.

- one: one process with one thread.
- two: two such processes, started by PyTorch's launcher (gloo).
- two threads: one process with two threads, to show the effect of rounding alone.

In float32, rounding errors grow with every update, because Adam divides even the smallest gradients by their own size.
In float64 they stay small, so any other difference becomes visible.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from cxr_seam.data.cache import ImageCache, prepare
from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.models.backbones import EfficientNetBlocks
from cxr_seam.models.checkpoint import read_history
from cxr_seam.models.multires import LocalizationModel
from cxr_seam.presets import get_recipe
from cxr_seam.recipes import Recipe, SeamStage, add_seam_stage
from cxr_seam.synthetic.dataset import write_demo_data
from cxr_seam.training import fit as training
from cxr_seam.training.fit import fit
from cxr_seam.training.objectives import make_objective

CANDIDATES = {"one": (1, 1), "two": (2, 1), "two threads": (1, 2)}
"""Processes, and threads of each."""
PRECISIONS = ("float32", "float64")
MEASURED = ("train_loss", "validation_loss", "validation_auc")


def recipes(size: int, epochs: int, seed: int) -> tuple[Recipe, Recipe]:
    """Make the paper's two stages with a small network and few epochs."""
    paper = get_recipe("multires_resnet50")
    stage = replace(paper.classifier_stage, epochs=epochs)
    first = replace(
        paper, name="first", model="multires_efficientnet_lite0", image_size=size, classifier_stage=stage, seed=seed
    )
    return first, add_seam_stage(first, SeamStage(epochs=1))


def objective_without_stochastic_depth(model: LocalizationModel, recipe: Recipe) -> nn.Module:
    """Make the objective of a recipe without stochastic depth."""
    for module in model.modules():
        if isinstance(module, EfficientNetBlocks):
            module.drop_rates = (0.0,) * len(module.drop_rates)
    return make_objective(model, recipe)


def work(data: Path, folder: Path, *, precision: str, options: argparse.Namespace) -> None:
    """Train both stages in all launched processes."""
    if precision == "float64":
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
    training.make_objective = objective_without_stochastic_depth
    tables, cache = load_metadata(data), ImageCache.open(data / "cache")
    names = cache.image_index[: options.images]
    chosen = (names, names[-options.images // 4 :])
    train_set, val_set = (ChestXrayDataset(cache, tables, image_index=names) for names in chosen)
    for recipe in recipes(options.size, options.epochs, options.seed):
        fit(recipe, folder, train_set=train_set, val_set=val_set)


def curve(folder: Path) -> pd.DataFrame:
    """Return the history of both stages, a row for each epoch."""
    records = [record for name in ("first", "first_pcm") for record in read_history(folder, name)]
    return pd.DataFrame(records).set_index(["stage", "epoch"])[list(MEASURED)].astype(float)


def main() -> None:
    """Launch the candidates and print their losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--size", type=int, default=64, help="image size in pixels")
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=PRECISIONS, help="one alone")
    parser.add_argument("--child", nargs=4, metavar=("DATA", "FOLDER", "PRECISION", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        data, folder, precision, threads = options.child
        torch.set_num_threads(int(threads))
        work(Path(data), Path(folder), precision=precision, options=options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        write_demo_data(data, patients=options.images // 2, seed=0, progress=False)
        prepare(data / "images", data / "cache", size=options.size, progress=False)
        for precision in [options.precision] if options.precision else PRECISIONS:
            curves = {}
            for name, (processes, threads) in CANDIDATES.items():
                launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
                folder = Path(temporary, f"{precision} {name}")
                command = [
                    sys.executable,
                    *launcher,
                    __file__,
                    *sys.argv[1:],
                    "--child",
                    data,
                    folder,
                    precision,
                    threads,
                ]
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                curves[name] = curve(folder)
            beside = pd.concat(curves, axis=1).swaplevel(axis=1)[list(MEASURED)]
            print(f"\n{precision}\n{beside.to_string(float_format='%.9f', na_rep='')}")
            for name in list(curves)[1:]:
                apart = (curves[name] / curves["one"] - 1).abs().max(axis=1)
                print(f"largest relative difference from one, {name}: {', '.join(f'{v:.1e}' for v in apart)}")


if __name__ == "__main__":
    main()
