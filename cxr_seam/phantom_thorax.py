"""A synthetic chest: one person's anatomy and how much each part of it absorbs.

A radiograph is a shadow, so the parts are kept as thicknesses that add up: soft tissue, heart, spine and bones
absorb, the air of the lungs takes absorption away. Findings (phantom_findings.py) fill or empty that air, and
phantom_film.py turns the sum into grey values.

Drawn on a grid of 512 x 512 pixels, the patient's midline at x = 256, the patient's right side at the image's
left, as radiographs hang. "Side" 0 is the patient's right, 1 the left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .phantom_bones import skeleton
from .phantom_pens import GRID, MIDLINE, SIDES, branches, clouds, fill, smooth_outline, soften, strokes


@dataclass(frozen=True)
class Body:
    """What stays the same in all films of one person; lengths in grid pixels."""

    half_width: float
    apex: float
    dome: float  # top of the right diaphragm; the left one lies `dome_drop` lower
    dome_drop: float
    angle_depth: float  # costophrenic angle below the dome
    heart_ratio: float  # width of heart / width of thorax when healthy
    heart_tilt: float  # share of the heart's width that lies left of the midline
    aortic_knob: float
    flesh: float  # soft tissue outside the ribs
    breasts: float  # absorption of the breast shadows, 0 for none
    rib_contrast: float
    lean: float  # sideways bow of the spine
    texture: int  # seed of vessels, ribs' wobble and bowel gas

    @staticmethod
    def draw(rng: np.random.Generator, *, sex: str = "M", age: int = 50) -> Body:
        """Draw a plausible person; `sex` is "M" or "F", `age` in years."""
        female = sex == "F"
        half_width = rng.uniform(176, 200) - (8 if female else 0)
        dome = rng.uniform(338, 368)
        return Body(
            half_width=half_width,
            apex=rng.uniform(70, 92),
            dome=dome,
            dome_drop=rng.uniform(6, 18),
            angle_depth=rng.uniform(42, 58),
            heart_ratio=rng.uniform(0.39, 0.455),
            heart_tilt=rng.uniform(0.63, 0.70),
            aortic_knob=rng.uniform(15, 19) + 5 * max(0, age - 45) / 40,
            flesh=rng.uniform(14, 34),
            breasts=rng.uniform(0.05, 0.13) if female and rng.random() < 0.85 else 0.0,
            rib_contrast=rng.uniform(0.075, 0.115),
            lean=rng.normal(0, 3),
            texture=int(rng.integers(2**31)),
        )


@dataclass(frozen=True)
class Thorax:
    """The healthy chest as layers of absorption, float32 (512, 512) each, and its landmarks.

    The film of the healthy chest is `solid - air + vessels + bones`, in units where about 1 is the mediastinum.
    """

    body: Body
    solid: np.ndarray  # soft tissue, heart, mediastinum, abdomen
    air: np.ndarray  # absorption that the lungs' air takes away, >= 0
    vessels: np.ndarray  # branching vessels, within the lungs
    bones: np.ndarray
    lungs: tuple[np.ndarray, np.ndarray]  # bool masks (right, left), heart not cut out
    heart: np.ndarray  # outline of the heart, (n, 2) points x, y
    domes: tuple[float, float]  # y of the diaphragm's tops
    angles: tuple[float, float]  # y of the costophrenic angles
    hila: tuple[tuple[float, float], tuple[float, float]]
    rows: tuple[np.ndarray, np.ndarray] = field(repr=False)  # (512, 2) first and last x of each lung, NaN outside

    @property
    def cardiothoracic_ratio(self) -> float:
        """Width of the heart over the widest inner width of the thorax; above 0.5 is too large on a PA film."""
        widest = max(np.nanmax(self.rows[1][:, 1]) - np.nanmin(self.rows[0][:, 0]), 1.0)
        return float(np.ptp(self.heart[:, 0]) / widest)

    def point(self, side: int, *, height: float, depth: float) -> tuple[float, float]:
        """Place in a lung: `height` 0 at the apex to 1 at the dome, `depth` 0 at the mediastinum to 1 at the ribs."""
        y = self.body.apex + height * (self.domes[side] - self.body.apex)
        first, last = self.rows[side][int(np.clip(y, self.body.apex + 3, self.angles[side] - 6))]
        inner, outer = (last, first) if side == 0 else (first, last)
        return float(inner + depth * (outer - inner)), float(y)


def build_thorax(
    body: Body, *, view: str = "PA", heart_ratio: float | None = None, hyperinflation: float = 0.0
) -> Thorax:
    """Draw the healthy chest of one person.

    `view` "AP" widens the heart a little, lifts the diaphragm and leaves the shoulder blades over the lungs.
    `heart_ratio` overrides the cardiothoracic ratio; `hyperinflation` 0..1 flattens and lowers the diaphragm,
    narrows the heart and thins the vessels, as in emphysema.
    """
    rng = np.random.default_rng(body.texture)
    supine = view == "AP"
    width = body.half_width * (1 + 0.05 * hyperinflation)
    lift = (10 if supine else 0) - 30 * hyperinflation
    domes = (body.dome - lift, body.dome - lift + body.dome_drop)
    depth = body.angle_depth * (1 - 0.55 * hyperinflation)
    angles = (domes[0] + depth, domes[1] + depth - 3)
    height = domes[0] - body.apex
    if heart_ratio is None:
        heart_ratio = (body.heart_ratio + (0.025 if supine else 0)) * (1 - 0.16 * hyperinflation)

    outlines = [_lung_outline(body, side, width, domes[side], angles[side]) for side in (0, 1)]
    soft = [fill(outline) for outline in outlines]
    heart = _heart_outline(body, width, height, domes, heart_ratio)
    solid, central = _soft_tissue(rng, body, width, height, domes, angles, outlines, heart, soft)
    hila = ((MIDLINE - 0.25 * width, body.apex + 0.50 * height), (MIDLINE + 0.24 * width, body.apex + 0.46 * height))
    air, vessels = _lung_fields(rng, soft, central, hila, width, hyperinflation)
    bones = skeleton(rng, body, width=width, height=height, bottom=angles[0], supine=supine)
    lungs = tuple(mask > 0.5 for mask in soft)
    return Thorax(
        body, solid, air, vessels, bones, lungs, heart, domes, angles, hila, tuple(_extent(mask) for mask in lungs)
    )


def _extent(mask: np.ndarray) -> np.ndarray:
    """First and last column of a mask in every row, (512, 2), NaN in empty rows."""
    first = np.where(mask.any(1), mask.argmax(1), np.nan)
    last = np.where(mask.any(1), GRID - 1 - mask[:, ::-1].argmax(1), np.nan)
    return np.stack([first, last], 1)


def _lung_outline(body: Body, side: int, width: float, dome: float, angle: float) -> np.ndarray:
    """Outline of one lung: down the ribs, along the diaphragm, up the mediastinum; it runs behind the heart."""
    top, span = body.apex, angle - body.apex
    wall = [(0.0, 0.40), (0.015, 0.53), (0.06, 0.65), (0.15, 0.77), (0.3, 0.88), (0.5, 0.955), (0.75, 0.995), (1, 1)]
    inner = [(0.02, 0.29), (0.08, 0.18), (0.2, 0.145), (0.5, 0.12), (0.8, 0.10)]
    u = np.linspace(0.985, 0.12, 24)
    bow = np.where(u > 0.48, (angle - dome) * ((u - 0.48) / 0.52).clip(0) ** 2.3, 22 * ((0.48 - u) / 0.36).clip(0) ** 2)
    points = [(x, top + t * span) for t, x in wall] + list(zip(u, dome + bow, strict=True))
    points += [(x, top + t * (dome + 10 - top)) for t, x in reversed(inner)]
    return smooth_outline([(MIDLINE + SIDES[side] * x * width, y) for x, y in points], steps=6)


def _heart_outline(body: Body, width: float, height: float, domes: tuple[float, float], ratio: float) -> np.ndarray:
    """Outline of the heart, exactly `ratio` of the thorax wide: right atrium, apex of the left ventricle, waist."""
    a, total = body.apex, 2 * ratio * width
    left, right = body.heart_tilt * total, (1 - body.heart_tilt) * total
    low = 0.5 * (domes[0] + domes[1])
    large = max(0.0, ratio - 0.45) * 0.9
    points = [
        (-0.10 * width, a + 0.44 * height),
        (-0.14 * width - 0.2 * right, a + (0.58 - large / 3) * height),
        (-0.98 * right, a + 0.77 * height),
        (-0.92 * right, low - 12),
        (-0.45 * right, low + 18),
        (0.35 * left, low + 24),
        (0.86 * left, low + 14),
        (left, low - 10),
        (0.93 * left, a + 0.83 * height),
        (0.70 * left, a + (0.67 - large / 2) * height),
        (0.40 * left + 0.03 * width, a + (0.54 - large / 2) * height),
        (0.15 * width, a + 0.44 * height),
    ]
    outline = smooth_outline(points)
    outline[:, 0] *= total / np.ptp(outline[:, 0])
    return outline + [MIDLINE, 0]


def _soft_tissue(rng, body, width, height, domes, angles, outlines, heart, soft) -> tuple[np.ndarray, np.ndarray]:
    """Absorption of all that is neither lung nor bone, and the part of it that lies before the lungs' air."""
    import cv2

    yy, xx = np.mgrid[:GRID, :GRID].astype(np.float32)
    ribs, flesh = width + 8, body.flesh
    half = [(44, -20), (46, 12), (62, 30), (140, body.apex - 26), (205, body.apex - 10), (247, body.apex + 26)]
    half += [(258 + flesh, body.apex + 85), (252 + flesh, 240)]
    trunk = [(0.86 * width, body.apex + 40), (ribs + flesh, 190), (ribs + flesh, 400), (ribs + flesh - 4, 560)]
    silhouette = np.zeros((GRID, GRID), np.float32)
    for part in (
        half + [(232 + flesh, 560), (ribs + flesh + 18, 560), (ribs + flesh + 8, 250), (100, 200)],
        half[:5] + trunk,
    ):
        both = [(MIDLINE - x, y) for x, y in part] + [(MIDLINE + x, y) for x, y in reversed(part)]
        if part[-1][0] == 100:  # the arms: two separate shapes, so that air may show between them and the trunk
            silhouette = np.maximum(silhouette, fill(np.array([(MIDLINE - x, y) for x, y in part])))
            both = [(MIDLINE + x, y) for x, y in part]
        silhouette = np.maximum(silhouette, fill(np.array(both, float)))
    inside = cv2.distanceTransform((silhouette > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    solid = 0.68 * (1 - np.exp(-soften(inside, 2) / 22)) * silhouette

    # Below the diaphragm: liver and spleen, dense up to the sharp edge of the domes.
    belly = np.zeros((GRID, GRID), np.float32)
    for side in (0, 1):
        sign = SIDES[side]
        curve = outlines[side][(outlines[side][:, 1] > domes[side] - 3)]
        curve = curve[np.argsort(curve[:, 0])]
        edge = np.interp(xx[0], curve[:, 0], curve[:, 1])
        here = (yy > edge) & (sign * (xx - MIDLINE) >= 0) & (np.abs(xx - MIDLINE) < ribs + flesh * 0.6)
        belly += here * (0.15 + 0.06 * np.clip((yy - domes[side]) / 60, 0, 1))
    solid += soften(belly * silhouette, 1.2)
    gas = clouds(rng, grain=26)
    stomach = fill(_bubble(rng, MIDLINE + rng.uniform(0.3, 0.52) * width, domes[1] + rng.uniform(18, 30)))
    solid -= soften(stomach, 1.5) * rng.choice([0.0, 0.12, 0.24]) + 0.05 * np.clip(gas - 1, 0, 1.5) * (yy > angles[0])

    # Spine and mediastinum, aortic knob, heart: the shadow in the middle.
    axis = MIDLINE + body.lean * np.sin(yy / 90)
    central = (
        0.20 * np.exp(-(np.abs((xx - axis) / (0.17 * width)) ** 3.5)) * np.clip((yy + 40) / (body.apex + 60), 0.3, 1)
    )
    top = [
        (-0.13, -0.1),
        (-0.135, 0.15),
        (-0.15, 0.35),
        (-0.16, 0.6),
        (0.16, 0.6),
        (0.15, 0.45),
        (0.14, 0.2),
        (0.13, -0.1),
    ]
    band = fill(np.array([(MIDLINE + x * width, body.apex + y * height) for x, y in top]))
    knob = smooth_outline(
        [
            (
                MIDLINE + 0.115 * width + body.aortic_knob * np.cos(t),
                body.apex + 0.335 * height + 1.2 * body.aortic_knob * np.sin(t),
            )
            for t in np.linspace(0, 2 * np.pi, 8, endpoint=False)
        ]
    )
    pump = fill(heart)
    thick = cv2.distanceTransform((pump > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    middle = soften(0.13 * band + 0.08 * fill(knob), 1.6)
    middle += soften(pump, 1.3) * (0.13 + 0.12 * (1 - np.exp(-soften(thick, 3) / 22)))
    windpipe = np.exp(-(((xx - axis - 2) / (0.055 * width)) ** 4)) * (yy < body.apex + 0.40 * height) * (yy > 20)
    solid += (central + middle) * (silhouette > 0) - 0.13 * soften(windpipe.astype(np.float32), 2.5)
    for sign in SIDES if body.breasts else ():
        breast = smooth_outline(
            [
                (MIDLINE + sign * (0.60 + 0.46 * x) * width, domes[0] - 40 + 88 * y)
                for x, y in (
                    (0, -0.9),
                    (0.8, -0.6),
                    (1, 0.1),
                    (0.75, 0.75),
                    (0, 1),
                    (-0.75, 0.75),
                    (-0.95, 0.1),
                    (-0.7, -0.5),
                )
            ]
        )
        solid += body.breasts * soften(fill(breast), 3) * np.clip((yy - domes[0] + 130) / 130, 0, 1) * (silhouette > 0)
    return solid.astype(np.float32), np.clip(middle / 0.25, 0, 1)


def _bubble(rng: np.random.Generator, x: float, y: float) -> np.ndarray:
    """The stomach's gas: a dome over a level line."""
    rx, ry = rng.uniform(22, 38), rng.uniform(14, 24)
    t = np.linspace(np.pi, 2 * np.pi, 20)
    return np.stack([x + rx * np.cos(t), y + 8 + ry * np.sin(t)], 1)


def _lung_fields(rng, soft, central, hila, width: float, hyperinflation: float) -> tuple[np.ndarray, np.ndarray]:
    """The air of both lungs and the vessels within it."""
    import cv2

    both = np.maximum(*soft)
    rim = cv2.distanceTransform((both > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    shape = both * (0.42 + 0.58 * (1 - np.exp(-rim / 16)))
    air = 0.40 * (1 + 0.22 * hyperinflation) * soften(shape, 0.8) * (1 - 0.72 * central)
    canvas = np.zeros((GRID, GRID), np.uint8)
    reach = np.zeros((GRID, GRID), np.float32)
    yy, xx = np.mgrid[:GRID, :GRID].astype(np.float32)
    for side, (x, y) in enumerate(hila):
        fan = np.linspace(-1.45, 1.5, 12) + rng.normal(0, 0.1, 12)
        tree = branches(rng, (x, y), fan if side == 1 else np.pi - fan, length=0.62 * width)
        for generation, value in ((2, 105), (1, 155), (0, 215)):
            thick = 4 - generation
            strokes([t[4:] for t in tree[generation]], width=max(1, thick - 2), canvas=canvas, value=value * 3 // 4)
            strokes([t[:5] for t in tree[generation]], width=max(1, thick - 1), canvas=canvas, value=value)
        distance = np.hypot(xx - x, (yy - y) * 0.85)
        reach = np.maximum(reach, np.exp(-distance / (0.55 * width)))
        blob = np.exp(-(((xx - x) / 15) ** 2) - ((yy - y) / 26) ** 2)
        reach += 0.35 * blob
        canvas = np.maximum(canvas, (90 * blob).astype(np.uint8))
    vessels = soften(canvas, 0.9) * (0.10 + 0.55 * reach) * (1 - 0.5 * hyperinflation) * 0.40
    vessels += 0.008 * clouds(rng, grain=9)
    return air, vessels * np.clip(shape, 0, 1)
