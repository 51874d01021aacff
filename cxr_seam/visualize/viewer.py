"""Show examples in a notebook: one picture that follows menus and sliders.

One image widget gets new PNG bytes at every change. Nothing is printed or appended, so the viewer behaves the same on
Colab (ipywidgets 7.7) and in Jupyter (8.1). The caption below the picture says what it shows; screen readers read it
aloud when it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from html import escape
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.image_io import resize_square
from ..data.transforms import eval_transform
from ..errors import InputError
from ..evaluation.results import REFINED
from ..findings import OPERATING_POINTS, canonical_finding
from ..inference.boxes import boxes_from_heatmap
from ..inference.heatmaps import PAPER_SIZE
from ..inference.maps.registry import MAPS
from ..inference.predictor import Predictor
from ..metrics.best_box import best_iou
from ..models.pcm import PCM, affinity_rows, l2_normalise
from .examples import (
    ALL,
    CORRECT,
    LABELLED,
    WRONG,
    Example,
    example_from_file,
    filter_examples,
    format_probability,
)
from .render import NARROW_WIDTH, PANEL_WIDTH, Bars, Panel, render_png
from .style import COLOUR_MAPS, OPACITY

ALL_PATIENTS = -1

SUBSETS = [
    ("all images", ALL),
    ("labelled with the finding", LABELLED),
    ("best box correct", CORRECT),
    ("best box wrong or missing", WRONG),
]

NAME_SLIDERS = """
let attempts = 60;  // the widgets appear some time after this script
const timer = setInterval(() => {
    for (const slider of document.querySelectorAll(".widget-slider")) {
        const name = slider.querySelector(".widget-label")?.textContent;
        const handle = slider.querySelector("[role=slider], .ui-slider-handle");
        if (name && handle) handle.setAttribute("aria-label", name);
    }
    for (const picture of document.querySelectorAll("img.widget-image:not([alt])"))
        picture.alt = "Images with heat maps, boxes and raw scores; the caption below describes them.";
    if (!--attempts) clearInterval(timer);
}, 500);
"""
"""JavaScript that names sliders and the picture for screen readers, which ipywidgets does not do."""


class Controls:
    """Create the widgets of the viewer, without any behaviour.

    Attributes:
        subset, model, patient: menus that choose the images to offer.
        finding, image: menus; the value of `image` is an index into the examples (None if no image fits).
        map: menu of `inference.maps.registry.MAPS`; "" shows the CAM or refined CAM of each model, as in Fig. 7.
        threshold, opacity, colours, operating_point, narrow: options of boxes, heat maps, decisions and layout.
        x, y: sliders, per cent of the image: the point for which the attention of the PCM is shown.
        all: the thirteen widgets above.
        upload: button for an image file.
        picture, caption: an image, and HTML below it.
        widget: the box with all of them.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        finding: str,
        maps: Sequence[tuple[str, str]],
        with_pcm: bool,
        with_upload: bool,
    ) -> None:
        import ipywidgets as widgets

        menu = partial(make_control, widgets.Dropdown)
        slider = partial(make_control, widgets.FloatSlider, max=1.0, step=0.05, readout_format=".2f")
        percent = partial(make_control, widgets.IntSlider, min=0, max=100, value=50)
        text = "Which images the menu offers. A box is correct if its IoU with a true box is above 0.3"
        self.subset = menu("Show", text, options=SUBSETS, value=ALL)
        self.model = menu("of model", "Model of the correct or wrong boxes", options=examples[0].models)
        patients = sorted({example.patient_id for example in examples if example.patient_id is not None})
        options = [("all patients", ALL_PATIENTS), *((str(patient), patient) for patient in patients)]
        self.patient = menu("Patient", "Patient of the images", options=options)
        findings = findings_of(examples[0])
        self.finding = menu("Finding", "Finding of the heat maps and boxes", options=findings, value=finding)
        self.map = menu("Map", "Map of the heat maps and boxes", options=[("of each model", ""), *maps])
        self.image = menu("Image", "Image to show, with its labels", options=[("", 0)])
        text = "A pixel belongs to a box if its heat is at least this fraction of the maximum; at first the recipe's Q"
        recipe_q = next(iter(examples[0].outputs.values())).options.threshold
        self.threshold = slider("Threshold Q", text, value=recipe_q, min=0.05)
        self.opacity = slider("Opacity", "Opacity of the heat map", value=OPACITY, min=0.0)
        self.colours = menu("Colours", "Colour map of the heat map; the paper uses jet", options=COLOUR_MAPS)
        text = "Rule that chose the thresholds of the raw scores on the validation images"
        points = [(title, point) for point, title in OPERATING_POINTS.items()]
        self.operating_point = menu("Decide at", text, options=points)
        text = "Two images in a row, for a narrow page"
        self.narrow = make_control(widgets.Checkbox, "Narrow page", text, value=False)
        self.x = percent("PCM x (%)", "Point for the PCM: per cent of the image width, from the left")
        self.y = percent("PCM y (%)", "Point for the PCM: per cent of the image height, from the top")
        text = "A frontal chest radiograph of your own; the file is sent only to the machine that runs this notebook"
        self.upload = make_control(widgets.FileUpload, "Your image", text)
        # The picture has its own size, so that its text is sharp; it shrinks only if the page is narrower.
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))
        self.caption = widgets.HTML()
        filters = [self.subset, self.model, self.patient, self.finding, self.image]
        options = [self.colours, self.threshold, self.opacity, self.operating_point, self.narrow]
        self.all = [*filters, self.map, *options, self.x, self.y]
        shown = [
            *filters,
            *([self.map] if maps else []),
            *options,
            *([self.x, self.y] if with_pcm else []),
            *([self.upload] if with_upload else []),
        ]
        grid = widgets.Layout(grid_template_columns="repeat(auto-fit, minmax(290px, 1fr))", grid_gap="2px 12px")
        self.widget = widgets.VBox([widgets.GridBox(shown, layout=grid), self.picture, self.caption])


