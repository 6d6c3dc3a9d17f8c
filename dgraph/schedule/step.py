"""What one rank does in a step.

In: calls, transfers, rects in buffers. Out: `Schedule`: buffers and ordered steps. Promise: frozen; nothing is decided
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dgraph.graph.node import Attributes
from dgraph.kernels.call import Call, Chain
from dgraph.plan.transfer import Convoy
from dgraph.rect import Rect
from dgraph.schedule.buffer import Placement
from dgraph.schedule.turn import Turn

NOWHERE = -1
"""The number of no buffer: for operands with no elements."""


@dataclass(frozen=True)
class Compute:
    """One piece of one op: the call, and for every port of it the buffer and the rect in it. `again`: it has been done before in
    the same batch, but its result is gone."""

    node: str
    call: Call
    ports: Mapping[str, tuple[int, Rect]]
    again: bool = False

    @property
    def verb(self) -> str:
        """What a trace calls it."""
        return "recompute" if self.again else "compute"


@dataclass(frozen=True)
class Fused:
    """Pieces of several ops, done as one: see `Chain`. The ports of the parts are those that lie in memory: no inner results."""

    parts: tuple[Compute, ...]
    chain: Chain

    @property
    def node(self) -> str:
        """The nodes of all parts, such as `conv + relu`."""
        return " + ".join(part.node for part in self.parts)

    @property
    def verb(self) -> str:
        """What a trace calls it."""
        return self.parts[0].verb


@dataclass(frozen=True)
class Feed:
    """The rank's part of a mini-batch: port -> buffer and rect."""

    node: str
    ports: Mapping[str, tuple[int, Rect]]


@dataclass(frozen=True)
class Zero:
    """Sets a write buffer to zero; `elided` where the first writer assigns all of it."""

    node: str
    buffer: int | None
    elided: bool

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self.elided or self.buffer is None


@dataclass(frozen=True)
class Update:
    """Updates a parameter on `rect` from its gradient: both as (buffer, rect); `norms` by stage, likewise. `attributes` are those
    of the node. A state (`follows`) is updated from the result that it follows."""

    node: str
    parameter: str
    gradient: tuple[int, Rect]
    target: tuple[int, Rect]
    norms: Mapping[str, tuple[int, Rect]]
    attributes: Attributes
    follows: bool = False


@dataclass(frozen=True)
class Measure:
    """Measures the pieces of a parameter that count on this rank, before its update; `row` is where the result goes."""

    node: str
    update: Update
    pieces: tuple[Rect, ...]
    row: tuple[int, Rect]


@dataclass(frozen=True)
class Start:
    """Sets tensors on their way. Until the wait their write and read buffers belong to the convoy."""

    convoy: Convoy

    @property
    def node(self) -> str:
        return self.convoy.name


@dataclass(frozen=True)
class Wait:
    """Waits until tensors are here and others have what they need of them."""

    convoy: Convoy

    @property
    def node(self) -> str:
        return self.convoy.name


Step = Compute | Fused | Feed | Zero | Measure | Update | Start | Wait


@dataclass(frozen=True)
class Schedule:
    """All that one rank does in a training step, and at which of its batches (`turns`); the first `forward` steps are those of an
    evaluation. `scratch` is where in the arena each step, and what is done between runs, finds its scratch: offset and bytes."""

    rank: int
    dtype: str
    placement: Placement
    steps: tuple[Step, ...]
    turns: tuple[Turn, ...]
    forward: int
    scratch: tuple[tuple[int, int], ...]
    staging_nbytes: int
    state_nbytes: int
    ahead_nbytes: int
    library_nbytes: int = 0

    @property
    def peak_nbytes(self) -> int:
        """Bytes of all that is in `memory`."""
        return sum(self.memory.values())

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes by what they are for: what is needed for a while only, with scratch, in one arena; buffers that last or are shared;
        optimizer state; staged messages; batches read ahead; and the most that a library allocates by itself in a step."""
        return {
            "arena": self.placement.arena_nbytes,
            "buffers": self.placement.nbytes - self.placement.arena_nbytes,
            "states": self.state_nbytes,
            "staging": self.staging_nbytes,
            "ahead": self.ahead_nbytes,
            "library": self.library_nbytes,
        }

    @property
    def late(self) -> bool:
        """Whether updates are put off into the next step."""
        return Turn.NEXT in self.turns

    @property
    def workspace_nbytes(self) -> int:
        """The most scratch that a step takes."""
        return max(nbytes for _, nbytes in self.scratch)
