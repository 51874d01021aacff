"""Write synthetic chest radiographs in the layout of NIH ChestX-ray14, for the demo and the tests.

The prevalences are raised, so that a small demo can learn all fourteen findings: each is on 6 to 15 % of the images
(Hernia is on 0.2 % of NIH's), about a third of the images has none, and most test images with one of the eight boxed
findings have boxes (3 % of NIH's). Prevalences of these data mean nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from ..errors import InputError
from ..findings import BOXED_FINDINGS, FINDINGS, NO_FINDING, SEPARATOR
from ..io import atomic_write, user_path
from .anatomy import Body
from .radiograph import synthesize_radiograph

ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)

BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"

COMORBIDITIES = {
    "Atelectasis": ("Effusion", "Infiltration", "Cardiomegaly", "Hernia"),
    "Cardiomegaly": ("Effusion", "Edema", "Atelectasis"),
    "Effusion": ("Atelectasis", "Consolidation", "Cardiomegaly", "Infiltration"),
    "Infiltration": ("Atelectasis", "Edema", "Nodule", "Effusion"),
    "Mass": ("Nodule", "Effusion", "Pleural_Thickening", "Atelectasis"),
    "Nodule": ("Mass", "Infiltration", "Emphysema", "Fibrosis"),
    "Pneumonia": ("Infiltration", "Effusion", "Edema", "Consolidation"),
    "Pneumothorax": ("Emphysema", "Effusion", "Atelectasis", "Consolidation"),
    "Consolidation": ("Effusion", "Pneumonia", "Infiltration"),
    "Edema": ("Cardiomegaly", "Effusion", "Pneumonia"),
    "Emphysema": ("Pneumothorax", "Fibrosis", "Nodule"),
    "Fibrosis": ("Pleural_Thickening", "Emphysema", "Infiltration", "Hernia"),
    "Pleural_Thickening": ("Fibrosis", "Effusion", "Mass"),
    "Hernia": ("Cardiomegaly", "Atelectasis", "Fibrosis"),
}
"""Findings that often occur with a finding."""

SELDOM_COMORBID = ("Mass", "Nodule", "Pneumonia", "Pneumothorax")
"""Boxed findings that seldom occur with others; they are leading findings twice as often."""

CHRONIC = frozenset(("Cardiomegaly", "Mass", "Nodule", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"))
"""Findings that usually remain at the next study."""

DETECTORS = (
    "2500,2048,0.168,0.168", "2992,2991,0.143,0.143", "3056,2544,0.139,0.139", "2048,2500,0.171,0.171",
    "2990,2990,0.143,0.143",
)  # fmt: skip
"""Original size and pixel spacing of NIH's detectors."""


@dataclass(frozen=True)
class Study:
    """The description of one image of one patient."""

    patient_id: int
    follow_up: int
    sex: str
    age: int
    view: str
    findings: tuple[str, ...]
    body: Body
    site_seed: int
    image_seed: int
    test: bool

    @property
    def image_index(self) -> str:
        """Name of the image as in NIH's data, "00000001_000.png"."""
        return f"{self.patient_id:08d}_{self.follow_up:03d}.png"


