"""The viewer without a browser: set a control, look at the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr_seam.cases import Case
from cxr_seam.errors import InputError
from cxr_seam.explorer import Explorer, Panel, render_png
from cxr_seam.findings import FINDINGS
from cxr_seam.overlays import PREDICTED_COLOUR, TRUE_COLOUR

FILM = np.full((96, 96), 120, np.uint8)
NO_BOXES = np.zeros((0, 4))


def _case(name: str = "00000001_000.png", *, labels: tuple[str, ...] = ("Mass",), seed: int = 0) -> Case:
    generator = np.random.default_rng(seed)
    models = ("Standard", "MultiRes", "MultiRes + PCM")
    cams = {model: generator.random((14, 8, 8)).astype(np.float32) for model in models}
    for cam in cams.values():
        cam[FINDINGS.index("Hernia")] = -1
    return Case(
        image_index=name,
        film=generator.integers(0, 255, (96, 96)).astype(np.uint8),
        labels=labels,
        probabilities={model: generator.random(14) for model in models},
        cams=cams,
        true_boxes=pd.DataFrame({"finding": ["Mass"], "x": [256], "y": [128], "w": [512], "h": [640]}),
    )


def _decode(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of a colour, the legend at the foot left out."""
    return np.argwhere((picture[:-30] == colour).all(axis=-1))


def test_picture_is_as_wide_as_its_panels_and_keeps_the_film_in_proportion():
    panel = Panel("Standard", "", np.zeros((50, 100)), NO_BOXES)
    film = np.zeros((50, 100), np.uint8)
    one = _decode(render_png(film, [panel], true_boxes=NO_BOXES, width=200))
    three = _decode(render_png(film, [panel] * 3, true_boxes=NO_BOXES, width=200))
    assert three.shape[1] - one.shape[1] == 2 * (200 + 8)
    taller = _decode(render_png(np.zeros((100, 100), np.uint8), [panel], true_boxes=NO_BOXES, width=200))
    assert taller.shape[0] - one.shape[0] == 100


def test_boxes_are_where_they_should_be_in_their_colours():
    # 1024 -> 128 pixels: the predicted box is 32..63 across and 16..47 down, the true one 64..95 and 64..111.
    panel = Panel("Standard", "", np.zeros(FILM.shape), np.array([[256, 128, 256, 256]]))
    true = np.array([[512, 512, 256, 384]])
    picture = _decode(render_png(FILM, [panel], true_boxes=true, width=128))
    head, left = picture.shape[0] - 30 - 128, 8
    for colour, (x0, x1, y0, y1) in ((PREDICTED_COLOUR, (32, 63, 16, 47)), (TRUE_COLOUR, (64, 95, 64, 111))):
        rows, columns = _coloured(picture, colour).T
        found = np.array([columns.min() - left, columns.max() - left, rows.min() - head, rows.max() - head])
        assert found == pytest.approx(np.array([x0, x1, y0, y1]), abs=1)  # lines are two pixels wide


def test_panels_of_nothing_are_refused():
    with pytest.raises(InputError, match="no panel"):
        render_png(FILM, [], true_boxes=NO_BOXES)


@pytest.fixture
def explorer() -> Explorer:
    pytest.importorskip("ipywidgets")
    return Explorer([_case(), _case("00000002_000.png", labels=(), seed=1)], width=128)


def test_first_picture_shows_the_finding_that_has_a_box(explorer):
    assert explorer.finding.value == "Mass"
    picture = _decode(bytes(explorer.picture.value))
    assert len(_coloured(picture, TRUE_COLOUR)) > 0
    assert len(_coloured(picture, PREDICTED_COLOUR)) > 0


@pytest.mark.parametrize(
    ("control", "value"), [("finding", "Nodule"), ("image", 1), ("threshold", 0.95), ("opacity", 0.1)]
)
def test_every_control_changes_the_picture_and_back(explorer, control, value):
    before = explorer.picture.value
    widget = getattr(explorer, control)
    old = widget.value
    widget.value = value
    assert explorer.picture.value != before
    widget.value = old
    assert explorer.picture.value == before


def test_sentence_follows(explorer):
    case = _case()
    assert f"Standard: Mass {case.probability('Standard', 'Mass'):.2f}" in explorer.line.value
    assert "labelled with it, true: 1 box." in explorer.line.value
    explorer.image.value = 1
    assert "00000002_000.png, not labelled with it" in explorer.line.value
    explorer.threshold.value = 1.0
    assert explorer.line.value.count("1 box") == 4  # the true one, and the peak of each model
    explorer.finding.value = "Hernia"
    assert explorer.line.value.count("0 boxes") == 4
    picture = _decode(bytes(explorer.picture.value))
    assert len(_coloured(picture, TRUE_COLOUR)) == len(_coloured(picture, PREDICTED_COLOUR)) == 0


def test_nothing_is_printed_or_piled_up(explorer, capsys):
    def shown(widget) -> list[str]:
        children = getattr(widget, "children", ())
        return [widget.model_id] + [each for child in children for each in shown(child)]

    before = shown(explorer.widget)
    for value in (0.3, 0.5, 0.9):
        explorer.threshold.value = value
        explorer.finding.value = "Effusion" if value == 0.5 else "Mass"
        explorer.image.value = int(value > 0.4)
    assert shown(explorer.widget) == before
    assert before.count(explorer.picture.model_id) == 1
    assert capsys.readouterr() == ("", "")


def test_controls_are_named_for_screen_readers(explorer):
    for widget in (explorer.finding, explorer.image, explorer.threshold, explorer.opacity):
        assert widget.description
        assert getattr(widget, "tooltip", None) or widget.description_tooltip
    assert 'aria-live="polite"' in explorer.line.value


def test_names_cannot_break_the_page():
    pytest.importorskip("ipywidgets")
    explorer = Explorer([_case("<img src=x>.png")])
    assert "<img" not in explorer.line.value


def test_bad_input_is_told_in_a_sentence():
    pytest.importorskip("ipywidgets")
    with pytest.raises(InputError, match="no case"):
        Explorer([])
    with pytest.raises(InputError, match="Cough"):
        Explorer([_case()], finding="Cough")
