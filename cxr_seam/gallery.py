"""Which films to look at, and what trained models say of them, ready for figures and the explorer.

Films are chosen by the order of NIH's tables, never by how well a model does on them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from PIL import Image

from .augment import augment
from .cases import Case
from .errors import InputError
from .evaluation import Evaluation, family_predictors
from .files import whole_file
from .films import Films
from .findings import BOXED_FINDINGS, FINDINGS
from .frontal import doubts_about
from .heatmaps import PAPER_SIZE
from .localization import ORIGINAL_SIZE, XYWH
from .methods import maps_by_model
from .nih import NihTables
from .plots import plot_augmented, plot_films, plot_roc
from .predict import Prediction, Predictor
from .radiographs import open_radiograph, shrink
from .recipes import Recipe
from .render import PANEL_WIDTH, Panel, render_png
from .store import Store
from .workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def choose_boxed(truth: pd.DataFrame, available: Collection[str], *, per_finding: int) -> dict[str, str]:
    """Choose films with true boxes: for each boxed finding the first `per_finding` of the table that are not yet taken.

    Args:
        truth: true boxes (`NihTables.boxes`).
        available: names of the films at hand, such as a store.
        per_finding: how many films of each finding; fewer where there are fewer.

    Returns:
        `image_index` -> the finding it was chosen for, in the order of `BOXED_FINDINGS`.
    """
    chosen: dict[str, str] = {}
    for finding in BOXED_FINDINGS:
        names = truth.loc[truth["finding"] == finding, "image_index"]
        left = [name for name in names if name in available and name not in chosen]
        chosen.update(dict.fromkeys(left[:per_finding], finding))
    return chosen


def build_cases(
    workspace: Workspace, *, per_finding: int = 3, predictors: dict[str, Predictor] | None = None
) -> list[Case]:
    """Show films with true boxes to a workspace's trained models.

    Args:
        workspace: with prepared images and at least one trained model.
        per_finding: films of each boxed finding, see `choose_boxed`.
        predictors: the models, where they are loaded already.

    Raises:
        InputError: no image is prepared, none carries a box, or no model is trained.
    """
    store, tables = workspace.store(), workspace.tables()
    predictors = predictors or family_predictors(workspace.family, workspace.models)
    chosen = choose_boxed(tables.boxes, store, per_finding=per_finding)
    return make_cases(predictors, list(chosen), store=store, tables=tables)


def make_cases(
    predictors: dict[str, Predictor], image_index: Sequence[str], *, store: Store, tables: NihTables
) -> list[Case]:
    """Show the films called `image_index` to models (`evaluation.family_predictors`), one case a film.

    Raises:
        InputError: there is no film, or one is missing in the store or in the tables.
    """
    films = Films(store, tables, image_index=image_index)
    probabilities: dict[str, dict[str, np.ndarray]] = {name: {} for name in films.image_index}
    cams: dict[str, dict[str, np.ndarray]] = {name: {} for name in films.image_index}
    box_thresholds: dict[str, float] = {}
    for key, predictor in predictors.items():
        for names, output in predictor.batches(films, maps=True, what=f"look, {key}"):
            scores = output.logits.sigmoid().numpy()
            for model, maps in maps_by_model(key, output).items():
                box_thresholds[model] = predictor.recipe.box_threshold
                for name, score, cam in zip(names, scores, maps.numpy(), strict=True):
                    probabilities[name][model], cams[name][model] = score, cam
    return [
        Case(
            image_index=name,
            film=np.array(store.images[row]),
            labels=tuple(finding for finding, label in zip(FINDINGS, labels, strict=True) if label),
            probabilities=probabilities[name],
            cams=cams[name],
            box_thresholds=box_thresholds,
            true_boxes=tables.boxes.loc[tables.boxes["image_index"] == name, ["finding", *XYWH]],
            patient_id=int(tables.images.at[name, "patient_id"]),
        )
        for name, row, labels in zip(films.image_index, store.rows(films.image_index), films.labels, strict=True)
    ]


def case_of_file(predictors: Mapping[str, Predictor], data: bytes, *, name: str) -> Case:
    """Show a film that somebody brought to models (`evaluation.family_predictors`).

    Args:
        predictors: at least one.
        data: content of the image file.
        name: of the file.

    Raises:
        InputError: the file is no readable image, see `radiographs.read_radiograph`.
    """
    radiograph = open_radiograph(data, name=name)
    probabilities, cams, box_thresholds = {}, {}, {}
    for key, predictor in predictors.items():
        film = shrink(radiograph.pixels, predictor.film_size)
        output = predictor.run(torch.from_numpy(film)[None, None])
        for model, maps in maps_by_model(key, output).items():
            probabilities[model], cams[model] = output.logits[0].sigmoid().numpy(), maps[0].numpy()
            box_thresholds[model] = predictor.recipe.box_threshold
    return Case(
        image_index=name,
        film=radiograph.pixels,
        labels=(),
        probabilities=probabilities,
        cams=cams,
        box_thresholds=box_thresholds,
        true_boxes=pd.DataFrame(columns=["finding", *XYWH]),
        doubts=doubts_about(radiograph),
    )


def figure_rows(cases: Sequence[Case]) -> list[tuple[Case, str]]:
    """One case for each boxed finding that occurs, as in Fig. 7; another film in every row where there are enough."""
    rows: list[tuple[Case, str]] = []
    for finding in BOXED_FINDINGS:
        shown = [case for case, _ in rows]
        candidates = [case for case in cases if len(case.true(finding))]
        # A film with two boxes would otherwise stand for both findings.
        fresh = [case for case in candidates if case not in shown]
        rows += [(case, finding) for case in (fresh or candidates)[:1]]
    return rows


def contact_sheet(workspace: Workspace) -> Figure:
    """Draw one film for each boxed finding that occurs, with the true boxes of that finding.

    Raises:
        InputError: no image is prepared, or none carries a box.
    """
    store, tables = workspace.store(), workspace.tables()
    chosen = choose_boxed(tables.boxes, store, per_finding=1)
    films = [np.array(store.images[row]) for row in store.rows(chosen)]
    titles = [f"{finding.replace('_', ' ')}\n{name}" for name, finding in chosen.items()]
    key = pd.MultiIndex.from_frame(tables.boxes[["image_index", "finding"]])
    boxes = [tables.boxes.loc[key.isin([pair]), XYWH].to_numpy() for pair in chosen.items()]
    return plot_films(films, titles, boxes=boxes)


def augmentation_sheet(films: Films, recipe: Recipe, *, place: int = 0, variations: int = 9) -> Figure:
    """Draw the film at `place` of `films` and some of the variations of it that training would see (Sect. 5.2)."""
    pixels, _ = films.__getitems__([place])
    generator = torch.Generator().manual_seed(recipe.seed)
    inputs = augment(
        pixels.expand(variations, -1, -1, -1), recipe.augmentation, size=recipe.image_size, generator=generator
    )
    return plot_augmented(pixels[0, 0].numpy(), inputs)


def prediction_png(
    prediction: Prediction, *, findings: int = 3, pixels: np.ndarray | None = None, width: int = PANEL_WIDTH
) -> bytes:
    """Draw the heat maps and boxes of the most probable findings of one film, in the image's own proportions.

    Args:
        prediction: of the film.
        findings: how many to draw, side by side.
        pixels: the image in its own pixels (`radiographs.read_radiograph`), for a sharper picture than the film as the
            model saw it.
        width: of a panel in pixels.

    Returns:
        The bytes of a PNG.

    Raises:
        InputError: it is the predictions of several films.
    """
    import cv2

    if not isinstance(prediction, Prediction):
        raise InputError("a picture shows one film; give the prediction of a file, not of a folder")
    height, across = prediction.size
    if pixels is None:
        pixels = cv2.resize(prediction.film, (width, max(1, round(width * height / across))))
    to_original = ORIGINAL_SIZE / np.array([across, height, across, height])
    panels = []
    for finding in prediction.likely(findings):
        decision = {True: ", present", False: ", not present", None: ""}[prediction.present[finding]]
        note = f"probability {prediction.probabilities[finding]:.2f}{decision}"
        heatmap = prediction.heat_map(finding, size=PAPER_SIZE)
        panels.append(Panel(finding.replace("_", " "), note, heatmap, prediction.boxes_of(finding) * to_original))
    return render_png(pixels, panels, true_boxes=np.empty((0, 4)), width=width)


def write_film(case: Case, path: str | os.PathLike[str]) -> Path:
    """Write a case's film as a grey image file; the suffix of `path` chooses the format. Returns `path`."""
    with whole_file(path) as temporary:
        Image.fromarray(case.film).save(temporary)
    return Path(path)


def roc_figure(evaluation: Evaluation) -> Figure:
    """Fig. 6: the ROC curves of the most refined model, with intervals of their areas."""
    model = evaluation.most_refined
    scores = evaluation.results["classification"][model]
    return plot_roc(evaluation.labels, evaluation.probabilities[model], title=model, scores=scores)
