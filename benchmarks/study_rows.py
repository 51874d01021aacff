"""What the study compares: the paper's recipe at a size that fits the machine, and single changes of it.

Every row draws as many images in training, and an epoch's more where a refiner is trained after the first phase: one
that trains on more images does so for fewer epochs, and draws no more. The paper's own second phase of a ResNet takes
three epochs; rows with a refiner's rate of 0.001 take one, with a step after every batch. Rows that share a first phase
share its model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cxr_seam.errors import InputError
from cxr_seam.presets import SMALL_PCM, get_preset, improve
from cxr_seam.recipes import ClassifierStage, DataSplit, Recipe, SeamStage, add_seam_stage, recipe_to_dict

PAPER, STRONG, ONCE, WITH_DRAW = "paper", "strong", "looked_once", "without_all_images"
Images = Callable[[Recipe], int]
"""How many images a recipe trains on."""
REAL_PCM = SMALL_PCM
"""Where a row is to show what a refiner does: at the paper's rate it hardly moves."""


@dataclass(frozen=True)
class Row:
    """One row of the study.

    Attributes:
        name: of the row.
        change: what it changes of the paper's recipe, in a few words.
        recipes: what is trained, in this order; the last one's model is measured.
        at_test: fields of the recipe that are changed after training.
        against: name of the row that it changes, and that its differences are from.
    """

    name: str
    change: str
    recipes: tuple[Recipe, ...]
    at_test: dict[str, Any] = field(default_factory=dict)
    against: str = PAPER


def told_of(row: Row) -> dict[str, Any]:
    """What makes two rows the same, for JSON: the name, what is trained, and how it is used."""
    recipes = [recipe_to_dict(recipe) for recipe in row.recipes]
    return json.loads(json.dumps({"row": row.name, "recipes": recipes, "at_test": row.at_test}))


def require_keys(content: Mapping[str, Any], keys: Iterable[str], *, path: Path) -> None:
    """Make sure that `content`, found at `path`, tells all that today's study writes.

    Raises:
        InputError: it lacks something.
    """
    if missing := [key for key in keys if key not in content]:
        raise InputError(f"{path} lacks {missing[0]}: it was measured by an earlier version of the study; delete it")


def require_same(before: Mapping[str, Any], row: Row, *, path: Path) -> None:
    """Make sure that `before`, found at `path`, is of this very row.

    Raises:
        InputError: it is of another one of the same name, or does not say.
    """
    require_keys(before, told_of(row), path=path)
    if any(before[key] != value for key, value in told_of(row).items()):
        raise InputError(f"{path} was measured with other recipes of that name; delete it or rename the row")


def require_known(before: Mapping[str, Any], rows: Callable[[int], Mapping[str, Row]], *, path: Path) -> None:
    """Make sure that `before`, found at `path`, is of the row that has its name and seed today, see `require_same`."""
    require_keys(before, ("row", "recipes"), path=path)
    require_same(before, rows(before["recipes"][0]["seed"])[before["row"]], path=path)


def paper_recipe(*, backbone: str, size: int, epochs: int, seed: int) -> Recipe:
    """The first phase as in the paper, but for backbone, size and number of epochs."""
    phase = ClassifierStage(epochs=epochs)
    return Recipe(f"{PAPER}.s{seed}", f"multires_{backbone}", image_size=size, classifier_stage=phase, seed=seed)


def refined(first: Recipe, name: str, *, phase: SeamStage, **changes: Any) -> tuple[Recipe, Recipe]:
    """Both phases: the second is called `name` and goes on from `first`."""
    return first, replace(add_seam_stage(first, phase), name=f"{name}_pcm.s{first.seed}", **changes)


def papers_pcm(backbone: str) -> SeamStage:
    """The paper's second phase (Sect. 5.1): what it says of ResNet50 for ResNets, of EfficientNet-B4 for all others."""
    return get_preset("resnet50" if backbone.startswith("resnet") else "efficientnet_b4")[2].seam_stage


