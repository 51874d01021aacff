"""Notebook 05 in JupyterLab on tiny data, with Chromium driven through the viewer.

`make test-browser` installs Playwright and needs a Chromium; without them all tests are skipped. Screenshots are
written to the folder of the variable SCREENSHOTS, by default build/browser.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxr_seam.training.fit import fit
from cxr_seam.visualize.style import PREDICTED_COLOUR, TRUE_COLOUR
from cxr_seam.workspace import Workspace

playwright = pytest.importorskip("playwright.sync_api", reason="`make test-browser` installs Playwright")
pytest.importorskip("jupyterlab", reason="`make test-browser` installs JupyterLab")

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOK = "05_visualize_heatmaps.ipynb"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CAPTION = ".widget-html [role=status], .widget-html [role=alert]"
PICTURE = "img.widget-image"
PATIENCE = 180  # seconds, for a slow machine
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Otherwise cells that are not visible are not on the page.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@pytest.fixture(scope="module")
def chromium() -> str:
    named = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if named is None:
        pytest.skip("there is no Chromium; install one (Debian, Ubuntu: apt-get install chromium) or set CHROMIUM")
    return named


@pytest.fixture(scope="module")
def screenshots() -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or ROOT / "build" / "browser")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder with tiny data and three trained models."""
    workspace = Workspace.open(data="tiny", preset="tiny", output_dir=tmp_path_factory.mktemp("output"))
    workspace.prepare_data()
    for recipe in workspace.recipes:
        training, validation = workspace.train_val_datasets(recipe)
        fit(recipe, workspace.models, train_set=training, val_set=validation)
    return workspace.output_dir


