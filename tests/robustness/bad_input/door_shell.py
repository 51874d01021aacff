"""Bad input: the command line, verb by verb, in this process and in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache

from door_models import FILE, GREY, posing, results, whole
from door_tables import FILES, ROWS
from helpers.archives import png
from runner import Act, Expected, Place, Shell, case, command, refused, usage, warns, works

from cxr_seam.data.cache import ImageCache

SHELL = "shell"


@cache
def film() -> bytes:
    """A drawn film, which gives no doubt that it is one."""
    import tempfile
    from pathlib import Path

    from cxr_seam.synthetic.dataset import plan_studies, synthesize_study

    visit = plan_studies(2)[0]
    with tempfile.TemporaryDirectory() as folder:
        synthesize_study(visit, Path(folder))
        return (Path(folder) / visit.image_index).read_bytes()


def nih(place: Place, name: str = "daten") -> str:
    """A folder with three small images and NIH's tables; its path as words of a command."""
    for table, content in FILES.items():
        # A second patient to train on, so that there is one to validate on.
        place.write(f"{name}/{table}", content.replace("Nodule,0,1,", "Nodule,0,3,"))
    for number, row in enumerate(ROWS):
        place.write(f"{name}/images/{row[:16]}", png(20 * number, side=64))
    return name


def fetched(place: Place) -> list[str]:
    """The same, prepared; the options of a workspace."""
    options = ["--data", nih(place), "--preset", "tiny", "--output", "keep"]
    import os

    here = os.getcwd()
    os.chdir(place.folder)
    try:
        done = command("download", *options)
        assert done.status == 0, done.err
    finally:
        os.chdir(here)
    return options


def add(
    given: str,
    expected: Expected,
    words: list[str] | Callable[[Place], list[str]],
    files: dict[str, bytes] | None = None,
    **options: tuple[str, ...],
) -> None:
    """A case of one command; `words` may lay out more than `files`."""

    def lay_out(place: Place) -> Act:
        for name, data in (files or {}).items():
            place.write(name, data)
        said = words(place) if callable(words) else words
        return lambda: command(*said)

    case(SHELL, given, expected, **options)(lay_out)


def locked(place: Place) -> str:
    """A read-only folder."""
    (place.folder / "locked").mkdir()
    place.read_only(place.folder / "locked")
    return "locked"


add("no verb", usage("VERB", "are required"), [])
add("a verb that there is not", usage("'paint'", "invalid choice"), ["paint"])
add("an option that there is not", usage("--fast", "unrecognized arguments"), ["selfcheck", "--fast"])

model = {"m.safetensors": b""}
predicted = ["predict", "film.png", "--checkpoint", "m.safetensors", "--out", "out"]
add("predict: no checkpoint", refused("m.safetensors", "correct the path"), predicted, {"film.png": GREY})
add("predict: an empty checkpoint", refused("m.safetensors", "never pickles"), predicted, model | {"film.png": GREY})
add(
    "predict: no film",
    refused("film.png", "correct the path"),
    lambda place: with_model(place, predicted),
    leaves=("out", "out/films.csv", "out/probabilities.csv", "out/boxes.csv"),  # which tell of it
)
add(
    "predict: a pickle for a checkpoint",
    refused("m.safetensors", "never pickles"),
    lambda place: [*predicted[:3], str(pickled(place)), *predicted[4:]],
    {"film.png": GREY},
)
add(
    "predict: a path with spaces and umlauts",
    works("heat maps, boxes and probabilities of 1 films are in aus gabe ö"),
    lambda place: with_model(
        place, ["predict", "Bild 1 ä.png", "--checkpoint", "m.safetensors", "--out", "aus gabe ö"]
    ),
    {"Bild 1 ä.png": film()},
)
add(
    "predict: one broken film among others",
    warns("heat maps, boxes and probabilities of 1 films are in out", "b.png", "is empty; fetch it again"),
    lambda place: with_model(place, ["predict", "a.png", "b.png", "--checkpoint", "m.safetensors", "--out", "out"]),
    {"a.png": film(), "b.png": b""},
)
add(
    "predict: results into a file",
    refused("out", "free or reconnect its folder"),
    lambda place: with_model(place, predicted),
    {"film.png": film(), "out": b"precious"},
)
add(
    "predict: results into a read-only folder",
    refused("locked", "free or reconnect its folder"),
    lambda place: with_model(place, [*predicted[:5], locked(place)]),
    {"film.png": film()},
)
add(
    "predict: two films of one name in folders of one name",
    refused("film", "give them one by one"),
    ["predict", "a/disc/film.png", "b/disc/film.png", "--checkpoint", "m.safetensors"],
    {"a/disc/film.png": GREY, "b/disc/film.png": GREY},
)
add(
    "predict: a folder without a film",
    refused("films", "give a folder with"),
    ["predict", "films", "--checkpoint", "m"],
    {"films/a.txt": b""},
)


