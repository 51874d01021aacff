"""Command line: python -m cxr_seam VERB --help. Each verb imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

from .errors import InputError, count_of
from .findings import OPERATING_POINTS
from .io import readable
from .presets import PRESETS, get_recipe


def models(arguments: argparse.Namespace) -> None:
    """Print parameter counts beside Table 4 of the paper, and list all models."""
    import torch

    from .models.build import PAPER_PARAMETERS, build_model, count_parameters, model_names

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
    print("Other models:", ", ".join(name for name in model_names() if name not in PAPER_PARAMETERS))
    print("timm:NAME and multires_timm:NAME are models for any timm network with features at strides 8, 16 and 32.")


def demo_data(arguments: argparse.Namespace) -> None:
    """Synthesize radiographs with tables in NIH's layout."""
    from .synthetic.dataset import write_demo_data

    write_demo_data(arguments.folder, patients=arguments.patients, seed=arguments.seed)
    print(f"synthetic radiographs and tables are in {arguments.folder}")


def prepare(arguments: argparse.Namespace) -> int:
    """Add image folders and archives to an image cache; exit status 3 if some images could not be read."""
    from .data.cache import BrokenImageWarning
    from .data.cache import prepare as fill_cache

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        cache = fill_cache(arguments.sources, arguments.cache, size=arguments.size)
    for warning in caught:
        print(f"cxr_seam: {warning.message}", file=sys.stderr)
    print(f"in {arguments.cache}: {count_of(len(cache), 'image')} of {cache.size}x{cache.size} pixels")
    return 3 if any(issubclass(warning.category, BrokenImageWarning) for warning in caught) else 0


def download(arguments: argparse.Namespace) -> None:
    """Prepare the data of a workspace: synthesize, download or read the images, and fill the image cache."""
    cache = open_workspace(arguments).prepare_data()
    print(f"in {cache.folder}: {count_of(len(cache), 'image')} of {cache.size}x{cache.size} pixels")


