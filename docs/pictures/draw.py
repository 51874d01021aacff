"""Draw the pictures of this folder and docs/heatmap.png: examples for the notebooks and README, and two diagrams.

    make demo
    .venv/bin/python docs/pictures/draw.py [RUN]

RUN is the output folder of a demo run, by default runs/demo. All images are synthetic.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon
from PIL import Image

from cxr_seam.data.transforms import affine_warp, eval_transform, rotation_params
from cxr_seam.evaluation.evaluate import load_predictors
from cxr_seam.evaluation.results import REFINED, load_results
from cxr_seam.evaluation.tables import load_histories
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.heatmaps import cam_to_heatmap
from cxr_seam.inference.predictor import Predictor
from cxr_seam.models.backbones import build_backbone
from cxr_seam.models.multires import MergeBlock
from cxr_seam.training.seam import SeamObjective
from cxr_seam.visualize.examples import load_examples, one_per_finding
from cxr_seam.visualize.figures import (
    COLOURS,
    plot_froc,
    plot_heatmap_grid,
    plot_loss_curves,
    plot_samples,
    to_grey,
)
from cxr_seam.visualize.overlay import overlay_heatmap
from cxr_seam.visualize.viewer import Viewer
from cxr_seam.workspace import Workspace

HERE = Path(__file__).resolve().parent
IN_README = ("Atelectasis", "Effusion", "Pneumothorax")
SHOWN = "Pneumothorax"
"""Finding of the viewer and of the Siamese step."""
BLUE, ORANGE, GREEN = COLOURS[:3]
GREY = "#5a5a5a"
DEGREES = 25.0
LARGE = 100_000  # bytes


def write(picture: Figure | bytes, path: Path, *, dpi: int = 100) -> None:
    """Write a PNG; reduce the colours of a large one."""
    if isinstance(picture, Figure):
        data = io.BytesIO()
        picture.savefig(data, format="png", dpi=dpi, facecolor=picture.get_facecolor())
        picture = data.getvalue()
    path.write_bytes(picture if len(picture) < LARGE else fewer_colours(picture))
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def fewer_colours(png: bytes) -> bytes:
    """Reduce a PNG to 256 colours with dithering; it has a third to a half of the bytes."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    outside = np.asarray(image)[..., 3] < 128
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    palette = flat.quantize(255, Image.Quantize.MAXCOVERAGE, kmeans=4)
    flat = flat.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    flat.putpalette([*flat.getpalette(), 255, 255, 255])
    flat.paste(255, mask=Image.fromarray(outside))
    data = io.BytesIO()
    flat.save(data, format="png", optimize=True, **({"transparency": 255} if outside.any() else {}))
    return data.getvalue()


def page(width: float, height: float) -> tuple[Figure, Axes]:
    """Create a white page with round corners, in coordinates of 0.1 inch."""
    figure = Figure(figsize=(width / 10, height / 10), facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    axes.add_patch(
        FancyBboxPatch((1.5, 1.5), width - 3, height - 3, "round,pad=1,rounding_size=2", fc="w", ec="0.8", zorder=0)
    )
    return figure, axes


def write_text(axes: Axes, x: float, y: float, text: str, *, size: float = 9, **style: Any) -> None:
    """Write centred text."""
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": size, "color": "0.1"} | style)


def draw_step(
    axes: Axes, x: float, y: float, text: str, *, width: float = 11, height: float = 7, colour: str = GREY
) -> None:
    """Draw a box with the name of an operation, centred at x, y."""
    corner = (x - width / 2, y - height / 2)
    shape = "round,pad=0,rounding_size=1"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, shape, fc=mix_with_white(colour, 0.12), ec=colour, lw=1.2, zorder=3)
    )
    write_text(axes, x, y, text, size=8.5)


