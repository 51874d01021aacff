"""Print the rows of part g of gpu.sh as a table: means over the seeds of each backbone and size.

    python -m benchmarks.gpu_table OUT/g.json.gz ...     # results with other seeds are added

Columns are the metrics of docs/beyond-the-paper.md with 95 % intervals over patients. "Minus the map" is the FROC of
refined maps minus that of the maps before the refiner, paired.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.study.runner import OVER_CENTRE
from benchmarks.study.tables import Runs, mean_over_seeds
from cxr_seam.evaluation.results import (
    BEST_BOX,
    FROC,
    LOOSE_FROC,
    MEAN_AUC,
    MULTIRES,
    REFINED,
    TITLES,
    format_estimate,
)
from cxr_seam.metrics.bootstrap import difference, estimate

METRICS = (MEAN_AUC, FROC, FROC + OVER_CENTRE, LOOSE_FROC, LOOSE_FROC + OVER_CENTRE, BEST_BOX)


def read_studies(paths: list[Path]) -> dict[str, Runs]:
    """Read the rows: "BACKBONE, SIZE pixels, ROW" -> seed -> content of the row's file."""
    groups: dict[str, Runs] = defaultdict(dict)
    for path in paths:
        for study, rows in json.loads(gzip.decompress(path.read_bytes()))["studies"].items():
            backbone, size, seed = study.split(":")
            for name, content in rows.items():
                row = name.removesuffix(f".s{seed}")
                groups[f"{backbone}, {size} pixels, {row}"][int(seed)] = content
    return {name: dict(sorted(runs.items())) for name, runs in groups.items()}


def make_lines(name: str, runs: Runs) -> list[dict[str, Any]]:
    """Make a line for each kind of maps of a row."""
    lines = []
    kinds = list(runs[min(runs)]["maps"])
    for kind in kinds:
        line: dict[str, Any] = {"row": name, "maps": kind, "seeds": " ".join(map(str, runs))}
        for metric in METRICS:
            title = TITLES.get(metric) or f"{TITLES[metric.removesuffix(OVER_CENTRE)]} minus the centred half"
            line[title] = format_estimate(estimate(*mean_over_seeds(runs, kind, metric)))
        for metric in (FROC, LOOSE_FROC) if (kind, MULTIRES in kinds) == (REFINED, True) else ():
            gain = difference(mean_over_seeds(runs, kind, metric), mean_over_seeds(runs, MULTIRES, metric))
            line[f"{TITLES[metric]} minus the map"] = format_estimate(gain)
        lines.append(line)
    return lines


def main() -> None:
    """Print the table as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="g.json.gz of one or more calls")
    lines = [
        line
        for name, runs in sorted(read_studies(parser.parse_args().results).items())
        for line in make_lines(name, runs)
    ]
    pd.DataFrame(lines).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main()
