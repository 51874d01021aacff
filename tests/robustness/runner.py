"""Run the cases of bad input: prepare a folder, run one action in it, compare the outcome and the folder afterwards.

A case is a function that writes its input into a `Sandbox` and returns an action without arguments. Every case checks
four promises: the outcome is the expected one; a refusal or a warning is one line; it names the file or field; and the
action leaves no new, changed or half-written file behind.
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
    """This machine cannot prepare the case."""


@dataclass(frozen=True)
class Expected:
    """The outcome, the names that the message must contain, and (part of) the result of the action."""

    outcome: str
    names: tuple[str, ...] = ()
    result: str = ""


def refused(*names: str) -> Expected:
    """An `InputError`; on the command line one line and exit status 2."""
    return Expected(REFUSED, names)


def works(result: str) -> Expected:
    """The action returns `result` without a warning."""
    return Expected(WORKS, result=result)


def warns(result: str, *names: str) -> Expected:
    """The action returns `result` and warns in one line; on the command line with exit status 3."""
    return Expected(WARNS, names, result)


def usage(*names: str) -> Expected:
    """Arguments that argparse refuses with its usage and exit status 2."""
    return Expected(USAGE, names)


@dataclass
class Sandbox:
    """The folder of a case, which is also the current folder of its action; `cleanup` undoes mounts and permissions."""

    folder: Path
    cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def write(self, name: str, data: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def small_disk(self, name: str, *, kib: int) -> Path:
        """Make a folder on a disk of its own with `kib` KiB."""
        path = self.folder / name
        path.mkdir()
        if os.geteuid() or _mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)):
            raise Skip("only root can mount a small disk")
        self.cleanup.callback(subprocess.run, ["umount", str(path)], check=True)
        return path

    def read_only(self, name: str) -> Path:
        """Make a folder read-only: by its permissions, or by a mount for root, who may write in spite of them."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        if os.geteuid():
            path.chmod(0o555)
            self.cleanup.callback(path.chmod, 0o755)
            return path
        if _mount("--bind", str(path), str(path)):
            raise Skip("root needs a mount for a read-only folder, and this machine allows none")
        self.cleanup.callback(subprocess.run, ["umount", str(path)], check=True)
        if _mount("-o", "remount,bind,ro", str(path)):
            raise Skip("root needs a mount for a read-only folder, and this machine allows none")
        return path


def _mount(*words: str) -> int:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the system refuse to write more than `size` bytes to a file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


Action = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One bad input; `leaves` names whole new files that are allowed after a refusal."""

    group: str
    description: str
    expected: Expected
    prepare: Callable[[Sandbox], Action]
    leaves: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.group}: {self.description}"


CASES: list[Case] = []


def case(
    group: str, description: str, expected: Expected, *, leaves: tuple[str, ...] = ()
) -> Callable[[Callable[[Sandbox], Action]], Callable[[Sandbox], Action]]:
    """Add a function that prepares a case to `CASES`."""

    def add(prepare: Callable[[Sandbox], Action]) -> Callable[[Sandbox], Action]:
        CASES.append(Case(group, description, expected, prepare, leaves))
        return prepare

    return add


@dataclass(frozen=True)
class Shell:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


def command(*words: object) -> Shell:
    """Run a command of `python -m cxr_seam` in this process."""
    from cxr_seam.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
    return Shell(status, out.getvalue(), err.getvalue())


def run(case: Case) -> list[str]:
    """Run a case in a fresh folder and return what differs from the promises; raises Skip."""
    with tempfile.TemporaryDirectory(prefix="bad input ä ") as folder:
        sandbox = Sandbox(Path(folder).resolve())
        with sandbox.cleanup:
            action = case.prepare(sandbox)
            before = _checksums(sandbox.folder)
            outcome, result, message = _run_action(action, sandbox.folder)
            after = _checksums(sandbox.folder)
    return [*_wrong_outcome(case.expected, outcome, result, message), *_wrong_files(case, outcome, before, after)]


def _run_action(action: Action, folder: Path) -> tuple[str, str, str]:
    """Outcome, result, and message (the error or the warnings)."""
    before = Path.cwd()
    os.chdir(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(os.chdir, before)
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # progress bars
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            result = action()
        except InputError as error:
            return REFUSED, "", "\n".join([str(error), *(str(warning.message) for warning in caught)])
        except Exception as error:
            return type(error).__name__, "", str(error)
        message = "\n".join(str(warning.message) for warning in caught)
        if isinstance(result, Shell):
            return _shell_outcome(result, message)
        return (WARNS if message else WORKS), str(result), message


def _shell_outcome(shell: Shell, message: str) -> tuple[str, str, str]:
    # A progress bar returns to the start of its line; only its last state is visible.
    lines = [re.sub(r"^.*/s[^]]*\]", "", line.rpartition("\r")[2]).strip() for line in shell.err.split("\n")]
    lines = [line for line in [*lines, message] if line]
    if shell.status in (0, 3):
        return (WARNS if lines or shell.status else WORKS), shell.out, "\n".join(lines)
    if shell.status == 2 and lines and lines[0].startswith("usage: "):
        return USAGE, "", lines[-1]
    return (REFUSED if shell.status == 2 else f"exit status {shell.status}"), "", "\n".join(lines)


def _wrong_outcome(expected: Expected, outcome: str, result: str, message: str) -> Iterator[str]:
    if outcome != expected.outcome:
        yield f"{outcome} instead of {expected.outcome}: {result} {message}"
        return
    if expected.result not in result:
        yield f"returned {result!r} instead of {expected.result!r}"
    for name in expected.names:
        if name not in message:
            yield f"{name!r} is not in {message!r}"
    if "\n" in message.strip() or "Traceback" in message:
        yield f"more than one line: {message!r}"


def _wrong_files(case: Case, outcome: str, before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    for name, checksum in before.items():
        if after.get(name) != checksum:
            yield f"{name} was {'changed' if name in after else 'removed'}"
    for name in sorted(after.keys() - before.keys()):
        if HALF_WRITTEN.search(Path(name).name):
            yield f"{name} is half-written"
        elif outcome in (REFUSED, USAGE) and name not in case.leaves:
            yield f"{name} was left behind"


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file, 0 for every folder."""
    return {
        str(path.relative_to(folder)): zlib.crc32(path.read_bytes()) if path.is_file() else 0
        for path in folder.rglob("*")
    }
