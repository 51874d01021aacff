"""Bad input in checkpoints, recipes and results, and in the predictor and the shared models that use them."""

from __future__ import annotations

import json
import pickle
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from helpers.archives import png
from helpers.checkpoints import make_scores
from helpers.results import make_results
from runner import Action, Expected, Sandbox, case, file_size_limit, refused, warns, works
from safetensors.torch import load, save

from cxr_seam.evaluation.results import compare, load_results
from cxr_seam.hub import from_pretrained, save_pretrained
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.backbones import build_backbone
from cxr_seam.models.build import build_model
from cxr_seam.models.checkpoint import HEADER, Checkpoint, load_checkpoint, save_checkpoint
from cxr_seam.presets import get_preset, get_recipe
from cxr_seam.recipes import recipe_from_dict, recipe_to_dict
from cxr_seam.synthetic.dataset import plan_studies, synthesize_study
from cxr_seam.training.resume import read_state

CHECKPOINT, WEIGHTS, RECIPE, RESULTS = "checkpoint", "starting weights", "recipe", "results.json"
PREDICTOR, HUB, STATE = "predictor", "shared model", "training state"
TINY = get_recipe("tiny")
FILE, STATE_FILE = "tiny.best.safetensors", "tiny.00001-0000002.state.pt"
LOADED = "the model that was saved"
Data = bytes | Callable[[Sandbox], bytes]


@cache
def checkpoint() -> bytes:
    """Return a checkpoint of a small model with random weights."""
    torch.manual_seed(0)
    metadata = Checkpoint(TINY, epoch=1, metrics={}, scores=make_scores())
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(TINY.model, weights="none")
        return save_checkpoint(Path(folder) / FILE, model, metadata=metadata).read_bytes()


@cache
def predictor() -> Predictor:
    """Load that checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_bytes(checkpoint())
        return Predictor.load(Path(folder) / FILE)


def add_file(
    group: str, description: str, expected: Expected, data: Data, *, name: str, read: Callable[[Path], object]
) -> None:
    """Add a case of one file that `read` opens."""

    def prepare_case(sandbox: Sandbox) -> Action:
        path = sandbox.write(name, data(sandbox) if callable(data) else data)
        return lambda: read(path)

    case(group, description, expected)(prepare_case)


def load_tiny(path: Path) -> str:
    _, metadata = load_checkpoint(path)
    return LOADED if metadata.recipe == TINY and metadata.epoch == 1 else "another model"


def add(description: str, expected: Expected, data: Data, *, name: str = FILE) -> None:
    """Add a case of a checkpoint."""
    add_file(CHECKPOINT, description, expected, data, name=name, read=load_tiny)


def header() -> dict[str, Any]:
    """Return the metadata of the checkpoint."""
    length = struct.unpack("<Q", checkpoint()[:8])[0]
    return json.loads(json.loads(checkpoint()[8 : 8 + length])["__metadata__"][HEADER])


def with_header(**changed: object) -> Data:
    """Return a checkpoint with changed metadata."""
    return lambda sandbox: save(load(checkpoint()), metadata={HEADER: json.dumps(header() | changed)})


def with_score(**changed: object) -> Data:
    """Return a checkpoint with changed scores of one finding."""
    return lambda sandbox: with_header(scores={"Mass": header()["scores"]["Mass"] | changed})(sandbox)


def with_recipe(**changed: object) -> Data:
    """Return a checkpoint with a changed recipe."""
    return lambda sandbox: with_header(recipe=header()["recipe"] | changed)(sandbox)


def with_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Data:
    """Return a checkpoint with changed weights."""

    def data(sandbox: Sandbox) -> bytes:
        state = load(checkpoint())
        change(state)
        return save(state, metadata={HEADER: json.dumps(header())})

    return data


class Payload:
    """An object whose pickle creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def pickle_payload(sandbox: Sandbox) -> bytes:
    """Return a pickle that creates the file `executed`, which the runner would report."""
    return pickle.dumps(Payload(sandbox.folder / "executed"))


