"""Bad input: checkpoints, recipes, results, and what stands on them: the predictor and shared models."""

from __future__ import annotations

import json
import pickle
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from helpers.archives import png
from runner import Act, Expected, Place, case, files_no_longer_than, refused, warns, works
from safetensors.torch import load, save

from cxr_seam.evaluation.results import FORMAT, compare, load_results
from cxr_seam.findings import FINDINGS
from cxr_seam.hub import from_pretrained, save_pretrained
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.backbones import build_backbone
from cxr_seam.models.checkpoint import HEADER, Checkpoint, load_checkpoint, save_checkpoint
from cxr_seam.models.multires import build_model
from cxr_seam.presets import get_preset, get_recipe
from cxr_seam.recipes import recipe_from_dict, recipe_to_dict
from cxr_seam.training.resume import HEADER as STATE_HEADER
from cxr_seam.training.resume import read_state

CHECKPOINT, WEIGHTS, RECIPE, RESULTS = "checkpoint", "starting weights", "recipe", "results.json"
PREDICTOR, HUB = "predictor", "shared model"
RUN, STATE = "saved state of a run", "tiny.00001-0000002.state.safetensors"
TINY = get_recipe("tiny")
FILE = "tiny.best.safetensors"
LOADED = "the model that was saved"


@cache
def whole() -> bytes:
    """A checkpoint of a small model with random weights."""
    torch.manual_seed(0)
    metadata = Checkpoint(TINY, epoch=1, metrics={}, thresholds=dict.fromkeys(FINDINGS, 0.5))
    with tempfile.TemporaryDirectory() as folder:
        return save_checkpoint(
            Path(folder) / FILE, build_model(TINY.model, weights="none"), metadata=metadata
        ).read_bytes()


@cache
def predictor() -> Predictor:
    """The same, loaded."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_bytes(whole())
        return Predictor.load(Path(folder) / FILE)


def header() -> dict[str, Any]:
    """What stands in the checkpoint's header."""
    length = struct.unpack("<Q", whole()[:8])[0]
    return json.loads(json.loads(whole()[8 : 8 + length])["__metadata__"][HEADER])


def add(given: str, expected: Expected, data: Callable[[], bytes], *, name: str = FILE) -> None:
    """A case of one checkpoint; the act loads it."""

    def lay_out(place: Place) -> Act:
        path = place.write(name, data())

        def act() -> str:
            _, metadata = load_checkpoint(path)
            return LOADED if metadata.recipe == TINY and metadata.epoch == 1 else "another model"

        return act

    case(CHECKPOINT, given, expected)(lay_out)


def with_header(**changed: object) -> Callable[[], bytes]:
    """A checkpoint with entries of its header replaced."""
    return lambda: save(load(whole()), metadata={HEADER: json.dumps(header() | changed)})


def with_recipe(**changed: object) -> Callable[[], bytes]:
    """A checkpoint with fields of its recipe replaced."""
    return lambda: with_header(recipe=header()["recipe"] | changed)()


def with_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[], bytes]:
    """A checkpoint with its weights changed in place."""

    def made() -> bytes:
        state = load(whole())
        change(state)
        return save(state, metadata={HEADER: json.dumps(header())})

    return made


