"""docs/paper-and-code.md names files and definitions that exist; the files are parsed, not imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.batches import ROOT

PAGE = (ROOT / "docs" / "paper-and-code.md").read_text()
REFERENCES = re.findall(r"`([\w/]+\.py)::([\w.]+)`", PAGE)


def definitions(path: Path) -> set[str]:
    """Names of functions, classes and constants of a file, and of methods and fields as `Class.name`."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))

    return set(walk(ast.parse(path.read_text()).body, ""))


def test_definitions_exist() -> None:
    assert len(REFERENCES) >= 40
    missing = [
        f"{file}::{name}"
        for file, name in REFERENCES
        if not (ROOT / file).is_file() or name not in definitions(ROOT / file)
    ]
    assert not missing


def test_every_equation_is_there() -> None:
    rows = [row for row in PAGE.splitlines() if row.startswith("| Eq.")]
    numbers = {int(n) for row in rows for n in re.findall(r"\d", row.split("|")[1].split("Fig")[0])}
    assert numbers == set(range(1, 8))
