"""The rules of optimizers, on blocks: a parameter p, its gradient g, what is kept between steps, blocks to work in.

In: the numbers of an optimizer. Out: `RULES`, by name: numbers -> `Rule`. Promise: p and what is kept are changed in place, g is
left as it is; nothing is allocated. What is kept are the arrays that `states` names, of the parameter's shape, zero at first.

Formulas are PyTorch's (torch.optim) for sgd, rmsprop, adam and adamw, and those of their papers for lars (You, Gitman and Ginsburg
2017, algorithm 1) and lamb (You et al. 2020, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from dgraph.kernels.call import Array

Numbers = Mapping[str, Any]
Norms = tuple[float, float]
"""The norms of a step (or of a gradient) and of its parameter, over the whole of it."""


class Rule(Protocol):
    """An optimizer's work on one parameter. `stage`: which norms it needs, of the `gradient` or of its own `step`, or none ("")."""

    states: tuple[str, ...]
    scraps: int
    stage: str

    def begin(self, step: int, rate: float, norms: Norms) -> None:
        """What the blocks of a step (from 1) have in common."""

    def apply(self, p: Array, g: Array, *blocks: Array) -> None:
        """One block: p, g, one of each state, `scraps` to work in."""


class Directed(Rule, Protocol):
    """A rule that needs the norm of its own step."""

    def direction(self, p: Array, g: Array, *blocks: Array) -> Array:
        """The step that `apply` is going to take, but for its length, in one of the blocks to work in; states stay as they are."""


class Sgd:
    """`v = momentum * v + (1 - dampening) * g; p -= rate * v`, at the first step v = g; with nesterov `p -= rate * (g + momentum
    * v)`. Without momentum there is no v."""

    scraps, stage = 1, ""

    def __init__(self, numbers: Numbers) -> None:
        self._momentum = float(numbers.get("momentum", 0))
        self._taken = 1 - float(numbers.get("dampening", 0))
        self._nesterov = bool(numbers.get("nesterov", False))
        self.states: tuple[str, ...] = ("velocity",) if self._momentum else ()

    def begin(self, step: int, rate: float, norms: Norms) -> None:
        """See `Rule.begin`."""
        self._rate, self._share = rate, 1.0 if step == 1 else self._taken

    def apply(self, p: Array, g: Array, *blocks: Array) -> None:
        """See `Rule.apply`."""
        change = blocks[-1]
        moved = g
        if self._momentum:
            moved = blocks[0]
            np.multiply(moved, self._momentum, out=moved)
            if self._share == 1:
                np.add(moved, g, out=moved)
            else:
                np.multiply(g, self._share, out=change)
                np.add(moved, change, out=moved)
        if self._nesterov:
            np.multiply(moved, self._momentum, out=change)
            np.add(change, g, out=change)
            moved = change
        np.multiply(moved, self._rate, out=change)
        subtract(p, change)


class RmsProp:
    """`s = alpha * s + (1 - alpha) * g^2; p -= rate * g / (sqrt(s) + epsilon)` (Tieleman and Hinton 2012). Centered: s less the
    square of g's own moving mean under the root. With momentum: `v = momentum * v + g / (sqrt(s) + epsilon); p -= rate * v`."""

    scraps, stage = 2, ""

    def __init__(self, numbers: Numbers) -> None:
        self._alpha, self._epsilon = float(numbers["alpha"]), float(numbers["epsilon"])
        self._momentum, self._centered = float(numbers["momentum"]), bool(numbers["centered"])
        more = ("mean",) * self._centered + ("velocity",) * bool(self._momentum)
        self.states: tuple[str, ...] = ("square", *more)

    def begin(self, step: int, rate: float, norms: Norms) -> None:
        """See `Rule.begin`."""
        self._rate = rate

    def apply(self, p: Array, g: Array, *blocks: Array) -> None:
        """See `Rule.apply`."""
        square, *more, change, root = blocks
        np.multiply(g, g, out=root)
        follow(square, root, self._alpha, change)
        if self._centered:
            mean = more[0]
            follow(mean, g, self._alpha, change)
            np.multiply(mean, mean, out=root)
            np.subtract(square, root, out=root)
            np.maximum(root, 0, out=root)
            np.sqrt(root, out=root)
        else:
            np.sqrt(square, out=root)
        np.add(root, self._epsilon, out=root)
        np.divide(g, root, out=change)
        if self._momentum:
            velocity = more[-1]
            np.multiply(velocity, self._momentum, out=velocity)
            np.add(velocity, change, out=velocity)
            np.multiply(velocity, self._rate, out=change)
        else:
            np.multiply(change, self._rate, out=change)
        subtract(p, change)