class Payload:
    """Pickled, it would create a file as soon as somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        """Tell pickle to call open."""
        return open, (str(self.path), "w")


def posing(place: Place) -> bytes:
    """A pickle that would create a file, which the runner would see."""
    return pickle.dumps(Payload(place.folder / "executed"))


def nested(key: str) -> bytes:
    """A header of 100,000 brackets."""
    return save({}, metadata={key: "[" * 100_000})


def bomb_weight(state: dict[str, torch.Tensor]) -> None:
    """A NaN in one weight."""
    state[max(state)].view(-1)[0] = float("nan")


no_pickle = "only files written by cxr_seam can be loaded, never pickles"
add("a path with spaces and umlauts", works(LOADED), whole, name="Läufe 2024/bestes Modell ü.safetensors")
add("empty", refused(FILE, no_pickle), lambda: b"")
add("cut in the middle", refused(FILE, no_pickle), lambda: whole()[: len(whole()) // 2])
add("cut in its header", refused(FILE, no_pickle), lambda: whole()[:100])
add("random bytes", refused(FILE, no_pickle), lambda: b"\x07" * 999)
add("a header that claims 2^63 bytes", refused(FILE, no_pickle), lambda: struct.pack("<Q", 2**63) + whole()[8:])
add("a header that claims 90 MB", refused(FILE, no_pickle), lambda: struct.pack("<Q", 90_000_000) + whole()[8:])
add("weights of another program", refused(FILE, "only checkpoints of this program"), lambda: save({"w": torch.ones(1)}))
add("another format", refused(FILE, "this version reads 2; train again"), with_header(format=1))
add("other findings", refused(FILE, "other findings"), with_header(findings=["Cat", "Dog"]))
add("a header that is a list", refused(FILE, "train again"), lambda: save(load(whole()), metadata={HEADER: "[]"}))
add("a header of 100,000 brackets", refused(FILE, "train again"), lambda: save({}, metadata={HEADER: "[" * 100_000}))
add("no recipe", refused(FILE, "is damaged"), with_header(recipe=None))
add("an unknown field in its recipe", refused(FILE, "does not know: colour"), with_recipe(colour="red"))
add("a model that there is not", refused(FILE, "there is no model 'vgg'"), with_recipe(model="vgg"))
add("a model in a list", refused(FILE, "model of a recipe must be str"), with_recipe(model=["tiny"]))
add("a recipe called ../../x", refused(FILE, "cannot be called '../../x'"), with_recipe(name="../../x"))
add("an image size of 10^9", refused(FILE, "image_size of a recipe must lie"), with_recipe(image_size=10**9))
add("a threshold of 7", refused(FILE, "thresholds must be numbers from 0 to 1"), with_header(thresholds={"Mass": 7}))
add("thresholds of unknown findings", refused(FILE, "thresholds must be"), with_header(thresholds={"Cat": 0.5}))
add("an epoch in letters", refused(FILE, "epoch or metrics are of another type"), with_header(epoch="one"))
add("a missing tensor", refused(FILE, "do not fit"), with_weights(lambda state: state.pop(max(state))))
add("a tensor too many", refused(FILE, "do not fit"), with_weights(lambda state: state.update(x=torch.ones(1))))
add(
    "a tensor of another shape",
    refused(FILE, "do not fit a efficientnet_lite0"),
    with_weights(lambda state: state.update({max(state): torch.ones(3, 3)})),
)
add("NaN in a weight", refused(FILE, "NaN or infinite"), with_weights(bomb_weight))


@case(CHECKPOINT, "a pickle that would create a file", refused(FILE, no_pickle))
def pickled(place: Place) -> Act:
    path = place.write(FILE, posing(place))
    return lambda: load_checkpoint(path)


@case(CHECKPOINT, "a PyTorch file that would create one", refused(FILE, no_pickle))
def pickled_by_torch(place: Place) -> Act:
    path = place.folder / FILE
    torch.save({"w": Payload(place.folder / "executed")}, path)
    return lambda: load_checkpoint(path)


@case(CHECKPOINT, "missing", refused(FILE, "correct the path"))
def missing(place: Place) -> Act:
    return lambda: load_checkpoint(place.folder / FILE)


@case(CHECKPOINT, "a folder in its place", refused(FILE, "name a checkpoint in it"))
def a_folder(place: Place) -> Act:
    (place.folder / FILE).mkdir()
    return lambda: load_checkpoint(place.folder / FILE)


def saving(path: Path) -> Path:
    """Save another model of the same kind."""
    return save_checkpoint(path, predictor().model, metadata=Checkpoint(TINY, epoch=2))


@case(CHECKPOINT, "written to a full disk over a good one", refused(FILE, "free or reconnect its folder"))
def full_disk(place: Place) -> Act:
    disk = place.small_disk("disk", kib=24 * 1024)
    (disk / FILE).write_bytes(whole())
    return lambda: saving(disk / FILE)


@case(CHECKPOINT, "written under a quota over a good one", refused(FILE, "free or reconnect its folder"))
def quota(place: Place) -> Act:
    path = place.write(FILE, whole())

    def act() -> None:
        with files_no_longer_than(10**6):
            saving(path)

    return act


@case(CHECKPOINT, "written into a read-only folder", refused(FILE, "free or reconnect its folder"))
def read_only(place: Place) -> Act:
    place.write(f"locked/{FILE}", whole())
    locked = place.read_only(place.folder / "locked")
    return lambda: saving(locked / FILE)


def state(given: str, expected: Expected, data: Callable[[Place], bytes]) -> None:
    """A case of a saved state of a run."""

    def lay_out(place: Place) -> Act:
        path = place.write(STATE, data(place))
        return lambda: read_state(path)

    case(RUN, given, expected)(lay_out)


state("empty", refused(STATE, "delete it"), lambda place: b"")
state("cut in the middle", refused(STATE, "delete it"), lambda place: whole()[: len(whole()) // 2])
state(
    "a pickle that would create a file",
    refused(STATE, "delete it"),
    posing,
)
state("a checkpoint in its place", refused(STATE, "delete it and train anew"), lambda place: whole())
state(
    "a header of 100,000 brackets",
    refused(STATE, "delete it"),
    lambda place: nested(STATE_HEADER),
)


@case(WEIGHTS, "a pickle that would create a file", refused("weights.pth", "not a file of plain weights"))
def pickled_weights(place: Place) -> Act:
    path = place.folder / "weights.pth"
    torch.save({"conv1.weight": Payload(place.folder / "executed")}, path)
    return lambda: build_backbone("resnet50", weights=str(path))


@case(WEIGHTS, "a bare pickle that would create a file", refused("weights.pth", "not a file of plain weights"))
def bare_pickle(place: Place) -> Act:
    path = place.write("weights.pth", posing(place))
    return lambda: build_backbone("resnet50", weights=str(path))


def weights(given: str, expected: Expected, data: bytes) -> None:
    """A case of a file of starting weights."""

    def lay_out(place: Place) -> Act:
        path = place.write("weights.pth", data)
        return lambda: build_backbone("resnet50", weights=str(path))

    case(WEIGHTS, given, expected)(lay_out)


weights("empty", refused("weights.pth", "not a file of plain weights"), b"")
weights("text", refused("weights.pth", "not a file of plain weights"), b"hello world\n" * 9)
weights("zip of something else", refused("weights.pth", "not a file of plain weights"), b"PK\5\6" + bytes(18))


@case(WEIGHTS, "missing", refused("nowhere.pth", "give the path"))
def no_weights(place: Place) -> Act:
    return lambda: build_backbone("resnet50", weights=str(place.folder / "nowhere.pth"))


@case(WEIGHTS, "a folder", refused("weights", "not a file of plain weights"))
def folder_of_weights(place: Place) -> Act:
    (place.folder / "weights").mkdir()
    return lambda: build_backbone("resnet50", weights=str(place.folder / "weights"))


@case(WEIGHTS, "of another network", refused("weights.pth", "does not hold weights of resnet50"))
def other_weights(place: Place) -> Act:
    path = place.folder / "weights.pth"
    torch.save({"conv1.weight": torch.ones(2)}, path)
    return lambda: build_backbone("resnet50", weights=str(path))


def recipe(given: str, expected: Expected, change: Callable[[dict[str, Any]], object]) -> None:
    """A case of a recipe from JSON; the change is made in place, or returns what replaces it."""

    def lay_out(place: Place) -> Act:
        values = json.loads(json.dumps(recipe_to_dict(TINY)))
        changed = change(values)
        values = values if changed is None else changed
        return lambda: "the recipe that was written" if recipe_from_dict(values) == TINY else "another one"

    case(RECIPE, given, expected)(lay_out)


def setting(part: str | None = None, **values: object) -> Callable[[dict[str, Any]], None]:
    """Set fields of a recipe's dictionary or of a part of it."""
    return lambda whole: (whole[part] if part else whole).update(values)


