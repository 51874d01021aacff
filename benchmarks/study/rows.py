"""Rows of a study: each row is a base recipe with one change, trained and measured in the same way.

`ablation_rows` changes the recipes of a preset in what the paper leaves open (docs/ablations.md). `beyond_rows` changes
the paper's recipe and `strong` with a small backbone (docs/beyond-the-paper.md); each of these rows draws at most as
many images in training as the paper's recipe, and an epoch more if it has a SEAM stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cxr_seam.errors import InputError
from cxr_seam.evaluation.results import MULTIRES, REFINED
from cxr_seam.presets import JOINT, PRESETS, RESIDUAL, SMALL_PCM, get_preset, improve
from cxr_seam.recipes import ClassifierStage, DataSplit, Recipe, SeamStage, add_seam_stage, recipe_to_dict

BASE, PAPER, STRONG, SINGLE, ALL_IMAGES = "base", "paper", "strong", "single_forward", "without_all_images"
JOINT_ROW = "strong_joint"
ANNEALED, TWO_MODELS, CONTOUR_ROW = "paper_annealed", "two_models", "with_plain_contours"
PATIENT_SHARES = {"eighth": 1 / 8, "quarter": 1 / 4, "half": 1 / 2}
QUESTIONS = ("theta", "ohem", "background", "head", "gamma", "q")
CountImages = Callable[[Recipe], int]
"""Return the number of training images of a recipe."""


@dataclass(frozen=True)
class Row:
    """One row of a study.

    Attributes:
        name: of the row.
        change: difference from the row `against`, in a few words.
        recipes: recipes to train, in this order; the model of the last one is measured.
        against: name of the row with which this row is compared.
        at_test: fields of the recipe that change after training.
        untrained_refiner: measure the refined maps although no SEAM stage is trained.
        patient_share: share of the training patients that the recipes see.
        average: measure the mean of the models of all recipes instead of the last model.
        gradcam: measure Grad-CAM maps in place of CAMs.
    """

    name: str
    change: str
    recipes: tuple[Recipe, ...]
    against: str
    at_test: dict[str, Any] = field(default_factory=dict)
    untrained_refiner: bool = False
    patient_share: float = 1.0
    average: bool = False
    gradcam: bool = False

    @property
    def model(self) -> str:
        """Name of the measured model: "MultiRes", or "MultiRes + PCM" with refined maps."""
        return REFINED if self.untrained_refiner or self.recipes[-1].seam_stage else MULTIRES

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the measurement, for JSON."""
        recipes = [recipe_to_dict(recipe) for recipe in self.recipes]
        content = {"row": self.name, "recipes": recipes, "at_test": self.at_test}
        content |= {"patient_share": self.patient_share} if self.patient_share < 1 else {}
        content |= {name: True for name in ("average", "gradcam") if getattr(self, name)}
        return json.loads(json.dumps(content))


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Change the seed of a recipe of a preset, and its name unless the seed is 0."""
    if seed == 0:
        return recipe
    init_from = recipe.init_from and f"{recipe.init_from}.s{seed}"
    return replace(recipe, name=f"{recipe.name}.s{seed}", seed=seed, init_from=init_from)


def ablation_rows(preset: str, *, seed: int = 0, questions: Sequence[str] = QUESTIONS) -> dict[str, Row]:
    """Make the rows of docs/ablations.md: the preset's own choice (`base`), and one row for each other choice.

    All rows have the paper's PCM, because the questions are about it; a preset with another refiner gets it here.

    Sources: D'Souza et al. 2022, sections 4.1, 4.4, 5.1 and 5.3.

    Raises:
        InputError: a question or the preset is unknown.
    """
    _, multires, pcm = (with_seed(recipe, seed) for recipe in get_preset(preset))
    papers = replace(
        pcm,
        refiner=Recipe.refiner,
        refiner_input=Recipe.refiner_input,
        seam_stage=SMALL_PCM if pcm.seam_stage.joint else pcm.seam_stage,  # the questions are about the refiner alone
    )
    pcm = pcm if papers == pcm else replace(papers, name=f"{pcm.name}_paper")
    rows = [Row(BASE, f"the recipes of {preset}", (multires, pcm), BASE)]

    def seam_stage(name: str, change: str, **changes: Any) -> None:
        changed = replace(pcm, **changes)
        if changed != pcm:
            rows.append(Row(name, change, (multires, replace(changed, name=f"{pcm.name}_{name}")), BASE))

    def both_stages(name: str, change: str, **changes: Any) -> None:
        first = replace(multires, name=f"{multires.name}_{name}", **changes)
        if replace(first, name=multires.name) != multires:
            second = replace(pcm, name=f"{first.name}_pcm", init_from=first.name, lse_gamma=first.lse_gamma)
            rows.append(Row(name, change, (first, second), BASE))

    for question in questions:
        if question == "theta":
            rows.append(Row("theta_untrained", "untrained theta", (multires,), BASE, untrained_refiner=True))
            paper = PRESETS.get(pcm.model.removeprefix("multires_"), PRESETS["resnet50"])[2].seam_stage
            seam_stage("theta_as_printed", f"the paper's SEAM stage, {paper.learning_rate:g}", seam_stage=paper)
            seam_stage("theta_1e-3", "rate of theta 1e-3", seam_stage=replace(pcm.seam_stage, learning_rate=1e-3))
        elif question == "ohem":
            for name, share in (("on", SeamStage.ohem_fraction), ("off", 1.0)):
                stage = replace(pcm.seam_stage, ohem_fraction=share)
                seam_stage(f"ohem_{name}", f"OHEM with a fraction of {share:g}", seam_stage=stage)
        elif question == "background":
            for name in ("one_minus_max", "output"):
                seam_stage(f"background_{name}", f"background {name}", background=name)
        elif question == "head":
            for name, trained in (("trained", True), ("frozen", False)):
                stage = replace(multires.classifier_stage, train_head=trained)
                both_stages(f"head_{name}", f"merge blocks and classifier {name}", classifier_stage=stage)
        elif question == "gamma":
            for gamma in (5.0, 10.0, 20.0) if multires.pooling in ("lse", "lse_lba") else ():
                both_stages(f"gamma_{gamma:g}", f"gamma {gamma:g}", lse_gamma=gamma)
        elif question == "q":
            values = [q for q in (0.5, 0.6, 0.7, 0.8, 0.9) if q != pcm.cam_threshold]
            rows += [Row(f"q_{q:g}", f"Q of {q:g}", (multires, pcm), BASE, {"cam_threshold": q}) for q in values]
        else:
            raise InputError(f"there is no question {question!r}; choose from {', '.join(QUESTIONS)}")
    return {row.name: row for row in rows}


FIRST_STAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "every_batch": ("an update after each batch instead of three", {"grad_accum_steps": 1}),
    "rate": ("learning rate 1e-3", {"learning_rate": 1e-3}),
    "betas": ("betas (0.9, 0.999)", {"betas": (0.9, 0.999)}),
    "cosine": ("warm-up over a tenth, then a cosine to 0", {"schedule": "cosine", "warmup_fraction": 0.1}),
    ANNEALED: (
        "an update after each batch, warm-up over a tenth, then a cosine to 0",
        {"grad_accum_steps": 1, "schedule": "cosine", "warmup_fraction": 0.1},
    ),
    "adamw": ("AdamW with weight decay 0.05", {"optimiser": "adamw", "weight_decay": 0.05}),
    "whole_backbone": ("the whole backbone is trained", {"freeze_below_stride": 2}),
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
POOLINGS = ("lse_lba", "pcam", "attention", "max_min")
REFINERS = {"residual_pcm": RESIDUAL, **{name: {"refiner": name} for name in ("seam_pcm", "self_attention")}}
"""Other refiners, with the fields of their recipes."""
WIDE_CROPS = {"crop_area": (0.5, 1.0)}
AT_TEST: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"q_{q:g}": (f"Q of {q:g}", {"cam_threshold": q}) for q in (0.5, 0.6, 0.8)},
    "negative_mean": ("the mean CAM of negative images is subtracted", {"cam_baseline": "negative_mean"}),
    "min": ("the minimum of each CAM is subtracted", {"cam_baseline": "min"}),
    "tta_flip": ("mean with the mirrored image", {"tta_flip": True}),
    "tta_scales": ("mean of scales 1 and 1.25", {"tta_scales": (1.0, 1.25)}),
    "tta": ("mean of scales 1 and 1.25, also mirrored", {"tta_scales": (1.0, 1.25), "tta_flip": True}),
}
"""Changes of the paper's row that need no training."""
CONTOURS = {"mirror_share": 0.0, "box_rule": "contour"}
STRONG_AT_TEST: dict[str, tuple[str, dict[str, Any]]] = {
    "without_negative_mean": ("maps above 0, not above the mean of negative images", {"cam_baseline": "zero"}),
    "without_flip": ("no mirrored image", {"tta_flip": False}),
    "without_scales": ("one scale", {"tta_scales": (1.0,)}),
    SINGLE: ("no test-time augmentation", {"tta_scales": (1.0,), "tta_flip": False}),
    "with_prior": ("evidence is weighted by where the finding usually is", {"map_prior": "labels"}),
    "without_mirror": ("the mirrored evidence is not subtracted", {"mirror_share": 0.0}),
    "without_window": ("moments of the whole map", {"box_rule": "moments"}),
    "without_mirror_and_window": (
        "no mirrored evidence, moments of the whole map",
        {"mirror_share": 0.0, "box_rule": "moments"},
    ),
    "without_moments": ("contours at Q 0.8", {"box_rule": "contour"}),
    CONTOUR_ROW: ("contours at Q 0.8, the mirrored evidence is not subtracted", CONTOURS),
    "with_papers_boxes": (
        "the paper's boxes: maps above 0, contours at Q 0.7",
        CONTOURS | {"cam_baseline": "zero", "cam_threshold": 0.7},
    ),
    **{f"with_q_{q:g}": (f"contours at Q {q:g}", {"box_rule": "contour", "cam_threshold": q}) for q in (0.5, 0.6, 0.7)},
}
"""Changes of `strong` that need no training."""
TEST_FIELDS = ("cam_baseline", "mirror_share", "map_prior", "tta_scales", "tta_flip", "cam_threshold", "box_rule")
"""Fields of a recipe that training does not use. Rows set them after training, so that one model serves many rows."""


