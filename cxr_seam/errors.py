"""The one exception a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one sentence that names the file or value and what to do about it.

    The command line prints the sentence and exits with status 2; a notebook shows nothing else.
    """

    def __str__(self) -> str:
        """The sentence on one line, though a file's name or a library's words within it have several."""
        return " ".join(filter(None, map(str.strip, super().__str__().splitlines())))

    def _render_traceback_(self) -> list[str]:
        """Show a notebook the sentence alone, where IPython would print the whole way into the program."""
        return [f"{type(self).__name__}: {self}"]