def make_control(kind: Callable[..., Any], name: str, tooltip: str, **options: Any) -> Any:
    """Create a widget that fills its column of the grid, with space for its name."""
    import ipywidgets as widgets

    widget = kind(description=name, layout=widgets.Layout(width="auto"), **options)
    if widget.style.has_trait("description_width"):
        widget.style.description_width = "84px"
    setattr(widget, "tooltip" if widget.has_trait("tooltip") else "description_tooltip", tooltip)  # 8.1, 7.7
    return widget


def uploaded_files(value: Any) -> list[tuple[str, bytes]]:
    """Return names and contents of `FileUpload.value`: a dict in ipywidgets 7, a tuple of dicts in 8."""
    if isinstance(value, Mapping):
        return [(name, bytes(file["content"])) for name, file in value.items()]
    return [(file["name"], bytes(file["content"])) for file in value]


class Viewer(Controls):
    """Browse examples by finding, image, threshold Q and opacity, with all models side by side as in Fig. 7.

    Make it the last line of a notebook cell. The controls can also be set by a program. If finding or image change, the
    point for the PCM moves to the maximum of the refined map.

    Example:
        >>> viewer = Viewer(examples)
        >>> viewer.threshold.value = 0.5
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        predictors: Mapping[str, Predictor] | None = None,
        finding: str | None = None,
        width: int = PANEL_WIDTH,
    ) -> None:
        """Build the controls and draw the first picture.

        Args:
            examples: at least one.
            predictors: the models of the examples (`evaluation.evaluate.load_predictors`). Without them the viewer has
                no upload and no attention of the PCM.
            finding: shown first; by default a finding with a true box in the first example, else its first label.
            width: of a panel in pixels, in the wide layout.

        Raises:
            InputError: there is no example, or the finding is unknown.
        """
        if not examples:
            raise InputError("there is no example to show; see visualize.examples.load_examples")
        self.examples = list(examples)
        self._predictors, self._width = dict(predictors or {}), width
        refined = self._predictors.get(REFINED)
        self._pcm = refined if refined is not None and isinstance(refined.model.refiner, PCM) else None
        # Of the current image and finding, for the sliders.
        self._heatmap, self._embedding = lru_cache(maxsize=8)(Example.heatmap), lru_cache(maxsize=1)(pcm_embedding)
        self._map = lru_cache(maxsize=8)(heatmap_of_map)
        self._busy, self._lock = False, RLock()
        first = self.examples[0]
        findings = findings_of(first)
        finding = finding or next(iter([*first.true_boxes["finding"], *first.labels, *findings]))
        finding = canonical_finding(finding, findings)
        names = {name for predictor in self._predictors.values() for name in predictor.available_maps}
        maps = [(title, name) for name, title in MAPS.items() if name in names]
        options = {"maps": maps, "with_pcm": self._pcm is not None, "with_upload": bool(self._predictors)}
        super().__init__(self.examples, finding=finding, **options)
        for control in self.all:
            control.observe(lambda change: self._update({change["owner"]}), names="value")
        self.upload.observe(self._add_upload, names="value")
        self._update({self.subset, self.image})

    def _update(self, changed: set[Any], *, uploaded: int | None = None) -> None:
        """Update menus, point and picture once for a set of changed controls, or for an uploaded image (its index).

        JupyterLab may change two controls in two threads: the second waits. Changes that this method itself makes are
        ignored.
        """
        filters = {self.subset, self.model, self.patient, self.finding}
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                if uploaded is not None:
                    self.subset.value, self.patient.value = ALL, ALL_PATIENTS
                if changed & filters:
                    self._update_image_menu(self.image.value if uploaded is None else uploaded)
                if changed & {*filters, self.image}:
                    self._move_to_peak()
                self._redraw()
            finally:
                self._busy = False

    def _update_image_menu(self, preferred: int | None) -> None:
        """Offer the images that fit, and choose the preferred one if it fits."""
        self.model.disabled = self.subset.value not in (CORRECT, WRONG)
        indices = filter_examples(
            self.examples,
            subset=self.subset.value,
            finding=self.finding.value,
            model=self.model.value,
            patient_id=None if self.patient.value == ALL_PATIENTS else self.patient.value,
        )
        options = tuple((self.examples[index].title, index) for index in indices)
        if options != self.image.options:
            self.image.options = options
            if indices:
                self.image.value = preferred if preferred in indices else indices[0]

    def _move_to_peak(self) -> None:
        """Move the point for the PCM to the maximum of the refined map."""
        if self._pcm is not None and self.image.value is not None:
            example = self.examples[self.image.value]
            cam = example.heatmap(REFINED, self.finding.value, size=example.outputs[REFINED].cam.shape[-2:])
            row, column = np.unravel_index(cam.argmax(), cam.shape)
            peak = [(column + 0.5) / cam.shape[1], (row + 0.5) / cam.shape[0]] if cam.max() > 0 else [0.5, 0.5]
            self.x.value, self.y.value = (round(100 * fraction) for fraction in peak)

    def _redraw(self) -> None:
        """Draw the picture and the caption for the values of the controls."""
        finding = self.finding.value
        if self.image.value is None:
            self.picture.layout.display = "none"
            self.caption.value = caption_html("No image fits. Choose another finding or patient, or show all images.")
            return
        example = self.examples[self.image.value]
        panels = self._panels(example)
        attention = self._attention(example)
        self.picture.value = render_png(
            example.image,
            panels,
            true_boxes=example.gt_boxes(finding),
            opacity=self.opacity.value,
            width=min(self._width, NARROW_WIDTH) if self.narrow.value else self._width,
            narrow=self.narrow.value,
            colour_map=self.colours.value,
            attention=attention,
            bars=make_bars(example, self.operating_point.value),
            finding=finding,
            heat=MAPS[self.map.value] if self.map.value else "heat",
        )
        self.picture.layout.display = None
        text = describe(example, finding, panels, operating_point=self.operating_point.value)
        if self.map.value:
            text += f" Map: {MAPS[self.map.value]}."
        if attention is not None:
            text += f" For the ringed point, the PCM puts {attention.caption}.".replace("\n", " ")
        self.caption.value = caption_html(text)

    def _panels(self, example: Example) -> list[Panel]:
        """Build a panel for each model; with a chosen map one for each network that has it."""
        finding, name = self.finding.value, self.map.value
        if not name:
            models = {model: self._heatmap(example, model, finding, size=PAPER_SIZE) for model in example.models}
        else:
            networks = {key: each for key, each in self._predictors.items() if name in each.available_maps}
            models = {key: self._map(network, example, name, finding) for key, network in networks.items()}
        return [self._panel(example, model, heatmap) for model, heatmap in models.items()]

    def _panel(self, example: Example, model: str, heatmap: np.ndarray) -> Panel:
        """Build the panel of one model, with boxes at the threshold of the slider."""
        finding = self.finding.value
        rule = example.outputs[model].options.box_rule
        boxes = boxes_from_heatmap(heatmap, threshold=self.threshold.value, rule=rule).xywh
        true_boxes = example.gt_boxes(finding)
        overlap = f", IoU {best_iou(boxes, true_boxes):.2f}" if len(true_boxes) else ""
        caption = f"{format_scores(example, model, finding)}\n{count_boxes(len(boxes))}{overlap}"
        return Panel(model, caption, heatmap, boxes)

    def _attention(self, example: Example) -> Panel | None:
        """Build the panel with the attention of the PCM for the point of the sliders; None without a PCM."""
        if self._pcm is None:
            return None
        point = (self.x.value / 100, self.y.value / 100)
        weights = attention_map(self._embedding(self._pcm, example), x=point[0], y=point[1])
        caption = f"half of the weight\non {half_mass_area(weights):.0%} of the image"
        return Panel("PCM weights for the ring", caption, weights / max(weights.max(), 1e-12), point=point)

    def _add_upload(self, change: Any) -> None:
        """Add uploaded files as examples and show the last one."""
        files = uploaded_files(change["new"])
        if files:
            self.upload.set_trait("value", type(self.upload.value)())  # else the same file cannot be uploaded again
        for name, data in files:
            try:
                example = example_from_file(self._predictors, data, name=name)
            except InputError as error:
                self.caption.value = caption_html(f"{error}. The picture has not changed.", role="alert")
                return
            with self._lock:
                self.examples.append(example)
                self._update({self.subset}, uploaded=len(self.examples) - 1)

    def _ipython_display_(self) -> None:
        from IPython.display import Javascript, display

        display(self.widget, Javascript(NAME_SLIDERS))


def heatmap_of_map(predictor: Predictor, example: Example, name: str, finding: str) -> np.ndarray:
    """Compute the heat map of a finding from a chosen map, float32 in [0, 1] at the paper's size."""
    pixels = torch.from_numpy(resize_square(example.image, predictor.cache_size))[None, None]
    cam, options = predictor.compute_map(name, pixels, findings=[finding])
    return options.heatmaps(cam, PAPER_SIZE)[0, 0].numpy()