class Moments:
    """What Adam and its kin share: m and v, the moving means of g and of its square, freed of their bias towards 0."""

    states: tuple[str, ...] = ("m", "v")

    def __init__(self, numbers: Numbers) -> None:
        self._beta1, self._beta2 = float(numbers["beta1"]), float(numbers["beta2"])
        self._epsilon = float(numbers["epsilon"])
        self._decay = float(numbers.get("decay", 0))

    def begin(self, step: int, rate: float, norms: Norms) -> None:
        """See `Rule.begin`."""
        self._rate = rate
        self._scale, self._spread = 1 / (1 - self._beta1**step), 1 / (1 - self._beta2**step)

    def _follow(self, m: Array, v: Array, g: Array, change: Array, root: Array) -> None:
        follow(m, g, self._beta1, change)
        np.multiply(g, g, out=root)
        follow(v, root, self._beta2, change)

    def _ratio(self, m: Array, v: Array, scale: float, change: Array, root: Array) -> None:
        """`change = scale * m / (sqrt(v * spread) + epsilon)`"""
        np.multiply(v, self._spread, out=root)
        np.sqrt(root, out=root)
        np.add(root, self._epsilon, out=root)
        np.multiply(m, scale, out=change)
        np.divide(change, root, out=change)


class Adam(Moments):
    """Kingma and Ba 2015, algorithm 1; with a decay, `p -= rate * decay * p` first (Loshchilov and Hutter 2019, algorithm 2)."""

    scraps, stage = 2, ""

    def apply(self, p: Array, g: Array, *blocks: Array) -> None:
        """See `Rule.apply`."""
        m, v, change, root = blocks
        self._follow(m, v, g, change, root)
        self._ratio(m, v, self._rate * self._scale, change, root)
        if self._decay:
            np.multiply(p, self._rate * self._decay, out=root)
            np.add(change, root, out=change)
        subtract(p, change)


class Lars:
    """`v = momentum * v + rate * ratio * (g + decay * p); p -= v`, with `ratio = trust * |p| / (|g| + decay * |p|)`.

    The ratio is 1 where |p|, or what it is divided by, is 0, and where there is no trust."""

    scraps = 2

    def __init__(self, numbers: Numbers) -> None:
        self._momentum, self._decay = float(numbers["momentum"]), float(numbers["decay"])
        self._trust = float(numbers["trust"])
        self.stage = "gradient" if self._trust else ""
        self.states: tuple[str, ...] = ("velocity",) if self._momentum else ()

    def begin(self, step: int, rate: float, norms: Norms) -> None:
        """See `Rule.begin`."""
        self._rate = rate
        if self._trust:
            gradient, parameter = norms
            below = gradient + self._decay * parameter
            self._rate *= self._trust * parameter / below if parameter and below else 1.0

    def apply(self, p: Array, g: Array, *blocks: Array) -> None:
        """See `Rule.apply`."""
        *kept, change, root = blocks
        np.multiply(g, self._rate, out=change)
        if self._decay:
            np.multiply(p, self._rate * self._decay, out=root)
            np.add(change, root, out=change)
        for velocity in kept:
            np.multiply(velocity, self._momentum, out=velocity)
            np.add(velocity, change, out=velocity)
            np.copyto(change, velocity)
        subtract(p, change)


class Lamb(Moments):
    """`p -= rate * |p| / |r + decay * p| * (r + decay * p)`, with r the step of Adam at a rate of 1.

    The ratio of norms is 1 where one of them is 0, and where there is no trust."""

    scraps = 4

    def __init__(self, numbers: Numbers) -> None:
        super().__init__(numbers)
        self._trust = bool(numbers.get("trust", 1))
        self.stage = "step" if self._trust else ""

    def begin(self, step: int, rate: float, norms: Norms) -> None:
        """See `Rule.begin`."""
        super().begin(step, rate, norms)
        length, parameter = norms
        if self._trust and length and parameter:
            self._rate *= parameter / length

    def apply(self, p: Array, g: Array, *blocks: Array) -> None:
        """See `Rule.apply`."""
        m, v, change, root, *_ = blocks
        self._follow(m, v, g, change, root)
        self._lead(p, m, v, change, root)
        np.multiply(change, self._rate, out=change)
        subtract(p, change)

    def direction(self, p: Array, g: Array, *blocks: Array) -> Array:
        """See `Directed.direction`."""
        m, v, change, root, first, second = blocks
        np.copyto(first, m)
        np.copyto(second, v)
        self._follow(first, second, g, change, root)
        self._lead(p, first, second, change, root)
        return change

    def _lead(self, p: Array, m: Array, v: Array, change: Array, root: Array) -> None:
        """`change = r + decay * p`"""
        self._ratio(m, v, self._scale, change, root)
        if self._decay:
            np.multiply(p, self._decay, out=root)
            np.add(change, root, out=change)


def follow(mean: Array, value: Array, beta: float, change: Array) -> None:
    """`mean = beta * mean + (1 - beta) * value`; `change` is a block to work in."""
    np.multiply(mean, beta, out=mean)
    np.multiply(value, 1 - beta, out=change)
    np.add(mean, change, out=mean)


def subtract(p: Array, change: Array) -> None:
    """`p -= change`. The difference is made in the block of scratch: numpy copies a strided p that it reads and writes."""
    np.subtract(p, change, out=change)
    np.copyto(p, change)


RULES: Mapping[str, Callable[[Numbers], Rule]] = MappingProxyType(
    {"sgd": Sgd, "rmsprop": RmsProp, "adam": Adam, "adamw": Adam, "lars": Lars, "lamb": Lamb}
)
