"""Measure the time from a changed control to the picture of the viewer, on two cores.

    python benchmarks/viewer.py [--json] [--quick] [--rounds N]

The viewer has 64 images, as in notebook 05. Each control changes between two values; the time runs from the new value
to the PNG in the image widget. The models are those of the `resnet50` preset with random weights, the images are noise
of 256 x 256 pixels, which is the slowest input for PNG. A change of the image includes the forward pass for the
embedding of the PCM; the other controls change on a loaded image. The last row is the time to find the correct boxes of
a finding on all images, without cached results.
"""

from __future__ import annotations

import measure
import numpy as np
import pandas as pd
import torch

from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS, OPERATING_POINTS
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import build_model
from cxr_seam.presets import get_preset
from cxr_seam.visualize.examples import CORRECT, Example, ModelOutput, filter_examples
from cxr_seam.visualize.viewer import Viewer

GOAL_MS = 150
IMAGES = 64
VALUES = {
    "finding": FINDINGS[:2],
    "threshold": (0.5, 0.7),
    "opacity": (0.3, 0.5),
    "colours": ("viridis", "jet"),
    "narrow": (False, True),
    "x": (20, 80),
    "y": (20, 80),
    "image": (0, 1),
}


def example(number: int, size: int) -> Example:
    """Make an example of noise with blurred random maps, which have several boxes."""
    generator = np.random.default_rng(number)
    cells = size // 8
    fine = torch.nn.functional.avg_pool2d(torch.randn(14, cells, cells), 3, 1, 1).numpy()
    standard, refined = generator.random((2, len(FINDINGS)))
    calibrated = np.full(len(FINDINGS), 0.1)
    thresholds = dict.fromkeys(OPERATING_POINTS, np.full(len(FINDINGS), 0.5))
    finding = BOXED_FINDINGS[number % len(BOXED_FINDINGS)]
    return Example(
        image_index=f"{number:08d}_000.png",
        image=generator.integers(0, 255, (size, size)).astype(np.uint8),
        labels=(finding,),
        outputs={
            STANDARD: ModelOutput(standard, fine[:, ::4, ::4].copy(), HeatmapOptions(), calibrated, thresholds),
            MULTIRES: ModelOutput(refined, fine, HeatmapOptions(), calibrated, thresholds),
            REFINED: ModelOutput(refined, fine, HeatmapOptions(), calibrated, thresholds),
        },
        true_boxes=pd.DataFrame({"finding": [finding], "x": [0.25], "y": [0.125], "w": [0.5], "h": [0.5]}),
        patient_id=number,
    )


def make_viewer(preset: str, size: int) -> Viewer:
    """Make a viewer with all panels and bars."""
    torch.manual_seed(0)
    standard, _, refined = get_preset(preset)
    predictors = {
        key: Predictor(build_model(recipe.model, weights="none"), recipe)
        for key, recipe in ((STANDARD, standard), (REFINED, refined))
    }
    return Viewer([example(number, size) for number in range(IMAGES)], predictors=predictors)


def main() -> None:
    """Measure and print."""
    options = measure.parser(__doc__, rounds=20).parse_args()
    measure.use_two_cores()
    preset, size, rounds = ("tiny", 64, 2) if options.quick else ("resnet50", 256, options.rounds)
    viewer = make_viewer(preset, size)

    def change(name: str) -> None:
        control, (first, second) = getattr(viewer, name), VALUES[name]
        control.value = second if control.value == first else first

    def find_correct() -> None:
        for example in viewer.examples:
            example._correct.clear()
        filter_examples(viewer.examples, subset=CORRECT, finding=FINDINGS[0], model=REFINED)

    work = {name: lambda name=name: change(name) for name in VALUES} | {"correct": find_correct}
    seconds = measure.in_turn(work, rounds=rounds)
    rows = [
        {
            "control": name,
            **{key: value * 1000 for key, value in measure.spread(seconds[name]).items()},
            "goal": "none: loads the image" if name == "image" else f"at most {GOAL_MS}",
        }
        for name in work
    ]
    measure.Report(
        "viewer",
        {
            "preset": preset,
            "size": size,
            "images": IMAGES,
            "rounds": rounds,
            "picture bytes": len(viewer.picture.value),
        },
        {"Milliseconds from a changed control to the picture": rows},
        ["the transfer from the kernel to the browser, and the decoding of the PNG there"],
    ).show(as_json=options.json)


if __name__ == "__main__":
    main()
