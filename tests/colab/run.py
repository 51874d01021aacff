"""Run the five notebooks as Colab would, as far as a machine without network can: make test-colab.

Runs in an environment of `preinstalled.txt`. What is real: Python 3.13, the versions of that file, pip, git, the
notebooks' set-up cells as they stand, each in a kernel that has loaded google.colab before the first cell and starts in
/content. What stands in: git's address of the repository leads to the last commit of this checkout, google.colab is the
package in `stub`, Drive is a folder, /content a link to a folder here, and the machine has no GPU.
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
PLACE = ROOT / "build" / "colab"
ENVIRONMENT = Path(sys.prefix)
BEFORE = ENVIRONMENT / "preinstalled.freeze"
CONTENT = Path("/content")
RUNTIMES = {
    "the runtime": ("01", "02", "03", "04", "05"),
    "Drive": ("01", "02", "03", "04", "05"),
    "Drive, in a new runtime": ("03", "05"),
}
"""Where everything is kept, and which notebooks are run there. Those of a new runtime get the films by themselves."""


def pip(*arguments: str) -> str:
    """Run the environment's pip and return what it printed."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def installed() -> dict[str, str]:
    """Name and version of all that is installed."""
    return {package["name"]: package["version"] for package in json.loads(pip("list", "--format", "json"))}


def start_afresh() -> dict[str, str]:
    """Bring the environment back to what is preinstalled, and return that."""
    if not BEFORE.exists():
        BEFORE.write_text(json.dumps(installed(), indent=1) + "\n")
    before = json.loads(BEFORE.read_text())
    if added := sorted(installed().keys() - before.keys()):
        pip("uninstall", "--quiet", "--yes", *added)
    if installed() != before:
        sys.exit(f"{ENVIRONMENT} has been changed by hand; delete it and run again")
    return before


def require_nothing_changed(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """Return what came to the environment; end in a sentence if a preinstalled package went or changed."""
    changed = [f"{name} {known} -> {after.get(name)}" for name, known in before.items() if after.get(name) != known]
    if changed:
        sys.exit(f"requirements.txt replaces what Colab brings along: {', '.join(changed)}")
    return {name: version for name, version in after.items() if name not in before}


def commit_as_origin() -> dict[str, str]:
    """Put the last commit where git looks for the repository's address; return the variables that lead it there."""
    origin = PLACE / "origin.git"
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
    """Colab's /content: a link to an empty folder, taken away again."""
    place = PLACE / "content"
    empty(place)
    if CONTENT.is_symlink() and CONTENT.resolve() == place:
        yield place
        return
    try:
        CONTENT.symlink_to(place)
    except FileExistsError:
        sys.exit(f"{CONTENT} is there and not ours; run this where there is none")
    except OSError as error:
        sys.exit(f"{CONTENT} cannot be made ({error.strerror}); make it first: sudo ln -s {place} {CONTENT}")
    try:
        yield place
    finally:
        CONTENT.unlink()


def empty(folder: Path) -> None:
    """A folder without content."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def new_runtime(content: Path, *, on_drive: bool) -> None:
    """Leave what a new runtime finds: nothing, or nothing but Drive."""
    for path in content.iterdir():
        if path.name != "drive" or not on_drive:
            shutil.rmtree(path)


def committed_notebooks() -> dict[str, str]:
    """Number and content of the notebooks of the last commit."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout

    names = git("ls-tree", "--name-only", "HEAD", "notebooks/").split()
    return {Path(name).stem[:2]: git("show", f"HEAD:{name}") for name in names if name.endswith(".ipynb")}


def run_notebook(source: str, *, on_drive: bool) -> tuple[float, int, str]:
    """Run a notebook from /content; return seconds, cells run, and the error, "" where there was none."""
    if on_drive:
        if source.count("SAVE_TO_DRIVE = False") != 1:
            sys.exit("a notebook has no form field SAVE_TO_DRIVE = False; run.py cannot tick it")
        source = source.replace("SAVE_TO_DRIVE = False", "SAVE_TO_DRIVE = True")
        source = source.replace("UPLOAD = False", "UPLOAD = True")  # notebook 05's; answered by COLAB_UPLOAD
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
    """Rows as a table in Markdown, the first its head."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def named_versions() -> Iterator[tuple[str, str]]:
    """The packages of `preinstalled.txt` and the versions named there, "" where none is."""
    for line in (HERE / "preinstalled.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            yield name, version


def main() -> None:
    """Print the report, keep it in build/colab/report.md, and end with 1 where something failed."""
    before = start_afresh()
    kernel = {
        "PYTHONPATH": str(HERE / "stub"),
        "IPYTHONDIR": str(PLACE / "ipython"),
        "CXR_SEAM_DATA": "tiny",
        "CXR_SEAM_PRESET": "tiny",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "COLAB_UPLOAD": str(ROOT / "docs" / "heatmap.png"),
    }
    startup = PLACE / "ipython" / "profile_default" / "startup"
    empty(startup)
    (startup / "00-colab.py").write_text("import google.colab\n")  # as Colab does, before the first cell
    os.environ.pop("CXR_SEAM_OUTPUT", None)
    os.environ |= kernel | commit_as_origin()

    known = {name.replace("_", "-").lower(): version for name, version in before.items()}
    head = ("package", "Colab's", "here")
    versions = [(n, v or "not known", known[n.replace("_", "-").lower()]) for n, v in named_versions()]
    report = ["## Versions", table(head, ("Python", "3.13", sys.version.split()[0]), *versions)]
    notebooks = committed_notebooks()
    results, failed = [], []
    with content_folder() as content:
        for where, numbers in RUNTIMES.items():
            on_drive = where.startswith("Drive")
            new_runtime(content, on_drive=on_drive)
            for number in numbers:
                seconds, cells, error = run_notebook(notebooks[number], on_drive=on_drive)
                results.append((number, where, cells, f"{seconds:.0f} s", error or "ran"))
                print(*results[-1], sep="   ", flush=True)
                if error:
                    failed.append(f"{number} on {where}")
                if len(results) == 1:
                    added = require_nothing_changed(before, installed())
            kept = content / ("drive/MyDrive/cxr-seam" if on_drive else "cxr-seam") / "runs" / "tiny"
            if not (kept / "results.json").exists() or list((content / "drive").rglob("store_*")):
                failed.append(f"results are not kept on {where}, or images are")
    require_nothing_changed(before, installed())
    report += [
        "## What `pip install -r requirements.txt` did",
        f"Of {len(before)} preinstalled packages it changed none and removed none. It added:",
        table(("package", "version"), *sorted(added.items())),
        "## The notebooks",
        table(("notebook", "kept on", "cells run", "took", "result"), *results),
    ]
    text = "\n\n".join(report) + "\n"
    (PLACE / "report.md").write_text(text)
    print(text)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
