"""Readers of attributes that name dimensions of a tensor: by letter (N, C, D, H, W; beyond five dimensions X2, X3 ...) or number.

In: values of YAML, and how many spatial dimensions the tensor has (-1 for one dimension). Out: numbers of dimensions, ranges,
margins. Promise: as in `dgraph.ops.attribute`, a value that does not fit raises ValueError with the words that end "must be ...".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dgraph.error import ConfigError
from dgraph.graph.node import Attribute, Attributes
from dgraph.ops.attribute import PADDING
from dgraph.ops.label import dimension_labels

Range = tuple[int | None, int | None, int]
Margin = tuple[int, int]

MOST = 8
"""So many dimensions have letters."""


def letters_of(ndim: int) -> tuple[str, ...]:
    """The letters of a tensor's dimensions."""
    return tuple(name.upper() for name in dimension_labels(ndim))


LETTERS = tuple(dict.fromkeys(letter for ndim in range(1, MOST + 1) for letter in letters_of(ndim)))


def dimension(value: Any, spatial: int) -> int:
    """The number of a dimension, from a letter or a number, which may count from the end."""
    letters = letters_of(spatial + 2)
    return _place(value, letters, len(letters) - 1)


def boundary(value: Any, spatial: int) -> int:
    """The number of dimensions in front: from the letter or number of the first that is not, or how many there are at all."""
    letters = letters_of(spatial + 2)
    return _place(value, letters, len(letters))


def _place(value: Any, letters: Sequence[str], last: int) -> int:
    ndim = len(letters)
    if value in letters:
        return letters.index(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -ndim <= value <= last:
        raise ValueError(f"one of {', '.join(letters)}, or an integer from {-ndim} to {last}")
    return value if value >= 0 else value + ndim


def permutation(value: Any, spatial: int) -> tuple[int, ...]:
    """The numbers of all dimensions in a new order, from a string of letters or a list."""
    letters = letters_of(spatial + 2)
    wanted = f"all of {', '.join(letters)} or of 0 to {len(letters) - 1}, in any order"
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(wanted)
    try:
        order = tuple(dimension(entry, spatial) for entry in value)
    except ValueError:
        raise ValueError(wanted) from None
    if sorted(order) != list(range(len(letters))):
        raise ValueError(wanted)
    return order


def _range(value: Any, spatial: int) -> Range | None:
    if value is None:
        return None
    wanted = "[start, stop] or [start, stop, step] with a step >= 1, as in Python"
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 3:
        raise ValueError(wanted)
    start, stop, step = list(value) + [None, None, 1][len(value) :]
    if any(isinstance(entry, bool) or not isinstance(entry, (int, type(None))) for entry in (start, stop)):
        raise ValueError(wanted)
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise ValueError(wanted)
    return start, stop, step


def _margin(value: Any, spatial: int) -> Margin | None:
    if value is None:
        return None
    try:
        margins: tuple[Margin, ...] = PADDING.read([value], 1)
        return margins[0]
    except ValueError:
        raise ValueError("an integer >= 0, or [before, after] of such") from None


def _margins(value: Any, spatial: int) -> tuple[Margin, ...] | None:
    if value is not None and spatial < 1:
        raise ValueError("left out where there are no spatial dimensions")
    return None if value is None else PADDING.read(value, spatial)


def _by_letter(read: Callable[[Any, int], Any]) -> Mapping[str, Attribute]:
    return {letter: Attribute(read, None) for letter in LETTERS}


RANGES = _by_letter(_range)
MARGINS = _by_letter(_margin)
ALL_MARGINS = Attribute(_margins, None)


def given(attributes: Attributes, ndim: int, key: str | None = None) -> list[Any]:
    """What attributes by letter, or by an attribute `key` for all spatial dimensions, say of every dimension; None where nothing.

    Raises ConfigError for letters that the tensor does not have, and where a dimension is named twice.
    """
    letters = letters_of(ndim)
    for letter in LETTERS:
        if attributes[letter] is not None and letter not in letters:
            raise ConfigError(f"there is no dimension {letter}", f"a tensor of {ndim} has {', '.join(letters)}")
    values = [attributes[letter] for letter in letters]
    for d, value in enumerate(attributes[key] or () if key else ()):
        if values[d + 2] is not None:
            raise ConfigError(f"{key} and {letters[d + 2]} both name a dimension", "one of them is enough")
        values[d + 2] = value
    return values
