"""Runs the cases of bad input: what is given, what must come, and that nothing half-written stays behind.

A case is a function that lays out its input in a folder of its own and returns the act, a function without arguments.
What the act does is held against what is expected; the folder is compared before and after.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import subprocess
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cxr_seam.errors import InputError

REFUSED, WORKS, WARNS, USAGE = "refused", "works", "works with a warning", "refused with the usage"
HALF_WRITTEN = re.compile(r"\.part(\.|$)|\.tmp$|^tmp|\.incomplete$")


class Skip(Exception):
    """This machine cannot lay out the case; the sentence says why."""


@dataclass(frozen=True)
class Expected:
    """What must come.

    Attributes:
        outcome: one of the four above.
        names: what the sentence must name, usually a file.
        says: what it must say to do, or for `WORKS` what the act must return.
        result: for `WARNS`, what the act must return.
    """

    outcome: str
    names: str = ""
    says: str = ""
    result: str = ""

    def __str__(self) -> str:
        """The cell of the page."""
        if self.outcome == WORKS:
            return f"works: {self.says}"
        told = f"names `{self.names}`, says “{self.says}”"
        if self.outcome == WARNS:
            return f"works with a warning: {self.result}; {told}"
        return f"{self.outcome}: {told}"


def refused(names: str, says: str) -> Expected:
    """One sentence (`InputError`; in a shell one line and status 2)."""
    return Expected(REFUSED, names, says)


def works(says: str) -> Expected:
    """The act returns `says`."""
    return Expected(WORKS, says=says)


def warns(result: str, names: str, says: str) -> Expected:
    """The act returns `result` and warns in one sentence (in a shell one line and status 3)."""
    return Expected(WARNS, names, says, result)


def usage(names: str, says: str) -> Expected:
    """Words that are no command: argparse shows its usage, status 2."""
    return Expected(USAGE, names, says)


@dataclass
class Place:
    """The folder of a case.

    Attributes:
        folder: holds nothing but what the case lays out; also the current folder of the act.
        keep: undoes mounts and permissions at the end.
    """

    folder: Path
    keep: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def write(self, name: str, data: bytes | str) -> Path:
        """Write a file, with its folders."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def small_disk(self, name: str, *, kib: int) -> Path:
        """A folder on a disk of its own with so little room."""
        path = self.folder / name
        path.mkdir()
        if os.geteuid() or _mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)):
            raise Skip("a small disk can be mounted by root only")
        self.keep.callback(subprocess.run, ["umount", str(path)], check=True)
        return path

    def read_only(self, path: Path) -> Path:
        """Make a folder read-only: by its permissions, or for root, whom they do not bind, by a mount."""
        if os.geteuid():
            path.chmod(0o555)
            self.keep.callback(path.chmod, 0o755)
            return path
        if _mount("--bind", str(path), str(path)):
            raise Skip("root needs a mount for a read-only folder, and this machine allows none")
        self.keep.callback(subprocess.run, ["umount", str(path)], check=True)
        if _mount("-o", "remount,bind,ro", str(path)):
            raise Skip("root needs a mount for a read-only folder, and this machine allows none")
        return path


def _mount(*words: str) -> int:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode


@contextlib.contextmanager
def files_no_longer_than(length: int) -> Iterator[None]:
    """A disk that takes no more than `length` bytes of a file: what is written beyond fails, as on a full one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


Act = Callable[[], object]


@dataclass(frozen=True)
class Example:
    """A row of the table.

    Attributes:
        door: where the input comes in.
        given: what is wrong with it.
        expected: what must come.
        make: lays out the input and returns the act.
        leaves: new files that may be there after a refusal: whole ones, which the case looks at itself.
        changes: files whose bytes may change.
    """

    door: str
    given: str
    expected: Expected
    make: Callable[[Place], Act]
    leaves: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the test."""
        return f"{self.door}: {self.given}"


CASES: list[Example] = []


def case(
    door: str, given: str, expected: Expected, *, leaves: tuple[str, ...] = (), changes: tuple[str, ...] = ()
) -> Callable[[Callable[[Place], Act]], Callable[[Place], Act]]:
    """Add a function to the table."""

    def add(make: Callable[[Place], Act]) -> Callable[[Place], Act]:
        CASES.append(Example(door, given, expected, make, leaves, changes))
        return make

    return add


