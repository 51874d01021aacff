"""What the study compares: the paper's recipe at a size that fits the machine, and single changes of it.

Every row has the same budget of image passes, and an epoch more where a refiner is trained: one that trains on more
images does so for fewer epochs, to the nearest whole one. Rows that share a first phase share its model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cxr_seam.recipes import Augmentation, BackbonePhase, Data, Recipe, SeamPhase, with_pcm

PAPER = "paper"
Images = Callable[[Recipe], int]
"""How many images a recipe trains on."""
REAL_RATE = 1e-3
"""Of the refiner, where a row is to show what a refiner or an equivariance does: at the paper's it hardly moves."""


@dataclass(frozen=True)
class Row:
    """One row of the study.

    Attributes:
        name: of the row.
        change: what it changes of the paper's recipe, in a few words.
        recipes: what is trained, in this order; the last one's model is measured.
        at_test: fields of the recipe that are changed after training.
    """

    name: str
    change: str
    recipes: tuple[Recipe, ...]
    at_test: dict[str, Any] = field(default_factory=dict)


def paper_recipe(*, backbone: str, size: int, epochs: int, seed: int) -> Recipe:
    """The first phase as in the paper, but for backbone, size and number of epochs."""
    phase = BackbonePhase(epochs=epochs)
    return Recipe(f"{PAPER}.s{seed}", f"multires_{backbone}", image_size=size, backbone=phase, seed=seed)


def refined(first: Recipe, name: str, *, phase: SeamPhase, **changes: Any) -> tuple[Recipe, Recipe]:
    """Both phases: the second is called `name` and goes on from `first`."""
    return first, replace(with_pcm(first, phase), name=f"{name}_pcm.s{first.seed}", **changes)


PAPER_PCM = SeamPhase(learning_rate=1e-5, epochs=1)
"""Of the paper's EfficientNet (Sect. 5.1)."""
REAL_PCM = replace(PAPER_PCM, learning_rate=REAL_RATE, accumulation=1)

ALL_IMAGES = Data(disease_free_images=None)
BACKBONE: dict[str, tuple[str, dict[str, Any]]] = {
    "every_batch": ("an update after every batch, not after three", {"accumulation": 1}),
    "rate": ("learning rate of 1e-3", {"learning_rate": 1e-3}),
    "betas": ("betas of (0.9, 0.999)", {"betas": (0.9, 0.999)}),
    "cosine": ("a tenth of warm-up, then a cosine to 0", {"schedule": "cosine", "warm_up": 0.1}),
    "adamw": ("AdamW, weight decay of 0.05", {"optimiser": "adamw", "weight_decay": 0.05}),
    "averaged": ("moving average of the weights, decay of 0.99", {"ema_decay": 0.99}),
    "smoothing": ("label smoothing of 0.1", {"label_smoothing": 0.1}),
    "whole_backbone": ("all of the backbone is trained", {"trainable_from_stride": 2}),
}
AUGMENTATION: dict[str, tuple[str, dict[str, Any]]] = {
    "tones": ("gamma, contrast and brightness vary", {"gamma": 1.25, "contrast": 0.2, "brightness": 0.1}),
    "wide_crops": ("crops from half of the film on", {"crop_area": (0.5, 1.0)}),
}
POOLINGS = ("lse_lba", "pcam", "attention", "max_min", "average", "max")
REFINERS = ("pcm_shallow", "self_attention")
EQUIVARIANCES = ("rescaling", "translation", "flip", "mixture")
AT_TEST: dict[str, tuple[str, dict[str, Any]]] = {
    "q_0.5": ("Q of 0.5", {"box_threshold": 0.5}),
    "q_0.6": ("Q of 0.6", {"box_threshold": 0.6}),
    "q_0.8": ("Q of 0.8", {"box_threshold": 0.8}),
    "min_max": ("maps measured from their own minimum", {"map_normalisation": "min_max"}),
    "test_flip": ("each film mirrored too", {"test_flip": True}),
    "test_scales": ("each film at 1 and 1.25 of its size", {"test_scales": (1.0, 1.25)}),
    "test_all": ("each film at 1 and 1.25, mirrored too", {"test_scales": (1.0, 1.25), "test_flip": True}),
}


