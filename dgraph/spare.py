"""Arrays for a while, whose memory is used again and again.

In: shapes. Out: arrays (`empty`) that belong to the caller as long as `lent` is entered, in this thread. Promise: every thread has
memory of its own, so that what it needs again is there; where nothing is lent, an array is new and stays.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Array = np.ndarray[Any, np.dtype[Any]]
LARGER = 6
"""How often memory may be doubled that a smaller array, as of a last, partial batch, is put into."""


class Pool:
    """Memory that nobody has, by its bytes: a power of two."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Array]] = defaultdict(list)

    def take(self, nbytes: int) -> Array:
        """At least so many bytes: the least that is free, or new ones."""
        size = 1 << max(6, nbytes - 1).bit_length()
        free = next((self._free[size << k] for k in range(LARGER) if self._free[size << k]), None)
        return free.pop() if free else np.empty(size, np.uint8)

    def give(self, memory: Array) -> None:
        """Takes back what `take` gave."""
        self._free[memory.nbytes].append(memory)


class _Thread(threading.local):
    """This thread's pool, and what it has borrowed of it; None where nothing is lent."""

    def __init__(self) -> None:
        self.pool, self.borrowed = Pool(), None  # type: tuple[Pool, list[Array] | None]


_thread = _Thread()


@contextmanager
def lent(pool: Pool | None = None) -> Iterator[None]:
    """While it is entered, `empty` lends memory, and takes it back at the end: of `pool`, which no other thread uses meanwhile, or
    of this thread's own."""
    before = _thread.pool, _thread.borrowed
    borrowed: list[Array] = []
    _thread.pool, _thread.borrowed = pool or _thread.pool, borrowed
    try:
        yield
    finally:
        for memory in borrowed:
            _thread.pool.give(memory)
        _thread.pool, _thread.borrowed = before


def empty(shape: Sequence[int], dtype: DTypeLike) -> Array:
    """An uninitialised C-contiguous array."""
    if _thread.borrowed is None:
        return np.empty(shape, dtype)
    nbytes = prod(shape) * np.dtype(dtype).itemsize
    memory = _thread.pool.take(nbytes)
    _thread.borrowed.append(memory)
    return memory[:nbytes].view(dtype).reshape(shape)
