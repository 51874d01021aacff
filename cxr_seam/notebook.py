"""What the notebooks' cells ask for: a sentence says which cell or notebook comes first; a page is shown in a frame."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import HTML


FIRST = "run_set_up_and_choices_first"
"""The line magic that every section of a notebook begins with; the cell of the choices makes it.

Before that nothing of this package can be imported, so the sentence is IPython's own, the magic's name its advice:
"UsageError: Line magic function `%run_set_up_and_choices_first` not found."
"""


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Make the magic `FIRST`, for `%load_ext cxr_seam.cells`; it refuses to go on where there is no `workspace`."""
    shell.register_magic_function(lambda _: need(shell.user_ns, workspace="Choices"), magic_name=FIRST)


def need(there: Mapping[str, Any], **made_under: str) -> None:
    """Refuse to go on where an earlier cell has not been run.

    Args:
        there: the names that exist, a notebook's `globals()`.
        made_under: name -> the heading under which a cell makes it, in the order of the notebook.

    Raises:
        InputError: a name is missing; the first one is told.

    Example:
        >>> need(globals(), workspace="Choices")
    """
    for name, heading in made_under.items():
        if name not in there:
            raise InputError(f'`{name}` is not there yet; run the cell under "{heading}" first, or all cells in order')


def uploaded_image() -> Path | None:
    """Ask for a file in Colab's own dialogue, which takes films of any size; None where none is chosen.

    Raises:
        InputError: this is not Colab.
    """
    try:
        from google.colab import files
    except ImportError as error:
        raise InputError("only Colab has this dialogue; untick UPLOAD and type the path of the file") from error
    return next(map(Path, files.upload()), None)


def require_checkpoint(path: Path, *, notebook: str) -> Path:
    """Return the path of a model that an earlier notebook has trained.

    Raises:
        InputError: it is not there.
    """
    if not path.exists():
        raise InputError(
            f"there is no {path}; run notebook {notebook} first, with the same choices (on Colab tick SAVE_TO_DRIVE in "
            "both, or stay in the same runtime)"
        )
    return path


def framed(path: Path, *, height: int = 600) -> HTML:
    """Show a page that needs no other file in a frame of so many pixels, apart from the notebook's own looks."""
    from IPython.display import HTML

    page = escape(path.read_text(encoding="utf-8"))
    # No address: on Colab the browser cannot reach the runtime's files.
    frame = f'<iframe title="{escape(path.name)}" srcdoc="{page}" width="100%" height="{height}"></iframe>'
    return HTML(f"<div>{frame}</div>")
