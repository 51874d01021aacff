"""Bad input on the command line, command by command, in this process and in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from cases_models import FILE, GREY, checkpoint, pickle_payload
from cases_tables import FILES, ROWS
from helpers.archives import png
from helpers.results import make_results
from runner import Action, Expected, Sandbox, Shell, case, command, refused, usage, warns, works

from cxr_seam.synthetic.dataset import plan_studies, synthesize_study
from cxr_seam.workspace import DatasetFile

SHELL = "command line"
Words = list[str] | Callable[[Sandbox], list[str]]


@cache
def radiograph() -> bytes:
    """Return a synthetic radiograph, which the view check accepts."""
    study = plan_studies(2)[0]
    with tempfile.TemporaryDirectory() as folder:
        synthesize_study(study, Path(folder))
        return (Path(folder) / study.image_index).read_bytes()


def write_nih(sandbox: Sandbox, name: str = "data") -> str:
    """Write a folder with three small images and NIH's tables; return its name."""
    for table, content in FILES.items():
        # A second training patient, so that there is one for validation.
        sandbox.write(f"{name}/{table}", content.replace("Nodule,0,1,", "Nodule,0,3,"))
    for number, row in enumerate(ROWS):
        sandbox.write(f"{name}/images/{row[:16]}", png(20 * number, side=64))
    return name


def prepared(sandbox: Sandbox) -> list[str]:
    """Prepare that folder; return the options of its workspace."""
    options = ["--data", write_nih(sandbox), "--preset", "tiny", "--output", "out"]
    before = os.getcwd()
    os.chdir(sandbox.folder)
    try:
        done = command("download", *options)
        assert done.status == 0, done.err
    finally:
        os.chdir(before)
    return options


def add(
    description: str,
    expected: Expected,
    words: Words,
    files: dict[str, bytes] | None = None,
    *,
    leaves: tuple[str, ...] = (),
) -> None:
    """Add a case of one command; `words` may be a function that prepares more than `files`."""

    def prepare_case(sandbox: Sandbox) -> Action:
        for name, data in (files or {}).items():
            sandbox.write(name, data)
        arguments = words(sandbox) if callable(words) else words
        return lambda: command(*arguments)

    case(SHELL, description, expected, leaves=leaves)(prepare_case)


add("no command", usage("VERB"), [])
add("an unknown command", usage("'paint'"), ["paint"])
add("an unknown option", usage("--fast"), ["selfcheck", "--fast"])


def predict(*images: str, output: str = "out") -> Words:
    """Write a checkpoint and return the words of `predict`."""

    def words(sandbox: Sandbox) -> list[str]:
        sandbox.write("m.safetensors", checkpoint())
        return ["predict", *images, "--checkpoint", "m.safetensors", "--out", output]

    return words


def predict_pickle(sandbox: Sandbox) -> list[str]:
    words = predict("image.png")(sandbox)
    sandbox.write("m.safetensors", pickle_payload(sandbox))
    return words


predicted = ["predict", "image.png", "--checkpoint", "m.safetensors", "--out", "out"]
image, grey = {"image.png": radiograph()}, {"image.png": GREY}
add("predict: no checkpoint", refused("m.safetensors"), predicted, grey)
add("predict: an empty checkpoint", refused("m.safetensors"), predicted, {"m.safetensors": b""} | grey)
add("predict: a pickle for a checkpoint", refused("m.safetensors"), predict_pickle, grey)
reports = ("out", "out/images.csv", "out/scores.csv", "out/boxes.csv")  # these report the missing image
add("predict: no image", refused("image.png"), predict("image.png"), leaves=(*reports, "out/images.csv"))
add(
    "predict: spaces and umlauts",
    works("aus gabe ö"),
    predict("ä 1.png", output="aus gabe ö"),
    {"ä 1.png": radiograph()},
)
files = {"a.png": radiograph(), "b.png": b""}
add("predict: one broken image among others", warns("out", "b.png"), predict("a.png", "b.png"), files)
add("predict: results into a file", refused("out"), predict("image.png"), image | {"out": b"precious"})
add(
    "predict: results into a read-only folder",
    refused("locked"),
    lambda sandbox: predict("image.png", output=sandbox.read_only("locked").name)(sandbox),
    image,
)
same_names = ["a/disc/image.png", "b/disc/image.png"]
words = ["predict", *same_names, "--checkpoint", "m.safetensors"]
add("predict: two images with the same result name", refused("image"), words, dict.fromkeys(same_names, GREY))
words = ["predict", "images", "--checkpoint", "m"]
add("predict: a folder without an image", refused("images"), words, {"images/a.txt": b""})