def paper_recipe(*, backbone: str, size: int, epochs: int, seed: int) -> Recipe:
    """Make the paper's classifier stage with another backbone, image size and number of epochs."""
    stage = ClassifierStage(epochs=epochs)
    return Recipe(f"{PAPER}.s{seed}", f"multires_{backbone}", image_size=size, classifier_stage=stage, seed=seed)


def annealed_recipe(base: Recipe) -> Recipe:
    """Change the paper's classifier stage to one update per batch and an annealed learning rate."""
    stage = replace(base.classifier_stage, **FIRST_STAGE[ANNEALED][1])
    return replace(base, name=f"{ANNEALED}.s{base.seed}", classifier_stage=stage)


def both(first: Recipe, name: str, stage: SeamStage, **changes: Any) -> tuple[Recipe, Recipe]:
    """Add a SEAM stage called `name`."""
    return first, replace(add_seam_stage(first, stage), name=f"{name}_pcm.s{first.seed}", **changes)


def paper_seam_stage(backbone: str) -> SeamStage:
    """Return the paper's SEAM stage (Sect. 5.1): for ResNets that of ResNet50, for others that of EfficientNet-B4."""
    return get_preset("resnet50" if backbone.startswith("resnet") else "efficientnet_b4")[2].seam_stage


def limit_epochs(recipe: Recipe, base: Recipe, count: CountImages) -> Recipe:
    """Reduce the epochs, so that training draws at most as many images as `base`; at least one epoch."""
    epochs = max(1, base.classifier_stage.epochs * count(base) // count(recipe))
    return replace(recipe, classifier_stage=replace(recipe.classifier_stage, epochs=epochs))


def beyond_rows(*, backbone: str, size: int, epochs: int, seed: int, count: CountImages) -> dict[str, Row]:
    """Make the rows of docs/beyond-the-paper.md.

    Args:
        backbone: a name of a backbone, see `backbones.backbone_names`.
        size: image size in pixels.
        epochs: of the paper's classifier stage.
        seed: of the recipes, part of their names.
        count: number of training images of a recipe.
    """
    base = paper_recipe(backbone=backbone, size=size, epochs=epochs, seed=seed)
    paper = both(base, PAPER, paper_seam_stage(backbone))
    rows = [Row(PAPER, "", paper, PAPER)]
    rows += [Row(name, change, paper, PAPER, fields) for name, (change, fields) in AT_TEST.items()]
    rate = f"rate of theta {SMALL_PCM.learning_rate:g}"
    rows.append(Row("pcm_rate", rate, both(base, "pcm_rate", SMALL_PCM), PAPER))
    rows += [
        Row(name, f"{rate}, refiner {name}", both(base, name, SMALL_PCM, **fields), PAPER)
        for name, fields in REFINERS.items()
    ]

    def first_stage(name: str, change: str, **changes: Any) -> None:
        rows.append(Row(name, change, (replace(base, name=f"{name}.s{seed}", **changes),), PAPER))

    everything = replace(base, name=f"all_images.s{seed}", data=DataSplit(num_normal_images=None))
    rows.append(Row("all_images", "all train_val images", (limit_epochs(everything, base, count),), PAPER))
    for name, (change, fields) in FIRST_STAGE.items():
        first_stage(name, change, classifier_stage=replace(base.classifier_stage, **fields))
    first_stage("wide_crops", "crops from half of the image", augmentation=replace(base.augmentation, **WIDE_CROPS))
    for name in POOLINGS:
        first_stage(name, f"pooling {name}", pooling=name)
    rows += strong_rows(base, count)
    return {row.name: row for row in rows}


def strong_recipe(base: Recipe, count: CountImages, *, name: str = STRONG, **changes: Any) -> Recipe:
    """Make the recipe that trains `strong` with the backbone of `base`; its fields of use at test stay those of `base`.

    Args:
        base: the paper's classifier stage, see `paper_recipe`.
        count: number of training images of a recipe.
        name: of the recipe, without the seed.
        changes: fields of the recipe.
    """
    trained = replace(improve(base), **{name: getattr(base, name) for name in TEST_FIELDS})
    return limit_epochs(replace(trained, name=f"{name}.s{base.seed}", **changes), base, count)


def strong_rows(base: Recipe, count: CountImages) -> list[Row]:
    """Make the rows of `strong`: without each of its parts, and with additional parts.

    Rows that train in another way use no test-time augmentation, which takes a sixth of the time, and are compared
    with `single_forward`.
    """
    strong = improve(base)
    test_fields = {name: getattr(strong, name) for name in TEST_FIELDS}
    single = test_fields | STRONG_AT_TEST[SINGLE][1]
    stage = strong.classifier_stage
    paper_optimisation = {key: getattr(ClassifierStage(), key) for key in OPTIMISATION}
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        ALL_IMAGES: ("the paper's sample of disease-free images", {"data": base.data}),
        "without_pcam": ("the paper's pooling", {"pooling": base.pooling}),
        **{f"with_{name}": (f"pooling {name}", {"pooling": name}) for name in POOLINGS if name != strong.pooling},
        "without_whole_backbone": (
            "the paper's trained strides",
            {"classifier_stage": replace(stage, freeze_below_stride=16)},
        ),
        "without_rate": (
            "the paper's optimiser, rate, schedule and accumulation",
            {"classifier_stage": replace(stage, **paper_optimisation)},
        ),
        "with_wide_crops": (
            "crops from half of the image",
            {"augmentation": replace(strong.augmentation, **WIDE_CROPS)},
        ),
    }
    ours, annealed = strong_recipe(base, count), annealed_recipe(base)
    rows = [
        Row("paper_strong_at_test", "the classifier stage, used at test as `strong`", (base,), PAPER, test_fields),
        Row(
            f"{ANNEALED}_strong_at_test",
            "one update per batch, annealed; used at test as `strong`",
            (annealed,),
            PAPER,
            test_fields,
        ),
        Row(STRONG, "all changes of `presets.improve`", (ours,), PAPER, test_fields),
    ]
    rows += [Row(name, text, (ours,), STRONG, test_fields | new) for name, (text, new) in STRONG_AT_TEST.items()]
    rows += [
        Row(name, text, (strong_recipe(base, count, name=name, **new),), SINGLE, single)
        for name, (text, new) in changes.items()
    ]
    rows += derived_rows(base, count, test_fields)
    name = "without_pcam_on_sample"
    sample = strong_recipe(base, count, name=name, pooling=base.pooling, data=base.data)
    rows.append(Row(name, "the paper's pooling", (sample,), ALL_IMAGES, single))
    paper_stage = paper_seam_stage(base.model.removeprefix("multires_"))
    seam: dict[str, tuple[SeamStage, dict[str, Any]]] = {"pcm": (SMALL_PCM, {}), "pcm_papers_rate": (paper_stage, {})}
    seam |= {name: (SMALL_PCM, fields) for name, fields in REFINERS.items()}
    for name, (seam_stage, new) in seam.items():
        recipes = both(ours, STRONG if name == "pcm" else f"strong_{name}", seam_stage, **new)
        change = f"a SEAM stage, refiner {name}, rate {seam_stage.learning_rate:g}"
        rows.append(Row(f"with_{name}", change, recipes, STRONG, test_fields))
    return rows + joint_rows(ours, test_fields)


