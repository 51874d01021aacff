"""Read a DICOM file: `read` parses its header, `decode` its pixels, `display` makes the greys that a viewer shows."""

from .display import bit_depth, to_display_uint8
from .read import PREAMBLE, is_dicom, read_header

__all__ = ["PREAMBLE", "bit_depth", "is_dicom", "read_header", "to_display_uint8"]
