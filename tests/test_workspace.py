"""The data, recipes and folders of a run."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import numpy as np
import pytest
from helpers.archives import png, tree, zipped
from helpers.dicom_files import dicom_bytes, make_dataset

from cxr_seam.data.cache import prepare
from cxr_seam.data.layouts import READERS, chexpert
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.errors import InputError
from cxr_seam.presets import get_recipe
from cxr_seam.workspace import Workspace, image_folders


def test_default_output_dir(demo_folder: Path) -> None:
    assert Workspace.open(data="demo", preset="tiny").output_dir == Path.cwd() / "runs" / "demo"
    assert Workspace.open(data=str(demo_folder), preset="tiny").output_dir == Path.cwd() / "runs" / demo_folder.name


def test_relative_folders_after_chdir(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_folder.parent)
    workspace = Workspace.open(data=demo_folder.name, preset="tiny", output_dir="runs/mine")
    monkeypatch.chdir(tmp_path)
    assert workspace.output_dir == demo_folder.parent / "runs" / "mine"
    assert workspace.metadata_folder == demo_folder and len(workspace.metadata().images)
    assert Workspace.open(data="demo", preset="tiny", output_dir=tmp_path).output_dir == tmp_path


def test_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_SEAM_DATA", "tiny")
    monkeypatch.setenv("CXR_SEAM_PRESET", "small")
    monkeypatch.setenv("CXR_SEAM_OUTPUT", str(tmp_path))
    workspace = Workspace.open(data="nih", preset="resnet50", output_dir="runs/x")
    assert (workspace.data, workspace.recipes[0].name, workspace.output_dir) == ("tiny", "small", tmp_path)


def test_unknown_choices() -> None:
    with pytest.raises(InputError, match="mimic.*demo, tiny, nih-subset, nih"):
        Workspace.open(data="mimic", preset="tiny")
    with pytest.raises(InputError, match="vgg.*resnet50"):
        Workspace.open(data="demo", preset="vgg")


def test_drive_receives_results_but_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = []
    drive = ModuleType("google.colab.drive")
    drive.mount = mounted.append
    colab = ModuleType("google.colab")
    colab.drive = drive
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    workspace = Workspace.open(data="nih-subset", preset="tiny", save_to_drive=True)
    assert mounted == ["/content/drive"]
    assert workspace.models == Path("/content/drive/MyDrive/cxr-seam/runs/nih-subset/models")
    assert workspace.cache_folder == Path("/content/data/nih/cache_256")


def test_folder_of_other_data(demo_folder: Path, tmp_path: Path) -> None:
    """Images of different datasets have the same names, so mixed images and labels would not be noticed."""
    Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path).prepare_data()
    other = Workspace.open(data="demo", preset="tiny", output_dir=tmp_path)
    for step in (other.prepare_data, other.cache):
        with pytest.raises(InputError, match=f"{demo_folder}.*demo of"):
            step()


def test_smallest_large_enough_cache(demo_folder: Path, tmp_path: Path) -> None:
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    assert workspace.cache_folder == tmp_path / "data" / "cache_256"  # real images have 256 pixels or more
    for size in (32, 96, 512):
        (tmp_path / "data" / f"cache_{size}").mkdir(parents=True)
    assert workspace.cache_folder.name == "cache_96"


def test_archives_are_downloaded_once_for_all_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {
        Workspace.open(data=data, preset=preset).cache_folder
        for data in ("nih", "nih-subset")
        for preset in ("tiny", "demo", "small", "resnet50", "efficientnet_b4", "strong")
    }
    assert folders == {tmp_path / "data" / "nih" / "cache_256"}


def test_empty_data() -> None:
    with pytest.raises(InputError, match="''"):
        Workspace.open(data="", preset="tiny")


def test_drive_outside_colab() -> None:
    with pytest.raises(InputError, match="SAVE_TO_DRIVE"):
        Workspace.open(data="demo", preset="tiny", save_to_drive=True)


def test_data_that_is_not_prepared(tmp_path: Path) -> None:
    workspace = Workspace.open(data="demo", preset="tiny", output_dir=tmp_path)
    for step in (workspace.cache, workspace.test_dataset):
        with pytest.raises(InputError, match="notebook 01"):
            step()
    with pytest.raises(InputError, match="notebook 01"):
        workspace.train_val_datasets(workspace.recipes[0])


def test_prepare_data_twice(demo_folder: Path, tmp_path: Path) -> None:
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    metadata = workspace.metadata()
    first = workspace.prepare_data()
    assert set(first.image_index) == set(metadata.images.index)
    again = workspace.prepare_data()
    assert (again.image_index, again.sources) == (first.image_index, first.sources)


@pytest.mark.parametrize("kind", ["zip", "zip beside tables", "folder of zips", "folder of zips and tables"])
def test_zipped_data_equal_the_folder(kind: str, demo_folder: Path, tmp_path: Path) -> None:
    images = sorted((demo_folder / "images").iterdir())[:6]
    tables = [*demo_folder.glob("*.csv"), *demo_folder.glob("*.txt")]
    plain = prepare(
        demo_folder / "images", tmp_path / "plain", size=256, names=[i.name for i in images], progress=False
    )
    data = tmp_path / "data"
    data.mkdir()
    for number, packed in enumerate([images[:3], images[3:]] if "folder" in kind else [images], start=1):
        with ZipFile(data / f"images_{number:03d}.zip", "w") as archive:
            for image in packed:
                archive.write(image, f"images/{image.name}")
            for table in [] if "tables" in kind or number > 1 else tables:
                archive.write(table, f"nih/{table.name}")
    for table in tables if "tables" in kind else []:
        (data / table.name).write_bytes(table.read_bytes())
    before = set(data.iterdir())
    source = data if "folder" in kind else data / "images_001.zip"
    workspace = Workspace.open(data=str(source), preset="tiny", output_dir=tmp_path / "output")
    cache = workspace.prepare_data()
    assert cache.image_index == plain.image_index
    assert np.array_equal(cache.images, plain.images)
    original = load_metadata(demo_folder)
    assert workspace.metadata().images.equals(original.images) and workspace.metadata().boxes.equals(original.boxes)
    assert set(data.iterdir()) == before


def test_downloaded_folder_has_its_own_cache(demo_folder: Path, tmp_path: Path) -> None:
    """data_download.sh leaves tables and a cache, but no images."""
    folder = tmp_path / "nih"
    folder.mkdir()
    for table in (*demo_folder.glob("*.csv"), *demo_folder.glob("*.txt")):
        (folder / table.name).write_bytes(table.read_bytes())
    prepare(demo_folder / "images", folder / "cache_64", size=64, progress=False)
    workspace = Workspace.open(data=str(folder), preset="tiny", output_dir=tmp_path / "output")
    assert workspace.prepare_data().folder == folder / "cache_64"
    assert len(workspace.test_dataset()) == len(workspace.metadata().test)


def test_datasets_follow_official_lists(demo_folder: Path, tmp_path: Path) -> None:
    workspace = Workspace.open(data=str(demo_folder), preset="tiny", output_dir=tmp_path)
    workspace.prepare_data()
    metadata = workspace.metadata()
    training, validation = workspace.train_val_datasets(workspace.recipes[0])
    assert set(training.image_index) | set(validation.image_index) <= set(metadata.train_val)
    assert set(workspace.test_dataset().image_index) == set(metadata.test)


def test_tables_are_read_once_and_again_by_prepare_data(demo_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(demo_folder, tmp_path / "data")
    run = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "output")
    metadata = run.metadata()
    table = data / "BBox_List_2017.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    assert run.metadata() is metadata
    run.prepare_data()
    assert len(run.metadata().boxes) == len(metadata.boxes) - 1


@pytest.mark.filterwarnings("ignore:.*without a column")
def test_listed_images_without_a_file(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", {"images/a.png": png(90), "images/b.png": png(60)})
    names = ["a.png", "b.png", "c.png", "d.png"]
    (data / "images.csv").write_text("image,Mass\n" + "".join(f"{name},1\n" for name in names))
    with pytest.warns(UserWarning, match=r"^2 listed images have no file in .*/images and .*: c.png, d.png$"):
        cache = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "output").prepare_data()
    assert cache.image_index == names[:2]
    for name in names[:2]:
        (data / "images" / name).rename(data / "images" / f"other {name}")
    with pytest.raises(InputError, match=r"none of the listed images \(a.png, b.png, c.png, d.png\) has a file in"):
        Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "other").prepare_data()


def test_images_without_a_test_part_are_refused(demo_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    image = next((demo_folder / "images").iterdir())
    shutil.copy(image, data / "images")
    (data / "images.csv").write_text(f"image,patient,split,Mass\n{image.name},1,train,1\n")
    with pytest.warns(UserWarning, match="no image is for the test"):
        run = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "output")
        run.prepare_data()
        with pytest.raises(InputError, match="none of the images in .* is for the test"):
            run.test_dataset()


def test_image_folders(tmp_path: Path) -> None:
    assert image_folders(tmp_path, READERS["nih"].IMAGE_FOLDERS) == image_folders(tmp_path, ()) == [tmp_path]
    for name in ("images_256", "images", "images_128"):
        (tmp_path / name).mkdir()
    assert image_folders(tmp_path, READERS["nih"].IMAGE_FOLDERS) == [tmp_path / "images", tmp_path / "images_256"]
    assert image_folders(tmp_path, READERS["simple"].IMAGE_FOLDERS) == [tmp_path / "images"]


CHEXPERT = [f"train/patient0000{k}/study1/view1_frontal.jpg" for k in (1, 2)] + ["valid/patient9/study1/v.jpg"]
VINDR = "image_id,rad_id,Edema,Mass\n"
LAYOUTS = {
    "chexpert": (
        {
            name: ",".join(("Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding", *chexpert.FINDINGS))
            + "".join(f"\nCheXpert-v1.0/{path},Male,40,Frontal,AP" + ",1.0" * 14 for path in paths)
            for name, paths in {"train.csv": CHEXPERT[:2], "valid.csv": CHEXPERT[2:]}.items()
        },
        CHEXPERT,
        [*CHEXPERT, "train/patient00001/study1/view2_lateral.jpg"],
    ),
    "rsna": (
        {"stage_2_train_labels.csv": "patientId,x,y,width,height,Target\na,,,,,0\nb,9,9,9,9,1\n"},
        ["a.dcm", "b.dcm"],
        ["stage_2_train_images/a.dcm", "stage_2_train_images/b.dcm", "stage_2_test_images/c.dcm"],
    ),
    "vindr": (
        {
            "annotations/image_labels_train.csv": VINDR + "a,R1,1,0\na,R2,1,0\n",
            "annotations/image_labels_test.csv": VINDR + "a,R1,0,1\n",
            **dict.fromkeys(
                ("annotations/annotations_train.csv", "annotations/annotations_test.csv"),
                "image_id,class_name,x_min,y_min,x_max,y_max\n",
            ),
        },
        ["train/a.dicom", "test/a.dicom"],
        ["train/a.dicom", "test/a.dicom"],
    ),
    "chestx-det": (
        {
            f"ChestX_Det_{part}.json": f'[{{"file_name": "{k}.png", "syms": [], "boxes": [], "polygons": []}}]'
            for k, part in enumerate(("train", "test"))
        },
        ["0.png", "1.png"],
        ["train_data/0.png", "test_data/1.png"],
    ),
    "coco": (
        {
            "annotations.json": '{"images": [{"id": 1, "file_name": "a/x.png", "width": 32, "height": 32}, '
            '{"id": 2, "file_name": "b/x.png", "width": 32, "height": 32}], '
            '"categories": [{"id": 1, "name": "Mass"}], "annotations": []}'
        },
        ["a/x.png", "b/x.png"],
        ["images/a/x.png", "images/b/x.png", "images/c/x.png"],
    ),
    "simple": ({"images.csv": "image,Mass\na/x,1\nb/x,0\n"}, ["a/x.jpg", "b/x.png"], ["a/x.jpg", "b/x.png", "y.png"]),
}
"""By layout: tables, names of the images in the tables, image files."""


def write_layout(layout: str, folder: Path) -> Path:
    """Write a small dataset of a layout."""
    tables, _, files = LAYOUTS[layout]
    dicom = make_dataset(np.arange(1024, dtype=np.uint16).reshape(32, 32), bits=10)
    tree(folder, {name: text.encode() for name, text in tables.items()})
    for number, file in enumerate(files):
        kind = {".jpg": "JPEG", ".png": "PNG"}.get(Path(file).suffix)
        tree(folder, {file: png(90 + 9 * number, kind=kind) if kind else dicom_bytes(dicom)})
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cache_names_images_as_the_tables(layout: str, tmp_path: Path) -> None:
    data, names = write_layout(layout, tmp_path / "data"), LAYOUTS[layout][1]
    workspace = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "output")
    cache, metadata = workspace.prepare_data(), workspace.metadata()
    assert metadata.name == layout
    assert set(cache.image_index) == set(names) == set(metadata.images.index)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["zip", "folder of zips", "folder of zips and tables"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_zipped_layouts_equal_the_folder(layout: str, kind: str, tmp_path: Path) -> None:
    data = write_layout(layout, tmp_path / "plain")
    if layout == "simple":
        (data / "boxes.csv").write_text("image,finding,x,y,w,h\na/x,Mass,8,8,16,4\n")
    plain = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "plain output")
    expected = plain.prepare_data()
    source = tmp_path / "zipped"
    source.mkdir()
    paths = sorted(path for path in data.rglob("*") if path.is_file())
    archives = {path: source / f"part {number if 'folder' in kind else 0}.zip" for number, path in enumerate(paths)}
    for path, archive in archives.items():
        name = path.relative_to(data)
        if "tables" in kind and path.suffix in (".csv", ".json"):
            (source / name).parent.mkdir(exist_ok=True)
            shutil.copy(path, source / name)
            continue
        with ZipFile(archive, "a") as file:
            file.write(path, name if "tables" in kind else f"My dataset/{name}")
            file.writestr(f"__MACOSX/._{path.name}", b"metadata")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    chosen = source if "folder" in kind else source / "part 0.zip"
    run = Workspace.open(data=str(chosen), preset="tiny", output_dir=tmp_path / "output")
    for cache in (run.prepare_data(), run.prepare_data()):
        assert sorted(cache.image_index) == sorted(expected.image_index)
        order = cache.indices(expected.image_index)
        assert np.array_equal(cache.load(order), expected.images)
    found, original = run.metadata(), plain.metadata()
    assert found.images.equals(original.images) and found.boxes.equals(original.boxes)
    assert (found.train_val, found.test) == (original.train_val, original.test)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


@pytest.mark.filterwarnings("ignore:.*without a column")
def test_tables_beside_archives_may_change(tmp_path: Path) -> None:
    zipped(tree(tmp_path / "data", {"images.csv": b"image,Mass\na,1\n"}) / "images.zip", {"images/a.png": png(90)})
    run = Workspace.open(data=str(tmp_path / "data"), preset="tiny", output_dir=tmp_path / "output")
    run.prepare_data()
    assert run.metadata().findings == ("Mass",)
    (tmp_path / "data" / "images.csv").write_text("image,Edema,Mass\na,1,0\n")
    run.prepare_data()
    assert run.metadata().findings == ("Edema", "Mass")


def write_chexpert(folder: Path) -> Path:
    """Write three images; Edema is uncertain in both for training."""
    tables, _, files = LAYOUTS["chexpert"]
    tree(folder, dict.fromkeys(files, png(90, kind="JPEG")))
    place = chexpert.FINDINGS.index("Edema") + 6
    for name, text in tables.items():
        header, *rows = (line.split(",") for line in text.splitlines())
        for row in rows if name == "train.csv" else []:
            row[place] = "-1.0"
        (folder / name).write_text("\n".join(map(",".join, (header, *rows))))
    return folder


def test_layout_is_chosen_once(tmp_path: Path) -> None:
    """The label of uncertain findings that the models were trained with holds for all later steps."""
    data = write_chexpert(tmp_path / "data")

    def open_run(layout: str, output: str) -> Workspace:
        return Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / output, layout=layout)

    def edema(run: Workspace) -> list[float]:
        return run.metadata().labels(CHEXPERT)[:, chexpert.FINDINGS.index("Edema")].tolist()

    for layout, labels in {"chexpert:ones": [1, 1, 1], "chexpert:zeros": [0, 0, 1]}.items():
        run = open_run(layout, layout)
        assert edema(run) == labels
        run.prepare_data()
        assert edema(open_run("", layout)) == labels
    open_run("", "detected").prepare_data()
    assert np.isnan(edema(open_run("", "detected"))[:2]).all()
    for output, other in (("chexpert:ones", "chexpert"), ("detected", "chexpert:ones"), ("detected", "simple")):
        run = open_run(other, output)
        for step in (run.prepare_data, run.cache, run.metadata):
            with pytest.raises(InputError, match=f"{output} was made with the layout chexpert.*, not {other}; choose"):
                step()


def test_guesses_are_told_once_for_each_output_folder(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", {"images/a.png": png(90), "images/b.png": png(60)})
    (data / "images.csv").write_text("image,patient,split,Mass\na.jpg,1,train,1\nb.png,2,test,0\n")

    def steps(output: str) -> list[str]:
        """Return the warnings of two notebooks, which each prepare the data and read the tables."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                run = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / output)
                run.prepare_data()
                run.test_dataset()
        return [str(warning.message) for warning in caught]

    for output in ("one", "two"):
        (told,) = steps(output)
        assert "a.jpg is a.png" in told
    (data / "images.csv").write_text("image,patient,split,Mass\na.jpg,1,train,1\nb.jpg,2,test,0\n")
    (told,) = steps("one")
    assert "a.jpg is a.png" in told and "b.jpg is b.png" in told


