"""Prepare, train both stages, evaluate and draw Fig. 7 on real radiographs, with short training."""

import pytest

from cxr_seam.data.cache import prepare
from cxr_seam.data.split import train_val_split
from cxr_seam.evaluation.evaluate import evaluate, find_targets
from cxr_seam.evaluation.results import MULTIRES, REFINED, STANDARD
from cxr_seam.findings import BOXED_FINDINGS
from cxr_seam.training.fit import fit
from cxr_seam.visualize.examples import load_examples, one_per_finding
from cxr_seam.visualize.figures import plot_heatmap_grid
from cxr_seam.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(nih_root, tmp_path_factory):
    """The 60 originals and some of the 256-pixel images, and a model of each kind trained for an epoch."""
    workspace = Workspace.open(data=str(nih_root), preset="tiny", output_dir=tmp_path_factory.mktemp("real"))
    originals = {path.stem + ".png" for path in (nih_root / "images").iterdir()}
    tables = workspace.metadata()
    shrunk = {path.stem + ".png" for path in (nih_root / "images_256").iterdir()}
    wanted = originals | set(sorted(shrunk & set(tables.train_val))[:60])
    folders = [nih_root / "images", nih_root / "images_256"]
    prepare(folders, workspace.cache_folder, size=256, names=wanted, progress=False)
    for recipe in workspace.recipes:
        training, validation = workspace.train_val_datasets(recipe)
        fit(recipe, workspace.models, train_set=training, val_set=validation)
    return workspace


def test_originals_and_their_boxes_are_there(workspace, nih_root):
    originals = [path.stem + ".png" for path in (nih_root / "images").iterdir()]
    assert len(originals) == 60 and all(name in workspace.cache() for name in originals)
    # three of the 60 originals are RGBA; none was lost on the way
    tables = workspace.metadata()
    boxed = tables.boxes[tables.boxes["image_index"].isin(workspace.cache().image_index)]
    assert set(boxed["finding"]) == set(BOXED_FINDINGS)


def test_training_never_sees_a_test_image_and_no_patient_twice(workspace):
    tables = workspace.metadata()
    chosen = train_val_split(
        tables, validation_fraction=0.2, num_normal_images=5000, seed=0, available=workspace.cache().image_index
    )
    patients = [set(tables.images.loc[names, "patient_id"]) for names in chosen]
    assert not patients[0] & patients[1]
    assert not (set(chosen[0]) | set(chosen[1])) & set(tables.test)


def test_evaluation_and_figure_7_on_boxed_test_images(workspace, tmp_path):
    targets = find_targets(workspace.metadata(), workspace.test_dataset(), findings=BOXED_FINDINGS)
    assert targets is not None and set(targets.dataset.image_index) <= set(workspace.metadata().test)
    results = evaluate(workspace, n_bootstrap=100).results
    assert {STANDARD, MULTIRES, REFINED} <= set(results["localization"])
    rows = one_per_finding(load_examples(workspace, per_finding=1))
    assert [finding for _, finding in rows] == list(BOXED_FINDINGS)
    plot_heatmap_grid(rows, path=tmp_path / "fig7.png")
    assert (tmp_path / "fig7.png").stat().st_size > 100_000
