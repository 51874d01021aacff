"""What the paper leaves open: the choices that are tried, as recipes, and their trained models.

docs/ablations.md tells the questions. Each choice is the workspace's own pair of recipes, MultiRes and MultiRes + PCM,
changed in what the question names and nothing else. What it trains lies in a folder of its own and is not trained
again; what it shares with the workspace's own models is taken from them.

Source: D'Souza et al. 2022, sections 4.1, 4.4, 5.1 and 5.3.
"""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cxr_seam.device import select_device
from cxr_seam.errors import InputError
from cxr_seam.evaluation.evaluate import same_backbone
from cxr_seam.evaluation.results import MULTIRES, REFINED
from cxr_seam.inference.calibration import negative_mean_cam
from cxr_seam.inference.predictor import Predictor
from cxr_seam.io import atomic_write
from cxr_seam.models.checkpoint import best_path, load_checkpoint, read_header, read_history
from cxr_seam.presets import PRESETS
from cxr_seam.recipes import Recipe, SeamStage, recipe_to_dict
from cxr_seam.training.fit import init_model, train
from cxr_seam.training.resume import flat
from cxr_seam.workspace import Workspace

QUESTIONS = ("theta", "ohem", "background", "head", "gamma", "q")


FIRST_PHASE = ("head", "gamma")
"""Questions about the classifier: they train both phases anew, and the raw maps stand beside the refined ones."""


TRIED_RATE = 1e-3


TRIED_GAMMAS = (5.0, 10.0, 20.0)


TRIED_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


OWN = "as in the recipe"


@dataclass(frozen=True)
class Choice:
    """One answer to a question: the recipes of both phases that give it.

    Attributes:
        question: one of `QUESTIONS`.
        name: of the answer.
        first: recipe of the first phase.
        second: recipe of the second phase; None where theta stays as it was drawn.
        threshold: Q, the share of a map's maximum from which on a pixel belongs to a box.
        own: whether it is what the workspace's own recipes choose.
    """

    question: str
    name: str
    first: Recipe
    second: Recipe | None
    threshold: float
    own: bool

    @property
    def model(self) -> tuple[str, str | None]:
        """What tells its trained model from others."""
        return self.first.name, self.second and self.second.name

    @property
    def maps(self) -> tuple[str, ...]:
        """Whose maps are measured."""
        return (MULTIRES, REFINED) if self.question in FIRST_PHASE else (REFINED,)


def choices(question: str, multires: Recipe, pcm: Recipe) -> list[Choice]:
    """The answers to a question that are tried.

    Args:
        question: one of `QUESTIONS`.
        multires: the workspace's own recipe of the first phase.
        pcm: its own of the second phase.

    Returns:
        The choices, one of which is the recipes' own. Recipes that differ from these have names of their own; of Q
        nothing is trained, so there they keep the names.

    Raises:
        InputError: there is no such question.
    """

    def second(suffix: str, **changes: Any) -> tuple[Recipe, Recipe]:
        changed = replace(pcm, **changes)
        return multires, pcm if changed == pcm else replace(changed, name=f"{pcm.name}_{suffix}")

    def both(suffix: str, **changes: Any) -> tuple[Recipe, Recipe]:
        changed = replace(multires, **changes)
        if changed == multires:
            return multires, pcm
        first = replace(changed, name=f"{multires.name}_{suffix}")
        return first, replace(pcm, name=f"{first.name}_pcm", init_from=first.name, lse_gamma=first.lse_gamma)

    if question == "theta":
        printed = PRESETS.get(pcm.model.removeprefix("multires_"), PRESETS["resnet50"])[2].seam_stage
        tried = {
            "untrained": (multires, None),
            f"as printed, {printed.learning_rate:g}": second("theta_as_printed", seam=printed),
            f"{TRIED_RATE:g}": second("theta_1e-3", seam_stage=replace(pcm.seam_stage, learning_rate=TRIED_RATE)),
        }
    elif question == "ohem":
        hardest = {"on": SeamStage.ohem_fraction, "off": 1.0}
        tried = {
            f"{name}, {share:g}": second(f"ohem_{name}", seam_stage=replace(pcm.seam_stage, ohem_fraction=share))
            for name, share in hardest.items()
        }
    elif question == "background":
        tried = {name: second(f"background_{name}", background=name) for name in ("one_minus_max", "output")}
    elif question == "head":
        tried = {
            name: both(f"head_{name}", classifier_stage=replace(multires.classifier_stage, train_head=trainable))
            for name, trainable in (("trained", True), ("frozen", False))
        }
    elif question == "gamma":
        gammas = TRIED_GAMMAS if multires.pooling in ("lse", "lse_lba") else ()  # with another there is nothing to try
        tried = {f"{gamma:g}": both(f"gamma_{gamma:g}", lse_gamma=gamma) for gamma in gammas}
    elif question == "q":
        tried = {f"{q:g}": (multires, replace(pcm, cam_threshold=q)) for q in TRIED_THRESHOLDS}
    else:
        raise InputError(f"there is no question {question!r}; choose of {', '.join(QUESTIONS)}")
    if (multires, pcm) not in tried.values():
        tried = {OWN: (multires, pcm)} | tried
    return [
        Choice(question, name, first, last, (last or pcm).cam_threshold, own=(first, last) == (multires, pcm))
        for name, (first, last) in tried.items()
    ]


