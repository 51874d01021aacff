"""Properties that must hold for any boxes, tables, images and recipes, tried on many that hypothesis makes up."""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.pixel_boxes import pixel_boxes
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from cxr_seam.data.image_io import resize_square
from cxr_seam.data.layouts.nih import load_metadata
from cxr_seam.data.layouts.tables import read_csv
from cxr_seam.data.split import train_val_split
from cxr_seam.data.transforms import (
    AffineParams,
    affine_matrix,
    affine_warp,
    eval_transform,
    imagenet_normalise,
    resize_area,
    rotation_params,
    sample_augmentation,
    train_transform,
    valid_mask,
)
from cxr_seam.errors import InputError
from cxr_seam.findings import (
    ALIASES,
    BOXED_FINDINGS,
    FINDINGS,
    NO_FINDING,
    OPERATING_POINTS,
    canonical_finding,
    split_labels,
)
from cxr_seam.metrics.matching import iobb, iou
from cxr_seam.models.checkpoint import Checkpoint, ScoreCalibration, read_header, save_checkpoint
from cxr_seam.presets import get_recipe, list_recipes
from cxr_seam.recipes import Augmentation, recipe_from_dict, recipe_to_dict

settings.register_profile(
    "same every time", deadline=None, derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck)
)
settings.load_profile("same every time")

# ---- boxes

levels = st.integers(0, 200).map(lambda level: level / 200)
heat_maps = some.arrays(np.float32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=levels.map(np.float32))
thresholds = st.one_of(st.floats(0.05, 1.0), st.sampled_from([0.5, 1.0]))
corners = st.tuples(st.integers(-60, 60), st.integers(-60, 60), st.integers(0, 50), st.integers(0, 50))
some_boxes = st.lists(corners, min_size=1, max_size=6).map(lambda boxes: np.array(boxes, dtype=np.float64))


@given(heat_maps, thresholds)
def test_boxes_contain_all_pixels_above_threshold(heatmap, threshold):
    xywh, score = pixel_boxes(heatmap, threshold=threshold)
    height, width = heatmap.shape
    assert (xywh[:, :2] >= 0).all() and (xywh[:, 2:] >= 1).all()
    assert (xywh[:, 0] + xywh[:, 2] <= width).all() and (xywh[:, 1] + xywh[:, 3] <= height).all()
    assert (np.diff(score) <= 0).all() and (score <= heatmap.max()).all()
    covered = np.zeros(heatmap.shape, bool)
    for x, y, w, h in xywh.astype(int):
        covered[y : y + h, x : x + w] = True
    peak = heatmap.max()
    assert peak == 0 or covered[heatmap >= threshold * peak].all()
    assert (len(xywh) == 0) == (peak == 0)


@given(heat_maps, thresholds, thresholds)
def test_higher_threshold_shrinks_boxes(heatmap, first, second):
    assume(heatmap.max() > 0)
    low, high = sorted((first, second))
    outer = pixel_boxes(heatmap, threshold=low).xywh
    for x, y, w, h in pixel_boxes(heatmap, threshold=high).xywh:
        fits = (outer[:, 0] <= x) & (outer[:, 1] <= y)
        fits &= (outer[:, 0] + outer[:, 2] >= x + w) & (outer[:, 1] + outer[:, 3] >= y + h)
        assert fits.any()


@given(heat_maps, thresholds, st.sampled_from([0.25, 0.5, 2.0, 1024.0]))
def test_boxes_do_not_depend_on_scale_of_map(heatmap, threshold, factor):
    plain, scaled = (pixel_boxes(m, threshold=threshold) for m in (heatmap, heatmap * np.float32(factor)))
    assert np.array_equal(plain.xywh, scaled.xywh)
    assert np.array_equal(plain.score * factor, scaled.score)


@given(heat_maps, thresholds)
def test_boxes_of_flipped_map_are_flipped(heatmap, threshold):
    def rows(boxes):
        return sorted(map(tuple, np.column_stack([boxes.xywh, boxes.score]).tolist()))

    plain = pixel_boxes(heatmap, threshold=threshold)
    turned = pixel_boxes(np.ascontiguousarray(heatmap[:, ::-1]), threshold=threshold)
    turned.xywh[:, 0] = heatmap.shape[1] - turned.xywh[:, 0] - turned.xywh[:, 2]
    assert rows(plain) == rows(turned)
    across = pixel_boxes(np.ascontiguousarray(heatmap.T), threshold=threshold)
    across.xywh[:] = across.xywh[:, [1, 0, 3, 2]]
    assert rows(plain) == rows(across)


