"""Maps to compare with the CAM that they are made from: refiners, and controls that use no correlation.

Beside the refiners of the package, methods without parameters:

- SIPE (Chen et al. 2022, Sect. 3.2): S_i = ReLU( cosine(x_i, x_j) ) is the correlation map of position i, and its IoU
  with the normalised map M of a finding is sum_j min(S_ij, M_j) / sum_j max(S_ij, M_j). A row that resembles everything
  has a small IoU with a small map. Positions where M has a larger IoU than the background 1 - M are the seeds; the
  refined map is the cosine of each position with the mean feature of the seeds (the image-specific prototype).
- Signed affinity (this project): with features minus their mean over the image, the cosine keeps its sign, so similar
  positions add their values and opposite ones subtract theirs: S_ij = cos_ij / sum_j |cos_ij|.
- PAR (Ru et al. 2022, Sect. 3.4): repeated means over neighbours with a similar intensity.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from cxr_seam.models.cam import make_pcm_input, max_normalise
from cxr_seam.models.extras.residual_pcm import centre
from cxr_seam.models.multires import LocalizationModel
from cxr_seam.models.pcm import EPSILON, apply_in_blocks, l2_normalise

BATCH = 32
PAPER, RESIDUAL = "pcm", "residual_pcm"
MAP, MIXED = "map", "residual PCM"
SUPPRESSED, REFINED, WHOLE = "suppressed map, no PCM", "PCM (the paper)", "PCM on the whole map"
SIPE_IOU, SIPE, PAR = "SIPE, correlation IoU", "SIPE, prototypes", "PAR"
HALF, CONSTANT, OTHER, BLUR = "map + PCM", "map + matched constant", "map + another image's", "map, Gaussian blur"
MIRRORED, LOWERED = "map - mirrored / 2", "map - its mean / 2"
OTHER_MIRRORED = "map - another image's mirrored / 2"
SIGNED, MIXED_SIGNED = "map + signed affinity", "residual PCM + signed affinity"
SIGNED_CONSTANT, SIGNED_OTHER = "map + constant, signed", "map + another image's, signed"
Models = dict[str, LocalizationModel]

PAR_STRIDE, PAR_DILATIONS, PAR_STEPS = 4, (1, 2, 4, 6), 10
"""PAR works at a quarter of the image size, with neighbours of 4 to 24 pixels of the image."""
PAR_INTENSITY, PAR_DISTANCE, PAR_DISTANCE_SHARE = 0.3, 0.3, 0.01
"""w_1, w_2 and w_3 of Ru et al. 2022."""


def candidate_maps(models: Models, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the logits (B, K) of a batch and each candidate's maps (B, K, h, w).

    The controls mix the map half and half, as the residual PCM and the signed affinity do: with the mean of the refined
    map (it only changes the contrast, as another Q) and with the refined map of another image of the batch. The blur
    has a standard deviation of one pixel of the map; it was not varied.
    """
    pcm, residual = models[PAPER], models[RESIDUAL]
    features, low_level = pcm.forward_features(images)
    cam = pcm.class_scores(features)
    suppressed = make_pcm_input(cam, findings=cam.shape[1])
    mixed = residual.refiner(features, cam, low_level=low_level)
    refined = 2 * mixed - cam
    signed = apply_signed_affinity(features, cam)
    overlap = correlation_iou(features, max_normalise(cam))

    def paper(maps: Tensor) -> Tensor:
        return pcm.refiner(features, maps, low_level=low_level)[:, : cam.shape[1]]

    return pcm.pool_logits(features), {
        MAP: cam,
        SUPPRESSED: suppressed[:, :-1],
        REFINED: paper(suppressed),
        WHOLE: paper(max_normalise(cam)),
        HALF: (cam + paper(cam)) / 2,
        MIXED: mixed,
        SIPE_IOU: overlap,
        SIPE: similarity_to_seeds(features, overlap > correlation_iou(features, 1 - max_normalise(cam))),
        SIGNED: (cam + signed) / 2,
        MIXED_SIGNED: (mixed + signed) / 2,
        PAR: adapt_to_intensities(images, cam),
        SIGNED_CONSTANT: (cam + signed.mean(dim=(-2, -1), keepdim=True)) / 2,
        SIGNED_OTHER: (cam + signed.roll(len(images) // 2, dims=0)) / 2,
        CONSTANT: (cam + refined.mean(dim=(-2, -1), keepdim=True)) / 2,
        OTHER: (cam + refined.roll(len(images) // 2, dims=0)) / 2,
        BLUR: gaussian_blur(cam, 7, 1.0),
    }


def mirrored_candidates(cam: Tensor, baseline: Tensor | float) -> dict[str, Tensor]:
    """Subtract half of the mirrored evidence from maps, as `mirror_share` does, and two controls.

    The controls subtract half of another image's mirrored evidence, and half of the mean evidence of the map itself.

    Args:
        cam: (B, K, h, w).
        baseline: (K, h, w) or a number, what counts as no evidence.
    """
    evidence = (cam - baseline).relu()
    mirrored = evidence.flip(-1)
    return {
        MIRRORED: cam - mirrored / 2,
        OTHER_MIRRORED: cam - mirrored.roll(len(cam) // 2, dims=0) / 2,
        LOWERED: cam - evidence.mean(dim=(-2, -1), keepdim=True) / 2,
    }


def apply_signed_affinity(features: Tensor, maps: Tensor) -> Tensor:
    """Multiply maps (B, K, h, w) by the signed affinity S of features (B, C, h, w); |result| <= the largest |value|."""
    query = l2_normalise(centre(features.float()))
    return apply_in_blocks(signed_rows, query, query, maps, valid=None)


def signed_rows(queries: Tensor, keys: Tensor, values: Tensor, columns: Tensor | None) -> Tensor:
    """Compute values (B, n, K) of the n queries (B, D, n) from values (B, N, K); `columns` is not used."""
    del columns
    cosines = torch.bmm(queries.transpose(1, 2), keys)  # (B, n, N)
    return torch.bmm(cosines, values) / cosines.abs().sum(dim=-1, keepdim=True).clamp_min(EPSILON)


def correlation_iou(features: Tensor, maps: Tensor) -> Tensor:
    """Compute the IoU of each position's correlation map with each map (SIPE).

    Args:
        features: (B, C, h, w).
        maps: (B, K, h, w) in [0, 1].

    Returns:
        (B, K, h, w) in [0, 1].
    """
    query = l2_normalise(features)
    rows = torch.bmm(query.transpose(1, 2), query).relu()  # (B, N, N), S_i in row i
    maps_flat = maps.flatten(start_dim=2)  # (B, K, N)
    overlaps = []
    for index in range(maps.shape[1]):
        map_row = maps_flat[:, index, None]  # (B, 1, N)
        overlaps.append(
            torch.minimum(rows, map_row).sum(dim=-1) / torch.maximum(rows, map_row).sum(dim=-1).clamp_min(1e-5)
        )
    return torch.stack(overlaps, dim=1).reshape(maps.shape)


def similarity_to_seeds(features: Tensor, seeds: Tensor) -> Tensor:
    """Compute ReLU of the cosine of each position with the mean feature of the seeds (SIPE).

    Args:
        features: (B, C, h, w).
        seeds: (B, K, h, w) bool.

    Returns:
        (B, K, h, w) in [0, 1]; 0 for a map without a seed.
    """
    prototypes = torch.einsum("bknm,bcnm->bkc", seeds.float(), features.float())
    cosines = torch.bmm(F.normalize(prototypes, dim=-1), l2_normalise(features))  # (B, K, N)
    return cosines.relu().reshape(seeds.shape)


def adapt_to_intensities(images: Tensor, maps: Tensor) -> Tensor:
    """Average maps over neighbours with similar intensities, `PAR_STEPS` times (PAR).

    The weight of neighbour j of position i, with the standard deviations s of its neighbours' intensities I and
    distances d, is softmax_j( -(|I_i - I_j| / (w_1 s_I))^2 ) + w_3 softmax_j( -(d_ij / (w_2 s_d))^2 ), divided by
    1 + w_3.

    Args:
        images: (B, 3, H, W) normalised.
        maps: (B, K, h, w).

    Returns:
        (B, K, h, w); a constant map stays constant.
    """
    size = [side // PAR_STRIDE for side in images.shape[-2:]]
    grey = F.interpolate(images.mean(dim=1, keepdim=True), size=size, mode="area")
    shifts = [(y * d, x * d) for d in PAR_DILATIONS for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    difference = (torch.cat(neighbours(grey, shifts), dim=1) - grey).abs()  # (B, n, H', W')
    spread = torch.cat(neighbours(grey, shifts), dim=1).std(dim=1, keepdim=True).clamp_min(1e-6)
    distance = torch.tensor([(y * y + x * x) ** 0.5 for y, x in shifts])[:, None, None]
    near = (-((distance / (PAR_DISTANCE * distance.std())) ** 2)).softmax(dim=0)
    weights = (-((difference / (PAR_INTENSITY * spread)) ** 2)).softmax(dim=1) + PAR_DISTANCE_SHARE * near
    weights = weights / (1 + PAR_DISTANCE_SHARE)
    refined = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    for _ in range(PAR_STEPS):
        moved = neighbours(refined, shifts)
        refined = sum(weights[:, n, None] * values for n, values in enumerate(moved))
    return F.interpolate(refined, size=maps.shape[-2:], mode="area")


def neighbours(maps: Tensor, shifts: list[tuple[int, int]]) -> list[Tensor]:
    """Shift maps (B, C, H, W) by each (y, x); the edge values are repeated outside."""
    most = max(max(map(abs, shift)) for shift in shifts)
    padded, (height, width) = F.pad(maps, [most] * 4, mode="replicate"), maps.shape[-2:]
    return [padded[..., most + y : most + y + height, most + x : most + x + width] for y, x in shifts]
