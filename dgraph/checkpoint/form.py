"""The form of a checkpoint on disk: names, index entries, the frame of the index.

In: values of index entries, names of folders. Out: `Shard`, `Stored`, committed checkpoints in order. Promise: an entry that makes
no sense is refused here, before any file is touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from dgraph.rect import Rect

Array = np.ndarray[Any, np.dtype[Any]]
Dim = tuple[int, ...]

FORMAT, VERSION = "dgraph checkpoint", 1
INDEX = "index.json"
COMMITTED = re.compile(r"step-(\d{6,})(?:\.(\d+))?")
RANK_FILE = re.compile(r"rank-\d{5,}\.bin")
DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
BITE = 1 << 20


@dataclass(frozen=True, eq=False)
class Shard:
    """A tensor's name and dim, and a rect of it with its values: an array of the rect's shape, any strides."""

    name: str
    dim: Dim
    rect: Rect
    array: Array


@dataclass(frozen=True)
class Stored:
    """Where the values of a rect of a tensor lie: `offset` and `nbytes` in bytes, in C order."""

    name: str
    dim: Dim
    dtype: str
    rect: Rect
    file: str
    offset: int
    nbytes: int
    crc: int

    def entry(self) -> list[Any]:
        """As the index holds it."""
        place = [self.file, self.offset, self.nbytes, self.crc]
        return [self.name, self.dim, self.dtype, self.rect.start, self.rect.size, *place]

    @staticmethod
    def of(entry: list[Any]) -> Stored:
        """What an entry says. Raises TypeError or ValueError for one that makes no sense."""
        name, dim, dtype, start, size, file, offset, nbytes, crc = entry
        numbers = [*dim, *start, *size, offset, nbytes, crc]
        if not all(type(n) is int and n >= 0 for n in numbers) or not all(type(s) is str for s in (name, dtype, file)):
            raise TypeError("entries of a wrong type")
        rect = Rect(tuple(start), tuple(size))
        if rect not in Rect.whole(dim) or dtype not in DTYPES or not RANK_FILE.fullmatch(file):
            raise ValueError("a rect, dtype or file that cannot be")
        if nbytes != rect.volume * np.dtype(dtype).itemsize:
            raise ValueError("a shard of the wrong length")
        return Stored(name, tuple(dim), dtype, rect, file, offset, nbytes, crc)


def frame(body: bytes) -> bytes:
    """The index file: fixed but for crc and body, so that no flipped bit goes unseen."""
    return b'{"crc32":"%08x","index":%s}\n' % (crc32(body), body)


HEAD = frame(b"").index(b"}")


def committed(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """((step, times written before), path) of all committed checkpoints of a folder, the newest last."""
    found = ((COMMITTED.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(((int(match[1]), int(match[2] or 0)), path) for match, path in found if match)


def best_step(meta: Mapping[str, Any]) -> int | None:
    """The step of the best checkpoint so far, as this one's `meta` names it; None where it names none."""
    best = meta.get("best")
    return int(best["step"]) if isinstance(best, Mapping) and type(best.get("step")) is int else None