def findings_of(example: Example) -> tuple[str, ...]:
    """Return the findings of an example's models, which are the same for all of them."""
    return next(iter(example.outputs.values())).options.findings


def format_scores(example: Example, model: str, finding: str) -> str:
    """Format both numbers of a finding: "raw score 0.73, calibrated 0.212"."""
    probability = example.probability(model, finding)
    text = "" if probability is None else f", calibrated {format_probability(probability)}"
    return f"raw score {example.raw_score(model, finding):.2f}{text}"


def make_bars(example: Example, operating_point: str) -> list[Bars]:
    """Make the bars; models with the same scores (MultiRes with and without PCM) share bars."""
    bars: list[Bars] = []
    for model, output in example.outputs.items():
        if bars and np.array_equal(output.raw_scores, bars[-1].raw_scores):
            bars[-1] = bars[-1]._replace(title=f"{bars[-1].title}, {model}")
        else:
            thresholds, title = output.thresholds[operating_point], OPERATING_POINTS[operating_point]
            bars.append(Bars(model, output.raw_scores, thresholds, output.options.findings, title))
    return bars


def describe(example: Example, finding: str, panels: Sequence[Panel], *, operating_point: str) -> str:
    """Describe the picture in sentences: the image and its labels, then scores, decision and boxes by model."""
    if example.patient_id is None:
        known = "your image, without labels or true boxes."
        if example.image_warnings:
            known += f" It may not be a frontal chest radiograph: {'; '.join(example.image_warnings)}."
    else:
        label = "labelled with it" if finding in example.labels else "not labelled with it"
        known = f"{label}, {count_boxes(len(example.gt_boxes(finding)), kind='true ')}."
    models = []
    for panel in panels:
        score = example.raw_score(panel.title, finding)
        threshold = example.outputs[panel.title].thresholds[operating_point][findings_of(example).index(finding)]
        decision = f", {'present' if score >= threshold else 'absent'} at {OPERATING_POINTS[operating_point]}"
        decision = "" if np.isnan(threshold) else f"{decision} (threshold {threshold:.2f})"
        scores, boxes = panel.caption.split("\n")
        models.append(f"{panel.title}: {scores}{decision}, {boxes}")
    return f"{finding.replace('_', ' ')} on {example.image_index}, {known} {'; '.join(models)}."


