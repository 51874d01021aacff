"""The demo data: layout and reproducibility of the folder, and the appearance of each finding."""

from __future__ import annotations

import csv
import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cxr_seam.errors import InputError
from cxr_seam.findings import BOXED_FINDINGS, FINDINGS
from cxr_seam.synthetic.anatomy import Body, build_thorax
from cxr_seam.synthetic.dataset import plan_studies, write_demo_data
from cxr_seam.synthetic.radiograph import SIZE, SyntheticRadiograph, synthesize_radiograph

OFFICIAL_ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_data(tmp_path_factory.mktemp("demo"), patients=14, seed=5, workers=1, progress=False)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.md5(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


def person(seed: int = 3) -> Body:
    return Body.sample(np.random.default_rng(seed), sex="M", age=55)


@cache
def healthy(seed: int) -> SyntheticRadiograph:
    return synthesize_radiograph(person(), [], site_seed=seed, image_seed=seed)


def ill_with(finding: str, seed: int) -> SyntheticRadiograph:
    return synthesize_radiograph(person(), [finding], site_seed=seed, image_seed=seed)


def inside(radiograph: SyntheticRadiograph, box: tuple[float, ...]) -> np.ndarray:
    x, y, w, h = (round(v) for v in box)
    return radiograph.pixels[y : y + h, x : x + w].astype(float)


def test_label_table_columns_and_rows(demo: Path) -> None:
    assert (demo / "Data_Entry_2017_v2020.csv").read_text().splitlines()[0] == OFFICIAL_ENTRY_HEADER
    rows = rows_of(demo / "Data_Entry_2017_v2020.csv")[1:]
    assert {len(row) for row in rows} == {11}  # the two bracketed columns hold two values each
    assert [row[0] for row in rows] == sorted(path.name for path in (demo / "images").iterdir())
    for name, labels, follow_up, patient, age, sex, view, *_ in rows:
        assert name == f"{int(patient):08d}_{int(follow_up):03d}.png"
        assert labels == "No Finding" or set(labels.split("|")) <= set(FINDINGS)
        assert 0 < int(age) < 100 and sex in "MF" and view in ("PA", "AP")


def test_png_format(demo: Path) -> None:
    from PIL import Image

    for path in list((demo / "images").iterdir())[:4]:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (1024, 1024))


def test_lists_share_no_patient(demo: Path) -> None:
    lists = [(demo / name).read_text() for name in ("train_val_list.txt", "test_list.txt")]
    assert not any(text.endswith("\n") for text in lists)
    train, test = (set(text.split("\n")) for text in lists)
    assert not {name[:8] for name in train} & {name[:8] for name in test}
    assert train | test == {path.name for path in (demo / "images").iterdir()}
    assert len({name[:8] for name in test}) == round(0.22 * 14)


def test_box_table(demo: Path) -> None:
    header, *rows = (demo / "BBox_List_2017.csv").read_text().splitlines()
    assert header == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    labels = {row[0]: row[1].split("|") for row in rows_of(demo / "Data_Entry_2017_v2020.csv")[1:]}
    test = set((demo / "test_list.txt").read_text().split("\n"))
    seen = set()
    for name, finding, *box in csv.reader(rows):
        x, y, w, h = map(float, box)
        assert name in test and (name, finding) not in seen
        assert finding != "Infiltration"
        assert {"Infiltrate": "Infiltration"}.get(finding, finding) in set(labels[name]) & set(BOXED_FINDINGS)
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= SIZE and y + h <= SIZE
        seen.add((name, finding))
    assert seen


def test_bytes_independent_of_workers(demo: Path, tmp_path: Path) -> None:
    again = write_demo_data(tmp_path, patients=14, seed=5, workers=2, progress=False)
    assert digest(again) == digest(demo)


def test_seed_changes_images(tmp_path: Path) -> None:
    one, other = (write_demo_data(tmp_path / str(seed), patients=2, seed=seed, progress=False) for seed in (1, 2))
    name = "images/00000001_000.png"
    assert (one / name).read_bytes() != (other / name).read_bytes()


def test_write_demo_data_refuses_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2 patients"):
        write_demo_data(tmp_path, patients=1)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "99999999_000.png").touch()
    with pytest.raises(InputError, match="99999999_000.png"):
        write_demo_data(tmp_path, patients=2)


def test_plan_studies_prevalence() -> None:
    studies = plan_studies(420, seed=0)
    counts = {name: sum(name in v.findings for v in studies) for name in FINDINGS}
    assert min(counts.values()) >= 0.05 * len(studies)
    assert 0.27 < np.mean([not v.findings for v in studies]) < 0.37
    assert max(len(v.findings) for v in studies) <= 4
    test = [v for v in studies if v.test]
    assert all(sum(name in v.findings for v in test) >= 8 for name in FINDINGS)


