"""The case agrees as it stands, and each wrong ingredient shows in its own rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cxr_seam import __main__ as shell
from cxr_seam.metrics.boxes import box_overlap
from cxr_seam.selfcheck import Row, selfcheck, told


def differing() -> set[str]:
    return {row.what for row in selfcheck() if not row.agree}


def test_everything_agrees_and_the_shell_says_so(capsys):
    assert differing() == set()
    assert shell.main(["selfcheck"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} of {len(lines) - 1} agree"
    assert all(line.startswith("agree") for line in lines[:-1])


def over_the_true_box(predicted, true, *, measure):
    """IoBB with its divisor mistaken: the area of the true box."""
    return box_overlap(true, predicted, measure=measure)


def whole_corners(maps, *, align_corners, **options):
    return F.interpolate(maps, align_corners=True, **options)


def average_pool(features, *, gamma):
    return features.mean(dim=(-2, -1))


def with_wrong_sign(features, degrees):
    return torch.rot90(features, -1, dims=(-2, -1))


@pytest.mark.parametrize(
    ("ingredient", "wrong", "shows_in"),
    [
        ("cxr_seam.metrics.boxes.box_overlap", over_the_true_box, {"IoBB > 0.25: boxes, found, false"}),
        ("cxr_seam.metrics.boxes.box_overlap", over_the_true_box, {"IoBB in film a", "IoBB in film b"}),
        ("cxr_seam.inference.heatmaps.F.interpolate", whole_corners, {"heat map of (0, 2) on four pixels"}),
        ("cxr_seam.selfcheck.lse_pool", average_pool, {"LSE pooling of (0, log 3), gamma 1"}),
        ("cxr_seam.selfcheck.rotate", with_wrong_sign, {"(1, 2; 3, 4) rotated by 90 degrees"}),
        ("cxr_seam.metrics.boxes.ranking_score", lambda boxes: boxes["score"].to_numpy(), {"FROC, IoU > 0.1, at"}),
        ("cxr_seam.selfcheck.PROBABILITIES", (0.5, 0.6, 0.7, 0.1), {"AUC", "FROC, IoU > 0.1, at"}),
        ("cxr_seam.selfcheck.predicted_boxes.__kwdefaults__", {"threshold": 0.8}, {"boxes of film a"}),  # Q
        ("cxr_seam.models.cam.SMALLEST_MAXIMUM", 3.0, {"maps as the PCM takes them"}),
        ("cxr_seam.metrics.bootstrap.COVERAGE", 0.0, {"accuracy and its interval over patients"}),
    ],
)
def test_a_wrong_ingredient_differs(ingredient, wrong, shows_in, monkeypatch, capsys):
    monkeypatch.setattr(ingredient, wrong)
    found = differing()
    assert all(any(what.startswith(row) for what in found) for row in shows_in), found
    assert shell.main(["selfcheck"]) == 1
    assert capsys.readouterr().out.count("differ  ") == len(found)


def test_what_cannot_run_differs_and_the_others_are_still_seen(monkeypatch):
    def broken(*_, **__):
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr("cxr_seam.selfcheck.predicted_boxes", broken)
    rows = {row.what: row for row in selfcheck()}
    assert "libGL" in told(rows["boxes of film a"])
    assert not rows["boxes of film a"].agree
    assert rows["AUC"].agree


def test_lines_show_both_numbers_where_they_differ():
    assert told(Row("IoU", [0.5, 1 / 9], [0.5, 1 / 8], False)) == "differ  IoU: 0.5  0.1111, got 0.5  0.125"
    assert told(Row("AUC", 1 / 6, 1 / 6, True)) == "agree   AUC: 0.1667"


def test_a_number_that_is_not_finite_or_of_another_shape_differs(monkeypatch):
    monkeypatch.setattr(
        "cxr_seam.selfcheck.checks", lambda: [("nan", 1.0, lambda: np.nan), ("shape", [1.0, 1.0], lambda: 1.0)]
    )
    assert differing() == {"nan", "shape"}
