"""A small viewer for notebooks: one picture that follows menus and sliders.

One image widget is set anew with PNG bytes at every change; nothing is printed or appended, so that it behaves
the same on Colab (ipywidgets 7.7) and in Jupyter (8.1). The sentence below the picture says what it shows, and is
read out by screen readers whenever it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from html import escape
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.image_io import resize_square
from ..data.transforms import eval_transform
from ..errors import InputError
from ..evaluation.evaluate import models_in_method
from ..evaluation.results import REFINED
from ..findings import FINDINGS
from ..inference.boxes import boxes_from_heatmap
from ..inference.heatmaps import PAPER_SIZE
from ..inference.predictor import Predictor
from ..models.pcm import PCM, affinity_rows, l2_normalise
from .examples import ALL, HITS, LABELLED, MISSES, Example, best_iou, example_from_file, filter_examples
from .overlay import COLOUR_MAPS, OPACITY
from .render import NARROW_WIDTH, PANEL_WIDTH, Bars, Panel, render_png


class Controls:
    """The widgets, not yet moved by anything.

    Attributes:
        which, model, patient: menus that choose which films are offered.
        finding, image: menus; `.value` is a finding, and the place of a case (None where none fits).
        threshold, opacity, colours, narrow: how boxes and heat maps are drawn, and whether for a narrow page.
        across, down: sliders, per cent of the film: the place whose row of the affinity is shown.
        all: the eleven of these.
        upload: button for a film of one's own.
        picture, line: an image, and HTML below it.
        widget: the box around all of them.
    """

    def __init__(self, examples: Sequence[Example], *, finding: str, add_seam_stage: bool, with_upload: bool) -> None:
        """Make them for `cases`; `finding` is shown first."""
        import ipywidgets as widgets

        patients = sorted({example.patient_id for example in examples if example.patient_id is not None})
        self.which = _control(widgets.Dropdown, "ChestXrayDataset", options=_CHOICES, value=ALL)
        self.model = _control(widgets.Dropdown, "of model", options=examples[0].models)
        self.patient = _control(
            widgets.Dropdown, "Patient", options=[("all patients", ANYBODY), *((str(p), p) for p in patients)]
        )
        self.finding = _control(widgets.Dropdown, "Finding", options=FINDINGS, value=finding)
        self.image = _control(widgets.Dropdown, "Film", options=[("", 0)])
        self.threshold = _share("Threshold Q", examples[0].cam_thresholds[examples[0].models[0]], low=0.05)
        self.opacity = _share("Opacity", OPACITY, low=0.0)
        self.colours = _control(widgets.Dropdown, "Colours", options=COLOUR_MAPS)
        self.narrow = _control(widgets.Checkbox, "Narrow page", value=False)
        self.across, self.down = (
            _control(widgets.IntSlider, f"PCM at {axis} %", min=0, max=100, value=50) for axis in ("x", "y")
        )
        self.upload = widgets.FileUpload(description="Your film", layout=widgets.Layout(width="auto"))
        # At its own size, so that its letters are sharp, and smaller only where the page is.
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))
        self.line = widgets.HTML()
        for name, tip in _TIPS.items():
            tell(getattr(self, name), tip)
        chosen_by = [self.which, self.model, self.patient, self.finding, self.image]
        drawn_by = [self.colours, self.threshold, self.opacity, self.narrow]
        place = [self.across, self.down]
        self.all = [*chosen_by, *drawn_by, *place]
        shown = [*chosen_by, *drawn_by, *(place if add_seam_stage else []), *([self.upload] if with_upload else [])]
        columns = widgets.Layout(grid_template_columns="repeat(auto-fit, minmax(290px, 1fr))", grid_gap="2px 12px")
        self.widget = widgets.VBox([widgets.GridBox(shown, layout=columns), self.picture, self.line])


def uploaded_files(value: Any) -> list[tuple[str, bytes]]:
    """Names and contents of `FileUpload.value`: a dictionary by name in ipywidgets 7, a tuple of dictionaries in 8."""
    if isinstance(value, Mapping):
        return [(name, bytes(file["content"])) for name, file in value.items()]
    return [(file["name"], bytes(file["content"])) for file in value]


def tell(widget: Any, tip: str) -> None:
    """Set what a widget shows under the pointer and tells a screen reader, where its version of ipywidgets can."""
    for name in ("tooltip", "description_tooltip"):  # 8.1, 7.7
        if widget.has_trait(name):
            setattr(widget, name, tip)
            return


def _control(kind: Callable[..., Any], name: str, **options: Any) -> Any:
    """A control as wide as its column of the grid, with room for its name."""
    import ipywidgets as widgets

    return kind(description=name, layout=widgets.Layout(width="auto"), style={"description_width": "84px"}, **options)


def _share(name: str, value: float, *, low: float) -> Any:
    """A slider from `low` to 1."""
    import ipywidgets as widgets

    return _control(widgets.FloatSlider, name, value=value, min=low, max=1.0, step=0.05, readout_format=".2f")


def has_pcm(predictor: Predictor) -> bool:
    """Whether a model's refiner is the PCM."""
    return isinstance(predictor.model.refiner, PCM)