@given(heat_maps, thresholds, st.integers(0, 5), st.integers(0, 5))
def test_boxes_move_with_padding(heatmap, threshold, down, across):
    assume(heatmap.max() > 0)
    moved = pixel_boxes(np.pad(heatmap, ((down, 0), (across, 0))), threshold=threshold)
    plain = pixel_boxes(heatmap, threshold=threshold)
    assert np.array_equal(moved.xywh, plain.xywh + [across, down, 0, 0])


@given(some_boxes, some_boxes)
def test_iou_is_symmetric_and_never_above_iobb(a, b):
    assert np.array_equal(iou(a, b), iou(b, a).T)
    assert ((iou(a, b) >= 0) & (iou(a, b) <= 1)).all() and ((iobb(a, b) >= 0) & (iobb(a, b) <= 1)).all()
    assert (iou(a, b) <= np.minimum(iobb(a, b), iobb(b, a).T) + 1e-12).all()


@given(some_boxes)
def test_overlap_of_box_with_itself(boxes):
    area = boxes[:, 2] * boxes[:, 3]
    assert np.array_equal(np.diag(iou(boxes, boxes)), (area > 0).astype(float))
    assert np.array_equal(np.diag(iobb(boxes, boxes)), (area > 0).astype(float))


@given(some_boxes, some_boxes, st.sampled_from([0.25, 4.0]), st.integers(-99, 99), st.integers(-99, 99))
def test_overlaps_do_not_depend_on_unit_origin_or_flip(a, b, scale, x, y):
    for measure in (iou, iobb):
        plain = measure(a, b)
        assert np.array_equal(measure(a * scale, b * scale), plain)
        assert np.array_equal(measure(a + [x, y, 0, 0], b + [x, y, 0, 0]), plain)
        mirrored = [np.column_stack([-boxes[:, 0] - boxes[:, 2], boxes[:, 1:]]) for boxes in (a, b)]
        assert np.array_equal(measure(*mirrored), plain)


@given(some_boxes, some_boxes, st.integers(0, 9))
def test_larger_true_box_never_lowers_iobb(a, b, margin):
    larger = b + np.array([-margin, -margin, 2 * margin, 2 * margin])
    assert (iobb(a, larger) >= iobb(a, b) - 1e-12).all()


# ---- tables

label_sets = st.sets(st.sampled_from(FINDINGS)).map(lambda names: tuple(name for name in FINDINGS if name in names))
spelt = st.sampled_from([*FINDINGS, *ALIASES])


@st.composite
def studies(draw):
    """Rows of a label table: (image, patient, findings, age), no image twice, two patients at least."""
    patients = draw(st.lists(st.integers(1, 40), min_size=2, max_size=14))
    assume(len(set(patients)) > 1)
    return [
        (f"{patient:08}_{number:03}.png", patient, draw(label_sets), draw(st.integers(0, 110)))
        for number, patient in enumerate(patients)
    ]


@st.composite
def true_boxes(draw, names):
    """Rows of a box table inside 1024 x 1024, none twice."""
    rows = draw(
        st.lists(st.tuples(st.sampled_from(names), st.sampled_from(BOXED_FINDINGS), *[st.integers(1, 500)] * 4))
    )
    return list(dict.fromkeys(rows))


def written(folder: Path, rows, boxes=(), *, order=None, quote=False, ends="\n") -> Path:
    """NIH's four tables; the first patient's images are the test images."""
    first = rows[0][1]
    table = pd.DataFrame(
        {
            "Image Index": [name for name, *_ in rows],
            "Finding Labels": ["|".join(found) or NO_FINDING for _, _, found, _ in rows],
            "Follow-up #": range(len(rows)),
            "Patient ID": [patient for _, patient, *_ in rows],
            "Patient Age": [age for *_, age in rows],
            "Patient Gender": "F",
            "View Position": "AP",
        }
    )
    table = table if order is None else table.iloc[order]
    quoting = 2 if quote else 0
    table.to_csv(folder / "Data_Entry_2017.csv", index=False, quoting=quoting, lineterminator=ends)
    listed = {"train_val": [n for n, p, *_ in rows if p != first], "test": [n for n, p, *_ in rows if p == first]}
    for which, names in listed.items():
        (folder / f"{which}_list.txt").write_text(ends.join(names), newline="")
    columns = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]
    pd.DataFrame(boxes, columns=columns).to_csv(
        folder / "BBox_List_2017.csv", index=False, quoting=quoting, lineterminator=ends
    )
    return folder