recipe("from JSON", works("the recipe that was written"), setting())
recipe("a whole number for a fraction", works("the recipe that was written"), setting(lse_gamma=10))
recipe("a list", refused("[]", "write it with recipe_to_dict"), lambda values: [])
recipe("a field too many", refused("colour", "does not know"), setting(colour="red"))
recipe("no name", refused("name", "lacks a field"), lambda values: values.pop("name") and None)
recipe("a size in letters", refused("image_size", "must be int"), setting(image_size="256"))
recipe("a negative size", refused("image_size", "must lie between 32 and 8192"), setting(image_size=-1))
recipe("NaN for gamma", refused("lse_gamma", "must be float"), setting(lse_gamma=float("nan")))
recipe("no epochs", refused("epochs", "must lie between 1"), setting("classifier_stage", epochs=0))
recipe("half an epoch", refused("epochs", "must be int"), setting("classifier_stage", epochs=0.5))
recipe("a batch of no films", refused("batch_size", "must lie between 1"), setting("classifier_stage", batch_size=0))
recipe(
    "an infinite rate",
    refused("learning_rate", "must be float"),
    setting("classifier_stage", learning_rate=float("inf")),
)
recipe("a rate of 0", refused("learning_rate", "must lie between"), setting("classifier_stage", learning_rate=0))
recipe(
    "three betas", refused("betas", "must be tuple[float, float]"), setting("classifier_stage", betas=[0.9, 0.9, 0.9])
)
recipe("a crop of more than the film", refused("crop_area", "must lie"), setting("augmentation", crop_area=[0.8, 1.2]))
recipe("a crop turned over", refused("crop_area", "smaller number"), setting("augmentation", crop_area=[1.0, 0.8]))
recipe("no phase at all", refused("tiny", "give it one to train"), setting(classifier_stage=None))
recipe("a name with a slash", refused("'a/b'", "take letters, digits"), setting(name="a/b"))


