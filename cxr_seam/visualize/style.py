"""Define the colours and line styles that images, charts and the report share.

The chart palette is that of Okabe and Ito, which people with any colour vision can tell apart.
"""

from __future__ import annotations

TRUE_COLOUR = (0, 214, 143)
"""RGB of true boxes: bluish green, drawn dashed."""


PREDICTED_COLOUR = (255, 86, 48)
"""RGB of predicted boxes: vermilion, drawn solid."""


EDGE_COLOUR = (0, 0, 0)
"""RGB of the thin edge around a box, which keeps the box visible on bright and dark images."""


DASH, GAP = 7, 5
"""Pixels of a dash and of the gap after it, for true boxes."""


DARK, LIGHT, MUTED = (17, 17, 17), (240, 240, 240), (178, 178, 178)
"""RGB of the background, the text and the secondary text around images."""


HIGHLIGHT = (52, 52, 52)
"""RGB of the background of the selected row."""


PALETTE = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0))
"""RGB of lines on white: Okabe and Ito's palette without its yellow, which is hard to see on white."""


BAR_PALETTE = (PALETTE[5], PALETTE[4], PALETTE[3])
"""RGB of bars on dark: sky blue, orange and purple, which differ from the colours of the boxes."""


MARKERS = "os^Dv<>"
"""matplotlib markers, one for each colour of `PALETTE`."""


COLOUR_MAPS = ("inferno", "viridis", "turbo", "jet")
"""Colour maps for heat maps. The paper uses `jet`, which is not perceptually uniform."""


OPACITY = 0.5
"""Default opacity of a heat map at its maximum."""


def to_hex(colour: tuple[int, int, int]) -> str:
    """Convert RGB (0 to 255) to the notation "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
