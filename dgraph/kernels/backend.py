"""Whose arithmetic a run uses.

In: a library's kernels. Out: `Backend`, all that a schedule and an engine know of them. Promise: every backend has a kernel for
every op that has one at all, and gives the same numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgraph.kernels.call import Action, Array, Call, Choosing, Fusion, InPlace, Kernel, Moment
from dgraph.kernels.numpy import FUSIONS, KERNELS
from dgraph.kernels.numpy.update import Operands, Recipe, bind_exchange, bind_follow, bind_measure, bind_update

Key = tuple[str, bool]
"""An op, and whether it is its gradient."""


@dataclass(frozen=True)
class Updates:
    """What is done to parameters, each as the function of that name in `dgraph.kernels.numpy.update` has it, with the scratch of
    `Recipe.workspace`."""

    update: Callable[[Recipe, Operands, Array, Moment], Action] = bind_update
    measure: Callable[[Recipe, str, Sequence[Operands], Array, Array, Moment], Action] = bind_measure
    exchange: Callable[[Array, Array, Array], Action] = bind_exchange
    follow: Callable[[Mapping[str, Any], Array, Array, Array, Moment], Action] = bind_follow


@dataclass(frozen=True)
class Borrowed:
    """A kernel of NumPy's, with a backend's own wishes for the memory order of operands."""

    kernel: Kernel
    orders: Callable[[Call, str], tuple[int, ...] | None]

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self.kernel.workspace(call)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        return self.kernel.bind(call, arrays, scratch)

    def order(self, call: Call, port: str) -> tuple[int, ...] | None:
        """See `Kernel.order`."""
        return self.orders(call, port)

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return self.kernel.overwrites(call) if isinstance(self.kernel, InPlace) else ()


@dataclass(frozen=True)
class Backend:
    """`kernels` by op; `fusions` by the ops of a chain, for those chains that take fewer passes when done together; `updates` of
    parameters. `prepare` is called once a process or more often, before anything is bound."""

    name: str
    kernels: Mapping[Key, Kernel]
    fusions: Mapping[tuple[Key, ...], Fusion]
    updates: Updates
    prepare: Callable[[], None] = lambda: None

    def maker(self, key: Key) -> str:
        """Whose kernel does an op: its own, or NumPy's on the same memory where it has none."""
        kernel = self.kernels[key]
        return NUMPY.name if kernel is KERNELS[key] or isinstance(kernel, Borrowed) else self.name

    def way(self, call: Call) -> str:
        """In which of its ways a kernel does a call, in brackets, after a space; empty where there is nothing to say."""
        kernel = self.kernels[call.op, call.gradient]
        way = kernel.way(call) if isinstance(kernel, Choosing) else ""
        return f" ({way})" if way else ""


NUMPY = Backend("numpy", KERNELS, FUSIONS, Updates())
