"""The same verbs from a shell: python -m cxr_seam VERB --help."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace

from .errors import InputError
from .presets import PRESETS, get_recipe, preset_of


def models(arguments: argparse.Namespace) -> None:
    """Print the models' counts of parameters beside Table 4 of the paper."""
    import torch

    from .models.multires import PAPER_PARAMETERS, build_model, count_parameters

    rows = []
    for name, published in PAPER_PARAMETERS.items():
        model = build_model(name, weights="none").eval()
        with torch.inference_mode():
            height, width = model(torch.zeros(1, 3, 256, 256)).cam.shape[-2:]
        rows.append(
            {
                "name": name,
                "parameters": count_parameters(model),
                "paper_parameters": published,
                "cam_size": [height, width],
            }
        )
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'model':<26}{'parameters':>12}{'Table 4':>12}  CAM at 256 px")
    for row in rows:
        size = "x".join(map(str, row["cam_size"]))
        print(f"{row['name']:<26}{row['parameters']:>12,}{row['paper_parameters']:>12,}  {size}")


def demo_data(arguments: argparse.Namespace) -> None:
    """Draw synthetic radiographs in NIH's layout."""
    from .synthetic.dataset import write_demo_data

    write_demo_data(arguments.folder, patients=arguments.patients, seed=arguments.seed)
    print(f"synthetic radiographs and tables are in {arguments.folder}")


def prepare(arguments: argparse.Namespace) -> int:
    """Shrink image folders and archives into a store; status 3 where images were broken and left out."""
    from .data.cache import BrokenImageWarning
    from .data.cache import prepare as fill

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", BrokenImageWarning)
        cache = fill(arguments.sources, arguments.cache, size=arguments.size)
    left_out = [warning for warning in caught if issubclass(warning.category, BrokenImageWarning)]
    for warning in left_out:
        print(f"cxr_seam: {warning.message}", file=sys.stderr)
    print(f"{len(cache)} images of {cache.size}x{cache.size} pixels are in {arguments.cache}")
    return 3 if left_out else 0


