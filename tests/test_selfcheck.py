"""The checks pass, and a wrong result or an exception is reported."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_seam import __main__ as shell
from cxr_seam.selfcheck import Check, format_check, selfcheck


def failed() -> set[str]:
    return {check.name for check in selfcheck() if not check.passed}


def test_selfcheck_passes(capsys):
    assert failed() == set()
    assert shell.main(["selfcheck"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} of {len(lines) - 1} passed"


@pytest.mark.parametrize(
    ("function", "wrong", "names"),
    [
        ("iobb", lambda a, b: np.zeros((len(a), len(b))), {"IoBB"}),
        ("lse_pool", lambda features, *, gamma: features.mean(dim=(-2, -1)), {"LSE pooling (Eq. 1)"}),
        ("apply_affinity", lambda embedding, cam: cam, {"PCM (Eq. 2)"}),
        ("balanced_bce", lambda logits, labels: np.nan, {"loss (Eq. 3-5)"}),
    ],
)
def test_selfcheck_finds_wrong_result(function, wrong, names, monkeypatch, capsys):
    monkeypatch.setattr(f"cxr_seam.selfcheck.{function}", wrong)
    assert failed() == names
    assert shell.main(["selfcheck"]) == 1
    assert capsys.readouterr().out.count("FAILED") == len(names)


def test_selfcheck_reports_exception(monkeypatch):
    def broken(*_, **__):
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr("cxr_seam.selfcheck.predicted_boxes", broken)
    checks = {check.name: check for check in selfcheck()}
    assert "libGL" in format_check(checks["boxes"]) and not checks["boxes"].passed
    assert checks["AUC"].passed


def test_format_check():
    assert "0.1111" in format_check(Check("IoU", [0.5, 1 / 9], [0.5, 1 / 8], False))
    assert "0.125" in format_check(Check("IoU", [0.5, 1 / 9], [0.5, 1 / 8], False))
