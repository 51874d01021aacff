"""The shapes that notebook 02 and 03 show, against the channel counts that Table 4 implies."""

from __future__ import annotations

import torch

from cxr_seam.evaluation.stage_shapes import network_stages, refiner_stages
from cxr_seam.models.build import build_model


def test_shapes_of_multires_resnet50() -> None:
    """Two merges: 2048 + 1024 channels to 1024 at 16 x 16, then 1024 + 512 to 512 at 32 x 32 (Sect. 4.1)."""
    model = build_model("multires_resnet50", weights="none").eval()
    images = torch.zeros(1, 3, 256, 256)
    with torch.no_grad():
        stages = [*network_stages(model, images), *refiner_stages(model, images)]
    shapes = {name: tuple(value.shape[1:]) for name, value, _ in stages}
    assert shapes["backbone, stride 32"] == (2048, 8, 8)
    assert [shapes[f"merge 1: {step}"] for step in ("reduce coarse", "reduce fine", "concatenate", "fuse")] == [
        (512, 8, 8),
        (256, 16, 16),
        (768, 16, 16),
        (1024, 16, 16),
    ]
    assert [shapes[f"merge 2: {step}"] for step in ("reduce coarse", "reduce fine", "concatenate", "fuse")] == [
        (256, 16, 16),
        (128, 32, 32),
        (384, 32, 32),
        (512, 32, 32),
    ]
    assert shapes["class activation maps"] == shapes["refined maps"] == (14, 32, 32) and shapes["logits"] == (14,)
    assert shapes["PCM: embedding theta"] == (256, 32, 32) and shapes["PCM: affinity"] == (1024, 1024)
