"""The explorer's controls: menus, sliders, a button, and what ipywidgets 7.7 and 8.1 do differently.

Every control has a name and a tip, is reached by the Tab key and moved by the arrow keys. Sliders get their names for
screen readers, and the picture its text, from a script, where the page lets one run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .cases import ALL, HITS, LABELLED, MISSES, Case
from .findings import FINDINGS
from .overlays import COLOUR_MAPS, OPACITY

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
        picture.alt = "Films with heat maps, boxes and probabilities; the sentence below says what they show.";
    if (!--looks) clearInterval(timer);
}, 500);
"""
"""What ipywidgets leaves out: it writes a slider's name beside it, but tells no screen reader that it is the name."""


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

    def __init__(self, cases: Sequence[Case], *, finding: str, with_pcm: bool, with_upload: bool) -> None:
        """Make them for `cases`; `finding` is shown first."""
        import ipywidgets as widgets

        patients = sorted({case.patient_id for case in cases if case.patient_id is not None})
        self.which = _control(widgets.Dropdown, "Films", options=_CHOICES, value=ALL)
        self.model = _control(widgets.Dropdown, "of model", options=cases[0].models)
        self.patient = _control(
            widgets.Dropdown, "Patient", options=[("all patients", ANYBODY), *((str(p), p) for p in patients)]
        )
        self.finding = _control(widgets.Dropdown, "Finding", options=FINDINGS, value=finding)
        self.image = _control(widgets.Dropdown, "Film", options=[("", 0)])
        self.threshold = _share("Threshold Q", cases[0].box_thresholds[cases[0].models[0]], low=0.05)
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
        shown = [*chosen_by, *drawn_by, *(place if with_pcm else []), *([self.upload] if with_upload else [])]
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
