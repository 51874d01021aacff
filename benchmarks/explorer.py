"""How soon the explorer's picture follows a control, on two cores.

    python benchmarks/explorer.py [--json] [--quick] [--rounds N]

Each control of a viewer of 64 films, as many as notebook 05 has, is moved to and fro; timed is the way from the new
value to the PNG in the image widget. Models are of the paper's larger family with random weights, films of 256 pixels;
what the models say of them is random too, and all is noise, which takes a PNG longest. A change of film includes the
network's pass for the PCM's embedding; the others happen on a film that is loaded. The last row is what a choice of
hits adds where none has been judged yet: the boxes of all films of a finding.
"""

from __future__ import annotations

import measure
import numpy as np
import pandas as pd
import torch

from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.multires import build_model
from cxr_seam.presets import get_preset
from cxr_seam.recipes import Recipe
from cxr_seam.visualize.examples import HITS, Example, filter_examples
from cxr_seam.visualize.viewer import Viewer

GOAL_MS = 150
FILMS = 64
MOVES = {
    "finding": FINDINGS[:2],
    "threshold": (0.5, 0.7),
    "opacity": (0.3, 0.5),
    "colours": ("viridis", "jet"),
    "narrow": (False, True),
    "across": (20, 80),
    "down": (20, 80),
    "image": (0, 1),
}


def example(number: int, size: int) -> Example:
    """A film of noise with blurred random maps, which have several boxes."""
    generator = np.random.default_rng(number)
    cells = size // 8
    fine = torch.nn.functional.avg_pool2d(torch.randn(14, cells, cells), 3, 1, 1).numpy()
    probabilities = generator.random((2, len(FINDINGS)))
    models = (STANDARD, MULTIRES, REFINED)
    finding = BOXED_FINDINGS[number % len(BOXED_FINDINGS)]
    return Example(
        image_index=f"{number:08d}_000.png",
        film=generator.integers(0, 255, (size, size)).astype(np.uint8),
        labels=(finding,),
        probabilities=dict(zip(models, probabilities[[0, 1, 1]], strict=True)),
        cams=dict(zip(models, (fine[:, ::4, ::4].copy(), fine, fine), strict=True)),
        cam_thresholds=dict.fromkeys(models, Recipe.cam_threshold),
        true_boxes=pd.DataFrame({"finding": [finding], "x": [0.25], "y": [0.125], "w": [0.5], "h": [0.5]}),
        patient_id=number,
    )


def make_viewer(family: str, size: int) -> Viewer:
    """A viewer of films with every part of its picture."""
    torch.manual_seed(0)
    standard, _, refined = get_preset(family)
    predictors = {
        key: Predictor(build_model(recipe.model, weights="none"), recipe, thresholds=dict.fromkeys(FINDINGS, 0.5))
        for key, recipe in ((STANDARD, standard), (REFINED, refined))
    }
    return Viewer([example(number, size) for number in range(FILMS)], predictors=predictors)


def main() -> None:
    """Measure and print."""
    options = measure.parser(__doc__, rounds=20).parse_args()
    measure.keep_to_two_cores()
    family, size, rounds = ("tiny", 64, 2) if options.quick else ("resnet50", 256, options.rounds)
    viewer = make_viewer(family, size)

    def move(name: str) -> None:
        control, (first, second) = getattr(viewer, name), MOVES[name]
        control.value = second if control.value == first else first

    def judge() -> None:
        for film in viewer._cases:
            film._hits.clear()
        filter_examples(viewer._cases, which=HITS, finding=FINDINGS[0], model=REFINED)

    work = {name: lambda name=name: move(name) for name in MOVES} | {"hits": judge}
    seconds = measure.in_turn(work, rounds=rounds)
    rows = [
        {
            "control": name,
            **{key: value * 1000 for key, value in measure.spread(seconds[name]).items()},
            "goal": "none: loads the film" if name == "image" else f"at most {GOAL_MS}",
        }
        for name in work
    ]
    measure.Report(
        "explorer",
        {"family": family, "size": size, "films": FILMS, "rounds": rounds, "picture bytes": len(viewer.picture.value)},
        {"Milliseconds from a control to the picture": rows},
        ["the way from the kernel to the browser, and the browser's decoding of the PNG"],
    ).show(as_json=options.json)


if __name__ == "__main__":
    main()
