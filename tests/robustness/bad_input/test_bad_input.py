"""Every row of the table of bad inputs: what must come comes, nothing half-written stays, and the page says so."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
from door_models import posing
from runner import CASES, Example, Expected, InputError, Place, case, refused, run, works
from table import PAGE, row


@pytest.mark.parametrize("given", CASES, ids=lambda given: given.name)
def test_what_must_come_comes(given: Example) -> None:
    came = run(given)
    if came.outcome == "skipped":
        pytest.skip(came.text)
    assert not came.faults
    assert row(given, came) in PAGE.read_text(encoding="utf-8"), "run python tests/robustness/bad_input/table.py"


def test_the_page_has_a_row_for_every_case_and_no_other() -> None:
    assert not [name for name, count in Counter(given.name for given in CASES).items() if count > 1]
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    doors = {given.door for given in CASES}
    assert len(rows) == len(CASES) + len(doors)  # and a head for each door


def test_the_pickles_of_the_table_do_run_where_somebody_unpickles_them(tmp_path) -> None:
    """Else that no case leaves the file would say nothing."""
    pickle.loads(posing(Place(tmp_path))).close()
    assert (tmp_path / "executed").exists()


def leave_a_file(place: Place):
    def act() -> None:
        place.write("left", b"x")
        raise InputError("film.png is empty; fetch it again")

    return act


def leave_a_part(place: Place):
    return lambda: place.write(".a.1.part.png", b"x") and "done"


def overwrite(place: Place):
    path = place.write("good", b"good")
    return lambda: path.write_bytes(b"bad") and "done"


def raise_another(place: Place):
    return lambda: 1 // 0


EMPTY = refused("film.png", "fetch it again")


@pytest.mark.parametrize(
    ("make", "expected", "fault"),
    [
        (leave_a_file, EMPTY, "left was left behind"),
        (leave_a_part, works("done"), "half-written"),
        (overwrite, works("done"), "good was changed"),
        (raise_another, EMPTY, "ZeroDivisionError instead of refused"),
        (lambda place: lambda: "other", works("done"), "gave 'other' instead of 'done'"),
        (lambda place: lambda: "done", EMPTY, "works instead of refused"),
    ],
    ids=["left", "part", "overwritten", "traceback", "other", "silent"],
)
def test_the_runner_itself_sees_what_is_wrong(make, expected: Expected, fault: str) -> None:
    """Each promise of the table is broken once on purpose."""
    before = len(CASES)
    try:
        case("runner", "broken on purpose", expected)(make)
        came = run(CASES[-1])
    finally:
        del CASES[before:]
    assert any(fault in told for told in came.faults), came
