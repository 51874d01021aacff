"""Named recipes in presets of three: standard, MultiRes, and MultiRes with its refiner.

The paper's rows are the presets `resnet50` and `efficientnet_b4`. The others are ours; `strong` and `strong_small`
contain the changes that docs/beyond-the-paper.md measures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .errors import InputError
from .recipes import ClassifierStage, Recipe, SeamStage, add_seam_stage


def make_preset(name: str, base: Recipe, seam: SeamStage, **changes: Any) -> dict[str, tuple[Recipe, Recipe, Recipe]]:
    """Make the three recipes of Fig. 7 for one backbone: standard, MultiRes, MultiRes with PCM.

    `changes` are fields of the third recipe that differ from the others, such as `RESIDUAL`.
    """
    multires = replace(base, name=f"multires_{base.name}", model=f"multires_{base.model}")
    return {name: (base, multires, replace(add_seam_stage(multires, seam), **changes))}


SMALL = Recipe(
    "small",
    "efficientnet_lite0",
    classifier_stage=ClassifierStage(
        epochs=6, learning_rate=2e-3, betas=(0.9, 0.999), batch_size=32, grad_accum_steps=1, schedule="one_cycle"
    ),
)
"""The paper's method with a small backbone and a short schedule, for two CPU cores (see README)."""


SMALL_PCM = SeamStage(epochs=1, learning_rate=1e-3, grad_accum_steps=1)
"""A thousand times the paper's learning rate, which would hardly change theta."""


JOINT = SeamStage(
    epochs=2,
    learning_rate=3e-3,
    betas=(0.9, 0.999),
    grad_accum_steps=1,
    optimiser="adamw",
    weight_decay=0.05,
    schedule="cosine",
    warmup_fraction=0.1,
    joint=True,
)
"""SEAM's joint training of classifier and refiner (docs/beyond-the-paper.md)."""


RESIDUAL = {"refiner": "residual_pcm", "refiner_input": "cam"}
"""Refiner of our presets. The paper's PCM makes their maps worse; this one does not, or only slightly (docs/pcm.md)."""


def improve(recipe: Recipe) -> Recipe:
    """Make the improved variant of a classifier-stage recipe; docs/beyond-the-paper.md measures each change.

    AdamW with a cosine schedule and a step after every batch; the whole backbone is trained; PCAM pooling; all normal
    images; the mean CAM of negative images and half of the mirrored evidence are subtracted; boxes from local
    moments; test-time augmentation.

    Args:
        recipe: with a classifier stage; its backbone, image size, batch size and epochs stay.
    """
    stage = replace(
        recipe.classifier_stage,
        grad_accum_steps=1,
        learning_rate=1e-3,
        betas=(0.9, 0.999),
        optimiser="adamw",
        weight_decay=0.05,
        schedule="cosine",
        warmup_fraction=0.1,
        freeze_below_stride=2,
    )
    return replace(
        recipe,
        classifier_stage=stage,
        pooling="pcam",
        data=replace(recipe.data, num_normal_images=None),
        cam_baseline="negative_mean",
        mirror_share=0.5,
        box_rule="local_moments",
        cam_threshold=0.8,
        tta_scales=(1.0, 1.5),
        tta_flip=True,
    )


PRESETS: dict[str, tuple[Recipe, Recipe, Recipe]] = {
    **make_preset("resnet50", Recipe("resnet50", "resnet50"), SeamStage()),
    # "learning rate of 1E-05 and 1 epoch of training gave best performance" (Sect. 5.1)
    **make_preset(
        "efficientnet_b4",
        Recipe("efficientnet_b4", "efficientnet_b4"),
        SeamStage(learning_rate=1e-5, epochs=1),
    ),
    # Fewer epochs than the paper's 35: each has more images, and the whole backbone is trained.
    **make_preset(
        "strong",
        improve(Recipe("strong", "resnet50", classifier_stage=ClassifierStage(epochs=12))),
        JOINT,
        **RESIDUAL,
    ),
    # The following run on two CPU cores in minutes. Their ImageNet weights come with a package; nothing is downloaded.
    **make_preset("demo", replace(SMALL, name="demo", image_size=192), SMALL_PCM, **RESIDUAL),
    **make_preset("small", replace(SMALL, name="small"), SMALL_PCM, **RESIDUAL),
    **make_preset("strong_small", improve(replace(SMALL, name="strong_small")), JOINT, **RESIDUAL),
    **make_preset(
        "tiny",
        replace(
            SMALL, name="tiny", image_size=64, classifier_stage=replace(SMALL.classifier_stage, epochs=1, batch_size=8)
        ),
        replace(SMALL_PCM, epochs=1, batch_size=8),
        **RESIDUAL,
    ),
}
"""Presets by name."""


def list_recipes() -> dict[str, Recipe]:
    """Return all recipes by name."""
    return {recipe.name: recipe for recipes in PRESETS.values() for recipe in recipes}


def get_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        InputError: the name is unknown.
    """
    recipes = list_recipes()
    if name not in recipes:
        raise InputError(f"there is no recipe {name!r}; choose one of {', '.join(recipes)}")
    return recipes[name]


def get_preset(name: str) -> tuple[Recipe, Recipe, Recipe]:
    """Return the standard, MultiRes and MultiRes + PCM recipes of a preset.

    Raises:
        InputError: the name is unknown.
    """
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