@case(RECIPE, "a name that there is not", refused("'vgg16'", "choose one of resnet50"))
def no_recipe(place: Place) -> Act:
    return lambda: get_recipe("vgg16")


@case(RECIPE, "a family that there is not", refused("'vgg16'", "choose one of resnet50"))
def no_family(place: Place) -> Act:
    return lambda: get_preset("vgg16")


@case(RECIPE, "changed to what cannot be", refused("seed", "must lie between 0"))
def changed(place: Place) -> Act:
    return lambda: replace(TINY, seed=-1)


def measured(value: float | None) -> dict[str, float | None]:
    """A figure without its interval."""
    return {"value": value, "low": None, "high": None}


def results(**changed: object) -> dict[str, Any]:
    """The least that can be compared, some of it replaced."""
    table = {"macro": {"accuracy": measured(0.5), "false_positives_per_image": measured(1.0)}}
    method = {
        "kind": "model",
        "note": "",
        "all_boxes": {"iobb>0.1": table},
        "best_box": {"iou>0.1": table},
        "froc": {"iou>0.1": {"at": {"0.5": {"macro": measured(0.25)}}}},
    }
    content = {
        "format": FORMAT,
        "draws": 10,
        "seed": 0,
        "data": {"test_sha256": "t", "boxed_sha256": "b"},
        "classification": {},
        "localization": {"Standard": method},
        "samples": {},
    }
    return content | changed


def result(given: str, expected: Expected, data: bytes | str | dict[str, Any]) -> None:
    """A case of a results.json, compared with a good one."""

    def lay_out(place: Place) -> Act:
        other = place.write("other.json", json.dumps(results()))
        path = place.write("results.json", json.dumps(data) if isinstance(data, dict) else data)
        return lambda: f"{len(compare(load_results(path), load_results(other)).table)} figures side by side"

    case(RESULTS, given, expected)(lay_out)


result("whole", works("3 figures side by side"), results())
result("empty", refused("results.json", "evaluate again"), "")
result("cut in the middle", refused("results.json", "evaluate again"), json.dumps(results())[:200])
result("a list", refused("results.json", "evaluate again"), "[1, 2]")
result("100,000 brackets", refused("results.json", "evaluate again"), "[" * 100_000)
result("Latin-1 bytes", refused("results.json", "evaluate again"), b'{"format": "\xe4"}')
result("another format", refused("results.json", "evaluate again"), results(format=1))
result("no localization", refused("the first results", "evaluate again"), results(localization=None))
result("a method without figures", refused("the first results", "evaluate again"), results(localization={"X": {}}))
result("words for draws", refused("the first results", "evaluate again"), results(draws="many"))
result(
    "no method in common",
    refused("no method in common", "compare results of the same kind"),
    results(localization={"Other": results()["localization"]["Standard"]}),
)


