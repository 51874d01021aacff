"""Synthesize the anatomy of a chest as maps of X-ray absorption.

A radiograph is a projection, so absorptions add up: soft tissue, heart, spine and bones are positive, the air of the
lungs is negative. Findings (pathology.py) change these maps, and radiograph.py converts the sum to grey values. Side 0
is the patient's right (left in the image), side 1 the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .drawing import (
    GRID,
    MIDLINE,
    SIDES,
    X,
    Y,
    branching_tree,
    depth_inside,
    ellipse,
    gaussian_blur,
    noise,
    polygon,
    polylines,
    smooth_outline,
    soft_edge,
)


@dataclass(frozen=True)
class Body:
    """Anatomy of one person, the same in all images; lengths in grid pixels."""

    half_width: float
    apex: float
    dome: float  # top of the right diaphragm; the left one lies `dome_drop` lower
    dome_drop: float
    angle_depth: float  # costophrenic angle below the dome
    heart_ratio: float  # width of heart / width of thorax when healthy
    heart_tilt: float  # fraction of the heart's width left of the midline
    aortic_knob: float
    soft_tissue: float  # soft tissue outside the ribs
    axilla: float  # height of the armpits
    breasts: float  # absorption of the breast shadows, 0 for none
    rib_contrast: float
    scoliosis: float  # sideways bow of the spine
    texture: int  # seed of vessels, ribs' wobble and bowel gas

    @staticmethod
    def sample(rng: np.random.Generator, *, sex: str = "M", age: int = 50) -> Body:
        """Sample a plausible person; `sex` is "M" or "F", `age` in years."""
        female = sex == "F"
        return Body(
            half_width=rng.uniform(172, 202) - (8 if female else 0),
            apex=rng.uniform(64, 92),
            dome=rng.uniform(330, 368),
            dome_drop=rng.uniform(6, 18),
            angle_depth=rng.uniform(42, 58),
            heart_ratio=rng.uniform(0.39, 0.455),
            heart_tilt=rng.uniform(0.63, 0.70),
            aortic_knob=rng.uniform(13, 17) + 6 * max(0, age - 45) / 40,
            soft_tissue=rng.uniform(12, 40),
            axilla=rng.uniform(170, 330),
            breasts=rng.uniform(0.05, 0.13) if female and rng.random() < 0.85 else 0.0,
            rib_contrast=rng.uniform(0.065, 0.105),
            scoliosis=rng.normal(0, 3),
            texture=int(rng.integers(2**31)),
        )


@dataclass(frozen=True)
class Frame:
    """The lengths of one chest by which its organs and bones are drawn, in grid pixels."""

    body: Body
    width: float  # half width of the thorax
    domes: tuple[float, float]  # y of the diaphragm's tops
    angles: tuple[float, float]  # y of the costophrenic angles
    supine: bool

    @property
    def height(self) -> float:
        """Height of the right lung from the apex to the top of the diaphragm."""
        return self.domes[0] - self.body.apex

    @property
    def hila(self) -> tuple[tuple[float, float], ...]:
        """Points x, y where the vessels enter the right and the left lung."""
        heights = (self.body.apex + share * self.height for share in (0.50, 0.46))
        return tuple((MIDLINE + sign * 0.25 * self.width, y) for sign, y in zip(SIDES, heights, strict=True))

    def line(self, sign: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return points (n, 2): `x` (n,) from the midline in half widths of the thorax, `y` (n,) in pixels."""
        return np.stack([MIDLINE + sign * x * self.width, y], 1)