@torch.inference_mode()
def pcm_embedding(predictor: Predictor, film: np.ndarray) -> Tensor:
    """Embed every place of a film as the PCM does.

    Args:
        predictor: of a model with a PCM.
        film: (H, W) uint8 grey, shrunk here as `Predictor.predict` does.

    Returns:
        (D, h, w) float32 on the CPU, theta(x) at unit length; h = S / 8.

    Raises:
        InputError: the model has no PCM.
    """
    model = predictor.model
    if not has_pcm(predictor):
        raise InputError("this model has no PCM to look into; take a MultiRes model whose refiner is the PCM")
    prepared = torch.from_numpy(resize_square(film, predictor.cache_size))[None, None]
    images = eval_transform(prepared.to(predictor.device), size=predictor.recipe.image_size)
    theta = model.refiner.embed(*model.forward_features(images))
    return l2_normalise(theta)[0].reshape(theta.shape[1:]).cpu()


def attention_map(embedding: Tensor, *, across: float, down: float) -> np.ndarray:
    """One row of `pcm.affinity`, without the other rows.

    Args:
        embedding: (D, h, w) of unit length, see `pcm_embedding`.
        across, down: the place, as shares of width and height in [0, 1].

    Returns:
        (h, w) float32, not negative; sums to 1, or to 0 where a place resembles nothing, not even itself.
    """
    row, column = feature_pixel(embedding.shape[1:], across=across, down=down)
    query = embedding.flatten(start_dim=1)[None]
    weights = affinity_rows(embedding[:, row, column][None, :, None], query, None)
    return weights.reshape(embedding.shape[1:]).numpy()


def feature_pixel(shape: tuple[int, ...], *, across: float, down: float) -> tuple[int, int]:
    """Row and column of the cell of a map (h, w) that a place lies in; places are shares in [0, 1]."""
    height, width = shape
    return min(int(down * height), height - 1), min(int(across * width), width - 1)


def half_mass_area(weights: np.ndarray) -> float:
    """The smallest share of the film that carries half of a row's weight: 0.5 where all places count alike."""
    largest_first = np.sort(weights.ravel())[::-1].cumsum(dtype=np.float64)
    if not largest_first[-1]:
        return 0.0
    return (int(np.searchsorted(largest_first, largest_first[-1] / 2)) + 1) / weights.size


