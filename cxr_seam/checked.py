"""Whether the fields of a recipe hold what they may: values of their types, numbers in their ranges."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import InputError


def check_fields(part: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse a part of a recipe, a dataclass, one of whose fields does not fit.

    Args:
        part: whose annotations tell the types.
        ranges: by field, the least and the largest value of its number, both allowed; of several, of each.

    Raises:
        InputError: names the field.
    """
    for name, kind in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if not is_a(value, kind):
            wanted = getattr(kind, "__name__", kind) if get_origin(kind) is None else kind
            raise InputError(f"{name} of a recipe must be {wanted}, not {value!r}; correct it")
        low, high = ranges.get(name, (-math.inf, math.inf))
        numbers = [] if value is None or name not in ranges else value if isinstance(value, tuple) else [value]
        if not all(low <= number <= high for number in numbers):
            raise InputError(f"{name} of a recipe must lie between {low:g} and {high:g}, not {value!r}; correct it")
        if name.startswith("crop_") and value[0] > value[1]:
            raise InputError(f"{name} of a recipe must begin with the smaller number, not {value!r}; turn it over")


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type. A whole number serves as a fraction; True and NaN are no numbers."""
    if isinstance(kind, UnionType):
        return any(is_a(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[1:] == (...,):  # any number of them, but one at least
            kinds = kinds[:1] * max(1, len(value) if isinstance(value, tuple) else 0)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(is_a, value, kinds))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
