"""Run the five notebooks as Colab would, as far as a machine without network can: make test-colab.

The environment holds the packages of `preinstalled.txt`. Real: Python 3.13, these versions, pip, git, and the cells of
the notebooks, each in a new kernel that has loaded google.colab before the first cell and starts in /content. Replaced:
git fetches the repository from the last commit of this checkout, google.colab is the package in `stub`, Drive is a
folder, /content is a link to a folder here, and the machine has no GPU.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "colab"
ENVIRONMENT = Path(sys.prefix)
BEFORE = ENVIRONMENT / "preinstalled.json"
CONTENT = Path("/content")
DRIVE = "drive/MyDrive/cxr-seam"


def pip(*arguments: str) -> str:
    """Run the environment's pip and return what it printed."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def installed() -> dict[str, str]:
    """Return name and version of all installed packages."""
    return {package["name"]: package["version"] for package in json.loads(pip("list", "--format", "json"))}


def reset_environment() -> dict[str, str]:
    """Remove what earlier runs installed, and return the preinstalled packages."""
    if not BEFORE.exists():
        BEFORE.write_text(json.dumps(installed(), indent=1) + "\n")
    before = json.loads(BEFORE.read_text())
    if added := sorted(installed().keys() - before.keys()):
        pip("uninstall", "--quiet", "--yes", *added)
    if installed() != before:
        sys.exit(f"{ENVIRONMENT} has been changed by hand; delete it and run again")
    return before


def added_packages(before: dict[str, str]) -> dict[str, str]:
    """Return the packages that were added; exit with a sentence if a preinstalled package was changed or removed."""
    after = installed()
    changed = [
        f"{name} {version} -> {after.get(name)}" for name, version in before.items() if after.get(name) != version
    ]
    if changed:
        sys.exit(f"requirements.txt replaces packages of Colab: {', '.join(changed)}")
    return {name: version for name, version in after.items() if name not in before}


def commit_as_origin() -> dict[str, str]:
    """Push the last commit to a local repository; return the variables that make git read it instead."""
    origin = BUILD / "origin.git"
    shutil.rmtree(origin, ignore_errors=True)
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", origin], check=True)
    subprocess.run(["git", "-C", ROOT, "push", "--quiet", origin, "HEAD:refs/heads/main"], check=True)
    address = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    settings = {f"url.{origin}.insteadOf": address, "safe.directory": "*"}
    variables = {"GIT_CONFIG_COUNT": str(len(settings)), "GIT_TERMINAL_PROMPT": "0"}
    for number, (key, value) in enumerate(settings.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


@contextmanager
def content_folder() -> Iterator[Path]:
    """Make /content a link to an empty folder, and remove the link afterwards."""
    folder = BUILD / "content"
    make_empty(folder)
    if not CONTENT.is_symlink() or CONTENT.resolve() != folder:
        try:
            CONTENT.symlink_to(folder)
        except OSError as error:
            sys.exit(f"{CONTENT} cannot be made ({error.strerror}); make it first: sudo ln -s {folder} {CONTENT}")
    try:
        yield folder
    finally:
        CONTENT.unlink()


def make_empty(folder: Path) -> None:
    """Make a folder without content."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def new_runtime(content: Path, *, on_drive: bool) -> None:
    """Remove what a new runtime does not have: everything, or everything but Drive."""
    for path in content.iterdir():
        if path.name != "drive" or not on_drive:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def committed_notebooks() -> dict[str, str]:
    """Return number and content of the notebooks of the last commit."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout

    names = git("ls-tree", "--name-only", "HEAD", "notebooks/").split()
    return {Path(name).stem[:2]: git("show", f"HEAD:{name}") for name in names if name.endswith(".ipynb")}


def tick(source: str, field: str) -> str:
    """Set a form field of a notebook that is False to True."""
    if source.count(f"{field} = False") != 1:
        sys.exit(f"a notebook has no form field {field} = False")
    return source.replace(f"{field} = False", f"{field} = True")


def run_notebook(source: str) -> tuple[float, int, str]:
    """Run a notebook from /content; return seconds, cells that ran, and the error, "" without one."""
    notebook = nbformat.reads(source, as_version=4)
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=900, resources={"metadata": {"path": str(CONTENT)}}
    )
    started = time.monotonic()
    error = ""
    try:
        client.execute()
    except CellExecutionError as raised:
        error = f"{raised.ename}: {raised.evalue}"
        print(re.sub(r"\x1b\[[0-9;]*m", "", str(raised)), file=sys.stderr)
    cells = sum(cell.cell_type == "code" and cell.execution_count is not None for cell in notebook.cells)
    return time.monotonic() - started, cells, error


def table(*rows: tuple[object, ...]) -> str:
    """Return rows as a table in Markdown; the first row is the head."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def set_up_kernels() -> None:
    """Set what every kernel finds: the stub of google.colab, tiny data, and git's address of the repository."""
    startup = BUILD / "ipython" / "profile_default" / "startup"
    make_empty(startup)
    (startup / "00-colab.py").write_text("import google.colab\n")  # as Colab does, before the first cell
    os.environ.pop("CXR_SEAM_OUTPUT", None)
    os.environ |= commit_as_origin() | {
        "PYTHONPATH": str(HERE / "stub"),
        "IPYTHONDIR": str(BUILD / "ipython"),
        "CXR_SEAM_DATA": "tiny",
        "CXR_SEAM_PRESET": "tiny",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "COLAB_UPLOAD": str(ROOT / "docs" / "heatmap.png"),
    }


def run_all(content: Path, before: dict[str, str]) -> tuple[list[tuple[object, ...]], dict[str, str], list[str]]:
    """Run each notebook alone in a new runtime, then all in new runtimes that share Drive.

    Returns:
        A row for each run, the packages that the first one added, and what failed.
    """
    rows: list[tuple[object, ...]] = []
    added: dict[str, str] = {}
    failed: list[str] = []
    for on_drive, saved in ((False, "the runtime"), (True, "Drive")):
        for number, source in committed_notebooks().items():
            new_runtime(content, on_drive=on_drive)
            if on_drive:
                source = tick(source, "SAVE_TO_DRIVE")
                source = tick(source, "UPLOAD") if number == "05" else source
            seconds, cells, error = run_notebook(source)
            rows.append((number, saved, cells, f"{seconds:.0f} s", error or "ran"))
            print(*rows[-1], sep="   ", flush=True)
            failed += [f"notebook {number}, saved on {saved}"] if error else []
            added = added or added_packages(before)
    if not (content / DRIVE / "runs" / "tiny" / "results.json").exists():
        failed.append("results are not saved on Drive")
    if list((content / "drive").rglob("cache_*")):
        failed.append("images are saved on Drive")
    return rows, added, failed


def main() -> None:
    """Print the report, write it to build/colab/report.md, and exit with 1 if a notebook failed."""
    before = reset_environment()
    set_up_kernels()
    with content_folder() as content:
        rows, added, failed = run_all(content, before)
    added_packages(before)
    report = [
        "## What the set-up cell installed",
        f"Python {sys.version.split()[0]}. Of {len(before)} preinstalled packages none was changed or removed. Added:",
        table(("package", "version"), *sorted(added.items())),
        "## The notebooks",
        table(("notebook", "saved on", "cells run", "took", "result"), *rows),
    ]
    text = "\n\n".join(report) + "\n"
    (BUILD / "report.md").write_text(text)
    print(text)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