@given(st.data(), studies(), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_tables_round_trip(data, rows, quote, ends):
    boxes = data.draw(true_boxes([name for name, *_ in rows]))
    with tempfile.TemporaryDirectory() as folder:
        tables = load_metadata(written(Path(folder), rows, boxes, quote=quote, ends=ends))
    matrix = tables.labels([name for name, *_ in rows])
    assert [tuple(f for f, on in zip(FINDINGS, row, strict=True) if on) for row in matrix] == [r[2] for r in rows]
    assert tables.images["patient_id"].tolist() == [patient for _, patient, *_ in rows]
    assert tables.images["age"].tolist() == [age for *_, age in rows]
    assert list(tables.boxes.itertuples(index=False, name=None)) == [
        (name, finding, *(value / 1024 for value in xywh)) for name, finding, *xywh in boxes
    ]
    assert set(tables.train_val) | set(tables.test) == {name for name, *_ in rows}


@given(st.data(), studies(), st.floats(0.01, 0.9), st.integers(0, 20), st.integers(0, 99))
def test_train_val_split_by_patient(data, rows, fraction, num_normal_images, seed):
    options = {"validation_fraction": fraction, "num_normal_images": num_normal_images, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        tables = load_metadata(written(Path(folder), rows))
    patient = {name: number for name, number, *_ in rows}
    diseased = {name for name, _, found, _ in rows if found}
    available = set(tables.train_val)
    if not available & diseased and not num_normal_images:
        with pytest.raises(InputError):
            train_val_split(tables, **options)
        return
    train, validation = train_val_split(tables, **options)
    chosen = {*train, *validation}
    assert len(chosen) == len(train) + len(validation) and chosen <= available
    assert not {patient[name] for name in train} & {patient[name] for name in validation}
    assert chosen & diseased == available & diseased  # every image with a finding
    assert len(chosen - diseased) == min(num_normal_images, len(available - diseased))
    assert train and (validation or len({patient[name] for name in chosen}) == 1)


@given(st.data(), studies(), st.integers(0, 9))
def test_split_does_not_depend_on_row_order(data, rows, seed):
    """With all disease-free images the choice of patients is a question of their numbers alone."""
    options = {"validation_fraction": 0.4, "num_normal_images": 99, "seed": seed}
    order = data.draw(st.permutations(range(len(rows))))
    answers = []
    for shuffled in (None, order):
        with tempfile.TemporaryDirectory() as folder:
            tables = load_metadata(written(Path(folder), rows, order=shuffled))
        answers.append([set(part) for part in train_val_split(tables, **options)])
    assert answers[0] == answers[1]


@given(st.lists(spelt, min_size=1, max_size=5), st.text(" \t", max_size=3))
def test_labels_are_read_whole_however_they_are_spaced(names, space):
    text = "|".join(f"{space}{name}{space}" for name in names)
    assert split_labels(text) == tuple(canonical_finding(f"{name}{space}") for name in names)


@given(st.text(max_size=20))
def test_a_finding_is_one_of_the_fourteen_or_refused(text):
    if text.strip() in {*FINDINGS, *ALIASES}:
        assert canonical_finding(text) in FINDINGS
    else:
        with pytest.raises(InputError, match="Atelectasis"):
            canonical_finding(text)


cells = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r\n"), max_size=8)


@given(st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=6)))
def test_cells_come_back_as_pandas_wrote_them(rows):
    header = [f"column {place}" for place in range(len(rows[0]))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        pd.DataFrame(rows, columns=header).to_csv(path, index=False, quoting=1)
        read = read_csv(path)
    assert list(read.columns) == header and read.to_numpy().tolist() == rows


# ---- images and their transforms

some_images = some.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(1), st.just(16), st.just(16)))
augmentations = st.builds(
    Augmentation,
    crop_area=st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)).map(lambda pair: tuple(sorted(pair))),
    crop_aspect=st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)).map(lambda pair: tuple(sorted(pair))),
    flip_probability=st.floats(0, 1),
    rotation_degrees=st.floats(0, 90),
)
STILL = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip_probability=0.0, rotation_degrees=0.0)


