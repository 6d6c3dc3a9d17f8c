"""Readers of op attributes: from what a person wrote to what kernels and access maps use.

In: values of YAML. Out: ints, floats, strings and tuples. Promise: a value that does not fit raises ValueError with the words
that end "must be ...".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from dgraph.graph.node import Attribute
from dgraph.ops.label import dimension_labels


def _integer(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"an integer >= {least}")
    return value


def _count(value: Any, spatial: int) -> int:
    return _integer(value, 1)


def _per_dimension(value: Any, spatial: int, least: int) -> tuple[int, ...]:
    wanted = f"an integer >= {least}, or a list of {spatial}"
    entries = value if isinstance(value, (list, tuple)) else [value] * spatial
    if len(entries) != spatial:
        raise ValueError(wanted)
    try:
        return tuple(_integer(entry, least) for entry in entries)
    except ValueError:
        raise ValueError(wanted) from None


def _counts(value: Any, spatial: int) -> tuple[int, ...]:
    return _per_dimension(value, spatial, 1)


def _optional_counts(value: Any, spatial: int) -> tuple[int, ...] | None:
    return None if value is None else _counts(value, spatial)


def _padding(value: Any, spatial: int) -> tuple[tuple[int, int], ...]:
    entries = value if isinstance(value, (list, tuple)) else [value] * spatial
    wanted = f"an integer >= 0, or a list of {spatial} integers or [before, after] pairs"
    if len(entries) != spatial:
        raise ValueError(wanted)
    try:
        pairs = [_per_dimension(entry, 2, 0) for entry in entries]
    except ValueError:
        raise ValueError(wanted) from None
    return tuple((before, after) for before, after in pairs)


def _counts_from_zero(value: Any, spatial: int) -> tuple[int, ...]:
    return _per_dimension(value, spatial, 0)


def _flag(value: Any, spatial: int) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _letters(value: Any, spatial: int) -> str:
    allowed = [name.upper() for name in dimension_labels(spatial + 2)]
    if value == "all":
        return "".join(allowed[1:])
    named = re.findall(r"[A-Z][0-9]*", value) if isinstance(value, str) else None
    if named is None or "".join(named) != value or not {*named} <= {*allowed} or len({*named}) != len(named):
        raise ValueError(f"a string of different letters out of {''.join(allowed)}, or all")
    return str(value)


def _shape(value: Any, spatial: int) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 4:
        raise ValueError("a list [channels, spatial ...] of 1 to 4 integers")
    return tuple(_integer(entry, 1) for entry in value)


def _dim(value: Any, spatial: int) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("a list of integers")
    return tuple(_integer(entry, 1) for entry in value)


COUNT = Attribute(_count)
COUNTS = Attribute(_counts)
STRIDE = Attribute(_counts, 1)
POOL_STRIDE = Attribute(_optional_counts, None)
PADDING = Attribute(_padding, 0)
OUTPUT_PADDING = Attribute(_counts_from_zero, 0)
DILATION = Attribute(_counts, 1)
GROUPS = Attribute(_count, 1)
SHAPE = Attribute(_shape)
DIM = Attribute(_dim)


def number(default: float, wanted: str = "a number", accept: Callable[[float], bool] = lambda value: True) -> Attribute:
    """A finite number that `accept` takes."""

    def read(value: Any, spatial: int) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or not accept(value)
        ):
            raise ValueError(wanted)
        return float(value)

    return Attribute(read, default)


def positive(default: float) -> Attribute:
    """A finite number > 0."""
    return number(default, "a number > 0", lambda value: value > 0)


def choice(default: str, *others: str) -> Attribute:
    """One of a few words."""
    words = (default, *others)

    def read(value: Any, spatial: int) -> str:
        if value not in words:
            raise ValueError(" or ".join(words))
        return str(value)

    return Attribute(read, default)


def flag(default: bool) -> Attribute:
    """true or false."""
    return Attribute(_flag, default)


def letters(default: str) -> Attribute:
    """Dimension letters, such as CHW; `all` stands for those of a sample."""
    return Attribute(_letters, default)


READING = choice("rect", "same")
