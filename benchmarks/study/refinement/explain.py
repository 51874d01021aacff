"""Measure why the PCM makes a map uniform: its affinity, and the ECR loss of some refiners (docs/pcm.md)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cxr_seam.data.dataset import ChestXrayDataset, iter_batches
from cxr_seam.data.transforms import eval_transform, rotation_params
from cxr_seam.models.cam import max_normalise
from cxr_seam.models.extras.residual_pcm import centre, effective_share
from cxr_seam.models.multires import LocalizationModel
from cxr_seam.models.pcm import PCM, affinity, l2_normalise
from cxr_seam.recipes import SeamStage
from cxr_seam.training.seam import SeamObjective

from .candidates import BATCH, PAPER, RESIDUAL, Models


def untrained_pcm(model: LocalizationModel) -> PCM:
    """Make a PCM with a random theta; at the paper's rate theta stays like this (docs/ablations.md)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PCM(model.classifier.in_channels)


@torch.inference_mode()
def measure_affinity(model: LocalizationModel, dataset: ChestXrayDataset, *, size: int) -> pd.DataFrame:
    """Describe the affinity of an untrained PCM and of the model's on images with a finding.

    Returns:
        A row for each embedding, as it is and centred. Columns: 5th, 50th and 95th percentile of the cosines of
        different positions; median share of the image that a position uses (`effective_share`); median ratio of
        minimum and maximum of the refined whole maps of the labelled findings.
    """
    refiners = {"untrained theta": untrained_pcm(model), "trained theta": model.refiner}
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for pixels, labels, _ in iter_batches(dataset, BATCH, desc="affinity"):
        features, _ = model.forward_features(eval_transform(pixels, size=size))
        maps = max_normalise(model.class_scores(features)).flatten(start_dim=2)  # (B, K, N)
        for name, refiner in refiners.items():
            embedding = refiner.embed(features)
            for row, values in ((name, embedding), (f"{name}, centred", centre(embedding))):
                query, weights = l2_normalise(values), affinity(values)
                different = ~torch.eye(weights.shape[-1], dtype=torch.bool)
                cosines = torch.bmm(query.transpose(1, 2), query)[:, different][:, ::7].flatten()
                refined = torch.bmm(maps, weights.transpose(1, 2))[labels == 1]  # (maps, N)
                ratios = refined.amin(dim=-1) / refined.amax(dim=-1)
                found.setdefault(row, []).append((cosines, effective_share(weights).flatten(), ratios))
    table = {}
    for row, parts in found.items():
        cosines, shares, ratios = (
            np.concatenate([part.numpy() for part in column]) for column in zip(*parts, strict=True)
        )
        low, middle, high = np.percentile(cosines, [5, 50, 95])
        table[row] = {
            "cosine, 5 %": low,
            "cosine, 50 %": middle,
            "cosine, 95 %": high,
            "share of the image": np.median(shares),
            "minimum / maximum": np.nanmedian(ratios),
        }
    return pd.DataFrame(table).T


class UniformRefiner(nn.Module):
    """Replace each map by its mean over the valid pixels: the affinity of equal embeddings."""

    def forward(
        self, features: Tensor, cam: Tensor, *, valid: Tensor | None = None, low_level: object = None
    ) -> Tensor:
        """Refine `cam`; arguments as in `pcm.PCM.forward`."""
        del features, low_level
        valid = torch.ones_like(cam[:, :1]) if valid is None else valid
        mean = (cam * valid).sum(dim=(-2, -1), keepdim=True) / valid.sum(dim=(-2, -1), keepdim=True)
        return mean.expand_as(cam)


class IdentityRefiner(nn.Module):
    """Leave maps as they are."""

    def forward(
        self, features: Tensor, cam: Tensor, *, valid: Tensor | None = None, low_level: object = None
    ) -> Tensor:
        """Return `cam`."""
        del features, valid, low_level
        return cam


@torch.inference_mode()
def measure_ecr(models: Models, stage: SeamStage, dataset: ChestXrayDataset, *, size: int) -> pd.Series:
    """Compute the ECR loss (Eq. 6) of some refiners, with the same rotations for all."""
    model, trained = models[PAPER], models[PAPER].refiner
    refiners = {
        "uniform affinity": UniformRefiner(),
        "PCM, untrained theta": untrained_pcm(model),
        "PCM, trained theta": trained,
        "residual PCM, trained": models[RESIDUAL].refiner,
        "the map as it is": IdentityRefiner(),
    }
    objective, losses = SeamObjective(model, stage).eval(), {}
    for name, refiner in refiners.items():
        model.refiner = refiner
        generator, total = torch.Generator().manual_seed(0), 0.0
        for pixels, labels, _ in iter_batches(dataset, BATCH, desc=f"ECR, {name}"):
            angle = torch.empty(len(pixels)).uniform_(-1, 1, generator=generator) * stage.rotation_degrees
            images = eval_transform(pixels, size=size)
            total += float(objective(images, labels, rotation=rotation_params(angle))["ecr"]) * len(pixels)
        losses[name] = total / len(dataset)
    model.refiner = trained
    return pd.Series(losses, name="ECR loss")
