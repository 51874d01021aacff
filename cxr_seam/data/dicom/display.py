"""Convert the stored values of a DICOM file to the greys that a viewer shows.

Sources: DICOM PS3.3, C.7.6.3 (pixels, palettes), C.7.6.11 (shutter), C.11.1 (modality LUT), C.11.2 (VOI LUT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from .decode import decode_pixels
from .elements import Header, one_line


def to_display_uint8(header: Header, name: str) -> np.ndarray:
    """Decode the pixels and convert them to the greys that a viewer would show.

    In this order: modality LUT or rescale; VOI LUT, else the first window; MONOCHROME1 inverted, so that bone is
    bright; black outside the shutter. Without VOI LUT and window, at most 8 bits without a rescale are shown unchanged,
    because they were made for display; other values are stretched from their minimum to their maximum, because
    detectors seldom fill their bits and rescaled values have no natural black. Padding (PixelPaddingValue) and the
    outside of a shutter are excluded from that range and become black. Palettes and YCbCr become RGB.

    If the header contradicts the values, the values decide, and `header.warnings` says so.

    Returns:
        (H, W) uint8 grey, or (H, W, 3) uint8 RGB if the file is in colour.

    Raises:
        InputError: the pixels are broken or cut short, or the header contradicts itself.
    """
    stored = decode_pixels(header, name)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # `_show_grey` refuses what is not finite
            if header.dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
                return _show_grey(stored, header)
            pixels = _show_colour(stored, header)
            pixels[_outside_shutter(header, pixels.shape[:2])] = 0
            return pixels
    except Exception as error:  # contradictions in a header end in many types
        raise InputError(f"{name} has a header that contradicts itself ({one_line(error)}); export it again") from error


def bit_depth(largest: int, *others: int) -> int:
    """Return the smallest of 8, 10, 12, 14, 16 and 32 bits, and of other depths, that holds a value of at least 0."""
    return min(bits for bits in (8, 10, 12, 14, 16, 32, *others) if 0 <= largest < 2**bits)


def full_scale(largest: int, told: int, *, header: Header, name: str) -> int:
    """Return the value of white from the largest value: exporters write, for example, 16 bits for tables of 12.

    The depth is the smallest that holds the value, of 8, 10, 12, 14 and 16 bits and the depth that the header tells.
    """
    bits = bit_depth(largest, told)
    if bits != told:
        header.warn(f"its header gives {told} bits for the {name}, but a value is {largest}; {bits} bits were used")
    return 2**bits - 1


class _Values(NamedTuple):
    """Stored values (H, W) as integers, the bits in use, whether they can be negative, and a mask of the padding."""

    values: np.ndarray
    bits: int
    signed: bool
    padding: np.ndarray


def _show_grey(stored: np.ndarray, header: Header) -> np.ndarray:
    pixels = _interpret_bits(stored, header)
    hidden = pixels.padding | _outside_shutter(header, stored.shape)
    values, changed = _apply_modality(pixels.values, header)
    image = values[~hidden] if hidden.any() and not hidden.all() else values
    show = next(_displays(image, header), None)
    if show is None:
        if pixels.bits <= 8 and not pixels.signed and not changed:
            low, high = 0.0, float(2**pixels.bits - 1)
        else:
            low, high = float(image.min()), float(image.max())
        show = lambda values: (values - low) / max(high - low, 1e-12)
    grey = np.clip(show(values), 0, 1)
    if not np.isfinite(grey).all():
        raise ValueError("rescale or window give values that are not finite")
    eight_bits = (grey * 255 + 0.5).astype(np.uint8)
    if header.dataset.PhotometricInterpretation == "MONOCHROME1":
        eight_bits = 255 - eight_bits
    eight_bits[hidden] = 0
    return eight_bits


def _interpret_bits(stored: np.ndarray, header: Header) -> _Values:
    """Turn the words of the file into values by HighBit, BitsStored and PixelRepresentation, or against them."""
    dataset, allocated = header.dataset, 8 * stored.dtype.itemsize
    bits = min(dataset.BitsStored, allocated)
    signed, padding = stored.dtype.kind == "i", _padding_mask(stored, header)
    words = stored.view(f"u{stored.dtype.itemsize}")
    used = words[~padding]
    top, shift = int(used.max(initial=0)), dataset.HighBit + 1 - bits
    if 0 < shift <= allocated - bits and top >= 2**bits:  # the values fill the upper bits of the words
        words, used, top = words >> shift, used >> shift, top >> shift
    if top >= 2**bits:
        half = 2 ** (bits - 1)
        negative = used >= 2**allocated - half
        if (negative | (used < half)).all():
            if not signed:
                header.warn("its values are negative, although its PixelRepresentation tells that none is")
            signed = True
        elif not _has_embedded_overlay(dataset):
            header.warn(f"its values reach {top}, more than the {bits} bits that its BitsStored tells; they were kept")
            bits = allocated
    if bits == allocated and not signed:
        return _Values(words, bits, signed, padding)
    words = words.astype(np.int64 if allocated > 16 else np.int32) & (2**bits - 1)
    if signed:
        half = 2 ** (bits - 1)
        values = (words ^ half) - half  # extends the sign
        hidden = padding | (values == values.min())  # the lowest value is often padding
        if values.min() < 0 and _roughness(values, hidden) > 2 * _roughness(words, hidden):
            header.warn("its values are not negative, although its PixelRepresentation tells that they can be")
            signed = False
        else:
            words = values
    return _Values(words, bits, signed, padding | _padding_mask(words, header) if signed else padding)


def _roughness(values: np.ndarray, hidden: np.ndarray) -> float:
    """Sum the squared differences of neighbours; values that wrap around differ by their whole range."""
    total = 0.0
    for shift in ((slice(1, None), slice(None)), (slice(None), slice(1, None))):
        back = tuple(slice(None, -1) if part.start else part for part in shift)
        steps = (values[shift] - values[back]).astype(np.float64)[~(hidden[shift] | hidden[back])]
        total += float((steps**2).sum())
    return total


def _has_embedded_overlay(dataset) -> bool:  # noqa: ANN001 (pydicom's Dataset)
    """Return whether the unused upper bits hold an overlay, as in files before 2004 (PS3.3-2004, C.9.2)."""
    return any(
        (group, 0x0102) in dataset and (group, 0x3000) not in dataset and dataset[group, 0x0102].value
        for group in range(0x6000, 0x6020, 2)
    )


def _padding_mask(stored: np.ndarray, header: Header) -> np.ndarray:
    """Return the mask of pixels that only fill up the rectangle: (H, W) bool."""
    value = header.number("PixelPaddingValue")
    limit = header.number("PixelPaddingRangeLimit", value)
    if np.isnan(value):
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted(_as_stored(int(bound), stored.dtype) for bound in (value, limit))
    mask = (stored >= low) & (stored <= high)
    if mask.all():
        header.warn("all its pixels have the PixelPaddingValue, which was ignored")
        return np.zeros(stored.shape, dtype=bool)
    return mask


def _as_stored(value: int, dtype: np.dtype) -> int:
    """Return a value of the header as signed as the pixels: -2000 may be written as 63536."""
    least, n_values = np.iinfo(dtype).min, 2 ** (8 * dtype.itemsize)
    return (value - least) % n_values + least if -n_values // 2 <= value < n_values else value


def _outside_shutter(header: Header, shape: tuple[int, int]) -> np.ndarray:
    """Return the mask of pixels outside a rectangular, circular or polygonal shutter: (H, W) bool.

    Rows and columns of the header count from 1. Several shapes show their intersection.
    """
    height, width = shape
    rows, columns = np.arange(1, height + 1)[:, None], np.arange(1, width + 1)
    hidden = np.zeros(shape, dtype=bool)
    for kind in filter(None, header.texts("ShutterShape")):
        if kind == "RECTANGULAR":
            left, right = header.number("ShutterLeftVerticalEdge", 1), header.number("ShutterRightVerticalEdge", width)
            upper = header.number("ShutterUpperHorizontalEdge", 1)
            lower = header.number("ShutterLowerHorizontalEdge", height)
            outside = (columns < left) | (columns > right) | (rows < upper) | (rows > lower)
        elif kind == "CIRCULAR":
            row, column = (*header.numbers("CenterOfCircularShutter"), np.nan, np.nan)[:2]
            radius = header.number("RadiusOfCircularShutter")
            outside = ~((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)  # all if a number is missing
        elif kind == "POLYGONAL":
            outside = _outside_polygon(header.numbers("VerticesOfThePolygonalShutter"), shape)
        else:
            continue
        hidden |= outside
    if hidden.all():
        header.warn("its shutter hides the whole image or is incomplete, and was ignored")
        return np.zeros(shape, dtype=bool)
    return hidden


def _outside_polygon(numbers: list[float], shape: tuple[int, int]) -> np.ndarray:
    import cv2

    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        return np.ones(shape, dtype=bool)
    vertices = np.rint(np.reshape(numbers, (-1, 2))[:, ::-1] - 1).astype(np.int32)  # column, row
    return cv2.fillPoly(np.ones(shape, np.uint8), [vertices], 0).astype(bool)


def _apply_modality(values: np.ndarray, header: Header) -> tuple[np.ndarray, bool]:
    """Apply the modality LUT, else the rescale; return the values, and whether they changed."""
    item = header.item("ModalityLUTSequence")
    table = item and _table(item, "LUTDescriptor", "LUTData")
    if table:
        return table.look_up(values), True
    slope, intercept = header.number("RescaleSlope", 1), header.number("RescaleIntercept", 0)
    if slope == 0:
        header.warn("its RescaleSlope is 0 and was ignored")
        slope = 1.0
    if (slope, intercept) == (1, 0):
        return values, False
    return values.astype(np.float64) * slope + intercept, True


def _displays(image: np.ndarray, header: Header) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Yield the functions from values to greys (0 black, 1 white) of the header: the VOI LUT, then the windows.

    A function that makes all values of the image one grey is left out.
    """
    for name, show in (*_voi_luts(header), *_windows(header)):
        extremes = np.array([image.min(), image.max()])
        greys = np.clip(show(image if name == "VOI LUT" else extremes), 0, 1)
        if np.ptp(greys) * 255 >= 1 or np.ptp(extremes) == 0:
            yield show
        else:
            header.warn(f"its {name} shows the whole image in one grey and was ignored")


