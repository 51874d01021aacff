"""Explain the PCM and compare refiners with controls on a trained MultiRes model (docs/pcm.md).

    python -m benchmarks.study.refinement --data demo --output runs/demo --multires runs/demo/models/multires_demo.best.safetensors
    python -m benchmarks.study.refinement --data runs/study/data --output runs/refinement --multires runs/strong.s0.safetensors

Two refiners are trained, the paper's PCM and the residual PCM, both with the SEAM stage of our presets. Then the script
measures three things: how uniform the affinity is, the ECR loss of some refiners, and the boxes of refined maps beside
those of maps that no affinity has refined. Tables and figures are in OUTPUT/refinement/RECIPE. A stopped training
continues.
"""  # noqa: E501 (commands stay in one line)

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from cxr_seam.data.dataset import ChestXrayDataset, iter_batches
from cxr_seam.data.transforms import eval_transform, rotation_params
from cxr_seam.evaluation.methods import Targets
from cxr_seam.evaluation.results import FROC, LOOSE_FROC, TITLES, format_estimate
from cxr_seam.inference.calibration import make_prior
from cxr_seam.inference.heatmap_options import HeatmapOptions
from cxr_seam.inference.heatmaps import PAPER_SIZE
from cxr_seam.inference.scores import raw_scores
from cxr_seam.io import atomic_write
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP, Estimate, estimate
from cxr_seam.metrics.matching import rank_by_raw_score
from cxr_seam.models.cam import make_pcm_input, max_normalise
from cxr_seam.models.checkpoint import best_path, load_checkpoint, read_header
from cxr_seam.models.extras.residual_pcm import centre, effective_share
from cxr_seam.models.multires import LocalizationModel, ModelOutput
from cxr_seam.models.pcm import PCM, affinity, l2_normalise
from cxr_seam.models.tta import tta_forward
from cxr_seam.presets import SMALL_PCM
from cxr_seam.recipes import Recipe, SeamStage, add_seam_stage
from cxr_seam.training.fit import fit
from cxr_seam.training.seam import SeamObjective
from cxr_seam.visualize.figures import COLOURS, draw_affinity, finish, new_figure, style_chart
from cxr_seam.workspace import Workspace

from .runner import Study, Values, measure_boxes, subtract

BATCH = 32
PAPER, RESIDUAL = "pcm", "residual_pcm"
MAP, MIXED = "map", "residual PCM"
SUPPRESSED, REFINED, WHOLE = "suppressed map, no PCM", "PCM (the paper)", "PCM on the whole map"
HALF, CONSTANT, OTHER, BLUR = "map + PCM", "map + matched constant", "map + another image's", "map, Gaussian blur"
LOWER_Q = (0.5, 0.6, 0.7, 0.8)
AFFINITY_IMAGES, ECR_IMAGES = 64, 256
METRICS = (FROC, LOOSE_FROC)
Models = dict[str, LocalizationModel]


def train_refiners(run: Workspace, multires: Path, *, folder: Path, most: int | None) -> Models:
    """Train the paper's PCM and the residual PCM on top of a MultiRes checkpoint; return both models.

    `most` limits the number of training images.
    """
    recipe = read_header(multires).recipe
    first = best_path(folder, recipe.name)
    if not first.exists():
        with atomic_write(first) as temporary:
            shutil.copyfile(multires, temporary)
    models = {}
    for name in (PAPER, RESIDUAL):
        plain = {"tta_scales": (1.0,), "tta_flip": False, "cam_baseline": "zero", "map_prior": "none"}
        stage = replace(add_seam_stage(recipe, SMALL_PCM), name=f"{recipe.name}_{name}", refiner=name, **plain)
        train_set, val_set = run.train_val_datasets(stage)
        few = sample_images(run, val_set, most=ECR_IMAGES)  # with one epoch there is no best one to choose
        fit(stage, folder, train_set=sample_images(run, train_set, most=most), val_set=few)
        models[name], _ = load_checkpoint(best_path(folder, stage.name))
    return models


