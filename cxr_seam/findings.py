"""The fourteen findings of ChestX-ray14 in NIH's order, and the spelling of their names.

Source: Wang et al. 2017 and NIH's release notes. The box table writes "Infiltrate" for the label table's
"Infiltration". Names are always compared as a whole, because "Pneumo" is a part of two of them.
"""

from __future__ import annotations

from .errors import InputError

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

BOXED_FINDINGS = FINDINGS[:8]
"""The findings for which radiologists drew boxes."""

ORIGINAL_SIZE = 1024
"""Side of NIH's images in pixels; the box table uses these pixels."""

XYWH = ["x", "y", "w", "h"]
NO_FINDING = "No Finding"
SEPARATOR = "|"
ALIASES = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}


def canonical_finding(name: str) -> str:
    """Convert a name to NIH's spelling: "Infiltrate" becomes "Infiltration", spaces around it are removed.

    Raises:
        InputError: the name is not one of the fourteen.
    """
    name = ALIASES.get(name.strip(), name.strip())
    if name not in FINDINGS:
        raise InputError(f"unknown finding {name!r}; the known ones are {', '.join(FINDINGS)}")
    return name


def split_labels(text: str) -> tuple[str, ...]:
    """Split a label cell such as "Mass|Nodule" into findings; "No Finding" gives an empty tuple.

    Raises:
        InputError: a name is unknown, or "No Finding" is combined with a finding.
    """
    names = [part.strip() for part in text.split(SEPARATOR)]
    if names == [NO_FINDING]:
        return ()
    if NO_FINDING in names:
        raise InputError(f"label {text!r} combines {NO_FINDING!r} with a finding; correct the label table")
    return tuple(canonical_finding(name) for name in names)
