"""Every number of the paper's training, once, with its source.

A recipe says what is trained on what and how; the defaults are the paper's ResNet50. Where paper and authors' program
differ or are silent, the choice is a field here; docs/paper-and-code.md tells them all. Recipes with names are in
`families`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import InputError

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("epochs", "batch_size", "grad_accum_steps", "freeze_below_stride"), (1, math.inf)),
    **dict.fromkeys(("num_normal_images", "plateau_patience", "seed"), (0, math.inf)),
    **dict.fromkeys(("learning_rate", "max_grad_norm", "lse_gamma"), (1e-300, math.inf)),
    **dict.fromkeys(("msml_weight", "ecr_weight", "weight_decay"), (0, math.inf)),
    **dict.fromkeys(("flip_probability", "plateau_factor", "ohem_fraction", "cam_threshold"), (0, 1)),
    **dict.fromkeys(("validation_fraction", "betas", "warmup_fraction"), (0, math.nextafter(1, 0))),
    "tta_scales": (0.25, 4),
    "rotation_degrees": (0, 180),
    "image_size": (32, 8192),
    "crop_area": (1e-6, 1),
    "crop_aspect": (1e-3, 1e3),
}
"""Least and largest value of each number, both allowed; of a pair, of each of the two."""


class Checked:
    """A part of a recipe: it refuses a value of another type or outside its range as soon as it is made."""

    def __post_init__(self) -> None:
        """Raise InputError, naming the field, where a value does not fit."""
        check_fields(self, RANGES)


@dataclass(frozen=True)
class Data(Checked):
    """Which images are trained on (Sect. 5.2)."""

    num_normal_images: int | None = 5000  # "randomly select approx. 5000 disease-free images"; None: all
    validation_fraction: float = 0.2  # "split in to 80:20", by patient (Sect. 3)


@dataclass(frozen=True)
class Augmentation(Checked):
    """How a training image is varied (Sect. 5.2)."""

    crop_area: tuple[float, float] = (0.80, 1.00)  # "between 80 and 100% within the image area"
    crop_aspect: tuple[float, float] = (0.75, 1.733)  # width : height; the authors' program has 3/4 to 4/3
    flip_probability: float = 0.5  # "random horizontal flip"
    rotation_degrees: float = 15.0  # "-15 to 15 degrees"


@dataclass(frozen=True)
class Stage(Checked):
    """What both phases of training have: an optimiser, its schedule and the batches (Sect. 5.1)."""

    epochs: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.9)  # "beta values as (0.9,0.9)"
    batch_size: int = 32  # "a batch size of 32 is used"
    grad_accum_steps: int = 3  # "with 3 gradient grad_accum_steps steps, resulting in a batch size of 96"
    optimiser: str = "adam"  # or "adamw"
    weight_decay: float = 0.0  # of "adamw" alone: decoupled, of weights and not of biases and normalisation
    schedule: str = "plateau"  # or another of `schedules`; the paper names none, the authors' program has plateau
    warmup_fraction: float = 0.0  # of "cosine": share of the updates over which the rate rises to `learning_rate`
    plateau_patience: int = 6  # authors' program: x 0.1 when validation AUROC has not risen for more than 6 epochs
    plateau_factor: float = 0.1
    max_grad_norm: float | None = None  # largest gradient norm, None: not clipped


@dataclass(frozen=True)
class ClassifierStage(Stage):
    """First phase: features and classifier under the balanced cross-entropy (Sect. 4.3, 5.1)."""

    epochs: int = 35  # "trained for 35 epochs"
    learning_rate: float = 3e-4  # "learning rate set to 3E-04"
    freeze_below_stride: int = 16  # "only the third and fourth ResNet blocks made trainable": strides 16 and 32
    train_head: bool = True  # merge blocks and classifier; never unfrozen in the authors' ResNet script, a slip
    freeze_bn_stats: bool = True  # BatchNorm of frozen blocks keeps ImageNet's; False: follows the batches


@dataclass(frozen=True)
class SeamStage(Stage):
    """Second phase: theta alone, under the SEAM losses (Sect. 4.4, 5.1)."""

    epochs: int = 3  # "1E-06 for 3 epochs"
    learning_rate: float = 1e-6
    schedule: str = "constant"  # three epochs leave a plateau no room, and theta does not move the AUC
    max_grad_norm: float | None = 2.0  # authors' program
    rotation_degrees: float = 30.0  # "random rotation between (-30 to 30 degrees)", no flips
    msml_weight: float = 1.5  # lambda_MSML, Eq. 7
    ecr_weight: float = 1.0  # lambda_ECR, Eq. 7
    ohem_fraction: float = 0.20  # OHEM: "only the top 20% largest pixel losses"


@dataclass(frozen=True)
class Recipe(Checked):
    """One row of the paper's tables, or a variant of one.

    A recipe trains one stage: the SEAM stage if `seam_stage` is given, else the classifier stage. `init_from` names the
    recipe that trained the model with which the SEAM stage begins.
    """

    name: str
    model: str
    image_size: int = 256  # "we resize all images to 256 x 256" (Sect. 5.2)
    weights: str = "imagenet"  # "pre-trained on ImageNet" (Sect. 5.1); or "none", or a path
    pooling: str = "lse"  # or another of `poolings`
    refiner: str = "pcm"  # or another of `refiners`
    lse_gamma: float = 10.0  # "LSE pooling with gamma = 10" (Sect. 5.1)
    background: str = "one_minus_max"  # the PCM's 15th map; the authors' program: "output", which nothing trains
    cam_threshold: float = 0.7  # "constant threshold Q=0.7" (Sect. 5.3)
    cam_baseline: str = "zero"  # what maps are measured from, see `heatmaps.subtract_baseline`
    tta_scales: tuple[float, ...] = (1.0,)  # sizes at which a film is looked at, results averaged (`averaging`)
    tta_flip: bool = False  # and mirrored as well
    classifier_stage: ClassifierStage | None = field(default_factory=ClassifierStage)
    seam_stage: SeamStage | None = None
    init_from: str | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    data: Data = field(default_factory=Data)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse, beside what `Checked` does, a recipe that trains nothing and names that would lead to other folders.

        Names become names of files, and a recipe may come out of a stranger's checkpoint.
        """
        super().__post_init__()
        for name in filter(None, (self.name, self.init_from)):
            if not re.fullmatch(r"\w[\w.+-]*", name):
                raise InputError(f"a recipe cannot be called {name!r}; take letters, digits, '_', '.', '+' and '-'")
        if self.stage is None:
            raise InputError(f"the recipe {self.name} has neither a backbone nor a seam phase; give it one to train")

    @property
    def stage(self) -> Stage:
        """The stage that this recipe trains."""
        return self.seam_stage or self.classifier_stage


