"""Measure the cost of MultiRes compared with the standard model (Table 4) on this device.

    python benchmarks/inference.py [--json] [--quick] [--rounds N] [--cuda-graphs]

The forward pass of the paper's four models with random weights, logits and maps (for MultiRes refined by the PCM), laid
out as `inference.predictor.Predictor` lays them out, in float32, on images of 256 pixels, one at a time and in batches
of 32. Operations are counted by PyTorch's flop counter: a multiplication and an addition are two, and only convolutions
and products of matrices count. With --cuda-graphs a GPU replays the recorded forward pass, so that the CPU launches one
graph instead of hundreds of kernels; the memory is that without graphs.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import measure
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cxr_seam.evaluation.published import paper_milliseconds
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.build import PAPER_PARAMETERS, build_model, count_parameters
from cxr_seam.models.multires import LocalizationModel
from cxr_seam.presets import get_recipe

PRESETS = ("resnet50", "efficientnet_b4")
QUICK_PRESETS = ("small",)
IMAGES_A_ROUND = 32


def build_from_recipe(recipe: str) -> LocalizationModel:
    """Build a model as the predictor does."""
    torch.manual_seed(0)
    chosen = get_recipe(recipe)
    return Predictor(build_model(chosen.model, weights="none"), chosen).model


def images_of(batch: int, size: int) -> Tensor:
    """Make random images in the memory format of the predictor."""
    images = torch.randn(batch, 3, size, size, device=measure.device())
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def forward(model: Callable[[Tensor], object], images: Tensor, *, times: int = 1) -> None:
    """Run the forward pass several times."""
    for _ in range(times):
        model(images)


@torch.inference_mode()
def recorded(model: LocalizationModel, images: Tensor) -> Callable[[Tensor], object]:
    """Record the forward pass of these images as a CUDA graph; return a function that replays it."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        forward(model, images, times=3)  # libraries choose their kernels before the recording
    stream.synchronize()
    with torch.cuda.graph(graph):
        model(images)
    return lambda _: graph.replay()


@torch.no_grad()
def gflops(model: LocalizationModel, size: int) -> float:
    """Count the operations for one image, in 10^9."""
    with FlopCounterMode(display=False) as counter:
        model(images_of(1, size))
    return counter.get_total_flops() / 1e9


def memory(*, recipe: str, batch: int, size: int) -> dict[str, int]:
    """Measure the peak memory of the model and one forward pass; runs in a fresh process."""
    return {"bytes": measure.peak_bytes(lambda: forward(build_from_recipe(recipe), images_of(batch, size)))}


def main() -> None:
    """Measure and print the report."""
    parser = measure.parser(__doc__, rounds=7)
    parser.add_argument("--cuda-graphs", action="store_true", help="replay CUDA graphs; needs a GPU")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(memory(**options.child)))
        return
    size, rounds = (64, 2) if options.quick else (256, options.rounds)
    batches = (1,) if options.quick else (1, 32)
    on_cpu = measure.device() == "cpu"
    models, ratios = [], []
    for preset in QUICK_PRESETS if options.quick else PRESETS:
        pair = {recipe: build_from_recipe(recipe) for recipe in (preset, f"multires_{preset}")}
        operations = {recipe: gflops(model, size) for recipe, model in pair.items()}
        standard, multires = pair
        of_operations = operations[multires] / operations[standard]
        paper = None
        if preset in paper_milliseconds():
            paper = paper_milliseconds()[multires] / paper_milliseconds()[standard]
        for batch in batches:
            images, times = images_of(batch, size), max(1, IMAGES_A_ROUND // batch if not on_cpu else 8 // batch)
            run = {r: recorded(model, images) if options.cuda_graphs else model for r, model in pair.items()}
            seconds = measure.in_turn(
                {
                    recipe: lambda work=work, images=images, times=times: forward(work, images, times=times)
                    for recipe, work in run.items()
                },
                rounds=rounds,
            )
            goal = f"at most {of_operations if on_cpu or paper is None else paper:.2f}"
            ratios.append(
                {
                    "batch": batch,
                    **measure.compare(
                        f"time, {multires} / {standard}", seconds[multires], seconds[standard], goal=goal
                    ),
                    "of operations": of_operations,
                    "in the paper": paper,
                }
            )
            for recipe, model in pair.items():
                peak = measure.in_fresh_process(memory, quick=options.quick, recipe=recipe, batch=batch, size=size)[
                    "bytes"
                ]
                models.append(
                    {
                        "model": recipe,
                        "batch": batch,
                        "ms a batch": measure.spread(seconds[recipe])["median"] / times * 1000,
                        "paper ms": paper_milliseconds().get(recipe) if batch == 1 else None,
                        "parameters": f"{count_parameters(model):,}",
                        "paper parameters": f"{PAPER_PARAMETERS[recipe]:,}" if recipe in PAPER_PARAMETERS else None,
                        "GFLOPs an image": operations[recipe],
                        "peak MiB": peak / measure.MIB,
                    }
                )
    measure.Report(
        "inference",
        {
            "device": measure.device(),
            "size": size,
            "precision": "float32",
            "cuda graphs": options.cuda_graphs,
            "rounds": rounds,
        },
        {"Models": models, "Ratios, pair by pair": ratios},
        [
            "reading and resizing a file, and the boxes",
            "the paper's milliseconds were measured on a P100 with an unknown batch size; compare only ratios",
        ],
    ).show(as_json=options.json)


if __name__ == "__main__":
    main()
