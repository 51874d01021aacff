"""The shapes of one batch after every stage of a network, to teach how it is built."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor

from ..data.transforms import eval_transform
from ..models.build import build_from_recipe
from ..models.extras.residual_pcm import ResidualPCM
from ..models.multires import LocalizationModel
from ..models.pcm import affinity
from ..workspace import Workspace


@torch.no_grad()
def stage_shapes(run: Workspace, name: str, *, batch_size: int = 4) -> pd.DataFrame:
    """Tabulate the shape after every stage for one batch of training images.

    The weights are random, because shapes do not depend on them.

    Args:
        run: with prepared images.
        name: "standard", "multires" or "multires_pcm"; the PCM is listed for the last only.
        batch_size: number of images.

    Returns:
        Columns `stage`, `shape`, `operation`; shapes are (batch, channels, height, width).
    """
    recipe = run.recipe(name)
    train_set, _ = run.train_val_datasets(recipe)
    pixels, _ = train_set.load(range(min(batch_size, len(train_set))))
    images = eval_transform(pixels, size=recipe.image_size)
    model = build_from_recipe(recipe, weights="none").eval()
    stages = [
        ("images", pixels, "grey bytes from the cache"),
        ("network input", images, "resized, normalised, 3 channels"),
        *network_stages(model, images),
        *(refiner_stages(model, images) if recipe.seam_stage is not None else ()),
    ]
    rows = [(stage, str(tuple(value.shape)), operation) for stage, value, operation in stages]
    return pd.DataFrame(rows, columns=["stage", "shape", "operation"]).set_index("stage")


def network_stages(model: LocalizationModel, images: Tensor) -> Iterator[tuple[str, Tensor, str]]:
    """Yield name, value and operation of each stage up to the logits."""
    maps = model.backbone(images)
    for stride, features in zip(model.backbone.strides, maps, strict=True):
        yield f"backbone, stride {stride}", features, "pretrained convolutions"
    features = maps[-1]
    for number, (merge, fine) in enumerate(zip(model.merges, maps[-2::-1], strict=False), start=1):
        coarse = merge.reduce_coarse(features)
        yield f"merge {number}: reduce coarse", coarse, "1 x 1 convolution"
        yield f"merge {number}: reduce fine", merge.reduce_fine(fine), "1 x 1 convolution"
        upsampled = torch.nn.functional.interpolate(coarse, size=fine.shape[-2:])
        yield f"merge {number}: upsample coarse", upsampled, "bilinear interpolation"
        joined = torch.cat([upsampled, merge.reduce_fine(fine)], dim=1)
        yield f"merge {number}: concatenate", joined, "stack the channels"
        features = merge(features, fine)
        yield f"merge {number}: fuse", features, "1 x 1 convolution"
    output = model(images)
    yield "class activation maps", output.cam, "classifier at every position"
    yield "logits", output.logits, "pooling, then classifier"


def refiner_stages(model: LocalizationModel, images: Tensor) -> Iterator[tuple[str, Tensor, str]]:
    """Yield the stages of the refiner; a PCM also has an embedding and an affinity."""
    features, low_level = model.forward_features(images)
    centred = isinstance(model.refiner, ResidualPCM)
    if hasattr(model.refiner, "embed"):
        embedding = model.refiner.embed(features, low_level)
        yield "PCM: embedding theta", embedding, f"1 x 1 convolution{', minus its mean over the image' * centred}"
        yield "PCM: affinity", affinity(embedding), "cosine of all pairs, ReLU, rows sum to 1"
    note = "weighted mean of the map"  # tables in notebooks cut texts of more than 50 characters
    yield "refined maps", model(images).refined, f"{note}, half and half with the map" if centred else note