@dataclass(frozen=True)
class Thorax(Frame):
    """A healthy chest: maps of absorption, float32 (512, 512) each, and landmarks.

    The absorption of the chest is `solid - air + vessels + bones`; that of the mediastinum is about 1.
    """

    solid: np.ndarray  # soft tissue, heart, mediastinum, abdomen
    air: np.ndarray  # absorption that the air of the lungs removes, >= 0
    vessels: np.ndarray  # branching vessels, within the lungs
    bones: np.ndarray
    lungs: tuple[np.ndarray, np.ndarray]  # bool masks (right, left), heart not cut out
    heart: np.ndarray  # outline of the heart, (n, 2) points x, y
    rows: tuple[np.ndarray, np.ndarray]  # (512, 2) first and last x of each lung, NaN outside

    @property
    def cardiothoracic_ratio(self) -> float:
        """Width of the heart / largest inner width of the thorax; above 0.5 the heart is enlarged (PA view)."""
        return float(np.ptp(self.heart[:, 0]) / (np.nanmax(self.rows[1][:, 1]) - np.nanmin(self.rows[0][:, 0])))

    def point(self, side: int, *, height: float, depth: float) -> tuple[float, float]:
        """Return a point of a lung: `height` from 0 (apex) to 1 (dome), `depth` from 0 (mediastinum) to 1 (ribs)."""
        y = self.body.apex + height * (self.domes[side] - self.body.apex)
        first, last = self.rows[side][int(np.clip(y, self.body.apex + 3, self.angles[side] - 6))]
        inner, outer = (last, first) if side == 0 else (first, last)
        return float(inner + depth * (outer - inner)), float(y)


def build_thorax(
    body: Body, *, view: str = "PA", heart_ratio: float | None = None, hyperinflation: float = 0.0
) -> Thorax:
    """Build the healthy chest of one person.

    Args:
        body: the person.
        view: "PA", or "AP": a slightly wider heart, a higher diaphragm, shoulder blades over the lungs.
        heart_ratio: cardiothoracic ratio; None = that of the person.
        hyperinflation: 0 to 1; lowers and flattens the diaphragm, narrows the heart, thins the vessels (emphysema).
    """
    rng = np.random.default_rng(body.texture)
    supine = view == "AP"
    lift = (10 if supine else 0) - 30 * hyperinflation
    domes = (body.dome - lift, body.dome - lift + body.dome_drop)
    depth = body.angle_depth * (1 - 0.55 * hyperinflation)
    angles = (domes[0] + depth, domes[1] + depth - 3)
    frame = Frame(body, body.half_width * (1 + 0.05 * hyperinflation), domes, angles, supine)
    if heart_ratio is None:
        heart_ratio = (body.heart_ratio + (0.025 if supine else 0)) * (1 - 0.16 * hyperinflation)

    soft = [polygon(_lung_outline(frame, side)) for side in (0, 1)]
    heart = _heart_outline(frame, heart_ratio)
    silhouette = _silhouette(frame)
    middle = _mediastinum(frame, heart)
    solid = _soft_tissue(rng, frame, silhouette) + middle
    solid += _abdomen(rng, frame) * silhouette
    solid -= _airways(frame)
    if body.breasts:
        solid += _breasts(frame) * silhouette
    air, vessels = _lung_fields(rng, frame, soft, np.clip(middle / 0.25, 0, 1), hyperinflation)
    bones = _skeleton(rng, frame) * silhouette
    lungs = (soft[0] > 0.5, soft[1] > 0.5)
    rows = (_extent(lungs[0]), _extent(lungs[1]))
    return Thorax(
        **vars(frame), solid=solid.astype(np.float32), air=air, vessels=vessels, bones=bones, lungs=lungs, heart=heart,
        rows=rows,
    )  # fmt: skip


def _extent(mask: np.ndarray) -> np.ndarray:
    """Return the first and last column of a mask in every row, (512, 2), NaN in empty rows."""
    ends = np.stack([mask.argmax(1), GRID - 1 - mask[:, ::-1].argmax(1)], 1).astype(float)
    return np.where(mask.any(1, keepdims=True), ends, np.nan)


def _diaphragm(u: np.ndarray, dome: float, angle: float) -> np.ndarray:
    """Return y of one half of the diaphragm at `u` = distance from the midline / half width of the thorax."""
    outer, inner = ((u - 0.48) / 0.52).clip(0, 1), ((0.48 - u) / 0.36).clip(0, 1)
    return dome + (angle - dome) * outer**2.3 + 10 * inner**2


