"""Define the colours and line styles that images, charts and the report share.

The chart palette is that of Okabe and Ito, which people with any colour vision can distinguish. Colours are RGB, 0 to
255.
"""

from __future__ import annotations

PREDICTED_COLOUR = (255, 86, 48)
"""Predicted boxes, drawn solid: vermilion."""

TRUE_COLOUR = (0, 214, 143)
"""True boxes, drawn dashed: bluish green."""

DARK, LIGHT, MUTED = (17, 17, 17), (240, 240, 240), (178, 178, 178)
"""Background, text and secondary text around images."""

PALETTE = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0))
"""Lines on white: Okabe and Ito's palette without its yellow, which is hard to see on white."""

BAR_PALETTE = (PALETTE[5], PALETTE[4], PALETTE[3])
"""Bars on dark: sky blue, orange and purple, which differ from the colours of the boxes."""

COLOUR_MAPS = ("inferno", "viridis", "turbo", "jet")
"""Colour maps for heat maps. The paper uses `jet`, which is not perceptually uniform."""

OPACITY = 0.5
"""Default opacity of a heat map at its maximum."""


def to_hex(colour: tuple[int, int, int]) -> str:
    """Convert a colour to the notation "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
