"""Samples in a NumPy archive: x [n, C, spatial...] of numbers; y [n, ...] of whole numbers (classes) or numbers (real targets).

In: a path. Out: its numbers from the headers, or its arrays. Promise: every fault is a DataError that names the file. No
pickle. Nothing is trusted: sizes are checked before anything is allocated. An array that is stored as it is (numpy.savez) is
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
from dgraph.ops.frame import padded

BITE = 1 << 22
LOCAL = struct.Struct("<26xHH")
"""Of the header before a member of a ZIP archive (APPNOTE 4.3.7): the lengths of its name and its extra field."""
SHAPES = "it needs x [n, C, spatial...] and y [n], or y [n, ...] of no more dimensions than x"
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


@dataclass(frozen=True)
class Member:
    """One array of an archive: `offset` is where its values start in the member."""

    info: ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int


def describe_npz(path: str, classes: int | None, label_shape: tuple[int, ...] | None) -> Description:
    """The numbers of an archive, from its headers.

    A y of fractions holds real targets, as does one of whole numbers where `label_shape` is given and `classes` is not; else y
    holds class numbers, and without `classes` these are the highest label and one. `label_shape` also says where the 1s of a
    label shape are that y leaves out: with [1, H, W], y may be [n, H, W].
    """
    with _archive(path) as archive:
        x, y = _members(path, archive)
        if y.dtype.kind == "f" and classes is not None:
            raise DataError(f"{path}: y is {y.dtype}", "class numbers are whole numbers; real targets have no classes")
        if classes is None and y.dtype.kind != "f" and label_shape is None:
            classes = _highest(path, _values(path, archive, y), None) + 1
    shape, own = x.shape[1:], y.shape[1:] or (1,)
    if label_shape is not None and _without_ones(label_shape) == _without_ones(own):
        own = label_shape
    return Description(x.shape[0], shape, classes, padded(own, shape))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(extent for extent in shape if extent > 1)


def read_npz(path: str, classes: int | None) -> tuple[Array, Array]:
    """x and y, of their own dtypes; read once as a whole: sums, finite values, class numbers in 0 .. classes - 1."""
    with _archive(path) as archive:
        x, y = (_values(path, archive, member) for member in _members(path, archive))
    if classes is not None:
        _highest(path, y, classes)
    return x, y


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
        raise DataError(f"{path}: it has no array {missing[0]}", SHAPES)
    x, y = (_member(archive, name) for name in ("x", "y"))
    if x.dtype.kind not in "fiub" or y.dtype.kind not in "fiu":
        raise DataError(f"{path}: x is {x.dtype} and y {y.dtype}", "they need numbers")
    sound = 1 <= len(y.shape) <= len(x.shape) >= 2 and x.shape[0] == y.shape[0]
    if not sound or not prod(x.shape) or not prod(y.shape):
        raise DataError(f"{path}: x {list(x.shape)} and y {list(y.shape)} do not fit", SHAPES)
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


def _values(path: str, archive: ZipFile, member: Member) -> Array:
    """The values of a member, all of them finite: mapped if stored as they are, else in memory."""
    if member.info.compress_type != ZIP_STORED:
        return _loaded(path, archive, member)
    for part in _parts(archive, member):
        _check_finite(path, member, part)
    return _mapped(path, archive, member)


def _check_finite(path: str, member: Member, part: Array) -> None:
    if not np.isfinite(part).all():
        name = member.info.filename.removesuffix(".npy")
        raise DataError(f"{path}: {name} has values that are not finite")


def _highest(path: str, labels: Array, classes: int | None) -> int:
    """The highest label; all are within 0 .. classes - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        bound = "they start at 0" if classes is None else f"{classes} classes have labels 0 to {classes - 1}"
        raise DataError(f"{path}: y has labels from {low} to {high}", bound)
    return high


def _loaded(path: str, archive: ZipFile, member: Member) -> Array:
    """All of a compressed member, in memory."""
    values = np.empty(prod(member.shape), member.dtype)
    filled = 0
    for part in _parts(archive, member):
        _check_finite(path, member, part)
        values[filled : filled + part.size] = part
        filled += part.size
    return values.reshape(member.shape, order="F" if member.fortran else "C")


def _mapped(path: str, archive: ZipFile, member: Member) -> Array:
    """A stored member, mapped from the file."""
    with open(path, "rb") as file:
        file.seek(member.info.header_offset)
        name, extra = LOCAL.unpack(file.read(LOCAL.size))
    offset = member.info.header_offset + LOCAL.size + name + extra + member.offset
    return np.memmap(path, member.dtype, "r", offset, member.shape, "F" if member.fortran else "C")