def train(arguments: argparse.Namespace) -> None:
    """Train one recipe of a family in a workspace; goes on where it was stopped. Several GPUs: accelerate launch -m."""
    from accelerate import PartialState
    from tqdm import tqdm

    from .device import select_device
    from .models.checkpoint import best_path
    from .training.fit import train as fit

    arguments.preset = preset_of(arguments.recipe)
    workspace = open_workspace(arguments)
    recipe = get_recipe(arguments.recipe)
    if arguments.weights is not None:
        recipe = replace(recipe, weights=arguments.weights)
    training, validation = workspace.train_val_datasets(recipe)
    main = PartialState(cpu=select_device().device == "cpu").is_main_process  # the one that speaks
    if main:
        print(f"{recipe.name}: {len(training)} films to train on, {len(validation)} to validate on")
    fit(
        recipe,
        workspace.models,
        train_set=training,
        val_set=validation,
        on_epoch=(lambda record: tqdm.write(json.dumps(record))) if main else None,
        overwrite=arguments.overwrite,
        local_dir=workspace.local_dir,
        save_minutes=arguments.save_minutes,
    )
    if main:
        print(f"the best model is {best_path(workspace.models, recipe.name)}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a family's trained models; write results.json and report.html, which can be mailed."""
    from .evaluation import tables
    from .evaluation.evaluate import evaluate as measure
    from .visualize.report import write_report

    workspace = open_workspace(arguments)
    evaluation = measure(workspace, n_bootstrap=arguments.n_bootstrap)
    print(tables.summary(evaluation.results).to_string())
    print(tables.comparability(evaluation.results))
    print(f"all results are in {workspace.results}, a report to read in {write_report(workspace, evaluation)}")


def compare(arguments: argparse.Namespace) -> None:
    """Print two evaluations side by side, with paired intervals where films and draws agree."""
    from .evaluation.results import compare as side_by_side
    from .evaluation.results import load_results

    comparison = side_by_side(load_results(arguments.first), load_results(arguments.second))
    print(comparison.table.to_string())
    print(comparison.reason)


def selfcheck(arguments: argparse.Namespace) -> int:
    """Hold this installation against a small case worked out by hand."""
    from .selfcheck import selfcheck as check
    from .selfcheck import told

    rows = check()
    print("\n".join(map(told, rows)))
    agreeing = sum(row.agree for row in rows)
    print(f"{agreeing} of {len(rows)} agree")
    return int(agreeing < len(rows))


def prepare_data(arguments: argparse.Namespace) -> None:
    """Get a workspace's data ready: draw, download or read them."""
    workspace = open_workspace(arguments)
    cache = workspace.prepare_data()
    print(f"{len(cache)} images of {cache.size}x{cache.size} pixels are in {cache.folder}")


def predict(arguments: argparse.Namespace) -> int:
    """Predict image files or folders; keep heat maps as PNG and DICOM, boxes as CSV; status 3 where some failed."""
    from tqdm import tqdm

    from .inference.predictor import Predictor
    from .visualize.export import output_stems, predict_files

    files = output_stems(arguments.files)
    predictor = Predictor.load(arguments.checkpoint)
    failed = 0
    for path, answer in predict_files(predictor, files, arguments.out):
        if isinstance(answer, InputError):
            failed += 1
            tqdm.write(f"cxr_seam: {answer}", file=sys.stderr)  # above the bar, not into it
            continue
        tqdm.write(str(path))
        for finding in answer.top_k(len(answer.probabilities)):
            decision = {True: "  present", False: "", None: "  (no threshold)"}[answer.decisions[finding]]
            tqdm.write(f"  {finding:<20}{answer.probabilities[finding]:.3f}{decision}")
        for doubt in answer.image_warnings:
            tqdm.write(f"cxr_seam: {path}: {doubt}", file=sys.stderr)
    print(f"heat maps, boxes and probabilities of {len(files) - failed} films are in {arguments.out}")
    return 0 if not failed else 2 if failed == len(files) else 3


def open_workspace(arguments: argparse.Namespace):  # noqa: ANN201 (imported late)
    """The workspace that --data, --preset and --output name."""
    from .workspace import Workspace

    return Workspace.open(data=arguments.data, preset=arguments.preset, output_dir=arguments.output)


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    main_parser = argparse.ArgumentParser(prog="cxr_seam", description="Localise findings on chest X-rays.")
    verbs = main_parser.add_subparsers(required=True, metavar="VERB")

    def verb(function, name: str) -> argparse.ArgumentParser:  # noqa: ANN001
        own = verbs.add_parser(name, help=function.__doc__, description=function.__doc__)
        own.set_defaults(function=function)
        return own

    def workspace_options(own: argparse.ArgumentParser, *, recipes: bool = True) -> None:
        own.add_argument("--data", default="demo", help="demo, tiny, nih-subset, nih, or a folder with NIH data")
        if recipes:
            own.add_argument("--preset", default="demo", help=f"family of recipes: {', '.join(PRESETS)}")
        own.add_argument("--output", default="", help="folder for models, figures and results (default: runs/DATA)")

    own = verb(models, "models")
    own.add_argument("--json", action="store_true", help="print a list of objects")

    own = verb(demo_data, "demo-data")
    own.add_argument("folder")
    own.add_argument("--patients", type=int, default=420)
    own.add_argument("--seed", type=int, default=0)

    own = verb(prepare, "prepare")
    own.add_argument("sources", nargs="+", help="folders, .tar.gz or .zip archives")
    own.add_argument("--cache", required=True, help="folder of the store")
    own.add_argument("--size", type=int, default=256, help="side of the prepared images in pixels")

    workspace_options(verb(prepare_data, "download"))

    own = verb(train, "train")
    own.add_argument("recipe", help="such as resnet50, multires_resnet50, multires_resnet50_pcm")
    own.add_argument("--weights", help="start from this file of ImageNet weights, or from random numbers with none")
    own.add_argument("--overwrite", action="store_true", help="begin anew, whatever is there")
    own.add_argument(
        "--save-minutes", type=float, default=10.0, help="time between two states to go on from (%(default)s)"
    )
    workspace_options(own, recipes=False)

    own = verb(evaluate, "evaluate")
    own.add_argument("--n-bootstrap", type=int, default=1000, help="of the bootstrap over patients (%(default)s)")
    workspace_options(own)

    own = verb(compare, "compare")
    own.add_argument("first", help="a results.json")
    own.add_argument("second", help="another one")

    verb(selfcheck, "selfcheck")

    own = verb(predict, "predict")
    own.add_argument("files", nargs="+", help="PNG, JPEG, TIFF or DICOM files, or folders of them")
    own.add_argument("--checkpoint", required=True)
    own.add_argument("--out", default="predictions", help="folder for the results (%(default)s)")
    return main_parser


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; bad input gives its sentence and status 2."""
    arguments = parser().parse_args(words)
    try:
        return arguments.function(arguments) or 0
    except InputError as error:
        print(f"cxr_seam: {error}", file=sys.stderr)
        return 2


def speak(message: Warning | str, category: type[Warning], *place: object) -> None:
    """Show our warnings as sentences, others' with the line that they come from."""
    if category is UserWarning:
        print(f"cxr_seam: {message}", file=sys.stderr)
    else:
        show_elsewhere(message, category, *place)


if __name__ == "__main__":
    show_elsewhere, warnings.showwarning = warnings.showwarning, speak
    sys.exit(main())
