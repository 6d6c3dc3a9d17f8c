"""NumPy's files of one array: samples in one, labels in another.

In: paths. Out: a `Pair`. Promise: no pickle; a file of another size than its header says is refused.
"""

from __future__ import annotations

from math import prod
from typing import IO, Any

import numpy as np

from dgraph.data.reader.pair import Pair
from dgraph.data.spec import DataSpec
from dgraph.data.stored import Stored, size_of
from dgraph.data.values import Held, Values
from dgraph.durable import fault
from dgraph.error import DataError

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


def open_npy(path: str, labels: str | None, spec: DataSpec) -> Pair:
    """x from one file, y from another."""
    assert labels is not None
    return Pair(_values(path), _values(labels))


def read_header(file: IO[bytes]) -> Header:
    """Shape, whether in Fortran order, dtype. Raises ValueError for another version than 1.0 and 2.0."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"unknown npy version {version}")


def stored(path: str, offset: int, header: Header) -> Values:
    """An array that lies in a file as it is; in Fortran order, mapped."""
    shape, fortran, dtype = header
    if fortran and len(shape) > 1:
        return Held(path, np.memmap(path, dtype, "r", offset, shape, "F"))
    return Stored(path, offset, shape, dtype)


def _values(path: str) -> Values:
    try:
        with open(path, "rb") as file:
            header = read_header(file)
            offset = file.tell()
    except OSError as error:
        raise fault(path, error) from None
    except (EOFError, MemoryError, OverflowError, SyntaxError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged, or no npy file", str(error).split("\n")[0]) from None
    shape, _, dtype = header
    if dtype.hasobject or not shape:
        raise DataError(f"{path}: it has {dtype} {list(shape)}", "an array [n, ...] of numbers is needed")
    if offset + prod(shape) * dtype.itemsize != size_of(path):
        raise DataError(f"{path}: damaged", "its array is not of the size that its header says")
    return stored(path, offset, header)
