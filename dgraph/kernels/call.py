"""The contract between the schedule and a kernel.

In: an op, its piece, the rects of its operands. Out: `Call`, all that a kernel may know. Promise: no ranks, no names of
tensors, no arrays: so that work space can be counted by a plan that runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dgraph.graph.access import Space
from dgraph.graph.node import Access
from dgraph.rect import Rect

Array = np.ndarray[Any, np.dtype[Any]]
Action = Callable[[], None]


@dataclass
class Moment:
    """When a kernel runs, and on what. Set before every run of a schedule; a kernel reads it when it runs, not when it is bound.

    `seed` is the run's, `step` counts batches from 1, `training` says whether it trains. A batch has room for `batch` samples, of
    which the first `samples` are there; all batches of the training step together have `total`.
    For updates: their number `update`, from 1, the `rate`, and which `share` of the weights goes into their average.
    """

    seed: int = 0
    step: int = 0
    training: bool = True
    batch: int = 1
    samples: int = 1
    total: int = 1
    update: int = 0
    rate: float = 0.0
    share: float = 0.0

    @property
    def weight(self) -> float:
        """What makes a mean over one full batch a mean over the samples that the step has."""
        return self.batch / self.total


@dataclass(frozen=True)
class Call:
    """One piece of one op for one kernel.

    `rects` holds the rect of every port that takes part (ports of a gradient op as `output.delta`, `filters.delta`; a
    port that is not there is not wanted). The arrays given to `bind` have exactly these shapes, in the order of the
    tensor's dim (their strides are arbitrary). `accumulate` lists the written ports to be added into; the others are assigned.
    `purpose` is the forward node's name, which tells apart streams of random values. `among`: the pieces that a statistic is of,
    together, if it is not of the whole space.
    """

    op: str
    gradient: bool
    attributes: Mapping[str, Any]
    access: Access
    piece: Rect
    rects: Mapping[str, Rect]
    accumulate: frozenset[str]
    dtype: str
    purpose: str = ""
    moment: Moment = field(default_factory=Moment, compare=False)
    among: tuple[Rect, ...] = ()

    @property
    def space(self) -> Space:
        return self.access.space


class Kernel(Protocol):
    """Local arithmetic of one op (or of its gradient)."""

    def workspace(self, call: Call) -> int:
        """Bytes of scratch that the action uses; the same scratch serves all actions of a rank, one after the other."""

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """An action without arguments that does the piece. `scratch` is a uint8 array of at least `workspace` bytes,
        aligned to 64. All views are made here: the action allocates nothing of the size of an operand."""

    def order(self, call: Call, port: str) -> tuple[int, ...] | None:
        """The memory order of an operand's dims that suits this kernel, slowest first; None: no wish."""


@runtime_checkable
class Allocating(Protocol):
    """A kernel, or a fusion, whose library allocates by itself."""

    def temporary(self, work: Any) -> int:
        """Bytes that it holds at a time while it does a call (a chain), beside its scratch."""


@runtime_checkable
class InPlace(Protocol):
    """A kernel, or a fusion, that may write a result over an operand: each element in the very place of the other's."""

    def overwrites(self, work: Any) -> Collection[tuple[Any, Any]]:
        """(result, operand) of a call whose arrays may be one and the same, one pair at a time: ports; of a chain (call, port)."""


@runtime_checkable
class Choosing(Protocol):
    """A kernel that does calls in more than one way."""

    def way(self, call: Call) -> str:
        """In which it does a call, in a few words; empty: in its usual one."""


@dataclass(frozen=True)
class Chain:
    """Calls that run one after the other, of which each but the first reads what an earlier one wrote.

    `links[k]` gives the ports of call k whose operand is the very result of an earlier one, piece for piece: port -> (call, port),
    the last that wrote it. A result that is added into (`accumulate`) has a link, too, if an earlier call began it: both are one
    array. `inner` are the results that nobody reads behind the chain: no memory is kept for them, and no array is given, neither
    where they are written nor where a link leads to them.
    """

    calls: tuple[Call, ...]
    links: tuple[Mapping[str, tuple[int, str]], ...]
    inner: frozenset[tuple[int, str]]

    @property
    def ops(self) -> tuple[tuple[str, bool], ...]:
        """The keys of its kernels: (op, whether its gradient)."""
        return tuple((call.op, call.gradient) for call in self.calls)


class Fusion(Protocol):
    """Local arithmetic of a whole chain in fewer passes over memory than its kernels take one by one, with their results."""

    def fits(self, chain: Chain) -> bool:
        """Whether it can do this chain: its links, attributes and inner results, not its ops alone."""

    def workspace(self, chain: Chain) -> int:
        """Bytes of scratch, as `Kernel.workspace`."""

    def bind(self, chain: Chain, arrays: Sequence[Mapping[str, Array]], scratch: Array) -> Action:
        """One action for all of it, as `Kernel.bind`; `arrays` holds those of every call, without inner results."""
