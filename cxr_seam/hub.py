"""Share a model on the Hugging Face hub, or in a folder, with a model card.

Two files are shared: `model.safetensors`, the checkpoint (weights and recipe, no code), and `README.md`, the model
card. Only `push_to_hub` uploads; only `from_pretrained` with the name of a hub repository downloads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import __version__
from .errors import InputError
from .evaluation.evaluate import OFFICIAL
from .evaluation.results import (
    BASELINE,
    LOCALIZATION,
    SUMMARY,
    TITLES,
    format_estimate,
    format_metric,
    format_value,
    get_estimate,
    load_results,
    summary_metrics,
)
from .evaluation.tables import NO_BOXES
from .inference.predictor import Predictor
from .io import atomic_write, user_path
from .models.checkpoint import checkpoint_path, read_header
from .workspace import ARCHIVES, DEMO_PATIENTS

MODEL_FILE, CARD_FILE = "model.safetensors", "README.md"
LIBRARY = "cxr-seam"

PathLike = str | os.PathLike[str]


def save_pretrained(
    checkpoint: PathLike,
    folder: PathLike,
    *,
    results: PathLike | None = None,
    license: str | None = None,
    repo_id: str = "OWNER/NAME",
    notes: str = "",
) -> Path:
    """Write a model and its card into a folder, and return the folder; nothing is uploaded.

    Args:
        checkpoint: a trained model; the file is copied unchanged. Its header holds the recipe, with the path of your
            own initial weights if it was trained from such.
        folder: gets `model.safetensors` and `README.md`; existing files of these names are replaced.
        results: results.json of an evaluation of this checkpoint; without it the card gives no results.
        license: identifier of the licence of the weights, such as "mit".
        repo_id: name on the hub, for the example in the card.
        notes: Markdown for the card, such as an external test and the credits of the data.

    Raises:
        InputError: the checkpoint or the results cannot be read, or the results belong to another checkpoint.
    """
    checkpoint = checkpoint_path(checkpoint)
    card = model_card(checkpoint, results=results, license=license, repo_id=repo_id, notes=notes)
    folder = user_path(folder)
    with atomic_write(folder / MODEL_FILE) as temporary:
        shutil.copyfile(checkpoint, temporary)
    with atomic_write(folder / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf-8")
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
    """Upload a model and its card to the hub, and return the address of the commit.

    Args:
        checkpoint: see `save_pretrained`, as are `results` and `license`.
        repo_id: "owner/name"; created if it does not exist.
        private: create a private repository, and refuse a public one.
        token: access token with write permission; None uses the one of `hf auth login`.

    Raises:
        InputError: see `save_pretrained`; or the hub cannot be reached or refuses, or the repository is public.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as temporary:
        folder = save_pretrained(checkpoint, temporary, results=results, license=license, repo_id=repo_id)
        hub = HfApi(token=token, library_name=LIBRARY, library_version=__version__)
        try:
            hub.create_repo(repo_id, private=private, exist_ok=True)
            if private and not hub.model_info(repo_id).private:
                raise InputError(f"{repo_id} is public, nothing was uploaded; pass private=False to publish the model")
            message = f"Upload a model of {LIBRARY} {__version__}"
            commit = hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        except InputError:
            raise
        except Exception as error:  # huggingface_hub raises errors of requests or httpx, depending on its version
            raise InputError(f"{repo_id} could not be uploaded ({_first_line(error)}); see `hf auth login`") from error
    return str(commit.commit_url)