@dataclass(frozen=True)
class Came:
    """What came.

    Attributes:
        outcome: as `Expected.outcome`, or the name of another exception, or "skipped".
        text: the sentence, or what the act returned.
        faults: in what it is not what must come.
    """

    outcome: str
    text: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Shell:
    """What a command printed and the status it ended with."""

    status: int
    out: str
    err: str


def command(*words: object) -> Shell:
    """Run a verb in this process as a shell would."""
    from cxr_seam.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
    return Shell(status, out.getvalue(), err.getvalue())


def run(given: Example) -> Came:
    """Run one case in a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="bad input ä ") as folder:
        place = Place(Path(folder).resolve())
        with place.keep:
            try:
                act = given.make(place)
            except Skip as reason:
                return Came("skipped", str(reason), ())
            before = _files(place.folder)
            outcome, text, told = _done(act, place.folder)
            after = _files(place.folder)
        text, told = (part.replace(f"{place.folder}/", "").replace(str(place.folder), ".") for part in (text, told))
        faults = [*_unexpected(given.expected, outcome, text, told), *_left(given, outcome, before, after)]
        return Came(outcome, f"{text}; warning: {told}" if outcome == WARNS else text, tuple(faults))


def _done(act: Act, folder: Path) -> tuple[str, str, str]:
    """Outcome, sentence or result, and warning of an act."""
    here = Path.cwd()
    os.chdir(folder)
    told = contextlib.ExitStack()
    told.enter_context(contextlib.redirect_stderr(io.StringIO()))  # progress bars
    caught = told.enter_context(warnings.catch_warnings(record=True))
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        result = act()
    except InputError as error:
        return REFUSED, "\n".join([str(error), *(str(warning.message) for warning in caught)]), ""
    except Exception as error:
        return type(error).__name__, str(error), ""
    finally:
        told.close()
        os.chdir(here)
    told = "; ".join(str(warning.message) for warning in caught)
    if isinstance(result, Shell):
        return _of_shell(result, told)
    return (WARNS if told else WORKS), str(result), told


def _of_shell(result: Shell, told: str) -> tuple[str, str, str]:
    # A progress bar goes back to the beginning of its line, and what it overwrites is not read by anybody.
    lines = [re.sub(r"^.*/s[^]]*\]", "", line.rpartition("\r")[2]).strip() for line in result.err.split("\n")]
    lines = [line for line in [*lines, told] if line]
    last = result.out.strip().splitlines()[-1:] or [""]
    if result.status == 0:
        return (WARNS if lines else WORKS), last[0], "\n".join(lines)
    if result.status == 3:
        return WARNS, last[0], "\n".join(lines)
    if result.status == 2 and lines and lines[0].startswith("usage: "):
        return USAGE, lines[-1], ""
    if result.status == 2:
        return REFUSED, "\n".join(lines), ""
    return f"status {result.status}", "\n".join(lines), ""


def _unexpected(expected: Expected, outcome: str, text: str, told: str) -> Iterator[str]:
    if outcome != expected.outcome:
        yield f"{outcome} instead of {expected.outcome}: {text} {told}"
        return
    if outcome == WORKS:
        if text != expected.says:
            yield f"gave {text!r} instead of {expected.says!r}"
        return
    sentence = told if outcome == WARNS else text
    if outcome == WARNS and text != expected.result:
        yield f"gave {text!r} instead of {expected.result!r}"
    for part in (expected.names, expected.says):
        if part not in sentence:
            yield f"{part!r} is not in {sentence!r}"
    if "\n" in sentence.strip() or "Traceback" in sentence:
        yield f"more than a sentence: {sentence!r}"


def _left(given: Example, outcome: str, before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    for name, checksum in before.items():
        if after.get(name) != checksum and name not in given.changes:
            yield f"{name} was {'changed' if name in after else 'removed'}"
    for name in sorted(after.keys() - before.keys()):
        if HALF_WRITTEN.search(Path(name).name):
            yield f"{name} is half-written"
        elif outcome in (REFUSED, USAGE) and name not in given.leaves:
            yield f"{name} was left behind"


def _files(folder: Path) -> dict[str, int]:
    """Every file (its checksum) and folder (0) below a folder."""
    return {
        str(path.relative_to(folder)): zlib.crc32(path.read_bytes()) if path.is_file() else 0
        for path in folder.rglob("*")
    }