def _voi_luts(header: Header) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    item = header.item("VOILUTSequence")
    table = item and _table(item, "LUTDescriptor", "LUTData")
    if table:
        white = full_scale(int(table.entries.max()), table.bits, header=header, name="VOI LUT")
        yield "VOI LUT", lambda values: table.look_up(values) / white


def _windows(header: Header) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    centres, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    function = header.text("VOILUTFunction", "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        header.warn(f"its VOILUTFunction {function} is unknown and was read as LINEAR")
    if bool(centres) != bool(widths):
        header.warn(f"its window has no {'width' if centres else 'centre'} and was ignored")
    for centre, width in zip(centres, widths, strict=False):
        if width > 0 and np.isfinite(centre):
            yield "window", _window(centre, width, function)
        elif width <= 0:
            header.warn(f"its window has the width {width:g} and was ignored")


def _window(centre: float, width: float, function: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from values to greys of a window, 0 black and 1 white, not clipped (C.11.2.1.2 and .3)."""
    if function == "SIGMOID":
        return lambda values: 0.5 + 0.5 * np.tanh(2 * (values - centre) / width)
    if function == "LINEAR_EXACT" or width < 1:  # a linear width below 1 makes no sense but for fractions
        return lambda values: (values - centre) / width + 0.5
    if width == 1:
        return lambda values: (values > centre - 0.5).astype(np.float64)
    return lambda values: (values - (centre - 0.5)) / (width - 1) + 0.5


class _Table(NamedTuple):
    """A look-up table: its entries, the first value that it maps, and the bits that its header tells."""

    entries: np.ndarray
    first: int
    bits: int

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Map values; those beyond the ends of the table get its first or last entry."""
        first = self.first - 2**16 if self.first >= 2**15 and values.min() < 0 else self.first
        index = np.rint(values).astype(np.int64) - first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)]


