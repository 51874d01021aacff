"""What the program never does, read off its source: no pickle, no eval, no shell with user text, no silent network."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "cxr_seam").rglob("*.py"))

RUNS_CODE = {
    "pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "code",
    "codeop",
    "runpy",
    "ctypes",
}
"""Modules whose loaders run what they read."""
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "input"),
    *(
        "os.system",
        "os.popen",
        "os.startfile",
        "os.execv",
        "os.spawnl",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ),
    *("tempfile.mktemp", "torch.jit.load", "torch.package", "numpy.fromfile", "pd.read_pickle", "np.memmap.load"),
}
NETWORK = {
    "urllib",
    "http",
    "socket",
    "ftplib",
    "requests",
    "httpx",
    "aiohttp",
    "huggingface_hub",
    "torch.hub",
    "webbrowser",
}
MAY_REACH_OUT = {
    "backbones": "ImageNet weights, where a recipe asks for them; their checksum is in their name and compared",
    "download": "NIH's archives and tables; their md5 are compared",
    "hub": "a model that somebody shares or asks for by name",
}
MAY_START_A_PROGRAM: dict[str, str] = {}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported(tree: ast.AST) -> set[str]:
    """Names of the modules that a source imports, anywhere in it, ours left out."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def faults(source: str, module: str) -> list[str]:
    """Find everything that a source must not contain."""
    tree = ast.parse(source)
    names = imported(tree)
    found = [f"imports {name}" for name in sorted(names) if name.split(".")[0] in RUNS_CODE]
    reaching = {
        name
        for name in names
        if {name, name.split(".")[0]} & NETWORK and name not in ("urllib.error", "urllib.error.URLError")
    }
    if reaching and module not in MAY_REACH_OUT:
        found.append(f"reaches out with {min(reaching)}")
    if any(name.split(".")[0] in ("subprocess", "pty") for name in names) and module not in MAY_START_A_PROGRAM:
        found.append("starts programs")
    for name, call in calls(tree):
        keywords = {word.arg: word.value for word in call.keywords}
        if name in FORBIDDEN_CALLS:
            found.append(f"calls {name}")
        if "shell" in keywords and not _is(keywords["shell"], False):
            found.append(f"{name} with a shell")
        if name in ("torch.load", "torch.hub.load_state_dict_from_url") and not _is(keywords.get("weights_only"), True):
            found.append(f"{name} without weights_only=True")
        if name == "torch.hub.load_state_dict_from_url" and not _is(keywords.get("check_hash"), True):
            found.append(f"{name} without check_hash=True")
        if name.startswith("torch.hub.") and (
            module not in MAY_REACH_OUT or not name.endswith("load_state_dict_from_url")
        ):
            found.append(f"calls {name}")
        if name.endswith(".from_pretrained"):
            found.append(f"fetches with {name}")
        if name.split(".")[-1] in ("extractall", "extract"):
            found.append(f"unpacks with {name}")
        if name.endswith("load") and _is(keywords.get("allow_pickle"), True):
            found.append(f"{name} with allow_pickle")
        if name.startswith("subprocess.") and call.args and not isinstance(call.args[0], ast.List | ast.Name):
            found.append(f"{name} with a line of text")
    return found


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_module_runs_what_it_reads_or_reaches_out_unasked(module: Path) -> None:
    assert not faults(module.read_text(encoding="utf-8"), module.stem)


def test_what_may_reach_out_is_there_and_does() -> None:
    """An entry of the lists that is no longer needed would let the next one pass unseen."""
    for module in MAY_REACH_OUT | MAY_START_A_PROGRAM:
        source = next(path for path in MODULES if path.stem == module).read_text(encoding="utf-8")
        assert faults(source, "another module"), module


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import yaml",
        "eval(text)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "import subprocess",
        "torch.load(path)",
        "EfficientNet.from_pretrained('efficientnet-b4')",
        "torch.load(path, weights_only=False)",
        "torch.hub.load_state_dict_from_url(url, weights_only=True)",
        "torch.hub.load('owner/name', 'model')",
        "archive.extractall(folder)",
        "np.load(path, allow_pickle=True)",
        "from urllib.request import urlopen",
        "import requests",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert faults(source, "images")


def test_the_download_hands_nothing_it_fetched_to_a_shell() -> None:
    """That it compares checksums is tested in test_download.py."""
    script = (ROOT / "data_download.sh").read_text(encoding="utf-8")
    assert not re.search(r"\beval\b|\|\s*(ba)?sh\b", script)
