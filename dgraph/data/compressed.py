"""Arrays that can only be read as a whole, because they are compressed as a whole.

In: what unpacks them. Out: `Packed`, in memory once it is needed. Promise: nothing is allocated for an array that cannot be, or is
too large to be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol

import numpy as np

from dgraph.data.spec import Array
from dgraph.data.values import BITE, Held, require_finite
from dgraph.error import DataError
from dgraph.rect import Rect

MOST_KEPT = 4 << 30
"""How many bytes are kept in memory."""
DEFLATED = 1040
"""How many times smaller than its content a deflated stream may be (RFC 1951: 258 bytes in 2 bits), and some more."""


@dataclass(frozen=True)
class Packed:
    """An array that can only be read as a whole: it is brought into memory when it is first needed. `unpack` reads it;
    `name` is what messages call it, `place` what they call a sample."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    unpack: Callable[[], Array]
    name: str = "x"
    place: Callable[[int], str] | None = None

    @cached_property
    def held(self) -> Held:
        """The array in memory, all of it finite."""
        array = self.unpack()
        require_finite(self.name, array, np.arange(len(array)), self.where)
        return Held(self.path, array)

    def load(self) -> None:
        self.held  # noqa: B018

    def read(self, indices: Array, rect: Rect) -> Array:
        return self.held.read(indices, rect)

    def where(self, index: int) -> str:
        return f"{self.path}: sample {index}" if self.place is None else self.place(index)


class Stream(Protocol):
    """A file that is read from its start to its end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, `size` at most."""


def whole(file: Stream, nbytes: int) -> Array:
    """All that is left in a file, uint8 [nbytes]; read to its end, so that a sum there is checked.

    Raises EOFError where it is shorter, ValueError where it is longer.
    """
    content: Array = np.empty(nbytes, np.uint8)
    filled = 0
    while part := file.read(4 * BITE):
        if filled + len(part) > nbytes:
            raise ValueError("it is longer than its header says")
        content[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    if filled < nbytes:
        raise EOFError("it is shorter than its header says")
    return content


def require_kept(path: str, shape: tuple[int, ...], dtype: np.dtype[Any], stored: int, remedy: str) -> None:
    """Raises DataError, before anything is allocated, where a deflated array of so many stored bytes cannot have that size, or is
    too large to be kept in memory."""
    nbytes = prod(shape) * dtype.itemsize
    if nbytes > DEFLATED * stored + BITE:
        raise DataError(
            f"{path}: damaged", f"{stored} compressed bytes cannot hold the {nbytes} bytes that its header says"
        )
    if nbytes > MOST_KEPT:
        raise DataError(
            f"{path}: {nbytes} bytes are too many to be kept in memory, as a compressed array has to be", remedy
        )