def from_pretrained(source: PathLike, *, revision: str | None = None, token: str | None = None) -> Predictor:
    """Load a shared model from a folder, or from the hub if there is no such folder.

    Args:
        source: a folder of `save_pretrained`, or "owner/name" on the hub. Only the weights are downloaded.
        revision: branch, tag or commit on the hub.
        token: access token for a private model; None uses the one of `hf auth login`.

    Raises:
        InputError: there is no such folder or model, it cannot be reached, or it is not a model of this program.
    """
    folder = user_path(source, what="name of the model")
    if folder.is_dir():
        return Predictor.load(folder / MODEL_FILE)
    from huggingface_hub import hf_hub_download

    try:
        library = {"library_name": LIBRARY, "library_version": __version__}
        path = hf_hub_download(os.fspath(source), MODEL_FILE, revision=revision, token=token, **library)
    except Exception as error:  # see push_to_hub
        raise InputError(
            f"{source} is not a folder, and the hub has no such repository with {MODEL_FILE} ({_first_line(error)}); "
            "correct the name, or see `hf auth login` for a private model"
        ) from error
    return Predictor.load(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def model_card(
    checkpoint: PathLike,
    *,
    results: PathLike | None = None,
    license: str | None = None,
    repo_id: str = "OWNER/NAME",
    notes: str = "",
) -> str:
    """Write the card of a model in Markdown, with the metadata of the hub at its head; see `save_pretrained`."""
    from huggingface_hub import ModelCard, ModelCardData

    checkpoint = checkpoint_path(checkpoint)
    metadata = read_header(checkpoint)
    name = metadata.recipe.name
    fields: dict[str, Any] = {"metadata": metadata, "repo_id": repo_id, "findings": metadata.findings, "notes": notes}
    evaluation: dict[str, Any] = {}
    if results is not None:
        measured = load_results(results)
        model = _evaluated_model(measured, checkpoint, name)
        evaluation = {"eval_results": _eval_results(measured, model), "model_name": name}
        fields |= {
            "results": measured,
            "data": measured["data"],
            "dataset": _dataset_name(measured),
            "synthetic": measured["data"]["description"] in DEMO_PATIENTS,
            "localization": _localization_rows(measured, model),
            "no_boxes": NO_BOXES,
            "classification": _classification_rows(measured["classification"][model]),
        }
    card_data = ModelCardData(
        license=license,
        library_name=LIBRARY,
        pipeline_tag="image-classification",
        tags=["chest-x-ray", "weakly-supervised-localization", "class-activation-map", "safetensors"],
        **evaluation,
    )
    template = Path(__file__).with_name("model_card.md.j2").read_text(encoding="utf-8")
    return str(ModelCard.from_template(card_data, template_str=template, **fields))


def _evaluated_model(results: Mapping[str, Any], checkpoint: Path, name: str) -> str:
    """Return the model of the results that the checkpoint is; the refined one if it has a PCM."""
    source = results["checkpoints"].get(name)
    if source is None or source["sha256"] != hashlib.sha256(checkpoint.read_bytes()).hexdigest():
        raise InputError(f"the results are not of {checkpoint}; evaluate again and name the results.json of that run")
    return source["models"][-1]


def _dataset_name(results: Mapping[str, Any]) -> str:
    """Return the name of the data; of a folder of other data only the last part of its path, which may be private."""
    description = results["data"]["description"]
    if description in DEMO_PATIENTS:
        return "synthetic images"
    if description in ARCHIVES or results["data"]["split"].endswith(OFFICIAL):
        return "NIH ChestX-ray14" + (", two of its twelve archives" if description == "nih-subset" else "")
    return f"the folder {Path(description).name!r}"


def _eval_results(results: Mapping[str, Any], model: str) -> list[Any]:
    """Return the defined metrics as metadata of the hub."""
    from huggingface_hub import EvalResult

    values = {metric: get_estimate(results, model, metric)["value"] for metric in SUMMARY}
    return [
        EvalResult(
            task_type="object-detection" if metric in LOCALIZATION else "image-classification",
            metric_type=metric if metric in LOCALIZATION else "roc_auc",
            metric_name=TITLES[metric],
            metric_value=round(value, 4),
            dataset_type="image-folder",
            dataset_name=_dataset_name(results),
            dataset_split="test",
        )
        for metric, value in values.items()
        if value is not None
    ]


def _localization_rows(results: Mapping[str, Any], model: str) -> list[list[str]]:
    """Return a table of the model and the baselines, best first; nothing without true boxes."""
    metrics = [metric for metric in summary_metrics(results) if metric in LOCALIZATION]
    if not metrics:
        return []
    rows = [["", *(TITLES[metric] for metric in metrics)]]
    for row in results["ranking"]:
        method = row["method"]
        if method == model or row["type"] == BASELINE:
            cells = [format_metric(results, method, metric) for metric in metrics]
            rows.append([f"**{method}**" if method == model else method, *cells])
    return rows


def _classification_rows(scores: Mapping[str, Any]) -> list[list[Any]]:
    """Return a table of the model's classification by finding."""
    columns = ["AUC", "sensitivity", "specificity", "threshold of the raw score", "Brier score", "ECE"]
    rows: list[list[Any]] = [["finding", "positive images", *columns]]
    for finding, row in scores["findings"].items():
        decisions, calibration = row["operating_points"]["youden"], row["calibration"]
        decided = [format_estimate(decisions[key]) for key in ("sensitivity", "specificity")]
        calibrated = [format_estimate(calibration[key]) for key in ("brier", "ece")]
        threshold = format_value(decisions["threshold"])
        rows.append([finding, row["positives"], format_estimate(row["auc"]), *decided, threshold, *calibrated])
    auc, brier, ece = (format_estimate(scores["mean"][key]) for key in ("auc", "brier", "ece"))
    return [*rows, ["mean", "", auc, "", "", "", brier, ece]]
