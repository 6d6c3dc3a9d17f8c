"""Samples in a NumPy archive: x [n, C, spatial...] of numbers, y [n] of whole numbers.

In: a path. Out: its numbers from the headers, or its arrays. Promise: every fault is a DataError that names the file. No
pickle. Nothing is trusted: sizes are checked before anything is allocated. An x that is stored as it is (numpy.savez) is
mapped, so a rank keeps only what it reads; a compressed one is kept whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from dgraph.data.spec import Array, Description
from dgraph.durable import fault
from dgraph.error import DataError

BITE = 1 << 22
LOCAL = struct.Struct("<26xHH")
"""Of the header before a member of a ZIP archive (APPNOTE 4.3.7): the lengths of its name and its extra field."""
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


@dataclass(frozen=True)
class Member:
    """One array of an archive: `offset` is where its values start in the member."""

    info: ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int


def describe_npz(path: str, classes: int | None) -> Description:
    """The numbers of an archive, from its headers. Without `classes`, they are the highest label and one."""
    with _archive(path) as archive:
        x, y = _members(path, archive)
        if classes is None:
            classes = int(_labels(path, archive, y, None).max()) + 1
    return Description(x.shape[0], x.shape[1:], classes)


def read_npz(path: str, classes: int) -> tuple[Array, Array]:
    """x, of its own dtype, and y, int64; read once as a whole: sums, finite values, labels in 0 .. classes - 1."""
    with _archive(path) as archive:
        x, y = _members(path, archive)
        labels = _labels(path, archive, y, classes)
        if x.info.compress_type != ZIP_STORED:
            return _loaded(path, archive, x), labels
        for part in _parts(archive, x):
            _check_finite(path, part)
        return _mapped(path, archive, x), labels


@contextmanager
def _archive(path: str) -> Iterator[ZipFile]:
    """The open archive; whatever goes wrong with it is a DataError."""
    try:
        with ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise fault(path, error) from None
    except (BadZipFile, EOFError, KeyError, MemoryError, NotImplementedError, OverflowError) as error:
        raise _damaged(path, error) from None
    except (RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise _damaged(path, error) from None


def _damaged(path: str, why: object) -> DataError:
    return DataError(f"{path}: damaged, or no npz archive", str(why).splitlines()[0] if str(why) else "")


def _members(path: str, archive: ZipFile) -> tuple[Member, Member]:
    """x and y, by their headers."""
    missing = [name for name in ("x", "y") if f"{name}.npy" not in archive.namelist()]
    if missing:
        raise DataError(f"{path}: it has no array {missing[0]}", "it needs x [n, C, spatial...] and y [n]")
    x, y = (_member(archive, name) for name in ("x", "y"))
    if x.dtype.kind not in "fiub" or y.dtype.kind not in "iu":
        raise DataError(f"{path}: x is {x.dtype} and y {y.dtype}", "x needs numbers, y whole numbers")
    if len(x.shape) < 2 or len(y.shape) != 1 or x.shape[0] != y.shape[0] or not prod(x.shape):
        shapes = f"x {list(x.shape)} and y {list(y.shape)}"
        raise DataError(f"{path}: {shapes} do not fit", "they need the shapes [n, C, spatial...] and [n]")
    if any(m.offset + prod(m.shape) * m.dtype.itemsize != m.info.file_size for m in (x, y)):
        raise DataError(f"{path}: damaged", "its arrays are not of the sizes that their headers say")
    return x, y


def _member(archive: ZipFile, name: str) -> Member:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        header = _header(file)
        return Member(info, *header, file.tell())


def _header(file: IO[bytes]) -> Header:
    """Shape, whether in Fortran order, dtype. Raises ValueError for another version than 1.0 and 2.0."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"unknown npy version {version}")


def _parts(archive: ZipFile, member: Member) -> Iterator[Array]:
    """The values of a member in the order of the file; the archive checks the sum at its end."""
    bite = BITE // member.dtype.itemsize * member.dtype.itemsize
    with archive.open(member.info) as file:
        file.read(member.offset)
        while content := file.read(bite):
            yield np.frombuffer(content, member.dtype)


def _check_finite(path: str, part: Array) -> None:
    if not np.isfinite(part).all():
        raise DataError(f"{path}: x has values that are not finite")


def _labels(path: str, archive: ZipFile, y: Member, classes: int | None) -> Array:
    """The labels, int64 [n], within 0 .. classes - 1."""
    labels = np.concatenate([part.astype(np.int64) for part in _parts(archive, y)])
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        bound = "they start at 0" if classes is None else f"{classes} classes have labels 0 to {classes - 1}"
        raise DataError(f"{path}: y has labels from {low} to {high}", bound)
    return labels


def _loaded(path: str, archive: ZipFile, x: Member) -> Array:
    """All of a compressed x, in memory."""
    values = np.empty(prod(x.shape), x.dtype)
    filled = 0
    for part in _parts(archive, x):
        _check_finite(path, part)
        values[filled : filled + part.size] = part
        filled += part.size
    return values.reshape(x.shape, order="F" if x.fortran else "C")


def _mapped(path: str, archive: ZipFile, x: Member) -> Array:
    """A stored x, mapped from the file."""
    with open(path, "rb") as file:
        file.seek(x.info.header_offset)
        name, extra = LOCAL.unpack(file.read(LOCAL.size))
    offset = x.info.header_offset + LOCAL.size + name + extra + x.offset
    return np.memmap(path, x.dtype, "r", offset, x.shape, "F" if x.fortran else "C")
