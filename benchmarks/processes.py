"""One process and two, side by side: the losses of the same recipe, films and effective batch.

    python benchmarks/processes.py [--films 192] [--size 64] [--epochs 3] [--seed 0] [--precision float64]

Both phases of a MultiRes EfficientNet-Lite0 from its ImageNet weights are trained on synthetic films on the CPU:
batches of 32, three of them an update, the paper's learning rate. Stochastic depth is off, since each process would
draw its own.

- one: a process with one thread.
- two: two such processes that PyTorch's launcher starts (gloo).
- two threads: one process that adds up with two threads: as much as rounding alone does to such a run.

In float32 rounding grows with every update: Adam divides even the smallest gradients by their own size. In float64 it
stays unseen, and whatever else differed would be seen.
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
from cxr_seam.data.nih import load_metadata
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
    """The paper's two phases with a small network and few epochs."""
    paper = get_recipe("multires_resnet50")
    phase = replace(paper.classifier_stage, epochs=epochs)
    first = replace(
        paper, name="first", model="multires_efficientnet_lite0", image_size=size, classifier_stage=phase, seed=seed
    )
    return first, add_seam_stage(first, SeamStage(epochs=1))


def objective_without_stochastic_depth(model: LocalizationModel, recipe: Recipe) -> nn.Module:
    """The recipe's objective on a model that draws nothing while it trains."""
    for module in model.modules():
        if isinstance(module, EfficientNetBlocks):
            module.drop_rates = (0.0,) * len(module.drop_rates)
    return make_objective(model, recipe)


def work(data: Path, folder: Path, *, precision: str, options: argparse.Namespace) -> None:
    """Train both phases in as many processes as were launched."""
    if precision == "float64":
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
    training.make_objective = objective_without_stochastic_depth
    tables, cache = load_metadata(data), ImageCache.open(data / "store")
    names = cache.image_index[: options.films]
    films = [ChestXrayDataset(cache, tables, image_index=part) for part in (names, names[-options.films // 4 :])]
    for recipe in recipes(options.size, options.epochs, options.seed):
        fit(recipe, folder, train_set=films[0], val_set=films[1])


def curve(folder: Path) -> pd.DataFrame:
    """A row an epoch, of both phases."""
    records = [record for name in ("first", "first_pcm") for record in read_history(folder, name)]
    return pd.DataFrame(records).set_index(["stage", "epoch"])[list(MEASURED)].astype(float)


def main() -> None:
    """Launch and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=192)
    parser.add_argument("--size", type=int, default=64, help="side of the films in pixels")
    parser.add_argument("--epochs", type=int, default=3, help="of the first phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=PRECISIONS, help="one alone")
    parser.add_argument("--child", nargs=4, metavar=("DATA", "FOLDER", "PRECISION", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        data, folder, precision, threads = options.child
        torch.set_num_threads(int(threads))
        work(Path(data), Path(folder), precision=precision, options=options)
        return
    with tempfile.TemporaryDirectory() as place:
        data = Path(place, "data")
        write_demo_data(data, patients=options.films // 2, seed=0, progress=False)
        prepare(data / "images", data / "store", size=options.size, progress=False)
        for precision in [options.precision] if options.precision else PRECISIONS:
            curves = {}
            for name, (processes, threads) in CANDIDATES.items():
                launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
                folder = Path(place, f"{precision} {name}")
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
