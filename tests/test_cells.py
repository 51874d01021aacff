"""Cells run out of order are told which one comes first."""

from __future__ import annotations

import pytest

from cxr_seam.cells import need
from cxr_seam.errors import InputError


def test_the_first_missing_name_is_told_with_its_heading() -> None:
    with pytest.raises(InputError, match=r'`cases` is not there yet; run the cell under "Fig. 7" first'):
        need({"workspace": None}, workspace="Choices", cases="Fig. 7", prediction="A film of your own")
    need({"workspace": None, "cases": []}, workspace="Choices", cases="Fig. 7")
