"""Subtract the mirrored evidence from a map: a finding in one half of the chest, compared with the other half.

The two halves of a chest resemble each other, so evidence in both at the same height is less likely to be the finding.
With the evidence E, mirrored left to right, and a share s:

    E' = ReLU(E - s mirror(E)).

Properties: a symmetric map is only scaled, by 1 - s; evidence in one half alone stays as it is; a mirrored map gives
the mirrored result. It assumes that the midline of the patient is the middle of the image.

Source: this project, docs/beyond-the-paper.md; as radiologists compare both sides.
"""

from __future__ import annotations

from torch import Tensor


def subtract_mirror(evidence: Tensor, share: float) -> Tensor:
    """Subtract the share `share`, in [0, 1], of the mirrored evidence (..., h, w), not negative; same shape."""
    return (evidence - share * evidence.flip(-1)).relu() if share else evidence
