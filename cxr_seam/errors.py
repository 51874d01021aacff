"""The exception for errors that the user can correct, and counts in sentences."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one sentence that names the file or value and says what to do.

    The command line prints the sentence and exits with status 2; a notebook shows the sentence without a traceback.
    """

    def __str__(self) -> str:
        # One line, although a file name or a library's message within it may have several.
        return " ".join(filter(None, map(str.strip, super().__str__().splitlines())))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def count_of(number: int, one: str, many: str = "") -> str:
    """Join a number and what it counts: "1 image", "2,000 images"; `many` is the plural, by default with an "s"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
