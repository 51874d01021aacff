"""Compare maps at equal box sizes: larger boxes alone reach an IoU of 0.1 more often, whatever map they come from.

A map with less contrast gives larger boxes, so a gain may be a matter of size. Here the boxes of each candidate and
finding are scaled about their centres until their median area is that of another candidate.
"""

from __future__ import annotations

import pandas as pd

from cxr_seam.findings import ORIGINAL_SIZE

STEPS = 30
"""Bisections of the factor between 0 and `LARGEST`."""
LARGEST = 8.0


def equal_areas(boxes: dict[str, pd.DataFrame], *, like: str) -> dict[str, pd.DataFrame]:
    """Scale the boxes of each candidate to the median areas of the candidate `like`, finding by finding.

    Args:
        boxes: candidate -> table with the columns finding, x, y, w, h in pixels of an image of `ORIGINAL_SIZE`.
        like: one of the candidates.

    Returns:
        Tables with the same rows; boxes are cut at the edges of the image. Findings without a box of `like` stay.
    """
    areas = {finding: median_area(rows) for finding, rows in boxes[like].groupby("finding")}
    scaled = {}
    for name, table in boxes.items():
        parts = [
            scale_to(rows, areas[finding]) if finding in areas else rows for finding, rows in table.groupby("finding")
        ]
        scaled[name] = pd.concat(parts).loc[table.index] if parts else table
    return scaled


def scale_to(boxes: pd.DataFrame, area: float) -> pd.DataFrame:
    """Scale boxes by one factor, so that their median area is `area`, as far as the edges of the image allow."""
    low, high = 0.0, LARGEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if median_area(scale(boxes, middle)) < area else (low, middle)
    return scale(boxes, high)


def scale(boxes: pd.DataFrame, factor: float) -> pd.DataFrame:
    """Multiply width and height about the centre, and cut at the edges of the image."""
    changed = {}
    for start, length in (("x", "w"), ("y", "h")):
        centre, half = boxes[start] + boxes[length] / 2, factor * boxes[length] / 2
        changed[start] = (centre - half).clip(0, ORIGINAL_SIZE)
        changed[length] = (centre + half).clip(0, ORIGINAL_SIZE) - changed[start]
    return boxes.assign(**changed)


def median_area(boxes: pd.DataFrame) -> float:
    """Return the median area of boxes."""
    return (boxes["w"] * boxes["h"]).median()
