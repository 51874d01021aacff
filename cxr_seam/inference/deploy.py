"""Export a trained model for other programs, as ONNX or as a program of `torch.export` (.pt2).

An exported model does everything between a grey image and its heat maps: normalisation, test-time augmentation of the
recipe, network, refiner, calibration. Reading a file, resizing it to a square and drawing boxes are left to the program
that runs it.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from .. import __version__
from ..data.transforms import eval_transform
from ..errors import InputError
from ..findings import OPERATING_POINTS
from ..io import atomic_write, user_path
from ..models.tta import tta_forward
from .heatmaps import PAPER_SIZE
from .maps.registry import has_trained_refiner
from .predictor import Predictor

INPUT, OUTPUTS = "images", ("logits", "probabilities", "heat_maps")
"""Names in the files."""
OPSET = 18
"""ONNX operator set; 18 is the first that resizes with antialiasing."""


class ExportedModel(nn.Module):
    """Predict grey images (B, 1, S, S) uint8, S = `predictor.cache_size`, as `Predictor.forward` and `heat_map` do.

    The heat maps are of the refined maps if the recipe trained the refiner, else of the raw maps.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.recipe = predictor.recipe
        self.model = copy.deepcopy(predictor.model).to("cpu", memory_format=torch.contiguous_format)
        self.refined = has_trained_refiner(predictor.model, predictor.recipe)
        self.options = predictor.heatmap_options(refined=self.refined)
        slopes, intercepts = map(torch.from_numpy, predictor.calibrator.coefficients())  # (K,) each
        self.register_buffer("slopes", slopes.float())
        self.register_buffer("intercepts", intercepts.float())
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict (B, 1, S, S) uint8 images.

        Returns:
            `OUTPUTS`, float32: logits (B, K), calibrated probabilities (B, K), NaN for findings without a calibration,
            and heat maps (B, K, 256, 256) in [0, 1].
        """
        images, recipe = eval_transform(images, size=self.recipe.image_size), self.recipe
        output = tta_forward(self.model, images, scales=recipe.tta_scales, flip=recipe.tta_flip)
        heat_maps = self.options.heatmaps(output.refined if self.refined else output.cam, PAPER_SIZE)
        probabilities = (self.slopes * output.logits.float() + self.intercepts).sigmoid()
        return dict(zip(OUTPUTS, (output.logits, probabilities, heat_maps), strict=True))


def describe(predictor: Predictor) -> dict[str, str]:
    """Describe an exported model for the metadata of its file; lists and objects are JSON."""
    recipe, size, calibrator = predictor.recipe, predictor.cache_size, predictor.calibrator
    kind = "refined" if has_trained_refiner(predictor.model, recipe) else "raw"
    scales = f"mean of scales {' and '.join(map(str, recipe.tta_scales))}{', also mirrored' * recipe.tta_flip}"
    thresholds = {
        point: {f: None if math.isnan(t) else t for f, t in zip(predictor.findings, values, strict=True)}
        for point, values in ((point, calibrator.thresholds(point).tolist()) for point in OPERATING_POINTS)
    }
    return {
        "program": f"cxr_seam {__version__}",
        "notice": "Research use only, not a medical device",
        "model": recipe.model,
        "recipe": recipe.name,
        "findings": json.dumps(predictor.findings),
        INPUT: f"(batch, 1, {size}, {size}) uint8: grey radiographs, 0 black, 255 white, bones bright; each stretched "
        "to this square, shrunk by area averaging",
        "image_size": str(size),
        "logits": "(batch, findings): sigmoid(logit) is the raw score, which ranks images and is no probability",
        "probabilities": "(batch, findings) in [0, 1]: calibrated probability at the prevalence of the validation "
        "images, or at the given one; NaN without a calibration",
        "heat_maps": f"(batch, findings, {PAPER_SIZE}, {PAPER_SIZE}) in [0, 1] of the "
        f"{kind} class activation maps, stretched over the image; each is "
        "divided by its own maximum",
        "map_prior": recipe.map_prior,
        "mirror_share": str(recipe.mirror_share),
        "box_rule": recipe.box_rule,
        "test_time_augmentation": scales if len(recipe.tta_scales) > 1 or recipe.tta_flip else "none",
        "not_calibrated": json.dumps(calibrator.missing),
        "given_prevalence": json.dumps(dict(calibrator.prevalence)),
        "score_thresholds": json.dumps(thresholds),
        "box_threshold": str(recipe.cam_threshold),
    }


def export_program(predictor: Predictor) -> ExportedProgram:
    """Trace a model with `torch.export`, for any batch size. It holds no path of this machine."""
    images = torch.zeros(2, 1, predictor.cache_size, predictor.cache_size, dtype=torch.uint8)
    shapes = {INPUT: {0: Dim("batch")}}
    program = torch.export.export(ExportedModel(predictor), (images,), dynamic_shapes=shapes, strict=False)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def save_program(predictor: Predictor, path: str | os.PathLike[str]) -> Path:
    """Write a model as a .pt2 file for `torch.export.load`, with `describe` as the extra file "metadata.json".

    Raises:
        InputError: the name does not end in .pt2, or the file cannot be written.
    """
    path = _with_suffix(path, ".pt2")
    content = io.BytesIO()  # given a path, PyTorch would write the temporary name into the file
    torch.export.save(
        export_program(predictor), content, extra_files={"metadata.json": json.dumps(describe(predictor), indent=1)}
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    return path


def save_onnx(predictor: Predictor, path: str | os.PathLike[str]) -> Path:
    """Write a model as an .onnx file, with `describe` as its metadata.

    Raises:
        InputError: a package is missing, the name does not end in .onnx, or the file cannot be written.
    """
    path = _with_suffix(path, ".onnx")
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError(f"ONNX files need the package {missing[0]}; pip install onnx onnxscript onnxruntime")
    program = torch.onnx.export(
        export_program(predictor),
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props.update(describe(predictor))
    with atomic_write(path) as temporary:
        program.save(temporary)
    return path


def _with_suffix(path: str | os.PathLike[str], suffix: str) -> Path:
    path = user_path(path, what=f"name of the {suffix} file")
    if path.suffix != suffix:
        raise InputError(f"{path} must end in {suffix}")
    return path
