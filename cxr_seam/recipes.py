"""Every number of the paper's training, once, with its source.

A recipe says which model is trained on which images and how; the defaults are the paper's ResNet50. Where the paper is
silent or the authors' program differs, the choice is a field here; docs/paper-and-code.md explains each. `presets`
holds the recipes that have names. A recipe checks types and ranges as soon as it is made.
"""

from __future__ import annotations

from dataclasses import asdict, field, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from .io import from_plain, validated

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelow1 = Annotated[float, Field(ge=0, lt=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Count = Annotated[int, Field(ge=1)]
CountOr0 = Annotated[int, Field(ge=0)]
Scale = Annotated[float, Field(ge=0.25, le=4)]
ImageSize = Annotated[int, Field(ge=32, le=8192)]
RecipeName = Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]  # becomes part of file names

Pooling = Literal["lse", "lse_lba", "pcam", "attention", "max_min"]
Refiner = Literal["pcm", "residual_pcm", "seam_pcm", "self_attention", "none"]
RefinerInput = Literal["suppressed", "cam"]
Background = Literal["one_minus_max", "output"]
Schedule = Literal["plateau", "constant", "one_cycle", "cosine"]
CamBaseline = Literal["zero", "min", "negative_mean"]
CAM_BASELINES = get_args(CamBaseline)
MapPrior = Literal["none", "labels"]
BoxRule = Literal["contour", "moments", "local_moments"]

CAM_THRESHOLD = 0.7
"""Q: "constant threshold Q=0.7" of the heat map's maximum (Sect. 5.3)."""

CORRECT_IOU = 0.3
"""The best box of an image and finding is correct if its IoU with a true box is above this value."""


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the smaller number must come first")
    return pair


Area = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], Fraction], AfterValidator(_ascending)]
Aspect = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]


@validated
class DataSplit:
    """Choose the training images (Sect. 5.2)."""

    num_normal_images: CountOr0 | None = 5000  # "randomly select approx. 5000 disease-free images"; None: all
    validation_fraction: FractionBelow1 = 0.2  # "split in to 80:20", by patient (Sect. 3)


@validated
class Augmentation:
    """Vary a training image (Sect. 5.2)."""

    crop_area: Area = (0.80, 1.00)  # "between 80 and 100% within the image area"
    crop_aspect: Aspect = (0.75, 1.733)  # width : height; the authors' program has 3/4 to 4/3
    flip_probability: Fraction = 0.5  # "random horizontal flip"
    rotation_degrees: Degrees = 15.0  # "-15 to 15 degrees"


@validated
class Stage:
    """Optimiser, schedule and batches of a training stage (Sect. 5.1)."""

    epochs: Count
    learning_rate: Positive
    betas: tuple[FractionBelow1, FractionBelow1] = (0.9, 0.9)  # "beta values as (0.9,0.9)"
    batch_size: Count = 32  # "a batch size of 32 is used"
    grad_accum_steps: Count = 3  # "with 3 gradient accumulation steps, resulting in a batch size of 96"
    optimiser: Literal["adam", "adamw"] = "adam"
    weight_decay: NonNegative = 0.0  # only "adamw": decoupled; of weights, not of biases and normalisation
    # The paper names no schedule; the authors' program has "plateau".
    schedule: Schedule = "plateau"
    warmup_fraction: FractionBelow1 = 0.0  # only "cosine": fraction of the updates with a rising learning rate
    plateau_patience: CountOr0 = 6  # authors' program: x 0.1 after more than 6 epochs without a higher validation AUC
    plateau_factor: Fraction = 0.1
    max_grad_norm: Positive | None = None  # clip gradients to this norm; None: no clipping


@validated
class ClassifierStage(Stage):
    """Train features and classifier with the balanced cross-entropy (Sect. 4.3, 5.1)."""

    epochs: Count = 35  # "trained for 35 epochs"
    learning_rate: Positive = 3e-4  # "learning rate set to 3E-04"
    # "only the third and fourth ResNet blocks made trainable": strides 16 and 32
    freeze_below_stride: Literal[2, 4, 8, 16, 32] = 16
    train_head: bool = True  # merge blocks and classifier; the authors' ResNet script never unfreezes them, by mistake
    freeze_bn_stats: bool = True  # BatchNorm of frozen blocks keeps ImageNet's statistics; False: follows the batches


