"""Helpers for notebooks: show a page or a prediction, and choose an image file."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from IPython.display import HTML, Image

    from .inference.predictor import Prediction


def show_page(path: str | os.PathLike[str]) -> HTML:
    """Show an HTML page that needs no other file in a frame.

    The page travels inside the frame, because a browser cannot reach files of a Colab runtime.
    """
    from IPython.display import HTML

    name, page = escape(Path(path).name), escape(Path(path).read_text(encoding="utf-8"))
    return HTML(f'<div><iframe title="{name}" srcdoc="{page}" width="100%" height="600"></iframe></div>')


def show_prediction(prediction: Prediction) -> Image:
    """Show the heat maps and boxes of the most probable findings of an image."""
    from IPython.display import Image

    from .visualize.examples import prediction_png

    return Image(prediction_png(prediction))


def choose_image(path: str | os.PathLike[str], *, upload: bool, default: str | os.PathLike[str]) -> Path:
    """Return the path of an image: an upload if asked for, else `path`, else `default`.

    Args:
        path: typed into a form; "" means none.
        upload: open Colab's dialogue, which accepts files of any size.
        default: used if no file was typed or chosen.

    Raises:
        InputError: `upload` outside Colab.
    """
    if not upload:
        return Path(path or default)
    try:
        from google.colab import files
    except ImportError as error:
        raise InputError("only Colab can upload a file here; untick UPLOAD and type the path of the file") from error
    return Path(next(iter(files.upload()), default))
