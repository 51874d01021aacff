"""Every bad input has the expected outcome, one line that names the file or field, and leaves nothing behind."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Callable

import cases_archives
import cases_command_line
import cases_images
import cases_models
import cases_tables
import pytest
from runner import CASES, Action, Case, Expected, InputError, Sandbox, Skip, refused, run, warns, works

MODULES = (cases_archives, cases_command_line, cases_images, cases_models, cases_tables)
"""Importing them fills `CASES`."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case) -> None:
    try:
        faults = run(case)
    except Skip as reason:
        pytest.skip(str(reason))
    assert not faults


def test_case_names_are_unique() -> None:
    assert not [name for name, count in Counter(case.name for case in CASES).items() if count > 1]


def test_pickle_payload_creates_a_file_when_unpickled(tmp_path) -> None:
    """Otherwise the cases with a pickle would prove nothing."""
    pickle.loads(cases_models.pickle_payload(Sandbox(tmp_path))).close()
    assert (tmp_path / "executed").exists()


def leave_a_file(sandbox: Sandbox) -> Action:
    def action() -> None:
        sandbox.write("left", b"x")
        raise InputError("image.png is empty; download it again")

    return action


def leave_half_written(sandbox: Sandbox) -> Action:
    return lambda: sandbox.write(".a.1.part.png", b"x") and "done"


def change_a_file(sandbox: Sandbox) -> Action:
    path = sandbox.write("good", b"good")
    return lambda: path.write_bytes(b"bad") and "done"


def warn_in_two_lines(sandbox: Sandbox) -> Action:
    return lambda: warnings.warn("image.png is empty\ndownload it again", stacklevel=1) or "done"


EMPTY = refused("image.png")


@pytest.mark.parametrize(
    ("prepare", "expected", "fault"),
    [
        (leave_a_file, EMPTY, "left was left behind"),
        (leave_half_written, works("done"), "half-written"),
        (change_a_file, works("done"), "good was changed"),
        (warn_in_two_lines, warns("done", "image.png"), "more than one line"),
        (warn_in_two_lines, warns("done", "other.png"), "'other.png' is not in"),
        (lambda sandbox: lambda: 1 // 0, EMPTY, "ZeroDivisionError instead of refused"),
        (lambda sandbox: lambda: "other", works("done"), "returned 'other' instead of 'done'"),
        (lambda sandbox: lambda: "done", EMPTY, "works instead of refused"),
    ],
    ids=["left", "half-written", "changed", "two lines", "no name", "traceback", "other result", "not refused"],
)
def test_runner_reports_broken_promises(prepare: Callable[[Sandbox], Action], expected: Expected, fault: str) -> None:
    faults = run(Case("runner", "broken on purpose", expected, prepare))
    assert any(fault in text for text in faults), faults