def _lung_outline(frame: Frame, side: int) -> np.ndarray:
    """Outline one lung: down the ribs, along the diaphragm, up the mediastinum behind the heart."""
    top, dome, angle = frame.body.apex, frame.domes[side], frame.angles[side]
    wall = [(0, 0.40), (0.015, 0.53), (0.06, 0.65), (0.15, 0.77), (0.3, 0.88), (0.5, 0.955), (0.75, 0.995), (1, 1)]
    inner = [(0.02, 0.29), (0.08, 0.18), (0.2, 0.145), (0.5, 0.12), (0.8, 0.10)]
    u = np.linspace(0.985, 0.12, 24)
    points = [(x, top + t * (angle - top)) for t, x in wall] + [*zip(u, _diaphragm(u, dome, angle), strict=True)]
    points += [(x, top + t * (dome + 10 - top)) for t, x in reversed(inner)]
    return smooth_outline(frame.line(SIDES[side], *np.transpose(points)), steps=6)


def _heart_outline(frame: Frame, ratio: float) -> np.ndarray:
    """Outline the heart, as wide as `ratio` times the thorax: right atrium, apex of the left ventricle, waist."""
    width, height, a = frame.width, frame.height, frame.body.apex
    total = 2 * ratio * width
    left, right = frame.body.heart_tilt * total, (1 - frame.body.heart_tilt) * total
    low = 0.5 * (frame.domes[0] + frame.domes[1])
    large = max(0.0, ratio - 0.45) * 0.9
    points = [
        (-0.13 * width, a + 0.42 * height), (-0.14 * width - 0.2 * right, a + (0.58 - large / 3) * height),
        (-0.98 * right, a + 0.77 * height), (-0.92 * right, low - 12), (-0.45 * right, low + 18),
        (0.35 * left, low + 24), (0.86 * left, low + 14), (left, low - 10), (0.93 * left, a + 0.83 * height),
        (0.70 * left, a + (0.67 - large / 2) * height),
        (0.36 * left + 0.05 * width, a + (0.53 - large / 2) * height), (0.17 * width, a + 0.43 * height),
    ]  # fmt: skip
    outline = smooth_outline(points)
    outline[:, 0] *= total / np.ptp(outline[:, 0])
    return outline + [MIDLINE, 0]


def _mirrored(points: list[tuple[float, float]]) -> np.ndarray:
    """Return the smooth outline of a symmetric shape from one half of it, top to bottom."""
    return smooth_outline([(MIDLINE + x, y) for x, y in points] + [(MIDLINE - x, y) for x, y in points[::-1]], steps=6)


def _silhouette(frame: Frame) -> np.ndarray:
    """Draw the silhouette of neck, shoulders, trunk and arms, float32 in [0, 1]."""
    side, top, axilla = frame.width + 8 + frame.body.soft_tissue, frame.body.apex, frame.body.axilla
    neck = [(78, -60), (78, -20), (84, top - 58), (108, top - 40), (150, top - 26), (205, top - 12), (246, top + 22)]
    arm = [(290, top + 70), (360, axilla + 40), (330, axilla + 190), (side + 26, axilla + 60), (side + 14, axilla + 8)]
    trunk = [(side + 2, axilla + 70), (side, axilla + 160), (side - 4, 560), (side - 4, 640)]
    return polygon(_mirrored(neck + arm + trunk))


def _soft_tissue(rng: np.random.Generator, frame: Frame, silhouette: np.ndarray) -> np.ndarray:
    """Draw muscle and fat, thinner towards the skin, with noise."""
    padded = cv2.copyMakeBorder(silhouette, 0, 40, 40, 40, cv2.BORDER_REPLICATE)
    solid = 0.66 * (1 - np.exp(-gaussian_blur(depth_inside(padded)[:GRID, 40 : GRID + 40], 3) / 26))
    solid += 0.016 * noise(rng, grain=70) + 0.04 * np.exp(-(((np.abs(X - MIDLINE) - frame.width - 10) / 14) ** 2))
    return solid * silhouette