@validated
class SeamStage(Stage):
    """Train the refiner (theta of the PCM) with the SEAM losses (Sect. 4.4, 5.1); `joint`: the classifier as well."""

    epochs: Count = 3  # "1E-06 for 3 epochs"
    learning_rate: Positive = 1e-6
    # Three epochs are too few for a plateau, and theta alone does not change the AUC.
    schedule: Schedule = "constant"
    max_grad_norm: Positive | None = 2.0  # authors' program
    rotation_degrees: Degrees = 30.0  # "random rotation between (-30 to 30 degrees)", no flips
    msml_weight: NonNegative = 1.5  # lambda_MSML, Eq. 7
    ecr_weight: NonNegative = 1.0  # lambda_ECR, Eq. 7
    ohem_fraction: Fraction = 0.20  # OHEM: "only the top 20% largest pixel losses"
    joint: bool = False  # SEAM trains the classifier as well, see `objectives.JointObjective`
    er_weight: NonNegative = 1.5  # of the ER loss, only with `joint`


@validated
class Recipe:
    """One row of the paper's tables, or a variant of one.

    A recipe trains one stage: the SEAM stage if `seam_stage` is given, else the classifier stage. `init_from` names the
    recipe that trained the model with which the SEAM stage begins.

    Raises:
        InputError: a field is unknown or missing, or has a wrong type or a value outside its range.
    """

    name: RecipeName
    model: str  # see `models.build.build_model`
    image_size: ImageSize = 256  # "we resize all images to 256 x 256" (Sect. 5.2)
    weights: str = "imagenet"  # "pre-trained on ImageNet" (Sect. 5.1); or "none", or a path
    pooling: Pooling = "lse"
    refiner: Refiner = "pcm"
    refiner_input: RefinerInput = "suppressed"  # at test (Sect. 4.1); "cam": raw maps, of absent findings as well
    lse_gamma: Positive = 10.0  # "LSE pooling with gamma = 10" (Sect. 5.1)
    background: Background = "one_minus_max"  # 15th map of the PCM; authors' program: "output", which is not trained
    cam_threshold: Fraction = CAM_THRESHOLD  # Q
    cam_baseline: CamBaseline = "zero"  # value that is subtracted from CAMs, see `cam_to_heatmap`
    mirror_share: Fraction = 0.0  # share of the mirrored evidence that is subtracted, see `cam_to_heatmap`
    map_prior: MapPrior = "none"  # "labels": heat maps are weighted by where the finding usually is, see `calibrate`
    box_rule: BoxRule = "contour"  # how a heat map becomes boxes: Q and contours (Sect. 5.3), or its moments
    tta_scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (1.0,)  # scales of test-time augmentation
    tta_flip: bool = False  # each scale mirrored as well
    classifier_stage: ClassifierStage | None = field(default_factory=ClassifierStage)
    seam_stage: SeamStage | None = None
    init_from: RecipeName | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    data: DataSplit = field(default_factory=DataSplit)
    seed: CountOr0 = 0

    @model_validator(mode="after")
    def _has_a_stage(self) -> Recipe:
        if self.classifier_stage is None and self.seam_stage is None:
            raise ValueError(f"{self.name} needs a classifier_stage or a seam_stage")
        return self

    @property
    def stage(self) -> Stage:
        """The stage that this recipe trains."""
        return self.seam_stage or self.classifier_stage


def add_seam_stage(base: Recipe, stage: SeamStage) -> Recipe:
    """Make the recipe that trains the refiner of the model of `base`.

    Its augmentation does not rotate: the Siamese step rotates the images itself and knows which corners are empty.
    """
    return replace(
        base,
        name=f"{base.name}_pcm",
        classifier_stage=None,
        seam_stage=stage,
        init_from=base.name,
        augmentation=replace(base.augmentation, rotation_degrees=0.0),
    )


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Convert a recipe to plain lists, numbers and strings, for JSON."""
    return asdict(recipe)


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """Build a recipe from the result of `recipe_to_dict`, also after JSON. Errors as in `Recipe`."""
    return from_plain(Recipe, values)