ALL_IMAGES = DataSplit(num_normal_images=None)
BACKBONE: dict[str, tuple[str, dict[str, Any]]] = {
    "every_batch": ("an update after every batch, not after three", {"grad_accum_steps": 1}),
    "rate": ("learning rate of 1e-3", {"learning_rate": 1e-3}),
    "betas": ("betas of (0.9, 0.999)", {"betas": (0.9, 0.999)}),
    "cosine": ("a tenth of warm-up, then a cosine to 0", {"schedule": "cosine", "warmup_fraction": 0.1}),
    "adamw": ("AdamW, weight decay of 0.05", {"optimiser": "adamw", "weight_decay": 0.05}),
    "whole_backbone": ("all of the backbone is trained", {"freeze_below_stride": 2}),
}
AUGMENTATION: dict[str, tuple[str, dict[str, Any]]] = {
    "wide_crops": ("crops from half of the film on", {"crop_area": (0.5, 1.0)}),
}
OPTIMISATION = (
    "grad_accum_steps",
    "learning_rate",
    "betas",
    "optimiser",
    "weight_decay",
    "schedule",
    "warmup_fraction",
)
"""The fields of a phase that say how it steps."""
POOLINGS = ("lse_lba", "pcam", "attention", "max_min")
REFINERS = ("seam_pcm", "self_attention")
AT_TEST: dict[str, tuple[str, dict[str, Any]]] = {
    "q_0.5": ("Q of 0.5", {"cam_threshold": 0.5}),
    "q_0.6": ("Q of 0.6", {"cam_threshold": 0.6}),
    "q_0.8": ("Q of 0.8", {"cam_threshold": 0.8}),
    "negative_mean": ("maps measured from what they usually are", {"cam_baseline": "negative_mean"}),
    "min": ("maps measured from their own minimum", {"cam_baseline": "min"}),
    "tta_flip": ("each film mirrored too", {"tta_flip": True}),
    "tta_scales": ("each film at 1 and 1.25 of its size", {"tta_scales": (1.0, 1.25)}),
    "test_all": ("each film at 1 and 1.25, mirrored too", {"tta_scales": (1.0, 1.25), "tta_flip": True}),
}


def within_budget(recipe: Recipe, base: Recipe, images: Images) -> Recipe:
    """A first phase of no more image passes than `base`, in whole epochs and at least one."""
    epochs = max(1, base.classifier_stage.epochs * images(base) // images(recipe))
    return replace(recipe, classifier_stage=replace(recipe.classifier_stage, epochs=epochs))


TRAINED_OTHERWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "without_whole_backbone": ("the paper's stride from which the backbone is trained", {"freeze_below_stride": 16}),
    "without_rate": (
        "the paper's optimiser, rate and grad_accum_steps",
        {key: getattr(ClassifierStage(), key) for key in OPTIMISATION},
    ),
}
"""What `strong` is with other numbers of its first phase."""
LOOKED_OTHERWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "without_negative_mean": ("the paper's maps, measured from 0", {"cam_baseline": "zero"}),
    "without_flip": ("films not mirrored", {"tta_flip": False}),
    "without_scales": ("films at their own size alone", {"tta_scales": (1.0,)}),
    ONCE: ("films at their own size alone and not mirrored", {"tta_scales": (1.0,), "tta_flip": False}),
    "with_papers_boxes": (
        "the paper's rule for boxes: maps measured from 0, Q of 0.7",
        {"cam_baseline": "zero", "cam_threshold": 0.7},
    ),
    "with_q_0.7": ("the paper's Q, 0.7", {"cam_threshold": 0.7}),
    "with_q_0.9": ("Q of 0.9", {"cam_threshold": 0.9}),
}
"""What `strong` is with another way to look, which costs no training."""
LOOKED = ("cam_baseline", "tta_scales", "tta_flip", "cam_threshold")
"""The fields that only looking uses: they are set after training, so that they can be chosen with trained models."""


