"""Build models by name or from a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import nn

from ..errors import InputError
from ..findings import FINDINGS
from ..recipes import Background, Recipe, RefinerInput
from .backbones import backbone_names, build_backbone
from .multires import LocalizationModel

MULTIRES = "multires_"
BACKGROUNDS = get_args(Background)
REFINER_INPUTS = get_args(RefinerInput)


def model_names() -> list[str]:
    """List the built-in models; "timm:NAME" and "multires_timm:NAME" give any timm network with strides 8, 16, 32."""
    return [prefix + name for name in backbone_names() for prefix in ("", MULTIRES)]


def build_model(
    name: str,
    *,
    weights: str = "imagenet",
    gamma: float = 10.0,
    background: str = "one_minus_max",
    pooling: str = "lse",
    refiner: str = "pcm",
    refiner_input: str = "suppressed",
    findings: Sequence[str] = FINDINGS,
) -> LocalizationModel:
    """Build a model by name.

    Args:
        name: a backbone (see `backbones.build_backbone`) for the standard model, such as "resnet50" or
            "timm:convnext_tiny"; "multires_" and a backbone for the MultiRes model, which has a refiner.
        weights: "imagenet", "none" (random) or a path, see `backbones.build_backbone`.
        gamma: sharpness of the LSE pooling.
        background: last map of the PCM: "one_minus_max" of the findings, or the model's untrained last "output".
        pooling: a name in `registry.POOLINGS`.
        refiner: a name in `registry.REFINERS`; a standard model has none.
        refiner_input: maps that the refiner refines at test: "suppressed" (the paper) from `cam.make_pcm_input`, or the
            raw "cam". Training always uses suppressed maps.
        findings: names of the findings, by default NIH's fourteen.

    Raises:
        InputError: a name is unknown, the findings are not unique, or the weights cannot be loaded.

    Example:
        >>> model = build_model("multires_resnet50", weights="none").eval()
        >>> model(torch.zeros(1, 3, 256, 256)).cam.shape
        torch.Size([1, 14, 32, 32])
    """
    if background not in BACKGROUNDS:
        raise InputError(f"there is no background {background!r}; choose one of {', '.join(BACKGROUNDS)}")
    if refiner_input not in REFINER_INPUTS:
        raise InputError(f"there is no refiner input {refiner_input!r}; choose one of {', '.join(REFINER_INPUTS)}")
    backbone, multires = build_backbone(name.removeprefix(MULTIRES), weights=weights), name.startswith(MULTIRES)
    return LocalizationModel(
        backbone,
        multires=multires,
        gamma=gamma,
        background=background,
        pooling=pooling,
        refiner=refiner,
        refiner_input=refiner_input,
        findings=findings,
    )


def build_from_recipe(
    recipe: Recipe, *, weights: str | None = None, findings: Sequence[str] = FINDINGS
) -> LocalizationModel:
    """Build the untrained model of a recipe; `weights` replaces the recipe's weights. Errors as in `build_model`."""
    return build_model(
        recipe.model,
        weights=recipe.weights if weights is None else weights,
        gamma=recipe.lse_gamma,
        background=recipe.background,
        pooling=recipe.pooling,
        refiner=recipe.refiner,
        refiner_input=recipe.refiner_input,
        findings=findings,
    )


def count_parameters(model: nn.Module) -> int:
    """Count weights and biases; buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


PAPER_PARAMETERS = {
    "resnet50": 23_536_718,
    "multires_resnet50": 26_273_615,
    "efficientnet_b4": 17_573_718,
    "multires_efficientnet_b4": 18_913_543,
}
"""Table 4, "Number of parameters", by model name."""
