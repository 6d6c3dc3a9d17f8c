"""NumPy's archives of several arrays: x [n, C, spatial...] of numbers, and y [n, ...].

In: a path. Out: a `Pair`. Promise: every fault is a DataError that names the file. No pickle. Nothing is trusted: sizes are
checked before anything is allocated. An array that is stored as it is (numpy.savez) is read rect by rect; a compressed one, or
one of up to a mebibyte, is kept whole, its sum checked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from dgraph.data.compressed import Packed, require_kept, whole
from dgraph.data.reader.npy import Header, read_header, stored
from dgraph.data.reader.pair import Pair
from dgraph.data.spec import Array, DataSpec
from dgraph.data.values import BITE, Values
from dgraph.durable import fault
from dgraph.error import DataError

LOCAL = struct.Struct("<26xHH")
"""Of the header before a member of a ZIP archive (APPNOTE 4.3.7): the lengths of its name and its extra field."""
SHAPES = "it needs x [n, C, spatial...] and y [n], or y [n, ...] of no more dimensions than x"
REMEDY = "save it with numpy.savez, or as hdf5"


@dataclass(frozen=True)
class Member:
    """One array of an archive: `offset` is where its values start in the member."""

    info: ZipInfo
    header: Header
    offset: int

    @property
    def nbytes(self) -> int:
        """How many bytes its values have."""
        return prod(self.header[0]) * self.header[2].itemsize


def open_npz(path: str, labels: str | None, spec: DataSpec) -> Pair:
    """x and y, or the arrays that the spec names."""
    names = (spec.x or "x", spec.y or "y")
    with _archive(path) as archive:
        for name in names:
            if f"{name}.npy" not in archive.namelist():
                raise DataError(f"{path}: it has no array {name}", SHAPES)
        x, y = (_member(archive, name) for name in names)
        for member in (x, y):
            if member.header[2].kind in "fiub" and member.offset + member.nbytes != member.info.file_size:
                raise DataError(f"{path}: damaged", "its arrays are not of the sizes that their headers say")
        return Pair(_values(path, "x", x), _values(path, "y", y))


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


def _member(archive: ZipFile, name: str) -> Member:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        return Member(info, read_header(file), file.tell())


def _values(path: str, name: str, member: Member) -> Values:
    shape, _, dtype = member.header
    if member.info.compress_type == ZIP_STORED and member.nbytes > BITE:
        return stored(path, _start(path, member), member.header)
    return Packed(path, shape, dtype, partial(_unpacked, path, member), name)


def _start(path: str, member: Member) -> int:
    """Where in the archive the values of a stored member start."""
    with open(path, "rb") as file:
        file.seek(member.info.header_offset)
        name, extra = LOCAL.unpack(file.read(LOCAL.size))
    start: int = member.info.header_offset + LOCAL.size + name + extra + member.offset
    return start


def _unpacked(path: str, member: Member) -> Array:
    """All of a member, in memory; the archive checks its sum at its end."""
    shape, fortran, dtype = member.header
    require_kept(path, shape, dtype, member.info.compress_size, REMEDY)
    with _archive(path) as archive, archive.open(member.info) as file:
        file.read(member.offset)
        content = whole(file, member.nbytes)
    return content.view(dtype).reshape(shape, order="F" if fortran else "C")
