"""The public API: every name resolves, and importing the package loads nothing heavy."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers.batches import ROOT

import cxr_seam

HEAVY = ("cv2", "ipywidgets", "matplotlib", "numpy", "pandas", "timm", "torch")


@pytest.mark.parametrize("name", cxr_seam.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(cxr_seam, name) is not None
    assert name in dir(cxr_seam)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        cxr_seam.no_such_name  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    script = f"import sys, cxr_seam; print([name for name in {HEAVY} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert printed.strip() == "[]"


def test_method_fits_in_ten_files_and_1500_lines() -> None:
    """The reading list of the package's docstring; item 9 has two files."""
    items = re.findall(r"^(\d+)\. (.+):", cxr_seam.__doc__, re.MULTILINE)
    files = [re.findall(r"`([\w/]+\.py)`", text) for _, text in items]
    assert [int(number) for number, _ in items] == list(range(1, 11)) and all(files)
    lines = [len((ROOT / "cxr_seam" / file).read_text().splitlines()) for item in files for file in item]
    assert len(lines) == 11 and sum(lines) < 1500, dict(zip(sum(files, []), lines, strict=True))
