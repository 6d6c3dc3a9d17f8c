"""Updates: a parameter by its gradient, element by element, in place; and the norms that some updates need first.

In: a `Recipe`, arrays of one shape, scratch, the moment. Out: actions. Promise: every array goes through the cache once a step;
sums are float64; what is kept between steps are the arrays that `Recipe.states` names, of the parameter's shape, zero at first,
best in its memory order and without gaps.

    gradient, times the clipping factor  ->  + l1 * sign(p) + l2 * p  ->  rule  ->  p  ->  average
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import sqrt
from typing import Any

import numpy as np

from dgraph.kernels.call import Action, Array, Moment
from dgraph.kernels.numpy.block import Carver
from dgraph.kernels.numpy.blockwise import LIMIT, Blocks, each, like, nbytes
from dgraph.kernels.numpy.rule import RULES, Directed, Norms, Numbers, Rule

AVERAGE = "average"
"""The state that holds the average of a parameter."""
_SPARE = 1e-6
"""What is added to a norm before it divides, as in PyTorch's `clip_grad_norm_`."""
_OWN = 2
"""Blocks of scratch beside those of the rule: the gradient made ready, and one to work in."""


@dataclass(frozen=True)
class Recipe:
    """How a parameter is updated.

    `numbers` are those of the rule, `factor` multiplies the rate, `l1` and `l2` are those of the penalty, `clip` is the largest
    norm that all gradients together may have (Pascanu, Mikolov and Bengio 2013, algorithm 1), `averaged` whether an average is
    kept.
    """

    rule: str
    numbers: Numbers = field(default_factory=dict)
    factor: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    clip: float | None = None
    averaged: bool = False

    def made(self) -> Rule:
        """The rule, ready to work on one parameter."""
        return RULES[self.rule](self.numbers)

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the arrays that are kept."""
        return (*self.made().states, *((AVERAGE,) if self.averaged else ()))

    @property
    def stages(self) -> Mapping[str, int]:
        """The norms that are needed, in order, and how many numbers of each parameter: the square of the norm of its `gradient` or
        `step`, and with 2 that of its own."""
        own = self.made().stage
        clipping = {"gradient": 1} if self.clip is not None else {}
        return clipping | ({own: 2} if own else {})

    def workspace(self, dtype: str) -> int:
        """Bytes of scratch of an update, a measure or an exchange."""
        return nbytes(self.made().scraps + _OWN, dtype) + nbytes(1, "float64")


@dataclass(frozen=True)
class Operands:
    """What an update works on: arrays of one shape. `norms`: stage -> squared norms [parameters, 1 or 2], of which this parameter's
    are the row `row`."""

    parameter: Array
    gradient: Array
    states: Mapping[str, Array]
    norms: Mapping[str, Array]
    row: int

    def kept(self, rule: Rule) -> list[Array]:
        """The states of the rule."""
        return [self.states[name] for name in rule.states]


class _Ready:
    """The gradient as the rule gets it: clipped, with the penalty added."""

    def __init__(self, recipe: Recipe, norms: Mapping[str, Array]) -> None:
        self._l1, self._l2, self._clip = recipe.l1, recipe.l2, recipe.clip
        self._norms = norms.get("gradient")
        self.factor = 1.0

    def begin(self) -> None:
        """Finds the clipping factor: with the norms of all gradients, whatever their parameter."""
        if self._clip is not None and self._norms is not None:
            total = sqrt(float(np.add.reduce(self._norms[:, 0], dtype=np.float64)))
            self.factor = min(1.0, self._clip / (total + _SPARE))

    def gradient(self, p: Array, g: Array, out: Array, spare: Array) -> Array:
        """The gradient of one block; `out` and `spare` are blocks to work in."""
        if self._clip is None and not self._l1 and not self._l2:
            return g
        np.multiply(g, self.factor, out=out)
        if self._l1:
            np.sign(p, out=spare)
            np.multiply(spare, self._l1, out=spare)
            np.add(out, spare, out=out)
        if self._l2:
            np.multiply(p, self._l2, out=spare)
            np.add(out, spare, out=out)
        return out


def _norms(rule: Rule, operands: Operands, factor: float) -> Norms:
    """The norms that the rule needs, over the whole parameter."""
    if not rule.stage:
        return 0.0, 0.0
    first, own = (sqrt(float(square)) for square in operands.norms[rule.stage][operands.row])
    return (first * factor if rule.stage == "gradient" else first), own


def bind_update(recipe: Recipe, operands: Operands, scratch: Array, moment: Moment) -> Action:
    """An action that does one step. `scratch`: uint8, aligned to 64, of `Recipe.workspace` bytes."""
    rule, ready = recipe.made(), _Ready(recipe, operands.norms)
    averages = [operands.states[AVERAGE]] if recipe.averaged else []
    arrays = (operands.parameter, operands.gradient, *averages, *operands.kept(rule))
    views = Blocks(arrays, _spares(arrays[0], rule.scraps + _OWN, Carver(scratch)))

    def act() -> None:
        ready.begin()
        rule.begin(moment.update, moment.rate * recipe.factor, _norms(rule, operands, ready.factor))
        for p, g, *others, out, spare in views:
            rule.apply(p, ready.gradient(p, g, out, spare), *others[len(averages) :])
            if averages and moment.share:
                _average(others[0], p, moment.share, spare)

    return act


def bind_measure(recipe: Recipe, stage: str, pieces: Sequence[Operands], out: Array, scratch: Array,
                 moment: Moment) -> Action:  # fmt: skip
    """An action that measures a parameter before its update: `out` [1, 1 or 2] gets the square of the norm of its gradient or step,
    and of its own, over all pieces."""
    rule, ready, carver = recipe.made(), _Ready(recipe, pieces[0].norms), Carver(scratch)
    wide, temporaries = carver.take([LIMIT], "float64"), _spares(pieces[0].parameter, rule.scraps + _OWN, carver)
    views = [Blocks((piece.parameter, piece.gradient, *piece.kept(rule)), temporaries) for piece in pieces]
    directed: Directed | None = rule if stage == "step" else None  # type: ignore[assignment]

    def act() -> None:
        total = own = 0.0
        if directed is not None:
            ready.begin()
            directed.begin(moment.update, moment.rate, (0.0, 0.0))
        for p, g, *blocks, first, spare in chain.from_iterable(views):
            moved = g if directed is None else directed.direction(p, ready.gradient(p, g, first, spare), *blocks)
            total += _squares(moved, wide)
            if out.shape[1] > 1:
                own += _squares(p, wide)
        out[0, 0] = total
        out[0, 1:] = own

    return act


def bind_exchange(parameter: Array, average: Array, scratch: Array) -> Action:
    """An action by which a parameter and its average change places."""

    def exchange(p: Array, a: Array, block: Array) -> None:
        np.copyto(block, p)
        np.copyto(p, a)
        np.copyto(a, block)

    return each(exchange, Blocks((parameter, average), _spares(parameter, 1, Carver(scratch))))


def bind_follow(numbers: Mapping[str, Any], state: Array, value: Array, scratch: Array, moment: Moment) -> Action:
    """An action that does `state = (1 - momentum) * state + momentum * n / (n - 1) * value`, where the value is a mean over n
    elements, those of the samples that are there; `numbers` are as `dgraph.autodiff` gives them."""
    momentum, elements, by_sample = float(numbers["momentum"]), int(numbers["elements"]), bool(numbers["by_sample"])

    def follow(kept: Array, new: Array, change: Array) -> None:
        count = elements * moment.samples // moment.batch if by_sample else elements
        np.multiply(new, momentum * (count / (count - 1) if count > 1 else 1), out=change)
        np.multiply(kept, 1 - momentum, out=kept)
        np.add(kept, change, out=kept)

    return each(follow, Blocks((state, value), _spares(state, 1, Carver(scratch))))


def _average(average: Array, p: Array, share: float, change: Array) -> None:
    """`average += share * (p - average)`"""
    if share == 1:
        np.copyto(average, p)
        return
    np.subtract(p, average, out=change)
    np.multiply(change, share, out=change)
    np.add(average, change, out=average)


def _squares(values: Array, wide: Array) -> float:
    """The sum of the squares of a block, in float64."""
    flat = wide[: values.size]
    np.copyto(like(values, wide), values)
    return float(np.dot(flat, flat))


def _spares(first: Array, count: int, carver: Carver) -> list[Array]:
    """Blocks of scratch."""
    return [carver.take([LIMIT], first.dtype) for _ in range(count)]
