"""Demo data: synthetic chest radiographs in the very layout of NIH's ChestX-ray14.

So that a small demo can learn all fourteen findings, their prevalences are raised: each is on 6 to 15 % of the
images (Hernia is on 0.2 % of NIH's), about a third of the images has none, and most of the test images with one of
the eight boxed findings carry boxes (3 % of NIH's). Prevalence figures from these data mean nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..findings import BOXED_FINDINGS, FINDINGS, NO_FINDING, SEPARATOR
from ..io import atomic_write
from .anatomy import Body
from .radiograph import synthesize_radiograph

ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


COMPANIONS = {
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
"""What tends to come with what."""


SELDOM_ALONG = ("Mass", "Nodule", "Pneumonia", "Pneumothorax")
"""Boxed findings that few others bring along; they lead twice as often, so that the test set holds enough of each."""


LASTING = frozenset(("Cardiomegaly", "Mass", "Nodule", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"))
"""Findings that are still there at the next visit, as a rule."""


PLATES = (("2500,2048", "0.168,0.168"), ("2992,2991", "0.143,0.143"), ("3056,2544", "0.139,0.139"),
          ("2048,2500", "0.171,0.171"), ("2990,2990", "0.143,0.143"))  # fmt: skip
"""Original size and pixel spacing, as NIH's detectors have them."""


