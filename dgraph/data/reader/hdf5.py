"""HDF5 files: x [n, C, spatial...] and y [n, ...] by the names of their datasets.

In: a path. Out: a `Pair`. Promise: a rank reads what its rect needs: of a dataset that lies in the file as it is, exactly its
bytes; of one in chunks, the parts of chunks that are not filtered, and filtered (compressed, summed) chunks whole, each once a
sample.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from dgraph.data.compressed import DEFLATED
from dgraph.data.reader.pair import Pair
from dgraph.data.spec import Array, DataSpec
from dgraph.data.stored import Stored
from dgraph.data.values import BITE, Held, Values
from dgraph.durable import fault
from dgraph.error import DataError
from dgraph.rect import Rect

NAMES, CLASSES = "names", "classes"
"""The attributes of y that have the names of classes and their number."""
CACHE = 16 << 20
"""How many bytes of filtered chunks stay in memory, for samples that share one."""
SLOTS = 4099


def open_hdf5(path: str, labels: str | None, spec: DataSpec) -> Pair:
    """The datasets x and y, or those that the spec names."""
    with _file(path) as file:
        x = _values(path, file, spec.x or "x")
        y = _values(path, file, spec.y or "y")
        named, classes = _classes(file[spec.y or "y"].attrs)
        return Pair(x, y, classes, named=named)


def _classes(attributes: Any) -> tuple[tuple[str, ...], int | None]:
    """The names of classes and how many there are, as far as y says so. Only strings of fixed length are looked at: those of any
    length lie elsewhere in a file, and the library may search a damaged one for them without an end."""
    names, classes = (attributes.get_id(key) if key in attributes else None for key in (NAMES, CLASSES))
    if names is not None and names.dtype.kind == "S" and len(names.shape) == 1:
        named = tuple(name.decode() for name in attributes[NAMES].tolist())
        return named, len(named)
    if classes is not None and classes.dtype.kind in "iu" and not classes.shape:
        return (), int(attributes[CLASSES]) or None
    return (), None


def h5py() -> Any:
    """The library."""
    try:
        # Imported here: only these files need it.
        return importlib.import_module("h5py")
    except ImportError:
        raise DataError("hdf5 files need h5py", "pip install dgraph[data]") from None


@contextmanager
def _faults(path: str) -> Iterator[None]:
    """Turns what goes wrong with a file into a DataError that names it."""
    try:
        yield
    except OSError as error:
        if error.strerror and error.errno:
            raise fault(path, OSError(error.errno, error.strerror.split(",")[0])) from None
        raise _damaged(path, error) from None
    except (EOFError, KeyError, MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> DataError:
    text = str(error.args[0] if error.args else error).splitlines() or [""]
    return DataError(f"{path}: damaged, or no HDF5 file", text[0])


@contextmanager
def _file(path: str) -> Iterator[Any]:
    library = h5py()
    with _faults(path), open(path, "rb"), library.File(path, "r", locking="best-effort") as file:
        yield file


def _values(path: str, file: Any, name: str) -> Values:
    library = h5py()
    found = file.get(name)
    if not isinstance(found, library.Dataset):
        known = ", ".join(sorted(file)[:12]) or "nothing"
        raise DataError(f"{path}: it has no dataset {name}", f"at its top it has {known}")
    if found.shape == () and found.dtype.kind in "fiub":
        return Held(path, found[()].reshape(1))
    if found.shape is None or not found.shape:
        raise DataError(f"{path}: {name} is no array", "an array [n, ...] is needed")
    if found.dtype.kind == "S" and len(found.shape) == 1:
        _require_written(path, name, found)
        return Held(path, np.char.decode(found[...], "utf-8"))
    if found.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name} is {found.dtype}", "it needs numbers, or y names of classes, of fixed length")
    _require_written(path, name, found)
    offset = _place(library, found)
    if offset is not None:
        return Stored(path, offset, found.shape, found.dtype)
    return Chunked(path, name, found.shape, found.dtype, found.id.get_create_plist().get_nfilters() > 0)


def _require_written(path: str, name: str, found: Any) -> None:
    """Raises DataError for a dataset that says to have far more values than the file can hold."""
    there, nbytes = found.id.get_storage_size(), prod(found.shape) * found.dtype.itemsize
    if nbytes > DEFLATED * there + BITE and not found.is_virtual:
        raise DataError(
            f"{path}: {name} has {there} bytes for {nbytes} bytes of values", "not written, or not to the end"
        )


def _place(library: Any, found: Any) -> int | None:
    """Where in the file the values of a dataset lie as they are; None where they do not."""
    plist = found.id.get_create_plist()
    plain = (
        plist.get_layout() == library.h5d.CONTIGUOUS
        and not plist.get_external_count()
        and not found.file.userblock_size
    )
    if not plain or library.h5t.py_create(found.dtype) != found.id.get_type():
        return None
    offset: int | None = found.id.get_offset()
    return offset


class Chunked:
    """A dataset that the library reads; the file is held open."""

    def __init__(self, path: str, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], filtered: bool) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self._name, self._filtered = name, filtered

    def load(self) -> None:
        pass

    def where(self, index: int) -> str:
        return f"{self.path}: sample {index}"

    def read(self, indices: Array, rect: Rect) -> Array:
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        cuts = np.flatnonzero(np.diff(ordered) != 1) + 1
        values = np.empty((len(indices), *rect.size), self.dtype)
        with _faults(self.path):
            for places in np.split(order, cuts) if len(order) else ():
                first = int(indices[places[0]])
                part = (slice(first, first + len(places)), *rect.slices())
                # Neighbours that are wanted in their order go to their place at once, others by way of a copy.
                if (np.diff(places) == 1).all():
                    self._dataset.read_direct(values, part, np.s_[int(places[0]) : int(places[0]) + len(places)])
                else:
                    values[places] = self._dataset[part]
        return values

    @cached_property
    def _dataset(self) -> Any:
        # Without a cache, the library reads of a chunk that is not filtered no more than what is wanted.
        nbytes = CACHE if self._filtered else 0
        file = h5py().File(self.path, "r", locking="best-effort", rdcc_nbytes=nbytes, rdcc_nslots=SLOTS)
        return file[self._name]
