"""Cells of a notebook that are run out of order: a sentence says which one comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import InputError


def need(there: Mapping[str, Any], **made_under: str) -> None:
    """Refuse to go on where an earlier cell has not been run.

    Args:
        there: the names that exist, a notebook's `globals()`.
        made_under: name -> the heading under which a cell makes it, in the order of the notebook.

    Raises:
        InputError: a name is missing; the first one is told.

    Example:
        >>> need(globals(), workspace="Choices")
    """
    for name, heading in made_under.items():
        if name not in there:
            raise InputError(f'`{name}` is not there yet; run the cell under "{heading}" first, or all cells in order')
