"""Read the published numbers of ChestX-ray14 from published.csv.

Each line of the file is one printed value, as text with the decimals of its source. Columns: `table` ("literature" for
means over findings, "table_1" to "table_4" for the cells of the paper's tables), `source`, `name` of the model,
`split`, `metric`, `overlap` such as "iobb>0.1", `finding` or "mean", `value`, `comparable` (measured on the official
test split with the same metric: "yes" or "no"), `note`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from ..findings import BOXED_FINDINGS

OFFICIAL, BOXED = "official test list", "880 boxed images"

PAPER, WANG = "D'Souza et al. 2022", "Wang et al. 2017"

PAPER_BOXED_IMAGES, PAPER_BOXES = 880, 984
"""Denominators of the false positives: the paper divides by the images, Wang et al. by the boxes."""

BOXES_OF_FINDING = dict(zip(BOXED_FINDINGS, (180, 146, 153, 123, 85, 79, 120, 98), strict=True))
"""True boxes of each finding in NIH's table."""

ERRATA = (
    "Table 1 prints a mean of 0.738 for column [1]; the mean of the column is 0.745.",
    "Table 1: Mass and Nodule of column [19] look swapped against other papers' copies of it.",
    "Table 3 divides false positives by the 880 images, Wang et al. by the 984 boxes: as printed they do not compare.",
    "Table 4 counts the PCM's theta in both rows called MultiRes.",
)
"""Known errors of the printed tables, and numbers that mislead."""


@dataclass(frozen=True)
class Published:
    """A published model; `values` are its printed means over the findings by overlap ("" for the AUC)."""

    source: str
    name: str
    split: str
    comparable: bool
    note: str
    values: dict[str, str]


@cache
def _lines() -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name("published.csv"), dtype=str, keep_default_na=False)


def literature(measure: str) -> list[Published]:
    """List the published models with a mean of one measure, comparable ones first.

    Args:
        measure: "auc", or the accuracy of boxes by "iobb" or "iou".
    """
    lines = _lines()[_lines()["table"] == "literature"]
    lines = lines[lines["metric"] == "auc"] if measure == "auc" else lines[lines["overlap"].str.startswith(measure)]
    models = [
        Published(
            source, name, split, comparable == "yes", note, dict(zip(rows["overlap"], rows["value"], strict=True))
        )
        for (source, name, split, comparable, note), rows in lines.groupby(
            ["source", "name", "split", "comparable", "note"], sort=False
        )
    ]
    return sorted(models, key=lambda model: not model.comparable)


def printed_cells(table: str, *, metric: str, overlap: str = "") -> pd.DataFrame:
    """Return the cells of one of the paper's tables as text, a row a model and a column a finding.

    Args:
        table: "table_1" (metric "auc"), "table_2" ("accuracy"), "table_3" ("false_positives_per_image" of the paper,
            "false_positives_per_box" of Wang et al.) or "table_4" ("milliseconds").
        metric: see `table`.
        overlap: such as "iobb>0.1" for Tables 2 and 3.

    Returns:
        Index (source, name), in the order of the table; empty where the table does not print this metric and overlap.
    """
    lines = _lines()
    lines = lines[(lines["table"] == table) & (lines["metric"] == metric) & (lines["overlap"] == overlap)]
    cells = lines.pivot(index=["source", "name"], columns="finding", values="value")
    order = pd.MultiIndex.from_frame(lines[["source", "name"]].drop_duplicates())
    return cells.reindex(index=order, columns=lines["finding"].unique())


def printed_values(table: str, *, metric: str, overlap: str) -> pd.DataFrame:
    """Return `printed_cells` of the findings with boxes as numbers."""
    return printed_cells(table, metric=metric, overlap=overlap).reindex(columns=list(BOXED_FINDINGS)).astype(float)


def paper_milliseconds() -> dict[str, float]:
    """Return the inference times of Table 4 by model: one 256 x 256 image on a P100."""
    cells = printed_cells("table_4", metric="milliseconds")
    return {name: float(value) for (_, name), value in cells.iloc[:, 0].items()}