def joint_rows(ours: Recipe, test_fields: dict[str, Any]) -> list[Row]:
    """Make the rows of `strong` with SEAM's joint training of classifier and refiner, and the control without ER.

    They draw two epochs more than `strong`, each image twice.
    """
    without_er = both(ours, f"{JOINT_ROW}_without_er", replace(JOINT, er_weight=0.0), **RESIDUAL)
    recipes = both(ours, JOINT_ROW, JOINT, **RESIDUAL)
    text = "SEAM's joint training of classifier and refiner"
    rows = [
        Row(JOINT_ROW, text, recipes, STRONG, test_fields),
        Row(f"{JOINT_ROW}_without_er", "its control, without the ER loss", without_er, JOINT_ROW, test_fields),
    ]
    names = ("with_prior", "without_mirror", "without_window")
    rows += [
        Row(f"{JOINT_ROW}_{name}", STRONG_AT_TEST[name][0], recipes, JOINT_ROW, test_fields | STRONG_AT_TEST[name][1])
        for name in names
    ]
    return rows


def derived_rows(base: Recipe, count: CountImages, test_fields: dict[str, Any]) -> list[Row]:
    """Make the rows of `strong` with fewer patients, with Grad-CAM, and with the mean of two models.

    Fewer patients, same epochs: fewer images and as many fewer updates. The row with seed s averages the models of the
    seeds 2s and 2s + 1, so that two seeds of this row share no model.
    """
    rows = [
        Row(
            f"strong_{word}",
            f"{word} of the training patients, same epochs",
            (strong_recipe(base, count, name=f"strong_{word}"),),
            STRONG,
            test_fields,
            patient_share=share,
        )
        for word, share in PATIENT_SHARES.items()
    ]
    pair = tuple(
        strong_recipe(replace(base, name=f"{PAPER}.s{seed}", seed=seed), count)
        for seed in (2 * base.seed, 2 * base.seed + 1)
    )
    text = "mean logits and CAMs of two models"
    rows.append(Row(TWO_MODELS, text, pair, STRONG, test_fields, average=True))
    text_gradcam = "Grad-CAM in place of the CAM, same views, baseline, mirrored evidence and boxes"
    one = (strong_recipe(base, count),)
    rows.append(Row("strong_gradcam", text_gradcam, one, STRONG, test_fields, gradcam=True))
    return rows


def count_passes(row: Row, count: CountImages) -> dict[str, int]:
    """Return the number of images that each recipe of a row draws in training."""
    return {recipe.name: round(recipe.stage.epochs * count(recipe) * row.patient_share) for recipe in row.recipes}
