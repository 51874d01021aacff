import re

from helpers.batches import ROOT

PAGE = ROOT / "docs" / "paper-and-code.md"
ROW = re.compile(r"^\|.*\| `([\w/.]+)` \| `(.+)` \|$")


def test_every_quoted_line_stands_in_its_file():
    quotations = [match.groups() for line in PAGE.read_text().splitlines() if (match := ROW.match(line))]
    assert len(quotations) >= 40
    wrong = [
        (file, line)
        for file, line in quotations
        if not re.search(re.escape(line) + r"(?![\w.])", (ROOT / file).read_text())
    ]
    assert not wrong


def test_every_equation_is_there():
    text = PAGE.read_text()
    assert all(f"Eq. {number}" in text for number in range(1, 8))
