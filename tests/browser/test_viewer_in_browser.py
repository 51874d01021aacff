"""Notebook 05 as a person meets it: JupyterLab on tiny data, and Chromium that is driven through the explorer.

`make test-browser` brings Playwright, which drives the browser, and asks for a Chromium; without them all is skipped.
Screenshots are left in the folder that SCREENSHOTS names, else in build/browser.
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

from cxr_seam.training.fit import train
from cxr_seam.visualize.overlay import PREDICTED_COLOUR, TRUE_COLOUR
from cxr_seam.workspace import Workspace

playwright = pytest.importorskip("playwright.sync_api", reason="`make test-browser` installs Playwright")
pytest.importorskip("jupyterlab", reason="`make test-browser` installs JupyterLab")

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOK = "05_visualize_heatmaps.ipynb"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SENTENCE = ".widget-html [role=status], .widget-html [role=alert]"
PICTURE = "img.widget-image"
PATIENCE = 180  # seconds, for a slow machine
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Else cells out of sight are not on the page.
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
def keep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data and the three models trained on them."""
    workspace = Workspace.open(data="tiny", preset="tiny", output_dir=tmp_path_factory.mktemp("keep"))
    workspace.prepare_data()
    for recipe in workspace.recipes:
        training, validation = workspace.train_val_datasets(recipe)
        train(recipe, workspace.models, train_set=training, val_set=validation)
    return workspace.output_dir


@pytest.fixture(scope="module")
def address(chromium: str, keep: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a JupyterLab with a copy of the notebook, which it may save; it reads nobody's settings."""
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
        "CXR_SEAM_OUTPUT": str(keep),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=tiny"]
    as_in_make_lab = re.search(r"^LARGE_UPLOADS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    command += shlex.split(as_in_make_lab)
    command += ["--LabApp.expose_app_in_browser=True"]  # so that a test may give its commands by name
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
    """The notebook, all of its cells run by the menu."""
    with playwright.sync_playwright() as driver:
        # No sandbox, which root cannot have and many containers neither; only pages of our own are opened.
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
    question = page.locator(".jp-Dialog .jp-mod-accept")  # which kernel? it may come, and late
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
    """The pixels of the one picture, RGB."""
    data = page.evaluate(
        """async selector => {
            const bytes = new Uint8Array(await (await fetch(document.querySelector(selector).src)).arrayBuffer());
            return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''));
        }""",
        PICTURE,
    )
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _said(page: Any) -> str:
    return page.locator(SENTENCE).inner_text()


def _after(page: Any, act: Callable[[], object]) -> tuple[np.ndarray, str]:
    """Act, wait for a new picture that stays, and return it with its sentence."""
    look = f"() => document.querySelector({PICTURE!r}).src"
    before = page.evaluate(look)
    act()
    page.wait_for_function(f"before => ({look})() !== before", arg=before)
    now = None
    while now != (now := page.evaluate(look)):
        page.wait_for_timeout(500)
    return _picture(page), _said(page)


def _pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def _boxes(sentence: str) -> list[int]:
    """How many boxes each of the three models draws."""
    return [int(count) for count in re.findall(r"\d\.\d\d, (\d+) box", sentence)]


def _change_theme(page: Any, *, light: bool) -> None:
    theme = f"JupyterLab {'Light' if light else 'Dark'}"
    page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=str(light).lower())
    page.locator("#jupyterlab-splash").wait_for(state="detached")  # it covers the page for a while


def _no_error(page: Any) -> None:
    mime = "[data-mime-type='application/vnd.jupyter.error']"
    assert page.locator(f".jp-OutputArea-output{mime}, .jp-OutputArea-output .ansi-red-fg").count() == 0
    body = page.locator("body").inner_text()
    assert "Traceback" not in body and "Error displaying widget" not in body and "javascript error" not in body


def test_the_notebook_runs_and_shows_one_picture(page: Any, screenshots: Path) -> None:
    _no_error(page)
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "notebook.png")
    assert page.locator(PICTURE).count() == 1
    assert _pixels(_picture(page), TRUE_COLOUR) > 0


def test_a_finding_and_a_threshold_change_picture_and_boxes(page: Any, screenshots: Path) -> None:
    findings = page.get_by_label("Finding", exact=True)
    names = findings.locator("option").all_inner_texts()
    first, said = _picture(page), _said(page)
    for name in [n for n in names if not said.startswith(n)]:
        picture, said = _after(page, lambda name=name: findings.select_option(name))
        assert said.startswith(name)
        if sum(_boxes(said)):
            break
    assert not np.array_equal(first, picture)
    assert _pixels(picture, PREDICTED_COLOUR) > 0
    handle = page.get_by_role("slider", name="Threshold Q", exact=True)
    handle.focus()
    lower, said_lower = _after(page, lambda: [page.keyboard.press("ArrowLeft") for _ in range(8)])
    assert float(handle.get_attribute("aria-valuenow")) < 0.7
    # A lower Q makes the boxes larger: other lines, in other places.
    assert not np.array_equal((lower == PREDICTED_COLOUR).all(axis=-1), (picture == PREDICTED_COLOUR).all(axis=-1))
    assert said_lower.split(",")[0] == said.split(",")[0]
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "explorer_light.png")
    _no_error(page)


