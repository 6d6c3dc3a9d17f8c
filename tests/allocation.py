"""Arrays counted as NumPy allocates them, whatever thread does it and however soon they are gone."""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from numpy._core import _multiarray_umath

LARGE = 4 << 10
"""Bytes up to which an array is small."""

_POINTER = ctypes.c_void_p
# NumPy allocates with the interpreter's lock, which a PYFUNCTYPE does not give away.
_MALLOC = ctypes.PYFUNCTYPE(_POINTER, _POINTER, ctypes.c_size_t)
_CALLOC = ctypes.PYFUNCTYPE(_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t)
_REALLOC = ctypes.PYFUNCTYPE(_POINTER, _POINTER, _POINTER, ctypes.c_size_t)
_GET_HANDLER = 305
"""The place of PyDataMem_GetHandler among NumPy's C functions."""


class _Handler(ctypes.Structure):
    """NumPy's PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", _POINTER),
        ("malloc", _MALLOC),
        ("calloc", _CALLOC),
        ("realloc", _REALLOC),
        ("free", _POINTER),
    )


def _handler() -> _Handler:
    """The one that all threads use."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = _POINTER, (ctypes.py_object, ctypes.c_char_p)
    table = ctypes.cast(pointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(_POINTER))
    get = ctypes.PYFUNCTYPE(ctypes.py_object)(table[_GET_HANDLER])
    return _Handler.from_address(pointer(get(), b"mem_handler"))


def _place() -> str:
    """The lines that run: the innermost of all, and the three around it."""
    frame, lines = sys._getframe(3), []
    while frame is not None and len(lines) < 4:
        lines.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)


@contextmanager
def large_arrays() -> Iterator[Counter[tuple[str, int]]]:
    """While it is entered, counts arrays of more than `LARGE` bytes: (where, bytes) -> how many."""
    found: Counter[tuple[str, int]] = Counter()
    handler = _handler()
    assert handler.name == b"default_allocator", handler.name
    malloc, calloc, realloc = (
        kind(ctypes.cast(function, _POINTER).value)
        for kind, function in ((_MALLOC, handler.malloc), (_CALLOC, handler.calloc), (_REALLOC, handler.realloc))
    )

    def count(nbytes: int) -> None:
        if nbytes > LARGE:
            found[_place(), nbytes] += 1

    def new(context, nbytes):
        count(nbytes)
        return malloc(context, nbytes)

    def zeroed(context, count_of, nbytes):
        count(count_of * nbytes)
        return calloc(context, count_of, nbytes)

    def larger(context, old, nbytes):
        count(nbytes)
        return realloc(context, old, nbytes)

    handler.malloc, handler.calloc, handler.realloc = hooks = _MALLOC(new), _CALLOC(zeroed), _REALLOC(larger)
    try:
        yield found
    finally:
        handler.malloc, handler.calloc, handler.realloc = malloc, calloc, realloc
        del hooks
