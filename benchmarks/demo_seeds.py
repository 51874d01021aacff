"""Train and evaluate the demo with several training seeds, to see how much its table depends on the seed.

    python benchmarks/demo_seeds.py --seeds 0 1 2

The synthetic images are the same for all seeds; initial weights, batches and augmentation differ. Seed 0 is the demo of
`make demo`. Each seed takes about as long as `make demo`; a run that was stopped continues.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import replace
from pathlib import Path

import measure
import pandas as pd

import cxr_seam as cxr
from cxr_seam.evaluation.results import load_results, save_results


def run_seed(seed: int, output_dir: Path) -> pd.DataFrame:
    """Train the three models of the demo with one seed, evaluate them and return their metrics (methods x metrics)."""
    run = cxr.Workspace.open(data="demo", preset="demo", output_dir=output_dir / str(seed))
    run = replace(run, recipes=tuple(replace(recipe, seed=seed) for recipe in run.recipes))
    if not run.results.exists():
        run.prepare_data()
        cxr.train_missing(run)
        save_results(cxr.evaluate(run).results, run.results)
    return cxr.tables.summary(load_results(run.results))


def main() -> None:
    """Print a table for each seed, then the least and the largest value over the seeds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--output", type=Path, default=Path("runs/demo-seeds"))
    chosen = options.parse_args()
    measure.use_two_cores()
    machine = measure.machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, Python {platform.python_version()}, PyTorch {machine['torch']}")
    tables = {}
    for seed in chosen.seeds:
        tables[seed] = run_seed(seed, chosen.output)
        print(f"\nseed {seed}\n{tables[seed].to_string(na_rep='')}")
    values = pd.concat({seed: table.map(first_number) for seed, table in tables.items()})
    spread = values.groupby(level=1, sort=False).agg(
        lambda column: f"{column.min():.3f} to {column.max():.3f}" if column.notna().any() else ""
    )
    print(f"\nleast to largest of {len(tables)} seeds\n{spread.to_string(na_rep='')}")


def first_number(cell: object) -> float:
    """Return the number at the start of a cell such as "0.612 (0.551-0.690)"; NaN for an empty one."""
    return pd.to_numeric(str(cell).split(" ")[0], errors="coerce")


if __name__ == "__main__":
    main()