def with_model(place: Place, words: list[str]) -> list[str]:
    """The same words, beside a model."""
    place.write("m.safetensors", whole())
    return words


def pickled(place: Place) -> str:
    """A pickle that would create a file."""
    return place.write("m.safetensors", posing(place)).name


stored = ["prepare", "films", "--cache", "store", "--size", "16"]
add("prepare: no source", refused("films", "correct the path"), stored)
add("prepare: a size in letters", usage("--size", "invalid int value: 'big'"), [*stored[:5], "big"])
add("prepare: a size of 0", refused("size", "must be from 1 to 8192"), [*stored[:5], "0"], {"films/a.png": GREY})
add("prepare: no store named", usage("--cache", "are required"), ["prepare", "films"])
add(
    "prepare: into a read-only folder",
    refused("locked", "name another folder"),
    lambda place: [*stored[:3], locked(place) + "/store"],
    {"films/a.png": GREY},
)
add(
    "prepare: one broken image",
    warns("1 images of 16x16 pixels are in store", "b.png", "stayed out of the store"),
    stored,
    {"films/a.png": GREY, "films/b.png": GREY[:60]},
)
add(
    "prepare: a path with spaces and umlauts",
    works("1 images of 16x16 pixels are in mein Speicher ß"),
    ["prepare", "Röntgen bilder", "--cache", "mein Speicher ß", "--size", "16"],
    {"Röntgen bilder/ü 1.png": GREY},
)

add("demo-data: a file in the folder's place", refused("demo", "choose another"), ["demo-data", "demo"], {"demo": b"x"})
add("demo-data: one patient", refused("patients", "at least 2"), ["demo-data", "demo", "--patients", "1"])
add("demo-data: a negative seed", refused("seed", "must not be negative"), ["demo-data", "demo", "--seed", "-1"])
add(
    "demo-data: patients in letters", usage("--patients", "invalid int value"), ["demo-data", "demo", "--patients", "x"]
)
add(
    "demo-data: a folder with other images",
    refused("demo", "name an empty folder"),
    ["demo-data", "demo", "--patients", "2"],
    {"demo/images/x.png": GREY},
)
add(
    "demo-data: into a read-only folder",
    refused("locked", "choose another"),
    lambda place: ["demo-data", f"{locked(place)}/demo", "--patients", "2"],
)


@case(
    SHELL,
    "demo-data: onto a full disk",
    refused("disk", "free or reconnect its folder"),
    leaves=("disk/demo", "disk/demo/images"),
)
def demo_full(place: Place) -> Act:
    place.small_disk("disk", kib=300)
    return lambda: command("demo-data", "disk/demo", "--patients", "2")


tiny = ["--preset", "tiny", "--output", "keep"]
add(
    "fetch: data that there are not",
    refused("'nowhere'", "give a folder's path"),
    ["download", "--data", "nowhere", *tiny],
)
add("fetch: a family that there is not", refused("'huge'", "choose one of"), ["download", "--preset", "huge"])
add(
    "fetch: a folder without images",
    refused("empty", "name the folder"),
    ["download", "--data", "empty", *tiny],
    {"empty/a.txt": b""},
    leaves=("keep", "keep/data.json", "keep/data", "keep/data/data.json"),
)
add(
    "fetch: results into a file",
    refused("keep", "free or reconnect its folder"),
    lambda place: ["download", "--data", nih(place), *tiny],
    {"keep": b"x"},
)
add(
    "fetch: into a folder of other data",
    refused("keep", "choose another KEEP"),
    lambda place: ["download", "--data", nih(place), *tiny],
    {"keep/data.json": b'{"data": "others"}'},
)
add(
    "fetch: into a folder whose data.json is cut",
    refused("data.json", "delete"),
    lambda place: ["download", "--data", nih(place), *tiny],
    {"keep/data.json": b'{"da'},
)
add(
    "fetch: a path with spaces and umlauts",
    works("3 images of 256x256 pixels are in keep/data/cache_256"),
    lambda place: ["download", "--data", nih(place, "Röntgen bilder"), *tiny],
)