def sample_images(run: Workspace, dataset: ChestXrayDataset, *, most: int | None) -> ChestXrayDataset:
    """Return at most `most` images of a dataset, spread evenly; None: all."""
    if most is None or most >= len(dataset):
        return dataset
    names = [dataset.image_index[i * len(dataset) // most] for i in range(most)]
    return ChestXrayDataset(dataset.cache, run.metadata(), image_index=names)


# 1. How uniform the affinity is.


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


# 2. The ECR loss of some refiners.


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


# 3. Boxes of refined maps and of controls.


def candidate_maps(models: Models, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the logits (B, K) of a batch and each candidate's maps (B, K, h, w).

    The controls mix the map half and half, as the residual PCM does: with the mean of the refined map (it only lowers
    the contrast, as a lower Q) and with the refined map of another image of the batch. The blur has a standard
    deviation of one pixel of the map; it was not varied.
    """
    pcm, residual = models[PAPER], models[RESIDUAL]
    features, low_level = pcm.forward_features(images)
    cam = pcm.class_scores(features)
    suppressed = make_pcm_input(cam, findings=cam.shape[1])
    mixed = residual.refiner(features, cam, low_level=low_level)
    refined = 2 * mixed - cam

    def paper(maps: Tensor) -> Tensor:
        return pcm.refiner(features, maps, low_level=low_level)[:, : cam.shape[1]]

    return pcm.pool_logits(features), {
        MAP: cam,
        SUPPRESSED: suppressed[:, :-1],
        REFINED: paper(suppressed),
        WHOLE: paper(max_normalise(cam)),
        HALF: (cam + paper(cam)) / 2,
        MIXED: mixed,
        CONSTANT: (cam + refined.mean(dim=(-2, -1), keepdim=True)) / 2,
        OTHER: (cam + refined.roll(len(images) // 2, dims=0)) / 2,
        BLUR: gaussian_blur(cam, 7, 1.0),
    }


@torch.inference_mode()
def forward_candidates(models: Models, pixels: Tensor, *, recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute logits and candidates of images (B, 1, S, S) uint8 with the recipe's test-time augmentation."""
    names: list[str] = []

    def compute(view: Tensor, *, maps: bool) -> ModelOutput:
        logits, candidates = candidate_maps(models, view)
        names[:] = candidates
        return ModelOutput(logits, torch.cat(list(candidates.values()), dim=1), None)

    images = eval_transform(pixels, size=recipe.image_size)
    output = tta_forward(compute, images, scales=recipe.tta_scales, flip=recipe.tta_flip)
    return output.logits, dict(zip(names, output.cam.float().chunk(len(names), dim=1), strict=True))


def reading_options(models: Models, dataset: ChestXrayDataset, *, recipe: Recipe) -> dict[str, HeatmapOptions]:
    """Return how each candidate is read: as the recipe says, with its own mean maps of the validation images."""
    common = HeatmapOptions(recipe.cam_baseline, None, None, recipe.cam_threshold, recipe.box_rule, dataset.findings)
    if recipe.cam_baseline != "negative_mean" and recipe.map_prior == "none":
        _, candidates = forward_candidates(models, dataset.load([0])[0], recipe=recipe)
        return dict.fromkeys(candidates, common)
    sums: dict[str, Tensor] = {}
    for pixels, labels, _ in iter_batches(dataset, BATCH, desc="mean maps"):
        groups = torch.stack([labels == 0, labels == 1]).double()  # (2, B, K)
        for name, cam in forward_candidates(models, pixels, recipe=recipe)[1].items():
            sums[name] = sums.get(name, 0) + torch.einsum("gbk,bkhw->gkhw", groups, cam.double())
    counts = torch.tensor([(dataset.labels == value).sum(axis=0).tolist() for value in (0, 1)])  # (2, K)
    options = {}
    for name, total in sums.items():
        negative, positive = (total / counts.clamp_min(1)[:, :, None, None]).float()
        prior = make_prior(negative, positive, positives=counts[1]) if recipe.map_prior == "labels" else None
        mean = negative if recipe.cam_baseline == "negative_mean" else None
        options[name] = common._replace(negative_mean=mean, prior=prior)
    return options


def collect_boxes(models: Models, study: Study, *, options: dict[str, HeatmapOptions], recipe: Recipe) -> dict:
    """Return the boxes of each candidate, and of the map with contours at other values of Q."""
    read = dict(options)
    for q in LOWER_Q:
        if (q, "contour") != (recipe.cam_threshold, recipe.box_rule):
            read[f"map, contours at Q {q:g}"] = options[MAP]._replace(threshold=q, box_rule="contour")
    dataset, findings = study.targets.dataset, study.targets.findings
    channels = [dataset.findings.index(finding) for finding in findings]
    boxes: dict[str, list[pd.DataFrame]] = {name: [] for name in read}
    logits = []
    for pixels, _, indices in iter_batches(dataset, BATCH, desc="boxes"):
        found, candidates = forward_candidates(models, pixels, recipe=recipe)
        logits.append(found)
        for name, option in read.items():
            cams = candidates.get(name, candidates[MAP])[:, channels]
            maps = option.select(channels).heatmaps(cams, PAPER_SIZE).numpy()
            for index, heatmaps in zip(indices, maps, strict=True):
                boxes[name].append(option.boxes(heatmaps, dataset.image_index[index], findings=findings))
    scored = pd.DataFrame(raw_scores(torch.cat(logits).numpy()), dataset.image_index, dataset.findings)
    return {name: rank_by_raw_score(pd.concat(rows, ignore_index=True), scored) for name, rows in boxes.items()}


def as_estimate(value: dict) -> Estimate:
    """Return value and interval of a measured value."""
    return estimate(value["value"], np.array(value["replicates"], dtype=np.float64))


def tabulate(measured: dict[str, Values]) -> pd.DataFrame:
    """Tabulate each candidate's FROC, and the residual PCM minus the candidate, paired over patients."""
    return pd.DataFrame(
        {
            name: {
                column: format_estimate(as_estimate(value))
                for metric in METRICS
                for column, value in (
                    (TITLES[metric], values[metric]),
                    (f"residual PCM minus it {TITLES[metric][-9:]}", subtract(measured[MIXED][metric], values[metric])),
                )
            }
            for name, values in measured.items()
        }
    ).T


def plot_boxes(measured: dict[str, Values], path: Path) -> None:
    """Plot the FROC of each candidate with its interval; the dotted line is the map as it is."""
    figure = new_figure(8.6, 0.27 * len(measured) + 0.9)
    panels = figure.subplots(1, 2, sharey=True)
    names = list(measured)[::-1]
    for axes, metric in zip(panels, METRICS, strict=True):
        for row, name in enumerate(names):
            found = as_estimate(measured[name][metric])
            colour = {MAP: "0.1", MIXED: COLOURS[0]}.get(name, "0.5")
            axes.plot([found["low"], found["high"]], [row, row], color=colour, linewidth=1.4)
            axes.plot(found["value"], row, "o", color=colour, markersize=5)
        axes.axvline(measured[MAP][metric]["value"], color="0.1", linewidth=0.9, linestyle=":")
        axes.set(xlabel=TITLES[metric], yticks=range(len(names)), yticklabels=names)
        style_chart(axes)
    finish(figure, path)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="demo, or the folder of a dataset (%(default)s)")
    parser.add_argument("--preset", default="demo", help="its image size chooses the image cache (%(default)s)")
    parser.add_argument("--output", default="runs/demo", help="folder of a run with this data (%(default)s)")
    parser.add_argument("--multires", type=Path, required=True, help="checkpoint of a MultiRes model")
    parser.add_argument("--train-images", type=int, help="train the refiners on so many images; by default all")
    parser.add_argument("--n-bootstrap", type=int, default=N_BOOTSTRAP, help="bootstrap replicates (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print the tables and write them with the figures."""
    chosen = parse(arguments)
    run = Workspace.open(data=chosen.data, preset=chosen.preset, output_dir=chosen.output)
    run.prepare_data()
    recipe = read_header(chosen.multires).recipe
    folder = run.output_dir / "refinement" / recipe.name
    models = train_refiners(run, chosen.multires, folder=folder / "models", most=chosen.train_images)
    study = Study(run, folder, lambda *_: {}, chosen.n_bootstrap)
    boxed, (_, val_set) = study.targets.dataset, run.train_val_datasets(recipe)

    def show(name: str, table: pd.DataFrame | pd.Series) -> None:
        print(f"\n{recipe.name}, {name}\n{table.to_string()}", flush=True)
        with atomic_write(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary)

    few = sample_images(run, boxed, most=AFFINITY_IMAGES)
    show("affinity", measure_affinity(models[PAPER], few, size=recipe.image_size).round(3))
    boxes = collect_boxes(models, study, options=reading_options(models, val_set, recipe=recipe), recipe=recipe)
    measured = {name: measure_boxes(study, table)[0] for name, table in boxes.items()}
    show("boxes", tabulate(measured))
    plot_boxes(measured, folder / "boxes.png")
    labelled = [name for name, row in zip(val_set.image_index, val_set.labels, strict=True) if (row == 1).any()]
    some = sample_images(run, ChestXrayDataset(run.cache(), run.metadata(), image_index=labelled), most=ECR_IMAGES)
    show("ecr", measure_ecr(models, SMALL_PCM, some, size=recipe.image_size).round(3))
    plot_first_box(models[PAPER], study.targets, path=folder / "affinity.png", size=recipe.image_size)


def plot_first_box(model: LocalizationModel, targets: Targets, *, path: Path, size: int) -> None:
    """Plot the affinity of an untrained PCM for the image and finding of the first true box."""
    box, dataset = targets.boxes.iloc[0], targets.dataset
    images = eval_transform(dataset.load([dataset.image_index.index(box["image_index"])])[0], size=size)
    model.refiner = untrained_pcm(model)
    with torch.inference_mode():
        figure = draw_affinity(model, images, finding=dataset.findings.index(box["finding"]))
    finish(figure, path)


if __name__ == "__main__":
    main()
