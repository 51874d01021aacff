"""Writes docs/bad-input.md: every case, what is expected, what came: python tests/robustness/bad_input/table.py [PART OF A NAME].

With a part of a name it runs those cases alone, prints what came of them and writes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "robustness" / "bad_input")]

import door_archives  # noqa: E402, F401
import door_images  # noqa: E402, F401
import door_models  # noqa: E402, F401
import door_shell  # noqa: E402, F401
import door_tables  # noqa: E402, F401
from runner import CASES, Came, Example, run  # noqa: E402

PAGE = ROOT / "docs" / "bad-input.md"
HEAD = """# Bad input

{count} cases at {doors} doors, each run by `tests/robustness/bad_input`: what is given, what must come, and what came. A refusal
is one sentence (`InputError`; in a shell one line, status 2) that names the file or value and says what to do. Nothing
may be left behind that was not there before, no file may change that was there, and nothing may lie about half-written.
What stands in brackets, mostly the words of a library or the system, is left out here: "…".

Written by `python tests/robustness/bad_input/table.py`; `make test` runs every case anew and holds this page to what comes.
"""
LONGEST = 240


def row(case: Example, came: Came) -> str:
    """A line of the page."""
    text = came.text
    while (shorter := re.sub(r"\([^()]*\)", "…", text)) != text:  # brackets within brackets go first
        text = shorter
    text = re.sub(r"\s+", " ", text.replace("\0", "\\0"))
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    cells = (case.given, str(case.expected), f"{came.outcome}: {text}")
    return "| {} |".format(" | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells))


def page(came: Mapping[str, Came]) -> str:
    """The whole page, from what came by the names of the cases."""
    doors = dict.fromkeys(case.door for case in CASES)
    parts = [HEAD.format(count=len(CASES), doors=len(doors))]
    for door in doors:
        rows = [row(case, came[case.name]) for case in CASES if case.door == door]
        parts.append(
            "\n".join(
                [f"## {door[0].upper()}{door[1:]}", "", "| given | expected | came |", "|---|---|---|", *rows, ""]
            )
        )
    return "\n".join(parts)


def main(part: str = "") -> int:
    """Run the cases; status 1 where something else came than must."""
    came = {case.name: run(case) for case in CASES if part in case.name}
    for name, result in came.items():
        if result.faults or part:
            print(f"{name}\n  {result.outcome}: {result.text}", *result.faults, sep="\n  ! ")
    skipped = [f"{name} ({result.text})" for name, result in came.items() if result.outcome == "skipped"]
    print(f"{len(came)} cases, {sum(bool(result.faults) for result in came.values())} not as expected")
    if not part and skipped:
        print(f"the page was not written, since this machine cannot run {'; '.join(skipped)}")
    elif not part:
        PAGE.write_text(page(came), encoding="utf-8")
    return int(any(result.faults for result in came.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
