"""The recipes that have names, in families of three: standard, MultiRes, and MultiRes with its refiner.

The paper's six rows are `resnet50`, `multires_resnet50`, `multires_resnet50_pcm`, `efficientnet_b4`,
`multires_efficientnet_b4`, `multires_efficientnet_b4_pcm`. The others are ours; `strong` and `strong_small` change
what docs/beyond-the-paper.md holds against the paper's.
"""

from __future__ import annotations

from dataclasses import replace

from .errors import InputError
from .recipes import ClassifierStage, Recipe, SeamStage, add_seam_stage


def make_preset(name: str, base: Recipe, seam: SeamStage) -> dict[str, tuple[Recipe, Recipe, Recipe]]:
    """The three models of Fig. 7 for one backbone: standard, MultiRes, MultiRes with PCM."""
    multires = replace(base, name=f"multires_{base.name}", model=f"multires_{base.model}")
    return {name: (base, multires, add_seam_stage(multires, seam))}


SMALL = Recipe(
    "small",
    "efficientnet_lite0",
    classifier_stage=ClassifierStage(
        epochs=6, learning_rate=2e-3, betas=(0.9, 0.999), batch_size=32, grad_accum_steps=1, schedule="one_cycle"
    ),
)
"""The paper's method with a small backbone and a short schedule: what two CPU cores can train (see README)."""


SMALL_PCM = SeamStage(epochs=1, learning_rate=1e-3, grad_accum_steps=1)
"""Of the strong recipes, too: a thousand times the paper's rate, which would leave theta about as it was drawn."""


def improve(recipe: Recipe) -> Recipe:
    """A first phase with all that docs/beyond-the-paper.md holds against the paper, which tells what is shown of it.

    All of the backbone learns, with a schedule and a step after every batch; pooling asks for each finding where it is;
    no disease-free film is left out; maps are measured from what they usually are, and boxes drawn closer around their
    peaks; films are looked at larger, too, and mirrored.

    Args:
        recipe: of a first phase; its backbone, image size, batches and epochs stay.
    """
    phase = replace(
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
        classifier_stage=phase,
        pooling="pcam",
        data=replace(recipe.data, num_normal_images=None),
        cam_baseline="negative_mean",
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
    # Epochs are fewer than the paper's 35: there are more films in each, and all of the backbone learns from them.
    **make_preset(
        "strong", improve(Recipe("strong", "resnet50", classifier_stage=ClassifierStage(epochs=12))), SMALL_PCM
    ),
    # Everything below runs on two CPU cores in minutes. ImageNet weights come with a package; no download is needed.
    **make_preset("demo", replace(SMALL, name="demo", image_size=192), SMALL_PCM),
    **make_preset("small", replace(SMALL, name="small"), SMALL_PCM),
    **make_preset("strong_small", improve(replace(SMALL, name="strong_small")), SMALL_PCM),
    **make_preset(
        "tiny",
        replace(
            SMALL, name="tiny", image_size=64, classifier_stage=replace(SMALL.classifier_stage, epochs=1, batch_size=8)
        ),
        replace(SMALL_PCM, epochs=1, batch_size=8),
    ),
}
"""What a notebook offers: a family trains the three models that Fig. 7 shows side by side."""


def list_recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    return {recipe.name: recipe for members in PRESETS.values() for recipe in members}


def get_recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        InputError: there is none of that name.
    """
    recipes = list_recipes()
    if name not in recipes:
        raise InputError(f"there is no recipe {name!r}; choose one of {', '.join(recipes)}")
    return recipes[name]


def preset_of(recipe: str) -> str:
    """The name of the family that a recipe belongs to.

    Raises:
        InputError: there is no recipe of that name.
    """
    found = get_recipe(recipe)
    return next(name for name, members in PRESETS.items() if found in members)


def get_preset(name: str) -> tuple[Recipe, Recipe, Recipe]:
    """Return the standard, MultiRes and MultiRes + PCM recipes of a family.

    Raises:
        InputError: there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"there is no family of recipes {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
