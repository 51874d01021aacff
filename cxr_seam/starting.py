"""What a phase begins with: a fresh model, or the best one of the phase before it (Sect. 4.4)."""

from __future__ import annotations

from pathlib import Path

from .checkpoints import load_checkpoint
from .errors import InputError
from .heatmaps import require_normalisation
from .models import LocalizationModel, model_of
from .recipes import Recipe
from .run_files import best_path


def starting_model(
    recipe: Recipe, start: Path | None, *, weights: str
) -> tuple[LocalizationModel, dict[str, float | None] | None]:
    """A fresh model, or for a second phase the one that it goes on from.

    Args:
        recipe: what is trained.
        start: checkpoint of the earlier phase, see `starting_path`; None for a first phase.
        weights: of a fresh model's backbone, see `models.build_model`.

    Returns:
        The model and the thresholds of its classifier, None where it has yet to be trained.

    Raises:
        InputError: weights cannot be had, the checkpoint cannot be loaded, its classifier is not the recipe's, or there
            is no such refiner or normalisation of maps.
    """
    if start is None:
        return model_of(recipe, weights=weights), None
    model, about = load_checkpoint(start)
    require_normalisation(recipe.map_normalisation)
    for field in ("model", "pooling", "lse_gamma"):  # what the second phase leaves as it is
        ours, theirs = getattr(recipe, field), getattr(about.recipe, field)
        if ours != theirs:
            raise InputError(f"{recipe.name} has the {field} {ours!r}, but {start} has {theirs!r}; give both the same")
    model.background = recipe.background
    if recipe.refiner != about.recipe.refiner:
        model.give_refiner(recipe.refiner)
    return model, about.thresholds


def starting_path(recipe: Recipe, folder: Path) -> Path | None:
    """The checkpoint that the second phase of `recipe` goes on from, None for a first phase.

    Raises:
        InputError: it is not there.
    """
    if recipe.start_from is None:
        return None
    path = best_path(folder, recipe.start_from)
    if not path.exists():
        raise InputError(
            f"{recipe.name} goes on from {recipe.start_from}, but there is no {path}; train that one first"
        )
    return path