@pytest.fixture(scope="module")
def address(chromium: str, output_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab with a copy of the notebook and settings of its own."""
    folder, home = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("home")
    (folder / "cxr_seam").symlink_to(ROOT / "cxr_seam")
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, folder / "notebooks")
    for name, values in SETTINGS.items():
        path = home / "lab" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "CXR_SEAM_DATA": "tiny",
        "CXR_SEAM_PRESET": "tiny",
        "CXR_SEAM_OUTPUT": str(output_dir),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=tiny"]
    large_uploads = re.search(r"^LARGE_UPLOADS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    command += shlex.split(large_uploads)
    command += ["--LabApp.expose_app_in_browser=True"]  # so that a test can run commands by name
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            _until(lambda: _answers(f"http://127.0.0.1:{port}/api/status?token=tiny"), server, home / "log")
            yield f"http://127.0.0.1:{port}/doc/tree/notebooks/{NOTEBOOK}?token=tiny"
        finally:
            server.terminate()
            server.wait(timeout=30)


def _answers(address: str) -> bool:
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with no_proxy.open(address, timeout=10):
            return True
    except OSError:
        return False


def _until(ready: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if ready():
            return
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start in {PATIENCE} s:\n{log.read_text()}")


@pytest.fixture(scope="module")
def page(chromium: str, address: str, screenshots: Path) -> Iterator[Any]:
    """The notebook after Run All Cells."""
    with playwright.sync_playwright() as driver:
        # Root and many containers have no sandbox; only our own pages are opened.
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE * 1000
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.set_default_timeout(PATIENCE * 1000)
        try:
            _run_all(page, address)
        except Exception:
            page.screenshot(path=screenshots / "not_run.png")
            raise
        yield page
        browser.close()


def _run_all(page: Any, address: str) -> None:
    page.goto(address, wait_until="domcontentloaded")
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    question = page.locator(".jp-Dialog .jp-mod-accept")  # the choice of a kernel may appear late
    page.add_locator_handler(question, lambda: question.click())
    page.wait_for_timeout(3000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.click()
    page.wait_for_function("() => document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')")
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    page.locator(PICTURE).wait_for()
    page.wait_for_function(
        "() => ![...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')]"
        ".some(prompt => /\\*|\\[ \\]/.test(prompt.textContent))"
    )


def _picture(page: Any) -> np.ndarray:
    """Pixels of the picture, RGB."""
    data = page.evaluate(
        """async selector => {
            const bytes = new Uint8Array(await (await fetch(document.querySelector(selector).src)).arrayBuffer());
            return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''));
        }""",
        PICTURE,
    )
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _caption(page: Any) -> str:
    return page.locator(CAPTION).inner_text()


def _after(page: Any, act: Callable[[], object]) -> tuple[np.ndarray, str]:
    """Act, wait until the picture has changed, and return it with its caption."""
    source = f"() => document.querySelector({PICTURE!r}).src"
    before = page.evaluate(source)
    act()
    page.wait_for_function(f"before => ({source})() !== before", arg=before)
    now = None
    while now != (now := page.evaluate(source)):
        page.wait_for_timeout(500)
    return _picture(page), _caption(page)


def _pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def _boxes(caption: str) -> list[int]:
    """Number of predicted boxes of each model."""
    return [int(count) for count in re.findall(r", (\d+) box", caption)]


def _change_theme(page: Any, *, light: bool) -> None:
    theme = f"JupyterLab {'Light' if light else 'Dark'}"
    page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=str(light).lower())
    page.locator("#jupyterlab-splash").wait_for(state="detached")  # it hides the page for a while


def _no_error(page: Any) -> None:
    mime = "[data-mime-type='application/vnd.jupyter.error']"
    assert page.locator(f".jp-OutputArea-output{mime}, .jp-OutputArea-output .ansi-red-fg").count() == 0
    body = page.locator("body").inner_text()
    assert "Traceback" not in body and "Error displaying widget" not in body and "javascript error" not in body


def test_notebook_runs_and_shows_one_picture(page: Any, screenshots: Path) -> None:
    _no_error(page)
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "notebook.png")
    assert page.locator(PICTURE).count() == 1
    assert _pixels(_picture(page), TRUE_COLOUR) > 0


def test_finding_and_threshold_change_picture_and_boxes(page: Any, screenshots: Path) -> None:
    findings = page.get_by_label("Finding", exact=True)
    names = findings.locator("option").all_inner_texts()
    first, caption = _picture(page), _caption(page)
    for name in [n for n in names if not caption.startswith(n.replace("_", " "))]:
        picture, caption = _after(page, lambda name=name: findings.select_option(name))
        assert caption.startswith(name.replace("_", " "))
        if sum(_boxes(caption)):
            break
    assert not np.array_equal(first, picture)
    assert _pixels(picture, PREDICTED_COLOUR) > 0
    handle = page.get_by_role("slider", name="Threshold Q", exact=True)
    handle.focus()
    lower, caption_lower = _after(page, lambda: [page.keyboard.press("ArrowLeft") for _ in range(8)])
    assert float(handle.get_attribute("aria-valuenow")) < 0.7
    # A lower Q makes the boxes larger.
    assert not np.array_equal((lower == PREDICTED_COLOUR).all(axis=-1), (picture == PREDICTED_COLOUR).all(axis=-1))
    assert caption_lower.split(",")[0] == caption.split(",")[0]
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "viewer_light.png")
    _no_error(page)


def test_controls_have_names_and_tab_order(page: Any) -> None:
    names = ["Show", "Patient", "Finding", "Image", "Colours", "Threshold Q", "Opacity", "Narrow page"]
    names += ["PCM x (%)", "PCM y (%)", "Your image"]  # "of model" is disabled until a subset needs it
    kinds = [("combobox", 5), ("slider", 2), ("checkbox", 1), ("slider", 2), ("button", 1)]
    roles = [role for role, count in kinds for _ in range(count)]
    viewer = page.locator(".widget-vbox", has=page.locator(PICTURE))
    viewer.get_by_role("combobox", name="Show", exact=True).focus()
    for name, role in zip(names, roles, strict=True):
        control = viewer.get_by_role(role, name=re.compile(rf"^\W*{re.escape(name)}( \(\d\))?$"))
        assert control.count() == 1, name
        for _ in range(2):  # the number of a slider is a tab stop too
            if control.evaluate("element => element === document.activeElement"):
                break
            page.keyboard.press("Tab")
        assert control.evaluate("element => element === document.activeElement"), name
        page.keyboard.press("Tab")
    assert viewer.get_by_role("img").get_attribute("alt").startswith("Images with heat maps")


def test_image_can_be_uploaded(page: Any, screenshots: Path, output_dir: Path, tmp_path: Path) -> None:
    def choose(path: Path) -> None:
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name=re.compile("Your image")).click()
        chooser.value.set_files(path)

    notes = tmp_path / "notes.txt"
    notes.write_text("not an image")
    before = _picture(page)
    choose(notes)
    page.locator(".widget-html [role=alert]").wait_for()
    assert "notes.txt" in _caption(page) and np.array_equal(_picture(page), before)
    own = tmp_path / "mine.png"
    image = cv2.imread(str(next((output_dir / "data" / "images").glob("*.png"))), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(own), image[:, ::-1])
    picture, caption = _after(page, lambda: choose(own))
    assert "mine.png" in caption and "your image" in caption
    assert not np.array_equal(picture, before) and _pixels(picture, TRUE_COLOUR) == 0
    page.screenshot(path=screenshots / "viewer_upload.png")
    large = tmp_path / "large.tif"
    assert cv2.imwrite(
        str(large), cv2.resize(image, (3000, 2400)).astype(np.uint16) * 256, [cv2.IMWRITE_TIFF_COMPRESSION, 1]
    )
    assert large.stat().st_size > 13 << 20  # above Jupyter's default limit of 10 MiB
    _, caption = _after(page, lambda: choose(large))
    assert "large.tif" in caption
    _no_error(page)


def test_empty_subset_hides_the_picture(page: Any, screenshots: Path) -> None:
    subset, finding = page.get_by_label("Show", exact=True), page.get_by_label("Finding", exact=True)
    finding.select_option("Hernia")  # NIH has no boxes for it
    subset.select_option("best box wrong or missing")
    page.get_by_text("No image fits").wait_for()
    page.screenshot(path=screenshots / "viewer_no_image_fits.png")
    assert not page.locator(PICTURE).is_visible()
    subset.select_option("all images")
    page.locator(PICTURE).wait_for(state="visible")
    _, caption = _after(page, lambda: finding.select_option("Cardiomegaly"))
    assert caption.startswith("Cardiomegaly")
    _no_error(page)


def test_dark_theme_and_narrow_window(page: Any, screenshots: Path) -> None:
    _change_theme(page, light=False)
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "viewer_dark.png")
    colour = page.locator(CAPTION).evaluate("element => getComputedStyle(element).color")
    assert min(int(level) for level in re.findall(r"\d+", colour)[:3]) > 150  # light text on a dark page
    page.set_viewport_size({"width": 600, "height": 1500})
    picture, _ = _after(page, lambda: page.get_by_label("Narrow page").check())
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "viewer_narrow_dark.png")
    shown, controls = page.locator(PICTURE).bounding_box(), page.locator(".widget-gridbox").bounding_box()
    assert shown["x"] + shown["width"] <= 600 and controls["x"] + controls["width"] <= 600
    assert shown["width"] > 0.95 * picture.shape[1]  # not shrunk, so its text has the same size
    _change_theme(page, light=True)
    page.screenshot(path=screenshots / "viewer_narrow.png")
    _no_error(page)
