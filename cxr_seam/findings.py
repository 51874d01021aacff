"""The fourteen findings of ChestX-ray14 in NIH's order, the spelling of their names, and how they are decided.

Source: Wang et al. 2017 and NIH's release notes. The box table writes "Infiltrate" for the label table's
"Infiltration". Names are always compared as a whole, because "Pneumo" is a part of two of them.
"""

from __future__ import annotations

from collections.abc import Sequence

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

OPERATING_POINTS = {
    "youden": "largest sensitivity + specificity",
    "sensitivity_90": "90 % sensitivity",
    "specificity_90": "90 % specificity",
}
"""The rules that choose the threshold of a finding on the validation images, with their titles."""

XYWH = ["x", "y", "w", "h"]
NO_FINDING = "No Finding"
SEPARATOR = "|"
ALIASES = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}


def canonical_finding(name: str, findings: Sequence[str] = FINDINGS) -> str:
    """Find a name in a list: as it is, without the spaces around it, or by its alias ("Infiltrate": "Infiltration").

    Args:
        name: name of a finding.
        findings: the known names, for example those of a model; by default NIH's.

    Raises:
        InputError: the name is not in the list.
    """
    stripped = name.strip()
    for candidate in (name, stripped, ALIASES.get(stripped, stripped)):
        if candidate in findings:
            return candidate
    raise InputError(f"unknown finding {stripped!r}; the known ones are {', '.join(findings)}")


def check_findings(findings: Sequence[str]) -> tuple[str, ...]:
    """Return the names of findings as a tuple.

    Raises:
        InputError: there is no name, one is empty, or one occurs twice.
    """
    findings = tuple(findings)
    if not findings or not all(findings) or len(set(findings)) < len(findings):
        raise InputError(f"findings need at least one name, and each name once, not {', '.join(findings) or 'none'}")
    return findings


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