def within_budget(recipe: Recipe, base: Recipe, images: Images) -> Recipe:
    """A first phase with as many epochs as make the image passes of `base`, as nearly as can be."""
    epochs = max(1, round(base.backbone.epochs * images(base) / images(recipe)))
    return replace(recipe, backbone=replace(recipe.backbone, epochs=epochs))


def strong(base: Recipe, images: Images) -> Row:
    """The combination that is held against the paper; what stands here is chosen by the rows above it."""
    phase = replace(
        base.backbone,
        accumulation=1,
        learning_rate=1e-3,
        betas=(0.9, 0.999),
        optimiser="adamw",
        weight_decay=0.05,
        schedule="cosine",
        warm_up=0.1,
        ema_decay=0.998,
        label_smoothing=0.1,
        trainable_from_stride=2,
    )
    first = replace(
        base,
        name=f"strong.s{base.seed}",
        backbone=phase,
        data=ALL_IMAGES,
        augmentation=Augmentation(gamma=1.25, contrast=0.2, brightness=0.1),
    )
    first = within_budget(first, base, images)
    at_test = {"map_normalisation": "min_max", "test_scales": (1.0, 1.25), "test_flip": True}
    return Row("strong", "what `strong` says, together", refined(first, "strong", phase=REAL_PCM), at_test)


def study_rows(*, backbone: str, size: int, epochs: int, seed: int, images: Images) -> dict[str, Row]:
    """All rows by name, what costs no training first.

    Args:
        backbone: a key of `backbones.BACKBONES`.
        size: of the films in pixels.
        epochs: of the first phase; of a joint one, one more.
        seed: of the recipes, part of their names.
        images: tells how many images a recipe trains on.
    """
    base = paper_recipe(backbone=backbone, size=size, epochs=epochs, seed=seed)
    paper = refined(base, PAPER, phase=PAPER_PCM)
    rows = [Row(PAPER, "nothing", paper)]
    rows += [Row(name, change, paper, at_test) for name, (change, at_test) in AT_TEST.items()]

    real = f"a refiner's rate of {REAL_RATE:g}"
    rows.append(Row("pcm_rate", real, refined(base, "pcm_rate", phase=REAL_PCM)))
    for name in REFINERS:
        rows.append(Row(name, f"{real}, {name}", refined(base, name, phase=REAL_PCM, refiner=name)))
    for name in EQUIVARIANCES:
        phase = replace(REAL_PCM, equivariance=name)
        rows.append(Row(f"by_{name}", f"{real}, {name}", refined(base, f"by_{name}", phase=phase)))

    def first_phase(name: str, change: str, **changes: Any) -> None:
        rows.append(Row(name, change, (replace(base, name=f"{name}.s{seed}", **changes),)))

    everything = within_budget(replace(base, name=f"all_images.s{seed}", data=ALL_IMAGES), base, images)
    rows.append(Row("all_images", "all train_val images, no draw of disease-free ones", (everything,)))
    for name, (change, changes) in BACKBONE.items():
        first_phase(name, change, backbone=replace(base.backbone, **changes))
    for name, (change, changes) in AUGMENTATION.items():
        first_phase(name, change, augmentation=replace(base.augmentation, **changes))
    for name in POOLINGS:
        first_phase(name, f"pooling {name}", pooling=name)
    longer = replace(base.backbone, epochs=epochs + 1)
    first_phase("joint", f"both phases at once, {real}", backbone=longer, seam=REAL_PCM, joint=True)
    rows.append(strong(base, images))
    return {row.name: row for row in rows}


def passes(row: Row, images: Images) -> dict[str, int]:
    """By recipe, how many images pass through the network in training."""
    return {recipe.name: recipe.phase.epochs * images(recipe) for recipe in row.recipes}
