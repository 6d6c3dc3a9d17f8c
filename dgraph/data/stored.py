"""Arrays that lie in a file as they are: one sample at a fixed distance behind the other, each in C order.

In: a path, where the values start, their shape and type. Out: `Values`. Promise: the bytes of a rect are read, each run
of them by one call, and none stays in memory; only of small samples, in which a rect has many runs, is read what lies between.
The file is held open, not mapped, so that one that is cut short is a fault with a name, and what has been read does not count
as memory in use.
"""

from __future__ import annotations

import os
import weakref
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from dgraph.block import strides
from dgraph.data.spec import Array
from dgraph.durable import fault
from dgraph.error import DataError
from dgraph.rect import Rect

SMALL = 1 << 18
"""Of a sample of fewer bytes, what lies between the runs of a rect is read rather than left out with many calls."""
FEW_RUNS = 8


class Stored:
    """Values [n, ...] from byte `offset` of a file on, one sample every `stride` bytes (None: one right behind the other)."""

    def __init__(
        self, path: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], stride: int | None = None
    ) -> None:
        self.path, self.shape, self.dtype, self._offset = path, shape, dtype, offset
        self._file = Opened(path)
        self._nbytes = prod(shape[1:]) * dtype.itemsize
        self._stride = self._nbytes if stride is None else stride
        if offset + (shape[0] - 1) * self._stride + self._nbytes > size_of(path):
            raise DataError(f"{path}: damaged", "it ends before its values do")

    def load(self) -> None:
        pass

    def where(self, index: int) -> str:
        return f"{self.path}: sample {index}"

    def read(self, indices: Array, rect: Rect) -> Array:
        starts, run = self._runs(rect)
        if len(starts) > FEW_RUNS and self._nbytes < SMALL:
            return self._read_between(indices, rect, starts, run)
        places = (self._offset + indices[:, None] * self._stride + starts).ravel()
        content = np.empty(len(places) * run, np.uint8)
        # Neighbours in the file that are neighbours in the result are one run.
        cuts = [0, *(np.flatnonzero(np.diff(places) != run) + 1).tolist(), len(places)]
        view = content.data
        for first, last in pairwise(cuts):
            if last > first:
                self._file.fill(view[first * run : last * run], int(places[first]))
        return content.view(self.dtype).reshape(len(indices), *rect.size)

    def _read_between(self, indices: Array, rect: Rect, starts: Array, run: int) -> Array:
        """Reads of each sample what lies from the first to the last run, and takes the rect from it."""
        content = np.empty((len(indices), self._nbytes), np.uint8)
        first, last = int(starts[0]), int(starts[-1]) + run
        for part, index in zip(content, indices.tolist(), strict=True):
            self._file.fill(part.data[first:last], self._offset + index * self._stride + first)
        values = content.view(self.dtype).reshape(len(indices), *self.shape[1:])
        return np.array(values[(slice(None), *rect.slices())])

    def _runs(self, rect: Rect) -> tuple[Array, int]:
        """Where, from the start of a sample, the runs of a rect start, and how long each of them is, in bytes."""
        inner = self.shape[1:]
        cut = len(inner)
        while cut and rect.size[cut - 1] == inner[cut - 1]:
            cut -= 1
        steps = strides(inner)
        looped = max(cut - 1, 0)
        starts = np.full(1, sum(start * step for start, step in zip(rect.start, steps, strict=True)))
        for extent, step in zip(rect.size[:looped], steps[:looped], strict=True):
            starts = (starts[:, None] + np.arange(extent) * step).ravel()
        return starts * self.dtype.itemsize, prod(rect.size[looped:]) * self.dtype.itemsize


class Opened:
    """A file, opened when it is first read and held open."""

    def __init__(self, path: str) -> None:
        self._path = path

    def fill(self, part: memoryview, place: int) -> None:
        """Fill `part` from byte `place` on. Raises DataError where the file ends before."""
        while part:
            try:
                count = os.preadv(self._handle, [part], place)
            except OSError as error:
                raise fault(self._path, error) from None
            if not count:
                raise DataError(f"{self._path}: cut short", "it has changed since it was opened")
            part, place = part[count:], place + count

    @cached_property
    def _handle(self) -> int:
        try:
            handle = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise fault(self._path, error) from None
        weakref.finalize(self, os.close, handle)
        return handle


def size_of(path: str) -> int:
    """How many bytes a file has. Raises DataError where there is none."""
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise fault(path, error) from None