def draw_arrow(
    axes: Axes, *points: tuple[float, float], colour: str = GREY, style: str = "-|>", line: str = "-"
) -> None:
    """Draw an arrow along points."""
    for start, end in zip(points[:-2], points[1:-1], strict=True):
        axes.plot(*zip(start, end, strict=True), color=colour, lw=1.4, solid_capstyle="round", linestyle=line)
    options = {"arrowstyle": style, "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0, "linestyle": line}
    axes.annotate("", points[-1], points[-2], arrowprops=options | {"mutation_scale": 12})


def mix_with_white(colour: str, weight: float) -> np.ndarray:
    """Mix a colour with white."""
    return 1 - weight * (1 - np.array(to_rgb(colour)))


def draw_block(axes: Axes, x: float, y: float, size: int, *parts: tuple[int, str]) -> None:
    """Draw a feature map centred at x, y: the face shows the resolution, the depth the channels."""
    total = sum(channels for channels, _ in parts)
    side, depth = size / 2.2, 0.016 * total**0.8
    left, bottom = x - (side + depth) / 2, y - (side + depth) / 2
    far = depth
    for channels, colour in parts[::-1]:  # from the back
        near = far - depth * channels / total
        up = [(near, side + near), (side + near, side + near), (side + far, side + far), (far, side + far)]
        across = [(side + near, near), (side + far, far), (side + far, side + far), (side + near, side + near)]
        front = [(near, near), (side + near, near), (side + near, side + near), (near, side + near)]
        for face, weight in ((up, 0.5), (across, 0.75), (front, 1)):
            axes.add_patch(Polygon(np.add(face, (left, bottom)), fc=mix_with_white(colour, weight), ec="white", lw=0.5))
        far = near
    write_text(axes, x, bottom - 1.8, f"{total} × {size} × {size}", size=9)


def merge_block() -> Figure:
    """Draw the first merge block of MultiRes-ResNet50 for an image of 256 x 256, with the channels of the program."""
    channels = build_backbone("resnet50", weights="none").channels
    coarse, fine = channels[-1], channels[-2]
    merge = MergeBlock(coarse, fine, width="skip")
    reduced_coarse, reduced_fine = merge.reduce_coarse[0].out_channels, merge.reduce_fine[0].out_channels
    second = MergeBlock(merge.channels, channels[-3], width="skip")
    figure, axes = page(112, 47)
    upper, lower, middle = 34, 14, 24
    conv = "1×1 conv\nnorm, ReLU"
    write_text(axes, 9, 43, "coarser: $F_o^{\\,l+1}$", size=10.5, color=BLUE)
    draw_block(axes, 9, upper, 8, (coarse, BLUE))
    draw_arrow(axes, (15, upper), (19.5, upper))
    draw_step(axes, 25, upper, conv)
    draw_arrow(axes, (30.5, upper), (34.5, upper))
    draw_block(axes, 38, upper, 8, (reduced_coarse, BLUE))
    draw_arrow(axes, (42, upper), (46, upper))
    draw_step(axes, 51.5, upper, "bilinear\nupsampling ×2")
    write_text(axes, 9, 22.5, "finer: $F^{\\,l}$", size=10.5, color=ORANGE)
    draw_block(axes, 9, lower, 16, (fine, ORANGE))
    draw_arrow(axes, (15, lower), (19.5, lower))
    draw_step(axes, 25, lower, conv)
    draw_arrow(axes, (30.5, lower), (33.3, lower))
    draw_block(axes, 38, lower, 16, (reduced_fine, ORANGE))
    draw_arrow(axes, (57, upper), (66, upper), (66, middle + 6.5), colour=BLUE)
    draw_arrow(axes, (43, lower), (57, lower), (57, middle), (60.5, middle), colour=ORANGE)
    draw_block(axes, 66, middle, 16, (reduced_coarse, BLUE), (reduced_fine, ORANGE))
    write_text(axes, 66, 14.3, "concatenated", size=9, color=GREY)
    draw_arrow(axes, (72, middle), (76, middle))
    draw_step(axes, 81.5, middle, conv)
    draw_arrow(axes, (87, middle), (91.5, middle))
    draw_block(axes, 98, middle, 16, (merge.channels, GREEN))
    write_text(axes, 98, 34, "merged: $F_o^{\\,l}$", size=10.5, color=GREEN)
    write_text(
        axes,
        56,
        4,
        f"The first of two merges in MultiRes-ResNet50, as channels × height × width, for an image of 256 × 256. The "
        f"second merges {merge.channels} × 16 × 16 and {channels[-3]} × 32 × 32 to {second.channels} × 32 × 32.",
        size=8,
        color=GREY,
    )
    return figure


def siamese(run: Workspace, predictors: dict[str, Predictor]) -> Figure:
    """Draw the Siamese step of the SEAM stage for an example of the demo with the trained model."""
    rows = one_per_finding(load_examples(run, predictors=predictors))
    example = next(example for example, finding in rows if finding == SHOWN)
    predictor, index = predictors[REFINED], FINDINGS.index(SHOWN)
    pixels = torch.from_numpy(example.image)[None, None].to(predictor.device)
    inputs = eval_transform(pixels, size=predictor.recipe.image_size)
    objective = SeamObjective(predictor.model, predictor.recipe.seam_stage).eval()
    rotation = rotation_params(torch.tensor([DEGREES]))
    with torch.inference_mode():
        step = objective.forward_branches(inputs, rotation)
    (image,), (rotated,) = to_grey(inputs), to_grey(step.warped_images)

    def overlay(pixels: np.ndarray, cam: torch.Tensor) -> np.ndarray:
        return overlay_heatmap(pixels, cam_to_heatmap(cam[:, index : index + 1].cpu(), pixels.shape)[0, 0].numpy())

    figure, axes = page(112, 69)
    side, first, second, third = 15, 58, 37.5, 14.5
    at = {"image": 11, "net": 29, "raw": 47, "pcm": 65, "refined": 83}

    def image_at(column: str, row: float, picture: np.ndarray, name: str) -> None:
        x = at[column]
        extent = (x - side / 2, x + side / 2, row - side / 2, row + side / 2)
        axes.imshow(picture, extent=extent, cmap="gray", vmin=0, vmax=255, zorder=2)
        write_text(axes, x, row - side / 2 - 1.6, name, size=10)

    image_at("image", first, image, "image $x$")
    image_at("image", third, rotated, "rotated image $A(x)$")
    image_at("raw", first, overlay(image, step.cam), "raw CAM $\\hat y^{\\,o}$")
    image_at("raw", second, overlay(rotated, affine_warp(step.cam, rotation)), "rotated: $A(\\hat y^{\\,o})$")
    image_at("raw", third, overlay(rotated, step.cam_of_warped), "raw CAM $\\hat y^{\\,t}$")
    image_at("refined", first, overlay(image, step.refined), "refined $y^{\\,o}$")
    image_at("refined", second, overlay(rotated, affine_warp(step.refined, rotation)), "rotated: $A(y^{\\,o})$")
    image_at("refined", third, overlay(rotated, step.refined_of_warped), "refined $y^{\\,t}$")
    axes.set(xlim=(0, 112), ylim=(0, 69))
    for row in (first, third):
        draw_arrow(axes, (19, row), (22.2, row))
        draw_step(axes, at["net"], row, "MultiRes network\nfrozen", width=13)
        draw_arrow(axes, (35.5, row), (38.5, row))
        draw_arrow(axes, (55.5, row), (58.5, row))
        draw_step(axes, at["pcm"], row, "PCM\n$\\theta$ is trained", width=13, colour=GREEN)
        draw_arrow(axes, (71.5, row), (74.5, row))
    for column, start, end in (("image", first, third), ("raw", first, second), ("refined", first, second)):
        draw_arrow(axes, (at[column], start - side / 2 - 3), (at[column], end + side / 2 + 0.5), colour=ORANGE)
    write_text(
        axes, at["image"] + 1.5, (first + third) / 2, "$A$: rotate by up to 30°\n", size=9, color=ORANGE, ha="left"
    )
    for column, text in (("net", "the same weights"), ("pcm", "the same $\\theta$")):
        draw_arrow(axes, (at[column], first - 4), (at[column], third + 4), style="<->", line=":")
        write_text(
            axes, at[column], second + 6, text, bbox={"fc": "white", "ec": "none", "pad": 2}, size=8.5, color=GREY
        )
    left, right = at["raw"] + side / 2 + 0.7, at["refined"] - side / 2 - 0.7
    top, bottom = second - side / 2, third + side / 2
    draw_arrow(axes, (left, top), (right, bottom), colour=BLUE, style="<|-|>")
    draw_arrow(axes, (left, bottom), (right, top), colour=BLUE, style="<|-|>")
    write_text(
        axes,
        (left + right) / 2,
        (top + bottom) / 2,
        "must agree:\nECR (Eq. 6)",
        color=BLUE,
        bbox={"fc": "white", "ec": BLUE, "boxstyle": "round,pad=0.4"},
    )
    draw_step(axes, 103, second, "must fit the\nimage's labels:\nMSML", width=12, height=9, colour=BLUE)
    for row, end in ((first, second + 4.5), (third, second - 4.5)):
        draw_arrow(axes, (91, row), (103, row), (103, end), colour=BLUE)
    return figure


def main(output_dir: Path) -> None:
    """Draw everything from a run of the demo."""
    run = Workspace.open(data="demo", preset="demo", output_dir=output_dir)
    predictors = load_predictors(run.recipes, run.models)
    rows = one_per_finding(load_examples(run, per_finding=8, predictors=predictors))
    write(plot_samples(run), HERE / "samples.png", dpi=88)
    write(plot_loss_curves(load_histories(run.recipes[:2], run.models)), HERE / "loss_curves.png", dpi=120)
    write(merge_block(), HERE / "merge_block.png", dpi=120)
    write(siamese(run, predictors), HERE / "siamese.png", dpi=120)
    one_each = one_per_finding(load_examples(run, per_finding=1, predictors=predictors))
    write(plot_heatmap_grid(one_each[:2]), HERE / "before_and_after.png", dpi=96)
    write(plot_froc(load_results(run.results)), HERE / "froc.png")
    example = next(example for example, finding in rows if finding == SHOWN)
    viewer = Viewer([example], predictors=predictors, finding=SHOWN)
    write(viewer.picture.value, HERE / "viewer.png")
    write(plot_heatmap_grid([row for row in rows if row[1] in IN_README]), HERE.parent / "heatmap.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