def sampled(count: int, augmentation: Augmentation, seed: int) -> AffineParams:
    return sample_augmentation(count, augmentation, generator=torch.Generator().manual_seed(seed))


@given(some_images, augmentations, st.integers(0, 999))
def test_augmented_values_lie_between_black_and_the_brightest(pixels, augmentation, seed):
    batch = torch.from_numpy(pixels)
    augmented = train_transform(batch, sampled(len(batch), augmentation, seed), size=16)
    assert augmented.shape == (len(batch), 3, 16, 16) and augmented.dtype == torch.float32
    black, white = (imagenet_normalise(torch.full((1, 1, 1, 1), value)) for value in (0.0, 1.0))
    brightest = black + (white - black) * (batch.float().amax(dim=(1, 2, 3), keepdim=True) / 255)
    assert (augmented >= black - 1e-4).all() and (augmented <= brightest + 1e-4).all()


@given(augmentations, st.integers(1, 40), st.integers(0, 999))
def test_sampled_augmentation_stays_within_the_recipe(augmentation, count, seed):
    params = sampled(count, augmentation, seed)
    assert (params.translation.abs() <= 1 - params.scale + 1e-6).all()  # the crop lies in the image
    assert (params.angle.abs() <= augmentation.rotation_degrees + 1e-4).all()
    width, height = params.scale.double().unbind(dim=1)
    area, aspect, whole = width * height, width / height, (width == 1) & (height == 1)  # no sampled crop fitted
    for values, (low, high) in ((area, augmentation.crop_area), (aspect, augmentation.crop_aspect)):
        assert (((values >= low - 1e-4) & (values <= high + 1e-4)) | whole).all()
    assert set(params.flip.tolist()) <= {-1.0, 1.0}
    assert 0 < augmentation.flip_probability < 1 or len(set(params.flip.tolist())) == 1


@given(some_images, st.integers(0, 999))
def test_an_augmentation_that_changes_nothing_gives_the_image(pixels, seed):
    batch = torch.from_numpy(pixels)
    same = train_transform(batch, sampled(len(batch), STILL, seed), size=16)
    assert torch.allclose(same, eval_transform(batch, size=16), atol=1e-4)


@given(some_images)
def test_an_image_flipped_twice_is_itself(pixels):
    grey = torch.from_numpy(pixels).float() / 255
    still = rotation_params(torch.zeros(len(grey)))
    flip = AffineParams(still.angle, still.scale, still.translation, -still.flip)
    once = affine_warp(grey, flip)
    assert torch.allclose(once, grey.flip(-1), atol=1e-5) and torch.allclose(affine_warp(once, flip), grey, atol=1e-5)


@given(st.floats(-180, 180), st.integers(5, 20), st.integers(5, 20))
def test_a_constant_stays_itself_on_the_valid_pixels_of_a_rotation(angle, height, width):
    rotation, opposite = (rotation_params(torch.tensor([value], dtype=torch.float32)) for value in (angle, -angle))
    shape = {"height": height, "width": width, "device": torch.device("cpu")}
    valid, turned = valid_mask(rotation, **shape), affine_warp(torch.full((1, 1, height, width), 0.5), rotation)
    assert valid.dtype == torch.bool and valid.shape == turned.shape
    assert turned.max() <= 0.5 + 1e-5 and turned.min() >= 0
    assert ((turned - 0.5).abs() < 1e-3)[valid].all()
    assert (valid != valid_mask(opposite, **shape).flip(-1)).float().mean() < 0.05  # rounding at the rim


@given(some_images, st.integers(-3, 3))
def test_quarter_turns_are_exact(pixels, quarters):
    grey = torch.from_numpy(pixels).float() / 255
    turned = affine_warp(grey, rotation_params(torch.full((len(grey),), 90.0 * quarters)))
    assert torch.allclose(turned, grey.rot90(quarters, dims=(2, 3)), atol=1e-4)


