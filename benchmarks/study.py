"""Recipes beside the paper's on real radiographs: train, evaluate, and write one table. Stopped, it goes on.

    python benchmarks/study.py --list
    python benchmarks/study.py --rows paper,min,pcm_rate --seeds 0,1

Every row trains on the train_val images of a folder with NIH's tables (`images`, `images_256` and `images_128`), is
measured on its test images, and on those with true boxes, once for each seed. Models lie in OUT/models, each
measurement in a folder of OUT/rows, and OUT/table.md, .csv and .json are written anew after each of them, OUT/froc.png
at the end. What is done is not done again; training that was stopped goes on where it was.

Differences are from the row that a row changes, with the same maps and seeds, means over seeds, with 95 % intervals
from a bootstrap over patients: the same draws for every row. What may choose between rows is told beside them: the AUC
on the validation films, and how far the models of two seeds agree there on where findings are. Neither has seen a box.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import study_figure
import study_table
from study_agreement import agreement_of
from study_folder import SHRUNK_BEFORE, Study
from study_rows import Row, passes, require_same, told_of

from cxr_seam.data.dataset import ChestXrayDataset
from cxr_seam.device import select_device
from cxr_seam.errors import InputError
from cxr_seam.evaluation.baselines import HALF_IMAGE, centre_boxes, random_map_boxes
from cxr_seam.evaluation.evaluate import Evaluation, evaluate
from cxr_seam.evaluation.results import BASELINE, FROC, LOCALIZATION, MEAN_AUC, MULTIRES, REFINED, save_results
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.calibration import calibrate, negative_mean_cam
from cxr_seam.inference.predictor import Predictor
from cxr_seam.io import atomic_write
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP, PatientBootstrap, bootstrap_for_json, bootstrap_patients
from cxr_seam.metrics.boxes import rank_by_probability
from cxr_seam.metrics.classification import classification_scores, classification_table, mean_auc
from cxr_seam.metrics.localization import localization_scores
from cxr_seam.models.checkpoint import best_path, load_checkpoint, read_history
from cxr_seam.models.multires import LocalizationModel
from cxr_seam.recipes import Recipe
from cxr_seam.training.fit import train
from cxr_seam.training.trainer import select_thresholds
from cxr_seam.workspace import Workspace


def run_row(study: Study, row: Row, *, seed: int) -> None:
    """Train and measure a row, unless that is done.

    Raises:
        InputError: what is there is of another row of this name, or a model cannot be trained.
    """
    folder = study.out / "rows" / f"{row.name}.s{seed}"
    results, description = folder / "results.json", folder / "row.json"
    if results.exists() and description.exists():
        require_same(json.loads(description.read_text()), row, path=folder)
        return
    workspace = study.workspace(folder, row.recipes[-1])
    films = {recipe.name: workspace.train_val_datasets(recipe) for recipe in row.recipes}
    for recipe in row.recipes:
        training, validation = films[recipe.name]
        train(recipe, workspace.models, train_set=training, val_set=validation)
    validation = films[row.recipes[-1].name][1]
    (model, recipe), key = trained(row, workspace), key_of(row)
    logits, negative_mean = calibrate(model, validation, recipe=recipe)
    thresholds = select_thresholds(validation.labels, logits)
    predictor = Predictor(model, recipe, thresholds=thresholds, negative_mean=negative_mean)
    found = evaluate(workspace, n_bootstrap=study.draws, predictors={key: predictor}, baselines=False)
    history = [record for recipe in row.recipes for record in read_history(workspace.models, recipe.name)]
    metadata = {"seed": seed, "change": row.change} | told_of(row)
    metadata["seconds"] = sum(record["seconds"] for record in history)
    metadata["passes"] = sum(passes(row, lambda recipe: len(films[recipe.name][0])).values())
    metadata["validation_auc"] = mean_auc(classification_table(validation.labels, logits))
    metadata[study_table.AUC_WITHOUT_SHRUNK] = auc_without_shrunk(workspace, found, key, draws=study.draws)
    metadata[study_table.TIGHT_BOX] = tight_boxes(workspace, found, draws=study.draws)
    metadata[study_table.CENTRE_RANKED] = centre_ranked(workspace, found, key, draws=study.draws)
    with atomic_write(description) as temporary:
        temporary.write_text(json.dumps(metadata) + "\n")
    save_results(found.results, results)


def key_of(row: Row) -> str:
    """What `evaluate` calls a row's last model."""
    return MULTIRES if row.recipes[-1].seam_stage is None else REFINED


