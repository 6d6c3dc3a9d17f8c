"""Readers of attributes that name dimensions of a tensor: by letter (N, C, D, H, W; beyond five dimensions X2, X3 ...) or number.

In: values of YAML, and how many spatial dimensions the tensor has (-1 for one dimension). Out: numbers of dimensions. Promise: as
in `dgraph.ops.attribute`, a value that does not fit raises ValueError with the words that end "must be ...".
"""

from __future__ import annotations

from typing import Any

from dgraph.ops.label import dimension_labels


def letters_of(ndim: int) -> tuple[str, ...]:
    """The letters of a tensor's dimensions."""
    return tuple(name.upper() for name in dimension_labels(ndim))


def dimension(value: Any, spatial: int) -> int:
    """The number of a dimension, from a letter or a number, which may count from the end."""
    ndim = spatial + 2
    letters = letters_of(ndim)
    if value in letters:
        return letters.index(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -ndim <= value < ndim:
        raise ValueError(f"one of {', '.join(letters)}, or an integer from {-ndim} to {ndim - 1}")
    return value % ndim
