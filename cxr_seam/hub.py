"""Share a model on the Hugging Face hub, or in a folder, with a card that tells what it was measured to do and not.

Two files are shared: the checkpoint as it stands (see `checkpoints`) and README.md, the card. Nothing in them is code.
Only `push_to_hub` sends, and only `from_pretrained` of a name that is no folder here fetches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import __version__
from .errors import InputError
from .evaluation.results import (
    ALL_BOXES,
    BEST_BOX,
    FROC,
    METRICS,
    false_positives,
    format_estimate,
    get_estimate,
    load_results,
)
from .findings import FINDINGS
from .inference.predictor import Predictor
from .io import atomic_write
from .models.checkpoint import Checkpoint, read_header

MODEL_FILE = "model.safetensors"


CARD_FILE = "README.md"


PathLike = str | os.PathLike[str]


def save_pretrained(
    checkpoint: PathLike,
    folder: PathLike,
    *,
    results: PathLike | None = None,
    license: str | None = None,
    repo_id: str = "OWNER/NAME",
) -> Path:
    """Put a model and its card into a folder, to look at or to share by hand; nothing is sent.

    Args:
        checkpoint: a trained model; its bytes are kept. Its header names the recipe, and with it the path of your own
            starting weights, if it was trained from such.
        folder: gets `model.safetensors` and `README.md`; what is there of these names is replaced.
        results: `results.json` of an evaluation of this very checkpoint; without it the card says that none is given.
        license: identifier of the licence you give the weights, such as "mit"; None names none.
        repo_id: where it will lie on the hub, for the card's example.

    Raises:
        InputError: the checkpoint or the results cannot be read, or the results are another checkpoint's.
    """
    try:
        card = model_card(checkpoint, results=results, license=license, repo_id=repo_id)
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{results} is damaged ({type(error).__name__} {error}); evaluate again") from error
    folder = Path(folder)
    with atomic_write(folder / MODEL_FILE) as temporary:
        shutil.copyfile(checkpoint, temporary)
    with atomic_write(folder / CARD_FILE) as temporary:
        temporary.write_text(card)
    return folder


def push_to_hub(
    checkpoint: PathLike,
    repo_id: str,
    *,
    results: PathLike | None = None,
    license: str | None = None,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Send a model and its card to the hub, and return the address of what was sent.

    Args:
        checkpoint: see `save_pretrained`, as are `results` and `license`.
        repo_id: "owner/name"; made if there is none.
        private: whether others are kept from seeing it. A repository that is public already is then refused.
        token: of your account, with the right to write; None takes the one of `hf auth login`.

    Raises:
        InputError: see `save_pretrained`; or the hub cannot be reached or refuses, or the repository is public.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token, library_name=LIBRARY, library_version=__version__)
    with tempfile.TemporaryDirectory() as place:
        folder = save_pretrained(checkpoint, place, results=results, license=license, repo_id=repo_id)
        try:
            hub.create_repo(repo_id, private=private, exist_ok=True)
            public = not hub.model_info(repo_id).private
            if not (private and public):
                sent = hub.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    allow_patterns=[MODEL_FILE, CARD_FILE],
                    commit_message=f"Share a model of {LIBRARY} {__version__}",
                )
        except Exception as error:  # requests' or httpx's, by the version
            raise InputError(f"{repo_id} could not be sent ({_first_line(error)}); see `hf auth login`") from error
    if private and public:
        raise InputError(f"{repo_id} is public, so nothing was sent; pass private=False to show the model to everyone")
    return str(sent.commit_url)


def from_pretrained(source: PathLike, *, revision: str | None = None, token: str | None = None) -> Predictor:
    """Load a shared model: from a folder if there is one of that name, else from the hub.

    Args:
        source: a folder of `save_pretrained`, or "owner/name" on the hub, of which the weights alone are fetched.
        revision: branch, tag or commit on the hub.
        token: of your account, for a private model; None takes the one of `hf auth login`.

    Raises:
        InputError: there is no such folder or model, it cannot be reached, or it is no model of this program.
    """
    if Path(source).is_dir():
        return Predictor.load(Path(source) / MODEL_FILE)
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            os.fspath(source),
            MODEL_FILE,
            revision=revision,
            token=token,
            library_name=LIBRARY,
            library_version=__version__,
        )
    except Exception as error:  # requests' or httpx's, by the version
        raise InputError(
            f"{source} is no folder here, and the hub gave no {MODEL_FILE} of that name ({_first_line(error)}); "
            "correct the name, or see `hf auth login` for a private model"
        ) from error
    return Predictor.load(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


LIBRARY = "cxr-seam"


REPOSITORY = "https://github.com/cxr-seam/cxr-seam"


PAPER = "https://doi.org/10.1007/s13534-022-00249-5"


DRAWN = {"demo", "tiny"}
"""Descriptions of data that were drawn, in results.json."""


NIHS = {"nih": "NIH ChestX-ray14", "nih-subset": "NIH ChestX-ray14, two of its twelve archives"}


HUB_NAMES = {FROC: "froc", BEST_BOX: "best_box_accuracy", ALL_BOXES: "all_boxes_accuracy"}


def model_card(
    checkpoint: str | os.PathLike[str],
    *,
    results: str | os.PathLike[str] | None = None,
    license: str | None = None,
    repo_id: str = "OWNER/NAME",
) -> str:
    """The card of a model in Markdown, with the hub's metadata at its head.

    Args:
        checkpoint: a trained model.
        results: `results.json` of an evaluation of this very checkpoint.
        license: identifier of the licence you give the weights.
        repo_id: where it will lie on the hub, for the example.

    Raises:
        InputError: the checkpoint or the results cannot be read, or the results are another checkpoint's.
    """
    from huggingface_hub import ModelCardData

    metadata = read_header(checkpoint)
    name = metadata.recipe.name
    measured = None if results is None else load_results(results)
    model = None if measured is None else _model_measured(measured, checkpoint, name)
    evaluation = {} if model is None else {"eval_results": list(_eval_results(measured, model)), "model_name": name}
    data = ModelCardData(
        license=license,
        library_name=LIBRARY,
        pipeline_tag="image-classification",
        tags=["chest-x-ray", "weakly-supervised-localization", "class-activation-map", "safetensors"],
        **evaluation,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        _introduction(metadata, repo_id),
        _results_text(measured, model),
        _closing(),
    ]
    return "\n\n".join(parts) + "\n"


def _model_measured(results: Mapping[str, Any], checkpoint: str | os.PathLike[str], name: str) -> str:
    """Which model of the results the checkpoint is; a checkpoint with a PCM is the refined one."""
    found = results["checkpoints"].get(name)
    if found is None or found["sha256"] != hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest():
        raise InputError(f"the results are not of {checkpoint}; evaluate again and name the results.json of that run")
    return found["models"][-1]


def _dataset(results: Mapping[str, Any]) -> str:
    """What the data are called; of a folder its last part only, the rest of the path is nobody's business."""
    description = results["data"]["description"]
    if description in DRAWN:
        return "synthetic films"
    return NIHS.get(description, f"the folder {Path(description).name!r}")