@dataclass(frozen=True)
class Study:
    """One image of one patient, before it is drawn."""

    patient_id: int
    follow_up: int
    sex: str
    age: int
    view: str
    findings: tuple[str, ...]
    body: Body
    site_seed: int
    film_seed: int
    test: bool

    @property
    def image_index(self) -> str:
        """NIH's name of the image, "00000001_000.png"."""
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

    Files: `images/*.png` (1024x1024, 8-bit grey), `Data_Entry_2017_v2020.csv`, `train_val_list.txt`,
    `test_list.txt` (78:22 by patient) and `BBox_List_2017.csv` (test images only, eight findings, at most one box
    per finding and image). A patient has one to six images, 2.5 on average: 420 patients give about 1,000.

    The bytes depend on `patients` and `seed` alone, not on `workers` (default: one per processor).

    Raises:
        InputError: fewer than 2 patients, a negative seed, or the folder cannot be written or holds other files.
    """
    if seed < 0:
        raise InputError(f"the seed of demo data must not be negative, not {seed}")
    if patients < 2:
        raise InputError(f"demo data need at least 2 patients, one for training and one for the test, not {patients}")
    folder = Path(folder)
    visits = plan_studies(patients, seed=seed)
    _refuse_strangers(folder, {visit.image_index for visit in visits})
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made into a folder ({error.strerror}); choose another") from error
    boxes = _draw_all(visits, folder / "images", workers=workers, progress=progress)
    rng = np.random.default_rng([seed, 4])
    box_rows = [
        f"{visit.image_index},{'Infiltrate' if name == 'Infiltration' else name},{x},{y},{w},{h}"
        for visit, found in zip(visits, boxes, strict=True)
        if visit.test
        for name, (x, y, w, h) in found.items()
        if name in BOXED_FINDINGS and rng.random() < 0.9
    ]
    lists = [[v.image_index for v in visits if v.test is test] for test in (False, True)]
    plates = rng.integers(len(PLATES), size=len(visits))
    entries = [_entry(visit, *PLATES[plate]) for visit, plate in zip(visits, plates, strict=True)]
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
    """Draw who comes, when, with what: the images in NIH's order, not yet drawn.

    Among the diseased each finding leads in its turn, in the test set as in the other one.
    """
    rng = np.random.default_rng([seed, 0])
    is_test = np.zeros(patients, bool)
    is_test[rng.permutation(patients)[: max(1, round(0.22 * patients))]] = True
    leads = {test: _leads(rng, int((is_test == test).sum())) for test in (False, True)}
    visits = []
    for patient_id, test in enumerate(is_test.tolist(), start=1):
        visits += _history(np.random.default_rng([seed, 1, patient_id]), patient_id, leads[test].pop(), test)
    return visits


def _leads(rng: np.random.Generator, count: int) -> list[str | None]:
    """Leading finding of `count` patients, None for the healthy quarter."""
    healthy = round(0.26 * count)
    deck: list[str | None] = []
    while len(deck) < count - healthy:
        deck += rng.permutation(FINDINGS + SELDOM_ALONG).tolist()
    deck = deck[: count - healthy] + [None] * healthy
    return [deck[i] for i in rng.permutation(count)]


def _history(rng: np.random.Generator, patient_id: int, lead: str | None, test: bool) -> list[Study]:
    """All visits of one patient: lasting findings stay, acute ones come and go."""
    sex = "F" if rng.random() < 0.44 else "M"
    age = int(np.clip(rng.normal(48 if lead is None else 56, 16), 12, 92))
    body = Body.draw(rng, sex=sex, age=age)
    count = int(rng.choice(6, p=(0.38, 0.26, 0.15, 0.1, 0.06, 0.05))) + 1
    site_seed = int(rng.integers(2**31))
    bedridden = rng.random() < (0.15 if lead is None else 0.35)
    state: list[str] = []
    visits = []
    for follow_up in range(count):
        kept = [name for name in state if rng.random() < (0.9 if name in LASTING else 0.5)]
        new = [lead] if lead and lead not in kept and rng.random() < (1.0 if follow_up == 0 else 0.7) else []
        if lead and rng.random() < 0.62:
            new.append(str(rng.choice(COMPANIONS[lead])))
        if lead and rng.random() < 0.22:
            new.append(str(rng.choice(FINDINGS)))
        state = list(dict.fromkeys([*new[:1], *kept, *new[1:]]))[:4]
        if follow_up and rng.random() < 0.13:
            state = []
        findings = tuple(name for name in FINDINGS if name in state)
        view = "AP" if rng.random() < (0.8 if bedridden else 0.08) else "PA"
        film_seed = int(rng.integers(2**31))
        visits.append(Study(patient_id, follow_up, sex, age, view, findings, body, site_seed, film_seed, test))
        age = min(95, age + int(rng.random() < 0.4))
    return visits


def _entry(visit: Study, size: str, spacing: str) -> str:
    """A row of the label table."""
    labels = SEPARATOR.join(visit.findings) or NO_FINDING
    return (
        f"{visit.image_index},{labels},{visit.follow_up},{visit.patient_id},{visit.age},{visit.sex},{visit.view},"
        f"{size},{spacing}"
    )


def _refuse_strangers(folder: Path, expected: set[str]) -> None:
    """Refuse a folder that holds images of other data: mixed data would be evaluated as one."""
    present = {path.name for path in folder.glob("images/*.png") if not path.name.startswith(".")}
    if strangers := present - expected:
        raise InputError(f"{folder} already holds other images ({min(strangers)}, ...); name an empty folder")


def synthesize_study(visit: Study, images: Path) -> dict[str, tuple[float, float, float, float]]:
    """Draw one film into the folder `images` and return its boxes."""
    import cv2

    # Grain does not compress; without the search for repeats the file is no larger and written three times as fast.
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):
        quick += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]

    film = synthesize_radiograph(
        visit.body, visit.findings, view=visit.view, site_seed=visit.site_seed, film_seed=visit.film_seed
    )
    with atomic_write(images / visit.image_index) as temporary:
        temporary.write_bytes(cv2.imencode(".png", film.pixels, quick)[1].tobytes())
    return film.boxes


def _draw_all(visits: list[Study], images: Path, *, workers: int | None, progress: bool) -> list[dict]:
    """Draw every visit, in several processes where there is enough to do."""
    from tqdm.auto import tqdm

    bar = partial(tqdm, total=len(visits), desc="drawing", unit="film", disable=not progress)
    workers = min(workers or os.cpu_count() or 1, 1 + len(visits) // 24)
    draw = partial(synthesize_study, images=images)
    if workers == 1:
        return list(bar(map(draw, visits)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        return list(bar(pool.map(draw, visits, chunksize=8)))


def _one_thread() -> None:
    """Each worker has a processor of its own; OpenCV's threads would only get in each other's way."""
    import cv2

    cv2.setNumThreads(1)
