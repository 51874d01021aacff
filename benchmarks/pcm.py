"""Compare the PCM in blocks of rows with the whole affinity matrix, forward and backward (Eq. 2).

    python benchmarks/pcm.py [--json] [--quick] [--rounds N]

Both refine K = 15 maps with embeddings of D = 256 dimensions and compute the gradient of the embeddings. The plain
version stores the affinity of all pairs of pixels, N x N values per image: N is 1,024 for images of 256 pixels, 4,096
for 512 and 16,384 for 1024. The batch size decreases with N, so that the plain version fits into memory.
"""

from __future__ import annotations

import json

import measure
import torch
from torch import Tensor

from cxr_seam.models.pcm import affinity, apply_affinity

CASES = {1024: 32, 4096: 8, 16384: 1}
"""Number of pixels -> batch size."""
QUICK_CASES = {256: 2}
DIMENSIONS, MAPS = 256, 15
GOALS = {4096: ("at most 1.3", "at most 0.25"), 16384: ("", "ours in 4 GB")}
"""Number of pixels -> goals of time and memory."""


def plain(embedding: Tensor, cam: Tensor) -> Tensor:
    """Compute Eq. 2 as printed: the whole matrix times the maps."""
    values = cam.flatten(start_dim=2).transpose(1, 2)
    return torch.bmm(affinity(embedding), values).transpose(1, 2).reshape(cam.shape)


CANDIDATES = {"ours": apply_affinity, "plain": plain}


def inputs(pixels: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make embeddings, maps, and the gradient of the loss."""
    torch.manual_seed(0)
    side = round(pixels**0.5)
    embedding = torch.randn(batch, DIMENSIONS, side, side, device=measure.device()).requires_grad_()
    cam, back = (torch.rand(batch, MAPS, side, side, device=measure.device()) for _ in range(2))
    return embedding, cam, back


def step(candidate: str, embedding: Tensor, cam: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Run forward and backward; return the refined maps and the gradient of the embeddings."""
    embedding.grad = None
    refined = CANDIDATES[candidate](embedding, cam)
    refined.backward(back)
    return refined.detach(), embedding.grad


def memory(*, candidate: str, pixels: int, batch: int) -> dict[str, int]:
    """Measure the peak memory of one step with its inputs; runs in a fresh process."""
    step(candidate, *inputs(64, 1))  # warm-up: one-time allocations are not counted
    return {"bytes": measure.peak_bytes(lambda: step(candidate, *inputs(pixels, batch)))}


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


def main() -> None:
    """Measure and print the report."""
    options = measure.parser(__doc__, rounds=5).parse_args()
    if options.child:
        print(json.dumps(memory(**options.child)))
        return
    rounds = 2 if options.quick else options.rounds
    candidates, ratios = [], []
    for pixels, batch in (QUICK_CASES if options.quick else CASES).items():
        given = inputs(pixels, batch)
        seconds = measure.in_turn(
            {name: lambda name=name, given=given: step(name, *given) for name in CANDIDATES}, rounds=rounds
        )
        (refined, gradient), (plain_refined, plain_gradient) = (step(name, *given) for name in CANDIDATES)
        peaks = {
            name: measure.in_fresh_process(memory, quick=options.quick, candidate=name, pixels=pixels, batch=batch)[
                "bytes"
            ]
            for name in CANDIDATES
        }
        time_goal, memory_goal = GOALS.get(pixels, ("", ""))
        ratios.append(
            {"N": pixels, **measure.compare("time, ours / plain", seconds["ours"], seconds["plain"], goal=time_goal)}
        )
        ratios.append(
            {
                "N": pixels,
                **measure.compare("memory, ours / plain", [peaks["ours"]], [peaks["plain"]], goal=memory_goal),
            }
        )
        for name in CANDIDATES:
            candidates.append(
                {"N": pixels, "batch": batch, "candidate": name, "seconds": measure.spread(seconds[name])["median"],
                 "peak MiB": peaks[name] / measure.MIB}
            )  # fmt: skip
        candidates[-2]["maps differ by"] = largest_difference(refined, plain_refined)
        candidates[-2]["gradients differ by"] = largest_difference(gradient, plain_gradient)
    measure.Report(
        "pcm",
        {"device": measure.device(), "D": DIMENSIONS, "K": MAPS, "rounds": rounds},
        {"Forward and backward": candidates, "Ratios, pair by pair": ratios},
        ["the convolution theta and the losses around the module; refinement without a gradient, as in prediction"],
    ).show(as_json=options.json)


if __name__ == "__main__":
    main()