class Viewer(Controls):
    """Look through cases: finding, film, threshold Q and opacity; every model side by side as in Fig. 7.

    Make it the last line of a notebook cell. The controls can also be set from a program.

    The place that the PCM is asked about goes to the peak of the refined map whenever film or finding change.

    Attributes:
        picture: the one image widget.
        line: the sentence below it.
        widget: the box around these and the controls, which are those of `Controls`.

    Example:
        >>> explorer = Viewer(cases)
        >>> explorer.threshold.value = 0.5
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
            cases: at least one.
            predictors: the models that made the cases (`evaluation.load_predictors`); without them no film can be
                brought, the PCM cannot be asked, and nothing is decided from the probabilities.
            finding: shown first; by default one that the first case has a true box of, else its first label.
            width: of a panel in pixels, on a wide page.

        Raises:
            InputError: there is no case, or the finding is unknown.
        """
        if not examples:
            raise InputError("there is no case to look at; make some from a model and its films")
        self._cases = list(examples)
        self._predictors, self._width = dict(predictors or {}), width
        refined = self._predictors.get(REFINED)
        self._pcm = refined if refined is not None and has_pcm(refined) else None
        self._own: list[Example] = []
        self._embedded: tuple[Example, Any] | None = None
        self._heatmap = lru_cache(maxsize=8)(Example.heatmap)  # of the film and finding in sight, for every slider
        self._busy, self._one_at_a_time = False, RLock()
        if finding is None:
            first = self._cases[0]
            finding = next(iter([*first.true_boxes["finding"], *first.labels, *FINDINGS]))
        if finding not in FINDINGS:
            raise InputError(f"unknown finding {finding!r}; the known ones are {', '.join(FINDINGS)}")
        super().__init__(
            self._cases, finding=finding, add_seam_stage=self._pcm is not None, with_upload=bool(self._predictors)
        )
        for control in self.all:
            control.observe(lambda change: self._change({change["owner"]}), names="value")
        self.upload.observe(self._take, names="value")
        self._change({self.which, self.image})

    def _change(self, owners: set[Any]) -> None:
        """Answer to changed controls: the films offered, the place asked about, the picture; once, not step by step.

        JupyterLab may hand over two controls in two threads. The second waits; it is not a step of the first.
        """
        with self._one_at_a_time:
            if self._busy:
                return
            self._busy = True
            try:
                if owners & {self.which, self.model, self.patient, self.finding}:
                    self._offer()
                if owners & {self.which, self.model, self.patient, self.finding, self.image}:
                    self._go_to_peak()
                self._redraw()
            finally:
                self._busy = False

    def _offer(self) -> None:
        """Fill the menu of films; the film shown stays where it still fits."""
        self.model.disabled = self.which.value not in (HITS, MISSES)
        patient = None if self.patient.value == ANYBODY else self.patient.value
        places = filter_examples(
            self._cases,
            which=self.which.value,
            finding=self.finding.value,
            model=self.model.value,
            patient_id=patient,
        )
        old = self.image.value
        options = tuple((_caption(self._cases[place], own=self._cases[place] in self._own), place) for place in places)
        if options != self.image.options:
            self.image.options = options
            if places:
                self.image.value = old if old in places else places[0]

    def _go_to_peak(self) -> None:
        """Put the place where the refined map of the finding is largest."""
        if self._pcm is not None and self.image.value is not None:
            cam = self._cases[self.image.value].cams[REFINED][FINDINGS.index(self.finding.value)]
            row, column = np.unravel_index(cam.argmax(), cam.shape)
            peak = [(column + 0.5) / cam.shape[1], (row + 0.5) / cam.shape[0]] if cam.max() > 0 else [0.5, 0.5]
            self.across.value, self.down.value = (round(100 * share) for share in peak)

    def _redraw(self) -> None:
        """Set the picture and the sentence to what the controls say."""
        finding = self.finding.value
        if self.image.value is None:
            self.picture.layout.display = "none"
            self.line.value = _said("No film fits; choose another finding or patient, or all films.")
            return
        example = self._cases[self.image.value]
        true_boxes = example.true(finding)
        panels, notes = [], []
        for model in example.models:
            heatmap = self._heatmap(example, model, finding, size=PAPER_SIZE)
            boxes = boxes_from_heatmap(heatmap, threshold=self.threshold.value).xywh
            said, found = f"{finding} {example.probability(model, finding):.2f}", _count(len(boxes))
            if len(true_boxes):
                found += f", IoU {best_iou(boxes, true_boxes):.2f}"
            panels.append(Panel(model, f"{said.replace('_', ' ')}\n{found}", heatmap, boxes))
            notes.append(f"{model}: {said}, {found}{self._decision(example, model)}")
        below = self._asked(example)
        self.picture.value = render_png(
            example.film,
            panels,
            true_boxes=true_boxes,
            opacity=self.opacity.value,
            width=min(self._width, NARROW_WIDTH) if self.narrow.value else self._width,
            narrow=self.narrow.value,
            colour_map=self.colours.value,
            below=below,
            bars=self._bars(example),
            chosen=finding,
        )
        self.picture.layout.display = None
        labelled = "labelled with it" if finding in example.labels else "not labelled with it"
        known = f"{labelled}, true: {_count(len(true_boxes))}."
        if example in self._own:
            image_warnings = (
                f" Is it a frontal chest film? {'; '.join(example.image_warnings)}." if example.image_warnings else ""
            )
            known = f"a film of yours, of which no truth is known.{image_warnings}"
        words = f"{finding} on {example.image_index}, {known} {'; '.join(notes)}."
        if below is not None:
            words += f" For the marked place the PCM draws on the whole film: {below.note}.".replace("\n", " ")
        self.line.value = _said(words)

    def _decision(self, example: Example, model: str) -> str:
        """What the model's stored threshold makes of the probability, in words; nothing where there is none."""
        threshold = self._thresholds_of(model)[FINDINGS.index(self.finding.value)]
        if np.isnan(threshold):
            return ""
        present = example.probability(model, self.finding.value) >= threshold
        return f", called {'present' if present else 'absent'} (threshold {threshold:.2f})"

    def _thresholds_of(self, model: str) -> np.ndarray:
        """The probability (14,) from which on a model calls a finding present; NaN where that is not known."""
        key = next((key for key in self._predictors if model in models_in_method(key)), None)
        return self._predictors[key].thresholds_array if key else np.full(len(FINDINGS), np.nan)

    def _bars(self, example: Example) -> list[Bars]:
        """Bars of the models; those that share their probabilities, as MultiRes with and without PCM do, share bars."""
        bars: list[Bars] = []
        for model in example.models:
            values = example.probabilities[model]
            if bars and np.array_equal(values, bars[-1].probabilities):
                bars[-1] = bars[-1]._replace(title=f"{bars[-1].title}, {model}")
            else:
                bars.append(Bars(model, values, self._thresholds_of(model)))
        return bars

    def _asked(self, example: Example) -> Panel | None:
        """The row of the affinity for the place of the sliders; None without a PCM."""
        if self._pcm is None:
            return None
        if self._embedded is None or self._embedded[0] is not example:
            self._embedded = example, pcm_embedding(self._pcm, example.film)
        place = (self.across.value / 100, self.down.value / 100)
        row = attention_map(self._embedded[1], across=place[0], down=place[1])
        note = f"half of the weight\non {half_mass_area(row):.0%} of the film"
        return Panel("PCM: drawn on for the ring", note, row / max(row.max(), 1e-12), np.empty((0, 4)), place)

    def _take(self, change: Any) -> None:
        """Show a film that was brought to the models, and look at it."""
        files = uploaded_files(change["new"])
        if files:
            self.upload.set_trait("value", type(self.upload.value)())  # else the same file would not be told of again
        for name, data in files:
            try:
                example = example_from_file(self._predictors, data, name=name)
            except InputError as error:
                self.line.value = _said(f"{error}. The picture is still that of the film before.", role="alert")
                return
            with self._one_at_a_time:
                self._cases.append(example)
                self._own.append(example)
                self._busy = True  # the menus are set together; the picture follows once
                try:
                    self.which.value, self.patient.value = ALL, ANYBODY
                    self._offer()
                    self.image.value = len(self._cases) - 1
                finally:
                    self._busy = False
                self._change({self.image})

    def _ipython_display_(self) -> None:
        """Show the viewer where a notebook shows the value of a cell."""
        from IPython.display import Javascript, display

        display(self.widget, Javascript(NAME_SLIDERS))