def caption_html(text: str, *, role: str = "status") -> str:
    """Format a caption as a paragraph that screen readers read aloud when it changes."""
    return f'<p role="{role}" style="line-height: 1.4">{escape(text)}</p>'


def count_boxes(count: int, *, kind: str = "") -> str:
    """Format a number of boxes, such as "1 box" or "2 true boxes"."""
    return f"{count} {kind}{'box' if count == 1 else 'boxes'}"


@torch.inference_mode()
def pcm_embedding(predictor: Predictor, example: Example) -> Tensor:
    """Compute the normalised embedding theta(x) of the PCM of a model for every position of an image.

    Returns:
        (D, h, w) float32 on the CPU, length 1 along D; h = S / 8.
    """
    model = predictor.model
    pixels = torch.from_numpy(resize_square(example.image, predictor.cache_size))[None, None]
    inputs = eval_transform(pixels.to(predictor.device), size=predictor.recipe.image_size)
    theta = model.refiner.embed(*model.forward_features(inputs))
    return l2_normalise(theta)[0].reshape(theta.shape[1:]).cpu()


def attention_map(embedding: Tensor, *, x: float, y: float) -> np.ndarray:
    """Compute one row of the affinity matrix of the PCM (Eq. 2): the weight of every position for one point.

    Args:
        embedding: (D, h, w), see `pcm_embedding`.
        x, y: the point, as fractions of width and height in [0, 1].

    Returns:
        (h, w) float32, not negative; the sum is 1, or 0 if no position is similar.
    """
    height, width = embedding.shape[1:]
    row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
    query = embedding.flatten(start_dim=1)[None]
    weights = affinity_rows(embedding[:, row, column][None, :, None], query, None)
    return weights.reshape(height, width).numpy()


def half_mass_area(weights: np.ndarray) -> float:
    """Compute the smallest fraction of the image that has half of the weight; 0.5 for uniform weights."""
    largest_first = np.sort(weights.ravel())[::-1].cumsum(dtype=np.float64)
    if not largest_first[-1]:
        return 0.0
    return (int(np.searchsorted(largest_first, largest_first[-1] / 2)) + 1) / weights.size
