"""docs/beyond-the-paper.md shows the values of the CSV file beside it, which the study wrote."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from helpers.batches import ROOT

from benchmarks.study.runner import OVER_CENTRE
from cxr_seam.evaluation.results import BEST_BOX, FROC, LOOSE_FROC, MEAN_AUC

PAGE = (ROOT / "docs" / "beyond-the-paper.md").read_text()
FOLDER = ROOT / "docs" / "beyond-the-paper"
LINES = pd.read_csv(FOLDER / "table.csv").fillna({"maps": ""}).set_index(["row", "maps"])
COLUMNS = (MEAN_AUC, FROC, FROC + OVER_CENTRE, LOOSE_FROC, LOOSE_FROC + OVER_CENTRE, BEST_BOX)


def text(line: pd.Series, metric: str) -> str:
    value, low, high = (line.get(f"{metric}.{part}", np.nan) for part in ("value", "low", "high"))
    return "" if np.isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def test_values() -> None:
    rows = re.findall(r"^\| `([\w ,.]+)`(?:, (\w[\w +]*))? \| (.*) \|$", PAGE, re.MULTILINE)
    assert {"strong", "paper"} < {name for name, *_ in rows}
    for name, maps, cells in rows:
        line = LINES.loc[(name, maps)]
        assert [cell.strip() for cell in cells.split("|")] == [text(line, metric) for metric in COLUMNS]


def test_values_of_the_new_seeds() -> None:
    lines = pd.read_csv(FOLDER / "gpu_seeds.csv", dtype=str).set_index(["row", "maps"])
    rows = re.findall(r"^\| `(\w+)`, ([\w +]+), four new seeds \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 2
    for name, maps, cells in rows:
        line = lines.loc[(f"efficientnet_lite0, 128 pixels, {name}", maps)]
        values = [re.sub(r"(?<=\d)-(?=\d)", " to ", line[column]) for column in lines.columns[1:7]]
        assert cells.split(" | ") == values


def test_strong_beats_the_centred_half() -> None:
    """The claim of the first paragraph, and that the paper's recipe has no such interval above 0."""
    for metric in (FROC, LOOSE_FROC):
        assert LINES.loc[("strong_joint", "MultiRes + PCM"), f"{metric}{OVER_CENTRE}.low"] > 0
        assert not LINES.loc[("paper", "MultiRes")].get(f"{metric}{OVER_CENTRE}.low", -1) > 0


def test_page_is_short() -> None:
    """At most 600 words, without the table and the commands."""
    without_commands = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    prose = re.sub(r"^\|.*$", "", without_commands, flags=re.MULTILINE)
    assert len(prose.split()) <= 600
