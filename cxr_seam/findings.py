"""The fourteen findings of ChestX-ray14, in NIH's order, and how their names are spelt.

Source: Wang et al. 2017 and the NIH release notes. The box table writes "Infiltrate" for the label table's
"Infiltration"; names are always compared whole, since "Pneumo" alone would match two diseases.
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
"""The findings for which radiologists drew boxes; they are the first eight of NIH's order."""


NO_FINDING = "No Finding"


SEPARATOR = "|"


ALIASES = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}


def canonical_finding(name: str) -> str:
    """Return NIH's spelling of a finding: "Infiltrate" becomes "Infiltration", outer spaces go.

    Raises:
        InputError: the name is none of the fourteen.
    """
    name = ALIASES.get(name.strip(), name.strip())
    if name not in FINDINGS:
        raise InputError(f"unknown finding {name!r}; the known ones are {', '.join(FINDINGS)}")
    return name


def split_labels(text: str) -> tuple[str, ...]:
    """Split a label cell such as "Mass|Nodule" into findings; "No Finding" gives an empty tuple.

    Raises:
        InputError: a name is unknown, or "No Finding" stands beside a finding.
    """
    names = [part.strip() for part in text.split(SEPARATOR)]
    if names == [NO_FINDING]:
        return ()
    if NO_FINDING in names:
        raise InputError(f"label {text!r} holds {NO_FINDING!r} beside a finding; correct the label table")
    return tuple(canonical_finding(name) for name in names)


ORIGINAL_SIZE = 1024
"""Edge in pixels of NIH's images. The NIH box table is in these pixels; inside the program boxes are in [0, 1]."""


XYWH = ["x", "y", "w", "h"]