def _table(header: Header, descriptor: str, data: str) -> _Table | None:
    """Read a look-up table, whatever its type; None if it is empty."""
    numbers, value = header.numbers(descriptor), header.dataset.get(data)
    if isinstance(value, bytes):
        order = ">u2" if header.big_endian else "<u2"
        words = np.frombuffer(value + b"\0" * (len(value) % 2), order).astype(np.int64)
    else:
        values = [] if value is None or value == "" else value if hasattr(value, "__iter__") else [value]
        words = np.array(list(values), dtype=np.int64) & 0xFFFF
    if not len(words) and not numbers:
        return None
    if not len(words) or len(numbers) != 3 or not np.isfinite(numbers).all():
        header.warn(f"its {data} has no {'values' if not len(words) else 'valid descriptor'} and was ignored")
        return None
    count, first, bits = (int(number) for number in numbers)
    count = count % 2**16 or 2**16
    if len(words) == (count + 1) // 2:  # two entries of 8 bits in each word
        words = words.astype("<u2").view(np.uint8).astype(np.int64)[:count]
    if len(words) < count or len(words) > count + 1:
        header.warn(f"its {data} has {len(words)} entries instead of {count}")
    return _Table(words[:count], first, min(bits, 64))


def _show_colour(stored: np.ndarray, header: Header) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    dataset = header.dataset
    if dataset.PhotometricInterpretation == "PALETTE COLOR" and not dataset.get("RedPaletteColorLookupTableData"):
        stored = apply_color_lut(stored, dataset)[..., :3]  # a segmented palette
        white = 2 ** (8 * stored.dtype.itemsize) - 1
    elif dataset.PhotometricInterpretation == "PALETTE COLOR":
        tables = [
            _table(header, f"{colour}PaletteColorLookupTableDescriptor", f"{colour}PaletteColorLookupTableData")
            for colour in ("Red", "Green", "Blue")
        ]
        if not all(tables):
            raise ValueError("it has no palette")
        largest = max(int(table.entries.max()) for table in tables)
        white = full_scale(largest, tables[0].bits, header=header, name="palette")
        values = _interpret_bits(stored, header).values
        stored = np.stack([table.look_up(values) for table in tables], axis=-1)
    elif stored.ndim == 3:
        white = full_scale(int(stored.max()), dataset.BitsStored, header=header, name="colour")
    else:
        raise ValueError(f"one sample per pixel of {dataset.PhotometricInterpretation}")
    return np.rint(stored * (255 / white)).astype(np.uint8)