def torch_payload(sandbox: Sandbox) -> bytes:
    """Return such a pickle in PyTorch's file format."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"conv1.weight": Payload(sandbox.folder / "executed")}, Path(folder) / "x")
        return (Path(folder) / "x").read_bytes()


def brackets(key: str) -> bytes:
    """Return a file with deeply nested metadata."""
    return save({}, metadata={key: "[" * 100_000})


def set_nan(state: dict[str, torch.Tensor]) -> None:
    state[max(state)].view(-1)[0] = float("nan")


def cut(sandbox: Sandbox) -> bytes:
    return checkpoint()[: len(checkpoint()) // 2]


def claims(size: int) -> Data:
    """Return a checkpoint with a header that claims to have `size` bytes."""
    return lambda sandbox: struct.pack("<Q", size) + checkpoint()[8:]


shaped = {max(load(checkpoint())): torch.ones(3, 3)}
add(
    "a path with spaces and umlauts",
    works(LOADED),
    lambda sandbox: checkpoint(),
    name="Läufe 2024/Modell ü.safetensors",
)
add("empty", refused(FILE), b"")
add("cut in the middle", refused(FILE), cut)
add("cut in its header", refused(FILE), lambda sandbox: checkpoint()[:100])
add("random bytes", refused(FILE), b"\x07" * 999)
add("a header that claims 2^63 bytes", refused(FILE), claims(2**63))
add("a header that claims 90 MB", refused(FILE), claims(90_000_000))
add("weights of another program", refused(FILE), save({"w": torch.ones(1)}))
add("another format", refused(FILE), with_header(format=1))
add("other findings than the outputs", refused(FILE), with_header(findings=["Cat", "Dog"], scores=None))
add("a finding twice", refused(FILE, "findings"), with_header(findings=["Cat", "Cat"], scores=None))
add("findings that are one text", refused(FILE, "findings"), with_header(findings="Cat", scores=None))
add("a header that is a list", refused(FILE), lambda sandbox: save(load(checkpoint()), metadata={HEADER: "[]"}))
add("a header of 100,000 brackets", refused(FILE), brackets(HEADER))
add("no recipe", refused(FILE), with_header(recipe=None))
add("an unknown field in its recipe", refused(FILE, "colour"), with_recipe(colour="red"))
add("an unknown model", refused(FILE, "'vgg'"), with_recipe(model="vgg"))
add("a model in a list", refused(FILE, "model"), with_recipe(model=["tiny"]))
add("a recipe called ../../x", refused(FILE, "../../x"), with_recipe(name="../../x"))
add("an image size of 10^9", refused(FILE, "image_size"), with_recipe(image_size=10**9))
add("a threshold of 7", refused(FILE, "thresholds"), with_score(thresholds={"youden": 7}))
add("an unknown operating point", refused(FILE, "best"), with_score(thresholds={"best": 0.5}))
add("a slope without an intercept", refused(FILE, "slope"), with_score(slope=2.0, intercept=None))
add("a negative slope", refused(FILE, "slope"), with_score(slope=-2.0, intercept=0.0))
add("a slope that is no number", refused(FILE, "slope"), with_score(slope=float("nan"), intercept=0.0))
add(
    "a calibration without a positive image",
    refused(FILE, "positive"),
    with_score(positives=0, slope=1.0, intercept=0.0),
)
add("scores of unknown findings", refused(FILE, "Cat"), with_header(scores={"Cat": {"positives": 1, "negatives": 1}}))
add("an epoch in letters", refused(FILE, "epoch"), with_header(epoch="one"))
add("a missing tensor", refused(FILE), with_weights(lambda state: state.pop(max(state))))
add("an extra tensor", refused(FILE), with_weights(lambda state: state.update(x=torch.ones(1))))
add("a tensor of another shape", refused(FILE), with_weights(lambda state: state.update(shaped)))
add("NaN in a weight", refused(FILE), with_weights(set_nan))
add("a pickle that creates a file", refused(FILE), pickle_payload)
add("a PyTorch file that creates a file", refused(FILE), torch_payload)


@case(CHECKPOINT, "missing", refused(FILE))
def missing(sandbox: Sandbox) -> Action:
    return lambda: load_checkpoint(sandbox.folder / FILE)


@case(CHECKPOINT, "a folder in its place", refused(FILE))
def checkpoint_folder(sandbox: Sandbox) -> Action:
    (sandbox.folder / FILE).mkdir()
    return lambda: load_checkpoint(sandbox.folder / FILE)


def save_again(path: Path) -> Path:
    """Save another model of the same kind."""
    return save_checkpoint(path, predictor().model, metadata=Checkpoint(TINY, epoch=2))


@case(CHECKPOINT, "written to a full disk over a good one", refused(FILE))
def full_disk(sandbox: Sandbox) -> Action:
    disk = sandbox.small_disk("disk", kib=24 * 1024)
    (disk / FILE).write_bytes(checkpoint())
    return lambda: save_again(disk / FILE)


@case(CHECKPOINT, "written under a quota over a good one", refused(FILE))
def quota(sandbox: Sandbox) -> Action:
    path = sandbox.write(FILE, checkpoint())

    def action() -> None:
        with file_size_limit(10**6):
            save_again(path)

    return action


@case(CHECKPOINT, "written into a read-only folder", refused(FILE))
def read_only(sandbox: Sandbox) -> Action:
    sandbox.write(f"locked/{FILE}", checkpoint())
    locked = sandbox.read_only("locked")
    return lambda: save_again(locked / FILE)


states: dict[str, Data] = {
    "empty": b"",
    "cut in the middle": cut,
    "a pickle that creates a file": pickle_payload,
    "a checkpoint in its place": lambda sandbox: checkpoint(),
}
for description, data in states.items():
    add_file(STATE, description, refused(STATE_FILE), data, name=STATE_FILE, read=read_state)


def start_from(path: Path) -> object:
    return build_backbone("resnet50", weights=str(path))


def other_weights(sandbox: Sandbox) -> bytes:
    torch.save({"conv1.weight": torch.ones(2)}, path := sandbox.folder / "weights.pth")
    return path.read_bytes()


weights: dict[str, Data] = {
    "a PyTorch file that creates a file": torch_payload,
    "a bare pickle that creates a file": pickle_payload,
    "empty": b"",
    "text": b"hello world\n" * 9,
    "an empty zip": b"PK\5\6" + bytes(18),
    "of another network": other_weights,
}
for description, data in weights.items():
    add_file(WEIGHTS, description, refused("weights.pth"), data, name="weights.pth", read=start_from)


@case(WEIGHTS, "missing", refused("nowhere.pth"))
def no_weights(sandbox: Sandbox) -> Action:
    return lambda: start_from(sandbox.folder / "nowhere.pth")


@case(WEIGHTS, "a folder", refused("weights"))
def folder_of_weights(sandbox: Sandbox) -> Action:
    (sandbox.folder / "weights").mkdir()
    return lambda: start_from(sandbox.folder / "weights")


def add_recipe(description: str, expected: Expected, change: Callable[[dict[str, Any]], object]) -> None:
    """Add a case of a recipe from JSON; `change` works in place or returns a replacement."""

    def prepare_case(sandbox: Sandbox) -> Action:
        values = json.loads(json.dumps(recipe_to_dict(TINY)))
        changed = change(values)
        values = values if changed is None else changed
        return lambda: "the same recipe" if recipe_from_dict(values) == TINY else "another one"

    case(RECIPE, description, expected)(prepare_case)


def fields(part: str | None = None, **values: object) -> Callable[[dict[str, Any]], None]:
    """Set fields of a recipe or of one of its parts."""
    return lambda recipe: (recipe[part] if part else recipe).update(values)


STAGE = "classifier_stage"
add_recipe("from JSON", works("the same recipe"), fields())
add_recipe("a whole number for a fraction", works("the same recipe"), fields(lse_gamma=10))
add_recipe("a list", refused("Recipe"), lambda values: [])
add_recipe("an unknown field", refused("colour"), fields(colour="red"))
add_recipe("no name", refused("name"), lambda values: values.pop("name") and None)
add_recipe("a size in letters", refused("image_size"), fields(image_size="256"))
add_recipe("a negative size", refused("image_size"), fields(image_size=-1))
add_recipe("NaN for gamma", refused("lse_gamma"), fields(lse_gamma=float("nan")))
add_recipe("no epochs", refused("epochs"), fields(STAGE, epochs=0))
add_recipe("half an epoch", refused("epochs"), fields(STAGE, epochs=0.5))
add_recipe("an empty batch", refused("batch_size"), fields(STAGE, batch_size=0))
add_recipe("an infinite learning rate", refused("learning_rate"), fields(STAGE, learning_rate=float("inf")))
add_recipe("a learning rate of 0", refused("learning_rate"), fields(STAGE, learning_rate=0))
add_recipe("three betas", refused("betas"), fields(STAGE, betas=[0.9, 0.9, 0.9]))
add_recipe("a crop larger than the image", refused("crop_area"), fields("augmentation", crop_area=[0.8, 1.2]))
add_recipe("a crop with its limits exchanged", refused("crop_area"), fields("augmentation", crop_area=[1.0, 0.8]))
add_recipe("no stage", refused("tiny"), fields(classifier_stage=None))
add_recipe("a name with a slash", refused("'a/b'"), fields(name="a/b"))
case(RECIPE, "an unknown name", refused("'vgg16'"))(lambda sandbox: lambda: get_recipe("vgg16"))
case(RECIPE, "an unknown preset", refused("'vgg16'"))(lambda sandbox: lambda: get_preset("vgg16"))
case(RECIPE, "a negative seed", refused("seed"))(lambda sandbox: lambda: replace(TINY, seed=-1))


def compare_with_good(path: Path) -> str:
    other = path.with_name("other.json")
    return f"{len(compare(load_results(path), load_results(other))[0])} figures"


def add_results(description: str, expected: Expected, data: bytes | str | dict[str, Any]) -> None:
    """Add a case of a results.json, compared with a good one."""

    def write(sandbox: Sandbox) -> bytes:
        sandbox.write("other.json", json.dumps(make_results()))
        content = json.dumps(data) if isinstance(data, dict) else data
        return content if isinstance(content, bytes) else content.encode()

    add_file(RESULTS, description, expected, write, name="results.json", read=compare_with_good)


# three models x AUC and average precision, three methods x four accuracies
add_results("complete", works("18 figures"), make_results())
add_results("without true boxes", works("6 figures"), make_results(localization={}))
add_results("empty", refused("results.json"), "")
add_results("cut in the middle", refused("results.json"), json.dumps(make_results())[:200])
add_results("a list", refused("results.json"), "[1, 2]")
add_results("100,000 brackets", refused("results.json"), "[" * 100_000)
add_results("Latin-1 bytes", refused("results.json"), b'{"format": "\xe4"}')
add_results("another format", refused("results.json"), make_results(format=1))
add_results("no localization", refused("results.json", "localization"), make_results(localization=None))
add_results("a method without figures", refused("results.json", "localization.X"), make_results(localization={"X": {}}))
add_results("words for a number", refused("results.json", "n_bootstrap"), make_results(n_bootstrap="many"))
others = {part: {"Other": make_results()[part]["Standard"]} for part in ("classification", "localization")}
add_results("no method in common", refused("no method in common"), make_results(**others))


@case(RESULTS, "missing", refused("results.json"))
def no_results(sandbox: Sandbox) -> Action:
    return lambda: load_results(sandbox.folder / "results.json")


@case(RESULTS, "a folder in its place", refused("results.json"))
def folder_results(sandbox: Sandbox) -> Action:
    (sandbox.folder / "results.json").mkdir()
    return lambda: load_results(sandbox.folder / "results.json")


GREY = png(90, side=64)


def add_prediction(description: str, expected: Expected, files: dict[str, bytes], source: str) -> None:
    """Add a case of the predictor."""

    def prepare_case(sandbox: Sandbox) -> Action:
        for name, data in files.items():
            sandbox.write(name, data)

        def action() -> str:
            predictions = predictor().predict(sandbox.folder / source)
            return f"{len(predictions) if isinstance(predictions, list) else 1} predicted"

        return action

    case(PREDICTOR, description, expected)(prepare_case)


add_prediction("a missing image", refused("image.png"), {}, "image.png")
add_prediction("a broken image", refused("image.png"), {"image.png": GREY[:80]}, "image.png")
add_prediction("a folder without an image", refused("images"), {"images/a.txt": b""}, "images")
add_prediction("a folder of broken images", refused("a.png"), {"images/a.png": b"", "images/b.png": b"x"}, "images")
add_prediction("not a radiograph", warns("1 predicted", "grey image.png"), {"grey image.png": GREY}, "grey image.png")


@case(PREDICTOR, "one broken image among others", warns("1 predicted", "b.png"))
def one_broken(sandbox: Sandbox) -> Action:
    sandbox.write("images/b.png", b"")
    synthesize_study(plan_studies(2)[0], sandbox.folder / "images")
    return lambda: f"{len(predictor().predict(sandbox.folder / 'images'))} predicted"


@case(PREDICTOR, "an unknown finding is requested", refused("'Covid'"))
def unknown_finding(sandbox: Sandbox) -> Action:
    path = sandbox.write("image.png", GREY)

    def action() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictor().predict(path).heat_map("Covid")

    return action


@case(HUB, "a folder without a model", refused("model.safetensors"))
def empty_share(sandbox: Sandbox) -> Action:
    (sandbox.folder / "shared").mkdir()
    return lambda: from_pretrained(sandbox.folder / "shared")


@case(HUB, "a folder with a pickle for a model", refused("model.safetensors"))
def pickled_share(sandbox: Sandbox) -> Action:
    sandbox.write("shared/model.safetensors", pickle_payload(sandbox))
    return lambda: from_pretrained(sandbox.folder / "shared")


case(HUB, "an impossible name", refused("no such/model/name"))(
    lambda sandbox: lambda: from_pretrained("no such/model/name")
)


def add_share(description: str, *names: str, **changed: object) -> None:
    """Add a case of a model shared with bad results."""

    def prepare_case(sandbox: Sandbox) -> Action:
        path = sandbox.write("results.json", json.dumps(make_results(**changed)))
        saved = sandbox.write(FILE, checkpoint())
        return lambda: save_pretrained(saved, sandbox.folder / "shared", results=path)

    case(HUB, description, refused(*names))(prepare_case)


add_share("shared with results of another model", "results", checkpoints={})
add_share("shared with damaged results", "results.json", data={})


@case(HUB, "shared into a read-only folder", refused("shared"))
def read_only_share(sandbox: Sandbox) -> Action:
    saved = sandbox.write(FILE, checkpoint())
    shared = sandbox.read_only("shared")
    return lambda: save_pretrained(saved, shared)