def test_follow_ups_share_anatomy() -> None:
    studies = plan_studies(30, seed=2)
    for patient in {v.patient_id for v in studies}:
        own = [v for v in studies if v.patient_id == patient]
        assert [v.follow_up for v in own] == list(range(len(own)))
        assert len({v.body for v in own}) == 1 and len({v.sex for v in own}) == 1
        assert all(a.age <= b.age for a, b in zip(own, own[1:], strict=False))


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_cardiothoracic_ratio(view: str) -> None:
    for seed in range(3):
        ratios = {
            findings: synthesize_radiograph(
                person(seed), findings, view=view, image_seed=seed
            ).chest.thorax.cardiothoracic_ratio
            for findings in ((), ("Cardiomegaly",))
        }
        assert 0.3 < ratios[()] < 0.5 < ratios[("Cardiomegaly",)] < 0.75


def test_cardiomegaly_box_width() -> None:
    radiograph = synthesize_radiograph(person(), ["Cardiomegaly"], image_seed=1)
    ends = radiograph.chest.thorax.heart[
        [radiograph.chest.thorax.heart[:, 0].argmin(), radiograph.chest.thorax.heart[:, 0].argmax()]
    ]
    placed = ends @ radiograph.grid_to_image[:, :2].T + radiograph.grid_to_image[:, 2]
    assert radiograph.boxes["Cardiomegaly"][2] == pytest.approx(np.ptp(placed[:, 0]), rel=0.03)


BRIGHTER = [f for f in FINDINGS if f not in ("Pneumothorax", "Emphysema", "Hernia")]


@pytest.mark.parametrize("finding", BRIGHTER)
def test_opacity_brightens_box(finding: str) -> None:
    for seed in (1, 2):
        ill, well = ill_with(finding, seed), healthy(seed)
        box = ill.boxes[finding]
        assert inside(ill, box).mean() > inside(well, box).mean() + 3


def test_pneumothorax_rim() -> None:
    ill, well = ill_with("Pneumothorax", 1), healthy(1)
    rim = (ill.chest.vessel_visibility < 0.05) & (ill.chest.thorax.air > 0.2)
    assert rim.sum() > 500
    assert ill.chest.absorption()[rim].mean() < well.chest.absorption()[rim].mean() - 0.05


def test_emphysema() -> None:
    well, ill = build_thorax(person()), build_thorax(person(), hyperinflation=1.0)
    assert min(ill.domes) > max(well.domes)
    assert ill.angles[0] - ill.domes[0] < 0.6 * (well.angles[0] - well.domes[0])
    lungs = well.lungs[0] & ill.lungs[0]
    assert (ill.solid - ill.air)[lungs].mean() < (well.solid - well.air)[lungs].mean() - 0.03


def test_hernia_gas_above_fluid() -> None:
    for seed in range(3):
        ill, well = ill_with("Hernia", seed), healthy(seed)
        x, y, w, h = ill.boxes["Hernia"]
        change = ill.pixels.astype(float) - well.pixels
        column = change[int(y) : int(y + h), int(x + 0.4 * w) : int(x + 0.6 * w)].mean(1)
        assert column[int(0.2 * h) : int(0.35 * h)].mean() < 0 < column[int(0.75 * h) : int(0.9 * h)].mean()


def test_nodule_and_mass_sizes() -> None:
    for seed in range(3):
        well = healthy(seed)
        for finding, smallest, largest in (("Nodule", 30, 80), ("Mass", 80, 220)):  # 3 cm are about 80 pixels
            ill = ill_with(finding, seed)
            x, y, w, h = ill.boxes[finding]
            assert smallest <= min(w, h) and max(w, h) <= largest
            margin = 0.15 * max(w, h) + 8
            outside = np.ones((SIZE, SIZE), bool)
            top, left = int(max(0, y - margin)), int(max(0, x - margin))
            outside[top : int(y + h + margin), left : int(x + w + margin)] = False
            assert np.array_equal(ill.pixels[outside], well.pixels[outside])


def test_box_positions_vary() -> None:
    for finding in ("Nodule", "Mass", "Infiltration", "Atelectasis", "Pneumonia"):
        radiographs = [ill_with(finding, seed) for seed in range(8)]
        centres = np.array(
            [[x + w / 2, y + h / 2] for x, y, w, h in (radiograph.boxes[finding] for radiograph in radiographs)]
        )
        assert (centres.std(0) > 50).all()
        assert {bool(x > SIZE / 2) for x in centres[:, 0]} == {True, False}
