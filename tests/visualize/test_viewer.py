"""The viewer without a browser: set a control, check the picture and the caption."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from threading import Event, Thread

import cv2
import numpy as np
import pytest
import torch
from helpers.examples import random_example

from cxr_seam.data.image_io import resize_square
from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import REFINED, STANDARD
from cxr_seam.findings import FINDINGS, OPERATING_POINTS, XYWH
from cxr_seam.inference.boxes import predicted_boxes
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.inference.predictor import Predictor
from cxr_seam.metrics.matching import iou
from cxr_seam.models.build import build_from_recipe, build_model
from cxr_seam.presets import get_preset
from cxr_seam.visualize import examples
from cxr_seam.visualize.examples import CORRECT, LABELLED, WRONG, filter_examples
from cxr_seam.visualize.render import CAPTION_LINE, FOOT, HEAD
from cxr_seam.visualize.style import PREDICTED_COLOUR, TRUE_COLOUR
from cxr_seam.visualize.viewer import ALL_PATIENTS, Viewer, uploaded_files


def _decode(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _boxes_of(viewer: Viewer, colour: tuple[int, int, int]) -> int:
    """Count the pixels of a colour on the panels, which are 128 pixels high."""
    panels = _decode(bytes(viewer.picture.value))[HEAD + CAPTION_LINE : HEAD + CAPTION_LINE + 128]
    return int((panels == colour).all(axis=-1).sum())


@pytest.fixture
def viewer() -> Viewer:
    pytest.importorskip("ipywidgets")
    return Viewer([random_example(), random_example("00000002_000.png", labels=(), seed=1)], width=128)


def test_first_picture_shows_a_finding_with_a_box(viewer):
    assert viewer.finding.value == "Mass"
    assert _boxes_of(viewer, TRUE_COLOUR) > 0 and _boxes_of(viewer, PREDICTED_COLOUR) > 0


def test_control_changed_in_another_thread_is_not_lost(viewer, monkeypatch):
    drawing, reached = Event(), Event()
    redraw, update = viewer._redraw, viewer._update

    def slow_redraw() -> None:
        redraw()
        if not drawing.is_set():
            drawing.set()
            reached.wait(30)  # until the other control has changed

    def watched_update(changed: set[object]) -> None:
        if viewer.threshold in changed:
            reached.set()
        update(changed)

    monkeypatch.setattr(viewer, "_redraw", slow_redraw)
    monkeypatch.setattr(viewer, "_update", watched_update)
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
def test_every_control_changes_the_picture(viewer, control, value):
    before = viewer.picture.value
    widget = getattr(viewer, control)
    old = widget.value
    widget.value = value
    assert viewer.picture.value != before
    widget.value = old
    assert viewer.picture.value == before


def test_caption_follows_the_controls(viewer):
    example = random_example()
    assert f"Standard: raw score {example.raw_score('Standard', 'Mass'):.2f}, " in viewer.caption.value
    assert "1 true box" in viewer.caption.value
    viewer.image.value = 1
    assert "00000002_000.png, not labelled with it" in viewer.caption.value
    viewer.threshold.value = 1.0
    assert viewer.caption.value.count("1 box") == 3  # the maximum of each model
    viewer.finding.value = "Hernia"
    assert "0 true boxes" in viewer.caption.value and viewer.caption.value.count("0 boxes") == 3
    assert _boxes_of(viewer, TRUE_COLOUR) == _boxes_of(viewer, PREDICTED_COLOUR) == 0


def test_nothing_is_printed_and_no_widget_is_added(viewer, capsys):
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


def test_controls_have_names_for_screen_readers(viewer):
    for widget in (*viewer.all, viewer.upload):
        assert widget.description
        assert getattr(widget, "tooltip", None) or widget.description_tooltip
    assert len({widget.description for widget in viewer.all}) == len(viewer.all)
    assert 'role="status"' in viewer.caption.value


def test_image_names_are_escaped():
    pytest.importorskip("ipywidgets")
    viewer = Viewer([replace(random_example(), image_index="<img src=x>.png")])
    assert "<img" not in viewer.caption.value


def test_bad_input_is_refused():
    pytest.importorskip("ipywidgets")
    with pytest.raises(InputError, match="example"):
        Viewer([])
    with pytest.raises(InputError, match="Cough"):
        Viewer([random_example()], finding="Cough")


def test_image_menu_filters_by_patient_label_and_correct_box(viewer):
    def offered() -> list[int]:
        return [index for _, index in viewer.image.options]

    viewer.patient.value = 2
    assert offered() == [1] and viewer.image.value == 1
    viewer.subset.value = LABELLED
    assert offered() == [] and "No image fits" in viewer.caption.value
    assert viewer.picture.layout.display == "none"
    viewer.patient.value = ALL_PATIENTS
    assert offered() == [0] and viewer.picture.layout.display is None
    # The best box of a model on an image with a true box is either correct or wrong.
    viewer.subset.value = CORRECT
    correct = offered()
    viewer.subset.value = WRONG
    assert sorted(correct + offered()) == [0, 1]
    viewer.finding.value = "Nodule"
    assert offered() == []


def test_correct_boxes_match_the_scored_table_and_are_cached(monkeypatch):
    """The reference uses the tables that are scored: heat map, boxes, best box, IoU above 0.3."""
    some = [random_example(f"0000000{seed}_000.png", seed=seed) for seed in range(8)]
    reference = {}
    for index, example in enumerate(some):
        for model in example.models:
            heatmap = example.heatmap(model, "Mass", size=256)
            table = predicted_boxes(heatmap[None], example.image_index, ["Mass"])
            best = table[XYWH].to_numpy()[:1]
            assert example.pred_boxes(model, "Mass") == pytest.approx(table[XYWH].to_numpy())
            correct = iou(best, example.gt_boxes("Mass")).max() > 0.3
            reference.setdefault(model, []).extend([index] if correct else [])
    calls = []
    count = examples.boxes_from_heatmap
    monkeypatch.setattr(examples, "boxes_from_heatmap", lambda *heatmap, **q: calls.append(1) or count(*heatmap, **q))
    for _ in range(2):
        for model, correct in reference.items():
            assert filter_examples(some, subset=CORRECT, finding="Mass", model=model) == correct
            wrong = filter_examples(some, subset=WRONG, finding="Mass", model=model)
            assert sorted(correct + wrong) == list(range(8))
            assert filter_examples(some, subset=CORRECT, finding="Nodule", model=model) == []
    assert 0 < sum(map(len, reference.values())) < 24
    assert len(calls) == 24  # each model on each image once


@pytest.fixture(scope="module")
def predictors() -> dict[str, Predictor]:
    standard, _, refined = get_preset("tiny")
    return {
        key: Predictor(build_model(recipe.model, weights="none"), recipe)
        for key, recipe in ((STANDARD, standard), (REFINED, refined))
    }


def test_threshold_starts_at_the_recipe():
    pytest.importorskip("ipywidgets")
    options, example = HeatmapOptions(threshold=0.95), random_example()
    example = replace(example, outputs={m: output._replace(options=options) for m, output in example.outputs.items()})
    viewer = Viewer([example], width=128)
    assert viewer.threshold.value == 0.95
    # Few of 64 random cells are within 5 % of the maximum, so these are other boxes than at 0.7.
    assert not np.array_equal(example.pred_boxes("MultiRes", "Mass"), random_example().pred_boxes("MultiRes", "Mass"))


def test_caption_has_the_decision_of_the_stored_threshold():
    pytest.importorskip("ipywidgets")
    example, outputs = random_example(), {}
    for model, above in ((STANDARD, 0), (REFINED, 1e-6)):
        thresholds = np.full(14, np.nan)
        thresholds[FINDINGS.index("Mass")] = example.raw_score(model, "Mass") + above
        points = dict.fromkeys(OPERATING_POINTS, thresholds) | {"specificity_90": thresholds + 1e-6}
        outputs[model] = example.outputs[model]._replace(thresholds=points, probabilities=np.full(14, 0.125))
    viewer = Viewer([replace(example, outputs=outputs)], width=128)
    standard, refined = viewer.caption.value.split("; ")
    assert "present" in standard and "absent" in refined  # a score at its threshold is present
    assert "calibrated 0.125" in standard
    picture = viewer.picture.value
    viewer.operating_point.value = "specificity_90"  # its thresholds are higher
    assert "present" not in viewer.caption.value and "90 % specificity" in viewer.caption.value
    assert viewer.picture.value != picture
    viewer.finding.value = "Nodule"
    assert "present" not in viewer.caption.value and "absent" not in viewer.caption.value


def test_other_refiners_have_no_attention_panel():
    pytest.importorskip("ipywidgets")
    recipe = replace(get_preset("tiny")[2], refiner="self_attention")
    viewer = Viewer(
        [random_example()],
        predictors={REFINED: Predictor(build_from_recipe(recipe, weights="none"), recipe)},
        width=128,
    )
    assert viewer.picture.value and viewer.x not in viewer.widget.children[0].children


@pytest.mark.parametrize("name", ["cam", "refined", "layercam", "gradcam", "mean"])
def test_chosen_map_is_drawn_for_the_networks_that_have_it(predictors, name):
    pytest.importorskip("ipywidgets")
    example = random_example()
    viewer = Viewer([example], predictors=predictors, width=128)
    before = viewer.picture.value
    viewer.map.value = name
    panels = {panel.title: panel for panel in viewer._panels(example)}
    assert list(panels) == ([REFINED] if name == "refined" else [STANDARD, REFINED])
    for model, panel in panels.items():
        pixels = torch.from_numpy(resize_square(example.image, predictors[model].cache_size))[None, None]
        found = predictors[model].compute_map(name, pixels)
        expected = found.options.heatmaps(found.cam, 256)[0, FINDINGS.index("Mass")].numpy()
        np.testing.assert_allclose(panel.heatmap, expected, atol=1e-4)
        assert f"{model}: raw score" in viewer.caption.value
    assert viewer.picture.value != before
    viewer.map.value = ""
    assert viewer.picture.value == before


def test_viewer_without_models_offers_no_map(viewer):
    assert viewer.map not in viewer.widget.children[0].children and len(viewer.map.options) == 1


def test_point_changes_only_the_attention_panel(predictors):
    pytest.importorskip("ipywidgets")
    viewer = Viewer([random_example(), random_example("00000002_000.png", seed=1)], predictors=predictors, width=128)
    before = _decode(bytes(viewer.picture.value))
    viewer.x.value, viewer.y.value = 10, 90
    after = _decode(bytes(viewer.picture.value))
    changed = np.argwhere((before != after).any(axis=-1))
    # The caption may be wider than the panel.
    assert changed[:, 0].min() >= HEAD + CAPTION_LINE + 128 + FOOT and changed[:, 1].max() < 8 + 128 + 60
    viewer.finding.value = "Nodule"
    cam = random_example().outputs[REFINED].cam[FINDINGS.index("Nodule")]
    down, across = np.unravel_index(cam.argmax(), cam.shape)
    assert viewer.x.value / 100 == pytest.approx((across + 0.5) / 8, abs=0.01)
    assert viewer.y.value / 100 == pytest.approx((down + 0.5) / 8, abs=0.01)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def _upload(viewer: Viewer, name: str, content: bytes) -> None:
    """Set the value of the upload button as the installed version of ipywidgets does."""
    if isinstance(viewer.upload.value, dict):  # ipywidgets 7
        value = {name: {"metadata": {"name": name}, "content": content}}
    else:
        when = datetime(2020, 3, 4)
        value = ({"name": name, "type": "", "size": 1, "content": memoryview(content), "last_modified": when},)
    viewer.upload.set_trait("value", value)


def test_upload_shows_the_image_or_an_alert(predictors):
    pytest.importorskip("ipywidgets")
    viewer = Viewer([random_example()], predictors=predictors, width=128)
    before = viewer.picture.value
    _upload(viewer, "notes.txt", b"not an image")
    assert 'role="alert"' in viewer.caption.value and "notes.txt" in viewer.caption.value
    assert viewer.picture.value == before
    viewer.subset.value = LABELLED
    _upload(viewer, "mine.png", _png(np.eye(64, 48, dtype=np.uint8) * 200))
    assert viewer.picture.value != before and "mine.png" in viewer.caption.value
    assert viewer.image.options[viewer.image.index][0].startswith("mine.png")
    assert viewer.examples[-1].image_warnings[0] in viewer.caption.value.replace("&#x27;", "'")
    # The picture has the proportions of the image.
    assert _decode(bytes(viewer.picture.value)).shape[0] > HEAD + CAPTION_LINE + round(128 * 64 / 48)
    assert "without labels" in viewer.caption.value
    viewer.image.value = 0
    assert "without labels" not in viewer.caption.value


def test_same_file_can_be_uploaded_twice(predictors):
    pytest.importorskip("ipywidgets")
    viewer = Viewer([random_example()], predictors=predictors, width=128)
    for uploads in (1, 2):
        _upload(viewer, "mine.png", _png(np.eye(64, dtype=np.uint8) * 200))
        assert "mine.png" in viewer.caption.value and len(viewer.image.options) == 1 + uploads
        viewer.image.value = 0


def test_uploads_of_both_versions_of_ipywidgets():
    seven = {"a.png": {"metadata": {"name": "a.png", "size": 2}, "content": b"ab"}}
    eight = ({"name": "a.png", "type": "image/png", "size": 2, "content": memoryview(b"ab")},)
    assert uploaded_files(seven) == uploaded_files(eight) == [("a.png", b"ab")]
    assert uploaded_files({}) == uploaded_files(()) == []
