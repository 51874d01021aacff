"""docs/beyond-the-paper.md shows the values of the CSV files beside it, which the study wrote."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from helpers.batches import ROOT

from benchmarks.study.runner import IOBB_BEST
from benchmarks.study.tables import FALSE_POSITIVES
from cxr_seam.evaluation.results import BEST_BOX, LOOSE_BEST_BOX, LOOSE_FROC, MEAN_AUC

PAGE = (ROOT / "docs" / "beyond-the-paper.md").read_text()
TABLES = {"Results": "table.csv", "Effect of each part": "table.csv", "Shorter runs": "parts.csv"}
"""Heading -> CSV file."""


def section(heading: str) -> str:
    return PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]


def read_table(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "docs" / "beyond-the-paper" / name).fillna({"maps": ""}).set_index(["row", "maps"])


def text(line: pd.Series, metric: str) -> str:
    value, low, high = (line.get(f"{metric}.{part}", np.nan) for part in ("value", "low", "high"))
    return "" if np.isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})"


@pytest.mark.parametrize(("heading", "table"), TABLES.items())
def test_values(heading: str, table: str) -> None:
    lines = read_table(table)
    rows = re.findall(r"^\| `([\w ,.]+)`(?:, (\w[\w +]*))? \| (.*) \|$", section(heading), re.MULTILINE)
    assert len(rows) >= 2
    for name, maps, cells in rows:
        line = lines.loc[(name, maps)]
        expected = [text(line, metric) for metric in (MEAN_AUC, LOOSE_FROC, LOOSE_BEST_BOX)]
        for metric in (IOBB_BEST, BEST_BOX):
            value, cost = (line[f"{column}.value"] for column in (metric, FALSE_POSITIVES[metric]))
            expected.append(f"{value:.3f} at {cost:.2f}")
        assert [cell.strip() for cell in cells.split("|")] == expected


def test_differences() -> None:
    pairs = []
    for heading, table in TABLES.items():
        lines = read_table(table)
        row = r"^\| `([\w.]+)`, ([\w +]+) minus `([\w.]+)`, ([\w +]+) \| (.*) \|$"
        for name, maps, other, kind, cells in re.findall(row, section(heading), re.MULTILINE):
            line = lines.loc[(name, maps)]
            metrics = (MEAN_AUC, LOOSE_FROC, LOOSE_BEST_BOX, BEST_BOX)
            expected = [text(line, f"difference.{kind}.{metric}") for metric in metrics]
            assert line["against"] == other and all(expected[:3])
            assert [cell.strip() for cell in cells.split("|")] == expected
            pairs.append((name, other))
    assert ("strong", "paper") in pairs and len(set(pairs)) > 4


def test_agreement() -> None:
    lines = read_table("table.csv")
    row = r"^\| `([\w.]+)`, ([\w +]+) \| ([\d.-]+) \| (.*) \|$"
    rows = re.findall(row, section("Choosing a rule for boxes by labels alone"), re.MULTILINE)
    assert len(rows) >= 3
    for name, maps, gain, lost in rows:
        line = lines.loc[(name, maps)]
        assert (gain, lost.strip()) == (f"{line['agreement']:.3f}", text(line, "confidence_lost"))