def changed_fields(choice: Choice, multires: Recipe, pcm: Recipe) -> dict[str, Any]:
    """The recipes' fields that a choice changes, such as {"seam_stage.learning_rate": 1e-06}; {"seam": None} = untrained."""
    if choice.second is None:
        return {"seam": None}
    found = {}
    for own, variant in ((multires, choice.first), (pcm, choice.second)):
        before = flat(recipe_to_dict(own))
        found |= {key: value for key, value in flat(recipe_to_dict(variant)).items() if value != before[key]}
    return {key: value for key, value in found.items() if key not in ("name", "init_from")}


class Models:
    """The models of the choices: the workspace's own, and variants that are trained where they are not yet.

    Attributes:
        multires: the workspace's own recipe of the first phase, as its checkpoint tells it.
        pcm: its own of the second phase.
    """

    def __init__(self, workspace: Workspace) -> None:
        """Find the workspace's own models.

        Raises:
            InputError: one is not trained, or the second goes on from an earlier first phase.
        """
        self._workspace = workspace
        self.folder = workspace.output_dir / "ablations"
        multires, pcm = (best_path(workspace.models, recipe.name) for recipe in workspace.recipes[1:])
        for path, recipe in zip((multires, pcm), workspace.recipes[1:], strict=True):
            if not path.exists():
                raise InputError(
                    f"there is no {path}, from which ablations start; run notebooks 02 and 03 (or python -m cxr_seam "
                    f"train {recipe.name}) first"
                )
        self.multires, self.refiner = read_header(multires).recipe, read_header(pcm).recipe
        if not same_backbone(load_checkpoint(pcm)[0], multires):
            raise InputError(f"{pcm} goes on from an earlier model than {multires}; run notebook 03 again")

    def predictor(self, choice: Choice) -> Predictor:
        """The trained model of a choice."""
        self._train(choice.first)
        if choice.second is None:
            with torch.random.fork_rng():  # a refiner that is exchanged is drawn as where the second phase is trained
                torch.manual_seed(self.refiner.seed)
                model, _ = init_model(self.refiner, self._path(choice.first), weights="none")
            _, validation = self._workspace.train_val_datasets(self.refiner)
            model = model.eval().to(select_device().device)  # which looks at films before there is a predictor
            return Predictor(
                model, self.refiner, negative_mean=negative_mean_cam(model, validation, recipe=self.refiner)
            )
        self._train(choice.second)
        return Predictor.load(self._path(choice.second))

    def seconds(self, choice: Choice) -> float | None:
        """Training time of the phases that the question concerns, validation included; None where it is not known."""
        trained = {"q": ()} | dict.fromkeys(FIRST_PHASE, (choice.first, choice.second))
        phases = [recipe for recipe in trained.get(choice.question, (choice.second,)) if recipe is not None]
        try:
            records = [record for recipe in phases for record in read_history(self._path(recipe).parent, recipe.name)]
        except InputError:  # models that were copied without their history
            return None
        return sum(record["seconds"] for record in records)

    def _path(self, recipe: Recipe) -> Path:
        own = recipe.name in (self.multires.name, self.refiner.name)
        return best_path(self._workspace.models if own else self.folder, recipe.name)

    def _train(self, recipe: Recipe) -> None:
        """Train a variant unless that is done."""
        if self._path(recipe).parent != self.folder:
            return
        if recipe.init_from == self.multires.name:  # a phase starts from a model in its own folder
            own, copy = self._path(self.multires), best_path(self.folder, self.multires.name)
            if not copy.exists() or not filecmp.cmp(own, copy, low_level=False):
                with atomic_write(copy) as temporary:
                    shutil.copyfile(own, temporary)
        if not is_trained(recipe, self.folder):
            training, validation = self._workspace.train_val_datasets(recipe)
            stale = best_path(self.folder, recipe.name).exists() and not is_of(recipe, self.folder)
            train(recipe, self.folder, train_set=training, val_set=validation, overwrite=stale)


def is_trained(recipe: Recipe, folder: Path) -> bool:
    """Whether `folder` holds a model trained to the end by this very recipe, on the backbone that is there now."""
    return is_of(recipe, folder) and len(read_history(folder, recipe.name)) == recipe.stage.epochs


def is_of(recipe: Recipe, folder: Path) -> bool:
    """Whether `folder` holds a model of this very recipe, on the backbone that is there now."""
    path = best_path(folder, recipe.name)
    if not path.exists() or read_header(path).recipe != recipe:
        return False
    return recipe.init_from is None or same_backbone(load_checkpoint(path)[0], best_path(folder, recipe.init_from))
