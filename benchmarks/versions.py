"""Compare two checkouts: run one benchmark in both by turns and print the ratio of each figure, new over old.

    python benchmarks/versions.py ../old . --script pcm --repeat 3 [OPTIONS OF THE SCRIPT]

Both run with this Python and its packages. Rows are matched by their order in the tables, since names of columns and
candidates may have changed between the versions. A ratio of seconds below 1 is faster; of images per second, slower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

NOT_TIMED = {"N", "batch", "size", "images", "count", "threads"}


def run(checkout: Path, script: str, options: list[str]) -> dict[tuple[int, int, int], tuple[str, float]]:
    """Run a benchmark in a checkout and return its float figures by (table, row, column) with a readable name."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, f"benchmarks/{script}.py", "--json", *options]
    result = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{script} in {checkout} ended with {result.returncode}:\n{result.stderr}")
    return dict(figures(json.loads(result.stdout.splitlines()[-1])))


def figures(report: dict[str, Any]):  # noqa: ANN201 (a generator of pairs)
    """Yield ((table, row, column), (name, value)) of each float that a benchmark reports."""
    for t, (title, rows) in enumerate(report["tables"].items()):
        if "ratio" in title.lower():
            continue
        for r, row in enumerate(rows):
            words = " ".join(str(value) for value in row.values() if not isinstance(value, float))
            for c, (column, value) in enumerate(row.items()):
                if isinstance(value, float) and column not in NOT_TIMED and value:
                    yield (t, r, c), (f"{words}: {column}", value)


def main() -> None:
    """Run both checkouts by turns and print one line for each figure that both report."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("old", type=Path)
    options.add_argument("new", type=Path)
    options.add_argument("--script", required=True, help="name of a benchmark in the new checkout, such as pcm")
    options.add_argument("--old-script", help="its name in the old checkout, where it differs")
    options.add_argument("--repeat", type=int, default=3, help="how often each checkout runs (%(default)s)")
    chosen, rest = options.parse_known_args()
    pairs = []
    for number in range(chosen.repeat):
        sides = [(chosen.old, chosen.old_script or chosen.script), (chosen.new, chosen.script)]
        found = {checkout: run(checkout.resolve(), script, rest) for checkout, script in sides[:: 1 - 2 * (number % 2)]}
        pairs.append((found[chosen.old], found[chosen.new]))
    for key in sorted(set.intersection(*({*old} & {*new} for old, new in pairs))):
        ratios = [new[key][1] / old[key][1] for old, new in pairs]
        name, value = pairs[0][1][key]
        print(f"{statistics.median(ratios):6.3f} ({min(ratios):.3f} to {max(ratios):.3f})  {name}, {value:.4g}")


if __name__ == "__main__":
    main()
