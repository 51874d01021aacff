"""Compare recipes: train and measure the rows of a study, and write one table.

    python -m benchmarks.study ablations --data demo --preset demo --output runs/demo
    python -m benchmarks.study beyond-the-paper --data ../shared/nih --output runs/study --rows paper,strong
    python -m benchmarks.study beyond-the-paper --output runs/study --list

A stopped call continues where it was. Tables are in the folder that the command prints.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cxr_seam.data.cache import prepare
from cxr_seam.data.layouts.nih import BOX_TABLE, LABEL_TABLES, TEST_LIST, TRAIN_VAL_LIST, load_metadata
from cxr_seam.errors import InputError
from cxr_seam.io import atomic_write
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP
from cxr_seam.workspace import Workspace

from .examples import plot_examples
from .rows import BASE, JOINT_ROW, PAPER, QUESTIONS, ablation_rows, beyond_rows, count_passes, paper_recipe
from .runner import Study, run_agreement, run_baselines, run_row, save_model
from .tables import plot_froc, write_tables

SMALL_IMAGES = {"images_128": 128}
"""Folders with images that an unknown filter has shrunk, with their size. No box is scored on these images."""
FOLDERS = ("images", "images_256", *SMALL_IMAGES)


def open_ablations(options: argparse.Namespace) -> Study:
    """Prepare the data of docs/ablations.md."""
    run = Workspace.open(data=options.data, preset=options.preset, output_dir=options.output)
    run.prepare_data()
    questions = options.questions.split(",")

    def make_rows(study: Study, seed: int) -> dict:
        return ablation_rows(options.preset, seed=seed, questions=questions)

    study = Study(run, run.output_dir / "ablations", make_rows, options.n_bootstrap)
    study.claim({"data": run.data, "preset": options.preset, "n_bootstrap": options.n_bootstrap})
    return study


def open_beyond(options: argparse.Namespace) -> Study:
    """Prepare the data of docs/beyond-the-paper.md."""
    settings = {key: getattr(options, key) for key in ("backbone", "size", "epochs")}
    source, folder = Path(options.data), Path(options.output).absolute()
    data = folder / "data"
    copy_tables(source, data)
    run = Workspace.open(data=str(data), preset="small", output_dir=folder)
    run = replace(run, recipes=(paper_recipe(**settings, seed=0),) * 3)

    def make_rows(study: Study, seed: int) -> dict:
        return beyond_rows(**settings, seed=seed, count=study.count)

    study = Study(run, folder, make_rows, options.n_bootstrap, tuple(SMALL_IMAGES))
    study.claim({"data": str(source.absolute()), "n_bootstrap": options.n_bootstrap, **settings})
    prepare(image_folders(source, options.size), run.cache_folder, size=options.size)
    run.prepare_data()
    return study


def copy_tables(source: Path, folder: Path) -> None:
    """Copy NIH's tables, so that the folder of the study is complete."""
    for name in (*LABEL_TABLES, TRAIN_VAL_LIST, TEST_LIST, BOX_TABLE):
        for path in (source / name, source / f"{name}.gz"):
            if path.exists():
                with atomic_write(folder / path.name) as temporary:
                    shutil.copyfile(path, temporary)


def image_folders(source: Path, size: int) -> list[Path]:
    """Return the folders of images, larger copies first; an image is taken from the first folder that has it.

    Raises:
        InputError: there is no folder, or an image with a true box exists only in a shrunk copy.
    """
    names = [name for name in FOLDERS if size <= SMALL_IMAGES.get(name, size) and (source / name).is_dir()]
    if not names:
        raise InputError(f"{source} has no folder {' or '.join(FOLDERS)} with images; give another --data")
    boxed = set(load_metadata(source).boxes["image_index"])
    for name in names:
        present = boxed & {f"{path.stem}.png" for path in (source / name).iterdir()}
        if present and name in SMALL_IMAGES:
            raise InputError(f"{source / name} has images with true boxes ({min(present)}); move these images away")
        boxed -= present
    return [source / name for name in names]


def print_rows(study: Study, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Print rows with the image passes of their training, and those that earlier rows have not trained."""
    known: set[str] = set()
    print(f"{'row':26} {'passes':>9} {'new passes':>10}   change")
    for seed in seeds:
        for name in names:
            row = study.rows(seed)[name]
            passes = count_passes(row, study.count)
            new = sum(value for recipe, value in passes.items() if recipe not in known)
            known |= set(passes)
            print(f"{f'{name}.s{seed}':26} {sum(passes.values()):>9,} {new:>10,}   {row.change}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    studies = parser.add_subparsers(dest="study", required=True)
    ablations = studies.add_parser("ablations", help="change what the paper leaves open (docs/ablations.md)")
    ablations.set_defaults(open=open_ablations, curves=(BASE,))
    ablations.add_argument("--data", default="demo", help="demo, nih-subset, nih or a folder (%(default)s)")
    ablations.add_argument("--preset", default="demo", help="recipes to change (%(default)s)")
    ablations.add_argument("--questions", default=",".join(QUESTIONS), help="by default %(default)s")
    beyond = studies.add_parser("beyond-the-paper", help="compare strong with the paper (docs/beyond-the-paper.md)")
    beyond.set_defaults(open=open_beyond, curves=(PAPER, JOINT_ROW))
    beyond.add_argument("--data", default="../shared/nih", help="folder with NIH's tables and images (%(default)s)")
    beyond.add_argument("--size", type=int, default=128, help="image size in pixels (%(default)s)")
    beyond.add_argument("--backbone", default="efficientnet_lite0", help="of all rows (%(default)s)")
    beyond.add_argument("--epochs", type=int, default=9, help="of the paper's classifier stage (%(default)s)")
    for study, output, seeds in ((ablations, "runs/demo", "0"), (beyond, "runs/study", "0,1")):
        study.add_argument("--output", default=output, help="folder of the study (%(default)s)")
        study.add_argument("--rows", help="names separated by commas; by default all")
        study.add_argument("--seeds", default=seeds, help="numbers separated by commas (%(default)s)")
        study.add_argument("--n-bootstrap", type=int, default=N_BOOTSTRAP, help="bootstrap replicates (%(default)s)")
        study.add_argument("--save-models", metavar="FOLDER", help="write the model of each row, ready for prediction")
        study.add_argument("--list", action="store_true", help="print the rows and their costs; train nothing")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Run the chosen rows of a study."""
    study = options.open(options)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    names = options.rows.split(",") if options.rows else list(study.rows(seeds[0]))
    if unknown := [name for name in names if name not in study.rows(seeds[0])]:
        raise InputError(f"there is no row {unknown[0]!r}; choose from {', '.join(study.rows(seeds[0]))}")
    if options.list:
        print_rows(study, names, seeds)
        return
    run_baselines(study)
    for seed in seeds:
        for name in names:
            row = study.rows(seed)[name]
            run_row(study, row, seed=seed)
            if options.save_models:
                print(save_model(study, row, folder=Path(options.save_models), seed=seed))
            if seed == seeds[-1]:
                run_agreement(study, name, seeds)
            write_tables(study)
    plot_froc(study, options.curves)
    plot_examples(study, seed=seeds[0])
    print((study.folder / "table.md").read_text())
    print(f"tables and figures: {study.folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study; return exit status 2 and print one line for bad input."""
    try:
        run(parse(arguments))
    except InputError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