def _abdomen(rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """Draw liver, spleen and bowel below the diaphragm, with gas in the stomach and the colon."""
    width, domes = frame.width, frame.domes
    u = np.abs(X[0] - MIDLINE) / width
    right, left = (_diaphragm(u, dome, angle) for dome, angle in zip(domes, frame.angles, strict=True))
    edge = np.where(X[0] < MIDLINE, right, left).astype(np.float32)
    below = soft_edge(edge - Y, 1.0 + 16 * np.clip((u - 0.985) / 0.05, 0, 1) + 14 * np.clip((0.16 - u) / 0.06, 0, 1))
    flank = soft_edge(u * width - width - 0.5 * frame.body.soft_tissue, 7)
    belly = below * flank * (0.16 + 0.07 * np.clip((Y - domes[0]) / 70, 0, 1.5))
    rx, ry = rng.uniform(20, 40), rng.uniform(14, 26)
    x, y = MIDLINE + rng.uniform(0.3, 0.55) * width, domes[1] + rng.uniform(26, 36)
    stomach = polygon(ellipse(x, y, rx, ry, np.linspace(np.pi, 2 * np.pi, 20)))  # a dome of gas over a level line
    gas = gaussian_blur(stomach, 1.5) * float(rng.choice((0.0, 0.12, 0.22)))
    colon = np.clip((Y - domes[1] - 45) / 30, 0, 1) * np.clip((X - MIDLINE) / 50 + 0.6, 0, 1) * flank
    gas += 0.08 * gaussian_blur(np.clip(noise(rng, grain=24) - 1.3, 0, 1.2), 2) * colon
    return belly - gas * below


def _mediastinum(frame: Frame, heart: np.ndarray) -> np.ndarray:
    """Draw great vessels, aortic knob and heart; where they overlap, the maximum counts."""
    apex, width, height, knob = frame.body.apex, frame.width, frame.height, frame.body.aortic_knob
    half = [(0.15, -0.35), (0.155, 0.0), (0.15, 0.2), (0.17, 0.4), (0.165, 0.62), (0.15, 1.1)]
    band = polygon(_mirrored([(x * width, apex + y * height) for x, y in half]))
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    arch = polygon(smooth_outline(ellipse(MIDLINE + 0.09 * width, apex + 0.345 * height, 1.3 * knob, 1.5 * knob, turn)))
    pump = polygon(heart)
    thick = 0.14 + 0.12 * (1 - np.exp(-gaussian_blur(depth_inside(pump), 3) / 24))
    heart_shadow = gaussian_blur(pump, 1.2) * np.clip((apex + height - Y) / 40 + 1, 0.3, 1) * thick
    return np.maximum(np.maximum(gaussian_blur(0.15 * band, 4), gaussian_blur(0.16 * arch, 2.2)), heart_shadow)


def _airways(frame: Frame) -> np.ndarray:
    """Draw trachea and main bronchi: the absorption that their air removes."""
    apex = frame.body.apex
    carina = (MIDLINE + 2, apex + 0.40 * frame.height)
    tube = polylines([np.array([(MIDLINE + 1, -40), (MIDLINE + 3, apex + 40), carina])], width=17)
    mains = [np.array([carina, (0.35 * x + 0.65 * carina[0], 0.5 * (y + carina[1])), (x, y)]) for x, y in frame.hila]
    return 0.12 * gaussian_blur(polylines(mains, width=9, canvas=tube, value=200), 2.2)


def _breasts(frame: Frame) -> np.ndarray:
    """Draw two breasts, denser towards their lower border."""
    shape = [(0, -0.9), (0.8, -0.6), (1, 0.1), (0.75, 0.75), (0, 1), (-0.75, 0.75), (-0.95, 0.1), (-0.7, -0.5)]
    x, y = np.transpose(shape)
    dome = frame.domes[0]
    pair = sum(polygon(smooth_outline(frame.line(sign, 0.62 + 0.46 * x, dome - 36 + 88 * y))) for sign in SIDES)
    return frame.body.breasts * gaussian_blur(pair, 2.5) * np.clip((Y - dome + 120) / 130, 0, 1)


def _lung_fields(
    rng: np.random.Generator, frame: Frame, soft: list, central: np.ndarray, hyperinflation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the air of both lungs and the vessels in it."""
    both = np.maximum(*soft)
    shape = both * (0.42 + 0.58 * (1 - np.exp(-depth_inside(both) / 16)))
    air = 0.40 * (1 + 0.22 * hyperinflation) * gaussian_blur(shape, 0.8) * (1 - 0.80 * central)
    canvas = np.zeros((GRID, GRID), np.uint8)
    reach, lumps = np.zeros((GRID, GRID), np.float32), (1 + 0.3 * noise(rng, grain=8)).clip(0, 1.7)
    for side, (x, y) in enumerate(frame.hila):
        fan = np.array([-1.5, -1.25, -0.95, -0.6, -0.15, 0.3, 0.65, 0.9, 1.15, 1.35, 1.55]) + rng.normal(0, 0.1, 11)
        roots = np.stack([x + rng.normal(0, 4, 11), y + 6 + 28 * np.sin(fan) + rng.normal(0, 3, 11)], 1)
        tree = branching_tree(rng, roots, fan if side == 1 else np.pi - fan, length=0.60 * frame.width)
        for generation, value in ((2, 80), (1, 120), (0, 160)):
            thin, thick = max(1, 2 - generation), max(1, 3 - generation)
            polylines([track[4:] for track in tree[generation]], width=thin, canvas=canvas, value=value * 2 // 3)
            polylines([track[:5] for track in tree[generation]], width=thick, canvas=canvas, value=value)
        half = slice(0, 256) if side == 0 else slice(256, GRID)
        across, down = X[:, half] - x, Y - y
        blob = np.exp(-((across / 14) ** 2)) * np.exp(-((down / 27) ** 2))
        reach[:, half] = np.exp(-np.hypot(across, down * 0.85) / (0.45 * frame.width)) + 0.3 * blob
        canvas[:, half] = np.maximum(canvas[:, half], (150 * blob * lumps[:, half]).astype(np.uint8))
    vessels = gaussian_blur(canvas, 1.0) * (0.10 + 0.50 * reach) * (1 - 0.5 * hyperinflation) * 0.38
    vessels += 0.009 * noise(rng, grain=6)
    return air, (vessels * shape * (1 - 0.6 * central)).astype(np.float32)


def _skeleton(rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """Draw all bones, float32 (512, 512).

    Posterior ribs run nearly level from the spine and fall along the chest wall; anterior ribs fall further towards the
    sternum and fade where they become cartilage.
    """
    body, bottom = frame.body, frame.angles[0]
    hind, front = _ribs(rng, frame)
    aside = np.abs(X - MIDLINE) / frame.width
    ribs = gaussian_blur(_tubes(hind, 11), 0.8) * np.clip((aside - 0.02) / 0.22, 0.25, 1)
    ribs += 0.5 * gaussian_blur(_tubes(front, 12), 1.2) * np.clip((aside - 0.25) / 0.4, 0, 1)
    outside = np.abs(X - MIDLINE) - (_wall(frame, Y) * frame.width).astype(np.float32)
    ribs *= np.clip(2.6 - outside / 2.5, 0, 1)  # ribs seen along their length: a smooth rim
    ribs += 0.55 * np.exp(-(((outside - 3) / 3.2) ** 2)) * (Y > body.apex + 4) * np.clip((bottom + 60 - Y) / 60, 0, 1)
    ribs *= np.clip((bottom + 95 - Y) / 110, 0.15, 1)
    bones = body.rib_contrast * ribs
    bones += _clavicles(rng, frame) + _shoulders(frame) + _spine(body)
    return bones.astype(np.float32)


def _tubes(lines: list[np.ndarray], width: int) -> np.ndarray:
    """Draw long bones: a bright rim around darker marrow."""
    return polylines(lines, width=width - 4, canvas=polylines(lines, width=width), value=180)


def _wall(frame: Frame, y: np.ndarray) -> np.ndarray:
    """Return the half width of the rib cage at y, as a fraction of the largest."""
    t = (y - frame.body.apex) / (frame.angles[0] - frame.body.apex)
    share = [0.40, 0.53, 0.67, 0.79, 0.895, 0.965, 1.005, 1.01, 0.99]
    return np.interp(t, [-0.03, 0, 0.06, 0.15, 0.3, 0.5, 0.75, 1, 1.4], share)


def _ribs(rng: np.random.Generator, frame: Frame) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the lines of the posterior and the anterior ribs."""
    hind, front = [], []
    gap = (frame.height + 62) / 10.2
    u, v = np.linspace(0, 1, 26), np.linspace(0, 1, 16)
    for sign in SIDES:
        wobble = rng.normal(0, 1.2, 12)
        for rib in range(12):
            start = frame.body.apex + 4 + gap * (rib + 0.1) + wobble[rib]
            drop = np.interp(rib, [0, 2, 5, 10], [24, 42, 62, 84])
            y = start - 12 * np.sin(np.pi * u * 0.9) + drop * u**2.6
            edge = _wall(frame, y) + 0.012
            hind.append(frame.line(sign, 0.08 + (edge - 0.08) * np.sin(u * np.pi / 2) ** 0.92, y))
            if rib < 7:  # the front end of the same rib
                fall = np.interp(rib, [0, 1, 4, 7], [30, 44, 74, 86])
                x = edge[-1] * (1 - v**1.7) + v**1.7 * np.interp(rib, [0, 7], [0.22, 0.50])
                front.append(frame.line(sign, x, y[-1] + 4 + fall * np.sin(v * np.pi / 2)))
    return hind, front


def _clavicles(rng: np.random.Generator, frame: Frame) -> np.ndarray:
    u = np.linspace(0, 1, 16)
    y = frame.body.apex + 0.25 * frame.height - (14 if frame.supine else 0) - 66 * u
    y += 7 * np.sin(2 * np.pi * (u + 0.05))
    lines = [frame.line(sign, 0.10 + 1.08 * u, y + rng.normal(0, 3)) for sign in SIDES]
    return 0.11 * gaussian_blur(_tubes(lines, 13), 1.0) * np.clip(np.abs(X - MIDLINE) / (0.3 * frame.width), 0.2, 1)


def _shoulders(frame: Frame) -> np.ndarray:
    """Draw scapulae (beside the lungs in PA views, over them in AP views) and upper arms."""
    width, apex = frame.width, frame.body.apex
    blades, edges, arms = (np.zeros((GRID, GRID), np.uint8) for _ in range(3))
    inward = 0.20 if frame.supine else 0.0
    blade = [
        (1.22, -6),
        (1.08 - inward, 16),
        (1.0 - inward, 60),
        (1.03 - inward, 165),
        (1.09 - inward, 150),
        (1.20, 56),
    ]
    ridge = [(1.30, -8), (1.15 - inward / 2, 16), (1.03 - inward, 40)]
    for sign in SIDES:
        outline = smooth_outline([(MIDLINE + sign * x * width, apex + y) for x, y in blade])
        cv2.fillPoly(blades, [outline.astype(np.int32)], 255)
        polylines([np.vstack([outline, outline[:1]])], width=3, canvas=edges)
        polylines([np.array([(MIDLINE + sign * x * width, apex + y) for x, y in ridge])], width=8, canvas=blades)
        joint = (int(MIDLINE + sign * 1.30 * width), int(apex + 20))
        cv2.circle(arms, joint, 25, 255, -1, cv2.LINE_AA)
        elbow = (MIDLINE + sign * (1.36 * width + 60), apex + 190)
        polylines([np.array([joint, elbow])], width=24, canvas=arms)
    return 0.04 * gaussian_blur(blades, 2.0) + 0.045 * gaussian_blur(edges, 1.4) + 0.09 * gaussian_blur(arms, 1.8)


def _spine(body: Body) -> np.ndarray:
    """Draw vertebral bodies with end plates, pedicles and spinous processes."""
    canvas = np.zeros((GRID, GRID), np.uint8)
    waist = [(-1, 0), (1, 0), (0.86, 0.4), (1, 0.82), (-1, 0.82), (-0.86, 0.4)]
    y, tall = -6.0, 19.0
    while y < GRID:
        x, half = MIDLINE + body.scoliosis * np.sin(y / 90), 19 + 8 * y / GRID
        corners = np.array([(x + half * a, y + tall * b) for a, b in waist])
        cv2.fillPoly(canvas, [np.round(corners * 16).astype(np.int32)], 120, cv2.LINE_AA, 4)
        polylines([corners[:2], corners[3:5]], width=2, canvas=canvas, value=190)
        processes = [np.array([(x + sign * 1.5 * half, y + 4), (x + sign * half, y + 8)]) for sign in SIDES]
        polylines(processes, width=6, canvas=canvas, value=80)
        for sign in SIDES:
            cv2.ellipse(canvas, (int(x + sign * half * 0.62), int(y + 7)), (3, 5), 0, 0, 360, 205, 1, cv2.LINE_AA)
        cv2.ellipse(canvas, (int(x), int(y + 13)), (2, 4), 0, 0, 360, 200, 1, cv2.LINE_AA)
        y, tall = y + tall, tall * 1.03
    axis = MIDLINE + body.scoliosis * np.sin(Y / 90)
    column = 0.13 * np.exp(-((np.abs(X - axis) / 34) ** 3)) * (0.62 + 0.5 * Y / GRID)
    return column + 0.07 * gaussian_blur(canvas, 1.5)


class Chest:
    """A thorax with the changes of its findings, float32 (512, 512) each.

    Attributes:
        thorax: the healthy chest.
        opacity: 0 to 1, fraction of the air that fluid, cells or collapse replace.
        vessel_visibility: factor of the vessels, 0 where they are gone.
        lucency: absorption that more air removes.
        density: absorption that is added, anywhere.
        lungs: masks of the lungs; smaller than those of the thorax where a lung has collapsed.
    """

    def __init__(self, thorax: Thorax) -> None:
        self.thorax = thorax
        self.opacity, self.lucency, self.density = np.zeros((3, GRID, GRID), np.float32)
        self.vessel_visibility = np.ones((GRID, GRID), np.float32)
        self.lungs = list(thorax.lungs)

    def add_opacity(self, opacity: np.ndarray) -> None:
        """Replace a fraction (0 to 1 per pixel) of the remaining air."""
        self.opacity = 1 - (1 - self.opacity) * (1 - opacity.clip(0, 1).astype(np.float32))

    def absorption(self) -> np.ndarray:
        """Return the absorption of the whole chest, float32 (512, 512)."""
        t = self.thorax
        vessels = t.vessels * self.vessel_visibility * (1 - 0.75 * self.opacity)
        return t.solid - (t.air + self.lucency) * (1 - self.opacity) + vessels + t.bones + self.density

    def free_point(
        self, rng: np.random.Generator, *, height: tuple, depth: tuple = (0.25, 0.8), reach: int = 14
    ) -> tuple[float, float, int]:
        """Sample a point x, y, side of a lung with air around it, for a new finding.

        Of eight samples, return the first with air in the square of `reach` pixels around it, otherwise the one with
        most air. Points behind the heart have a low score. `height` and `depth` are ranges, see `Thorax.point`.
        """
        tries = []
        for _ in range(8):
            side = int(rng.integers(2))
            x, y = self.thorax.point(side, height=rng.uniform(*height), depth=rng.uniform(*depth))
            row, column = min(int(y), GRID - 1), min(int(x), GRID - 1)
            near = (slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1))
            air = self.thorax.air[near]
            free = float((air * self.lungs[side][near] * (1 - self.opacity[near])).sum() / max(air.sum(), 1e-6))
            open_view = min(1.0, float(self.thorax.air[row, column]) / 0.27)
            tries.append((free * open_view, x, y, side))
        return next((found for found in tries if found[0] > 0.85), max(tries))[1:]