def test_every_control_has_a_name_for_screen_readers_and_is_reached_by_tab(page: Any) -> None:
    names = ["ChestXrayDataset", "Patient", "Finding", "Film", "Colours", "Threshold Q", "Opacity", "Narrow page"]
    names += ["PCM at x %", "PCM at y %", "Your film"]  # "of model" serves hits and misses, and sleeps until then
    kinds = [("combobox", 5), ("slider", 2), ("checkbox", 1), ("slider", 2), ("button", 1)]
    roles = [role for role, count in kinds for _ in range(count)]
    viewer = page.locator(".widget-vbox", has=page.locator(PICTURE))
    viewer.get_by_role("combobox", name="ChestXrayDataset", exact=True).focus()
    for name, role in zip(names, roles, strict=True):
        control = viewer.get_by_role(role, name=re.compile(rf"^\W*{re.escape(name)}( \(\d\))?$"))
        assert control.count() == 1, name
        for _ in range(2):  # a slider's number can be reached, too
            if control.evaluate("element => element === document.activeElement"):
                break
            page.keyboard.press("Tab")
        assert control.evaluate("element => element === document.activeElement"), name
        page.keyboard.press("Tab")
    assert viewer.get_by_role("img").get_attribute("alt").startswith("Images with heat maps")


def test_a_film_can_be_brought(page: Any, screenshots: Path, keep: Path, tmp_path: Path) -> None:
    def choose(path: Path) -> None:
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name=re.compile("Your film")).click()
        chooser.value.set_files(path)

    notes = tmp_path / "notes.txt"
    notes.write_text("no film")
    before = _picture(page)
    choose(notes)
    page.locator(".widget-html [role=alert]").wait_for()
    assert "notes.txt" in _said(page) and np.array_equal(_picture(page), before)
    own = tmp_path / "mine.png"
    film = cv2.imread(str(next((keep / "data" / "images").glob("*.png"))), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(own), film[:, ::-1])
    picture, said = _after(page, lambda: choose(own))
    assert "mine.png" in said and "a film of yours" in said
    assert not np.array_equal(picture, before) and _pixels(picture, TRUE_COLOUR) == 0
    page.screenshot(path=screenshots / "explorer_own_film.png")
    large = tmp_path / "large.tif"
    assert cv2.imwrite(
        str(large), cv2.resize(film, (3000, 2400)).astype(np.uint16) * 256, [cv2.IMWRITE_TIFF_COMPRESSION, 1]
    )
    assert large.stat().st_size > 13 << 20  # in base64 still more; Jupyter alone would hang up
    _, said = _after(page, lambda: choose(large))
    assert "large.tif" in said
    _no_error(page)


def test_films_are_chosen_by_misses_and_the_empty_choice_is_told(page: Any, screenshots: Path) -> None:
    choice, finding = page.get_by_label("ChestXrayDataset", exact=True), page.get_by_label("Finding", exact=True)
    finding.select_option("Hernia")  # which no film of NIH has a box of
    choice.select_option("misses of the finding")
    page.get_by_text("No film fits").wait_for()
    page.screenshot(path=screenshots / "explorer_no_film_fits.png")
    assert not page.locator(PICTURE).is_visible()
    choice.select_option("all films")
    page.locator(PICTURE).wait_for(state="visible")
    _, said = _after(page, lambda: finding.select_option("Cardiomegaly"))
    assert said.startswith("Cardiomegaly")
    _no_error(page)


def test_the_page_reads_in_the_dark_and_in_a_narrow_window(page: Any, screenshots: Path) -> None:
    _change_theme(page, light=False)
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "explorer_dark.png")
    colour = page.locator(SENTENCE).evaluate("element => getComputedStyle(element).color")
    assert min(int(level) for level in re.findall(r"\d+", colour)[:3]) > 150  # light words on the dark page
    page.set_viewport_size({"width": 600, "height": 1500})
    picture, _ = _after(page, lambda: page.get_by_label("Narrow page").check())
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "explorer_narrow_dark.png")
    shown, baselines = page.locator(PICTURE).bounding_box(), page.locator(".widget-gridbox").bounding_box()
    assert shown["x"] + shown["width"] <= 600 and baselines["x"] + baselines["width"] <= 600
    assert shown["width"] > 0.95 * picture.shape[1]  # its letters are as large as on a wide page
    _change_theme(page, light=True)
    page.screenshot(path=screenshots / "explorer_narrow.png")
    _no_error(page)