def test_layout_chosen_for_prepared_images_is_kept(demo_folder: Path, tmp_path: Path) -> None:
    """The folder has its own cache, so that `train` and `evaluate` begin without `prepare_data`."""
    data = shutil.copytree(demo_folder, tmp_path / "data")
    prepare(data / "images", data / "cache_64", size=64, progress=False)
    names = sorted(path.name for path in (data / "images").iterdir())[:4]
    (data / "images.csv").write_text("image,patient,split,Clip\n" + "".join(f"{k},{k},test,1\n" for k in names))
    run = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "out", layout="simple")
    assert run.test_dataset().findings == ("Clip",)
    later = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "out")
    assert later.layout == "simple" and later.test_dataset().image_index == names


def test_layout_of_a_folder_with_two_tables(demo_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(demo_folder, tmp_path / "data")
    names = sorted(path.name for path in (data / "images").iterdir())[:4]
    (data / "images.csv").write_text("image,patient,split,Clip\n" + "".join(f"{k},{k},test,1\n" for k in names))
    with pytest.raises(InputError, match="nih and simple; choose one"):
        Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "out").prepare_data()
    assert not (tmp_path / "out").exists()  # so another choice can be made
    run = Workspace.open(data=str(data), preset="tiny", output_dir=tmp_path / "out", layout="simple")
    assert run.prepare_data().image_index == names and run.metadata().findings == ("Clip",)


def test_wrong_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chexpert:twos.*chexpert:zeros"):
        Workspace.open(data=str(tmp_path), preset="tiny", layout="chexpert:twos")
    with pytest.raises(InputError, match="tiny has the layout nih, not simple"):
        Workspace.open(data="tiny", preset="tiny", layout="simple")


def test_recipe_by_role_and_name() -> None:
    workspace = Workspace.open(data="demo", preset="tiny")
    assert [workspace.recipe(role) for role in ("standard", "multires", "multires_pcm")] == list(workspace.recipes)
    assert workspace.recipe("multires_tiny") == workspace.recipes[1]
    assert workspace.recipe("resnet50") == get_recipe("resnet50")
    with pytest.raises(InputError, match="vgg"):
        workspace.recipe("vgg")


def test_folder_of_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"data": "demo of 40 patients"}')
    workspace = Workspace.open(data="tiny", preset="tiny", output_dir=tmp_path)
    for step in (workspace.prepare_data, workspace.cache):
        with pytest.raises(InputError, match=str(tmp_path)):
            step()
