"""Read elements of a DICOM header tolerantly: an empty element counts as missing, as in viewers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset


class Header:
    """The elements of a data set by keyword, and warnings about what was ignored, repaired or guessed.

    Args:
        dataset: the data set, or an item of one of its sequences.
        source: the bytes of the file, from which broken pixel data can be repaired.
        big_endian: whether words of two bytes begin with the upper one.
        warnings: list to which the warnings go, one sentence each.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        source: bytes = b"",
        big_endian: bool = False,
        warnings: list[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.source = source
        self.big_endian = big_endian
        self.warnings = [] if warnings is None else warnings

    def warn(self, sentence: str) -> None:
        """Add a warning, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def texts(self, keyword: str) -> list[str]:
        """Return the values of an element as upper-case text without blanks around; [] if it is missing or empty."""
        try:
            value = self.dataset.get(keyword)
        except Exception:  # a value that pydicom cannot convert; each kind raises its own type
            value = getattr(self.dataset.get_item(keyword), "value", None)
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if value is None:
            return []
        values = value.split("\\") if isinstance(value, str) else [value] if not hasattr(value, "__iter__") else value
        texts = ["" if value is None else str(value).strip(" \0").upper() for value in values]
        return texts if any(texts) else []

    def text(self, keyword: str, default: str = "") -> str:
        """Return the first value of an element as upper-case text."""
        return next(filter(None, self.texts(keyword)), default)

    def numbers(self, keyword: str) -> list[float]:
        """Return the values of an element; NaN for one that is empty or no number, which gives a warning.

        A comma counts as decimal point, which gives a warning too.
        """
        numbers = []
        for text in self.texts(keyword):
            try:
                number = float(text.replace(",", ".") or "nan")
            except ValueError:
                number = math.nan
            if text and not math.isfinite(number):
                self.warn(f"its header has the {keyword} {text[:20]!r}, which is no number and was ignored")
                number = math.nan
            elif "," in text:
                self.warn(f"its header has the {keyword} {text!r}, which was read as {number:g}")
            numbers.append(number)
        return numbers

    def number(self, keyword: str, default: float = math.nan) -> float:
        """Return the first number of an element."""
        return next(filter(math.isfinite, self.numbers(keyword)), default)

    def integer(self, keyword: str, default: int = 0) -> int:
        """Return the first number of an element, without its fraction."""
        return int(self.number(keyword, default))

    def item(self, keyword: str) -> Header | None:
        """Return the first item of a sequence, or None."""
        from pydicom import Dataset

        items = self.dataset.get(keyword)
        if not hasattr(items, "__len__") or not len(items) or not isinstance(items[0], Dataset):
            return None
        return Header(items[0], big_endian=self.big_endian, warnings=self.warnings)


def one_line(error: Exception) -> str:
    """Return the message of an error in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def copy_functional_groups(header: Header) -> None:
    """Copy what the functional groups of an enhanced file say about its one frame to the top of its header.

    The window, the rescale, the shutter and the size of a pixel then are where ordinary files have them. Elements that
    have a value stay. Source: DICOM PS3.3, C.7.6.16.
    """
    for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = header.item(keyword)
        for group in groups.dataset if groups else ():
            item = groups.item(group.keyword) if group.VR == "SQ" and group.keyword else None
            for element in item.dataset if item else ():
                if element.keyword and not header.texts(element.keyword):
                    header.dataset[element.tag] = element


def complete_pixel_elements(header: Header) -> None:
    """Give the elements that describe the pixels a value each; the length of the pixels decides between contradictions.

    Nothing is refused here: a decoder refuses what cannot be.
    """
    dataset = header.dataset
    rows, columns = header.integer("Rows"), header.integer("Columns")
    native = not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    length = len(dataset.PixelData) if native else 0
    photometric, samples = _colours(header, room=length / (rows * columns))
    allocated = _bits_allocated(header, length=length, samples=rows * columns * samples)
    stored = header.integer("BitsStored") or allocated
    if not 0 < stored <= allocated:
        header.warn(f"its header has BitsStored {stored} of {allocated}; {allocated} were used")
        stored = allocated
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, 1
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = photometric, samples
    dataset.BitsAllocated, dataset.BitsStored = allocated, stored
    dataset.HighBit = header.integer("HighBit", stored - 1)
    dataset.PixelRepresentation = int(header.integer("PixelRepresentation") == 1)
    if samples > 1:
        dataset.PlanarConfiguration = int(header.integer("PlanarConfiguration") == 1)


def _colours(header: Header, *, room: float) -> tuple[str, int]:
    """Return photometric interpretation and samples per pixel; `room` is the bytes per pixel, 0 if unknown."""
    photometric, samples = header.text("PhotometricInterpretation"), header.integer("SamplesPerPixel")
    if not photometric:
        grey = "PALETTE COLOR" if header.numbers("RedPaletteColorLookupTableDescriptor") else "MONOCHROME2"
        photometric = "RGB" if samples == 3 or (not samples and room == 3) else grey
        header.warn(f"its header has no PhotometricInterpretation; {photometric} was assumed")
    expected = 3 if photometric.startswith(("RGB", "YBR")) else 1
    if samples in (1, 3) and samples != expected:
        in_colour = room >= 3 * max(header.integer("BitsAllocated", 8) // 8, 1)
        told, expected = photometric, 3 if in_colour else 1
        if in_colour != photometric.startswith(("RGB", "YBR")):
            photometric = "RGB" if in_colour else "MONOCHROME2"
        header.warn(f"its header has {samples} samples per pixel of {told}; it was read as {photometric}")
    return photometric, expected


def _bits_allocated(header: Header, *, length: int, samples: int) -> int:
    """Return the bits of a sample in the file, from its header or else the length of the pixels (0 if unknown)."""
    told, stored = header.integer("BitsAllocated"), header.integer("BitsStored")
    even = samples + samples % 2
    fitting = {samples: 8, even: 8, 2 * samples: 16, 4 * samples: 32}.get(length, 0)
    if told in (1, 8, 16, 32, 64):
        wrong = 0 < fitting < told or told == 8 < min(stored, fitting)
    else:
        wrong = not told or fitting > 0
    if not wrong:
        return told
    bits = fitting or (16 if stored > 8 else 8)
    header.warn(f"its header has {f'BitsAllocated {told}' if told else 'no BitsAllocated'}; {bits} were assumed")
    return bits