named = ["--output", "keep"]
add("train: a recipe that there is not", refused("'vgg16'", "choose one of"), ["train", "vgg16"])
add(
    "train: nothing was fetched",
    refused("keep", "run notebook 01 first"),
    lambda place: ["train", "tiny", "--data", nih(place), *named],
)
add(
    "train: no weights there",
    refused("nowhere.pth", "give the path"),
    lambda place: ["train", "tiny", *fetched(place)[:2], *named, "--weights", "nowhere.pth"],
)
add(
    "train: phase two before phase one",
    refused("multires_tiny", "train that one first"),
    lambda place: ["train", "multires_tiny_pcm", *fetched(place)[:2], *named],
)
add(
    "train: phase two on a checkpoint cut short",
    refused("multires_tiny.best.safetensors", "never pickles"),
    lambda place: on_cut_start(place),
)
add(
    "train: a label table cut in a row",
    refused("Data_Entry_2017_v2020.csv", "fetch it again"),
    lambda place: cut_table(place),
)
add("train: a store cut short", refused("images.u8", "prepare again"), lambda place: cut_store(place))


def on_cut_start(place: Place) -> list[str]:
    """Prepared films and a first phase's model of which a part is missing."""
    options = fetched(place)
    place.write("keep/models/multires_tiny.best.safetensors", whole()[:999])
    return ["train", "multires_tiny_pcm", *options[:2], *named]


def one_patient(place: Place) -> list[str]:
    """Prepared films, all to train on of one patient."""
    options = fetched(place)
    place.write("daten/Data_Entry_2017_v2020.csv", FILES["Data_Entry_2017_v2020.csv"])
    return ["train", "tiny", *options[:2], *named]


add("train: one patient", refused("keep", "prepare images that the lists name"), one_patient)


def cut_table(place: Place) -> list[str]:
    """Prepared films whose label table is cut."""
    options = fetched(place)
    table = place.folder / "daten" / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text()[:-40])
    return ["train", "tiny", *options[:2], *named]


def cut_store(place: Place) -> list[str]:
    """Prepared films of which the last is cut."""
    options = fetched(place)
    path = next(place.folder.glob("keep/data/cache_*")) / "images.u8"
    assert len(ImageCache.open(path.parent)) == len(ROWS)
    path.write_bytes(path.read_bytes()[:-1])
    return ["train", "tiny", *options[:2], *named]


add(
    "evaluate: no trained model",
    refused("keep/models", "run notebooks 02 and 03"),
    lambda place: ["evaluate", *fetched(place)],
)
add(
    "evaluate: a checkpoint cut short",
    refused(FILE, "never pickles"),
    lambda place: with_checkpoint(place, whole()[:999]),
)
add(
    "evaluate: no draws",
    refused("0 times", "must be at least 1"),
    lambda place: [*with_checkpoint(place, whole()), "--n-bootstrap", "0"],
)
add(
    "evaluate: tables missing",
    refused("daten has no test_list.txt", "data_download.sh"),
    lambda place: without_list(place),
)


def with_checkpoint(place: Place, data: bytes) -> list[str]:
    """Prepared films and a model."""
    options = fetched(place)
    place.write(f"keep/models/{FILE}", data)
    return ["evaluate", *options]


def without_list(place: Place) -> list[str]:
    """The same without a list."""
    words = with_checkpoint(place, whole())
    (place.folder / "daten" / "test_list.txt").unlink()
    return words


both = ["compare", "a.json", "b.json"]
good = json.dumps(results()).encode()
add("compare: missing", refused("a.json", "evaluate) first"), both)
add("compare: cut in the middle", refused("b.json", "evaluate again"), both, {"a.json": good, "b.json": good[:99]})
add("compare: one argument", usage("second", "are required"), ["compare", "a.json"])
add("ablate: no trained model", refused("keep", "train"), lambda place: ["ablate", *fetched(place), "--questions", "q"])


def process(given: str, expected: Expected, words: list[str], files: dict[str, bytes]) -> None:
    """A case in a process of its own, as a user starts it."""

    def lay_out(place: Place) -> Act:
        for name, data in files.items():
            place.write(name, data)

        def act() -> Shell:
            done = subprocess.run(
                [sys.executable, "-m", "cxr_seam", *words], capture_output=True, text=True, check=False
            )
            return Shell(done.returncode, done.stdout, done.stderr)

        return act

    case(f"{SHELL}, its own process", given, expected)(lay_out)


process(
    "compare: a results.json that is none", refused("a.json", "evaluate again"), both, {"a.json": b"{}", "b.json": good}
)
process(
    "prepare: a web page for an archive",
    refused("a.zip", "no longer serves"),
    ["prepare", "a.zip", "--cache", "s"],
    {"a.zip": b"<html>"},
)
process(
    "prepare: one broken image",
    warns("1 images of 16x16 pixels are in store", "b.png", "stayed out"),
    stored,
    {"films/a.png": GREY, "films/b.png": b""},
)