@given(st.integers(0, 999), augmentations)
def test_the_centre_comes_from_the_centre_of_the_crop(seed, augmentation):
    params = sampled(8, augmentation, seed)
    assert torch.allclose(affine_matrix(params, height=32, width=32)[:, :, 2], params.translation, atol=1e-5)


@given(some.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))), st.integers(1, 40))
def test_shrinking_stays_between_the_darkest_and_the_brightest(pixels, size):
    small = resize_square(pixels, size)
    assert small.shape == (size, size) and small.dtype == np.uint8
    assert small.min() >= pixels.min() and small.max() <= pixels.max()
    grey = resize_area(torch.from_numpy(pixels)[None, None], size)
    assert grey.min() >= 0 and grey.max() <= 1 and grey.shape == (1, 1, size, size)


# ---- recipes and checkpoints

recipe_names = st.sampled_from(sorted(list_recipes()))


def leaves(value, path=()):
    """Every field of a recipe that holds no other fields: its path and value."""
    for entry in fields(value):
        inner = getattr(value, entry.name)
        if is_dataclass(inner):
            yield from leaves(inner, (*path, entry.name))
        else:
            yield (*path, entry.name), inner


def with_field(recipe, path, value):
    """The recipe with one field replaced."""
    if len(path) > 1:
        value = with_field(getattr(recipe, path[0]), path[1:], value)
    return replace(recipe, **{path[0]: value})


def others(value):
    """Values of the same kind; a field accepts at least one of them."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 8]
    if isinstance(value, float):
        return [value / 2, value * 2, value + 0.25]
    if isinstance(value, tuple):
        return [(other, *value[1:]) for other in others(value[0])]
    words = ("adamw", "constant", "plateau", "pcam", "lse", "none", "output", "min", "labels", "moments", "cam")
    return [f"{value}_x", *words]


@given(st.data(), recipe_names)
def test_any_changed_field_of_a_recipe_survives_json(data, name):
    recipe = get_recipe(name)
    path, value = data.draw(st.sampled_from([leaf for leaf in leaves(recipe) if leaf[1] is not None]))
    accepted = []
    for other in others(value):
        with suppress(InputError):
            accepted.append(with_field(recipe, path, other))
    changed = next(variant for variant in accepted if variant != recipe)
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(changed)))) == changed
    different = {key for key, one in recipe_to_dict(recipe).items() if one != recipe_to_dict(changed)[key]}
    assert different == {path[0]}


odd_values = st.sampled_from(
    [None, "", "x", [], [0.5, 0.9], [1, "x"], {"x": 1}, True, -1, 10**400, math.nan, math.inf, -math.inf]
)


@given(recipe_names, odd_values)
def test_a_field_of_another_type_is_refused_or_read_as_what_it_is(name, odd):
    recipe = get_recipe(name)
    for path, _ in leaves(recipe):
        values = json.loads(json.dumps(recipe_to_dict(recipe)))
        part = values if len(path) == 1 else values[path[0]]
        part[path[-1]] = odd
        try:
            read = recipe_from_dict(values)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert json.loads(json.dumps(recipe_to_dict(read), allow_nan=False)) == values


numbers = st.one_of(st.none(), st.floats(0, 1))
score_values = st.builds(
    ScoreCalibration,
    st.integers(1, 10**9),
    st.integers(1, 10**9),
    slope=st.floats(0, 1e300, exclude_min=True),
    intercept=st.floats(-1e300, 1e300),
    thresholds=st.dictionaries(st.sampled_from(list(OPERATING_POINTS)), numbers),
)


@given(
    recipe_names,
    st.integers(0, 99),
    st.dictionaries(st.text(max_size=9), numbers),
    st.dictionaries(st.text(min_size=1, max_size=9), score_values, min_size=1),
)
@settings(max_examples=25)
def test_what_a_checkpoint_says_of_itself_is_read_as_it_was_written(name, epoch, metrics, scores):
    findings = tuple(scores)
    metadata = Checkpoint(get_recipe(name), findings=findings, epoch=epoch, metrics=metrics, scores=scores)
    weights = SimpleNamespace(state_dict=lambda: {"w": torch.ones(2)}, findings=findings)
    with tempfile.TemporaryDirectory() as folder:
        assert read_header(save_checkpoint(Path(folder) / "a.safetensors", weights, metadata=metadata)) == metadata