@case(RESULTS, "missing", refused("results.json", "evaluate) first"))
def no_results(place: Place) -> Act:
    return lambda: load_results(place.folder / "results.json")


@case(RESULTS, "a folder in its place", refused("results.json", "evaluate) first"))
def folder_results(place: Place) -> Act:
    (place.folder / "results.json").mkdir()
    return lambda: load_results(place.folder / "results.json")


GREY = png(90, side=64)


def asked(given: str, expected: Expected, files: dict[str, bytes], source: str) -> None:
    """A case of the predictor."""

    def lay_out(place: Place) -> Act:
        for name, data in files.items():
            place.write(name, data)

        def act() -> str:
            predictions = predictor().predict(place.folder / source)
            count = len(predictions) if isinstance(predictions, list) else 1
            return f"{count} predicted"

        return act

    case(PREDICTOR, given, expected)(lay_out)


asked("a missing film", refused("film.png", "correct the path"), {}, "film.png")
asked("a broken film", refused("film.png", "fetch it again"), {"film.png": GREY[:80]}, "film.png")
asked("a folder without a film", refused("films", "give a folder with"), {"films/a.txt": b""}, "films")
asked("a folder of broken films", refused("a.png", "is empty"), {"films/a.png": b"", "films/b.png": b"x"}, "films")
asked(
    "a film that looks like none",
    warns("1 predicted", "grey film.png", "chest film"),
    {"grey film.png": GREY},
    "grey film.png",
)


@case(PREDICTOR, "one broken film among others", warns("1 predicted", "b.png", "left out"))
def one_broken(place: Place) -> Act:
    from cxr_seam.synthetic.dataset import plan_studies, synthesize_study

    visit = plan_studies(2)[0]
    (place.folder / "films").mkdir()
    synthesize_study(visit, place.folder / "films")
    place.write("films/b.png", b"")
    return lambda: f"{len(predictor().predict(place.folder / 'films'))} predicted"


@case(PREDICTOR, "an unknown finding is asked for", refused("'Covid'", "the known ones are"))
def unknown_finding(place: Place) -> Act:
    path = place.write("film.png", GREY)

    def act() -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictor().predict(path).heat_map("Covid")

    return act


@case(HUB, "a folder without a model", refused("model.safetensors", "correct the path"))
def empty_share(place: Place) -> Act:
    (place.folder / "shared").mkdir()
    return lambda: from_pretrained(place.folder / "shared")


@case(HUB, "a folder whose model is a pickle", refused("model.safetensors", no_pickle))
def pickled_share(place: Place) -> Act:
    place.write("shared/model.safetensors", posing(place))
    return lambda: from_pretrained(place.folder / "shared")


@case(HUB, "a name that cannot be one", refused("no such/model/name", "correct the name"))
def impossible_name(place: Place) -> Act:
    return lambda: from_pretrained("no such/model/name")


@case(HUB, "shared with results of another model", refused("results", "evaluate again"))
def other_results(place: Place) -> Act:
    checkpoint = place.write(FILE, whole())
    found = place.write("results.json", json.dumps(results(checkpoints={})))
    return lambda: save_pretrained(checkpoint, place.folder / "shared", results=found)


@case(HUB, "shared with results that lack an entry", refused("results.json", "evaluate again"))
def garbled_results(place: Place) -> Act:
    checkpoint = place.write(FILE, whole())
    found = place.write("results.json", json.dumps(results()))
    return lambda: save_pretrained(checkpoint, place.folder / "shared", results=found)


@case(HUB, "shared into a read-only folder", refused("shared", "free or reconnect its folder"))
def read_only_share(place: Place) -> Act:
    checkpoint = place.write(FILE, whole())
    (place.folder / "shared").mkdir()
    shared = place.read_only(place.folder / "shared")
    return lambda: save_pretrained(checkpoint, shared)