def write_demo_data(
    folder: str | os.PathLike[str],
    *,
    patients: int = 420,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write synthetic radiographs with labels, official-style lists and boxes; return the folder.

    Files: `images/*.png` (1024 x 1024, 8-bit grey), `Data_Entry_2017_v2020.csv`, `train_val_list.txt`,
    `test_list.txt` (78:22 by patient) and `BBox_List_2017.csv` (test images only, eight findings, at most one box
    per finding and image). A patient has one to six images, 2.5 on average: 420 patients give about 1,000.

    The bytes depend on `patients` and `seed`, not on `workers` (default: one per processor).

    Raises:
        InputError: fewer than 2 patients, a negative seed, or the folder cannot be written or holds other files.
    """
    if seed < 0:
        raise InputError(f"the seed of demo data must not be negative, not {seed}")
    if patients < 2:
        raise InputError(f"demo data need at least 2 patients, one for training and one for the test, not {patients}")
    folder = user_path(folder)
    studies = plan_studies(patients, seed=seed)
    present = {path.name for path in folder.glob("images/*.png") if not path.name.startswith(".")}
    if others := present - {study.image_index for study in studies}:
        raise InputError(f"{folder} already holds other images ({min(others)}, ...); name an empty folder")
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made into a folder ({error.strerror}); choose another") from error
    boxes = _synthesize_all(studies, folder / "images", workers=workers, progress=progress)
    rng = np.random.default_rng([seed, 4])
    box_rows = [
        f"{study.image_index},{'Infiltrate' if name == 'Infiltration' else name},{x},{y},{w},{h}"
        for study, found in zip(studies, boxes, strict=True)
        if study.test
        for name, (x, y, w, h) in found.items()
        if name in BOXED_FINDINGS and rng.random() < 0.9
    ]
    lists = [[study.image_index for study in studies if study.test is test] for test in (False, True)]
    detectors = rng.integers(len(DETECTORS), size=len(studies))
    entries = [
        f"{v.image_index},{SEPARATOR.join(v.findings) or NO_FINDING},{v.follow_up},{v.patient_id},{v.age},{v.sex},"
        f"{v.view},{DETECTORS[number]}"
        for v, number in zip(studies, detectors, strict=True)
    ]
    for name, text in {
        "Data_Entry_2017_v2020.csv": "\n".join([ENTRY_HEADER, *entries, ""]),
        "train_val_list.txt": "\n".join(lists[0]),
        "test_list.txt": "\n".join(lists[1]),
        "BBox_List_2017.csv": "\n".join([BOX_HEADER, *box_rows, ""]),
    }.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, newline="\n")
    return folder


def plan_studies(patients: int, *, seed: int = 0) -> list[Study]:
    """Sample all studies of all patients, in NIH's order.

    Each diseased patient has a leading finding; all findings lead equally often, in the test list and in the other.
    """
    rng = np.random.default_rng([seed, 0])
    is_test = np.zeros(patients, bool)
    is_test[rng.permutation(patients)[: max(1, round(0.22 * patients))]] = True
    leads = {test: _leads(rng, int((is_test == test).sum())) for test in (False, True)}
    studies = []
    for patient_id, test in enumerate(is_test.tolist(), start=1):
        studies += _history(np.random.default_rng([seed, 1, patient_id]), patient_id, leads[test].pop(), test)
    return studies


def _leads(rng: np.random.Generator, count: int) -> list[str | None]:
    """Sample the leading finding of `count` patients, None for a healthy quarter."""
    healthy = round(0.26 * count)
    deck: list[str | None] = []
    while len(deck) < count - healthy:
        deck += rng.permutation(FINDINGS + SELDOM_COMORBID).tolist()
    deck = deck[: count - healthy] + [None] * healthy
    return [deck[i] for i in rng.permutation(count)]


def _history(rng: np.random.Generator, patient_id: int, lead: str | None, test: bool) -> list[Study]:
    """Sample all studies of one patient: chronic findings remain, acute ones come and go."""
    sex = "F" if rng.random() < 0.44 else "M"
    age = int(np.clip(rng.normal(48 if lead is None else 56, 16), 12, 92))
    body = Body.sample(rng, sex=sex, age=age)
    count = int(rng.choice(6, p=(0.38, 0.26, 0.15, 0.1, 0.06, 0.05))) + 1
    site_seed = int(rng.integers(2**31))
    bedridden = rng.random() < (0.15 if lead is None else 0.35)
    state: list[str] = []
    studies = []
    for follow_up in range(count):
        remaining = [name for name in state if rng.random() < (0.9 if name in CHRONIC else 0.5)]
        new = [lead] if lead and lead not in remaining and rng.random() < (1.0 if follow_up == 0 else 0.7) else []
        if lead and rng.random() < 0.62:
            new.append(str(rng.choice(COMORBIDITIES[lead])))
        if lead and rng.random() < 0.22:
            new.append(str(rng.choice(FINDINGS)))
        state = list(dict.fromkeys([*new[:1], *remaining, *new[1:]]))[:4]
        if follow_up and rng.random() < 0.13:
            state = []
        findings = tuple(name for name in FINDINGS if name in state)
        view = "AP" if rng.random() < (0.8 if bedridden else 0.08) else "PA"
        image_seed = int(rng.integers(2**31))
        studies.append(Study(patient_id, follow_up, sex, age, view, findings, body, site_seed, image_seed, test))
        age = min(95, age + int(rng.random() < 0.4))
    return studies


def synthesize_study(study: Study, images: Path) -> dict[str, tuple[float, float, float, float]]:
    """Write the image of one study into the folder `images` and return its boxes in pixels."""
    # noise does not compress; Huffman coding alone gives the same size three times as fast
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):
        quick += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    radiograph = synthesize_radiograph(
        study.body, study.findings, view=study.view, site_seed=study.site_seed, image_seed=study.image_seed
    )
    with atomic_write(images / study.image_index) as temporary:
        temporary.write_bytes(cv2.imencode(".png", radiograph.pixels, quick)[1].tobytes())
    return radiograph.boxes


def _synthesize_all(studies: list[Study], images: Path, *, workers: int | None, progress: bool) -> list[dict]:
    """Synthesize every study, in several processes if there are many."""
    bar = partial(tqdm, total=len(studies), desc="synthesize", unit="image", disable=not progress)
    workers = min(workers or os.cpu_count() or 1, 1 + len(studies) // 24)
    synthesize = partial(synthesize_study, images=images)
    if workers == 1:
        return list(bar(map(synthesize, studies)))
    one_thread = {"initializer": cv2.setNumThreads, "initargs": (1,)}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), **one_thread) as pool:
        return list(bar(pool.map(synthesize, studies, chunksize=8)))
