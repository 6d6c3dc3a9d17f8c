"""IDX files (LeCun, Cortes and Burges 1998: the files of MNIST), plain or gzipped: samples in one, labels in another.

In: paths. Out: a `Pair`. Promise: a plain file is read rect by rect; a gzipped one is kept whole, its sum checked.

    0 0 type ndim    extents, ndim times 4 bytes    values; all of it with the most significant byte first
"""

from __future__ import annotations

import gzip
import zlib
from functools import partial
from math import prod
from typing import Any

import numpy as np

from dgraph.data.compressed import Packed, Stream, require_kept, whole
from dgraph.data.reader.pair import Pair
from dgraph.data.spec import Array, DataSpec
from dgraph.data.stored import Stored, size_of
from dgraph.data.values import Values
from dgraph.durable import fault
from dgraph.error import DataError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP = b"\x1f\x8b"
Header = tuple[tuple[int, ...], np.dtype[Any]]


def open_idx(path: str, labels: str | None, spec: DataSpec) -> Pair:
    """x from one file, y from another. Images [n, height, width] are samples of one channel, and so are single numbers."""
    assert labels is not None
    x = _values(path, "x")
    sample = x.shape[1:]
    return Pair(x, _values(labels, "y"), shape=sample if len(sample) in (1, 3) else (1, *sample))


def _values(path: str, name: str) -> Values:
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == GZIP
        with gzip.open(path) if zipped else open(path, "rb") as file:
            shape, dtype = _header(path, file)
    except OSError as error:
        raise _damaged(path, error) from None
    except (EOFError, zlib.error) as error:
        raise _damaged(path, error) from None
    start, nbytes = 4 + 4 * len(shape), prod(shape) * dtype.itemsize
    if zipped:
        return Packed(path, shape, dtype, partial(_unpacked, path, (shape, dtype)), name)
    if start + nbytes != size_of(path):
        what = f"{list(shape)} values of {dtype.itemsize} bytes are not the {size_of(path) - start} bytes behind its header"
        raise DataError(f"{path}: damaged", what)
    return Stored(path, start, shape, dtype)


def _header(path: str, file: Stream) -> Header:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not magic[3]:
        raise DataError(f"{path}: damaged, or no IDX file", f"it starts with {magic.hex(' ') or 'nothing'}")
    extents = file.read(4 * magic[3])
    if len(extents) < 4 * magic[3]:
        raise EOFError("it ends in its header")
    return tuple(np.frombuffer(extents, ">u4").tolist()), np.dtype(TYPES[magic[2]])


def _unpacked(path: str, header: Header) -> Array:
    """All values of a gzipped file; gzip checks their sum at their end."""
    shape, dtype = header
    require_kept(path, shape, dtype, size_of(path), "unpack it")
    try:
        with gzip.open(path) as file:
            _header(path, file)
            return whole(file, prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    except (OSError, EOFError, MemoryError, ValueError, zlib.error) as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.strerror:
        return fault(path, error)
    return DataError(f"{path}: damaged", str(error))
