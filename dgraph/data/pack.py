"""Samples of any source in one HDF5 file.

In: a source, which of its samples. Out: a file that the source hdf5 reads with the same values, labels and order. Promise: some
megabytes of samples are in memory at a time; the file is written beside, synced and renamed.

Values keep their type (bytes of images stay bytes) and lie in the file as they are, so that a rank reads exactly its rect; or
in compressed chunks with sums, each a sample or a cube of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dgraph.data.array import ArraySource
from dgraph.data.reader.hdf5 import CLASSES, NAMES, h5py
from dgraph.data.spec import Array, Source
from dgraph.durable import beside, faults
from dgraph.error import DataError
from dgraph.rect import Rect

MOST_CHUNK = 1 << 18
"""How many elements a chunk has at most."""
MOST = 1 << 24
"""How many elements are in memory at a time."""
Read = Callable[[Array, Rect], Array]


@dataclass(frozen=True)
class Packed:
    """What has been written: how many samples of which shapes, the type of their values, and the bytes of the file."""

    samples: int
    shape: tuple[int, ...]
    label_shape: tuple[int, ...]
    classes: int | None
    dtype: str
    nbytes: int


def pack(
    source: Source,
    indices: Array,
    path: Path,
    names: Sequence[str] = (),
    compress: int = 0,
    report: Callable[[int], None] = lambda samples: None,
) -> Packed:
    """Write these samples of a source into an HDF5 file.

    Parameters
    ----------
    names : of the classes, if they have any.
    compress : from 1 (fast) to 9 (small) as gzip has it, with sums of all chunks; 0: not at all.
    report : is told how many samples are written, now and then.

    Raises DataError where the source cannot be read or the file cannot be written; then there is no file.
    """
    read = source.raw if isinstance(source, ArraySource) else source.read
    library = h5py()
    with faults(path), beside(path) as other:
        try:
            with library.File(other, "w", libver=("v110", "v110")) as file:  # Its headers have sums.
                x = _written(file, "x", read, indices, source.shape, compress, report)
                y = _written(file, "y", source.labels, indices, source.label_shape, compress)
                if source.classes is not None:
                    y.attrs[CLASSES] = source.classes
                if names:
                    y.attrs[NAMES] = np.array([name.encode() for name in names])
                dtype = x.dtype.name
        except RuntimeError as error:  # What the library raises where a disk is full.
            raise DataError(f"{path}: cannot be written", str(error).splitlines()[0]) from None
        nbytes = other.stat().st_size
    return Packed(len(indices), source.shape, source.label_shape, source.classes, dtype, nbytes)


def _written(
    file: Any,
    name: str,
    read: Read,
    indices: Array,
    shape: tuple[int, ...],
    compress: int,
    report: Callable[[int], None] = lambda samples: None,
) -> Any:
    """A dataset of these samples."""
    chunk = _chunk(shape)
    first = read(indices[:1], Rect((0,) * len(shape), (1,) * len(shape)))
    options = {"chunks": (1, *chunk), "compression": "gzip", "compression_opts": compress} if compress else {}
    filters = {"shuffle": True, "fletcher32": True} if compress else {}
    dtype = first.dtype.newbyteorder("=")
    dataset = file.create_dataset(name, (len(indices), *shape), dtype, **options, **filters)
    for part in _parts(len(indices), shape, chunk):
        samples = indices[part.start[0] : part.stop[0]]
        dataset[part.slices()] = read(samples, Rect(part.start[1:], part.size[1:]))
        report(part.stop[0])
    return dataset


def _chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A sample, its longest extent halved until it is small enough."""
    extents = list(shape)
    while prod(extents) > MOST_CHUNK:
        longest = extents.index(max(extents))
        extents[longest] = -(-extents[longest] // 2)
    return tuple(extents)


def _parts(samples: int, shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[Rect]:
    """Rects that cover all samples: of several, or chunk by chunk of those that are too large to be in memory."""
    count = MOST // prod(shape)
    if count:
        for first in range(0, samples, count):
            yield Rect.of([(first, min(first + count, samples)), *((0, extent) for extent in shape)])
        return
    starts = [range(0, extent, step) for extent, step in zip(shape, chunk, strict=True)]
    for sample, *corner in product(range(samples), *starts):
        bounds = zip(corner, chunk, shape, strict=True)
        yield Rect.of([(sample, sample + 1), *((start, min(start + step, extent)) for start, step, extent in bounds)])
