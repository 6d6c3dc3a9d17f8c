"""The rate of learning as a function of the step.

In: numbers of a schedule, how many steps an epoch has. Out: `Rate`: step (from 0) -> rate. Promise: a pure function of the step, so
that a run that goes on has the rates of one that was not interrupted. With t the epoch or the step, from 0:

    constant     rate                                   step         rate * factor ** (t // every, or how many of `at` are <= t)
    inverse      rate / (1 + decay * t)                 piecewise    rate * the factor of the last of `at` that is <= t
    exponential  rate * decay ** t                      polynomial   minimum + (rate - minimum) * (1 - t / length) ** power
    cosine       minimum + (rate - minimum) * (1 + cos(pi * t / length)) / 2

The names and formulas are PyTorch's (torch.optim.lr_scheduler) where it has them. `cosine` with `restart` begins anew after
`length`, each round `restart` times as long as the one before (Loshchilov and Hutter 2017, eq. 5).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import cos, pi
from types import MappingProxyType
from typing import Any

Options = Mapping[str, Any]
Curve = Callable[[float, Options, int], float]
"""(rate, options, t) -> rate at t."""


def _constant(rate: float, options: Options, t: int) -> float:
    return rate


def _inverse(rate: float, options: Options, t: int) -> float:
    return float(rate / (1 + options["decay"] * t))


def _exponential(rate: float, options: Options, t: int) -> float:
    return float(rate * options["decay"] ** t)


def _step(rate: float, options: Options, t: int) -> float:
    drops = t // options["every"] if options["every"] is not None else bisect_right(options["at"], t)
    return float(rate * options["factor"] ** drops)


def _piecewise(rate: float, options: Options, t: int) -> float:
    passed = bisect_right(options["at"], t)
    return float(rate * options["factors"][passed - 1]) if passed else rate


def _polynomial(rate: float, options: Options, t: int) -> float:
    left = 1 - min(t, options["length"]) / options["length"]
    return float(options["minimum"] + (rate - options["minimum"]) * left ** options["power"])


def _cosine(rate: float, options: Options, t: int) -> float:
    length = options["length"]
    while options["restart"] is not None and t >= length:
        t, length = t - length, length * options["restart"]
    return float(options["minimum"] + (rate - options["minimum"]) * (1 + cos(pi * t / length)) / 2)


CURVES: Mapping[str, Curve] = MappingProxyType(
    {
        "constant": _constant,
        "inverse": _inverse,
        "exponential": _exponential,
        "step": _step,
        "piecewise": _piecewise,
        "polynomial": _polynomial,
        "cosine": _cosine,
    }
)


@dataclass(frozen=True)
class Rate:
    """The rate of every step.

    `scale` multiplies all of it; `epoch` is how many steps t stays the same (1: t is the step). In the first `warmup` steps the
    rate rises in a straight line from a share `start` of itself; with `shift`, t counts from the end of that.
    """

    base: float
    curve: str = "constant"
    options: Options = field(default_factory=dict)
    scale: float = 1.0
    epoch: int = 1
    warmup: int = 0
    start: float = 0.0
    shift: bool = True

    def __call__(self, step: int) -> float:
        """The rate of a step, from 0."""
        behind = max(step - self.warmup, 0) if self.shift else step
        rate = CURVES[self.curve](self.base, self.options, behind // self.epoch)
        if step < self.warmup:
            rate *= self.start + (1 - self.start) * step / self.warmup
        return self.scale * rate
