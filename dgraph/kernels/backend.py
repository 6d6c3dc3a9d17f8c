"""Whose arithmetic a run uses.

In: a library's kernels. Out: `Backend`, all that a schedule and an engine know of them. Promise: every backend has a kernel for
every op that has one at all, and gives the same numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dgraph.kernels.call import Fusion, Kernel
from dgraph.kernels.numpy import KERNELS

Key = tuple[str, bool]
"""An op, and whether it is its gradient."""


@dataclass(frozen=True)
class Backend:
    """`kernels` by op; `fusions` by the ops of a chain, for those chains that take fewer passes when done together."""

    name: str
    kernels: Mapping[Key, Kernel]
    fusions: Mapping[tuple[Key, ...], Fusion]


NUMPY = Backend("numpy", KERNELS, {})
