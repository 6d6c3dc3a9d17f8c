"""Optimizers: a parameter and its gradient, element by element, in place.

In: numbers, arrays of one shape. Out: `UPDATES`, by name. Promise: every array goes through the cache once a step; what an
optimizer keeps between steps are the arrays that `states` names, of the parameter's shape, zero at first, best in its memory
order and without gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from dgraph.kernels.call import Action, Array
from dgraph.kernels.numpy.block import Carver
from dgraph.kernels.numpy.blockwise import LIMIT, each, like, nbytes, parts

Hyper = Mapping[str, float]


class Update(Protocol):
    """The rule of an optimizer."""

    def states(self, hyper: Hyper) -> tuple[str, ...]:
        """The names of the arrays that it keeps."""

    def workspace(self, dtype: str) -> int:
        """Bytes of scratch."""

    def bind(self, hyper: Hyper, parameter: Array, gradient: Array, states: Mapping[str, Array], scratch: Array,
             step: Callable[[], int]) -> Action:  # fmt: skip
        """An action that does one step; `step` tells which, from 1. `scratch`: uint8, aligned to 64 bytes."""


@dataclass(frozen=True)
class Sgd:
    """`v = momentum * v + gradient; parameter -= rate * v`; without momentum there is no v. Hyper: rate, momentum."""

    def states(self, hyper: Hyper) -> tuple[str, ...]:
        """The velocity, where there is momentum."""
        return ("velocity",) if hyper.get("momentum", 0) else ()

    def workspace(self, dtype: str) -> int:
        """One block."""
        return nbytes(1, dtype)

    def bind(self, hyper: Hyper, parameter: Array, gradient: Array, states: Mapping[str, Array], scratch: Array,
             step: Callable[[], int]) -> Action:  # fmt: skip
        """See `Update.bind`."""
        rate, momentum = float(hyper["rate"]), float(hyper.get("momentum", 0))

        def plain(p: Array, g: Array, change: Array) -> None:
            np.multiply(g, rate, out=change)
            _subtract(p, change)

        def with_momentum(p: Array, g: Array, v: Array, change: Array) -> None:
            np.multiply(v, momentum, out=v)
            np.add(v, g, out=v)
            plain(p, v, change)

        kept = [states[name] for name in self.states(hyper)]
        return each(with_momentum if kept else plain, _views((parameter, gradient, *kept), 1, scratch))


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba 2015, algorithm 1. Hyper: rate, beta1, beta2, epsilon."""

    def states(self, hyper: Hyper) -> tuple[str, ...]:
        """The moving means of the gradient and of its square."""
        return ("m", "v")

    def workspace(self, dtype: str) -> int:
        """Two blocks."""
        return nbytes(2, dtype)

    def bind(self, hyper: Hyper, parameter: Array, gradient: Array, states: Mapping[str, Array], scratch: Array,
             step: Callable[[], int]) -> Action:  # fmt: skip
        """See `Update.bind`."""
        rate, beta1, beta2, epsilon = (float(hyper[name]) for name in ("rate", "beta1", "beta2", "epsilon"))
        views = _views((parameter, gradient, states["m"], states["v"]), 2, scratch)

        def act() -> None:
            t = step()
            scale, spread = rate / (1 - beta1**t), 1 / (1 - beta2**t)
            for p, g, m, v, change, root in views:
                _follow(m, g, beta1, change)
                np.multiply(g, g, out=root)
                _follow(v, root, beta2, change)
                np.multiply(v, spread, out=root)
                np.sqrt(root, out=root)
                np.add(root, epsilon, out=root)
                np.multiply(m, scale, out=change)
                np.divide(change, root, out=change)
                _subtract(p, change)

        return act


@dataclass(frozen=True)
class Follow:
    """`state = (1 - momentum) * state + momentum * factor * value`, where an optimizer has parameter and gradient. Hyper:
    momentum, factor."""

    def states(self, hyper: Hyper) -> tuple[str, ...]:
        """None."""
        return ()

    def workspace(self, dtype: str) -> int:
        """One block."""
        return nbytes(1, dtype)

    def bind(self, hyper: Hyper, parameter: Array, gradient: Array, states: Mapping[str, Array], scratch: Array,
             step: Callable[[], int]) -> Action:  # fmt: skip
        """See `Update.bind`."""
        momentum, factor = float(hyper["momentum"]), float(hyper["factor"])

        def follow(state: Array, value: Array, change: Array) -> None:
            np.multiply(value, momentum * factor, out=change)
            np.multiply(state, 1 - momentum, out=state)
            np.add(state, change, out=state)

        return each(follow, _views((parameter, gradient), 1, scratch))


def _follow(mean: Array, value: Array, beta: float, change: Array) -> None:
    """`mean = beta * mean + (1 - beta) * value`"""
    np.multiply(mean, beta, out=mean)
    np.multiply(value, 1 - beta, out=change)
    np.add(mean, change, out=mean)


def _subtract(p: Array, change: Array) -> None:
    """`p -= change`. The difference is made in the block of scratch: numpy copies a strided p that it reads and writes."""
    np.subtract(p, change, out=change)
    np.copyto(p, change)


def _views(arrays: Sequence[Array], temporaries: int, scratch: Array) -> list[tuple[Array, ...]]:
    """The blocks of the arrays, each with its temporaries."""
    first, carver = arrays[0], Carver(scratch)
    flat = [carver.take([LIMIT], first.dtype) for _ in range(temporaries)]
    views: list[tuple[Array, ...]] = []
    for part in parts(first):
        views.append((*(array[part] for array in arrays), *(like(first[part], one) for one in flat)))
    return views


UPDATES: Mapping[str, Update] = MappingProxyType({"sgd": Sgd(), "adam": Adam(), "follow": Follow()})
