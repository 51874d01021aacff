"""The viewer without a browser: set a control, look at the picture."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from threading import Event, Thread

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import REFINED, STANDARD
from cxr_seam.findings import FINDINGS, XYWH
from cxr_seam.inference.boxes import predicted_boxes
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.boxes import iou
from cxr_seam.models.multires import build_from_recipe, build_model
from cxr_seam.presets import get_preset
from cxr_seam.visualize import examples as examples
from cxr_seam.visualize.examples import HITS, MISSES, Example, filter_examples
from cxr_seam.visualize.overlay import PREDICTED_COLOUR, TRUE_COLOUR
from cxr_seam.visualize.render import FOOT, HEAD, NOTE_LINE
from cxr_seam.visualize.viewer import Viewer, uploaded_files


def _case(name: str = "00000001_000.png", *, labels: tuple[str, ...] = ("Mass",), seed: int = 0) -> Example:
    generator = np.random.default_rng(seed)
    models = ("Standard", "MultiRes", "MultiRes + PCM")
    cams = {model: generator.random((14, 8, 8)).astype(np.float32) for model in models}
    for cam in cams.values():
        cam[FINDINGS.index("Hernia")] = -1
    return Example(
        image_index=name,
        film=generator.integers(0, 255, (96, 96)).astype(np.uint8),
        labels=labels,
        probabilities={model: generator.random(14) for model in models},
        cams=cams,
        cam_thresholds=dict.fromkeys(models, 0.7),
        true_boxes=pd.DataFrame({"finding": ["Mass"], "x": [0.25], "y": [0.125], "w": [0.5], "h": [0.625]}),
        patient_id=int(name[:8]) if name[:8].isdecimal() else None,
    )


def _decode(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _boxes_of(viewer: Viewer, colour: tuple[int, int, int]) -> int:
    """Pixels of a colour on the panels, which are 128 pixels high; the legend is left out."""
    panels = _decode(bytes(viewer.picture.value))[HEAD + NOTE_LINE : HEAD + NOTE_LINE + 128]
    return int((panels == colour).all(axis=-1).sum())


@pytest.fixture
def viewer() -> Viewer:
    pytest.importorskip("ipywidgets")
    return Viewer([_case(), _case("00000002_000.png", labels=(), seed=1)], width=128)


def test_first_picture_shows_the_finding_that_has_a_box(viewer):
    assert viewer.finding.value == "Mass"
    assert _boxes_of(viewer, TRUE_COLOUR) > 0 and _boxes_of(viewer, PREDICTED_COLOUR) > 0


def test_a_control_moved_in_another_thread_while_the_picture_is_drawn_is_not_lost(viewer, monkeypatch):
    drawing, reached = Event(), Event()
    redraw, change = viewer._redraw, viewer._change

    def slow_redraw() -> None:
        redraw()
        if not drawing.is_set():
            drawing.set()
            reached.wait(30)  # until the other control has been moved

    def told(owners: set[object]) -> None:
        if viewer.threshold in owners:
            reached.set()
        change(owners)

    monkeypatch.setattr(viewer, "_redraw", slow_redraw)
    monkeypatch.setattr(viewer, "_change", told)
    first = Thread(target=lambda: setattr(viewer.opacity, "value", 0.3))
    first.start()
    assert drawing.wait(30)
    second = Thread(target=lambda: setattr(viewer.threshold, "value", 0.95))
    second.start()
    first.join(30), second.join(30)
    after_both = viewer.picture.value
    viewer.threshold.value = 0.5
    viewer.threshold.value = 0.95
    assert after_both == viewer.picture.value


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("finding", "Nodule"),
        ("image", 1),
        ("threshold", 0.95),
        ("opacity", 0.1),
        ("colours", "jet"),
        ("narrow", True),
    ],
)
def test_every_control_changes_the_picture_and_back(viewer, control, value):
    before = viewer.picture.value
    widget = getattr(viewer, control)
    old = widget.value
    widget.value = value
    assert viewer.picture.value != before
    widget.value = old
    assert viewer.picture.value == before


def test_sentence_follows(viewer):
    example = _case()
    assert f"Standard: Mass {example.probability('Standard', 'Mass'):.2f}" in viewer.line.value
    assert "labelled with it, true: 1 box." in viewer.line.value
    viewer.image.value = 1
    assert "00000002_000.png, not labelled with it" in viewer.line.value
    viewer.threshold.value = 1.0
    assert viewer.line.value.count("1 box") == 4  # the true one, and the peak of each model
    viewer.finding.value = "Hernia"
    assert viewer.line.value.count("0 boxes") == 4
    assert _boxes_of(viewer, TRUE_COLOUR) == _boxes_of(viewer, PREDICTED_COLOUR) == 0


def test_nothing_is_printed_or_piled_up(viewer, capsys):
    def shown(widget) -> list[str]:
        children = getattr(widget, "children", ())
        return [widget.model_id] + [each for child in children for each in shown(child)]

    before = shown(viewer.widget)
    for value in (0.3, 0.5, 0.9):
        viewer.threshold.value = value
        viewer.finding.value = "Effusion" if value == 0.5 else "Mass"
        viewer.image.value = int(value > 0.4)
    assert shown(viewer.widget) == before
    assert before.count(viewer.picture.model_id) == 1
    assert capsys.readouterr() == ("", "")


def test_controls_are_named_for_screen_readers(viewer):
    for widget in (*viewer.all, viewer.upload):
        assert widget.description
        assert getattr(widget, "tooltip", None) or widget.description_tooltip
    assert len({widget.description for widget in viewer.all}) == len(viewer.all)
    assert 'role="status"' in viewer.line.value


def test_names_cannot_break_the_page():
    pytest.importorskip("ipywidgets")
    viewer = Viewer([_case("<img src=x>.png")])
    assert "<img" not in viewer.line.value


def test_bad_input_is_told_in_a_sentence():
    pytest.importorskip("ipywidgets")
    with pytest.raises(InputError, match="no case"):
        Viewer([])
    with pytest.raises(InputError, match="Cough"):
        Viewer([_case()], finding="Cough")


def test_films_are_offered_by_patient_label_and_hit(viewer):
    def offered() -> list[int]:
        return [place for _, place in viewer.image.options]

    viewer.patient.value = 2
    assert offered() == [1] and viewer.image.value == 1
    viewer.which.value = "labelled"
    assert offered() == [] and "No film fits" in viewer.line.value
    assert viewer.picture.layout.display == "none"
    viewer.patient.value = viewer.patient.options[0][1]
    assert offered() == [0] and viewer.picture.layout.display is None
    # Each film with a true box is a hit or a miss of a model, never both.
    viewer.which.value = "hits"
    hits = offered()
    viewer.which.value = "misses"
    assert sorted(hits + offered()) == [0, 1]
    viewer.finding.value = "Nodule"
    assert offered() == []


def test_hits_are_those_of_the_table_of_boxes_and_are_found_once(monkeypatch):
    """The reference goes by way of the tables that are scored: heat map, boxes, best box, its IoU above 0.1."""
    some = [_case(f"0000000{seed}_000.png", seed=seed) for seed in range(8)]
    reference = {}
    for place, example in enumerate(some):
        for model in example.models:
            heatmap = example.heatmap(model, "Mass", size=256)
            table = predicted_boxes(heatmap[None], example.image_index, ["Mass"])
            best = table[XYWH].to_numpy()[:1]
            assert example.predicted(model, "Mass") == pytest.approx(table[XYWH].to_numpy())
            reference.setdefault(model, []).extend([place] if iou(best, example.true("Mass")).max() > 0.1 else [])
    drawn = []
    count = examples.boxes_from_heatmap
    monkeypatch.setattr(examples, "boxes_from_heatmap", lambda *heatmap, **q: drawn.append(1) or count(*heatmap, **q))
    for _ in range(2):
        for model, hits in reference.items():
            assert filter_examples(some, which=HITS, finding="Mass", model=model) == hits
            misses = filter_examples(some, which=MISSES, finding="Mass", model=model)
            assert sorted(hits + misses) == list(range(8))
            assert filter_examples(some, which=HITS, finding="Nodule", model=model) == []
    assert 0 < sum(map(len, reference.values())) < 24
    assert len(drawn) == 24  # of each model on each film, once


@pytest.fixture(scope="module")
def predictors() -> dict[str, Predictor]:
    standard, _, refined = get_preset("tiny")
    return {
        key: Predictor(build_model(recipe.model, weights="none"), recipe)
        for key, recipe in ((STANDARD, standard), (REFINED, refined))
    }


def test_q_is_at_first_that_of_the_recipe():
    pytest.importorskip("ipywidgets")
    example = replace(_case(), cam_thresholds=dict.fromkeys(_case().models, 0.95))
    viewer = Viewer([example], width=128)
    assert viewer.threshold.value == 0.95
    # 64 random cells, of which few are within a twentieth of the largest: other boxes than at 0.7
    assert not np.array_equal(example.predicted("MultiRes", "Mass"), _case().predicted("MultiRes", "Mass"))


def test_the_sentence_tells_what_the_stored_thresholds_decide(predictors):
    pytest.importorskip("ipywidgets")
    example = _case()
    standard, refined = (predictors[key] for key in (STANDARD, REFINED))
    told = {
        STANDARD: Predictor(
            standard.model, standard.recipe, thresholds={"Mass": example.probability(STANDARD, "Mass")}
        ),
        REFINED: Predictor(
            refined.model, refined.recipe, thresholds={"Mass": example.probability("MultiRes", "Mass") + 1e-6}
        ),
    }
    viewer = Viewer([example], predictors=told, width=128)
    # A probability at its threshold is present. MultiRes and MultiRes + PCM are one checkpoint and share thresholds.
    standard, multires, _ = viewer.line.value.split("; ")
    assert "called present" in standard and "called absent" in multires
    viewer.finding.value = "Nodule"
    assert "called" not in viewer.line.value


def test_a_refiner_that_is_no_pcm_is_not_asked_for_its_affinity():
    pytest.importorskip("ipywidgets")
    recipe = replace(get_preset("tiny")[2], refiner="self_attention")
    viewer = Viewer(
        [_case()], predictors={REFINED: Predictor(build_from_recipe(recipe, weights="none"), recipe)}, width=128
    )
    assert viewer.picture.value and viewer.across not in viewer.widget.children[0].children


def test_a_place_shows_its_row_of_the_affinity_and_changes_nothing_else(predictors):
    pytest.importorskip("ipywidgets")
    viewer = Viewer([_case(), _case("00000002_000.png", seed=1)], predictors=predictors, width=128)
    before = _decode(bytes(viewer.picture.value))
    viewer.across.value, viewer.down.value = 10, 90
    after = _decode(bytes(viewer.picture.value))
    changed = np.argwhere((before != after).any(axis=-1))
    # Its note may be wider than the film.
    assert changed[:, 0].min() >= HEAD + NOTE_LINE + 128 + FOOT and changed[:, 1].max() < 8 + 128 + 60
    viewer.finding.value = "Nodule"
    cam = _case().cams[REFINED][FINDINGS.index("Nodule")]
    down, across = np.unravel_index(cam.argmax(), cam.shape)
    assert viewer.across.value / 100 == pytest.approx((across + 0.5) / 8, abs=0.01)
    assert viewer.down.value / 100 == pytest.approx((down + 0.5) / 8, abs=0.01)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_a_film_of_ones_own_is_shown_and_a_bad_file_is_told(predictors):
    pytest.importorskip("ipywidgets")
    viewer = Viewer([_case()], predictors=predictors, width=128)
    before = viewer.picture.value
    viewer._take({"new": ({"name": "notes.txt", "content": memoryview(b"not an image")},)})
    assert 'role="alert"' in viewer.line.value and "notes.txt" in viewer.line.value
    assert viewer.picture.value == before
    viewer.which.value = "labelled"
    viewer._take({"new": ({"name": "mine.png", "content": memoryview(_png(np.eye(64, 48, dtype=np.uint8) * 200))},)})
    assert viewer.picture.value != before and "mine.png" in viewer.line.value
    assert viewer.image.options[viewer.image.index][0] == "mine.png: yours"
    assert "Is it a frontal chest film?" in viewer.line.value
    # In its own proportions.
    assert _decode(bytes(viewer.picture.value)).shape[0] > HEAD + NOTE_LINE + round(128 * 64 / 48)
    assert "no truth is known" in viewer.line.value and "labelled" not in viewer.line.value
    viewer.image.value = 0
    assert "no truth is known" not in viewer.line.value


def test_a_film_can_be_brought_twice(predictors):
    """A browser sends a file again that has been looked at; a value that did not change would tell nobody."""
    pytest.importorskip("ipywidgets")
    viewer = Viewer([_case()], predictors=predictors, width=128)
    content = _png(np.eye(64, dtype=np.uint8) * 200)
    if isinstance(viewer.upload.value, dict):  # ipywidgets 7
        sent = {"mine.png": {"metadata": {"name": "mine.png"}, "content": content}}
    else:
        when = datetime(2020, 3, 4)
        sent = ({"name": "mine.png", "type": "", "size": 1, "content": memoryview(content), "last_modified": when},)
    for brought in (1, 2):
        viewer.upload.set_trait("value", sent)
        assert "mine.png" in viewer.line.value and len(viewer.image.options) == 1 + brought
        viewer.image.value = 0


def test_uploads_are_read_as_either_version_of_ipywidgets_gives_them():
    seven = {"a.png": {"metadata": {"name": "a.png", "size": 2}, "content": b"ab"}}
    eight = ({"name": "a.png", "type": "image/png", "size": 2, "content": memoryview(b"ab")},)
    assert uploaded_files(seven) == uploaded_files(eight) == [("a.png", b"ab")]
    assert uploaded_files({}) == uploaded_files(()) == []