def add_seam_stage(base: Recipe, phase: SeamStage) -> Recipe:
    """The recipe that goes on from `base` and trains its PCM.

    Images are no longer turned by the augmentation: the Siamese step turns them itself and knows which corners are
    empty then, as it would not know of the augmentation's.
    """
    still = replace(base.augmentation, rotation_degrees=0.0)
    return replace(
        base, name=f"{base.name}_pcm", classifier_stage=None, seam_stage=phase, init_from=base.name, augmentation=still
    )


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain lists, numbers and strings, for JSON."""
    return asdict(recipe)


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """Rebuild a recipe that `recipe_to_dict` wrote, also after a trip through JSON.

    Raises:
        InputError: a field is unknown or missing, of another type or outside its range.
    """
    nested = {"classifier_stage": ClassifierStage, "seam_stage": SeamStage, "augmentation": Augmentation, "data": Data}

    def build(kind: type, content: dict[str, Any]) -> Any:
        if not isinstance(content, dict):
            raise InputError(f"a recipe must be fields and their values, not {content!r}; write it with recipe_to_dict")
        unknown = {str(key) for key in content} - {f.name for f in fields(kind)}
        if unknown:
            raise InputError(f"the recipe has fields this version does not know: {', '.join(sorted(unknown))}")
        tupled = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
        try:
            return kind(**tupled)
        except TypeError as error:
            raise InputError(f"the recipe lacks a field: {error}") from error

    if isinstance(values, dict):
        values = {
            key: build(nested[key], value) if key in nested and isinstance(value, dict) else value
            for key, value in values.items()
        }
    return build(Recipe, values)


def check_fields(part: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse a part of a recipe, a dataclass, one of whose fields does not fit.

    Args:
        part: whose annotations tell the types.
        ranges: by field, the least and the largest value of its number, both allowed; of several, of each.

    Raises:
        InputError: names the field.
    """
    for name, kind in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if not is_a(value, kind):
            wanted = getattr(kind, "__name__", kind) if get_origin(kind) is None else kind
            raise InputError(f"{name} of a recipe must be {wanted}, not {value!r}; correct it")
        low, high = ranges.get(name, (-math.inf, math.inf))
        numbers = [] if value is None or name not in ranges else value if isinstance(value, tuple) else [value]
        if not all(low <= number <= high for number in numbers):
            raise InputError(f"{name} of a recipe must lie between {low:g} and {high:g}, not {value!r}; correct it")
        if name.startswith("crop_") and value[0] > value[1]:
            raise InputError(f"{name} of a recipe must begin with the smaller number, not {value!r}; turn it over")


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type. A whole number serves as a fraction; True and NaN are no numbers."""
    if isinstance(kind, UnionType):
        return any(is_a(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[1:] == (...,):  # any number of them, but one at least
            kinds = kinds[:1] * max(1, len(value) if isinstance(value, tuple) else 0)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(is_a, value, kinds))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


CAM_BASELINES = ("zero", "min", "negative_mean")


def check_cam_baseline(name: str) -> None:
    """Make sure that maps can be measured as `name` says.

    Raises:
        InputError: there is no normalisation of that name.
    """
    if name not in CAM_BASELINES:
        raise InputError(f"there is no normalisation {name!r} of maps; choose one of {', '.join(CAM_BASELINES)}")
