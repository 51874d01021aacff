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
from benchmarks.study.tables import METRICS, Runs, mean_over_seeds
from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import (
    BEST_BOX,
    FROC,
    LOOSE_FROC,
    MEAN_AUC,
    MULTIRES,
    REFINED,
    format_estimate,
)
from cxr_seam.metrics.bootstrap import difference, estimate

SHOWN = (MEAN_AUC, FROC, FROC + OVER_CENTRE, LOOSE_FROC, LOOSE_FROC + OVER_CENTRE, BEST_BOX)


def read_studies(paths: list[Path]) -> dict[str, Runs]:
    """Read the rows: "BACKBONE, SIZE pixels, ROW" -> seed -> content of the row's file.

    Raises:
        InputError: there is no row, a seed occurs twice, or seeds were measured on different images.
    """
    groups: dict[str, Runs] = defaultdict(dict)
    for path in paths:
        for study, rows in json.loads(gzip.decompress(path.read_bytes()))["studies"].items():
            backbone, size, seed = study.split(":")
            for file, content in rows.items():
                runs = groups[f"{backbone}, {size} pixels, {file.removesuffix(f'.s{seed}')}"]
                if int(seed) in runs:
                    raise InputError(f"{path} has {file} of {study}, which another file has too; give one of them")
                if any(content["data"] != other["data"] for other in runs.values()):
                    raise InputError(f"{path} has {file} of {study}, measured on other images; print it alone")
                runs[int(seed)] = content
    if not groups:
        raise InputError(f"{', '.join(map(str, paths))}: no row was finished; see log.txt beside it")
    return {name: dict(sorted(runs.items())) for name, runs in groups.items()}


def make_lines(name: str, runs: Runs) -> list[dict[str, Any]]:
    """Make a line for each kind of maps of a row."""
    lines = []
    kinds = list(runs[min(runs)]["maps"])
    for kind in kinds:
        line: dict[str, Any] = {"row": name, "maps": kind, "seeds": " ".join(map(str, runs))}
        line |= {METRICS[m]: format_estimate(estimate(*mean_over_seeds(runs, kind, m))) for m in SHOWN}
        if kind == REFINED and MULTIRES in kinds:
            for metric in (FROC, LOOSE_FROC):
                gain = difference(mean_over_seeds(runs, kind, metric), mean_over_seeds(runs, MULTIRES, metric))
                line[f"{METRICS[metric]}, minus the map"] = format_estimate(gain)
        lines.append(line)
    return lines


def main() -> None:
    """Print the table as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="g.json.gz of one or more calls")
    try:
        studies = read_studies(parser.parse_args().results)
    except InputError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    lines = [line for name, runs in sorted(studies.items()) for line in make_lines(name, runs)]
    pd.DataFrame(lines).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main()