def strong_rows(base: Recipe, images: Images, *, pcm: SeamStage) -> list[Row]:
    """The combination that is held against the paper, what it is without each of its parts, and with more of them.

    `strong` has a first phase alone. Rows that train it otherwise look at each film once, which takes a sixth of the
    time, and are held against the row that does so, too.
    """
    whole = improve(base)
    looked = {name: getattr(whole, name) for name in LOOKED}
    plain = replace(whole, **{name: getattr(base, name) for name in LOOKED})
    once = looked | LOOKED_OTHERWISE[ONCE][1]

    def first(name: str, **changes: Any) -> Recipe:
        return within_budget(replace(plain, name=f"{name}.s{base.seed}", **changes), base, images)

    ours = first(STRONG)
    rows = [Row("paper_looked", "its first phase, looked at as `strong` is", (base,), looked)]
    rows.append(Row(STRONG, "all that `strengthen` says, together", (ours,), looked))
    rows += [Row(name, told, (ours,), looked | new, STRONG) for name, (told, new) in LOOKED_OTHERWISE.items()]
    on_draw = {"data": base.data}
    trained = {WITH_DRAW: ("the paper's draw of disease-free images", on_draw)}
    trained["without_pcam"] = ("the paper's pooling", {"pooling": base.pooling})
    trained |= {f"with_{name}": (f"pooling {name}", {"pooling": name}) for name in POOLINGS if name != whole.pooling}
    trained |= {
        name: (told, {"backbone": replace(plain.classifier_stage, **new)})
        for name, (told, new) in TRAINED_OTHERWISE.items()
    }
    trained |= {
        f"with_{name}": (told, {"augmentation": replace(plain.augmentation, **new)})
        for name, (told, new) in AUGMENTATION.items()
    }
    rows += [Row(name, told, (first(name, **new),), once, ONCE) for name, (told, new) in trained.items()]
    name = "without_pcam_on_draw"
    rows.append(Row(name, "the paper's pooling", (first(name, pooling=base.pooling, **on_draw),), once, WITH_DRAW))
    phases = {"pcm": REAL_PCM, "pcm_papers_rate": pcm}
    both = {name: (f"a refiner's rate of {phase.learning_rate:g}", phase, {}) for name, phase in phases.items()}
    both |= {name: (f"refiner {name}", REAL_PCM, {"refiner": name}) for name in REFINERS}
    for name, (told, phase, new) in both.items():
        own = STRONG if name == "pcm" else f"strong_{name}"
        rows.append(Row(f"with_{name}", told, refined(ours, own, phase=phase, **new), looked, STRONG))
    return rows


def study_rows(*, backbone: str, size: int, epochs: int, seed: int, images: Images) -> dict[str, Row]:
    """All rows by name, what costs no training first.

    Args:
        backbone: a key of `backbones.BACKBONES`.
        size: of the films in pixels.
        epochs: of the first phase.
        seed: of the recipes, part of their names.
        images: tells how many images a recipe trains on.
    """
    base = paper_recipe(backbone=backbone, size=size, epochs=epochs, seed=seed)
    paper = refined(base, PAPER, phase=papers_pcm(backbone))
    rows = [Row(PAPER, "nothing", paper)]
    rows += [Row(name, change, paper, at_test) for name, (change, at_test) in AT_TEST.items()]

    real = f"a refiner's rate of {REAL_PCM.learning_rate:g}"
    rows.append(Row("pcm_rate", real, refined(base, "pcm_rate", phase=REAL_PCM)))
    for name in REFINERS:
        rows.append(Row(name, f"{real}, {name}", refined(base, name, phase=REAL_PCM, refiner=name)))

    def first_phase(name: str, change: str, **changes: Any) -> None:
        rows.append(Row(name, change, (replace(base, name=f"{name}.s{seed}", **changes),)))

    everything = within_budget(replace(base, name=f"all_images.s{seed}", data=ALL_IMAGES), base, images)
    rows.append(Row("all_images", "all train_val images, no draw of disease-free ones", (everything,)))
    for name, (change, changes) in BACKBONE.items():
        first_phase(name, change, classifier_stage=replace(base.classifier_stage, **changes))
    for name, (change, changes) in AUGMENTATION.items():
        first_phase(name, change, augmentation=replace(base.augmentation, **changes))
    for name in POOLINGS:
        first_phase(name, f"pooling {name}", pooling=name)
    rows += strong_rows(base, images, pcm=papers_pcm(backbone))
    return {row.name: row for row in rows}


def passes(row: Row, images: Images) -> dict[str, int]:
    """By recipe, how many images are drawn in training, each counted once whatever a step does with it.

    A step of the second phase shows an image to the network twice.
    """
    return {recipe.name: recipe.stage.epochs * images(recipe) for recipe in row.recipes}
