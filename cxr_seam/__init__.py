"""Localize lung abnormalities on chest X-rays from image-level labels.

An implementation of D'Souza, Reddy and Manjunath, "Localization of lung abnormalities on chest X-rays using
self-supervised equivariant attention", Biomedical Engineering Letters 13 (2023); "the paper" in all docstrings.

A multi-resolution network is trained on image labels and gives class activation maps (CAMs). A pixel correlation module
(PCM) is then trained with SEAM, a Siamese step with two consistency losses, and refines these maps. Heat maps and boxes
follow from the maps.

The method in ten files, in reading order:

1. `recipes.py`: the paper's numbers as validated defaults; presets.py has EfficientNet-B4's two and our variants
2. `models/multires.py`: backbone, merge blocks (Eq. 1), pooling and classifier as one network
3. `models/pooling.py`: log-sum-exp pooling
4. `models/cam.py`: normalised class activation maps, suppression of non-maximum classes, background channel
5. `models/pcm.py`: the pixel correlation module (Eq. 2)
6. `training/losses.py`: balanced cross-entropy (Eq. 3-5), ECR and OHEM (Eq. 6), MSML (Eq. 7)
7. `training/seam.py`: one Siamese step
8. `training/trainer.py`: one training step and one epoch
9. `inference/heatmaps.py` and `inference/boxes.py`: from CAMs to heat maps and boxes
10. `metrics/localization.py`: score boxes against true boxes (Tables 2 and 3: accuracy and false positives)

Where to change what:

- hyper-parameters: the defaults in `recipes.py` for the paper, `presets.py` for one preset
- a new pooling or refiner: a file in `models/extras/`, its name in `models/registry.py` and `recipes.py`
- a new dataset layout: a reader in `data/layouts/` that returns a `DatasetMetadata`, listed in `layouts/__init__.py`
- how a file becomes grey pixels: `data/dicom/display.py` for DICOM (windows, MONOCHROME1), else `data/image_io.py`
- overlap of boxes (IoU, IoBB) and matching: `metrics/matching.py`; box rules: `inference/boxes.py`
- which epoch is the best: `training/fit.py` compares, `training/objectives.py` and `training/seam.py` score
- the denominators of Table 2 (true boxes) and Table 3 (scored images), counted at run time: `metrics/localization.py`
- numbers printed in the paper, with its 880 images and 984 boxes: `evaluation/published.py`

Names in `__all__` are loaded at first use, so `import cxr_seam` is fast.

Example:
    >>> import cxr_seam as cxr
    >>> run = cxr.Workspace.open(data="demo", preset="demo")
    >>> run.prepare_data()
    >>> cxr.train_missing(run)
    >>> evaluation = cxr.evaluate(run)
"""

from importlib import import_module

__version__ = "0.1.0"

_MODULES = {
    "examples": "visualize.examples",
    "export": "visualize.export",
    "figures": "visualize.figures",
    "hub": "hub",
    "notebook": "notebook",
    "report": "visualize.report",
    "tables": "evaluation.tables",
}
"""Modules that notebooks use, by their short names."""

_OBJECTS = {
    "FINDINGS": "findings",
    "PRESETS": "presets",
    "ChestXrayDataset": "data.dataset",
    "ImageCache": "data.cache",
    "InputError": "errors",
    "Predictor": "inference.predictor",
    "Recipe": "recipes",
    "Viewer": "visualize.viewer",
    "Workspace": "workspace",
    "build_model": "models.build",
    "evaluate": "evaluation.evaluate",
    "fit": "training.fit",
    "get_preset": "presets",
    "get_recipe": "presets",
    "load_checkpoint": "models.checkpoint",
    "load_predictors": "evaluation.evaluate",
    "stage_shapes": "evaluation.stage_shapes",
    "train": "training.fit",
    "train_missing": "training.fit",
}
"""Classes, functions and constants, and the modules that define them."""

__all__ = ["__version__", *_OBJECTS, *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name in _MODULES:
        value: object = import_module(f".{_MODULES[name]}", __name__)
    elif name in _OBJECTS:
        value = getattr(import_module(f".{_OBJECTS[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, for completion in a notebook."""
    return sorted({*globals(), *__all__})