def _eval_results(results: Mapping[str, Any], model: str) -> Iterator[Any]:
    """The defined figures as the hub's metadata."""
    from huggingface_hub import EvalResult

    of = {"dataset_type": "image-folder", "dataset_name": _dataset(results), "dataset_split": "test"}
    for metric, title in METRICS.items():
        value = get_estimate(results, model, metric)["value"]
        if value is not None:
            localization = metric in HUB_NAMES
            yield EvalResult(
                task_type="object-detection" if localization else "image-classification",
                metric_type=HUB_NAMES.get(metric, "roc_auc"),
                metric_name=title,
                metric_value=round(value, 4),
                **of,
            )


def _introduction(metadata: Checkpoint, repo_id: str) -> str:
    recipe = metadata.recipe
    refined = ", with a pixel correlation module (PCM) trained by SEAM" if recipe.seam_stage else ""
    return f"""\
Finds fourteen lung abnormalities on frontal chest X-rays and shows where they are, having learnt from image labels
alone: `{recipe.model}` at {recipe.image_size} x {recipe.image_size} pixels{refined}. An implementation of
[D'Souza, Reddy and Manjunath (2023)]({PAPER}). **Research software, not a medical device.**

```python
from cxr_seam.hub import from_pretrained

prediction = from_pretrained("{repo_id}").predict("film.png")
```

The program is at {REPOSITORY}. Findings: {", ".join(FINDINGS)}. The checkpoint of epoch {metadata.epoch} was kept; every
number of its training is in the file's header."""


def _results_text(results: Mapping[str, Any] | None, model: str | None) -> str:
    if results is None:
        return "## Results\n\nNo evaluation was given with this model: how good it is, this card does not know."
    data = results["data"]
    drawn = (
        " The films are drawn by the program: **these numbers say nothing about patients.**"
        if data["description"] in DRAWN
        else ""
    )
    return "\n\n".join(
        [
            "## Data",
            f"Measured on {_dataset(results)}, {data['split']}: {data['test_images']:,} of "
            f"{data['listed_test_images']:,} listed films, of {data['test_patients']:,} patients; "
            f"{data['true_boxes']:,} true boxes on {data['boxed_images']:,} of them.{drawn}",
            "## Results",
            f"With 95 % intervals over {results['draws']:,} draws of patients. Accuracies are means over the findings "
            "with boxes; false positives are per film and finding. Controls never saw a film: what does not surpass "
            "them does not localise.",
            _localization_table(results, model),
            _finding_table(results["classification"][model]),
        ]
    )


def _localization_table(results: Mapping[str, Any], model: str) -> str:
    head = [METRICS[FROC], METRICS[BEST_BOX], "its false positives", METRICS[ALL_BOXES], "their false positives"]
    rows = []
    for row in results["ranking"]:
        method = row["method"]
        if method != model and row["kind"] != "control":
            continue
        cells = [format_estimate(get_estimate(results, method, FROC))]
        for metric in (BEST_BOX, ALL_BOXES):
            cost = false_positives(results, method, metric)
            cells += [format_estimate(get_estimate(results, method, metric)), "" if cost is None else f"{cost:.3f}"]
        rows.append([f"**{method}**" if method == model else method, *cells])
    return _table(["", *head], rows)


def _finding_table(scores: Mapping[str, Any]) -> str:
    columns = ("auc", "sensitivity", "specificity")
    rows = [
        [finding, s["positives"], *(format_estimate(s[column]) for column in columns), _threshold(s["threshold"])]
        for finding, s in scores["findings"].items()
    ]
    rows.append(["mean", "", format_estimate(scores["mean"]["auc"]), "", "", ""])
    return _table(["finding", "films with it", "AUC", "sensitivity", "specificity", "threshold"], rows)


def _threshold(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _closing() -> str:
    return """\
## Intended use

Research on weakly supervised localization, teaching, and comparison with other methods.

## Limits

- **Not a medical device. Never decide about a patient by it.** No reader study and no prospective test was made.
- It was trained on the films of one source with labels that are themselves uncertain; on films of other machines,
  views, ages or hospitals it may be wrong without any sign of it.
- Probabilities rank films and are not calibrated. A heat map is divided by its own maximum: it shows where the evidence
  lies, not how strong it is.
- It knows fourteen findings. A film without any of them is not a healthy one."""
