"""What a reader of files gives.

In: nothing. Out: `Pair`. Promise: plain values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dgraph.data.spec import DataSpec
from dgraph.data.values import Values


@dataclass(frozen=True)
class Pair:
    """The samples x [n, ...] of a file and their labels y [n, ...]: class numbers (integers), names of classes (strings) or real
    targets (floats); or, where `named` is not empty, the numbers of those names. `classes`: how many there are, where that kind
    of file says so. A `shape` is that of a sample, where it is x's but for 1s."""

    x: Values
    y: Values
    classes: int | None = None
    shape: tuple[int, ...] | None = None
    named: tuple[str, ...] = ()


Opener = Callable[[str, str | None, DataSpec], Pair]
"""Opens a file, and the file of its labels where that kind has one. Raises DataError."""