prepare = ["prepare", "images", "--cache", "cache", "--size", "16"]
good_and_bad = {"images/a.png": GREY, "images/b.png": GREY[:60]}
add("prepare: no source", refused("images"), prepare)
add("prepare: a size in letters", usage("--size", "'big'"), [*prepare[:5], "big"])
add("prepare: a size of 0", refused("size"), [*prepare[:5], "0"], good_and_bad)
add("prepare: no --cache", usage("--cache"), ["prepare", "images"])
add(
    "prepare: into a read-only folder",
    refused("locked"),
    lambda sandbox: [*prepare[:3], f"{sandbox.read_only('locked').name}/cache"],
    good_and_bad,
)
add("prepare: one broken image", warns("cache", "b.png"), prepare, good_and_bad)
words = ["prepare", "Röntgen bilder", "--cache", "mein Speicher ß", "--size", "16"]
add("prepare: spaces and umlauts", works("mein Speicher ß"), words, {"Röntgen bilder/ü 1.png": GREY})

demo = ["demo-data", "demo", "--patients", "2"]
add("demo-data: a file in place of the folder", refused("demo"), demo, {"demo": b"x"})
add("demo-data: one patient", refused("patients"), [*demo[:3], "1"])
add("demo-data: a negative seed", refused("seed"), [*demo, "--seed", "-1"])
add("demo-data: patients in letters", usage("--patients"), [*demo[:3], "x"])
add("demo-data: a folder with other images", refused("demo"), demo, {"demo/images/x.png": GREY})
add(
    "demo-data: into a read-only folder",
    refused("locked"),
    lambda sandbox: ["demo-data", f"{sandbox.read_only('locked').name}/demo", "--patients", "2"],
)


@case(SHELL, "demo-data: onto a full disk", refused("disk"), leaves=("disk/demo", "disk/demo/images"))
def demo_full(sandbox: Sandbox) -> Action:
    sandbox.small_disk("disk", kib=300)
    return lambda: command("demo-data", "disk/demo", "--patients", "2")


def download(name: str = "data") -> Words:
    """Write a folder of NIH data and return the words of `download`."""
    return lambda sandbox: ["download", "--data", write_nih(sandbox, name), "--preset", "tiny", "--output", "out"]


tiny = ["--preset", "tiny", "--output", "out"]
claims = ("out", "out/dataset.json", "out/data", "out/data/dataset.json")
add("download: unknown data", refused("'nowhere'"), ["download", "--data", "nowhere", *tiny])
add("download: an unknown preset", refused("'huge'"), ["download", "--preset", "huge"])
words = ["download", "--data", "empty", *tiny]
add("download: a folder without images", refused("empty"), words, {"empty/a.txt": b""}, leaves=claims)
add("download: results into a file", refused("out"), download(), {"out": b"x"})
add(
    "download: into a folder of other data",
    refused("out"),
    download(),
    {"out/dataset.json": DatasetFile(dataset="others").model_dump_json().encode()},
)
add("download: into a folder of an earlier version", refused("out"), download(), {"out/data.json": b'{"data": "demo"}'})
add("download: dataset.json cut short", refused("dataset.json"), download(), {"out/dataset.json": b'{"da'})
add("download: spaces and umlauts", works("out/data"), download("Röntgen bilder"))