def trained(row: Row, workspace: Workspace) -> tuple[LocalizationModel, Recipe]:
    """A row's last model, on the GPU if there is one, and the recipe by which the row says to use it."""
    last = row.recipes[-1]
    model = load_checkpoint(best_path(workspace.models, last.name))[0]
    return model.to(select_device().device), replace(last, **row.at_test)


def reader_of(row: Row, workspace: Workspace, *, validation: ChestXrayDataset) -> Predictor:
    """The trained model of a row, used as the row says, for its maps."""
    model, recipe = trained(row, workspace)
    return Predictor(model, recipe, negative_mean=negative_mean_cam(model, validation, recipe=recipe))


def measure_agreement(study: Study, name: str, seeds: Sequence[int]) -> None:
    """Hold the row's models of the first two seeds against each other, unless that is done.

    Raises:
        InputError: what is there is of another row of this name, or of other seeds.
    """
    path = study.out / "rows" / f"{name}.agreement.json"
    if len(seeds) < 2:
        return
    if path.exists():
        before, _ = study_table.read_agreement(path, study.rows)
        if set(before) != set(seeds[:2]):
            told = " and ".join(map(str, before))
            raise InputError(f"{path} is of the seeds {told}; delete it, or name these first in --seeds")
        return
    rows = [study.rows(seed)[name] for seed in seeds[:2]]
    workspaces = [
        study.workspace(study.out / "rows" / f"{name}.s{seed}", row.recipes[-1])
        for seed, row in zip(seeds, rows, strict=False)
    ]
    films = [place.train_val_datasets(row.recipes[-1])[1] for row, place in zip(rows, workspaces, strict=True)]
    shown = [with_findings(seen, place) for seen, place in zip(films, workspaces, strict=True)]
    readers = [reader_of(row, place, validation=seen) for row, place, seen in zip(rows, workspaces, films, strict=True)]
    patient_of = workspaces[0].metadata().images["patient_id"]
    patients = [patient_of[seen.image_index].to_numpy() for seen in shown]
    found = agreement_of(key_of(rows[0]), readers, shown, patients=patients, draws=study.draws)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"rows": [told_of(row) for row in rows], "maps": found}) + "\n")


def with_findings(films: ChestXrayDataset, workspace: Workspace) -> ChestXrayDataset:
    """Those of the films whose labels name a finding."""
    names = [name for name, shown in zip(films.image_index, films.labels.any(axis=1), strict=True) if shown]
    return ChestXrayDataset(workspace.cache(), workspace.metadata(), image_index=names)


def drawn_for(workspace: Workspace, images: Sequence[str], *, draws: int) -> PatientBootstrap:
    """Draws of the patients of some images."""
    return bootstrap_patients(workspace.metadata().images["patient_id"][list(images)].to_numpy(), n_bootstrap=draws)


def auc_without_shrunk(workspace: Workspace, found: Evaluation, key: str, *, draws: int) -> dict[str, Any]:
    """The mean AUC on the test images that no unknown filter has shrunk: a measured value and its draws."""
    cache = workspace.cache()
    shrunk, start = set(), 0
    for name, count in cache.sources:
        if name in SHRUNK_BEFORE:
            shrunk.update(cache.image_index[start : start + count])
        start += count
    films = workspace.test_dataset()
    kept = [place for place, name in enumerate(films.image_index) if name not in shrunk]
    drawn = drawn_for(workspace, [films.image_index[place] for place in kept], draws=draws)
    scores = classification_scores(found.labels[kept], found.probabilities[key][kept], bootstrap=drawn)
    samples = bootstrap_for_json(scores.samples[MEAN_AUC])
    return {**scores.table["mean"]["auc"], "images": len(kept), "samples": samples}


def centre_ranked(workspace: Workspace, found: Evaluation, key: str, *, draws: int) -> dict[str, Any]:
    """The FROC of one centred box ranked by a model's probabilities: what it owes to classification alone."""
    tested, boxed = workspace.test_dataset().image_index, found.boxed_set.image_index
    ranks = pd.DataFrame(found.probabilities[key], pd.Index(tested, name="image_index"), list(FINDINGS))
    boxes = rank_by_probability(centre_boxes(boxed, extent=HALF_IMAGE), ranks)
    drawn = drawn_for(workspace, boxed, draws=draws)
    scores, samples = localization_scores(boxes, found.truth, images=boxed, bootstrap=drawn)
    return {**LOCALIZATION[FROC].value(scores), "samples": bootstrap_for_json(samples[LOCALIZATION[FROC]])}