def _said(words: str, *, role: str = "status") -> str:
    return f'<p role="{role}" style="line-height: 1.4">{escape(words)}</p>'


def _caption(example: Example, *, own: bool) -> str:
    return f"{example.image_index}: {'yours' if own else ', '.join(example.labels) or 'no finding'}"


def _count(boxes: int) -> str:
    return f"{boxes} box" if boxes == 1 else f"{boxes} boxes"


ANYBODY = -1


_CHOICES = [
    ("all films", ALL),
    ("labelled with the finding", LABELLED),
    ("hits of the finding", HITS),
    ("misses of the finding", MISSES),
]


_TIPS = {
    "which": "Which films the menu of films offers; a hit is a best box, at the recipe's Q, with an IoU above 0.1",
    "model": "Model whose hits or misses are offered",
    "patient": "Patient whose films are offered",
    "finding": "Finding whose heat map is shown",
    "image": "Film to look at, with the findings it is labelled with",
    "threshold": "Part of the heat map's maximum from which on a point belongs to a box; at first the recipe's Q",
    "opacity": "How strongly the heat map covers the film",
    "colours": "Colours of the heat map; jet is the paper's",
    "narrow": "Two films a row instead of three and letters as large, for a narrow page",
    "across": "Place that the PCM is asked about: per cent of the film's width from its left edge",
    "down": "Place that the PCM is asked about: per cent of the film's height from its upper edge",
    "upload": "Choose an image file of a frontal chest film of your own; it stays on the machine the notebook runs on",
}


NAME_SLIDERS = """
let looks = 60;  // the widgets come some time after this script
const timer = setInterval(() => {
    for (const slider of document.querySelectorAll(".widget-slider")) {
        const name = slider.querySelector(".widget-label")?.textContent;
        const handle = slider.querySelector("[role=slider], .ui-slider-handle");
        if (name && handle) handle.setAttribute("aria-label", name);
    }
    for (const picture of document.querySelectorAll("img.widget-image:not([alt])"))
        picture.alt = "Images with heat maps, boxes and probabilities; the sentence below says what they show.";
    if (!--looks) clearInterval(timer);
}, 500);
"""
"""What ipywidgets leaves out: it writes a slider's name beside it, but tells no screen reader that it is the name."""