def train(arguments: argparse.Namespace) -> None:
    """Train a recipe or those of a preset, or continue; prepares a folder's images. Several GPUs: accelerate launch."""
    from accelerate import PartialState

    from .device import select_device
    from .models.checkpoint import best_path
    from .training.fit import JsonLines, ProgressBar, fit

    chosen = get_recipe(arguments.recipe) if arguments.recipe else None
    if chosen is not None:
        arguments.preset = next(name for name, recipes in PRESETS.items() if chosen in recipes)
    workspace = open_workspace(arguments)
    process = PartialState(cpu=select_device().device == "cpu")
    main = process.is_main_process  # prints for all processes
    if main and workspace.folder is not None and not workspace.cache_folder.exists():
        workspace.prepare_data()
    process.wait_for_everyone()
    recipes = workspace.recipes if chosen is None else (chosen,)
    if arguments.weights is not None:
        recipes = tuple(replace(recipe, weights=arguments.weights) for recipe in recipes)
    for recipe in recipes:
        training, validation = workspace.train_val_datasets(recipe)
        if main:
            counts = f"{count_of(len(training), 'training image')}, {count_of(len(validation), 'validation image')}"
            print(f"{recipe.name}: {counts}")
        fit(
            recipe,
            workspace.models,
            train_set=training,
            val_set=validation,
            callbacks=[ProgressBar(), JsonLines()],
            overwrite=arguments.overwrite,
            local_dir=workspace.local_dir,
            save_minutes=arguments.save_minutes,
        )
        if main:
            print(f"the best checkpoint is {best_path(workspace.models, recipe.name)}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate the trained models of a preset; write results.json and report.html."""
    from .evaluation import tables
    from .evaluation.evaluate import evaluate as measure
    from .visualize.report import write_report

    workspace = open_workspace(arguments)
    evaluation = measure(workspace, n_bootstrap=arguments.n_bootstrap)
    print(tables.summary(evaluation.results).to_string())
    print(tables.comparability(evaluation.results))
    print(f"results: {workspace.results}    report: {write_report(workspace, evaluation)}")


def compare(arguments: argparse.Namespace) -> None:
    """Compare two evaluations, with paired intervals if they used the same images and bootstrap."""
    from .evaluation.results import compare as side_by_side
    from .evaluation.results import load_results

    table, reason = side_by_side(load_results(arguments.first), load_results(arguments.second))
    print(table.to_string())
    print(reason)


def selfcheck(arguments: argparse.Namespace) -> int:
    """Check the installation against hand-computed values."""
    from .selfcheck import format_check
    from .selfcheck import selfcheck as run_checks

    checks = run_checks()
    print("\n".join(map(format_check, checks)))
    passed = sum(check.passed for check in checks)
    print(f"{passed} of {len(checks)} passed")
    return int(passed < len(checks))


def predict(arguments: argparse.Namespace) -> int:
    """Predict image files or folders; write heat maps as PNG and DICOM, tables as CSV; exit status 3 if some fail."""
    from tqdm import tqdm

    from .inference.maps.registry import MAPS
    from .inference.predictor import Predictor
    from .inference.scores import prevalence_of
    from .models.checkpoint import QUICKSTART, QUICKSTART_FILE
    from .visualize.export import output_stems, predict_files, score_lines

    files, packaged = output_stems(arguments.files), arguments.checkpoint in (None, QUICKSTART)
    predictor = Predictor.load(
        QUICKSTART_FILE if arguments.checkpoint is None else arguments.checkpoint,
        operating_point=arguments.operating_point,
        prevalence=parse_prevalence(arguments.prevalence),
        map=arguments.map,
    )
    if packaged:
        size = f"{predictor.recipe.image_size} pixels, research only, not for diagnosis"
        print(f"cxr_seam: the packaged quick-start model predicts ({size})", file=sys.stderr)
    failed = 0
    for path, answer in predict_files(predictor, files, arguments.out):
        if isinstance(answer, InputError):
            failed += 1
            tqdm.write(f"cxr_seam: {answer}", file=sys.stderr)  # above the progress bar
            continue
        tqdm.write(readable(path))
        tqdm.write("\n".join(f"  {line}" for line in score_lines(answer)))
        for image_warning in answer.image_warnings:
            tqdm.write(f"cxr_seam: {readable(path)}: {image_warning}", file=sys.stderr)
    for finding, prevalence in predictor.calibrator.prevalence.items():
        fitted = prevalence_of(predictor.calibrator.scores[finding])
        print(f"calibrated probability of {finding}: for a prevalence of {prevalence:g}, fitted at {fitted:.3f}")
    for finding, reason in predictor.calibrator.missing.items():
        print(f"no calibrated probability of {finding}: {reason}")
    if failed < len(files):
        images = count_of(len(files) - failed, "image")
        print(f"heat maps ({MAPS[predictor.map]}), boxes and scores of {images} are in {arguments.out}")
    return 0 if not failed else 2 if failed == len(files) else 3


def parse_prevalence(texts: Sequence[str]) -> dict[str, float]:
    """Read FINDING=FRACTION; names and range are checked by the calibrator.

    Raises:
        InputError: a text has no number.
    """
    prevalence = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            prevalence[name] = float(number)
        except ValueError as error:
            raise InputError(f"--prevalence {text} has no number; write, for example, Effusion=0.05") from error
    return prevalence


def export(arguments: argparse.Namespace) -> None:
    """Write a trained model for other programs: ONNX, or torch.export; see docs/export.md."""
    from .inference.deploy import save_onnx, save_program
    from .inference.predictor import Predictor

    if not arguments.onnx and not arguments.torch_export:
        raise InputError("export writes nothing; name a file: --onnx FILE.onnx or --torch-export FILE.pt2")
    predictor = Predictor.load(arguments.checkpoint)
    for path, save in ((arguments.onnx, save_onnx), (arguments.torch_export, save_program)):
        if path:
            print(f"the model is in {save(predictor, path)}")


def open_workspace(arguments: argparse.Namespace):  # noqa: ANN201 (imported late)
    """Open the workspace of --data, --preset, --output and --layout."""
    from .workspace import Workspace

    return Workspace.open(
        data=arguments.data, preset=arguments.preset, output_dir=arguments.output, layout=arguments.layout
    )


def make_parser() -> argparse.ArgumentParser:
    """Define all verbs and their options."""
    parser = argparse.ArgumentParser(prog="cxr_seam", description="Localise abnormalities on chest X-rays.")
    subparsers = parser.add_subparsers(required=True, metavar="VERB")

    def add_verb(function: Callable[[argparse.Namespace], int | None], name: str) -> argparse.ArgumentParser:
        verb = subparsers.add_parser(name, help=function.__doc__, description=function.__doc__)
        verb.set_defaults(function=function)
        return verb

    verb = add_verb(models, "models")
    verb.add_argument("--json", action="store_true", help="print a list of objects")

    verb = add_verb(demo_data, "demo-data")
    verb.add_argument("folder")
    verb.add_argument("--patients", type=int, default=420, help="number of patients (%(default)s)")
    verb.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")

    verb = add_verb(prepare, "prepare")
    verb.add_argument("sources", nargs="+", help="folders, .tar.gz, .tar or .zip archives")
    verb.add_argument("--cache", required=True, help="folder of the image cache")
    verb.add_argument("--size", type=int, default=256, help="side of the prepared images in pixels (%(default)s)")

    _add_workspace_options(add_verb(download, "download"))

    verb = add_verb(train, "train")
    verb.add_argument(
        "recipe",
        nargs="?",
        help="for example resnet50, multires_resnet50, multires_resnet50_pcm (default: the three of --preset)",
    )
    verb.add_argument("--weights", help='a file of ImageNet weights to begin with, or "none" for random weights')
    verb.add_argument("--overwrite", action="store_true", help="train from the beginning, over an earlier training")
    verb.add_argument(
        "--save-minutes", type=float, default=10.0, help="minutes between two saved training states (%(default)s)"
    )
    _add_workspace_options(verb)

    verb = add_verb(evaluate, "evaluate")
    verb.add_argument("--n-bootstrap", type=int, default=1000, help="number of bootstrap replicates (%(default)s)")
    _add_workspace_options(verb)

    verb = add_verb(compare, "compare")
    verb.add_argument("first", help="a results.json")
    verb.add_argument("second", help="another results.json")

    add_verb(selfcheck, "selfcheck")

    _add_predict_options(add_verb(predict, "predict"))
    _add_export_options(add_verb(export, "export"))
    return parser


def _add_predict_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("files", nargs="+", help="PNG, JPEG, TIFF or DICOM files, or folders of them")
    verb.add_argument(
        "--checkpoint", help="a .safetensors file of this package (default: the packaged quick-start model)"
    )
    verb.add_argument(
        "--map",
        help="map of heat maps and boxes: cam, refined, layercam, gradcam or mean (default: refined CAM of a model "
        "with a trained PCM, else CAM)",
    )
    verb.add_argument(
        "--operating-point",
        default="youden",
        choices=OPERATING_POINTS,
        help="rule of the decisions: largest sensitivity + specificity, or 90 %% of one of them (%(default)s)",
    )
    verb.add_argument(
        "--prevalence",
        nargs="+",
        default=(),
        metavar="FINDING=FRACTION",
        help="how frequent findings are where you use the model (default: as among the validation images)",
    )
    verb.add_argument("--out", default="predictions", help="folder for the results (%(default)s)")


def _add_export_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("checkpoint", help='a .safetensors file of this package, or "quickstart"')
    verb.add_argument("--onnx", metavar="FILE", help="an .onnx file to write; needs the packages onnx and onnxscript")
    verb.add_argument("--torch-export", metavar="FILE", help="a .pt2 file to write")


def _add_workspace_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--data", default="demo", help="demo, tiny, nih-subset, nih, the folder of a dataset, or a .zip")
    verb.add_argument("--preset", default="demo", help=f"three recipes to train: {', '.join(PRESETS)}")
    verb.add_argument("--output", default="", help="folder for models, figures and results (default: runs/DATA)")
    verb.add_argument(
        "--layout", default="", help="nih, simple, coco, chexpert, chexpert:zeros, ... (default: as the tables show)"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; return its exit status: 2 after an input error, 141 if the reader of the output has closed it."""
    arguments = make_parser().parse_args(words)
    try:
        status = arguments.function(arguments) or 0
        sys.stdout.flush()  # here, so that a closed pipe is noticed before the interpreter ends
        return status
    except BrokenPipeError:  # for example "| head -1"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit would fail again
        return 141  # as shells report SIGPIPE
    except InputError as error:
        print(f"cxr_seam: {error}", file=sys.stderr)
        return 2


def show_warning(message: Warning | str, category: type[Warning], *location: object) -> None:
    """Print this package's warnings as sentences, other warnings with their line of code."""
    if category is UserWarning:
        print(f"cxr_seam: {message}", file=sys.stderr)
    else:
        show_other_warning(message, category, *location)


if __name__ == "__main__":
    show_other_warning, warnings.showwarning = warnings.showwarning, show_warning
    sys.exit(main())