def tight_boxes(workspace: Workspace, found: Evaluation, *, draws: int) -> dict[str, Any]:
    """How often best boxes meet a true one with an IoU above 0.3, by kind of maps: measured values and their draws."""
    boxed, figure, told = found.boxed_set.image_index, study_table.TIGHT_KEY, {}
    drawn = drawn_for(workspace, boxed, draws=draws)
    for kind, method in found.methods.items():
        scores, samples = localization_scores(method.boxes, found.truth, images=boxed, bootstrap=drawn)
        told[kind] = {**figure.value(scores), "samples": bootstrap_for_json(samples[figure])}
    return told


def measure_controls(study: Study) -> None:
    """Score what never saw a film on the boxed images, unless that is done."""
    path = study.out / "controls.json"
    if path.exists():
        return
    recipe = study.rows(0)["paper"].recipes[0]
    workspace = study.workspace(study.out / "rows" / "controls", recipe)
    images, tables = workspace.boxed_dataset().image_index, workspace.metadata()
    truth = tables.boxes[tables.boxes["image_index"].isin(images)]
    drawn = drawn_for(workspace, images, draws=study.draws)
    content: dict[str, Any] = {"classification": {}, "localization": {}, "bootstrap": {}}
    baselines = {
        "random 8x8 map": random_map_boxes(images, grid=8),
        "centre box, third of image": centre_boxes(images),
        "centre box, half of image": centre_boxes(images, extent=HALF_IMAGE),
    }
    for name, boxes in baselines.items():
        scores, samples = localization_scores(boxes, truth, images=images, bootstrap=drawn)
        content["localization"][name] = {"type": BASELINE, "note": "never saw an image", **scores}
        content["bootstrap"][name] = {metric: bootstrap_for_json(samples[key]) for metric, key in LOCALIZATION.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def show_rows(study: Study, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Print the rows with the image passes that each costs, and costs beside what those before it have trained."""
    known: set[str] = set()
    print(f"{'row':16} {'passes':>9} {'of them new':>12}   changes")
    for seed in seeds:
        rows = study.rows(seed)
        for name in names:
            cost = passes(rows[name], lambda recipe: study.training_images(recipe.data, recipe.seed))
            fresh = sum(value for recipe, value in cost.items() if recipe not in known)
            known |= set(cost)
            print(f"{f'{name}.s{seed}':16} {sum(cost.values()):>9,} {fresh:>12,}   {rows[name].change}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows asked for; status 1 with a sentence where something is wrong."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/nih"), help="folder with NIH's tables and images")
    options.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the study (%(default)s)")
    options.add_argument("--rows", help="names, with commas; by default all")
    options.add_argument("--seeds", default="0,1", help="numbers, with commas (%(default)s)")
    options.add_argument("--size", type=int, default=128, help="of the films in pixels (%(default)s)")
    options.add_argument("--backbone", default="efficientnet_lite0", help="of all rows (%(default)s)")
    options.add_argument("--epochs", type=int, default=9, help="of a first phase (%(default)s)")
    options.add_argument("--n-bootstrap", type=int, default=N_BOOTSTRAP, help="of the bootstrap (%(default)s)")
    options.add_argument("--list", action="store_true", help="print the rows and what they cost, and run nothing")
    chosen = options.parse_args(arguments)
    study = Study(chosen.data, chosen.out, chosen.backbone, chosen.size, chosen.epochs, chosen.draws)
    try:
        seeds = [int(seed) for seed in chosen.seeds.split(",")]
        known = study.rows(seeds[0])
        names = list(known) if chosen.rows is None else chosen.rows.split(",")
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"there is no row {unknown[0]!r}; choose of {', '.join(known)}")
        if chosen.list:
            show_rows(study, names, seeds)
            return 0
        study.prepare_data()
        measure_controls(study)
        for seed in seeds:
            for name in names:
                run_row(study, study.rows(seed)[name], seed=seed)
                if seed == seeds[-1]:
                    measure_agreement(study, name, seeds)
                study_table.write(study.out, settings=study.settings(), rows=study.rows)
        study_figure.draw(study.out)
        print((study.out / "table.md").read_text())
    except InputError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