def after(change: Callable[[Sandbox], object], *words: str) -> Words:
    """Prepare data, change something, and return the words of a command on this workspace."""

    def arguments(sandbox: Sandbox) -> list[str]:
        options = prepared(sandbox)
        change(sandbox)
        return [*words, *(options if words[0] == "evaluate" else [*options[:2], *options[4:]])]

    return arguments


def nothing(sandbox: Sandbox) -> None:
    pass


def cut_table(sandbox: Sandbox) -> None:
    path = sandbox.folder / "data" / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text()[:-40])


def cut_cache(sandbox: Sandbox) -> None:
    (path,) = (sandbox.folder / "out").rglob("images.u8")
    path.write_bytes(path.read_bytes()[:-1])


def no_test_list(sandbox: Sandbox) -> None:
    sandbox.write(f"out/models/{FILE}", checkpoint())
    (sandbox.folder / "data" / "test_list.txt").unlink()


def checkpoint_at(name: str, *, end: int | None = None) -> Callable[[Sandbox], object]:
    """Write (the start of) a checkpoint into the folder of models."""
    return lambda sandbox: sandbox.write(f"out/models/{name}", checkpoint()[:end])


def one_patient(sandbox: Sandbox) -> None:
    name = "Data_Entry_2017_v2020.csv"
    sandbox.write(f"data/{name}", FILES[name])


pcm, start = "multires_tiny_pcm", "multires_tiny.best.safetensors"
add("train: an unknown recipe", refused("'vgg16'"), ["train", "vgg16"])
add("train: data not prepared", refused("out"), ["train", "tiny", "--data", "tiny", *tiny[2:]])
add("train: no such weights", refused("nowhere.pth"), after(nothing, "train", "tiny", "--weights", "nowhere.pth"))
add("train: the SEAM stage first", refused("multires_tiny"), after(nothing, "train", pcm))
add("train: a SEAM stage on a cut checkpoint", refused(start), after(checkpoint_at(start, end=999), "train", pcm))
add("train: a label table cut in a row", refused("Data_Entry_2017_v2020.csv"), after(cut_table, "train", "tiny"))
add("train: a cache cut short", refused("images.u8"), after(cut_cache, "train", "tiny"))
add("train: one patient", refused("out"), after(one_patient, "train", "tiny"))
add("evaluate: no trained model", refused("out/models"), after(nothing, "evaluate"))
add("evaluate: a checkpoint cut short", refused(FILE), after(checkpoint_at(FILE, end=999), "evaluate"))
add("evaluate: no bootstrap sample", refused("0"), after(checkpoint_at(FILE), "evaluate", "--n-bootstrap", "0"))
add("evaluate: a list missing", refused("test_list.txt"), after(no_test_list, "evaluate"))

both, good = ["compare", "a.json", "b.json"], json.dumps(make_results()).encode()
add("compare: missing", refused("a.json"), both)
add("compare: cut in the middle", refused("b.json"), both, {"a.json": good, "b.json": good[:99]})
add("compare: one argument", usage("second"), ["compare", "a.json"])


def add_process(description: str, expected: Expected, words: list[str], files: dict[str, bytes]) -> None:
    """Add a case in a process of its own, as a user starts it."""

    def prepare_case(sandbox: Sandbox) -> Action:
        for name, data in files.items():
            sandbox.write(name, data)

        def action() -> Shell:
            arguments = [sys.executable, "-m", "cxr_seam", *words]
            done = subprocess.run(arguments, capture_output=True, text=True, check=False)
            return Shell(done.returncode, done.stdout, done.stderr)

        return action

    case(f"{SHELL}, own process", description, expected)(prepare_case)


add_process("compare: not a results.json", refused("a.json"), both, {"a.json": b"{}", "b.json": good})
add_process(
    "prepare: a web page for an archive", refused("a.zip"), ["prepare", "a.zip", "--cache", "s"], {"a.zip": b"<p>"}
)
add_process("prepare: one broken image", warns("cache", "b.png"), prepare, good_and_bad)
